package builtin

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/model"
	"github.com/nexixai/agentos/model/meter"
)

// The backend's name, its models, and who they belong to.
const (
	Name    = "builtin"
	Echo    = "echo-1"
	Embed   = "hash-embed-1"
	OwnedBy = "agentos-builtin"
)

const (
	maxOutputTokens = 131_072
	contextTokens   = 1_048_576
	created         = 1_767_225_600 // 2026-01-01, the release of both models
)

// Provider is the builtin backend. It keeps no state.
type Provider struct{}

var (
	_ model.Provider  = (*Provider)(nil)
	_ model.Bounded   = (*Provider)(nil)
	_ model.InProcess = (*Provider)(nil)
)

// New returns the builtin backend.
func New() *Provider { return &Provider{} }

// Name implements model.Provider.
func (*Provider) Name() string { return Name }

// InProcess implements model.InProcess.
func (*Provider) InProcess() bool { return true }

// Health implements model.Provider: what is part of the node is there.
func (*Provider) Health(context.Context) error { return nil }

// Models implements model.Provider.
func (*Provider) Models(context.Context) ([]model.Info, error) {
	tiers := []string{"fast", "balanced", "premium"}
	return []model.Info{
		{
			ID: Name + "/" + Echo, Backend: Name, Model: Echo, OwnedBy: OwnedBy, Capabilities: []string{model.OpChat},
			MaxOutputTokens: maxOutputTokens, ContextWindowTokens: contextTokens, Tiers: tiers, Created: created,
		},
		{
			ID: Name + "/" + Embed, Backend: Name, Model: Embed, OwnedBy: OwnedBy, Capabilities: []string{model.OpEmbed},
			ContextWindowTokens: contextTokens, Tiers: tiers, Created: created,
		},
	}, nil
}

// Chat implements model.Provider.
func (*Provider) Chat(ctx context.Context, name string, req *model.ChatRequest, sink func(model.Delta) error) (*model.ChatResponse, error) {
	if name != Echo {
		return nil, unknown(name)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	turn, err := next(req)
	if err != nil {
		return nil, err
	}
	for _, d := range turn.waits {
		if err := wait(ctx, d); err != nil {
			return nil, err
		}
	}
	return turn.act(ctx, req, sink)
}

// MaxOutput implements model.Bounded: what echo-1 will say is known before it says it.
func (*Provider) MaxOutput(name string, req *model.ChatRequest) int64 {
	turn, err := next(req)
	if name != Echo || err != nil {
		return 0
	}
	switch turn.kind {
	case "call":
		_, called := turn.offered(req)
		return meter.Words(called) + meter.Words(string(turn.args))
	case "tokens", "cut":
		return turn.n
	case "error":
		return 0
	}
	return meter.Words(turn.text)
}

// answer says text word by word. MaxOutputTokens and Stop cut it short.
func answer(ctx context.Context, text string, req *model.ChatRequest, sink func(model.Delta) error) (*model.ChatResponse, error) {
	if wantsJSON(req) && !json.Valid([]byte(text)) {
		return nil, fault.Invalid("response_format", "%s answers plain text; leave response_format out.", Echo)
	}
	text = beforeStop(text, req.Stop)
	limit := int64(maxOutputTokens)
	if req.MaxOutputTokens != nil {
		limit = min(limit, *req.MaxOutputTokens)
	}
	said, words := 0, int64(0)
	finish := "stop"
	for said < len(text) {
		piece := firstWord(text[said:])
		counts := meter.Words(piece)
		if words+counts > limit {
			finish = "length"
			break
		}
		if sink != nil {
			if err := deliver(ctx, sink, model.Delta{Text: piece}); err != nil {
				return response(req, text[:said], finish), err
			}
		}
		said, words = said+len(piece), words+counts
	}
	return response(req, text[:said], finish), nil
}

func deliver(ctx context.Context, sink func(model.Delta) error, d model.Delta) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return sink(d)
}

func response(req *model.ChatRequest, text, finish string) *model.ChatResponse {
	r := &model.ChatResponse{Message: model.Message{Role: "assistant", Content: text}, FinishReason: finish}
	r.Usage = usage(req, &r.Message)
	return r
}

func usage(req *model.ChatRequest, m *model.Message) *model.Usage {
	u := &model.Usage{OutputTokens: meter.WordsOf(m)}
	for i := range req.Messages {
		u.InputTokens += meter.WordsOf(&req.Messages[i])
	}
	u.TotalTokens = u.InputTokens + u.OutputTokens
	return u
}

// firstWord returns the beginning of s up to the end of its first word; white space before a word belongs to it, and white
// space at the end of s to the last.
func firstWord(s string) string {
	i := 0
	for i < len(s) && space(s[i]) {
		i++
	}
	for i < len(s) && !space(s[i]) {
		i++
	}
	if strings.TrimLeft(s[i:], " \t\n\r\v\f") == "" {
		return s
	}
	return s[:i]
}

func space(c byte) bool { return c == ' ' || '\t' <= c && c <= '\r' }

// wantsJSON reports whether the answer has to be JSON.
func wantsJSON(req *model.ChatRequest) bool {
	var format struct {
		Type string `json:"type"`
	}
	return len(req.ResponseFormat) > 0 && json.Unmarshal(req.ResponseFormat, &format) == nil && format.Type != "" && format.Type != "text"
}

func beforeStop(text string, stops []string) string {
	for _, stop := range stops {
		if before, _, found := strings.Cut(text, stop); found && stop != "" {
			text = before
		}
	}
	return text
}

func unknown(name string) error {
	return fault.New(fault.NotFound, "The builtin backend has no model %q for this; it has %s for chat and %s for embeddings.", name, Echo, Embed).With("param", "model")
}

// lastUser returns the last user message's text and the messages after it.
func lastUser(messages []model.Message) (text string, after []model.Message) {
	for i, m := range slices.Backward(messages) {
		if m.Role == "user" {
			return m.Content, messages[i+1:]
		}
	}
	return "", messages
}
