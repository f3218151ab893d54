// Package lines is an example of a model backend: it speaks to a server that answers in lines of JSON, one for each piece.
// docs/extending.md quotes it whole, and says how the wire looks.
package lines

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/model"
)

// Provider is the backend at URL. Its models are known to tenants as "lines/NAME".
type Provider struct {
	URL    string
	Client *http.Client
}

var _ model.Provider = (*Provider)(nil)

// line is one line of an answer: a piece, the whole, or what went wrong.
type line struct {
	Piece *model.Delta         `json:"piece"`
	Whole *model.ChatResponse  `json:"whole"`
	Embed *model.EmbedResponse `json:"embed"`
	Error *fault.Error         `json:"error"` // its members are Code, Message and RetryAfter, in nanoseconds
}

// Name implements model.Provider.
func (*Provider) Name() string { return "lines" }

// Chat implements model.Provider. The server is always asked for pieces: without a sink they are just not passed on.
func (p *Provider) Chat(ctx context.Context, name string, req *model.ChatRequest, sink func(model.Delta) error) (*model.ChatResponse, error) {
	var whole, part *model.ChatResponse
	err := p.ask(ctx, "/chat", map[string]any{"model": name, "request": req}, func(l line) error {
		whole = l.Whole
		if l.Piece == nil || sink == nil {
			return nil
		}
		if part == nil {
			part = &model.ChatResponse{Message: model.Message{Role: "assistant"}}
		}
		part.Message.Content += l.Piece.Text
		return sink(*l.Piece)
	})
	if err == nil && whole == nil {
		err = away(io.ErrUnexpectedEOF)
	}
	if err != nil {
		return part, err // with what had come, as it has to be paid for
	}
	return whole, nil
}

// Embed implements model.Provider.
func (p *Provider) Embed(ctx context.Context, name string, req *model.EmbedRequest) (vectors *model.EmbedResponse, err error) {
	err = p.ask(ctx, "/embed", map[string]any{"model": name, "request": req}, func(l line) error { vectors = l.Embed; return nil })
	if err == nil && vectors == nil {
		err = away(io.ErrUnexpectedEOF)
	}
	return vectors, err
}

// Models implements model.Provider.
func (*Provider) Models(context.Context) ([]model.Info, error) {
	return []model.Info{
		{ID: "lines/echo-1", Backend: "lines", Model: "echo-1", OwnedBy: "me", Capabilities: []string{model.OpChat}},
		{ID: "lines/hash-embed-1", Backend: "lines", Model: "hash-embed-1", OwnedBy: "me", Capabilities: []string{model.OpEmbed}},
	}, nil
}

// Health implements model.Provider.
func (p *Provider) Health(ctx context.Context) error {
	return p.ask(ctx, "/health", nil, func(line) error { return nil })
}

// ask posts a body and reads the answer line by line. Every failure gets a code, by which the node decides whether another
// backend is asked; the end of ctx is passed on as it is.
func (p *Provider) ask(ctx context.Context, path string, body any, each func(line) error) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.URL+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	resp, err := p.Client.Do(req)
	if err != nil {
		return cause(ctx, err)
	}
	defer resp.Body.Close()
	for lines := json.NewDecoder(resp.Body); ; {
		var l line
		if err := lines.Decode(&l); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return cause(ctx, err)
		}
		if l.Error != nil {
			return l.Error
		}
		if err := each(l); err != nil {
			return err
		}
	}
}

func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return away(err)
}

func away(err error) error {
	return fault.New(fault.Unavailable, "The model server doesn't answer.").With("service", "lines").Because(err)
}
