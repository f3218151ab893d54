package model_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/model"
	"github.com/nexixai/agentos/model/modeltest"
	"github.com/nexixai/agentos/model/policy"
	"github.com/nexixai/agentos/model/provider/builtin"
	"github.com/nexixai/agentos/model/route"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a backend outside the node that does what its func says.
type fake struct {
	name string
	chat func(ctx context.Context, req *model.ChatRequest, sink func(model.Delta) error) (*model.ChatResponse, error)
}

func (f *fake) Name() string { return f.name }

func (f *fake) Models(context.Context) ([]model.Info, error) {
	return []model.Info{{ID: f.name + "/m", Backend: f.name, Model: "m", Capabilities: []string{"chat", "embed"}, Tiers: []string{"fast"}}}, nil
}

func (f *fake) Health(context.Context) error { return nil }

func (f *fake) Chat(ctx context.Context, _ string, req *model.ChatRequest, sink func(model.Delta) error) (*model.ChatResponse, error) {
	return f.chat(ctx, req, sink)
}

func (f *fake) Embed(_ context.Context, _ string, req *model.EmbedRequest) (*model.EmbedResponse, error) {
	return &model.EmbedResponse{Vectors: make([][]float32, len(req.Texts))}, nil
}

func says(name, text string) *fake {
	return &fake{name: name, chat: func(_ context.Context, _ *model.ChatRequest, sink func(model.Delta) error) (*model.ChatResponse, error) {
		if sink != nil {
			if err := sink(model.Delta{Text: text}); err != nil {
				return nil, err
			}
		}
		return &model.ChatResponse{Message: model.Message{Role: "assistant", Content: text}, FinishReason: "stop"}, nil
	}}
}

func fails(name string, code fault.Code) *fake {
	return &fake{name: name, chat: func(context.Context, *model.ChatRequest, func(model.Delta) error) (*model.ChatResponse, error) {
		return nil, fault.New(code, "no")
	}}
}

// breaks streams some text and then fails.
func breaks(name, text string) *fake {
	return &fake{name: name, chat: func(_ context.Context, _ *model.ChatRequest, sink func(model.Delta) error) (*model.ChatResponse, error) {
		if sink != nil {
			if err := sink(model.Delta{Text: text}); err != nil {
				return nil, err
			}
		}
		return nil, fault.New(fault.Unavailable, "broken")
	}}
}

func TestGateway_Chat(t *testing.T) {
	t.Parallel()
	books := &modeltest.Books{}
	g := modeltest.MustGateway(t, model.Options{Budget: books})
	caller := modeltest.Caller()
	caller.AgentID, caller.RunID = "agt_a", "run_a"
	got, err := g.Chat(t.Context(), caller, modeltest.Say("good morning"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got.Message.Content != "echo: good morning" || got.FinishReason != "stop" || got.PolicyOutcome.Decision != model.Allowed || got.Usage.Estimated {
		t.Errorf("answer %+v", got)
	}
	if diff := cmp.Diff(model.RouteTaken{Backend: "builtin", Model: "echo-1", Node: "stk_test"}, got.Route); diff != "" {
		t.Error(diff)
	}
	if u := got.Usage; u.InputTokens != 2 || u.OutputTokens != 3 || u.TotalTokens != 5 || u.CostNUSD != 5000 {
		t.Errorf("usage %+v", u)
	}
	if r := books.Reserved[0]; r.Tokens != 5 || r.CostNUSD != 5000 || r.Model != "builtin/echo-1" || r.PrincipalID != "svc_test" {
		t.Errorf("reserved %+v", r)
	}
	s := books.Settled[0]
	if s.ReservationID != books.Reserved[0].ID || s.Usage == nil {
		t.Fatalf("settled %+v", s)
	}
	if u := s.Usage; u.PrincipalID != "svc_test" || u.AgentID != "agt_a" || u.RunID != "run_a" || u.Model != "builtin/echo-1" || u.Operation != "chat" ||
		u.Requests != 1 || u.InputTokens != 2 || u.OutputTokens != 3 || u.CostNUSD != 5000 {
		t.Errorf("booked %+v", u)
	}
}

// What is forbidden to the eyes of a backend never reaches it, and what is forbidden to a caller's never comes back, in one
// piece or in many.
//
// Requirements: B4.
func TestGateway_Policy(t *testing.T) {
	t.Parallel()
	var seen string
	leaky := &fake{name: "far", chat: func(_ context.Context, req *model.ChatRequest, sink func(model.Delta) error) (*model.ChatResponse, error) {
		raw, _ := json.Marshal(req)
		seen = string(raw)
		text := "ask bob@example.com"
		for _, piece := range []string{"ask bo", "b@exam", "ple.com"} {
			if sink != nil {
				if err := sink(model.Delta{Text: piece}); err != nil {
					return nil, err
				}
			}
		}
		args := json.RawMessage(`{"to":"eve@example.com"}`)
		if sink != nil {
			for _, d := range []model.ToolCallDelta{{ID: "1", Name: "mail"}, {Arguments: string(args)}} {
				if err := sink(model.Delta{ToolCall: &d}); err != nil {
					return nil, err
				}
			}
		}
		return &model.ChatResponse{Message: model.Message{Role: "assistant", Content: text, ToolCalls: []model.ToolCall{{ID: "1", Name: "mail", Arguments: args}}}}, nil
	}}
	g := modeltest.MustGateway(t, model.Options{Providers: []model.Provider{leaky}})
	for _, streamed := range []bool{false, true} {
		var text, args string
		var sink func(model.Delta) error
		if streamed {
			sink = func(d model.Delta) error {
				text += d.Text
				if d.ToolCall != nil {
					args += d.ToolCall.Arguments
				}
				return nil
			}
		}
		req := modeltest.Say("I am alice@example.com")
		req.Tools = []model.Tool{{ID: "tool.mail", Name: "mail"}}
		got, err := g.Chat(t.Context(), modeltest.Caller(), req, sink)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(seen, "alice@") || !strings.Contains(seen, "[REDACTED:email]") {
			t.Errorf("the backend saw %s", seen)
		}
		if got.Message.Content != "ask [REDACTED:email]" || string(got.Message.ToolCalls[0].Arguments) != `{"to":"[REDACTED:email]"}` || got.Message.ToolCalls[0].ToolID != "tool.mail" {
			t.Errorf("answer %+v", got.Message)
		}
		if streamed && (text != got.Message.Content || args != string(got.Message.ToolCalls[0].Arguments)) {
			t.Errorf("the stream was %q and %q", text, args)
		}
		if o := got.PolicyOutcome; o.Decision != model.Redacted || len(o.Redactions) != 3 || o.Redactions[0].Path != "input.messages[0].content" ||
			o.Redactions[1].Path != "output.message.content" || o.Redactions[2].Path != "output.message.tool_calls[0].arguments.to" || len(o.Reasons) != 1 {
			t.Errorf("outcome %+v", o)
		}
		if !got.Usage.Estimated || got.Usage.OutputTokens == 0 || got.Usage.CostNUSD == 0 {
			t.Errorf("what the backend doesn't say is free or taken for certain: %+v", got.Usage)
		}
	}
}

// A tool that was not offered must not come out as one that can be run.
//
// Requirements: B4.
func TestGateway_ToolNotOffered(t *testing.T) {
	t.Parallel()
	g := modeltest.MustGateway(t, model.Options{})
	for _, name := range []string{"tool.kv.put", "KV_PUT", "kv_put "} {
		req := modeltest.Say("/call " + name + " {}")
		req.Tools = []model.Tool{{ID: "tool.kv.get", Name: "kv_get"}}
		got, err := g.Chat(t.Context(), modeltest.Caller(), req, nil)
		if err != nil || len(got.Message.ToolCalls) != 1 || got.Message.ToolCalls[0].ToolID != "" {
			t.Errorf("%q: %+v %v", name, got.Message, err)
		}
	}
}

// Requirements: B3.
func TestGateway_Fallback(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		first    *fake
		stream   bool
		text     string
		code     fault.Code
		attempts []model.Attempt
		booked   bool
	}{
		"unavailable":        {fails("a", fault.Unavailable), true, "b", "", []model.Attempt{{Backend: "a", Model: "m", Code: "dependency_unavailable"}}, true},
		"rate limited":       {fails("a", fault.RateLimited), false, "b", "", []model.Attempt{{Backend: "a", Model: "m", Code: "rate_limited"}}, true},
		"model gone":         {fails("a", fault.NotFound), false, "b", "", []model.Attempt{{Backend: "a", Model: "m", Code: "not_found"}}, true},
		"the request's":      {fails("a", fault.InvalidRequest), false, "", fault.InvalidRequest, []model.Attempt{{Backend: "a", Model: "m", Code: "invalid_request"}}, false},
		"after first output": {breaks("a", "half "), true, "half ", fault.Unavailable, nil, true},
		"before any":         {breaks("a", "half "), false, "b", "", []model.Attempt{{Backend: "a", Model: "m", Code: "dependency_unavailable"}}, true},
	} {
		books := &modeltest.Books{}
		g := modeltest.MustGateway(t, model.Options{Providers: []model.Provider{c.first, says("b", "b")}, Budget: books})
		streamed := ""
		var sink func(model.Delta) error
		if c.stream {
			sink = func(d model.Delta) error { streamed += d.Text; return nil }
		}
		got, err := g.Chat(t.Context(), modeltest.Caller(), modeltest.Say("x"), sink)
		if fault.CodeOf(err) != c.code || got.Message.Content != c.text || c.stream && streamed != c.text {
			t.Errorf("%s: %+v, streamed %q, %v", name, got.Message, streamed, err)
		}
		if diff := cmp.Diff(c.attempts, got.Route.Attempts); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if err == nil && (!got.Route.FallbackUsed || got.Route.Backend != "b") {
			t.Errorf("%s: route %+v", name, got.Route)
		}
		if s := books.Settled; len(s) != 1 || (s[0].Usage != nil) != c.booked || s[0].ReservationID != books.Reserved[0].ID {
			t.Errorf("%s: settled %+v", name, s)
		}
	}
}

// A caller that leaves in the middle pays for what it got, and for nothing when it got nothing; the reservation ends at once.
func TestGateway_CallerLeaves(t *testing.T) {
	t.Parallel()
	for name, after := range map[string]int{"in the middle": 3, "before": 0} {
		books := &modeltest.Books{}
		g := modeltest.MustGateway(t, model.Options{Budget: books})
		ctx, cancel := context.WithCancel(t.Context())
		n := 0
		text := "/tokens 1000"
		if after == 0 {
			text = "/wait 1h"
			time.AfterFunc(time.Millisecond, cancel)
		}
		_, err := g.Chat(ctx, modeltest.Caller(), modeltest.Say(text), func(model.Delta) error {
			if n++; n == after {
				cancel()
			}
			return nil
		})
		cancel()
		if !errors.Is(err, context.Canceled) || len(books.Settled) != 1 {
			t.Fatalf("%s: %v, settled %+v", name, err, books.Settled)
		}
		u := books.Settled[0].Usage
		if after == 0 && u != nil || after > 0 && (u == nil || u.OutputTokens < int64(after) || u.OutputTokens > int64(after)+2 || u.InputTokens != 2) {
			t.Errorf("%s: booked %+v", name, u)
		}
	}
}

func TestGateway_SinkFails(t *testing.T) {
	t.Parallel()
	books := &modeltest.Books{}
	g := modeltest.MustGateway(t, model.Options{Providers: []model.Provider{says("a", "one two "), says("b", "b")}, Budget: books})
	gone := errors.New("gone")
	got, err := g.Chat(t.Context(), modeltest.Caller(), modeltest.Say("x"), func(model.Delta) error { return gone })
	if !errors.Is(err, gone) || got.Route.Backend != "a" || books.Settled[0].Usage == nil {
		t.Errorf("%+v %v", got, err)
	}
}

func TestGateway_Timeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		g := modeltest.MustGateway(t, model.Options{Timeout: 5 * time.Second})
		began := time.Now()
		_, err := g.Chat(t.Context(), modeltest.Caller(), modeltest.Say("/wait 10m"), nil)
		if !fault.Is(err, fault.Timeout) || time.Since(began) != 5*time.Second {
			t.Errorf("%v after %s", err, time.Since(began))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := g.Chat(ctx, modeltest.Caller(), modeltest.Say("/wait 10m"), nil); !fault.Is(err, fault.Timeout) {
			t.Errorf("the caller's own deadline: %v", err)
		}
	})
}

// What is held back is never less than what can be spent, and the bound reaches the backend.
func TestGateway_Reservation(t *testing.T) {
	t.Parallel()
	limit := func(n int64) *int64 { return &n }
	var asked *int64
	far := &fake{name: "far", chat: func(_ context.Context, req *model.ChatRequest, _ func(model.Delta) error) (*model.ChatResponse, error) {
		asked = req.MaxOutputTokens
		return &model.ChatResponse{Message: model.Message{Content: "x"}}, nil
	}}
	g := modeltest.MustGateway(t, model.Options{Providers: []model.Provider{builtin.New(), far}})
	for name, c := range map[string]struct {
		ref, text       string
		maxOut, perCall *int64
		tokens          int64 // held back for the answer
		bound           *int64
		code            fault.Code
	}{
		"nothing bounds it":      {ref: "far/m", text: "a b", tokens: 4096},
		"the request":            {ref: "far/m", text: "a b", maxOut: limit(7), tokens: 7, bound: limit(7)},
		"the quota":              {ref: "far/m", text: "a b", perCall: limit(100), tokens: 100 - 8, bound: limit(100 - 8)},
		"both":                   {ref: "far/m", text: "a b", maxOut: limit(50), perCall: limit(40), code: fault.QuotaExceeded},
		"both, in sum":           {ref: "far/m", text: "a b", maxOut: limit(39), perCall: limit(40), tokens: 32, bound: limit(32)},
		"no room for an answer":  {ref: "far/m", text: "a b", perCall: limit(8), code: fault.QuotaExceeded},
		"no tokens at all":       {ref: "tier:fast", text: "a", perCall: limit(0), code: fault.QuotaExceeded},
		"known beforehand":       {ref: "builtin/echo-1", text: "/tokens 12", tokens: 12},
		"known, and bounded":     {ref: "builtin/echo-1", text: "/tokens 12", maxOut: limit(5), tokens: 5},
		"a call has a size too":  {ref: "builtin/echo-1", text: "/call x {}", tokens: 2},
		"an error costs nothing": {ref: "builtin/echo-1", text: "/error timeout", tokens: 0},
	} {
		asked = nil
		caller := modeltest.Caller()
		caller.Tenant.Quotas.Models.MaxTokensPerRequest = c.perCall
		req := modeltest.Say(c.text)
		req.ModelRef, req.MaxOutputTokens = c.ref, c.maxOut
		call, err := g.Prepare(t.Context(), caller, req)
		if fault.CodeOf(err) != c.code {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil {
			if d := fault.Of(err).Details; d["limit"] != *c.perCall || d["tenant_id"] != "tnt_test" {
				t.Errorf("%s: details %v", name, d)
			}
			continue
		}
		input := int64(8) // three bytes a token, and the frame
		if strings.HasPrefix(c.ref, "builtin") {
			input = int64(len(strings.Fields(c.text)))
		}
		if got := call.Reservation(); got.Tokens != c.tokens+input || got.CostNUSD <= 0 && got.Tokens > 0 {
			t.Errorf("%s: reserved %+v, want %d + %d tokens", name, got, input, c.tokens)
		}
		if _, err := call.Do(t.Context(), nil); err != nil && name != "an error costs nothing" {
			t.Errorf("%s: %v", name, err)
		}
		if c.ref == "far/m" && fmt.Sprint(deref(asked)) != fmt.Sprint(deref(c.bound)) {
			t.Errorf("%s: the backend was bounded to %v, want %v", name, deref(asked), deref(c.bound))
		}
	}
}

func deref(n *int64) any {
	if n == nil {
		return nil
	}
	return *n
}

func TestGateway_Prepare(t *testing.T) {
	t.Parallel()
	books := &modeltest.Books{}
	g := modeltest.MustGateway(t, model.Options{Budget: books})
	caller := modeltest.Caller()
	for name, c := range map[string]struct {
		req  *model.ChatRequest
		code fault.Code
	}{
		"no messages":    {&model.ChatRequest{}, fault.InvalidRequest},
		"a king":         {&model.ChatRequest{Messages: []model.Message{{Role: "king"}}}, fault.InvalidRequest},
		"unknown model":  {&model.ChatRequest{ModelRef: "nobody/none", Messages: []model.Message{{Role: "user"}}}, fault.NotFound},
		"unknown tier":   {&model.ChatRequest{ModelRef: "tier:golden", Messages: []model.Message{{Role: "user"}}}, fault.NotFound},
		"no chat model":  {&model.ChatRequest{ModelRef: "builtin/hash-embed-1", Messages: []model.Message{{Role: "user"}}}, fault.InvalidRequest},
		"zero tokens":    {&model.ChatRequest{MaxOutputTokens: new(int64), Messages: []model.Message{{Role: "user"}}}, fault.InvalidRequest},
		"too dear":       {&model.ChatRequest{Requirements: model.Requirements{MaxCostUSD: 1e-9}, Messages: []model.Message{{Role: "user", Content: "x"}}}, fault.UnsupportedCapability},
		"too long":       {&model.ChatRequest{Requirements: model.Requirements{MinContextTokens: math.MaxInt64}, Messages: []model.Message{{Role: "user"}}}, fault.UnsupportedCapability},
		"cheap and fine": {&model.ChatRequest{Requirements: model.Requirements{MaxCostUSD: 1}, Messages: []model.Message{{Role: "user"}}}, ""},
	} {
		if _, err := g.Prepare(t.Context(), caller, c.req); fault.CodeOf(err) != c.code {
			t.Errorf("%s: %v", name, err)
		} else if c.code == fault.NotFound && fault.Of(err).Details["param"] != "model" {
			t.Errorf("%s: details %v", name, fault.Of(err).Details)
		}
	}
	caller.PolicyID = "pol_gone"
	if _, err := g.Prepare(t.Context(), caller, modeltest.Say("x")); !fault.Is(err, fault.NotFound) {
		t.Errorf("a policy that isn't there lets a call through: %v", err)
	}
	if len(books.Reserved)+len(books.Settled) != 0 {
		t.Error("Prepare has changed something")
	}
	call, err := g.Prepare(t.Context(), modeltest.Caller(), modeltest.Say("x"))
	if err != nil || call.ModelRef() != model.DefaultModelRef {
		t.Errorf("%v %v", call, err)
	}
}

func TestGateway_Embed(t *testing.T) {
	t.Parallel()
	books := &modeltest.Books{}
	g := modeltest.MustGateway(t, model.Options{Budget: books})
	got, err := g.Embed(t.Context(), modeltest.Caller(), &model.EmbedRequest{ModelRef: "tier:fast", Texts: []string{"bob@example.com writes", "two words"}})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Vectors) != 2 || got.Route.Model != "hash-embed-1" || got.Decision != model.Redacted || got.Redactions[0].Path != "input.texts[0]" || got.Usage.InputTokens != 4 {
		t.Errorf("%+v", got)
	}
	want, err := builtin.New().Embed(t.Context(), builtin.Embed, &model.EmbedRequest{Texts: []string{"[REDACTED:email] writes"}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.Vectors[0], got.Vectors[0]); diff != "" {
		t.Error("the vector is not that of the redacted text")
	}
	if len(books.Settled) != 1 || books.Settled[0].Usage.Operation != "embed" || books.Settled[0].Usage.CostNUSD != 4000 || books.Reserved[0].Tokens != 4 {
		t.Errorf("booked %+v", books.Settled)
	}
	for name, req := range map[string]*model.EmbedRequest{"none": {}, "too many": {Texts: make([]string, model.MaxEmbedTexts+1)}, "chat model": {ModelRef: "builtin/echo-1", Texts: []string{"x"}}} {
		if _, err := g.Embed(t.Context(), modeltest.Caller(), req); !fault.Is(err, fault.InvalidRequest) {
			t.Errorf("%s: %v", name, err)
		}
	}
	limit := int64(1)
	caller := modeltest.Caller()
	caller.Tenant.Quotas.Models.MaxTokensPerRequest = &limit
	if _, err := g.Embed(t.Context(), caller, &model.EmbedRequest{Texts: []string{"two words"}}); !fault.Is(err, fault.QuotaExceeded) {
		t.Errorf("over the quota: %v", err)
	}
	books.Refuse = fault.New(fault.QuotaExceeded, "spent")
	if _, err := g.Embed(t.Context(), modeltest.Caller(), &model.EmbedRequest{Texts: []string{"x"}}); !fault.Is(err, fault.QuotaExceeded) {
		t.Errorf("without budget: %v", err)
	}
}

// A refused reservation calls nobody.
func TestGateway_NoBudget(t *testing.T) {
	t.Parallel()
	called := false
	far := &fake{name: "far", chat: func(context.Context, *model.ChatRequest, func(model.Delta) error) (*model.ChatResponse, error) {
		called = true
		return nil, nil
	}}
	g := modeltest.MustGateway(t, model.Options{Providers: []model.Provider{far}, Budget: &modeltest.Books{Refuse: fault.New(fault.QuotaExceeded, "spent")}})
	if _, err := g.Chat(t.Context(), modeltest.Caller(), modeltest.Say("x"), nil); !fault.Is(err, fault.QuotaExceeded) || called {
		t.Errorf("called %v, %v", called, err)
	}
}

// The breaker stands before backends outside the node only: one tenant's /error must not shut the builtin model for all.
//
// Requirements: B3.
func TestGateway_Breaker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		far := fails("far", fault.Unavailable)
		g := modeltest.MustGateway(t, model.Options{Providers: []model.Provider{builtin.New(), far}, Routes: route.New(route.Options{Threshold: 3, Cooldown: 2 * time.Second})})
		ask := func(ref, text string) error {
			req := modeltest.Say(text)
			req.ModelRef = ref
			_, err := g.Chat(t.Context(), modeltest.Caller(), req, nil)
			return err
		}
		for range 20 {
			_ = ask("builtin/echo-1", "/error dependency_unavailable")
			_ = ask("builtin/echo-1", "/error rate_limited")
		}
		if err := ask("builtin/echo-1", "hi"); err != nil {
			t.Errorf("after errors on demand: %v", err)
		}
		for range 3 {
			_ = ask("far/m", "x")
		}
		called := false
		far.chat = func(context.Context, *model.ChatRequest, func(model.Delta) error) (*model.ChatResponse, error) {
			called = true
			return &model.ChatResponse{Message: model.Message{Content: "ok"}}, nil
		}
		if err := ask("far/m", "x"); !fault.Is(err, fault.Unavailable) || called || fault.Of(err).RetryAfter != 2*time.Second {
			t.Errorf("with an open breaker: called %v, %v after %s", called, err, fault.Of(err).RetryAfter)
		}
		time.Sleep(2 * time.Second) // of the bubble's clock
		if err := ask("far/m", "x"); err != nil || !called {
			t.Errorf("after the cooldown: %v", err)
		}
	})
}

func TestGateway_Explain(t *testing.T) {
	t.Parallel()
	books := &modeltest.Books{}
	g := modeltest.MustGateway(t, model.Options{Providers: []model.Provider{builtin.New(), says("far", "x")}, Budget: books})
	e, err := g.Explain(t.Context(), modeltest.Caller(), modeltest.Say("mail bob@example.com"))
	if err != nil {
		t.Fatal(err)
	}
	if len(e.Decision.Considered) != 3 || !e.Decision.Considered[0].Chosen || e.Decision.Considered[0].Model != "echo-1" || e.Decision.Considered[1].Chosen ||
		e.PolicyOutcome.Decision != model.Redacted || e.Reservation.Tokens == 0 || e.Reservation.CostUSD <= 0 || len(books.Reserved) != 0 {
		t.Errorf("%+v", e)
	}
}

func TestGateway_Check(t *testing.T) {
	t.Parallel()
	g := modeltest.MustGateway(t, model.Options{})
	o, text, err := g.Check(t.Context(), modeltest.Caller(), "I am bob@example.com", policy.DefaultID)
	if err != nil || text != "I am [REDACTED:email]" || o.Decision != model.Redacted || len(o.Redactions) != 1 || o.Redactions[0].Start != 5 || o.Redactions[0].End != 20 {
		t.Errorf("%+v %q %v", o, text, err)
	}
	if _, _, err := g.Check(t.Context(), modeltest.Caller(), "x", "pol_none"); !fault.Is(err, fault.NotFound) {
		t.Error(err)
	}
}

func BenchmarkGateway_Do(b *testing.B) {
	g := modeltest.MustGateway(b, model.Options{})
	caller := modeltest.Caller()
	req := modeltest.Say("/call tool.echo {\"a\":1}\n/say done")
	req.Tools = []model.Tool{{ID: "tool.echo", Name: "echo", Description: "gives back what it gets", InputSchema: json.RawMessage(`{"type":"object"}`)}}
	b.ReportAllocs()
	for b.Loop() {
		call, err := g.Prepare(b.Context(), caller, req)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := call.Do(b.Context(), nil); err != nil {
			b.Fatal(err)
		}
	}
}
