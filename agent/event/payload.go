package event

import (
	"encoding/json"

	"github.com/nexixai/agentos/internal/fault"
)

// The payloads of the events that the store itself writes; a worker's are encoded in package loop.

// Created is the payload of run.created.
func Created() json.RawMessage { return json.RawMessage(`{"status":"queued"}`) }

// CancelAsked is the payload of run.cancel_requested. by is a principal's id.
func CancelAsked(by string) json.RawMessage {
	return append(AppendString(json.RawMessage(`{"by":`), by), '}')
}

// Canceled is the payload of run.canceled. by is a principal's id.
func Canceled(by string) json.RawMessage {
	return append(AppendString(json.RawMessage(`{"status":"canceled","by":`), by), '}')
}

// Failed is the payload of run.failed, with what tenants may know of err.
func Failed(err *fault.Error) json.RawMessage {
	b := AppendString(json.RawMessage(`{"status":"failed","error":{"code":`), string(err.Code))
	b = AppendString(append(b, `,"message":`...), err.Message)
	if err.Code.Retryable() {
		b = append(b, `,"retryable":true,"details":`...)
	} else {
		b = append(b, `,"retryable":false,"details":`...)
	}
	details, failed := json.Marshal(err.Details)
	if failed != nil || len(err.Details) == 0 {
		details = []byte("{}")
	}
	return append(append(b, details...), "}}"...)
}

// Completed is the payload of run.completed. output is a JSON object.
func Completed(output json.RawMessage) json.RawMessage {
	b := append(json.RawMessage(`{"status":"completed","output":`), output...)
	return append(b, '}')
}

// Forwarded is the payload of run.forwarded.
type Forwarded struct {
	StackID      string `json:"stack_id"`
	Organization string `json:"organization"`
	RouteID      string `json:"route_id"`
	RemoteRunID  string `json:"remote_run_id"`
}
