package openai_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nexixai/agentos/api/openai"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/model"
)

func ptr[T any](v T) *T { return &v }

func TestDecodeChat(t *testing.T) {
	t.Parallel()
	got, err := openai.DecodeChat([]byte(`{"model":"tier:fast","messages":[
		{"role":"developer","content":"be kind"},
		{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}],"name":"bob"},
		{"role":"assistant","content":null,"refusal":null,"annotations":[],"audio":null,"function_call":null,"tool_calls":[{"index":0,"id":"1","type":"function","function":{"name":"f","arguments":"{\"x\":1}"}},
			{"id":"2","type":"function","function":{"name":"gone","arguments":""}}]},
		{"role":"tool","content":"out","tool_call_id":"1"}],
		"tools":[{"type":"function","function":{"name":"f","description":"d","parameters":{"type":"object"},"strict":true}}],"tool_choice":{"type":"function","function":{"name":"f"}},
		"parallel_tool_calls":false,"response_format":{"type":"json_object"},"max_completion_tokens":9,"max_tokens":9,"temperature":0,"top_p":1,"n":1,"stop":["x","y"],"seed":-4,
		"stream":true,"stream_options":{"include_usage":true},"user":"u","logprobs":false,"logit_bias":{},"presence_penalty":0,"metadata":null,"modalities":["text"],"store":false,
		"service_tier":"auto","request_id":"req_1"}`))
	if err != nil {
		t.Fatal(err)
	}
	want := &model.ChatRequest{
		RequestID: "req_1", ModelRef: "tier:fast",
		Messages: []model.Message{
			{Role: "system", Content: "be kind"},
			{Role: "user", Content: "ab", Name: "bob"},
			{Role: "assistant", ToolCalls: []model.ToolCall{
				{ID: "1", ToolID: "f", Name: "f", Arguments: json.RawMessage(`{"x":1}`)}, {ID: "2", Name: "gone", Arguments: json.RawMessage(`{}`)},
			}},
			{Role: "tool", Content: "out", ToolCallID: "1"},
		},
		Tools:      []model.Tool{{ID: "f", Name: "f", Description: "d", InputSchema: json.RawMessage(`{"type":"object"}`), Strict: true}},
		ToolChoice: "f", ParallelToolCalls: ptr(false), ResponseFormat: json.RawMessage(`{"type":"json_object"}`),
		MaxOutputTokens: ptr(int64(9)), Temperature: ptr(0.0), TopP: ptr(1.0), Stop: []string{"x", "y"}, Seed: ptr(int64(-4)),
	}
	if diff := cmp.Diff(want, got.Request()); diff != "" {
		t.Error(diff)
	}
	if !got.Streams() {
		t.Error("the stream is forgotten")
	}
}

// Each field that isn't honoured is refused by its name: one dropped in silence would be believed to have had effect.
// Fields that the dialect doesn't have are ignored, at every depth, and a name that differs by case is one of them.
func TestDecodeChat_IgnoresUnknown(t *testing.T) {
	t.Parallel()
	got, err := openai.DecodeChat([]byte(`{"model":"m","MODEL":"x","Temperature":9,"novel":{"a":[1]},"stream":true,"stream_options":{"novel":1},
		"messages":[{"role":"user","novel":1,"content":[{"type":"text","text":"a","cache_control":{"type":"ephemeral"}}]},
			{"role":"assistant","novel":1,"content":"b","tool_calls":[{"id":"1","novel":1,"type":"function","function":{"name":"f","arguments":"{}","novel":1}}]}],
		"tools":[{"type":"function","novel":1,"function":{"name":"f","novel":1}}],"tool_choice":{"type":"function","novel":1,"function":{"name":"f","novel":1}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if r := got.Request(); r.ModelRef != "m" || r.Temperature != nil || r.Messages[0].Content != "a" || r.ToolChoice != "f" {
		t.Errorf("decoded %+v", r)
	}
	if e, err := openai.DecodeEmbed([]byte(`{"model":"m","input":"x","truncate":true,"INPUT":7}`)); err != nil || e.Request().Texts[0] != "x" {
		t.Errorf("embeddings: %v", err)
	}
}

func TestDecodeChat_Refuses(t *testing.T) {
	t.Parallel()
	const base = `"model":"m","messages":[{"role":"user","content":"x"}]`
	for body, field := range map[string]string{
		`[]`: "body", `null`: "body", `{`: "body", ``: "body",
		`{"messages":[{"role":"user","content":"x"}]}`:            "model",
		`{"model":"","messages":[{"role":"user","content":"x"}]}`: "model",
		`{"model":7,"messages":[{"role":"user","content":"x"}]}`:  "model",
		`{"model":"m"}`:                                                                                                     "messages",
		`{"model":"m","messages":[]}`:                                                                                       "messages",
		`{"model":"m","messages":null}`:                                                                                     "messages",
		`{"model":"m","messages":"x"}`:                                                                                      "messages",
		`{"model":"m","messages":["x"]}`:                                                                                    "messages[0]",
		`{"model":"m","messages":[null]}`:                                                                                   "messages[0]",
		`{"model":"m","messages":[{"role":"king","content":"x"}]}`:                                                          "messages[0].role",
		`{"model":"m","messages":[{"role":"function","content":"x","name":"f"}]}`:                                           "messages[0].role",
		`{"model":"m","messages":[{"content":"x"}]}`:                                                                        "messages[0].role",
		`{"model":"m","messages":[{"role":"user"}]}`:                                                                        "messages[0].content",
		`{"model":"m","messages":[{"role":"user","content":5}]}`:                                                            "messages[0].content",
		`{"model":"m","messages":[{"role":"user","content":[{"type":"image_url"}]}]}`:                                       "messages[0].content[0].type",
		`{"model":"m","messages":[{"role":"user","content":[{"type":"text","t":"x"}]}]}`:                                    "messages[0].content[0].text",
		`{"model":"m","messages":[{"role":"user","content":"x","tool_calls":[]}]}`:                                          "messages[0].tool_calls",
		`{"model":"m","messages":[{"role":"tool","content":"x"}]}`:                                                          "messages[0].tool_call_id",
		`{"model":"m","messages":[{"role":"assistant","function_call":{"name":"f"}}]}`:                                      "messages[0].function_call",
		`{"model":"m","messages":[{"role":"assistant","tool_calls":[{"id":"1"}]}]}`:                                         "messages[0].tool_calls[0]",
		`{"model":"m","messages":[{"role":"assistant","tool_calls":[{"id":"1","type":"custom"}]}]}`:                         "messages[0].tool_calls[0].type",
		`{"model":"m","messages":[{"role":"assistant","tool_calls":[{"id":"1","function":{"name":"f","arguments":"{"}}]}]}`: "messages[0].tool_calls[0].function.arguments",
		`{` + base + `,"n":2}`:                                                                                              "n",
		`{` + base + `,"n":"1"}`:                                                                                            "n",
		`{` + base + `,"logprobs":true}`:                                                                                    "logprobs",
		`{` + base + `,"top_logprobs":3}`:                                                                                   "top_logprobs",
		`{` + base + `,"logit_bias":{"50256":-100}}`:                                                                        "logit_bias",
		`{` + base + `,"presence_penalty":0.5}`:                                                                             "presence_penalty",
		`{` + base + `,"frequency_penalty":-1}`:                                                                             "frequency_penalty",
		`{` + base + `,"reasoning_effort":"low"}`:                                                                           "reasoning_effort",
		`{` + base + `,"functions":[]}`:                                                                                     "functions",
		`{` + base + `,"top_k":5}`:                                                                                          "top_k",
		`{` + base + `,"model":"x"}`:                                                                                        "model",
		`{` + base + `,"max_tokens":0}`:                                                                                     "max_tokens",
		`{` + base + `,"max_tokens":-1}`:                                                                                    "max_tokens",
		`{` + base + `,"max_tokens":1.5}`:                                                                                   "max_tokens",
		`{` + base + `,"max_tokens":1e400}`:                                                                                 "max_tokens",
		`{` + base + `,"max_tokens":1,"max_completion_tokens":2}`:                                                           "max_tokens",
		`{` + base + `,"temperature":2.1}`:                                                                                  "temperature",
		`{` + base + `,"temperature":-0.1}`:                                                                                 "temperature",
		`{` + base + `,"temperature":NaN}`:                                                                                  "temperature",
		`{` + base + `,"top_p":2}`:                                                                                          "top_p",
		`{` + base + `,"seed":0.5}`:                                                                                         "seed",
		`{` + base + `,"stop":[""]}`:                                                                                        "stop",
		`{` + base + `,"stop":["a","b","c","d","e"]}`:                                                                       "stop",
		`{` + base + `,"stop":7}`:                                                                                           "stop",
		`{` + base + `,"stream":"yes"}`:                                                                                     "stream",
		`{` + base + `,"stream_options":{"include_usage":true}}`:                                                            "stream_options",
		`{` + base + `,"response_format":{"type":"xml"}}`:                                                                   "response_format.type",
		`{` + base + `,"response_format":"json"}`:                                                                           "response_format",
		`{` + base + `,"tools":[{"type":"web_search"}]}`:                                                                    "tools[0].type",
		`{` + base + `,"tools":[{"type":"function"}]}`:                                                                      "tools[0].function",
		`{` + base + `,"tools":[{"type":"function","function":{"name":"a b"}}]}`:                                            "tools[0].function.name",
		`{` + base + `,"tools":[{"type":"function","function":{"name":"a","parameters":[]}}]}`:                              "tools[0].function.parameters",
		`{` + base + `,"tools":[{"type":"function","function":{"name":"a"}},{"type":"function","function":{"name":"a"}}]}`: "tools[1].function.name",
		`{` + base + `,"tool_choice":"required"}`:                                  "tool_choice",
		`{` + base + `,"tool_choice":"some"}`:                                      "tool_choice",
		`{` + base + `,"tool_choice":{"type":"function","function":{"name":"f"}}}`: "tool_choice.function.name",
		`{` + base + `,"tool_choice":{"type":"allowed_tools"}}`:                    "tool_choice.type",
	} {
		_, err := openai.DecodeChat([]byte(body))
		if e := fault.Of(err); e == nil || e.Code != fault.InvalidRequest || e.Details["field"] != field {
			t.Errorf("%s\n gave %v; want the field %q", body, err, field)
		}
	}
}

func TestDecodeEmbed(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]model.EmbedRequest{
		`{"model":"m","input":"x"}`: {ModelRef: "m", Texts: []string{"x"}},
		`{"model":"m","input":["x","y"],"encoding_format":"base64","user":"u"}`:      {ModelRef: "m", Texts: []string{"x", "y"}},
		`{"model":"m","input":"","dimensions":64,"request_id":"r","dimension":null}`: {ModelRef: "m", Texts: []string{""}, Dimensions: 64, RequestID: "r"},
	} {
		got, err := openai.DecodeEmbed([]byte(body))
		if err != nil {
			t.Errorf("%s: %v", body, err)
			continue
		}
		if diff := cmp.Diff(want, *got.Request()); diff != "" {
			t.Errorf("%s: %s", body, diff)
		}
	}
	for body, field := range map[string]string{
		`{"input":"x"}`: "model", `{"model":"m"}`: "input", `{"model":"m","input":[]}`: "input", `{"model":"m","input":[1,2]}`: "input", `{"model":"m","input":[[1]]}`: "input",
		`{"model":"m","input":7}`: "input", `{"model":"m","input":{"a":1}}`: "input", `{"model":"m","input":"x","encoding_format":"hex"}`: "encoding_format",
		`{"model":"m","input":"x","dimensions":0}`:                                       "dimensions",
		`{"model":"m","input":[` + strings.Repeat(`"x",`, model.MaxEmbedTexts) + `"x"]}`: "input",
	} {
		if _, err := openai.DecodeEmbed([]byte(body)); !fault.Is(err, fault.InvalidRequest) || fault.Of(err).Details["field"] != field {
			t.Errorf("%.80s: %v", body, err)
		}
	}
}

// Whatever comes is understood or refused as the sender's fault, and what is understood can be sent on.
func FuzzDecodeChat(f *testing.F) {
	for _, s := range []string{
		`{"model":"m","messages":[{"role":"user","content":"x"}]}`, `{"model":"m","messages":[{"role":"assistant","tool_calls":[{"id":"1","function":{"name":"f","arguments":"{}"}}]}]}`,
		`{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"a"}]}],"tools":[{"type":"function","function":{"name":"f"}}],"stop":"x"}`, `{"a":[[[`, "{\"\\u0000\":1}",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		c, err := openai.DecodeChat(body)
		if err != nil {
			if !fault.Is(err, fault.InvalidRequest) || fault.Of(err).Details["field"] == "" {
				t.Fatalf("%q: %v", body, err)
			}
			return
		}
		if _, err := json.Marshal(c.Request()); err != nil {
			t.Fatalf("%q: %v", body, err)
		}
	})
}
