// Package fault holds the one error type that crosses rooms and wires.
//
// Room: plumbing. It imports nothing of the house. An error is born where it happens with a Code; every room above wraps
// it with what it was doing and leaves the Code alone; package api maps the Code to HTTP once, and api/client maps it
// back, so that a caller on another machine sees the same error value.
package fault

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Code says what kind of failure an error is. The set is closed: contract, section "Errors".
type Code string

// The codes of the wire contract. StepLimit appears only as the error of a run, never as an HTTP answer.
const (
	InvalidRequest        Code = "invalid_request"
	Unauthorized          Code = "unauthorized"
	Forbidden             Code = "forbidden"
	PolicyBlocked         Code = "policy_blocked"
	NotFound              Code = "not_found"
	MethodNotAllowed      Code = "method_not_allowed"
	Conflict              Code = "conflict"
	UnsupportedCapability Code = "unsupported_capability"
	PayloadTooLarge       Code = "payload_too_large"
	UnsupportedMediaType  Code = "unsupported_media_type"
	RateLimited           Code = "rate_limited"
	QuotaExceeded         Code = "quota_exceeded"
	Internal              Code = "internal_error"
	Unavailable           Code = "dependency_unavailable"
	Timeout               Code = "timeout"
	LoopDetected          Code = "loop_detected"
	StepLimit             Code = "step_limit"
)

// Retryable reports whether the same request may succeed later without being changed.
func (c Code) Retryable() bool {
	switch c {
	case RateLimited, Internal, Unavailable, Timeout:
		return true
	}
	return false
}

// Known reports whether c is one of the contract's codes.
func (c Code) Known() bool {
	switch c {
	case InvalidRequest, Unauthorized, Forbidden, PolicyBlocked, NotFound, MethodNotAllowed, Conflict,
		UnsupportedCapability, PayloadTooLarge, UnsupportedMediaType, RateLimited, QuotaExceeded, Internal,
		Unavailable, Timeout, LoopDetected, StepLimit:
		return true
	}
	return false
}

// Error is a failure with a code, a message for the person who asked, and details for the program that asked.
type Error struct {
	Code Code
	// Message says what happened and what to do next. It is shown to tenants, unless Code is Internal.
	Message string
	// Details are the members the contract names for the code (field, limit, service, …). Never a secret.
	Details map[string]any
	// RetryAfter, when positive, is sent as Retry-After, rounded up to whole seconds.
	RetryAfter time.Duration
	// CorrelationID names the request in the logs and the audit of the node that refused it. Package api/client sets it on
	// what it rebuilds; an error that was born in this process has none, the door knows its request's.
	CorrelationID string
	// Err is the cause, for logs only.
	Err error
}

// New returns an Error with a formatted message. A %w verb in the format keeps its operand as the cause.
func New(code Code, format string, args ...any) *Error {
	e := &Error{Code: code}
	if strings.Contains(format, "%w") {
		err := fmt.Errorf(format, args...)
		e.Message, e.Err = err.Error(), errors.Unwrap(err)
		return e
	}
	if len(args) == 0 {
		e.Message = format
	} else {
		e.Message = fmt.Sprintf(format, args...)
	}
	return e
}

// Invalid returns an InvalidRequest error that names the field at fault.
func Invalid(field, format string, args ...any) *Error {
	return New(InvalidRequest, format, args...).With("field", field)
}

// With adds one detail and returns the same error, so that calls chain where the error is made.
func (e *Error) With(key string, value any) *Error {
	if e.Details == nil {
		e.Details = make(map[string]any, 2)
	}
	e.Details[key] = value
	return e
}

// After sets RetryAfter and returns the same error.
func (e *Error) After(d time.Duration) *Error {
	e.RetryAfter = d
	return e
}

// Because sets the cause and returns the same error.
func (e *Error) Because(err error) *Error {
	e.Err = err
	return e
}

// Error returns code, message and cause, for logs.
func (e *Error) Error() string {
	s := string(e.Code) + ": " + e.Message
	if e.Err != nil && !strings.Contains(e.Message, e.Err.Error()) {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Of returns the first *Error in err's chain. An error without one is Internal, with err as its cause and a message that
// reveals nothing of it. Of(nil) is nil.
func Of(err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return &Error{Code: Internal, Message: "The node failed in a way it did not expect; try again, and give the correlation id to the operator if it stays.", Err: err}
}

// CodeOf returns the code of err, Internal for an error that carries none, and "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	return Of(err).Code
}

// Is reports whether err carries code.
func Is(err error, code Code) bool { return err != nil && CodeOf(err) == code }
