package modeltest

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/model"
)

// Subject is a provider under test. Its chat model, or the server behind it, obeys the builtin backend's directives, so that
// the suite can make it do what it needs.
type Subject struct {
	Provider              model.Provider
	ChatModel, EmbedModel string
}

// Conformance runs the suite of model.Provider. Each test gets a subject of its own.
func Conformance(t *testing.T, subject func(*testing.T) Subject) {
	for name, test := range map[string]func(*testing.T, Subject){
		"Models": models, "Chat": chat, "StreamEqualsWhole": streamEqualsWhole, "ToolCall": toolCall, "MaxOutput": maxOutput,
		"Errors": mapsErrors, "Cancel": cancel, "CancelMidStream": cancelMidStream, "SinkStops": sinkStops, "Cut": cut,
		"Embed": embed, "Unchanged": unchanged, "Parallel": parallel,
	} {
		t.Run(name, func(t *testing.T) { test(t, subject(t)) })
	}
}

// Say returns a request with one user message.
func Say(text string) *model.ChatRequest {
	return &model.ChatRequest{RequestID: "req_test", Messages: []model.Message{{Role: "user", Content: text}}}
}

func models(t *testing.T, s Subject) {
	list, err := s.Provider.Models(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, capability := range map[string]string{s.ChatModel: model.OpChat, s.EmbedModel: model.OpEmbed} {
		i := slices.IndexFunc(list, func(m model.Info) bool { return m.Model == name })
		if i < 0 {
			t.Errorf("%s is not in the list %v", name, list)
			continue
		}
		if m := list[i]; m.Backend != s.Provider.Name() || m.ID != m.Backend+"/"+name || !slices.Contains(m.Capabilities, capability) || m.OwnedBy == "" {
			t.Errorf("%s is described as %+v", name, m)
		}
	}
	if err := s.Provider.Health(t.Context()); err != nil {
		t.Errorf("health: %v", err)
	}
}

func chat(t *testing.T, s Subject) {
	got, err := s.Provider.Chat(t.Context(), s.ChatModel, Say("good morning"), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := &model.ChatResponse{
		Message: model.Message{Role: "assistant", Content: "echo: good morning"}, FinishReason: "stop",
		Usage: &model.Usage{InputTokens: 2, OutputTokens: 3, TotalTokens: 5},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// gather puts the pieces of a stream together.
func gather(deltas []model.Delta) (m model.Message) {
	m.Role = "assistant"
	for _, d := range deltas {
		m.Content += d.Text
		if c := d.ToolCall; c != nil {
			for len(m.ToolCalls) <= c.Index {
				m.ToolCalls = append(m.ToolCalls, model.ToolCall{})
			}
			call := &m.ToolCalls[c.Index]
			call.ID, call.Name = call.ID+c.ID, call.Name+c.Name
			call.Arguments = append(call.Arguments, c.Arguments...)
		}
	}
	return m
}

func streamEqualsWhole(t *testing.T, s Subject) {
	for _, text := range []string{"hello there", "/tokens 40", "/say Ünïcode 日本 and\ttabs", "/call tool.echo {\"a\":[1,\"zwei\"]}", "/tokens 0"} {
		req := Say(text)
		req.Tools = []model.Tool{{ID: "tool.echo", Name: "echo", InputSchema: json.RawMessage(`{"type":"object"}`)}}
		whole, err := s.Provider.Chat(t.Context(), s.ChatModel, req, nil)
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		var deltas []model.Delta
		streamed, err := s.Provider.Chat(t.Context(), s.ChatModel, req, func(d model.Delta) error { deltas = append(deltas, d); return nil })
		if err != nil {
			t.Fatalf("%q streamed: %v", text, err)
		}
		if diff := cmp.Diff(whole, streamed); diff != "" {
			t.Errorf("%q: streaming changes the answer:\n%s", text, diff)
		}
		pieces := gather(deltas)
		for i := range pieces.ToolCalls {
			pieces.ToolCalls[i].ToolID = whole.Message.ToolCalls[i].ToolID
		}
		if diff := cmp.Diff(whole.Message, pieces); diff != "" {
			t.Errorf("%q: the pieces are not the answer:\n%s", text, diff)
		}
		if text == "/tokens 40" && len(deltas) < 2 {
			t.Errorf("%q came in %d pieces", text, len(deltas))
		}
	}
}

func toolCall(t *testing.T, s Subject) {
	req := Say("/call tool.echo {\"a\":1}\n/say done")
	req.Tools = []model.Tool{{ID: "tool.echo", Name: "echo"}}
	got, err := s.Provider.Chat(t.Context(), s.ChatModel, req, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Message.ToolCalls) != 1 || got.FinishReason != "tool_calls" {
		t.Fatalf("answer %+v", got)
	}
	call := got.Message.ToolCalls[0]
	if call.ID == "" || call.Name != "echo" || string(call.Arguments) != `{"a":1}` {
		t.Errorf("call %+v, arguments %s", call, call.Arguments)
	}
	req.Messages = append(req.Messages, got.Message, model.Message{Role: "tool", Content: `{"a":1}`, ToolCallID: call.ID})
	if got, err = s.Provider.Chat(t.Context(), s.ChatModel, req, nil); err != nil || got.Message.Content != "done" || got.FinishReason != "stop" {
		t.Errorf("the turn after: %+v, %v", got, err)
	}
	req.Messages[0].Content = "/call tool.echo {\"a\":1}"
	if got, err = s.Provider.Chat(t.Context(), s.ChatModel, req, nil); err != nil || got.Message.Content != `{"a":1}` {
		t.Errorf("after the last call: %+v, %v", got, err)
	}
}

func maxOutput(t *testing.T, s Subject) {
	req := Say("/tokens 10")
	most := int64(3)
	req.MaxOutputTokens = &most
	for _, sink := range []func(model.Delta) error{nil, func(model.Delta) error { return nil }} {
		got, err := s.Provider.Chat(t.Context(), s.ChatModel, req, sink)
		if err != nil || got.Message.Content != "w1 w2 w3" || got.FinishReason != "length" {
			t.Errorf("bounded to 3 tokens: %+v, %v", got, err)
		}
	}
}

func mapsErrors(t *testing.T, s Subject) {
	for code, want := range map[fault.Code][]fault.Code{
		fault.RateLimited:    {fault.RateLimited},
		fault.Unavailable:    {fault.Unavailable},
		fault.Timeout:        {fault.Timeout},
		fault.InvalidRequest: {fault.InvalidRequest},
		fault.Internal:       {fault.Internal, fault.Unavailable},
	} {
		for _, sink := range []func(model.Delta) error{nil, func(model.Delta) error { return nil }} {
			resp, err := s.Provider.Chat(t.Context(), s.ChatModel, Say("/error "+string(code)), sink)
			if !slices.Contains(want, fault.CodeOf(err)) || resp != nil {
				t.Errorf("%s came as %v with %+v", code, err, resp)
			}
			if code == fault.RateLimited && fault.Of(err).RetryAfter <= 0 {
				t.Error("rate_limited without Retry-After")
			}
		}
	}
	if _, err := s.Provider.Chat(t.Context(), "no-such-model", Say("x"), nil); !fault.Is(err, fault.NotFound) {
		t.Errorf("an unknown model: %v", err)
	}
	if _, err := s.Provider.Embed(t.Context(), "no-such-model", &model.EmbedRequest{Texts: []string{"x"}}); !fault.Is(err, fault.NotFound) {
		t.Errorf("an unknown embedding model: %v", err)
	}
}

func cancel(t *testing.T, s Subject) {
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := s.Provider.Chat(ctx, s.ChatModel, Say("/wait 1h"), nil)
		done <- err
	}()
	stop()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("a canceled call ended with %v", err)
	}
}

func cancelMidStream(t *testing.T, s Subject) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	n := 0
	resp, err := s.Provider.Chat(ctx, s.ChatModel, Say("/tokens 100000"), func(model.Delta) error {
		if n++; n == 3 {
			stop()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("a canceled stream ended with %v", err)
	}
	if resp == nil || !strings.HasPrefix(resp.Message.Content, "w1 w2 w3") {
		t.Errorf("what had come is not told, so it can't be billed: %+v", resp)
	}
}

func sinkStops(t *testing.T, s Subject) {
	gone := errors.New("the reader is gone")
	n := 0
	resp, err := s.Provider.Chat(t.Context(), s.ChatModel, Say("/tokens 100000"), func(model.Delta) error {
		if n++; n == 3 {
			return gone
		}
		return nil
	})
	if !errors.Is(err, gone) || n != 3 || resp == nil {
		t.Errorf("after %d pieces: %v, %+v", n, err, resp)
	}
}

func cut(t *testing.T, s Subject) {
	var text string
	resp, err := s.Provider.Chat(t.Context(), s.ChatModel, Say("/cut 3"), func(d model.Delta) error { text += d.Text; return nil })
	if !fault.Is(err, fault.Unavailable) || strings.TrimSpace(text) != "w1 w2 w3" {
		t.Errorf("a cut stream: %q, %v", text, err)
	}
	if resp == nil || strings.TrimSpace(resp.Message.Content) != "w1 w2 w3" {
		t.Errorf("what had come: %+v", resp)
	}
	if resp, err = s.Provider.Chat(t.Context(), s.ChatModel, Say("/cut 3"), nil); !fault.Is(err, fault.Unavailable) || resp != nil {
		t.Errorf("a cut answer: %+v, %v", resp, err)
	}
}

func embed(t *testing.T, s Subject) {
	texts := []string{"the cat sat on the mat", "a cat sat on a mat", "quarterly revenue grew by nine percent"}
	got, err := s.Provider.Embed(t.Context(), s.EmbedModel, &model.EmbedRequest{Texts: texts})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Vectors) != len(texts) || got.Usage == nil || got.Usage.InputTokens == 0 {
		t.Fatalf("%d vectors, usage %+v", len(got.Vectors), got.Usage)
	}
	for i, v := range got.Vectors {
		if math.Abs(dot(v, v)-1) > 1e-4 {
			t.Errorf("vector %d has squared length %v", i, dot(v, v))
		}
	}
	if near, far := dot(got.Vectors[0], got.Vectors[1]), dot(got.Vectors[0], got.Vectors[2]); near <= far {
		t.Errorf("alike %v, unlike %v", near, far)
	}
	again, err := s.Provider.Embed(t.Context(), s.EmbedModel, &model.EmbedRequest{Texts: []string{texts[2], texts[0]}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([][]float32{got.Vectors[2], got.Vectors[0]}, again.Vectors); diff != "" {
		t.Error("the same texts have other vectors, or another order")
	}
	short, err := s.Provider.Embed(t.Context(), s.EmbedModel, &model.EmbedRequest{Texts: texts[:1], Dimensions: 64})
	if err != nil || len(short.Vectors[0]) != 64 {
		t.Errorf("64 dimensions: %v", err)
	}
}

func dot(a, b []float32) (d float64) {
	for i := range a {
		d += float64(a[i]) * float64(b[i])
	}
	return d
}

// unchanged: a request belongs to its caller, who may send it again elsewhere.
func unchanged(t *testing.T, s Subject) {
	req := Say("/call tool.echo {\"a\":1}")
	req.Tools = []model.Tool{{ID: "tool.echo", Name: "echo", Description: "d", InputSchema: json.RawMessage(`{"type":"object"}`)}}
	before, err := json.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Provider.Chat(t.Context(), s.ChatModel, req, nil); err != nil {
		t.Fatal(err)
	}
	if after, _ := json.Marshal(req); string(after) != string(before) {
		t.Errorf("the request became %s", after)
	}
}

func parallel(t *testing.T, s Subject) {
	done := make(chan error, 16)
	for range cap(done) {
		go func() {
			text := ""
			_, err := s.Provider.Chat(t.Context(), s.ChatModel, Say("/tokens 20"), func(d model.Delta) error { text += d.Text; return nil })
			if err == nil && !strings.HasSuffix(text, "w19 w20") {
				err = errors.New("mixed up: " + text)
			}
			done <- err
		}()
	}
	for range cap(done) {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
