package openai_test

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nexixai/agentos/api"
	"github.com/nexixai/agentos/api/openai"
	"github.com/nexixai/agentos/model"
)

var about = api.OpenAIAnswer{ID: "chatcmpl-1", Created: time.Unix(1700000000, 0), CorrelationID: "corr_1", TenantID: "tnt_a"}

var result = &model.ChatResult{
	Message: model.Message{Role: "assistant", Content: "hi <b> & é"}, FinishReason: "stop", LatencyMS: 12,
	Usage:         model.Usage{InputTokens: 2, OutputTokens: 3, TotalTokens: 5},
	PolicyOutcome: model.PolicyOutcome{Decision: "allowed", Reasons: []string{}, Redactions: []model.Redaction{}},
	Route:         model.RouteTaken{Backend: "builtin", Model: "echo-1", Node: "stk_a"},
}

const extra = `"policy_outcome":{"decision":"allowed","reasons":[],"redactions":[]},"route":{"backend":"builtin","model":"echo-1","node":"stk_a","fallback_used":false},"latency_ms":12,"correlation_id":"corr_1","tenant_id":"tnt_a"`

func MustChat(tb testing.TB, fields string) api.OpenAIChat {
	tb.Helper()
	c, err := openai.Dialect{}.Chat([]byte(`{"model":"tier:fast","messages":[{"role":"user","content":"x"}]` + fields + `}`))
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

func TestChat_Whole(t *testing.T) {
	t.Parallel()
	got := string(MustChat(t, "").Whole(result, about))
	want := `{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"builtin/echo-1","choices":[{"index":0,"message":{"role":"assistant","content":"hi <b> & é","refusal":null},` +
		`"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":2,"completion_tokens":3,"total_tokens":5},` + extra + `}`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	calls := *result
	calls.Message = model.Message{Role: "assistant", ToolCalls: []model.ToolCall{{ID: "tcall_1", ToolID: "tool.echo", Name: "echo", Arguments: json.RawMessage(`{"a":1}`)}}}
	calls.FinishReason = "tool_calls"
	if got := string(MustChat(t, "").Whole(&calls, about)); !strings.Contains(got,
		`"message":{"role":"assistant","content":null,"refusal":null,"tool_calls":[{"id":"tcall_1","type":"function","function":{"name":"echo","arguments":"{\"a\":1}"}}]},"logprobs":null,"finish_reason":"tool_calls"`) {
		t.Errorf("tool calls: %s", got)
	}
}

func TestChat_Stream(t *testing.T) {
	t.Parallel()
	const head = `data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"tier:fast",`
	for _, c := range []struct{ fields, usage, end string }{
		{"", "", head + `"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],` + extra + "}\n\n"},
		{
			`,"stream_options":{"include_usage":true}`, `,"usage":null`,
			head + `"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}` + "\n\n" +
				head + `"choices":[],` + extra + `,"usage":{"prompt_tokens":2,"completion_tokens":3,"total_tokens":5}}` + "\n\n",
		},
	} {
		chat := MustChat(t, `,"stream":true`+c.fields)
		var b strings.Builder
		b.Write(chat.First(about))
		b.Write(chat.Delta(model.Delta{Text: "hi\n"}))
		b.Write(chat.Delta(model.Delta{}))
		b.Write(chat.Delta(model.Delta{ToolCall: &model.ToolCallDelta{Index: 0, ID: "1", Name: "f"}}))
		b.Write(chat.Delta(model.Delta{ToolCall: &model.ToolCallDelta{Index: 0, Arguments: `{"a":1}`}}))
		b.Write(chat.Last(result, about))
		want := head + `"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]` + c.usage + "}\n\n" +
			head + `"choices":[{"index":0,"delta":{"content":"hi\n"},"finish_reason":null}]` + c.usage + "}\n\n" +
			head + `"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"1","type":"function","function":{"name":"f","arguments":""}}]},"finish_reason":null}]` + c.usage + "}\n\n" +
			head + `"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"a\":1}"}}]},"finish_reason":null}]` + c.usage + "}\n\n" +
			c.end + "data: [DONE]\n\n"
		if diff := cmp.Diff(want, b.String()); diff != "" {
			t.Error(diff)
		}
	}
}

func TestEmbed_Whole(t *testing.T) {
	t.Parallel()
	r := &model.EmbedResult{
		Vectors: [][]float32{{1, -0.5}}, Usage: model.Usage{InputTokens: 4, TotalTokens: 4}, LatencyMS: 12,
		Route: model.RouteTaken{Backend: "builtin", Model: "hash-embed-1", Node: "stk_a"}, PolicyOutcome: result.PolicyOutcome,
	}
	packed := base64.StdEncoding.EncodeToString([]byte{0, 0, 0x80, 0x3f, 0, 0, 0, 0xbf})
	for format, vector := range map[string]string{"float": "[1,-0.5]", "base64": `"` + packed + `"`} {
		e, err := openai.Dialect{}.Embeddings([]byte(`{"model":"m","input":"x","encoding_format":"` + format + `"}`))
		if err != nil {
			t.Fatal(err)
		}
		want := `{"object":"list","data":[{"object":"embedding","index":0,"embedding":` + vector + `}],"model":"builtin/hash-embed-1","usage":{"prompt_tokens":4,"total_tokens":4},` +
			strings.ReplaceAll(extra, "echo-1", "hash-embed-1") + `}`
		if diff := cmp.Diff(want, string(e.Whole(r, about))); diff != "" {
			t.Error(diff)
		}
	}
}
