package openai

import (
	"bytes"
	"encoding/json"

	"github.com/nexixai/agentos/api"
	"github.com/nexixai/agentos/model"
)

// Dialect implements api.OpenAI.
type Dialect struct{}

var (
	_ api.OpenAI     = Dialect{}
	_ api.OpenAIChat = (*Chat)(nil)
)

// Chat implements api.OpenAI.
func (Dialect) Chat(body []byte) (api.OpenAIChat, error) {
	c, err := DecodeChat(body)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Embeddings implements api.OpenAI.
func (Dialect) Embeddings(body []byte) (api.OpenAIEmbed, error) {
	e, err := DecodeEmbed(body)
	if err != nil {
		return nil, err
	}
	return e, nil
}

// extras are what stands beside the dialect's own fields.
type extras struct {
	PolicyOutcome *model.PolicyOutcome `json:"policy_outcome,omitempty"`
	Route         *model.RouteTaken    `json:"route,omitempty"`
	LatencyMS     *int64               `json:"latency_ms,omitempty"`
	CorrelationID string               `json:"correlation_id,omitempty"`
	TenantID      string               `json:"tenant_id,omitempty"`
}

func newExtras(o model.PolicyOutcome, r model.RouteTaken, latencyMS int64, a api.OpenAIAnswer) extras {
	return extras{PolicyOutcome: &o, Route: &r, LatencyMS: &latencyMS, CorrelationID: a.CorrelationID, TenantID: a.TenantID}
}

type usage struct {
	PromptTokens     int64         `json:"prompt_tokens"`
	CompletionTokens int64         `json:"completion_tokens"`
	TotalTokens      int64         `json:"total_tokens"`
	Details          *usageDetails `json:"prompt_tokens_details,omitempty"`
}

type usageDetails struct {
	CachedTokens int64 `json:"cached_tokens"`
}

func newUsage(u model.Usage) *usage {
	w := &usage{PromptTokens: u.InputTokens, CompletionTokens: u.OutputTokens, TotalTokens: u.TotalTokens}
	if u.CachedInputTokens > 0 {
		w.Details = &usageDetails{u.CachedInputTokens}
	}
	return w
}

type function struct {
	Name      string `json:"name,omitempty"`
	Arguments string `json:"arguments"`
}

type toolCall struct {
	Index    *int     `json:"index,omitempty"` // in pieces only
	ID       string   `json:"id,omitempty"`
	Type     string   `json:"type,omitempty"`
	Function function `json:"function"`
}

type message struct {
	Role      string     `json:"role"`
	Content   *string    `json:"content"`
	Refusal   *string    `json:"refusal"`
	ToolCalls []toolCall `json:"tool_calls,omitempty"`
}

type choice struct {
	Index        int       `json:"index"`
	Message      message   `json:"message"`
	Logprobs     *struct{} `json:"logprobs"`
	FinishReason string    `json:"finish_reason"`
}

// Whole implements api.OpenAIChat.
func (c *Chat) Whole(r *model.ChatResult, a api.OpenAIAnswer) []byte {
	m := message{Role: "assistant", Content: &r.Message.Content}
	for _, call := range r.Message.ToolCalls {
		m.ToolCalls = append(m.ToolCalls, toolCall{ID: call.ID, Type: "function", Function: function{call.Name, string(call.Arguments)}})
	}
	if len(m.ToolCalls) > 0 && r.Message.Content == "" {
		m.Content = nil
	}
	return encode(struct {
		ID      string   `json:"id"`
		Object  string   `json:"object"`
		Created int64    `json:"created"`
		Model   string   `json:"model"`
		Choices []choice `json:"choices"`
		Usage   *usage   `json:"usage"`
		extras
	}{
		a.ID, "chat.completion", a.Created.Unix(), r.Route.Backend + "/" + r.Route.Model,
		[]choice{{Message: m, FinishReason: finish(r)}},
		newUsage(r.Usage), newExtras(r.PolicyOutcome, r.Route, r.LatencyMS, a),
	})
}

func finish(r *model.ChatResult) string {
	if r.FinishReason == "" {
		return "stop"
	}
	return r.FinishReason
}

// chunkHead is what all pieces of one stream have alike.
type chunkHead struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	Model   string `json:"model"`
}

type delta struct {
	Role      string     `json:"role,omitempty"`
	Content   *string    `json:"content,omitempty"`
	ToolCalls []toolCall `json:"tool_calls,omitempty"`
}

type pieceChoice struct {
	Index        int     `json:"index"`
	Delta        delta   `json:"delta"`
	FinishReason *string `json:"finish_reason"`
}

// chunk is one piece of a stream.
type chunk struct {
	chunkHead
	Choices []pieceChoice `json:"choices"`
	extras
}

// chunkWithUsage is the same for a client that asked for usage: there the member stands in every piece, null but in the last.
type chunkWithUsage struct {
	chunk
	Usage *usage `json:"usage"`
}

func (c *Chat) frame(choices []pieceChoice, u *usage, x extras) []byte {
	piece := chunk{chunkHead: c.head, Choices: choices, extras: x}
	if c.includeUsage {
		return event(encode(chunkWithUsage{piece, u}))
	}
	return event(encode(piece))
}

// First implements api.OpenAIChat: the piece that says who speaks. What answers isn't known yet, so the pieces bear the name
// that was asked for; the last one tells the route.
func (c *Chat) First(a api.OpenAIAnswer) []byte {
	c.head = chunkHead{ID: a.ID, Object: "chat.completion.chunk", Created: a.Created.Unix(), Model: c.model}
	empty := ""
	return c.frame([]pieceChoice{{Delta: delta{Role: "assistant", Content: &empty}}}, nil, extras{})
}

// Delta implements api.OpenAIChat.
func (c *Chat) Delta(d model.Delta) []byte {
	var w delta
	if d.Text != "" {
		w.Content = &d.Text
	}
	if t := d.ToolCall; t != nil {
		call := toolCall{Index: &t.Index, ID: t.ID, Function: function{t.Name, t.Arguments}}
		if t.ID != "" {
			call.Type = "function"
		}
		w.ToolCalls = []toolCall{call}
	}
	if w.Content == nil && w.ToolCalls == nil {
		return nil
	}
	return c.frame([]pieceChoice{{Delta: w}}, nil, extras{})
}

// Last implements api.OpenAIChat: why the answer ended, its usage if asked for, and the end of the stream.
func (c *Chat) Last(r *model.ChatResult, a api.OpenAIAnswer) []byte {
	reason := finish(r)
	end := []pieceChoice{{FinishReason: &reason}}
	x := newExtras(r.PolicyOutcome, r.Route, r.LatencyMS, a)
	var b []byte
	if c.includeUsage {
		b = append(c.frame(end, nil, extras{}), c.frame([]pieceChoice{}, newUsage(r.Usage), x)...)
	} else {
		b = c.frame(end, nil, x)
	}
	return append(b, "data: [DONE]\n\n"...)
}

// event is data as one server-sent event. encoding/json leaves no line ends in it.
func event(data []byte) []byte {
	b := make([]byte, 0, len(data)+8)
	b = append(b, "data: "...)
	b = append(b, data...)
	return append(b, "\n\n"...)
}

// encode is v as JSON, on one line, without escapes that only HTML needs. What it is given can always be encoded.
func encode(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic("openai: " + err.Error())
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
