package client

import (
	"context"
	"encoding/json"
	"net/http"
	"time"
)

// Agent is a named way to do work. Its times and its tenant are the node's to say; sent along they are ignored.
type Agent struct {
	ID           string          `json:"agent_id,omitempty"`
	TenantID     string          `json:"tenant_id,omitempty"`
	Name         string          `json:"name"`
	Description  string          `json:"description,omitempty"`
	Version      string          `json:"version,omitempty"`
	Status       string          `json:"status,omitempty"` // active, inactive or deprecated
	CreatedAt    time.Time       `json:"created_at,omitzero"`
	UpdatedAt    time.Time       `json:"updated_at,omitzero"`
	ModelRef     string          `json:"model_ref,omitempty"`
	Instructions string          `json:"instructions,omitempty"`
	ToolIDs      []string        `json:"tool_ids,omitempty"`
	RunDefaults  json.RawMessage `json:"run_defaults,omitempty"` // a run_options object
	PolicyID     string          `json:"policy_id,omitempty"`
	// HostedBy names who runs an agent that isn't here; empty for one's own.
	HostedBy []Host `json:"hosted_by,omitempty"`
}

// Host is where an agent is that can be routed to.
type Host struct {
	Organization string `json:"organization"`
	StackID      string `json:"stack_id"`
}

// GetAgent returns one agent.
func (c *Client) GetAgent(ctx context.Context, agentID string) (*Agent, error) {
	return get[Agent](ctx, c, "agent", "/v1/agents/{agent_id}", agentID)
}

// Agents lists agents by id.
func (c *Client) Agents() *List[Agent] {
	return &List[Agent]{c: c, path: "/v1/agents", plural: "agents"}
}

// PutAgent makes an agent, or replaces the one of this id.
func (c *Client) PutAgent(ctx context.Context, agentID string, a Agent) (*Agent, error) {
	return change[Agent](ctx, c, http.MethodPut, "agent", "/v1/agents/{agent_id}", map[string]any{"agent": a}, agentID)
}

// DeleteAgent removes an agent; its runs are kept.
func (c *Client) DeleteAgent(ctx context.Context, agentID string) error {
	return c.remove(ctx, "/v1/agents/{agent_id}", agentID)
}

// Tool is something that agents may call. Its name and its tenant are the node's to say.
type Tool struct {
	ID          string          `json:"tool_id,omitempty"`
	TenantID    string          `json:"tenant_id,omitempty"`
	Name        string          `json:"name,omitempty"` // as models see it
	Kind        string          `json:"kind"`           // builtin, http or mcp
	Description string          `json:"description,omitempty"`
	InputSchema json.RawMessage `json:"input_schema,omitempty"`
	Idempotent  bool            `json:"idempotent"`
	Config      json.RawMessage `json:"config,omitempty"`
}

// GetTool returns one tool.
func (c *Client) GetTool(ctx context.Context, toolID string) (*Tool, error) {
	return get[Tool](ctx, c, "tool", "/v1/tools/{tool_id}", toolID)
}

// Tools lists the builtin tools and the tenant's own, by id.
func (c *Client) Tools() *List[Tool] { return &List[Tool]{c: c, path: "/v1/tools", plural: "tools"} }

// PutTool makes a tool, or replaces the one of this id.
func (c *Client) PutTool(ctx context.Context, toolID string, t Tool) (*Tool, error) {
	return change[Tool](ctx, c, http.MethodPut, "tool", "/v1/tools/{tool_id}", map[string]any{"tool": t}, toolID)
}

// DeleteTool removes one of the tenant's own tools.
func (c *Client) DeleteTool(ctx context.Context, toolID string) error {
	return c.remove(ctx, "/v1/tools/{tool_id}", toolID)
}

// Memory is one remembered value.
type Memory struct {
	TenantID  string          `json:"tenant_id"`
	Namespace string          `json:"namespace"`
	Key       string          `json:"key"`
	Value     json.RawMessage `json:"value"`
	Metadata  map[string]any  `json:"metadata"`
	CreatedAt time.Time       `json:"created_at"`
	UpdatedAt time.Time       `json:"updated_at"`
}

// GetMemory returns what is remembered under a key of a namespace.
func (c *Client) GetMemory(ctx context.Context, namespace, key string) (*Memory, error) {
	return get[Memory](ctx, c, "memory", "/v1/memory/{ns}/{key}", namespace, key)
}

// PutMemory remembers a value, any JSON, with metadata to find it by, which may be nil.
func (c *Client) PutMemory(ctx context.Context, namespace, key string, value json.RawMessage, metadata map[string]any) (*Memory, error) {
	body := map[string]any{"value": value}
	if metadata != nil {
		body["metadata"] = metadata
	}
	return change[Memory](ctx, c, http.MethodPut, "memory", "/v1/memory/{ns}/{key}", body, namespace, key)
}

// DeleteMemory forgets a value.
func (c *Client) DeleteMemory(ctx context.Context, namespace, key string) error {
	return c.remove(ctx, "/v1/memory/{ns}/{key}", namespace, key)
}

// MemoryQuery is what to look for.
type MemoryQuery struct {
	Query   string         `json:"query"`
	Limit   int            `json:"limit,omitempty"`
	Filters map[string]any `json:"filters,omitempty"` // members that the metadata must have, with equal values
	Mode    string         `json:"mode,omitempty"`    // keyword, vector or hybrid
}

// MemoryResult is one value found. Scores compare within one answer.
type MemoryResult struct {
	Key      string          `json:"key"`
	Value    json.RawMessage `json:"value"`
	Metadata map[string]any  `json:"metadata"`
	Score    float64         `json:"score"`
}

// SearchMemory looks through a namespace; the best come first.
func (c *Client) SearchMemory(ctx context.Context, namespace string, q MemoryQuery) ([]MemoryResult, error) {
	found, err := change[[]MemoryResult](ctx, c, http.MethodPost, "results", "/v1/memory/{ns}:search", q, namespace)
	if err != nil {
		return nil, err
	}
	return *found, nil
}
