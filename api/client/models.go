package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"time"

	"github.com/nexixai/agentos/internal/sse"
)

// Model is one model of one backend.
type Model struct {
	ID                  string   `json:"model_id"` // "backend/model"
	Provider            string   `json:"provider"`
	Capabilities        []string `json:"capabilities"` // chat, embed
	MaxOutputTokens     int64    `json:"max_output_tokens"`
	ContextWindowTokens int64    `json:"context_window_tokens"`
	Tiers               []string `json:"tiers"`
}

// Models lists the models that the tenant may use.
func (c *Client) Models() *List[Model] {
	return &List[Model]{c: c, path: "/v1/models", plural: "models"}
}

// GetModel returns one model by its full name.
func (c *Client) GetModel(ctx context.Context, modelID string) (*Model, error) {
	return get[Model](ctx, c, "model", "/v1/models/{model_id}", modelID)
}

// RouteTaken says who answered.
type RouteTaken struct {
	Backend      string `json:"backend"`
	Model        string `json:"model"`
	Node         string `json:"node"`
	FallbackUsed bool   `json:"fallback_used"`
	Attempts     []struct {
		Backend string `json:"backend"`
		Model   string `json:"model"`
		Code    Code   `json:"code"`
	} `json:"attempts"`
}

// Message is one turn of a conversation, in OpenAI's form.
type Message struct {
	Role       string     `json:"role"` // system, user, assistant or tool
	Content    string     `json:"content"`
	Name       string     `json:"name,omitempty"`
	ToolCalls  []ToolCall `json:"tool_calls,omitempty"`
	ToolCallID string     `json:"tool_call_id,omitempty"`
}

// ToolCall is a call that a model asks for.
type ToolCall struct {
	Index    int    `json:"index,omitempty"` // in pieces: which call the piece belongs to
	ID       string `json:"id,omitempty"`
	Type     string `json:"type,omitempty"` // "function"
	Function struct {
		Name      string `json:"name,omitempty"`
		Arguments string `json:"arguments"` // JSON, as text
	} `json:"function"`
}

// ChatRequest is a chat call in OpenAI's form. Model takes a tier ("tier:fast"), a model's id or "backend/model".
type ChatRequest struct {
	Model          string          `json:"model"`
	Messages       []Message       `json:"messages"`
	Tools          json.RawMessage `json:"tools,omitempty"`
	ToolChoice     json.RawMessage `json:"tool_choice,omitempty"`
	MaxTokens      int             `json:"max_tokens,omitempty"`
	Temperature    *float64        `json:"temperature,omitempty"`
	TopP           *float64        `json:"top_p,omitempty"`
	Stop           []string        `json:"stop,omitempty"`
	Seed           *int64          `json:"seed,omitempty"`
	ResponseFormat json.RawMessage `json:"response_format,omitempty"`
	User           string          `json:"user,omitempty"`
}

// ChatUsage is what a chat took, in OpenAI's form.
type ChatUsage struct {
	PromptTokens     int64 `json:"prompt_tokens"`
	CompletionTokens int64 `json:"completion_tokens"`
	TotalTokens      int64 `json:"total_tokens"`
}

// ChatAnswer is a whole answer, or one piece of a streamed one: there Delta is set in place of Message, and the last piece
// holds usage, policy and route.
type ChatAnswer struct {
	ID      string `json:"id"`
	Model   string `json:"model"`
	Created int64  `json:"created"`
	Choices []struct {
		Index        int     `json:"index"`
		Message      Message `json:"message"`
		Delta        Message `json:"delta"`
		FinishReason string  `json:"finish_reason"`
	} `json:"choices"`
	Usage         *ChatUsage     `json:"usage"`
	PolicyOutcome *PolicyOutcome `json:"policy_outcome"`
	Route         *RouteTaken    `json:"route"`
	LatencyMS     int64          `json:"latency_ms"`
	CorrelationID string         `json:"correlation_id"`
}

const chatPath = "/v1/chat/completions"

// Chat asks a model and returns its whole answer.
func (c *Client) Chat(ctx context.Context, req ChatRequest) (*ChatAnswer, error) {
	return whole[ChatAnswer](ctx, c, chatPath, req)
}

// whole makes a call of a model in OpenAI's form, whose answer stands in no noun.
func whole[T any](ctx context.Context, c *Client, path string, body any) (*T, error) {
	a, err := c.Do(ctx, Request{Method: http.MethodPost, Path: path, Body: body, Slow: true})
	if err != nil {
		return nil, err
	}
	v := new(T)
	if err := json.Unmarshal(a.Body, v); err != nil {
		return nil, fmt.Errorf("POST %s: the answer can't be read: %w", path, err)
	}
	return v, nil
}

// ChatStream asks a model and yields its answer piece by piece. It ends without an error only when the answer was whole;
// an answer that broke off is ErrCut, and one that the node broke off is the node's error.
func (c *Client) ChatStream(ctx context.Context, req ChatRequest) iter.Seq2[*ChatAnswer, error] {
	return func(yield func(*ChatAnswer, error) bool) {
		if err := c.chatStream(ctx, req, yield); err != nil {
			yield(nil, err)
		}
	}
}

func (c *Client) chatStream(ctx context.Context, req ChatRequest, yield func(*ChatAnswer, error) bool) error {
	body, err := json.Marshal(struct {
		ChatRequest
		Stream        bool            `json:"stream"`
		StreamOptions map[string]bool `json:"stream_options"`
	}{req, true, map[string]bool{"include_usage": true}})
	if err != nil {
		return err
	}
	resp, err := c.stream(ctx, Request{Method: http.MethodPost, Path: chatPath}, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	frames := sse.NewReader(resp.Body, maxFrame)
	for {
		f, err := frames.Next()
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrCut, told(ctx, err))
		}
		if bytes.Equal(f.Data, []byte("[DONE]")) {
			return nil
		}
		if refused := decodeError(f.Data); refused != nil {
			return refused
		}
		piece := new(ChatAnswer)
		if err := json.Unmarshal(f.Data, piece); err != nil {
			return fmt.Errorf("POST %s: a piece of the answer can't be read: %w", chatPath, err)
		}
		if !yield(piece, nil) {
			return nil
		}
	}
}

// EmbedRequest asks for vectors, in OpenAI's form.
type EmbedRequest struct {
	Model      string   `json:"model"`
	Input      []string `json:"input"`
	Dimensions int      `json:"dimensions,omitempty"`
}

// EmbedAnswer holds one vector for each input.
type EmbedAnswer struct {
	Model string `json:"model"`
	Data  []struct {
		Index     int       `json:"index"`
		Embedding []float32 `json:"embedding"`
	} `json:"data"`
	Usage         ChatUsage      `json:"usage"`
	PolicyOutcome *PolicyOutcome `json:"policy_outcome"`
	Route         *RouteTaken    `json:"route"`
	LatencyMS     int64          `json:"latency_ms"`
}

// Embed asks for the vectors of texts.
func (c *Client) Embed(ctx context.Context, req EmbedRequest) (*EmbedAnswer, error) {
	return whole[EmbedAnswer](ctx, c, "/v1/embeddings", req)
}

// InvokeRequest is a call of a model in the canonical envelope.
type InvokeRequest struct {
	RequestID    string             `json:"request_id,omitempty"` // the same one is billed once
	Operation    string             `json:"operation"`            // chat or embed
	ModelRef     string             `json:"model_ref,omitempty"`
	Requirements ModelRequirements  `json:"requirements,omitzero"`
	Input        json.RawMessage    `json:"input"`
	Generation   GenerationSettings `json:"generation,omitzero"`
}

// ModelRequirements bound which route a call may take; zero sets no bound.
type ModelRequirements struct {
	MaxLatencyMS     int64   `json:"max_latency_ms,omitempty"`
	MaxCostUSD       float64 `json:"max_cost_usd,omitempty"`
	MinContextTokens int64   `json:"min_context_tokens,omitempty"`
}

// GenerationSettings say how to answer; nil leaves it to the model.
type GenerationSettings struct {
	Temperature     *float64 `json:"temperature,omitempty"`
	TopP            *float64 `json:"top_p,omitempty"`
	MaxOutputTokens *int64   `json:"max_output_tokens,omitempty"`
}

// InvokeAnswer is the canonical answer of a model.
type InvokeAnswer struct {
	RequestID     string          `json:"request_id"`
	Status        string          `json:"status"` // ok or error
	Output        json.RawMessage `json:"output"`
	Usage         Spent           `json:"usage"`
	LatencyMS     int64           `json:"latency_ms"`
	PolicyOutcome PolicyOutcome   `json:"policy_outcome"`
	Route         RouteTaken      `json:"route"`
}

// Invoke calls a model in the canonical envelope.
func (c *Client) Invoke(ctx context.Context, req InvokeRequest) (*InvokeAnswer, error) {
	return ask[InvokeAnswer](ctx, c, Request{Method: http.MethodPost, Path: "/v1/models:invoke", Body: map[string]any{"request": req}, Slow: true}, "response")
}

// Explanation says what a call of a model would do.
type Explanation struct {
	Decision struct {
		ModelRef   string `json:"model_ref"`
		Candidates []struct {
			Backend string   `json:"backend"`
			Model   string   `json:"model"`
			Chosen  bool     `json:"chosen"`
			Order   int      `json:"order"`
			Reasons []Reason `json:"reasons"`
		} `json:"candidates"`
	} `json:"decision"`
	PolicyOutcome PolicyOutcome `json:"policy_outcome"`
	Reservation   struct {
		Tokens  int64   `json:"tokens"`
		CostUSD float64 `json:"cost_usd"`
	} `json:"reservation"`
}

// Explain says what Invoke would do, and calls nothing.
func (c *Client) Explain(ctx context.Context, req InvokeRequest) (*Explanation, error) {
	return change[Explanation](ctx, c, http.MethodPost, "explanation", "/v1/models:explain", map[string]any{"request": req})
}

// UsageQuery says which part of the books to sum up; zero fields take this month by day.
type UsageQuery struct {
	Window   string // day or month
	From, To time.Time
	GroupBy  []string // window, principal, agent, model, operation
}

// Usage is a report of what a tenant spent.
type Usage struct {
	From    time.Time `json:"from"`
	To      time.Time `json:"to"`
	Window  string    `json:"window"`
	GroupBy []string  `json:"group_by"`
	Rows    []struct {
		Group    map[string]string `json:"group"`
		Requests int64             `json:"requests"`
		Spent
	} `json:"rows"`
	Budgets []Budget `json:"budgets"`
}

// Budget is one budget in its current window. What is spent and what is held back stand apart.
type Budget struct {
	Level    string    `json:"level"`
	Unit     string    `json:"unit"` // tokens or usd
	Window   string    `json:"window"`
	Limit    float64   `json:"limit"`
	Spent    float64   `json:"spent"`
	Reserved float64   `json:"reserved"`
	ResetsAt time.Time `json:"resets_at"`
}
