package run

import (
	"encoding/json"
	"time"

	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/agent/queue"
	"github.com/nexixai/agentos/tenancy"
	"github.com/nexixai/agentos/tenancy/quota"
)

// Status is where a run stands.
type Status string

const (
	Queued    Status = "queued"
	Running   Status = "running"
	Completed Status = "completed"
	Failed    Status = "failed"
	Canceled  Status = "canceled"
)

// Final reports whether s never changes again.
func (s Status) Final() bool { return s == Completed || s == Failed || s == Canceled }

// Input is what a run works on.
type Input struct {
	Type string `json:"type"` // "text"
	Text string `json:"text"`
}

// Context is what the caller tells of itself.
type Context struct {
	Locale    string            `json:"locale,omitempty"`
	Timezone  string            `json:"timezone,omitempty"`
	Channel   string            `json:"channel,omitempty"`
	UserID    string            `json:"user_id,omitempty"`
	SessionID string            `json:"session_id,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
	Metadata  map[string]any    `json:"metadata,omitempty"`
}

// Tooling narrows the tools of one run. A nil allowlist sets no further limit, an empty one allows none.
type Tooling struct {
	Allowlist []string `json:"tool_allowlist"`
	Denymap   []string `json:"tool_denymap"`
}

// RunOptions are how a run is to be run; Create fills in what is left out.
type RunOptions struct {
	Priority     string `json:"priority"` // low, normal or high
	TimeoutMS    int64  `json:"timeout_ms"`
	MaxSteps     int    `json:"max_steps"`
	StreamEvents bool   `json:"stream_events"`
	DryRun       bool   `json:"dry_run"`
}

// Request is the body of a create, decoded and defaulted.
type Request struct {
	Input          Input                  `json:"input"`
	Context        Context                `json:"context"`
	Tooling        Tooling                `json:"tooling"`
	Options        RunOptions             `json:"run_options"`
	IdempotencyKey string                 `json:"idempotency_key,omitempty"`
	PolicyContext  *tenancy.PolicyContext `json:"policy_context,omitempty"`

	given given // which options the body gave
}

// Run is a run's record, computed from its journal.
type Run struct {
	TenantID          string            `json:"tenant_id"`
	AgentID           string            `json:"agent_id"`
	ID                string            `json:"run_id"`
	Status            Status            `json:"status"`
	CreatedAt         time.Time         `json:"created_at"`
	StartedAt         *time.Time        `json:"started_at"`
	CompletedAt       *time.Time        `json:"completed_at"`
	Deadline          time.Time         `json:"deadline"`
	CancelRequestedAt *time.Time        `json:"cancel_requested_at"`
	EventsURL         string            `json:"events_url"`
	Options           RunOptions        `json:"run_options"`
	Labels            map[string]string `json:"labels"`
	Input             *Input            `json:"input,omitempty"` // of Get only
	Summary           Summary           `json:"summary"`
	Output            *Output           `json:"output"`
	Error             *Error            `json:"error"`
	Usage             Usage             `json:"usage"`
	Placement         Placement         `json:"placement"`
	Waiting           *Waiting          `json:"waiting,omitempty"`
	ParentRunID       string            `json:"parent_run_id,omitempty"`
	ReceiptID         string            `json:"receipt_id,omitempty"`
	CorrelationID     string            `json:"correlation_id"`
}

// Summary counts what a run did.
type Summary struct {
	Steps      int `json:"steps_total"`
	ToolCalls  int `json:"tool_calls_total"`
	ModelCalls int `json:"model_calls_total"`
}

// Output is what a completed run gives back.
type Output struct {
	Type      string          `json:"type"`
	Text      string          `json:"text"`
	Artifacts json.RawMessage `json:"artifacts,omitempty"`
	Truncated bool            `json:"truncated,omitempty"`
}

// Error is why a run failed.
type Error struct {
	Code      string         `json:"code"`
	Message   string         `json:"message"`
	Retryable bool           `json:"retryable"`
	Details   map[string]any `json:"details"`
}

// Usage is what a run spent on models. On the wire the cost is in USD, with at most nine decimals.
type Usage struct {
	InputTokens  int64   `json:"input_tokens"`
	OutputTokens int64   `json:"output_tokens"`
	TotalTokens  int64   `json:"total_tokens"`
	CostUSD      float64 `json:"cost_usd"`
}

// Placement is where a run runs.
type Placement struct {
	StackID       string `json:"stack_id"`
	Organization  string `json:"organization"`
	ForwardedFrom string `json:"forwarded_from,omitempty"`
	RouteID       string `json:"route_id,omitempty"`
	// Phase is where the forwarding stands, of a run that another organisation works on; LastRefusal why the one that was
	// asked last did not take it.
	Phase       Phase    `json:"phase,omitempty"`
	LastRefusal *Refusal `json:"last_refusal,omitempty"`
	// LateResult is what the peer had made of a run that was given up because the peer was lost. It does not count.
	LateResult *LateResult `json:"late_result,omitempty"`
	// Superseded says, of a run of others, that its origin has not taken the end that it has here.
	Superseded bool `json:"superseded,omitempty"`
}

// LateResult is how a run ended at a peer that had been given up.
type LateResult struct {
	Status      Status    `json:"status"`
	CompletedAt time.Time `json:"completed_at"`
	RemoteRunID string    `json:"remote_run_id"`
}

// Lease is a session's right to write one run's journal.
type Lease = queue.Lease

// Work is all that a worker needs to begin or go on with a run.
type Work struct {
	Lease
	AgentID       string           `json:"agent_id"`
	Auth          tenancy.Auth     `json:"auth"` // as it was at the create, with the policy context tightened
	Request       Request          `json:"request"`
	Traceparent   string           `json:"traceparent"`
	CorrelationID string           `json:"correlation_id"`
	CreatedAt     time.Time        `json:"created_at"`
	Deadline      time.Time        `json:"deadline"`
	Journal       []event.Envelope `json:"journal"` // whole, in order
	// Reserved is what is held back for the model call that the journal leaves open; nil when nothing is.
	Reserved *quota.Reservation `json:"reserved"`
}

// Append is one addition to a journal, all or nothing.
type Append struct {
	Lease
	// After is the sequence the writer believes to be the last. When the journal has gone on (a cancel was requested),
	// the append is refused with fault.Conflict, details.last_sequence. The same event ids again give the same answer.
	After  uint64        `json:"after"`
	Events []event.Draft `json:"events"`
	// Reserve and Settle ride along, exact: they happen if and only if the events are appended.
	Reserve *quota.Reservation `json:"reserve,omitempty"`
	Settle  []quota.Settlement `json:"settle,omitempty"`
	// ToolCall counts one tool call against the tenant's rate.
	ToolCall bool `json:"tool_call,omitempty"`
	// Final is the outcome when the last event is a final one. The run's slot and lease end with it.
	Output *Output `json:"output,omitempty"`
	Error  *Error  `json:"error,omitempty"`
}
