package lines_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"go.uber.org/goleak"

	"github.com/nexixai/agentos/docs/examples/lines"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/model"
	"github.com/nexixai/agentos/model/modeltest"
	"github.com/nexixai/agentos/model/provider/builtin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve is a model server of that wire. The builtin model thinks for it.
func serve(t *testing.T) *lines.Provider {
	t.Helper()
	mind := builtin.New()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		say := func(key string, value any) error {
			if err := json.NewEncoder(w).Encode(map[string]any{key: value}); err != nil {
				return err
			}
			return http.NewResponseController(w).Flush()
		}
		var body struct {
			Model   string
			Request json.RawMessage
		}
		var err error
		if err = json.NewDecoder(r.Body).Decode(&body); err == nil {
			switch r.URL.Path {
			case "/chat":
				var req model.ChatRequest
				var whole *model.ChatResponse
				if err = json.Unmarshal(body.Request, &req); err == nil {
					whole, err = mind.Chat(r.Context(), body.Model, &req, func(d model.Delta) error { return say("piece", d) })
				}
				if err == nil {
					_ = say("whole", whole)
				}
			case "/embed":
				var req model.EmbedRequest
				var vectors *model.EmbedResponse
				if err = json.Unmarshal(body.Request, &req); err == nil {
					vectors, err = mind.Embed(r.Context(), body.Model, &req)
				}
				if err == nil {
					_ = say("embed", vectors)
				}
			}
		}
		if f := fault.Of(err); err != nil {
			_ = say("error", map[string]any{"Code": f.Code, "Message": f.Message, "RetryAfter": f.RetryAfter})
		}
	}))
	client := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(func() { client.CloseIdleConnections(); server.Close() })
	return &lines.Provider{URL: server.URL, Client: client}
}

// The example does all that a backend has to, so who starts from it starts from something sound.
func TestProvider(t *testing.T) {
	modeltest.Conformance(t, func(t *testing.T) modeltest.Subject {
		return modeltest.Subject{Provider: serve(t), ChatModel: "echo-1", EmbedModel: "hash-embed-1"}
	})
}
