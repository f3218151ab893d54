package agent

import (
	"encoding/json"
	"time"
)

// Agent is a named way to do work: instructions, a model, and the tools it may use.
type Agent struct {
	ID           string          `json:"agent_id"`
	TenantID     string          `json:"tenant_id"`
	Name         string          `json:"name"`
	Description  string          `json:"description"`
	Version      string          `json:"version"`
	Status       string          `json:"status"` // active, inactive or deprecated
	CreatedAt    time.Time       `json:"created_at"`
	UpdatedAt    time.Time       `json:"updated_at"`
	ModelRef     string          `json:"model_ref"`
	Instructions string          `json:"instructions"`
	ToolIDs      []string        `json:"tool_ids"`
	RunDefaults  json.RawMessage `json:"run_defaults"` // a run_options object
	PolicyID     string          `json:"policy_id"`
}

// MarshalJSON implements json.Marshaler: what an agent lacks is there all the same, empty or null.
func (a Agent) MarshalJSON() ([]byte, error) {
	type plain Agent
	out := struct {
		plain
		PolicyID *string `json:"policy_id"`
	}{plain: plain(a)}
	if a.PolicyID != "" {
		out.PolicyID = &a.PolicyID
	}
	if len(a.RunDefaults) == 0 {
		out.RunDefaults = json.RawMessage("{}")
	}
	return json.Marshal(out)
}

// The statuses of an agent. A deprecated one still runs; it's marked so that nobody begins to rely on it.
const (
	Active     = "active"
	Inactive   = "inactive"
	Deprecated = "deprecated"
)

// DefaultModelRef is the model of an agent that names none.
const DefaultModelRef = "tier:fast"

// Tool is a tool's definition.
type Tool struct {
	ID          string          `json:"tool_id"`
	TenantID    string          `json:"tenant_id"`
	Name        string          `json:"name"` // as models see it
	Kind        string          `json:"kind"` // builtin, http or mcp
	Description string          `json:"description"`
	InputSchema json.RawMessage `json:"input_schema"`
	Idempotent  bool            `json:"idempotent"`
	Config      json.RawMessage `json:"config"`
}

// MarshalJSON implements json.Marshaler: a tool without a configuration has an empty one.
func (t Tool) MarshalJSON() ([]byte, error) {
	type plain Tool
	if len(t.Config) == 0 {
		t.Config = json.RawMessage("{}")
	}
	return json.Marshal(plain(t))
}

// builtin is the kind of tools that every tenant has and none can change.
const builtin = "builtin"

// RunDefaults are an agent's own run options; nil leaves the platform's.
type RunDefaults struct {
	Priority     *string `json:"priority,omitempty"`
	TimeoutMS    *int64  `json:"timeout_ms,omitempty"`
	MaxSteps     *int    `json:"max_steps,omitempty"`
	StreamEvents *bool   `json:"stream_events,omitempty"`
}
