package tool_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/nexixai/agentos/agent"
	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/agent/tool"
	"github.com/nexixai/agentos/agent/tool/tooltest"
	"github.com/nexixai/agentos/internal/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// kv keeps values in a map, once per effect.
type kv struct {
	mu     sync.Mutex
	values map[string]json.RawMessage
}

func (k *kv) PutKV(_ context.Context, in *tool.Invocation, key string, value json.RawMessage) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.values[in.Auth.TenantID+"/"+key] = value
	return nil
}

func (k *kv) GetKV(_ context.Context, in *tool.Invocation, key string) (json.RawMessage, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.values[in.Auth.TenantID+"/"+key], nil
}

func builtin(tb testing.TB, toolID string) agent.Tool {
	tb.Helper()
	for _, t := range tool.Builtins() {
		if t.ID == toolID {
			return t
		}
	}
	tb.Fatalf("no %s", toolID)
	return agent.Tool{}
}

// server is a stranger on the network.
func server(t *testing.T) (*httptest.Server, *http.Client) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/hang":
			_, _ = io.Copy(io.Discard, r.Body) // the server notices that the client has left only after the body
			<-r.Context().Done()
		case "/long":
			_, _ = io.WriteString(w, strings.Repeat("\x01", 2*tool.MaxOutput))
		case "/headers":
			for i := range 100 {
				w.Header().Set(fmt.Sprintf("X-H%d", i), strings.Repeat("h", 1000))
			}
			w.Header().Set("Set-Cookie", "secret=1")
		case "/pretty":
			_, _ = io.WriteString(w, "{\n  \"a\": 1\n}")
		case "/text":
			_, _ = io.WriteString(w, "plain")
		case "/fail":
			w.WriteHeader(http.StatusBadGateway)
		case "/busy":
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(http.StatusTooManyRequests)
		case "/signed":
			body, _ := io.ReadAll(r.Body)
			want := tool.Sign("s3cret", r.Header.Get(tool.HeaderTimestamp), body)
			if r.Header.Get(tool.HeaderSignature) != want || r.Header.Get(tool.HeaderEffect) == "" {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			_, _ = w.Write(body)
		default:
			body, _ := io.ReadAll(r.Body)
			w.Header().Set("Date", "")
			w.Header().Set("Content-Type", "text/plain")
			_, _ = fmt.Fprintf(w, "%s %s %s", r.Method, r.Header.Get("X-Mine"), body)
		}
	}))
	client := s.Client()
	t.Cleanup(func() {
		client.CloseIdleConnections()
		s.Close()
	})
	return s, client
}

// Requirements: A3, A4, Q2.
func TestBuiltin_conformance(t *testing.T) {
	s, client := server(t)
	fetch := builtin(t, tool.HTTPFetch)
	kind := tool.NewBuiltin(&kv{values: map[string]json.RawMessage{}}, client)
	misfit := agent.Tool{ID: "tool.mine", Kind: tool.KindBuiltin}
	tooltest.Run(t, tooltest.Case{
		Name: tool.KindBuiltin, Kind: kind,
		Works:  &tooltest.Call{Tool: builtin(t, tool.Echo), Input: `{"a":[1,"ü"]}`, Output: `{"a":[1,"ü"]}`},
		Fails:  &tooltest.Call{Tool: fetch, Input: `{"url":"ftp://example.org/"}`, Code: fault.InvalidRequest},
		Hangs:  &tooltest.Call{Tool: fetch, Input: fmt.Sprintf(`{"url":%q}`, s.URL+"/hang")},
		Long:   &tooltest.Call{Tool: fetch, Input: fmt.Sprintf(`{"url":%q}`, s.URL+"/long")},
		Misfit: &misfit,
	})
}

func webhook(url string) agent.Tool {
	config, _ := json.Marshal(tool.WebhookConfig{URL: url, SigningSecret: "s3cret", Headers: map[string]string{"X-Mine": "m"}})
	return agent.Tool{ID: "tool.hook", Kind: tool.KindHTTP, Config: config}
}

// Requirements: A3, A4, Q2.
func TestWebhook_conformance(t *testing.T) {
	s, client := server(t)
	misfit := webhook("http://user:pass@example.org/")
	tooltest.Run(t, tooltest.Case{
		Name: tool.KindHTTP, Kind: tool.NewWebhook(client),
		Works:  &tooltest.Call{Tool: webhook(s.URL + "/pretty"), Input: `{}`, Output: `{"a":1}`},
		Fails:  &tooltest.Call{Tool: webhook(s.URL + "/fail"), Input: `{}`, Code: fault.Unavailable},
		Hangs:  &tooltest.Call{Tool: webhook(s.URL + "/hang"), Input: `{}`},
		Long:   &tooltest.Call{Tool: webhook(s.URL + "/long"), Input: `{}`},
		Misfit: &misfit,
	})
}

func TestWebhook_Invoke(t *testing.T) {
	s, client := server(t)
	set := tool.New(tool.Options{Kinds: map[string]tool.Kind{tool.KindHTTP: tool.NewWebhook(client)}})
	signed := tooltest.Call{Tool: webhook(s.URL + "/signed"), Input: `{"x":1}`}
	output, _, err := set.Invoke(t.Context(), signed.Invocation("tnt_a", "tcall_1"))
	want := `{"tenant_id":"tnt_a","run_id":"run_a","tool_id":"tool.hook","tool_call_id":"tcall_1","input":{"x":1}}`
	if err != nil || string(output) != want {
		t.Errorf("output %s, err %v", output, err)
	}
	text := tooltest.Call{Tool: webhook(s.URL + "/text"), Input: `{}`}
	if output, _, err := set.Invoke(t.Context(), text.Invocation("tnt_a", "tcall_1")); err != nil || string(output) != `"plain"` {
		t.Errorf("output %s, err %v", output, err)
	}
	busy := tooltest.Call{Tool: webhook(s.URL + "/busy"), Input: `{}`}
	if _, _, err := set.Invoke(t.Context(), busy.Invocation("tnt_a", "tcall_1")); !fault.Is(err, fault.RateLimited) || fault.Of(err).RetryAfter != 7*time.Second {
		t.Errorf("err %v", err)
	}
	if shown := tool.Redact(signed.Tool.Config); strings.Contains(string(shown), "s3cret") || !strings.Contains(string(shown), s.URL) {
		t.Errorf("shown %s", shown)
	}
}

// Requirements: A4.
func TestBuiltin_fetch(t *testing.T) {
	s, client := server(t)
	set := tool.New(tool.Options{Kinds: map[string]tool.Kind{tool.KindBuiltin: tool.NewBuiltin(nil, client)}})
	fetch := func(input string) (map[string]any, error) {
		call := tooltest.Call{Tool: builtin(t, tool.HTTPFetch), Input: input}
		raw, _, err := set.Invoke(t.Context(), call.Invocation("tnt_a", "tcall_1"))
		if err != nil {
			return nil, err
		}
		var out map[string]any
		if err := json.Unmarshal(raw, &out); err != nil {
			t.Fatal(err)
		}
		return out, nil
	}
	out, err := fetch(fmt.Sprintf(`{"url":%q,"method":"POST","headers":{"X-Mine":"yes"},"body":"hi"}`, s.URL+"/"))
	if err != nil || out["status"] != 200.0 || out["body"] != "POST yes hi" || out["truncated"] != false {
		t.Errorf("output %v, err %v", out, err)
	}
	out, err = fetch(fmt.Sprintf(`{"url":%q}`, s.URL+"/headers"))
	if err != nil || len(out["headers"].(map[string]any)) < 10 || strings.Contains(fmt.Sprint(out), "secret=1") {
		t.Errorf("output %.200v, err %v", out, err)
	}
	out, err = fetch(fmt.Sprintf(`{"url":%q}`, s.URL+"/long"))
	if err != nil || out["truncated"] != true {
		t.Errorf("err %v", err)
	}
	for _, bad := range []string{
		`{"url":"file:///etc/passwd"}`, `{"url":"/relative"}`, `{"url":"http://u:p@example.org/"}`, `{"method":"GET"}`, `{"url":1}`,
		`{"url":"http://example.org/","method":"CONNECT"}`,
		`{"url":"http://example.org/","headers":{"Host":"internal"}}`,
		`{"url":"http://example.org/","headers":{"metadata-flavor":"Google"}}`,
		`{"url":"http://example.org/","headers":{"X":"a\r\nY: b"}}`,
	} {
		if _, err := fetch(bad); !fault.Is(err, fault.InvalidRequest) {
			t.Errorf("%s: err %v", bad, err)
		}
	}
	if _, err := fetch(`{"url":"http://127.0.0.1:1/"}`); !fault.Is(err, fault.Unavailable) {
		t.Errorf("err %v", err)
	}
	b := tool.NewBuiltin(nil, nil)
	definition := builtin(t, tool.HTTPFetch)
	if !b.Repeatable(&definition, json.RawMessage(`{"url":"x"}`)) || b.Repeatable(&definition, json.RawMessage(`{"url":"x","method":"POST"}`)) {
		t.Error("a GET may be repeated, and a POST may not")
	}
}

func TestBuiltin_kv(t *testing.T) {
	set := tool.New(tool.Options{Kinds: map[string]tool.Kind{tool.KindBuiltin: tool.NewBuiltin(&kv{values: map[string]json.RawMessage{}}, nil)}})
	invoke := func(tenantID, toolID, input string) (string, error) {
		call := tooltest.Call{Tool: builtin(t, toolID), Input: input}
		out, _, err := set.Invoke(t.Context(), call.Invocation(tenantID, "tcall_1"))
		return string(out), err
	}
	for _, step := range []struct{ tenant, toolID, input, want string }{
		{"tnt_a", tool.KVGet, `{"key":"k"}`, `{"value":null}`},
		{"tnt_a", tool.KVPut, `{"key":"k","value":{"x":[1]}}`, `{"ok":true}`},
		{"tnt_a", tool.KVGet, `{"key":"k"}`, `{"value":{"x":[1]}}`},
		{"tnt_b", tool.KVGet, `{"key":"k"}`, `{"value":null}`},
	} {
		if got, err := invoke(step.tenant, step.toolID, step.input); err != nil || got != step.want {
			t.Errorf("%v: %s, err %v", step, got, err)
		}
	}
	for _, bad := range []string{`{"key":"../x","value":1}`, `{"key":"k"}`, `{"key":"","value":1}`} {
		if _, err := invoke("tnt_a", tool.KVPut, bad); !fault.Is(err, fault.InvalidRequest) {
			t.Errorf("%s: err %v", bad, err)
		}
	}
}

// Requirements: A4.
func TestAllowed(t *testing.T) {
	tools := []agent.Tool{{ID: "tool.a"}, {ID: "tool.b"}, {ID: "tool.c"}, {ID: "tool.a"}}
	for _, c := range []struct {
		name                  string
		entitled, allow, deny []string
		want                  []string
	}{
		{"nothing said", nil, nil, nil, []string{"tool.a", "tool.b", "tool.c"}},
		{"entitled to none", []string{}, nil, nil, nil},
		{"none allowed", nil, []string{}, nil, nil},
		{"all three meet", []string{"tool.a", "tool.b"}, []string{"tool.b", "tool.c", "tool.x"}, nil, []string{"tool.b"}},
		{"denied wins", []string{"tool.a"}, []string{"tool.a"}, []string{"tool.a"}, nil},
	} {
		var got []string
		for _, tl := range tool.Allowed(tools, c.entitled, c.allow, c.deny) {
			got = append(got, tl.ID)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
	if got := tool.NameOf(&agent.Tool{ID: "tool.kv.get"}); got != "kv_get" {
		t.Errorf("name %s", got)
	}
}

// kindFunc is a kind that is one function.
type kindFunc func(ctx context.Context, in *tool.Invocation) (json.RawMessage, error)

func (f kindFunc) Invoke(ctx context.Context, in *tool.Invocation) (json.RawMessage, error) {
	return f(ctx, in)
}
func (kindFunc) Check(*agent.Tool) error                      { return nil }
func (kindFunc) Repeatable(*agent.Tool, json.RawMessage) bool { return false }

func TestSet_Invoke(t *testing.T) {
	var kind kindFunc
	set := tool.New(tool.Options{Kinds: map[string]tool.Kind{"f": kindFunc(func(ctx context.Context, in *tool.Invocation) (json.RawMessage, error) { return kind(ctx, in) })}})
	call := tooltest.Call{Tool: agent.Tool{ID: "tool.f", Kind: "f"}, Input: `{}`}
	t.Run("a panic is an internal error", func(t *testing.T) {
		kind = func(context.Context, *tool.Invocation) (json.RawMessage, error) { panic("boom") }
		if _, _, err := set.Invoke(t.Context(), call.Invocation("tnt_a", "t")); !fault.Is(err, fault.Internal) {
			t.Errorf("err %v", err)
		}
	})
	t.Run("output is one line of shallow UTF-8", func(t *testing.T) {
		for _, raw := range []string{"[\n1]", "\"\xff\"", strings.Repeat("[", 60) + strings.Repeat("]", 60), `"` + strings.Repeat("x", 2*tool.MaxOutput) + `"`} {
			kind = func(context.Context, *tool.Invocation) (json.RawMessage, error) { return json.RawMessage(raw), nil }
			out, truncated, err := set.Invoke(t.Context(), call.Invocation("tnt_a", "t"))
			if err != nil || strings.Contains(string(out), "\n") || !utf8.Valid(out) || !json.Valid(out) || len(out) > tool.MaxOutput || strings.HasPrefix(string(out), "[[[") {
				t.Errorf("output %.80s, err %v", out, err)
			}
			if truncated != (len(raw) > tool.MaxOutput) {
				t.Errorf("truncated %v for %d bytes", truncated, len(raw))
			}
		}
	})
	t.Run("what is not JSON is refused", func(t *testing.T) {
		kind = func(context.Context, *tool.Invocation) (json.RawMessage, error) { return json.RawMessage("nope"), nil }
		if _, _, err := set.Invoke(t.Context(), call.Invocation("tnt_a", "t")); !fault.Is(err, fault.Internal) {
			t.Errorf("err %v", err)
		}
	})
	t.Run("an unknown kind", func(t *testing.T) {
		other := tooltest.Call{Tool: agent.Tool{ID: "tool.f", Kind: "mcp"}, Input: `{}`}
		if _, _, err := set.Invoke(t.Context(), other.Invocation("tnt_a", "t")); !fault.Is(err, fault.UnsupportedCapability) {
			t.Errorf("err %v", err)
		}
	})
}

// TestSet_Invoke_schema: inputs are checked against whatever a tenant wrote as a schema, at bounded cost.
func TestSet_Invoke_schema(t *testing.T) {
	set := tool.New(tool.Options{Kinds: map[string]tool.Kind{"f": kindFunc(func(context.Context, *tool.Invocation) (json.RawMessage, error) {
		return json.RawMessage("1"), nil
	})}})
	invoke := func(schema, input string) error {
		call := tooltest.Call{Tool: agent.Tool{ID: "tool.f", Kind: "f", InputSchema: json.RawMessage(schema)}, Input: input}
		_, _, err := set.Invoke(t.Context(), call.Invocation("tnt_a", "t"))
		return err
	}
	doubling := `{"$defs":{"d0":{"type":"object"}`
	for i := range 60 {
		doubling += fmt.Sprintf(`,"d%d":{"allOf":[{"$ref":"#/$defs/d%d"},{"$ref":"#/$defs/d%d"}]}`, i+1, i, i)
	}
	doubling += `},"$ref":"#/$defs/d60"}`
	deepening := `{"patternProperties":{"a":{"$ref":"#"},"^a":{"$ref":"#"}},"additionalProperties":false}`
	deep := strings.Repeat(`{"a":`, 50) + "{}" + strings.Repeat("}", 50)
	for _, c := range []struct {
		name, schema, input string
		ok                  bool
	}{
		{"fits", `{"type":"object","properties":{"n":{"type":"integer","minimum":3}},"required":["n"]}`, `{"n":3}`, true},
		{"does not fit", `{"type":"object","properties":{"n":{"type":"integer","minimum":3}},"required":["n"]}`, `{"n":2}`, false},
		{"recursion that ends", `{"type":"object","properties":{"child":{"$ref":"#"}}}`, `{"child":{"child":{}}}`, true},
		{"recursion without end", `{"$ref":"#"}`, `{}`, false},
		{"work that doubles", doubling, `{}`, false},
		{"work that doubles with depth", deepening, deep, false},
		{"a huge exponent", `{"multipleOf":3}`, `1e999999999`, false},
		{"a huge exponent in the schema", `{"multipleOf":1e-999999999}`, `1`, false},
		{"a file", `{"$ref":"file:///etc/passwd"}`, `{}`, false},
		{"an address", `{"$ref":"http://127.0.0.1:1/schema.json"}`, `{}`, false},
		{"no schema", `{"type":12}`, `{}`, false},
		{"too deep", `{"type":"object"}`, strings.Repeat(`{"a":`, 100) + "{}" + strings.Repeat("}", 100), false},
		{"many unique items", `{"type":"array","uniqueItems":true}`, "[" + strings.Trim(strings.Join(strings.Fields(fmt.Sprint(make([]int, 1000))), ","), "[]") + "]", false},
	} {
		began := time.Now()
		err := invoke(c.schema, c.input)
		if c.ok != (err == nil) || err != nil && !fault.Is(err, fault.InvalidRequest) {
			t.Errorf("%s: err %v", c.name, err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%s: took %v", c.name, took)
		}
	}
}

func TestSet_Check(t *testing.T) {
	set := tool.New(tool.Options{Kinds: map[string]tool.Kind{tool.KindHTTP: tool.NewWebhook(nil)}})
	good := webhook("https://example.org/hook")
	if err := set.Check(&good); err != nil {
		t.Error(err)
	}
	for _, bad := range []agent.Tool{
		{ID: "tool.x", Kind: "magic"},
		{ID: "tool.x", Kind: tool.KindHTTP},
		{ID: "tool.x", Kind: tool.KindHTTP, Config: json.RawMessage(`{"url":"gopher://x/"}`)},
		{ID: "tool.x", Kind: tool.KindHTTP, Config: good.Config, InputSchema: json.RawMessage(`{"type":"nothing"}`)},
	} {
		if err := set.Check(&bad); !fault.Is(err, fault.InvalidRequest) || fault.Of(err).Details["field"] == nil {
			t.Errorf("%+v: err %v", bad, err)
		}
	}
}

// TestCutText: what CutText promises about length is what event.AppendString writes.
func TestCutText(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := string(rapid.SliceOf(rapid.SampledFrom([]byte("a\"\\\n\x00\x1f\xff\xc3\xa9\xe2\x82\xac"))).Draw(rt, "s"))
		limit := rapid.IntRange(2, 60).Draw(rt, "limit")
		if n := len(event.AppendString(nil, s)); n != tool.EncodedLen(s) {
			rt.Errorf("%q takes %d bytes, EncodedLen says %d", s, n, tool.EncodedLen(s))
		}
		head, cut := tool.CutText(s, limit)
		if n := len(event.AppendString(nil, head)); n > limit {
			rt.Errorf("%q takes %d of %d bytes", head, n, limit)
		}
		if cut != (head != s) || !cut && tool.EncodedLen(s) > limit {
			rt.Errorf("cut %v, head %q of %q", cut, head, s)
		}
	})
}
