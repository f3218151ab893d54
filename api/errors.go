package api

import (
	"encoding/json"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/nexixai/agentos/internal/fault"
)

var statuses = map[fault.Code]int{
	fault.InvalidRequest: 400, fault.Unauthorized: 401, fault.Forbidden: 403, fault.PolicyBlocked: 403, fault.NotFound: 404,
	fault.MethodNotAllowed: 405, fault.Conflict: 409, fault.UnsupportedCapability: 409, fault.PayloadTooLarge: 413,
	fault.UnsupportedMediaType: 415, fault.RateLimited: 429, fault.QuotaExceeded: 429, fault.Internal: 500,
	fault.Unavailable: 503, fault.Timeout: 504, fault.LoopDetected: 508, fault.StepLimit: 422,
}

// Status is the HTTP status of an error code.
func Status(c fault.Code) int {
	if s, ok := statuses[c]; ok {
		return s
	}
	return http.StatusInternalServerError
}

// internalMessage is all that a stranger learns of a failure nobody expected.
const internalMessage = "The node failed in a way it did not expect; try again, and give the correlation id to the operator if it stays."

// errorBody is the error object of the contract.
type errorBody struct {
	Code      fault.Code     `json:"code"`
	Message   string         `json:"message"`
	Retryable bool           `json:"retryable"`
	Details   map[string]any `json:"details"`
	// openAI stands beside it on OpenAI-format paths; nil elsewhere.
	*openAI
}

// openAI is what OpenAI's clients read of an error beside its code and message.
type openAI struct {
	Type  string `json:"type"`
	Param any    `json:"param"` // null when no field is at fault
}

// problem is the same error as RFC 9457 has it.
type problem struct {
	Type          string         `json:"type"`
	Title         string         `json:"title"`
	Status        int            `json:"status"`
	Detail        string         `json:"detail"`
	Code          fault.Code     `json:"code"`
	Retryable     bool           `json:"retryable"`
	Details       map[string]any `json:"details"`
	TenantID      string         `json:"tenant_id,omitempty"`
	CorrelationID string         `json:"correlation_id"`
}

// errorValue is err as the wire shows it: an internal error keeps its cause to itself.
func errorValue(err error, dialect bool) (errorBody, *fault.Error) {
	f := fault.Of(err)
	b := errorBody{Code: f.Code, Message: f.Message, Retryable: f.Code.Retryable(), Details: f.Details}
	if b.Code == fault.Internal || !b.Code.Known() {
		b.Code, b.Message, b.Retryable, b.Details = fault.Internal, internalMessage, true, nil
	}
	if b.Details == nil {
		b.Details = map[string]any{}
	}
	if dialect {
		b.openAI = &openAI{Type: openAIType(b.Code), Param: b.Details["param"]}
		if b.Param == nil {
			b.Param = b.Details["field"]
		}
	}
	return b, f
}

// openAIType is the coarse kind that OpenAI's clients know.
func openAIType(c fault.Code) string {
	switch s := Status(c); {
	case c == fault.Unauthorized:
		return "authentication_error"
	case c == fault.Forbidden, c == fault.PolicyBlocked:
		return "permission_error"
	case s == http.StatusTooManyRequests:
		return "rate_limit_error"
	case s >= 500:
		return "server_error"
	}
	return "invalid_request_error"
}

// writeError answers with err and returns the status.
func (c *call) writeError(err error) int {
	b, f := errorValue(err, c.route != nil && c.route.OpenAI)
	status := Status(b.Code)
	h := c.w.Header()
	if f.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(max(int(math.Ceil(f.RetryAfter.Seconds())), 1)))
	} else if b.Code == fault.RateLimited || b.Code == fault.Unavailable {
		h.Set("Retry-After", "1")
	}
	if b.Code == fault.Unauthorized {
		h.Set("WWW-Authenticate", `Bearer realm="agentos"`)
	}
	c.outHeaders()
	tenantID := ""
	if c.auth != nil {
		tenantID = c.auth.TenantID
	}
	var out []byte
	if acceptsProblem(c.r.Header.Values("Accept")) {
		h.Set("Content-Type", "application/problem+json")
		out, _ = json.Marshal(problem{
			Type: "about:blank", Title: string(b.Code), Status: status, Detail: b.Message, Code: b.Code,
			Retryable: b.Retryable, Details: b.Details, TenantID: tenantID, CorrelationID: c.correlationID,
		})
	} else {
		h.Set("Content-Type", "application/json")
		body := map[string]any{"error": b, "correlation_id": c.correlationID}
		if tenantID != "" {
			body["tenant_id"] = tenantID
		}
		out, _ = json.Marshal(body)
	}
	h.Set("Content-Length", strconv.Itoa(len(out)+1))
	c.w.WriteHeader(status)
	if c.r.Method != http.MethodHead {
		_, _ = c.w.Write(append(out, '\n'))
	}
	return status
}

func acceptsProblem(accept []string) bool {
	for _, line := range accept {
		for _, part := range strings.Split(line, ",") {
			if kind, _, _ := strings.Cut(part, ";"); strings.EqualFold(strings.TrimSpace(kind), "application/problem+json") {
				return true
			}
		}
	}
	return false
}

// writeTimeout bounds one write to a client that reads slowly.
const writeTimeout = 15 * time.Second
