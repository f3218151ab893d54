// Package model is Stack B: governed access to models. Its Gateway runs the stages of a call in order: policy, budget,
// route, provider, policy, meter, settle. Its children are the stages and the providers.
//
// Room: Stack B. It imports internal/…, storage, negotiation and tenancy.
package model

import (
	"context"
	"encoding/json"
)

// Message is one turn of a conversation.
type Message struct {
	Role       string     `json:"role"` // system, user, assistant or tool
	Content    string     `json:"content"`
	Name       string     `json:"name,omitempty"`
	ToolCalls  []ToolCall `json:"tool_calls,omitempty"`
	ToolCallID string     `json:"tool_call_id,omitempty"` // of a tool message: the call it answers
}

// ToolCall is a model's wish to use a tool.
type ToolCall struct {
	ID        string          `json:"tool_call_id"`
	ToolID    string          `json:"tool_id,omitempty"` // "" when the model named a tool that was not offered
	Name      string          `json:"name"`              // as the model knows it
	Arguments json.RawMessage `json:"arguments"`         // a JSON object
}

// Tool is a tool offered to a model.
type Tool struct {
	ID          string          `json:"tool_id"`
	Name        string          `json:"name"`
	Description string          `json:"description,omitempty"`
	InputSchema json.RawMessage `json:"input_schema,omitempty"`
	// Strict asks that arguments follow InputSchema to the letter.
	Strict bool `json:"strict,omitempty"`
}

// Requirements bound which route a call may take. Zero means no bound.
type Requirements struct {
	MaxLatencyMS     int64   `json:"max_latency_ms,omitempty"`
	MaxCostUSD       float64 `json:"max_cost_usd,omitempty"`
	MinContextTokens int64   `json:"min_context_tokens,omitempty"`
}

// ChatRequest is one call of a chat model, free of any vendor's dialect.
type ChatRequest struct {
	RequestID    string       `json:"request_id"`
	ModelRef     string       `json:"model_ref"` // "tier:fast", a model id, or "backend/model"
	Messages     []Message    `json:"messages"`
	Tools        []Tool       `json:"tools,omitempty"`
	ToolChoice   string       `json:"tool_choice,omitempty"` // auto, none, required, or a tool's name
	Requirements Requirements `json:"requirements"`
	// ParallelToolCalls says whether one answer may have several tool calls; nil leaves it to the model.
	ParallelToolCalls *bool `json:"parallel_tool_calls,omitempty"`
	// Generation settings; nil leaves the model's default.
	Temperature     *float64        `json:"temperature,omitempty"`
	TopP            *float64        `json:"top_p,omitempty"`
	MaxOutputTokens *int64          `json:"max_output_tokens,omitempty"`
	Stop            []string        `json:"stop,omitempty"`
	Seed            *int64          `json:"seed,omitempty"`
	ResponseFormat  json.RawMessage `json:"response_format,omitempty"`
}

// Delta is one piece of a streamed answer.
type Delta struct {
	Text string
	// ToolCall fields are set on the pieces that build tool calls; Index says which call.
	ToolCall *ToolCallDelta
}

// ToolCallDelta is a piece of a tool call.
type ToolCallDelta struct {
	Index     int
	ID, Name  string // on the first piece
	Arguments string // text to be appended
}

// Usage counts the tokens of one call.
type Usage struct {
	InputTokens  int64 `json:"input_tokens"`
	OutputTokens int64 `json:"output_tokens"`
	TotalTokens  int64 `json:"total_tokens"`
	// CachedInputTokens is the part of InputTokens that the backend took from its cache, at a lower price.
	CachedInputTokens int64 `json:"cached_input_tokens,omitempty"`
	// CostNUSD is the price of the call in nano-dollars.
	CostNUSD int64 `json:"cost_nusd"`
	// Estimated is set when the backend did not say and the node counted by itself, or when the model has no price.
	Estimated bool `json:"estimated,omitempty"`
}

// ChatResponse is a provider's whole answer. With an error after part of the output, what arrived is returned beside the
// error, so that it can be billed.
type ChatResponse struct {
	Message      Message
	FinishReason string // stop, length or tool_calls
	// Usage is nil when the backend did not say.
	Usage *Usage
}

// EmbedRequest asks for vectors.
type EmbedRequest struct {
	RequestID string   `json:"request_id"`
	ModelRef  string   `json:"model_ref"`
	Texts     []string `json:"texts"`
	// Requirements bound which route the call may take.
	Requirements Requirements `json:"requirements"`
	// Dimensions asks for shorter vectors; 0 leaves the model's own size.
	Dimensions int `json:"dimensions,omitempty"`
}

// EmbedResponse holds one vector for each text, in order.
type EmbedResponse struct {
	Vectors [][]float32
	Usage   *Usage
}

// Info describes one model of one backend.
type Info struct {
	ID                  string   `json:"model_id"` // "backend/model"
	Backend             string   `json:"provider"`
	Model               string   `json:"-"`
	OwnedBy             string   `json:"-"`
	Capabilities        []string `json:"capabilities"` // chat, embed
	MaxOutputTokens     int64    `json:"max_output_tokens,omitempty"`
	ContextWindowTokens int64    `json:"context_window_tokens,omitempty"`
	Tiers               []string `json:"tiers,omitempty"`
	Created             int64    `json:"-"` // Unix seconds
}

// Provider is the treaty of a model backend. Implementations are safe for concurrent use, obey ctx promptly, map their
// failures to fault codes (Unavailable, RateLimited with RetryAfter, Timeout, InvalidRequest, Internal), and never log
// content.
type Provider interface {
	// Name is the backend's name, the first part of a full model id.
	Name() string
	// Chat asks model (without the backend's name). A non-nil sink is called in order for each piece of the answer as it
	// comes; an error from sink stops the call and is returned.
	Chat(ctx context.Context, model string, req *ChatRequest, sink func(Delta) error) (*ChatResponse, error)
	// Embed returns a vector for each text.
	Embed(ctx context.Context, model string, req *EmbedRequest) (*EmbedResponse, error)
	// Models lists what the backend serves.
	Models(ctx context.Context) ([]Info, error)
	// Health returns nil when the backend answers.
	Health(ctx context.Context) error
}

// The decisions of policy.
const (
	Allowed  = "allowed"
	Blocked  = "blocked"
	Redacted = "redacted"
)

// PolicyOutcome says what policy did to a call. Its lists are never nil, and are shared: never change them.
type PolicyOutcome struct {
	Decision   string      `json:"decision"` // allowed, blocked or redacted
	Reasons    []string    `json:"reasons"`
	Redactions []Redaction `json:"redactions"`
}

// Redaction is one replaced span. Start and End are byte offsets in the text before redaction.
type Redaction struct {
	Type        string `json:"type"`
	Path        string `json:"path"`
	Start       int    `json:"start"`
	End         int    `json:"end"`
	Replacement string `json:"replacement"`
}

// RouteTaken says which backend answered.
type RouteTaken struct {
	Backend      string    `json:"backend"`
	Model        string    `json:"model"`
	Node         string    `json:"node"`
	FallbackUsed bool      `json:"fallback_used"`
	Attempts     []Attempt `json:"attempts,omitempty"`
}

// Attempt is one try at one backend that did not give the answer.
type Attempt struct {
	Backend string `json:"backend"`
	Model   string `json:"model"`
	Code    string `json:"code"`
}
