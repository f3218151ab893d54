package builtin_test

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/model"
	"github.com/nexixai/agentos/model/modeltest"
	"github.com/nexixai/agentos/model/provider/builtin"
)

// Requirements: A3, B2, Q2.
func TestProvider_Conformance(t *testing.T) {
	modeltest.Conformance(t, func(*testing.T) modeltest.Subject {
		return modeltest.Subject{Provider: builtin.New(), ChatModel: builtin.Echo, EmbedModel: builtin.Embed}
	})
}

func user(text string) model.Message      { return model.Message{Role: "user", Content: text} }
func assistant(text string) model.Message { return model.Message{Role: "assistant", Content: text} }
func tool(text string) model.Message      { return model.Message{Role: "tool", Content: text} }

// What echo-1 answers to which conversation; a run's scenario rests on each line.
func TestProvider_Turns(t *testing.T) {
	t.Parallel()
	offered := []model.Tool{{ID: "tool.kv.put", Name: "kv_put"}, {ID: "get_weather", Name: "get_weather"}}
	for name, c := range map[string]struct {
		messages []model.Message
		want     string // text, or "call ID NAME ARGS", or "fail CODE"
	}{
		"plain":                    {[]model.Message{user("hi")}, "echo: hi"},
		"last user":                {[]model.Message{user("/say a"), assistant("a"), user("b")}, "echo: b"},
		"nobody":                   {[]model.Message{{Role: "system", Content: "s"}}, "echo: "},
		"unknown word is text":     {[]model.Message{user("/etc/passwd\n/usr x")}, "echo: /etc/passwd\n/usr x"},
		"in the middle is text":    {[]model.Message{user("see /say x")}, "echo: see /say x"},
		"among text":               {[]model.Message{user("please\n/say yes\nthanks")}, "yes"},
		"CRLF":                     {[]model.Message{user("/say one\r\n/say two")}, "one"},
		"later lines unused":       {[]model.Message{user("/say a\n/say b")}, "a"},
		"second turn":              {[]model.Message{user("/call tool.kv.put {}\n/say b"), assistant(""), tool("1")}, "b"},
		"by id":                    {[]model.Message{user(`/call tool.kv.put {"k":1}`)}, `call tool.kv.put kv_put {"k":1}`},
		"by name":                  {[]model.Message{user(`/call kv_put`)}, `call tool.kv.put kv_put {}`},
		"by the client's own name": {[]model.Message{user(`/call get_weather {"c":"x"}`)}, `call get_weather get_weather {"c":"x"}`},
		"derived name":             {[]model.Message{user(`/call tool.get_weather {}`)}, `call get_weather get_weather {}`},
		"not offered":              {[]model.Message{user(`/call tool.http.fetch {}`)}, `call  tool.http.fetch {}`},
		"other case":               {[]model.Message{user(`/call TOOL.KV.PUT {}`)}, `call  TOOL.KV.PUT {}`},
		"last output":              {[]model.Message{user("/call tool.kv.put {}"), assistant(""), tool(`{"a":1}`)}, `{"a":1}`},
		"last of two outputs":      {[]model.Message{user("/call x {}\n/call x {}"), assistant(""), tool(`1`), assistant(""), tool(`2`)}, `2`},
		"output no JSON":           {[]model.Message{user("/call x {}"), assistant(""), tool(`he said "hi"`)}, `"he said \"hi\""`},
		"calls without outputs":    {[]model.Message{user("/call x {}"), assistant("")}, "echo: /call x {}"},
		"outputs of older turns":   {[]model.Message{user("/call x {}"), assistant(""), tool("1"), assistant("1"), user("hi")}, "echo: hi"},
		"tokens":                   {[]model.Message{user("/tokens 3")}, "w1 w2 w3"},
		"error":                    {[]model.Message{user("/error conflict")}, "fail conflict"},
		"error again":              {[]model.Message{user("/error timeout\n/say x")}, "fail timeout"},
		"bad code":                 {[]model.Message{user("/error whatever")}, "fail invalid_request"},
		"run's code":               {[]model.Message{user("/error step_limit")}, "fail invalid_request"},
		"bad number":               {[]model.Message{user("/tokens many")}, "fail invalid_request"},
		"negative":                 {[]model.Message{user("/tokens -1")}, "fail invalid_request"},
		"bad JSON":                 {[]model.Message{user("/call tool.kv.put {")}, "fail invalid_request"},
		"no tool":                  {[]model.Message{user("/call")}, "fail invalid_request"},
		"bad wait":                 {[]model.Message{user("/wait long")}, "fail invalid_request"},
		"a slip in a past turn":    {[]model.Message{user("/call {\n/say b"), assistant(""), tool("1")}, "b"},
	} {
		req := &model.ChatRequest{Messages: c.messages, Tools: offered}
		resp, err := builtin.New().Chat(t.Context(), builtin.Echo, req, nil)
		got := ""
		switch {
		case err != nil:
			got = "fail " + string(fault.CodeOf(err))
		case len(resp.Message.ToolCalls) > 0:
			call := resp.Message.ToolCalls[0]
			got = "call " + call.ToolID + " " + call.Name + " " + string(call.Arguments)
		default:
			got = resp.Message.Content
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
		if err == nil {
			if most := builtin.New().MaxOutput(builtin.Echo, req); most != resp.Usage.OutputTokens {
				t.Errorf("%s: %d tokens were announced and %d came", name, most, resp.Usage.OutputTokens)
			}
		}
	}
}

func TestProvider_Wait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		req := &model.ChatRequest{Messages: []model.Message{user("/wait 2s\n/wait 500ms\n/call x {}\n/wait 7s")}}
		if _, err := builtin.New().Chat(t.Context(), builtin.Echo, req, nil); err != nil || time.Since(began) != 2500*time.Millisecond {
			t.Errorf("the first turn: %v after %s", err, time.Since(began))
		}
		began = time.Now()
		req.Messages = append(req.Messages, assistant(""), tool(`{"a":1}`))
		resp, err := builtin.New().Chat(t.Context(), builtin.Echo, req, nil)
		if err != nil || resp.Message.Content != `{"a":1}` || time.Since(began) != 7*time.Second {
			t.Errorf("the second turn: %+v, %v after %s", resp, err, time.Since(began))
		}
	})
}

// The same request has the same tool call ids, and another one has others: effects are told apart by them.
func TestProvider_CallIDs(t *testing.T) {
	t.Parallel()
	ask := func(requestID string) string {
		req := &model.ChatRequest{RequestID: requestID, Messages: []model.Message{user("/call x {}")}}
		resp, err := builtin.New().Chat(t.Context(), builtin.Echo, req, nil)
		if err != nil {
			t.Fatal(err)
		}
		return resp.Message.ToolCalls[0].ID
	}
	first, again, other := ask("a"), ask("a"), ask("b")
	if first != again || first == other || !strings.HasPrefix(first, "tcall_") || len(first) != len("tcall_")+26 {
		t.Errorf("ids %s %s %s", first, again, other)
	}
}

func TestProvider_Stop(t *testing.T) {
	t.Parallel()
	req := &model.ChatRequest{Messages: []model.Message{user("/tokens 5")}, Stop: []string{"w4", "w3"}}
	resp, err := builtin.New().Chat(t.Context(), builtin.Echo, req, nil)
	if err != nil || resp.Message.Content != "w1 w2 " {
		t.Errorf("%+v %v", resp, err)
	}
	req = &model.ChatRequest{Messages: []model.Message{user("/call x {}")}, ToolChoice: "none"}
	if _, err := builtin.New().Chat(t.Context(), builtin.Echo, req, nil); !fault.Is(err, fault.InvalidRequest) {
		t.Errorf("tool_choice none: %v", err)
	}
}

// Who asks for JSON isn't given something else in silence.
func TestProvider_ResponseFormat(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]fault.Code{"hi": fault.InvalidRequest, "/say {\"a\":1}": ""} {
		req := &model.ChatRequest{Messages: []model.Message{user(text)}, ResponseFormat: json.RawMessage(`{"type":"json_object"}`)}
		if _, err := builtin.New().Chat(t.Context(), builtin.Echo, req, nil); fault.CodeOf(err) != want {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestProvider_EmbedOdd(t *testing.T) {
	t.Parallel()
	texts := []string{"", " ", "!?", "日本語", strings.Repeat("long ", 10000)}
	resp, err := builtin.New().Embed(t.Context(), builtin.Embed, &model.EmbedRequest{Texts: texts})
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range resp.Vectors {
		sum := float32(0)
		for _, x := range v {
			sum += x * x
		}
		if len(v) != builtin.Dimensions || sum < 0.999 || sum > 1.001 {
			t.Errorf("%q: %d dimensions of squared length %v", texts[i], len(v), sum)
		}
	}
	for _, d := range []int{-1, 257} {
		if _, err := builtin.New().Embed(t.Context(), builtin.Embed, &model.EmbedRequest{Texts: texts, Dimensions: d}); !fault.Is(err, fault.InvalidRequest) {
			t.Errorf("%d dimensions: %v", d, err)
		}
	}
}

func FuzzProvider_Chat(f *testing.F) {
	for _, s := range []string{"/call a {}", "/tokens 3\n/say x", "/wait 0s\r\n/cut 2", "/error timeout", "plain", "/say", "/\t"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "/wait") {
			return
		}
		req := &model.ChatRequest{Messages: []model.Message{user(text)}}
		most := builtin.New().MaxOutput(builtin.Echo, req)
		resp, err := builtin.New().Chat(t.Context(), builtin.Echo, req, nil)
		if err != nil {
			if resp != nil || fault.CodeOf(err) == "" {
				t.Fatalf("%+v %v", resp, err)
			}
			return
		}
		if resp.Usage.OutputTokens > most {
			t.Fatalf("%d tokens were announced, %d came", most, resp.Usage.OutputTokens)
		}
		if _, err := json.Marshal(resp); err != nil {
			t.Fatal(err)
		}
	})
}
