package client

import (
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/nexixai/agentos/internal/id"
)

// Text is a text as runs take and give it.
type Text struct {
	Type      string          `json:"type"` // "text"
	Text      string          `json:"text"`
	Artifacts json.RawMessage `json:"artifacts,omitempty"`
	Truncated bool            `json:"truncated,omitempty"`
}

// RunCreate asks for a run. Only Input has to be given; the agent's defaults stand for what is left out.
type RunCreate struct {
	Input   Text        `json:"input"`
	Context *RunContext `json:"context,omitempty"`
	Tooling *Tooling    `json:"tooling,omitempty"`
	Options *RunOptions `json:"run_options,omitempty"`
	// PolicyContext may tighten the key's.
	PolicyContext *PolicyContext `json:"policy_context,omitempty"`
}

// RunContext is what the caller tells of itself.
type RunContext struct {
	Locale    string            `json:"locale,omitempty"`
	Timezone  string            `json:"timezone,omitempty"`
	Channel   string            `json:"channel,omitempty"`
	UserID    string            `json:"user_id,omitempty"`
	SessionID string            `json:"session_id,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
	Metadata  map[string]any    `json:"metadata,omitempty"`
}

// Tooling narrows the tools of one run. A nil Allowlist sets no further limit, an empty one allows none.
type Tooling struct {
	Allowlist []string `json:"tool_allowlist,omitzero"`
	Denymap   []string `json:"tool_denymap,omitzero"`
}

// RunOptions are how a run is run.
type RunOptions struct {
	Priority     string `json:"priority,omitempty"` // low, normal or high
	TimeoutMS    int64  `json:"timeout_ms,omitempty"`
	MaxSteps     int    `json:"max_steps,omitempty"`
	StreamEvents *bool  `json:"stream_events,omitempty"` // false leaves deltas out
	DryRun       bool   `json:"dry_run,omitempty"`
}

// PolicyContext narrows where the data of a request may go.
type PolicyContext struct {
	DataClassification string   `json:"data_classification,omitempty"`
	Region             string   `json:"region,omitempty"`
	Purpose            string   `json:"purpose,omitempty"`
	ConsentTags        []string `json:"consent_tags,omitempty"`
}

// Run is a run as it stands.
type Run struct {
	TenantID          string            `json:"tenant_id"`
	AgentID           string            `json:"agent_id"`
	ID                string            `json:"run_id"`
	Status            string            `json:"status"` // queued, running, completed, failed or canceled
	CreatedAt         time.Time         `json:"created_at"`
	StartedAt         *time.Time        `json:"started_at"`
	CompletedAt       *time.Time        `json:"completed_at"`
	Deadline          time.Time         `json:"deadline"`
	CancelRequestedAt *time.Time        `json:"cancel_requested_at"`
	EventsURL         string            `json:"events_url"`
	Options           RunOptions        `json:"run_options"`
	Labels            map[string]string `json:"labels"`
	// Input is not in lists.
	Input   *Text `json:"input"`
	Summary struct {
		Steps      int `json:"steps_total"`
		ToolCalls  int `json:"tool_calls_total"`
		ModelCalls int `json:"model_calls_total"`
	} `json:"summary"`
	Output    *Text     `json:"output"`
	Error     *RunError `json:"error"`
	Usage     Spent     `json:"usage"`
	Placement Placement `json:"placement"`
	// Waiting is what a run that has not ended waits for before it goes on; nil when it's being worked on.
	Waiting       *Waiting `json:"waiting"`
	ParentRunID   string   `json:"parent_run_id"`
	ReceiptID     string   `json:"receipt_id"`
	CorrelationID string   `json:"correlation_id"`
}

// Waiting is what a run waits for.
type Waiting struct {
	For    string     `json:"for"`    // worker, quota, model or peer; more may come
	Limit  string     `json:"limit"`  // the quota
	Region string     `json:"region"` // whose nodes alone may take it, of one that waits for a worker
	Peer   string     `json:"peer"`   // the organisation
	Until  *time.Time `json:"until"`  // when it's tried again, where that is known
}

// Final reports whether the run has ended.
func (r *Run) Final() bool {
	return r.Status == "completed" || r.Status == "failed" || r.Status == "canceled"
}

// RunError is why a run failed.
type RunError struct {
	Code      Code           `json:"code"`
	Message   string         `json:"message"`
	Retryable bool           `json:"retryable"`
	Details   map[string]any `json:"details"`
}

// Spent is what models cost.
type Spent struct {
	InputTokens  int64   `json:"input_tokens"`
	OutputTokens int64   `json:"output_tokens"`
	TotalTokens  int64   `json:"total_tokens"`
	CostUSD      float64 `json:"cost_usd"`
	Estimated    bool    `json:"estimated,omitempty"`
}

// Placement is where a run runs.
type Placement struct {
	StackID       string `json:"stack_id"`
	Organization  string `json:"organization"`
	ForwardedFrom string `json:"forwarded_from"`
	RouteID       string `json:"route_id"`
	// LateResult is what a peer that was given up as lost had made of the run. It does not count.
	LateResult *LateResult `json:"late_result"`
	// Superseded says, of a run of others, that its origin has not taken the end that it has here.
	Superseded bool `json:"superseded"`
	// Phase is where the forwarding stands: held (nobody has it), offered (a peer is asked) or accepted; "" for a run that stays
	// in its cluster. LastRefusal is why the one that was asked last did not take it.
	Phase       string   `json:"phase"`
	LastRefusal *Refusal `json:"last_refusal"`
}

// LateResult is how a run ended at a peer that had been given up.
type LateResult struct {
	Status      string    `json:"status"`
	CompletedAt time.Time `json:"completed_at"`
	RemoteRunID string    `json:"remote_run_id"`
}

// Refusal is why a peer did not take a run.
type Refusal struct {
	Organization string `json:"organization"`
	StackID      string `json:"stack_id"`
	Code         string `json:"code"`
	Message      string `json:"message"`
	Permanent    bool   `json:"permanent"`
}

// CreateRun makes a run of an agent. It is safe to be tried again: without Call.IdempotencyKey a key is made up.
func (c *Client) CreateRun(ctx context.Context, agentID string, req RunCreate) (*Run, error) {
	keyed := *c
	keyed.call.IdempotencyKey = cmp.Or(c.call.IdempotencyKey, id.New(id.Idempotency))
	req.Input.Type = cmp.Or(req.Input.Type, "text")
	return change[Run](ctx, &keyed, http.MethodPost, "run", "/v1/agents/{agent_id}/runs", req, agentID)
}

// DryRun is what a create would have come to.
type DryRun struct {
	Decision struct {
		Target  string  `json:"target"`
		RouteID *string `json:"route_id"`
	} `json:"decision"`
	Candidates    []Candidate    `json:"candidates"`
	PolicyOutcome *PolicyOutcome `json:"policy_outcome"`
	Quotas        []struct {
		Name  string   `json:"name"`
		Limit *float64 `json:"limit"` // nil: unlimited
		Used  float64  `json:"used"`
		OK    bool     `json:"ok"`
	} `json:"quotas"`
}

// Candidate is one place where a run could go, and why it would, or would not.
type Candidate struct {
	StackID      string   `json:"stack_id"`
	Organization string   `json:"organization"`
	Chosen       bool     `json:"chosen"`
	Reasons      []Reason `json:"reasons"`
}

// Reason is one check, and how it went.
type Reason struct {
	Check  string `json:"check"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail"`
}

// DryRun says what CreateRun would do, and runs nothing.
func (c *Client) DryRun(ctx context.Context, agentID string, req RunCreate) (*DryRun, error) {
	var options RunOptions
	if req.Options != nil {
		options = *req.Options
	}
	options.DryRun = true
	req.Options, req.Input.Type = &options, cmp.Or(req.Input.Type, "text")
	return change[DryRun](ctx, c, http.MethodPost, "dry_run", "/v1/agents/{agent_id}/runs", req, agentID)
}

// GetRun returns one run, with its input.
func (c *Client) GetRun(ctx context.Context, runID string) (*Run, error) {
	return get[Run](ctx, c, "run", "/v1/runs/{run_id}", runID)
}

// RunFilter says which runs a list holds; zero fields don't filter.
type RunFilter struct {
	AgentID string
	Status  string
	// Labels have all to be on the run.
	Labels map[string]string
}

// Runs lists runs, newest first.
func (c *Client) Runs(f RunFilter) *List[Run] {
	q := url.Values{}
	set(q, "agent_id", f.AgentID)
	set(q, "status", f.Status)
	for key, value := range f.Labels {
		q.Add("label", key+":"+value)
	}
	slices.Sort(q["label"])
	return &List[Run]{c: c, path: "/v1/runs", plural: "runs", query: q}
}

// set adds a query parameter that is not empty.
func set(q url.Values, name, v string) {
	if v != "" {
		q.Set(name, v)
	}
}

// CancelRun asks for a run to be canceled. A run that has ended is fault.Conflict.
func (c *Client) CancelRun(ctx context.Context, runID string) (*Run, error) {
	return change[Run](ctx, c, http.MethodPost, "run", "/v1/runs/{run_id}:cancel", nil, runID)
}
