package event

import "encoding/json"

// Type names what happened.
type Type string

// The event types of the contract.
const (
	RunCreated        Type = "agentos.run.created"
	RunStarted        Type = "agentos.run.started"
	StepStarted       Type = "agentos.run.step.started"
	StepCompleted     Type = "agentos.run.step.completed"
	ToolCallRequested Type = "agentos.tool.call.requested"
	ToolCallCompleted Type = "agentos.tool.call.completed"
	ModelRequested    Type = "agentos.model.requested"
	ModelDelta        Type = "agentos.model.delta" // never stored
	ModelCompleted    Type = "agentos.model.completed"
	RunForwarded      Type = "agentos.run.forwarded"
	CancelRequested   Type = "agentos.run.cancel_requested"
	RunCompleted      Type = "agentos.run.completed"
	RunFailed         Type = "agentos.run.failed"
	RunCanceled       Type = "agentos.run.canceled"
)

// Final reports whether t ends a run.
func (t Type) Final() bool { return t == RunCompleted || t == RunFailed || t == RunCanceled }

// Draft is an event before it has its place: the writer of a journal mints the id, the store's leader gives sequence and
// time when it's appended.
type Draft struct {
	ID      string          `json:"event_id"`
	Type    Type            `json:"type"`
	StepID  string          `json:"step_id,omitempty"`
	SpanID  string          `json:"span_id,omitempty"` // 16 hex digits; the trace id is the run's
	Payload json.RawMessage `json:"payload"`           // one line of JSON, an object
}

// Envelope is a decoded event, for those who need more than its bytes.
type Envelope struct {
	ID       string          `json:"event_id"`
	Sequence uint64          `json:"sequence"`
	Time     string          `json:"time"`
	Type     Type            `json:"type"`
	TenantID string          `json:"tenant_id"`
	AgentID  string          `json:"agent_id"`
	RunID    string          `json:"run_id"`
	StepID   *string         `json:"step_id"`
	Trace    Trace           `json:"trace"`
	Payload  json.RawMessage `json:"payload"`
}

// Trace ties an event to its span.
type Trace struct {
	Traceparent string `json:"traceparent"`
	SpanID      string `json:"span_id"`
}
