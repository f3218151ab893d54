package onenode_test

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/nexixai/agentos/tests/harness"
)

func chatBody(text string, extra map[string]any) map[string]any {
	b := map[string]any{"model": "builtin/echo-1", "messages": []any{map[string]any{"role": "user", "content": text}}}
	for k, v := range extra {
		b[k] = v
	}
	return b
}

// Requirements: B1.
func TestChat_Whole(t *testing.T) {
	t.Parallel()
	tn := suite.Tenant(t, nil)
	for _, prefix := range []string{"", "/stack-b"} {
		for _, model := range []string{"builtin/echo-1", "tier:fast", "echo-1"} {
			a := tn.Want(t, 200, "POST", prefix+"/v1/chat/completions", chatBody("good morning", map[string]any{"model": model}))
			for path, want := range map[string]string{
				"object": "chat.completion", "choices.0.message.role": "assistant", "choices.0.message.content": "echo: good morning",
				"choices.0.finish_reason": "stop", "route.backend": "builtin", "route.model": "echo-1", "policy_outcome.decision": "allowed",
			} {
				if got := a.Str(path); got != want {
					t.Errorf("%s %s: %s = %q, want %q", prefix, model, path, got, want)
				}
			}
			if in, out, total := a.Int("usage.prompt_tokens"), a.Int("usage.completion_tokens"), a.Int("usage.total_tokens"); in != 2 || out != 3 || total != 5 {
				t.Errorf("usage %d + %d = %d, want 2 + 3 = 5", in, out, total)
			}
			if a.Header.Get("X-AgentOS-Route") == "" || a.Header.Get("X-AgentOS-Policy") == "" || a.Int("latency_ms") < 0 || a.Int("created") <= 0 || a.Str("id") == "" {
				t.Errorf("%s: headers %v, body %s", model, a.Header, a.Body)
			}
		}
	}
	a := tn.Do(t, "POST", "/v1/chat/completions", chatBody("x", map[string]any{"model": "nobody/none"}))
	refused(t, a, 404, "not_found")
	if a.Str("error.param") != "model" || a.Str("error.type") == "" {
		t.Errorf("unknown model: %s", a.Body)
	}
	for text, c := range map[string]struct {
		status int
		code   string
	}{"/error rate_limited": {429, "rate_limited"}, "/error policy_blocked": {403, "policy_blocked"}, "/cut 3": {503, "dependency_unavailable"}} {
		refused(t, tn.Do(t, "POST", "/v1/chat/completions", chatBody(text, nil)), c.status, c.code)
	}
}

// sseData reads a stream of bare data lines to its end.
func sseData(t *testing.T, tn *harness.Tenant, body map[string]any) (data []string, end harness.End) {
	t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	s, err := tn.TryStream("POST", "/v1/chat/completions", string(text))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if s.Status != 200 || !strings.HasPrefix(s.Header.Get("Content-Type"), "text/event-stream") {
		t.Fatalf("status %d, %s: %s", s.Status, s.Header.Get("Content-Type"), s.Body)
	}
	frames, err := s.Rest(soon)
	if err != nil {
		t.Error(err)
	}
	for _, f := range frames {
		data = append(data, f.Data)
	}
	return data, s.End()
}

// Requirements: B1.
func TestChat_Streamed(t *testing.T) {
	t.Parallel()
	tn := suite.Tenant(t, nil)
	data, end := sseData(t, tn, chatBody("/tokens 7", map[string]any{"stream": true, "stream_options": map[string]any{"include_usage": true}}))
	if end != harness.Whole || len(data) < 4 || data[len(data)-1] != "[DONE]" {
		t.Fatalf("%s: %q", end, data)
	}
	var text, finish string
	pieces := 0
	for _, d := range data[:len(data)-1] {
		v := harness.Decode([]byte(d))
		if harness.At(v, "object") != "chat.completion.chunk" {
			t.Errorf("chunk %s", d)
		}
		if piece, _ := harness.At(v, "choices.0.delta.content").(string); piece != "" {
			text, pieces = text+piece, pieces+1
		}
		if f, _ := harness.At(v, "choices.0.finish_reason").(string); f != "" {
			finish = f
		}
	}
	if strings.TrimSpace(text) != "w1 w2 w3 w4 w5 w6 w7" || pieces < 2 || finish != "stop" {
		t.Errorf("text %q in %d pieces, finish %q", text, pieces, finish)
	}
	last := harness.Decode([]byte(data[len(data)-2]))
	if choices, ok := harness.At(last, "choices").([]any); !ok || len(choices) != 0 || harness.At(last, "usage.completion_tokens") != json.Number("7") {
		t.Errorf("usage chunk %s", data[len(data)-2])
	}
	if harness.At(last, "route.backend") != "builtin" || !harness.Has(last, "policy_outcome.decision") {
		t.Errorf("the usage chunk carries no route or policy: %s", data[len(data)-2])
	}
	// A backend that breaks off in the middle is an error in the stream, and no [DONE].
	data, _ = sseData(t, tn, chatBody("/cut 3", map[string]any{"stream": true}))
	if n := len(data); n == 0 || slices.Contains(data, "[DONE]") || harness.At(harness.Decode([]byte(data[n-1])), "error.code") != "dependency_unavailable" {
		t.Errorf("a cut stream: %q", data)
	}
}

// Tool calls in the OpenAI dialect, whole and streamed.
//
// Requirements: B1.
func TestChat_ToolCall(t *testing.T) {
	t.Parallel()
	tn := suite.Tenant(t, nil)
	tools := []any{map[string]any{"type": "function", "function": map[string]any{"name": "echo", "description": "d", "parameters": map[string]any{"type": "object"}}}}
	a := tn.Want(t, 200, "POST", "/v1/chat/completions", chatBody("/call tool.echo {\"a\":1}", map[string]any{"tools": tools}))
	if a.Str("choices.0.finish_reason") != "tool_calls" || a.Str("choices.0.message.tool_calls.0.function.name") != "echo" ||
		a.Str("choices.0.message.tool_calls.0.type") != "function" || a.Str("choices.0.message.tool_calls.0.id") == "" ||
		a.Str("choices.0.message.tool_calls.0.function.arguments") != `{"a":1}` {
		t.Errorf("tool call: %s", a.Body)
	}
	data, _ := sseData(t, tn, chatBody("/call tool.echo {\"a\":1}", map[string]any{"tools": tools, "stream": true}))
	name, args, finish := "", "", ""
	for _, d := range data {
		v := harness.Decode([]byte(d))
		if s, _ := harness.At(v, "choices.0.delta.tool_calls.0.function.name").(string); s != "" {
			name = s
		}
		if s, _ := harness.At(v, "choices.0.delta.tool_calls.0.function.arguments").(string); s != "" {
			args += s
		}
		if s, _ := harness.At(v, "choices.0.finish_reason").(string); s != "" {
			finish = s
		}
	}
	if name != "echo" || args != `{"a":1}` || finish != "tool_calls" {
		t.Errorf("streamed tool call %q %q %q: %q", name, args, finish, data)
	}
}

// Requirements: B1.
func TestEmbeddings(t *testing.T) {
	t.Parallel()
	tn := suite.Tenant(t, nil)
	embed := func(format string) harness.Answer {
		return tn.Want(t, 200, "POST", "/v1/embeddings", map[string]any{
			"model": "builtin/hash-embed-1", "encoding_format": format,
			"input": []string{"the cat sat on the mat", "a cat sat on a mat", "quarterly revenue grew by nine percent"},
		})
	}
	a := embed("float")
	var vectors [3][]float64
	for i := range vectors {
		list, _ := a.At("data." + string(rune('0'+i)) + ".embedding").([]any)
		norm := 0.0
		for _, x := range list {
			n, _ := x.(json.Number)
			f, err := n.Float64()
			if err != nil {
				t.Fatal(err)
			}
			vectors[i], norm = append(vectors[i], f), norm+f*f
		}
		if len(list) != 256 || math.Abs(norm-1) > 1e-4 {
			t.Errorf("vector %d: %d dimensions, squared length %v", i, len(list), norm)
		}
	}
	dot := func(a, b []float64) (d float64) {
		for i := range a {
			d += a[i] * b[i]
		}
		return d
	}
	if near, far := dot(vectors[0], vectors[1]), dot(vectors[0], vectors[2]); near <= far {
		t.Errorf("similar texts are at %v, unrelated ones at %v", near, far)
	}
	raw, err := base64.StdEncoding.DecodeString(embed("base64").Str("data.0.embedding"))
	if err != nil || len(raw) != 4*256 {
		t.Fatalf("base64: %d bytes, %v", len(raw), err)
	}
	for i, want := range vectors[0] {
		if got := float64(math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))); math.Abs(got-want) > 1e-6 {
			t.Fatalf("dimension %d: %v in base64, %v as float", i, got, want)
		}
	}
	if a.Str("object") != "list" || a.Int("usage.prompt_tokens") <= 0 || a.Str("data.2.object") != "embedding" {
		t.Errorf("answer %s", a.Body[:200])
	}
	refused(t, tn.Do(t, "POST", "/v1/embeddings", map[string]any{"model": "builtin/hash-embed-1"}), 400, "invalid_request")
	refused(t, tn.Do(t, "POST", "/v1/embeddings", map[string]any{"model": "builtin/none", "input": "x"}), 404, "not_found")
}

// Requirements: B1.
func TestModels(t *testing.T) {
	t.Parallel()
	tn := suite.Tenant(t, nil)
	a := tn.Want(t, 200, "GET", "/v1/models", nil)
	if a.Str("object") != "list" {
		t.Errorf("models: %s", a.Body)
	}
	for _, list := range []struct{ list, id string }{{"models", "model_id"}, {"data", "id"}} {
		found := map[string]bool{}
		items, _ := a.At(list.list).([]any)
		for _, m := range items {
			id, _ := harness.At(m, list.id).(string)
			found[id] = true
		}
		if !found["builtin/echo-1"] || !found["builtin/hash-embed-1"] {
			t.Errorf("%s: %v", list.list, found)
		}
	}
	one := tn.Want(t, 200, "GET", "/v1/models/builtin/echo-1", nil)
	if !strings.Contains(string(one.Body), "agentos-builtin") {
		t.Errorf("the builtin model does not say what it is: %s", one.Body)
	}
	tn.Want(t, 200, "GET", "/v1/models/builtin%2Fecho-1", nil)
	refused(t, tn.Do(t, "GET", "/v1/models/builtin/none", nil), 404, "not_found")
	// A tenant that is not entitled neither sees nor calls.
	tn.Root.Want(t, 200, "PATCH", "/v1/admin/tenants/"+tn.ID, map[string]any{"tenant_update": map[string]any{"entitlements": map[string]any{"model_backends_allowed": []string{}}}})
	if items, _ := tn.Want(t, 200, "GET", "/v1/models", nil).At("models").([]any); len(items) != 0 {
		t.Errorf("an entitlement of none lists %d models", len(items))
	}
	refused(t, tn.Do(t, "POST", "/v1/chat/completions", chatBody("x", nil)), 404, "not_found")
}
