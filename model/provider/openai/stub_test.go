package openai_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/model"
	"github.com/nexixai/agentos/model/provider/builtin"
	"github.com/nexixai/agentos/model/provider/openai"
)

// stub is a server that speaks OpenAI's wire format, written from its documentation and not with the adapter's types. The
// builtin model thinks for it.
type stub struct {
	key      atomic.Pointer[string] // the key it takes; nil takes all
	requests atomic.Int64
	last     atomic.Pointer[map[string]any] // the last body
	mind     *builtin.Provider
}

func MustProvider(tb testing.TB, o openai.Options) *openai.Provider {
	tb.Helper()
	p, err := openai.New(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(p.Close)
	return p
}

func MustStub(tb testing.TB) (*stub, *httptest.Server) {
	tb.Helper()
	s := &stub{mind: builtin.New()}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/chat/completions", s.chat)
	mux.HandleFunc("POST /v1/embeddings", s.embed)
	mux.HandleFunc("GET /v1/models", s.models)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		if key := s.key.Load(); key != nil && r.Header.Get("Authorization") != "Bearer "+*key {
			refuse(w, 401, `{"error":{"message":"Incorrect API key provided","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}`)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	tb.Cleanup(server.Close)
	return s, server
}

func refuse(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprint(w, body)
}

func (s *stub) models(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprint(w, `{"object":"list","data":[{"id":"echo-1","object":"model","created":1,"owned_by":"stub"},
		{"id":"hash-embed-1","object":"model","created":1,"owned_by":"stub"},{"id":"whisper-1","object":"model","created":1,"owned_by":"stub"}]}`)
}

func (s *stub) embed(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Model      string
		Input      []string
		Dimensions int
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		refuse(w, 400, `{"error":{"message":"bad JSON","type":"invalid_request_error"}}`)
		return
	}
	got, err := s.mind.Embed(r.Context(), body.Model, &model.EmbedRequest{Texts: body.Input, Dimensions: body.Dimensions})
	if err != nil {
		s.fail(w, err)
		return
	}
	var data []any
	for i := len(got.Vectors) - 1; i >= 0; i-- { // in another order than asked: the index counts
		data = append(data, map[string]any{"object": "embedding", "index": i, "embedding": got.Vectors[i]})
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"object": "list", "data": data, "usage": map[string]any{"prompt_tokens": got.Usage.InputTokens, "total_tokens": got.Usage.InputTokens}})
}

func (s *stub) fail(w http.ResponseWriter, err error) {
	status := map[fault.Code]int{fault.RateLimited: 429, fault.Unavailable: 503, fault.Timeout: 504, fault.InvalidRequest: 400, fault.NotFound: 404}[fault.CodeOf(err)]
	if status == 0 {
		status = 500
	}
	if status == 429 {
		w.Header().Set("Retry-After", "7")
	}
	body, _ := json.Marshal(map[string]any{"error": map[string]any{"message": fault.Of(err).Message, "type": "x", "param": nil, "code": nil}})
	refuse(w, status, string(body))
}

func (s *stub) chat(w http.ResponseWriter, r *http.Request) {
	var body map[string]any
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		refuse(w, 400, `{"error":{"message":"bad JSON","type":"invalid_request_error"}}`)
		return
	}
	s.last.Store(&body)
	req := understand(body)
	if body["stream"] != true {
		resp, err := s.mind.Chat(r.Context(), body["model"].(string), req, nil)
		if err != nil {
			s.fail(w, err)
			return
		}
		message := map[string]any{"role": "assistant", "content": resp.Message.Content}
		if calls := wireCalls(resp.Message.ToolCalls); calls != nil {
			message["content"], message["tool_calls"] = nil, calls
		}
		_ = json.NewEncoder(w).Encode(map[string]any{
			"id": "c", "object": "chat.completion", "choices": []any{map[string]any{"index": 0, "message": message, "finish_reason": resp.FinishReason}},
			"usage": wireUsage(resp.Usage),
		})
		return
	}
	s.stream(w, r, body, req)
}

func (s *stub) stream(w http.ResponseWriter, r *http.Request, body map[string]any, req *model.ChatRequest) {
	begun := false
	send := func(choice any, extra map[string]any) {
		if !begun {
			w.Header().Set("Content-Type", "text/event-stream")
			begun = true
		}
		chunk := map[string]any{"id": "c", "object": "chat.completion.chunk", "choices": []any{}}
		if choice != nil {
			chunk["choices"] = []any{choice}
		}
		for k, v := range extra {
			chunk[k] = v
		}
		raw, _ := json.Marshal(chunk)
		fmt.Fprintf(w, "data: %s\n\n", raw)
		w.(http.Flusher).Flush()
	}
	resp, err := s.mind.Chat(r.Context(), body["model"].(string), req, func(d model.Delta) error {
		delta := map[string]any{}
		if d.Text != "" {
			delta["content"] = d.Text
		}
		if c := d.ToolCall; c != nil {
			call := map[string]any{"index": c.Index, "function": map[string]any{"arguments": c.Arguments}}
			if c.ID != "" {
				call["id"], call["type"] = c.ID, "function"
				call["function"] = map[string]any{"name": c.Name, "arguments": c.Arguments}
			}
			delta["tool_calls"] = []any{call}
		}
		send(map[string]any{"index": 0, "delta": delta, "finish_reason": nil}, nil)
		return nil
	})
	if err != nil && !begun {
		s.fail(w, err)
		return
	}
	if err != nil {
		panic(http.ErrAbortHandler) // the connection breaks
	}
	send(map[string]any{"index": 0, "delta": map[string]any{}, "finish_reason": resp.FinishReason}, nil)
	if o, ok := body["stream_options"].(map[string]any); ok && o["include_usage"] == true {
		send(nil, map[string]any{"usage": wireUsage(resp.Usage)})
	}
	fmt.Fprint(w, "data: [DONE]\n\n")
}

func wireUsage(u *model.Usage) map[string]any {
	return map[string]any{"prompt_tokens": u.InputTokens, "completion_tokens": u.OutputTokens, "total_tokens": u.TotalTokens}
}

func wireCalls(calls []model.ToolCall) (list []any) {
	for _, c := range calls {
		list = append(list, map[string]any{"id": c.ID, "type": "function", "function": map[string]any{"name": c.Name, "arguments": string(c.Arguments)}})
	}
	return list
}

func understand(body map[string]any) *model.ChatRequest {
	req := &model.ChatRequest{RequestID: "req_stub"}
	list, _ := body["messages"].([]any)
	for _, m := range list {
		m := m.(map[string]any)
		text, _ := m["content"].(string)
		req.Messages = append(req.Messages, model.Message{Role: m["role"].(string), Content: text})
	}
	tools, _ := body["tools"].([]any)
	for _, t := range tools {
		name := t.(map[string]any)["function"].(map[string]any)["name"].(string)
		req.Tools = append(req.Tools, model.Tool{ID: name, Name: name})
	}
	for _, field := range []string{"max_tokens", "max_completion_tokens"} {
		if n, ok := body[field].(float64); ok {
			most := int64(n)
			req.MaxOutputTokens = &most
		}
	}
	return req
}

// scripted is a server that answers each request with one of the given texts, as it is.
func scripted(tb testing.TB, contentType string, answers ...string) *httptest.Server {
	tb.Helper()
	var n atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		fmt.Fprint(w, answers[min(int(n.Add(1)), len(answers))-1])
	}))
	tb.Cleanup(server.Close)
	return server
}

func lines(s ...string) string { return strings.Join(s, "\n") + "\n" }
