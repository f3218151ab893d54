package client_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nexixai/agentos/api"
	"github.com/nexixai/agentos/api/client"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/model"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/mem"
	"github.com/nexixai/agentos/tenancy"
)

func TestNew_refuses(t *testing.T) {
	for _, u := range []string{"", "node:8420", "ftp://node", "http://", "http://user:pw@node", "http://node?x=1", "http://node#x", "http://no de"} {
		if _, err := client.New(client.Options{BaseURL: u}); err == nil {
			t.Errorf("%q was taken for a base URL", u)
		}
	}
	if _, err := client.New(client.Options{BaseURL: "http://node", Key: "aos_x\r\nX-Tenant-Id: other"}); err == nil || strings.Contains(err.Error(), "aos_x") {
		t.Errorf("a key with a line end: %v", err)
	}
}

// TestClient_request: what a request carries, and that its ids can't lead it to another path.
func TestClient_request(t *testing.T) {
	var got *http.Request
	var body []byte
	c := mustClient(t, client.Options{BaseURL: "http://node.test:8420/stack-b/", Key: "aos_key", UserAgent: "probe/1"}, func(r *http.Request) (*http.Response, error) {
		got, body = r, nil
		if r.Body != nil {
			body, _ = io.ReadAll(r.Body)
		}
		return reply(200, `{"run":{"run_id":"run_1"},"agent":{},"model":{},"memory":{}}`, "X-AgentOS-Index", "7", "X-AgentOS-Stale", "true", "X-Correlation-Id", "corr_2"), nil
	})
	var answer client.Answer
	special := c.With(client.Call{
		TenantID: "tnt_other", Consistency: client.Linearizable, MinIndex: 42, CorrelationID: "corr_1", Traceparent: "00-1-2-01", IdempotencyKey: "k", Answer: &answer,
	})
	if _, err := special.GetRun(t.Context(), "run_1"); err != nil {
		t.Fatal(err)
	}
	if u := got.URL.String(); u != "http://node.test:8420/stack-b/v1/runs/run_1?consistency=linearizable" {
		t.Errorf("URL %s", u)
	}
	for name, want := range map[string]string{
		"Authorization": "Bearer aos_key", "User-Agent": "probe/1", "X-Tenant-Id": "tnt_other", "X-AgentOS-Index": "42", "X-Correlation-Id": "corr_1",
		"traceparent": "00-1-2-01", "Idempotency-Key": "", "Accept": "application/json", "Content-Type": "",
	} {
		if v := got.Header.Get(name); v != want {
			t.Errorf("%s: %q, want %q", name, v, want)
		}
	}
	if answer.Index() != 7 || !answer.Stale() || answer.Replayed() || answer.CorrelationID() != "corr_2" || answer.Status != 200 {
		t.Errorf("answer = %+v", answer)
	}

	if _, err := special.CancelRun(t.Context(), "run_1"); err != nil || got.Method != "POST" || got.Header.Get("Idempotency-Key") != "k" || got.URL.Path != "/stack-b/v1/runs/run_1:cancel" || len(body) != 0 {
		t.Errorf("%s %s, key %q, body %q, %v", got.Method, got.URL, got.Header.Get("Idempotency-Key"), body, err)
	}
	if _, err := c.PutAgent(t.Context(), "agt_x", client.Agent{Name: "X"}); err != nil || string(body) != `{"agent":{"name":"X"}}` || got.Header.Get("Content-Type") != "application/json" {
		t.Errorf("PutAgent sent %s, %v", body, err)
	}
	for id, want := range map[string]string{"../admin": "/stack-b/v1/runs/..%2Fadmin", "a?b#c": "/stack-b/v1/runs/a%3Fb%23c", "a b": "/stack-b/v1/runs/a%20b", "a%2f": "/stack-b/v1/runs/a%252f"} {
		if _, err := c.GetRun(t.Context(), id); err != nil || got.URL.EscapedPath() != want {
			t.Errorf("GetRun(%q) asked for %s, %v", id, got.URL.EscapedPath(), err)
		}
	}
	got = nil
	for what, err := range map[string]error{
		"run_id":   errOf(c.GetRun(t.Context(), "")),
		"agent_id": c.DeleteAgent(t.Context(), ""),
		"key":      errOf(c.GetMemory(t.Context(), "ns", "")),
		"id":       errOf(c.Keys("").Page(t.Context(), "", 1)),
	} {
		f, ok := errors.AsType[*client.Error](err)
		if !ok || f.Code != fault.InvalidRequest || f.Details["field"] != what || got != nil {
			t.Errorf("an empty %s: %v, request %v", what, err, got)
		}
	}
}

func errOf[T any](_ T, err error) error { return err }

// refusing is a door's directory of which every caller is refused in the same way.
type refusing struct {
	api.Tenants
	err error
}

func (r refusing) Authenticate(context.Context, string, tenancy.Source) (*tenancy.Auth, error) {
	return nil, r.err
}

// doorOf is a door that refuses everybody with err, so that nobody gets to the rooms behind it.
func doorOf(store storage.Store, err error) api.Options {
	return api.Options{
		Store: store, Tenants: refusing{err: err}, Runs: struct{ api.Runs }{}, Events: struct{ api.Events }{}, Catalog: struct{ api.Catalog }{},
		Memory: struct{ api.Memory }{}, Models: (*model.Gateway)(nil), Rulesets: struct{ api.Rulesets }{}, Prices: struct{ api.Prices }{},
		Cluster: struct{ api.Cluster }{}, Peerings: struct{ api.Peerings }{}, Routes: struct{ api.Routes }{}, Placement: struct{ api.Placement }{}, OpenAI: struct{ api.OpenAI }{},
	}
}

// TestClient_errors: what the real door tells comes out as the error that went in.
func TestClient_errors(t *testing.T) {
	store := mem.New(mem.Options{})
	defer store.Close()
	for _, code := range []fault.Code{
		fault.InvalidRequest, fault.Unauthorized, fault.Forbidden, fault.PolicyBlocked, fault.NotFound, fault.MethodNotAllowed, fault.Conflict,
		fault.UnsupportedCapability, fault.PayloadTooLarge, fault.UnsupportedMediaType, fault.RateLimited, fault.QuotaExceeded, fault.Unavailable,
		fault.Timeout, fault.LoopDetected,
	} {
		told := fault.New(code, "Say %q once.", "please").With("field", "a.b").With("limit", 9007199254740993).With("candidates", []string{"x"}).After(1500 * time.Millisecond)
		door, err := api.New(doorOf(store, fmt.Errorf("deep within: %w", told)))
		if err != nil {
			t.Fatal(err)
		}
		server := httptest.NewServer(door.Handler())
		c := mustClient(t, client.Options{BaseURL: server.URL, Key: "aos_x", Retries: -1}, nil)
		_, err = c.With(client.Call{CorrelationID: "corr_mine"}).GetRun(t.Context(), "run_1")
		c.Close()
		server.Close()
		got, ok := errors.AsType[*fault.Error](err)
		if !ok {
			t.Errorf("%s came back as %v", code, err)
			continue
		}
		want := &fault.Error{
			Code: code, Message: told.Message, RetryAfter: 2 * time.Second, CorrelationID: "corr_mine",
			Details: map[string]any{"field": "a.b", "limit": json.Number("9007199254740993"), "candidates": []any{"x"}},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s:\n%s", code, diff)
		}
	}
}

// TestClient_strangers: what is no node's error object still becomes an error that says what it was.
func TestClient_strangers(t *testing.T) {
	for name, c := range map[string]struct {
		answer *http.Response
		code   fault.Code
		says   string
	}{
		"a proxy's page":    {reply(502, "<html>\n<h1>Bad\x1b[2J gateway</h1>", "Retry-After", "3"), fault.Unavailable, "502 Bad Gateway: <html> <h1>Bad[2J gateway</h1>"},
		"nothing":           {reply(500, ""), fault.Internal, "500 Internal Server Error"},
		"another's 404":     {reply(404, "404 page not found\n"), fault.NotFound, "404 page not found"},
		"a teapot":          {reply(418, "short and stout"), fault.InvalidRequest, "short and stout"},
		"a redirect":        {reply(302, "", "Location", "http://elsewhere"), fault.InvalidRequest, "302 Found"},
		"half an object":    {reply(503, `{"error":{"code":`), fault.Unavailable, "503"},
		"a code that isn't": {reply(409, `{"error":{"code":"<b>","message":"x"}}`), fault.Conflict, "409"},
		"a newer code":      {reply(409, `{"error":{"code":"brand_new","message":"Try harder."}}`), "brand_new", "Try harder."},
		"bytes":             {reply(400, "\xff\xfe\x00\x01"), fault.InvalidRequest, "400 Bad Request"},
		"an error's novel":  {reply(400, strings.Repeat("x", 5<<20)), fault.InvalidRequest, "xxx"},
	} {
		client := mustClient(t, client.Options{Retries: -1}, func(*http.Request) (*http.Response, error) { return c.answer, nil })
		_, err := client.GetRun(t.Context(), "run_1")
		f, ok := errors.AsType[*fault.Error](err)
		if !ok || f.Code != c.code || !strings.Contains(f.Message, c.says) || len(f.Message) > 1000 || strings.ContainsAny(f.Message, "\n\x1b") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestClient_answers: an answer that is longer than it may be, or isn't what was asked for, is refused.
func TestClient_answers(t *testing.T) {
	for name, c := range map[string]struct {
		body, says string
	}{
		"too long":       {`{"run":{"run_id":"` + strings.Repeat("x", 2000) + `"}}`, "longer than this client takes"},
		"no JSON":        {"<html>", "can't be read"},
		"another noun":   {`{"agent":{}}`, `holds no "run"`},
		"another type":   {`{"run":[]}`, `"run" of the answer can't be read`},
		"a broken body":  {"", "the answer broke off"},
		"nothing at all": {" ", "can't be read"},
	} {
		client := mustClient(t, client.Options{Retries: -1, MaxAnswer: 1000}, func(*http.Request) (*http.Response, error) {
			if name == "a broken body" {
				return replyWith(200, io.NopCloser(io.MultiReader(strings.NewReader(`{"ru`), broken{}))), nil
			}
			return reply(200, c.body), nil
		})
		if _, err := client.GetRun(t.Context(), "run_1"); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// TestClient_retries: only what may be carried out twice is tried again, only for what may pass, a bounded number of times,
// each pause longer than Retry-After.
//
// Requirements: V3.
func TestClient_retries(t *testing.T) {
	const forever = "forever"
	ask := func(method, key string) func(context.Context, *client.Client) error {
		return func(ctx context.Context, c *client.Client) error {
			_, err := c.With(client.Call{IdempotencyKey: key}).Do(ctx, client.Request{Method: method, Path: "/v1/x"})
			return err
		}
	}
	for name, c := range map[string]struct {
		do          func(context.Context, *client.Client) error
		answers     []string // status and Retry-After, of each try; forever repeats the one before
		tries       int
		least, most time.Duration
	}{
		"GET":                      {ask("GET", ""), []string{"503", "503", "200"}, 3, 100 * time.Millisecond, 300 * time.Millisecond},
		"GET, no end":              {ask("GET", ""), []string{"503", forever}, 4, 300 * time.Millisecond, time.Second},
		"GET, no network":          {ask("GET", ""), []string{"-", "200"}, 2, 50 * time.Millisecond, 100 * time.Millisecond},
		"GET, broken off":          {ask("GET", ""), []string{"cut", "200"}, 2, 50 * time.Millisecond, 100 * time.Millisecond},
		"GET, asked to wait":       {ask("GET", ""), []string{"429 2", "200"}, 2, 2050 * time.Millisecond, 2100 * time.Millisecond},
		"GET, asked too much":      {ask("GET", ""), []string{"503 3600", "200"}, 1, 0, 0},
		"GET, over a budget":       {ask("GET", ""), []string{"quota 1", "200"}, 1, 0, 0},
		"GET, refused":             {ask("GET", ""), []string{"404", "200"}, 1, 0, 0},
		"POST with a key":          {ask("POST", "k"), []string{"503", "-", "200"}, 3, 100 * time.Millisecond, 300 * time.Millisecond},
		"POST":                     {ask("POST", ""), []string{"503", "200"}, 1, 0, 0},
		"PUT":                      {ask("PUT", "k"), []string{"503", "200"}, 1, 0, 0},
		"PATCH":                    {ask("PATCH", "k"), []string{"-", "200"}, 1, 0, 0},
		"DELETE":                   {ask("DELETE", "k"), []string{"503", "200"}, 1, 0, 0},
		"a run makes up its key":   {createRun, []string{"503", "200"}, 2, 50 * time.Millisecond, 100 * time.Millisecond},
		"a key issue does not":     {issueKey, []string{"503", "200"}, 1, 0, 0},
		"readiness is asked once":  {ready, []string{"503", "200"}, 1, 0, 0},
		"the caller's time is up":  {hurried, []string{"503 5", "200"}, 1, 0, 0},
		"each try has its own end": {ask("GET", ""), []string{"hang", "200"}, 2, 30*time.Second + 50*time.Millisecond, 30*time.Second + 100*time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began, tries := time.Now(), 0
				var keys []string
				cl := mustClient(t, client.Options{}, func(r *http.Request) (*http.Response, error) {
					keys = append(keys, r.Header.Get("Idempotency-Key"))
					at := min(tries, len(c.answers)-1)
					tries++
					if c.answers[at] == forever {
						at--
					}
					status, after, _ := strings.Cut(c.answers[at], " ")
					switch status {
					case "-":
						return nil, errors.New("connection refused")
					case "hang":
						<-r.Context().Done()
						return nil, r.Context().Err()
					case "cut":
						return replyWith(200, io.NopCloser(broken{})), nil
					case "200":
						return reply(200, `{"run":{},"key":{}}`), nil
					case "quota":
						return reply(429, refusal("quota_exceeded"), "Retry-After", after), nil
					case "429":
						return reply(429, refusal("rate_limited"), "Retry-After", after), nil
					case "404":
						return reply(404, refusal("not_found")), nil
					}
					return reply(503, refusal("dependency_unavailable"), "Retry-After", after), nil
				})
				err := c.do(t.Context(), cl)
				if tries != c.tries {
					t.Errorf("%d tries, want %d", tries, c.tries)
				}
				if whole := c.answers[min(tries, len(c.answers))-1] == "200"; whole != (err == nil) {
					t.Errorf("after %q: %v", c.answers, err)
				}
				if took := time.Since(began); took < c.least || took > c.most {
					t.Errorf("it took %v, not %v to %v", took, c.least, c.most)
				}
				for _, k := range keys {
					if k != keys[0] {
						t.Errorf("the key changed between tries: %q", keys)
					}
				}
			})
		})
	}
}

func createRun(ctx context.Context, c *client.Client) error {
	return errOf(c.CreateRun(ctx, "agt_x", client.RunCreate{Input: client.Text{Text: "hi"}}))
}

func issueKey(ctx context.Context, c *client.Client) error {
	return errOf(c.IssueKey(ctx, "tnt_x", client.KeyCreate{PrincipalID: "svc_x"}))
}

func ready(ctx context.Context, c *client.Client) error { return errOf(c.Ready(ctx)) }

func hurried(ctx context.Context, c *client.Client) error {
	ctx, cancel := context.WithTimeout(ctx, 4*time.Second)
	defer cancel()
	return errOf(c.GetRun(ctx, "run_1"))
}

// TestClient_timeout: a call that no answer comes to says so, and a model's call is left to its context.
func TestClient_timeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := mustClient(t, client.Options{Retries: -1}, func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		began := time.Now()
		_, err := c.GetRun(t.Context(), "run_1")
		if err == nil || !strings.Contains(err.Error(), "no answer within 30s") || time.Since(began) != 30*time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		began = time.Now()
		if _, err := c.Chat(ctx, client.ChatRequest{}); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 10*time.Minute {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
	})
}

// TestClient_delayed: a call that takes long says so once, and from then on why it is tried again; a quick one says nothing.
func TestClient_delayed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []string
		began, took := time.Now(), 10*time.Second
		tries := 0
		c := mustClient(t, client.Options{Retries: 2, Delayed: func(err error) {
			told = append(told, fmt.Sprintf("%v %v", time.Since(began).Truncate(time.Second), err))
		}}, func(*http.Request) (*http.Response, error) {
			<-time.After(took)
			if tries++; tries%3 == 0 {
				return reply(200, `{"run":{}}`), nil
			}
			return reply(503, refusal("dependency_unavailable")), nil
		})
		if _, err := c.GetRun(t.Context(), "run_1"); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"2s <nil>", "10s dependency_unavailable: No.", "20s dependency_unavailable: No."}, told); diff != "" {
			t.Error(diff)
		}
		told, took = nil, 100*time.Millisecond
		if _, err := c.GetRun(t.Context(), "run_1"); err != nil || told != nil {
			t.Errorf("a quick call: %v, told %q", err, told)
		}
	})
}

// TestClient_Do_redirect: the key goes to the node it is for, and nowhere else.
func TestClient_Do_redirect(t *testing.T) {
	stolen := false
	thief := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { stolen = true }))
	defer thief.Close()
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, thief.URL, http.StatusTemporaryRedirect)
	}))
	defer node.Close()
	c := mustClient(t, client.Options{BaseURL: node.URL, Key: "aos_x"}, nil)
	if _, err := c.GetRun(t.Context(), "run_1"); err == nil || stolen {
		t.Errorf("a redirect was followed: %v", err)
	}
}

// TestClient_Ready: a node that can't take work is told by its answer, not by an error.
func TestClient_Ready(t *testing.T) {
	for body, want := range map[string]bool{`{"status":"ready","dependencies":{"store":"ok"}}`: true, `{"status":"draining","dependencies":{"node":"This node is stopping."}}`: false} {
		c := mustClient(t, client.Options{}, func(*http.Request) (*http.Response, error) {
			return reply(map[bool]int{true: 200, false: 503}[want], body), nil
		})
		if r, err := c.Ready(t.Context()); err != nil || r.Ready() != want || len(r.Dependencies) != 1 {
			t.Errorf("%s: %+v, %v", body, r, err)
		}
	}
}

func FuzzClient_error(f *testing.F) {
	f.Add(404, "", []byte(refusal("not_found")))
	f.Add(429, "12", []byte(`{"error":{"code":"rate_limited","message":"m","details":{"limit":1e400,"a":[{}]}},"correlation_id":"c"}`))
	f.Add(503, "Wed, 21 Oct 2015 07:28:00 GMT", []byte("<html>"))
	f.Add(500, "-1", []byte("\xff"))
	f.Add(302, "99999999999999999999", []byte(`{"error":null}`))
	f.Fuzz(func(t *testing.T, status int, after string, body []byte) {
		status = 300 + abs(status)%300
		c := mustClient(t, client.Options{Retries: -1}, func(*http.Request) (*http.Response, error) {
			return replyWith(status, io.NopCloser(bytes.NewReader(body)), "Retry-After", after), nil
		})
		a, err := c.Do(t.Context(), client.Request{Method: "GET", Path: "/v1/x"})
		e, ok := errors.AsType[*client.Error](err)
		switch {
		case !ok || a == nil || a.Status != status:
			t.Fatalf("status %d: %v, %v", status, a, err)
		case e.Code == "" || len(e.Code) > 64 || e.RetryAfter < 0 || e.RetryAfter > 366*24*time.Hour:
			t.Errorf("%+v", e)
		}
		if _, err := json.Marshal(e.Details); err != nil {
			t.Errorf("the details can't be told on: %v", err)
		}
	})
}

func abs(n int) int { return max(n, -(n + 1)) }
