package openai

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/model"
)

type function struct {
	Name        string          `json:"name"`
	Description string          `json:"description,omitempty"`
	Parameters  json.RawMessage `json:"parameters,omitempty"`
	Strict      bool            `json:"strict,omitempty"`
}

type offeredTool struct {
	Type     string   `json:"type"`
	Function function `json:"function"`
}

type toolCall struct {
	Index    *int   `json:"index,omitempty"`
	ID       string `json:"id,omitempty"`
	Type     string `json:"type,omitempty"`
	Function struct {
		Name      string `json:"name,omitempty"`
		Arguments string `json:"arguments"`
	} `json:"function"`
}

type sentMessage struct {
	Role       string     `json:"role"`
	Content    *string    `json:"content"`
	Name       string     `json:"name,omitempty"`
	ToolCalls  []toolCall `json:"tool_calls,omitempty"`
	ToolCallID string     `json:"tool_call_id,omitempty"`
}

type chatRequest struct {
	Model               string          `json:"model"`
	Messages            []sentMessage   `json:"messages"`
	Tools               []offeredTool   `json:"tools,omitempty"`
	ToolChoice          any             `json:"tool_choice,omitempty"`
	ParallelToolCalls   *bool           `json:"parallel_tool_calls,omitempty"`
	Temperature         *float64        `json:"temperature,omitempty"`
	TopP                *float64        `json:"top_p,omitempty"`
	MaxTokens           *int64          `json:"max_tokens,omitempty"`
	MaxCompletionTokens *int64          `json:"max_completion_tokens,omitempty"`
	Stop                []string        `json:"stop,omitempty"`
	Seed                *int64          `json:"seed,omitempty"`
	ResponseFormat      json.RawMessage `json:"response_format,omitempty"`
	Stream              bool            `json:"stream,omitempty"`
	StreamOptions       *streamOptions  `json:"stream_options,omitempty"`
}

type streamOptions struct {
	IncludeUsage bool `json:"include_usage"`
}

type usage struct {
	PromptTokens     int64 `json:"prompt_tokens"`
	CompletionTokens int64 `json:"completion_tokens"`
	Details          *struct {
		CachedTokens int64 `json:"cached_tokens"`
	} `json:"prompt_tokens_details"`
}

func (u *usage) model() *model.Usage {
	if u == nil {
		return nil
	}
	m := &model.Usage{InputTokens: max(u.PromptTokens, 0), OutputTokens: max(u.CompletionTokens, 0)}
	if u.Details != nil {
		m.CachedInputTokens = min(max(u.Details.CachedTokens, 0), m.InputTokens)
	}
	m.TotalTokens = m.InputTokens + m.OutputTokens
	return m
}

// content is a text, null, or a list of parts, of which the texts are taken.
type content string

// UnmarshalJSON implements json.Unmarshaler.
func (c *content) UnmarshalJSON(raw []byte) error {
	if bytes.HasPrefix(raw, []byte("[")) {
		var parts []struct {
			Text string `json:"text"`
		}
		if err := json.Unmarshal(raw, &parts); err != nil {
			return err
		}
		for _, part := range parts {
			*c += content(part.Text)
		}
		return nil
	}
	return json.Unmarshal(raw, (*string)(c))
}

// message is an answer, or a piece of one.
type message struct {
	Content   content    `json:"content"`
	Refusal   content    `json:"refusal"`
	ToolCalls []toolCall `json:"tool_calls"`
}

type chatAnswer struct {
	Choices []struct {
		Index        int     `json:"index"`
		Message      message `json:"message"`
		Delta        message `json:"delta"`
		FinishReason string  `json:"finish_reason"`
	} `json:"choices"`
	Usage *usage    `json:"usage"`
	Error *apiError `json:"error"`
}

// Chat implements model.Provider.
func (p *Provider) Chat(ctx context.Context, name string, req *model.ChatRequest, sink func(model.Delta) error) (*model.ChatResponse, error) {
	body := encode(name, req)
	if sink != nil {
		body.Stream, body.StreamOptions = true, &streamOptions{IncludeUsage: true}
		return p.stream(ctx, body, sink)
	}
	var answer chatAnswer
	if err := p.call(ctx, http.MethodPost, "/chat/completions", body, p.o.AnswerTimeout, &answer); err != nil {
		return nil, err
	}
	if answer.Error != nil {
		return nil, p.inStream(answer.Error)
	}
	if len(answer.Choices) == 0 {
		return nil, p.odd("an answer without a choice")
	}
	choice := answer.Choices[0]
	b := builder{finish: choice.FinishReason, usage: answer.Usage}
	b.add(&choice.Message, true)
	return b.response(p)
}

func encode(name string, req *model.ChatRequest) *chatRequest {
	body := &chatRequest{
		Model: name, Temperature: req.Temperature, TopP: req.TopP, Stop: req.Stop, Seed: req.Seed, ResponseFormat: req.ResponseFormat,
		Messages: make([]sentMessage, len(req.Messages)),
	}
	if len(req.Tools) > 0 { // without tools, OpenAI refuses the field
		body.ParallelToolCalls = req.ParallelToolCalls
	}
	if completionBound(name) {
		body.MaxCompletionTokens = req.MaxOutputTokens
	} else {
		body.MaxTokens = req.MaxOutputTokens
	}
	for i := range req.Messages {
		m := &req.Messages[i]
		sent := sentMessage{Role: m.Role, Content: &m.Content, Name: m.Name, ToolCallID: m.ToolCallID}
		if len(m.ToolCalls) > 0 && m.Content == "" {
			sent.Content = nil
		}
		for _, c := range m.ToolCalls {
			call := toolCall{ID: c.ID, Type: "function"}
			call.Function.Name, call.Function.Arguments = c.Name, string(c.Arguments)
			sent.ToolCalls = append(sent.ToolCalls, call)
		}
		body.Messages[i] = sent
	}
	for _, t := range req.Tools {
		body.Tools = append(body.Tools, offeredTool{Type: "function", Function: function{Name: t.Name, Description: t.Description, Parameters: t.InputSchema, Strict: t.Strict}})
	}
	switch req.ToolChoice {
	case "":
	case "auto", "none", "required":
		body.ToolChoice = req.ToolChoice
	default:
		body.ToolChoice = offeredTool{Type: "function", Function: function{Name: req.ToolChoice}}
	}
	return body
}

// completionBound reports whether a model takes its bound as max_completion_tokens: OpenAI's reasoning models refuse the
// older max_tokens, which every other server knows.
func completionBound(name string) bool {
	for _, prefix := range []string{"o1", "o3", "o4", "gpt-5"} {
		if rest, ok := strings.CutPrefix(name, prefix); ok && (rest == "" || rest[0] == '-' || rest[0] == '.') {
			return true
		}
	}
	return false
}

// builder puts an answer together.
type builder struct {
	text   strings.Builder
	calls  []model.ToolCall
	finish string
	usage  *usage
}

// maxCalls bounds the tool calls of one answer.
const maxCalls = 128

// add takes a message, whole or a piece, and returns its tool calls' pieces with their places.
func (b *builder) add(m *message, whole bool) []model.ToolCallDelta {
	b.text.WriteString(string(m.Content))
	b.text.WriteString(string(m.Refusal))
	var pieces []model.ToolCallDelta
	for i := range m.ToolCalls {
		c := &m.ToolCalls[i]
		at := i
		switch {
		case whole:
		case c.Index != nil:
			at = *c.Index
		case c.ID != "": // a server that numbers nothing: a new id is a new call
			at = len(b.calls)
		default:
			at = max(len(b.calls)-1, 0)
		}
		// Some servers number all calls 0.
		if c.ID != "" && at >= 0 && at < len(b.calls) && b.calls[at].ID != "" && b.calls[at].ID != c.ID {
			at = len(b.calls)
		}
		if at < 0 || at >= maxCalls {
			continue
		}
		for len(b.calls) <= at {
			b.calls = append(b.calls, model.ToolCall{})
		}
		call := &b.calls[at]
		piece := model.ToolCallDelta{Index: at, Arguments: c.Function.Arguments}
		if call.Name == "" && c.Function.Name != "" {
			if call.ID = c.ID; call.ID == "" {
				call.ID = id.New(id.ToolCall)
			}
			call.Name = c.Function.Name
			piece.ID, piece.Name = call.ID, call.Name
		}
		call.Arguments = append(call.Arguments, c.Function.Arguments...)
		pieces = append(pieces, piece)
	}
	return pieces
}

// partial is what had come when a stream broke off.
func (b *builder) partial() *model.ChatResponse {
	if b.text.Len() == 0 && len(b.calls) == 0 {
		return nil
	}
	return &model.ChatResponse{
		Message: model.Message{Role: "assistant", Content: b.text.String(), ToolCalls: b.calls}, FinishReason: b.finish, Usage: b.usage.model(),
	}
}

// response is the whole answer.
func (b *builder) response(p *Provider) (*model.ChatResponse, error) {
	resp := &model.ChatResponse{
		Message: model.Message{Role: "assistant", Content: b.text.String(), ToolCalls: b.calls}, FinishReason: b.finish, Usage: b.usage.model(),
	}
	for i := range b.calls {
		c := &b.calls[i]
		if c.Name == "" {
			return b.partial(), p.odd("a tool call without a name")
		}
		if len(bytes.TrimSpace(c.Arguments)) == 0 {
			c.Arguments = json.RawMessage("{}")
		}
		if args := bytes.TrimSpace(c.Arguments); args[0] != '{' || !json.Valid(args) {
			return b.partial(), p.odd("a tool call whose arguments are no JSON object")
		}
	}
	switch {
	case len(b.calls) > 0 && b.finish != "length":
		resp.FinishReason = "tool_calls"
	case b.finish == "" || b.finish == "function_call" || b.finish == "tool_calls" || b.finish == "eos":
		resp.FinishReason = "stop"
	}
	return resp, nil
}
