package openai

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/nexixai/agentos/internal/fault"
)

// errImpatient is the cause of a context that ended because the server was too slow.
var errImpatient = errors.New("openai: the server took too long")

// patience ends a context when the server lets too much time pass.
type patience struct {
	timer  *time.Timer
	cancel context.CancelCauseFunc
}

func (p *Provider) patience(ctx context.Context, d time.Duration) (context.Context, *patience) {
	ctx, cancel := context.WithCancelCause(ctx)
	return ctx, &patience{timer: time.AfterFunc(d, func() { cancel(errImpatient) }), cancel: cancel}
}

// reset begins to wait anew. Once time has run out it stays so.
func (w *patience) reset(d time.Duration) {
	if w.timer.Stop() {
		w.timer.Reset(d)
	}
}

func (w *patience) end() {
	w.timer.Stop()
	w.cancel(nil)
}

func (p *Provider) unavailable(format string) *fault.Error {
	return fault.New(fault.Unavailable, format, p.o.Name).With("service", p.o.Name)
}

// odd is the failure of a server that answers what it shouldn't.
func (p *Provider) odd(what string) *fault.Error {
	return fault.New(fault.Unavailable, "The model backend %q gave %s; try again or name another model.", p.o.Name, what).With("service", p.o.Name)
}

// broken maps a failure of the connection. The end of the caller's context is returned as it is.
func (p *Provider) broken(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), errImpatient) {
		return fault.New(fault.Timeout, "The model backend %q took too long; try again or name another model.", p.o.Name).With("service", p.o.Name).Because(errImpatient)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var own *fault.Error
	if errors.As(err, &own) {
		return err
	}
	return p.unavailable("The model backend %q can't be reached or broke off; try again or name another model.").Because(err)
}

// apiError is the body of a refusal.
type apiError struct {
	Message string          `json:"message"`
	Type    string          `json:"type"`
	Code    json.RawMessage `json:"code"` // a string, a number or null
	Param   string          `json:"param"`
}

func (e *apiError) is(code string) bool {
	return strings.Trim(string(e.Code), `"`) == code || e.Type == code
}

// refusal maps an answer that isn't 200.
func (p *Provider) refusal(resp *http.Response) error {
	raw, _ := io.ReadAll(io.LimitReader(resp.Body, maxError))
	var body struct {
		Error json.RawMessage `json:"error"`
	}
	var e apiError
	_ = json.Unmarshal(raw, &body) // what can't be read says nothing
	if json.Unmarshal(body.Error, &e) != nil {
		_ = json.Unmarshal(body.Error, &e.Message) // some servers give a bare text
	}
	return p.failure(resp.StatusCode, &e, retryAfter(resp.Header, time.Now()))
}

// failure maps a status and an error object.
func (p *Provider) failure(status int, e *apiError, wait time.Duration) error {
	cause := errors.New("openai: status " + strconv.Itoa(status) + ": " + clip(e.Message))
	switch {
	case status == http.StatusTooManyRequests && e.is("insufficient_quota"):
		return p.unavailable("The model backend %q has no credit left for this node; the operator has to see to it.").Because(cause)
	case status == http.StatusTooManyRequests:
		return fault.New(fault.RateLimited, "The model backend %q takes no more calls for now; try again later or name another model.", p.o.Name).
			With("service", p.o.Name).After(max(wait, time.Second)).Because(cause)
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return p.unavailable("The model backend %q does not take this node's key; the operator has to see to it.").Because(cause)
	case status == http.StatusNotFound:
		return fault.New(fault.NotFound, "The model backend %q does not have this model.", p.o.Name).With("param", "model").Because(cause)
	case status == http.StatusRequestTimeout || status == http.StatusGatewayTimeout:
		return fault.New(fault.Timeout, "The model backend %q ran out of time; try again.", p.o.Name).With("service", p.o.Name).After(wait).Because(cause)
	case status >= 400 && status < 500:
		err := fault.New(fault.InvalidRequest, "The model backend %q refuses the request: %s", p.o.Name, clip(e.Message)).Because(cause)
		if e.Param != "" {
			err.With("field", e.Param)
		}
		return err
	}
	return p.unavailable("The model backend %q failed; try again or name another model.").After(wait).Because(cause)
}

// inStream maps an error object that comes in the middle of a stream.
func (p *Provider) inStream(e *apiError) error {
	status := http.StatusServiceUnavailable
	switch {
	case e.is("rate_limit_exceeded"), e.is("rate_limited"), e.is("insufficient_quota"):
		status = http.StatusTooManyRequests
	case e.is("invalid_request_error"), e.is("invalid_request"), e.is("context_length_exceeded"):
		status = http.StatusBadRequest
	case e.is("timeout"):
		status = http.StatusGatewayTimeout
	}
	if n, err := strconv.Atoi(string(e.Code)); err == nil && n >= 400 && n < 600 {
		status = n
	}
	return p.failure(status, e, 0)
}

func clip(s string) string {
	const most = 300
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	if s == "" {
		return "it gives no reason"
	}
	return s
}

// retryAfter reads how long a server asks to be left alone (RFC 9110 section 10.2.3; retry-after-ms is OpenAI's own).
func retryAfter(h http.Header, now time.Time) time.Duration {
	if ms, err := strconv.ParseFloat(h.Get("Retry-After-Ms"), 64); err == nil && ms > 0 && ms < 1e9 {
		return time.Duration(ms * float64(time.Millisecond))
	}
	text := strings.TrimSpace(h.Get("Retry-After"))
	if s, err := strconv.ParseFloat(text, 64); err == nil {
		if s > 0 && s < 1e6 {
			return time.Duration(s * float64(time.Second))
		}
		return 0
	}
	if at, err := http.ParseTime(text); err == nil && at.After(now) {
		return at.Sub(now)
	}
	return 0
}
