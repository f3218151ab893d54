package openai_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/model"
	"github.com/nexixai/agentos/model/modeltest"
	"github.com/nexixai/agentos/model/provider/openai"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Requirements: A3, B2, Q2.
func TestProvider_Conformance(t *testing.T) {
	modeltest.Conformance(t, func(t *testing.T) modeltest.Subject {
		_, server := MustStub(t)
		return modeltest.Subject{Provider: MustProvider(t, openai.Options{BaseURL: server.URL + "/v1"}), ChatModel: "echo-1", EmbedModel: "hash-embed-1"}
	})
}

func collect(p *openai.Provider, req *model.ChatRequest) (string, *model.ChatResponse, error) {
	text := ""
	resp, err := p.Chat(context.Background(), "m", req, func(d model.Delta) error { text += d.Text; return nil })
	return text, resp, err
}

// Servers differ in how they frame a stream; each of these has been seen.
func TestProvider_OddStreams(t *testing.T) {
	const a, b, end, use = `{"choices":[{"index":0,"delta":{"content":"a"}}]}`, `{"choices":[{"index":0,"delta":{"content":"b"}}]}`,
		`{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}`, `{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":1}}}`
	for name, c := range map[string]struct {
		body, text string
		code       fault.Code
	}{
		"plain":               {lines("data: "+a, "", "data: "+b, "", "data: "+end, "", "data: "+use, "", "data: [DONE]", ""), "ab", ""},
		"CRLF":                {strings.ReplaceAll(lines("data: "+a, "", "data: "+b, "", "data: "+end, "", "data: [DONE]", ""), "\n", "\r\n"), "ab", ""},
		"comments and fields": {lines(": hi", "event: message", "id: 1", "retry: 5", "data:"+a, "", ": ping", "", "data: "+b, "", "data: "+end, "", "data: [DONE]", ""), "ab", ""},
		"no DONE":             {lines("data: "+a, "", "data: "+end, ""), "a", ""},
		"no last blank line":  {"data: " + a + "\n\ndata: " + end, "a", ""},
		"data in two lines":   {lines(`data: {"choices":[{"index":0,`, `data: "delta":{"content":"a"},"finish_reason":"stop"}]}`, "", "data: [DONE]", ""), "a", ""},
		"other choices":       {lines(`data: {"choices":[{"index":1,"delta":{"content":"no"}},{"index":0,"delta":{"content":"a"}}]}`, "", "data: "+end, "", "data: [DONE]", ""), "a", ""},
		"cut":                 {lines("data: "+a, "", "data: "+b, ""), "ab", fault.Unavailable},
		"empty":               {"", "", fault.Unavailable},
		"not JSON":            {lines("data: "+a, "", "data: <html>", ""), "a", fault.Unavailable},
		"error in the middle": {lines("data: "+a, "", `data: {"error":{"message":"slow down","type":"rate_limit_exceeded"}}`, ""), "a", fault.RateLimited},
		"error with a number": {lines(`data: {"error":{"message":"bad","code":400}}`, ""), "", fault.InvalidRequest},
		"giant line":          {"data: " + strings.Repeat("x", 2<<20), "", fault.Unavailable},
		"giant event":         {strings.Repeat("data: "+strings.Repeat("x", 10_000)+"\n", 200), "", fault.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			server := scripted(t, "text/event-stream", c.body)
			text, resp, err := collect(MustProvider(t, openai.Options{BaseURL: server.URL}), modeltest.Say("x"))
			if text != c.text || fault.CodeOf(err) != c.code {
				t.Fatalf("%q, %v", text, err)
			}
			if (resp == nil) != (c.text == "") || resp != nil && resp.Message.Content != c.text {
				t.Errorf("the answer is %+v", resp)
			}
			if name == "plain" && (resp.Usage == nil || *resp.Usage != model.Usage{InputTokens: 3, CachedInputTokens: 1, OutputTokens: 2, TotalTokens: 5}) {
				t.Errorf("usage %+v", resp.Usage)
			}
			if name == "CRLF" && resp.Usage != nil {
				t.Errorf("usage was made up: %+v", resp.Usage)
			}
		})
	}
}

// Calls come in pieces by index, mixed, without ids, or all numbered 0.
func TestProvider_ToolCallPieces(t *testing.T) {
	piece := func(s string) string {
		return `data: {"choices":[{"index":0,"delta":{"tool_calls":[` + s + `]}}]}` + "\n\n"
	}
	const end = `data: {"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}` + "\n\ndata: [DONE]\n\n"
	for name, c := range map[string]struct {
		body, want string
		code       fault.Code
	}{
		"by index": {piece(`{"index":0,"id":"1","function":{"name":"a","arguments":""}}`) + piece(`{"index":1,"id":"2","function":{"name":"b","arguments":"{\"x\""}}`) +
			piece(`{"index":0,"function":{"arguments":"{}"}},{"index":1,"function":{"arguments":":1}"}}`) + end, `1 a {};2 b {"x":1};`, ""},
		"all numbered 0":  {piece(`{"index":0,"id":"1","function":{"name":"a","arguments":"{}"}}`) + piece(`{"index":0,"id":"2","function":{"name":"b","arguments":"{}"}}`) + end, `1 a {};2 b {};`, ""},
		"not numbered":    {piece(`{"id":"1","function":{"name":"a","arguments":"{"}}`) + piece(`{"function":{"arguments":"}"}}`) + end, `1 a {};`, ""},
		"no arguments":    {piece(`{"index":0,"id":"1","function":{"name":"a"}}`) + end, `1 a {};`, ""},
		"no object":       {piece(`{"index":0,"id":"1","function":{"name":"a","arguments":"[1]"}}`) + end, "", fault.Unavailable},
		"half an object":  {piece(`{"index":0,"id":"1","function":{"name":"a","arguments":"{\"a"}}`) + end, "", fault.Unavailable},
		"a mad index":     {piece(`{"index":1000000000,"id":"1","function":{"name":"a","arguments":"{}"}}`) + piece(`{"index":-1,"id":"1","function":{"name":"a"}}`) + end, "", ""},
		"a nameless call": {piece(`{"index":1,"id":"1","function":{"name":"a","arguments":"{}"}}`) + end, "", fault.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			server := scripted(t, "text/event-stream", c.body)
			_, resp, err := collect(MustProvider(t, openai.Options{BaseURL: server.URL}), modeltest.Say("x"))
			if fault.CodeOf(err) != c.code {
				t.Fatal(err)
			}
			got := ""
			if err == nil {
				for _, call := range resp.Message.ToolCalls {
					got += call.ID + " " + call.Name + " " + string(call.Arguments) + ";"
				}
			}
			if got != c.want {
				t.Errorf("calls %q, want %q", got, c.want)
			}
		})
	}
}

func TestProvider_Statuses(t *testing.T) {
	for _, c := range []struct {
		status int
		header http.Header
		body   string
		code   fault.Code
		wait   time.Duration
	}{
		{429, http.Header{"Retry-After": {"30"}}, `{"error":{"message":"m"}}`, fault.RateLimited, 30 * time.Second},
		{429, http.Header{"Retry-After-Ms": {"1500"}}, ``, fault.RateLimited, 1500 * time.Millisecond},
		{429, nil, ``, fault.RateLimited, time.Second},
		{429, nil, `{"error":{"message":"m","type":"insufficient_quota","code":"insufficient_quota"}}`, fault.Unavailable, 0},
		{401, nil, `{"error":"no"}`, fault.Unavailable, 0},
		{403, nil, ``, fault.Unavailable, 0},
		{404, nil, `<html>`, fault.NotFound, 0},
		{400, nil, `{"error":{"message":"m","param":"temperature"}}`, fault.InvalidRequest, 0},
		{413, nil, ``, fault.InvalidRequest, 0},
		{302, http.Header{"Location": {"http://127.0.0.1:1/"}}, ``, fault.Unavailable, 0},
		{500, nil, `oops`, fault.Unavailable, 0},
		{503, http.Header{"Retry-After": {"-5"}}, ``, fault.Unavailable, 0},
		{504, nil, ``, fault.Timeout, 0},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for k, v := range c.header {
				w.Header()[k] = v
			}
			w.WriteHeader(c.status)
			fmt.Fprint(w, c.body)
		}))
		p := MustProvider(t, openai.Options{Name: "far", BaseURL: server.URL})
		_, err := p.Chat(t.Context(), "m", modeltest.Say("x"), nil)
		if e := fault.Of(err); e.Code != c.code || e.RetryAfter != c.wait {
			t.Errorf("status %d became %v after %s", c.status, err, e.RetryAfter)
		}
		if c.status == 400 && fault.Of(err).Details["field"] != "temperature" {
			t.Errorf("the field is lost: %v", fault.Of(err).Details)
		}
		server.Close()
	}
	p := MustProvider(t, openai.Options{BaseURL: "http://127.0.0.1:1"})
	if _, err := p.Chat(t.Context(), "m", modeltest.Say("x"), nil); !fault.Is(err, fault.Unavailable) || strings.Contains(fault.Of(err).Message, "127.0.0.1") {
		t.Errorf("nobody there: %v", err)
	}
	if err := p.Health(t.Context()); !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "127.0.0.1:1") {
		t.Errorf("the operator isn't told which port failed: %v", err)
	}
}

// A key that is replaced on disk is taken up without a restart, also when only the server knows that the old one is void.
func TestProvider_KeyFile(t *testing.T) {
	s, server := MustStub(t)
	path := filepath.Join(t.TempDir(), "key")
	write := func(key string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(key+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := MustProvider(t, openai.Options{BaseURL: server.URL + "/v1", KeyFile: path})
	if _, err := p.Chat(t.Context(), "echo-1", modeltest.Say("x"), nil); !fault.Is(err, fault.Unavailable) {
		t.Errorf("without a key file: %v", err)
	}
	first, second := "sk-first", "sk-other"
	s.key.Store(&first)
	write(first)
	if _, err := p.Chat(t.Context(), "echo-1", modeltest.Say("x"), nil); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	s.key.Store(&second)
	write(second)
	if err := os.Chtimes(path, info.ModTime(), info.ModTime()); err != nil { // same size, same time: only the 401 tells
		t.Fatal(err)
	}
	if _, err := p.Chat(t.Context(), "echo-1", modeltest.Say("x"), nil); err != nil {
		t.Errorf("after the key changed: %v", err)
	}
	before := s.requests.Load()
	third := "sk-third"
	s.key.Store(&third)
	if _, err := p.Chat(t.Context(), "echo-1", modeltest.Say("x"), nil); !fault.Is(err, fault.Unavailable) || s.requests.Load() != before+1 {
		t.Errorf("a void key was tried %d times: %v", s.requests.Load()-before, err)
	}
}

// A server that goes silent, before the headers or between two pieces, is given up; a slow one that goes on is not.
func TestProvider_Silence(t *testing.T) {
	gone := make(chan struct{})
	silent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/piece") {
			fmt.Fprint(w, "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}]}\n\n")
			w.(http.Flusher).Flush()
		}
		select {
		case <-gone:
		case <-r.Context().Done():
		}
	}))
	defer silent.Close()
	defer close(gone)
	o := openai.Options{BaseURL: silent.URL + "/head", HeaderTimeout: 50 * time.Millisecond, IdleTimeout: 50 * time.Millisecond, AnswerTimeout: 50 * time.Millisecond}
	if text, resp, err := collect(MustProvider(t, o), modeltest.Say("x")); !fault.Is(err, fault.Timeout) || text != "" || resp != nil {
		t.Errorf("no headers: %q %+v %v", text, resp, err)
	}
	if _, err := MustProvider(t, o).Chat(t.Context(), "m", modeltest.Say("x"), nil); !fault.Is(err, fault.Timeout) {
		t.Errorf("no answer: %v", err)
	}
	o.BaseURL = silent.URL + "/piece"
	o.HeaderTimeout = time.Minute
	if text, resp, err := collect(MustProvider(t, o), modeltest.Say("x")); !fault.Is(err, fault.Timeout) || text != "a" || resp == nil {
		t.Errorf("silence in the middle: %q %+v %v", text, resp, err)
	}
}

// Each field of a request reaches the server under the name it knows there.
func TestProvider_Fields(t *testing.T) {
	s, server := MustStub(t)
	p := MustProvider(t, openai.Options{BaseURL: server.URL + "/v1/"})
	zero, one, n, seed := 0.0, 1.0, int64(9), int64(-4)
	req := modeltest.Say("x")
	req.Temperature, req.TopP, req.MaxOutputTokens, req.Seed, req.Stop = &zero, &one, &n, &seed, []string{"."}
	req.ResponseFormat = []byte(`{"type":"json_object"}`)
	req.Tools = []model.Tool{{ID: "tool.a", Name: "a", Description: "d", InputSchema: []byte(`{"type":"object"}`)}}
	req.ToolChoice = "a"
	req.Messages = append(req.Messages,
		model.Message{Role: "assistant", ToolCalls: []model.ToolCall{{ID: "1", Name: "a", Arguments: []byte(`{"k":1}`)}}},
		model.Message{Role: "tool", Content: "out", ToolCallID: "1"}, model.Message{Role: "user", Content: "go on", Name: "bob"})
	if _, err := p.Chat(t.Context(), "echo-1", req, nil); err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprint(*s.last.Load())
	want := `map[max_tokens:9 messages:[map[content:x role:user] ` +
		`map[content:<nil> role:assistant tool_calls:[map[function:map[arguments:{"k":1} name:a] id:1 type:function]]] ` +
		`map[content:out role:tool tool_call_id:1] map[content:go on name:bob role:user]] model:echo-1 response_format:map[type:json_object] seed:-4 stop:[.] temperature:0 ` +
		`tool_choice:map[function:map[name:a] type:function] tools:[map[function:map[description:d name:a parameters:map[type:object]] type:function]] top_p:1]`
	if got != want {
		t.Errorf("the server got\n%s\nwant\n%s", got, want)
	}
	_, _ = p.Chat(t.Context(), "gpt-5-mini", req, nil)
	if body := *s.last.Load(); body["max_completion_tokens"] != 9.0 || body["max_tokens"] != nil {
		t.Errorf("a reasoning model's bound: %v", body)
	}
}

func TestProvider_OddAnswers(t *testing.T) {
	for name, body := range map[string]string{
		"no choice": `{"choices":[]}`, "no JSON": `hello`, "an error of status 200": `{"error":{"message":"m"}}`, "two answers": `{} {}`,
		"bad arguments": `{"choices":[{"message":{"tool_calls":[{"function":{"name":"a","arguments":"{"}}]}}]}`,
	} {
		p := MustProvider(t, openai.Options{BaseURL: scripted(t, "application/json", body).URL})
		if _, err := p.Chat(t.Context(), "m", modeltest.Say("x"), nil); !fault.Is(err, fault.Unavailable) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, body := range map[string]string{
		"too few": `{"data":[]}`, "twice": `{"data":[{"index":0,"embedding":[1]},{"index":0,"embedding":[1]}]}`, "out of range": `{"data":[{"index":5,"embedding":[1]}]}`,
		"none": `{"data":[{"index":0,"embedding":[]}]}`,
	} {
		p := MustProvider(t, openai.Options{BaseURL: scripted(t, "application/json", body).URL})
		if _, err := p.Embed(t.Context(), "m", &model.EmbedRequest{Texts: []string{"x"}}); !fault.Is(err, fault.Unavailable) {
			t.Errorf("embeddings %s: %v", name, err)
		}
	}
	p := MustProvider(t, openai.Options{BaseURL: scripted(t, "application/json", `{"choices":[{"message":{"content":[{"type":"text","text":"in "},{"type":"text","text":"parts"}]}}]}`).URL})
	if resp, err := p.Chat(t.Context(), "m", modeltest.Say("x"), nil); err != nil || resp.Message.Content != "in parts" || resp.FinishReason != "stop" || resp.Usage != nil {
		t.Errorf("%+v %v", resp, err)
	}
}

func TestOptions_Validate(t *testing.T) {
	for _, u := range []string{"", "localhost:8000", "ftp://x/", "http://", "http://u:p@x/", "http://x/?a=b"} {
		if _, err := openai.New(openai.Options{BaseURL: u}); err == nil {
			t.Errorf("%q was taken", u)
		}
	}
	if _, err := openai.New(openai.Options{BaseURL: "http://x", Name: "a/b"}); err == nil {
		t.Error("a name with a '/' was taken")
	}
	p := MustProvider(t, openai.Options{BaseURL: "http://127.0.0.1:1", Name: "far", Models: []model.Info{{Model: "m", Capabilities: []string{"chat"}}}})
	if list, err := p.Models(t.Context()); err != nil || len(list) != 1 || list[0].ID != "far/m" || list[0].Backend != "far" {
		t.Errorf("models that the operator described: %v %v", list, err)
	}
}
