package onenode_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

// Guessing keys is slowed down by source; whoever has a good one never notices. It has a node for itself, since all of the
// suite asks from one address.
//
// Requirements: T1, Q3.
func TestDoor_BruteForce(t *testing.T) {
	t.Parallel()
	d := harness.Up(t, suite.Binary(t))
	tn := harness.NewTenant(t, d.Admin(t), nil)
	limited := 0
	for i := range 150 {
		a := tn.As(fmt.Sprintf("aos_%043d", i)).Do(t, "GET", "/v1/runs", nil)
		switch a.Status {
		case 401:
			refused(t, a, 401, "unauthorized")
		default:
			refused(t, a, 429, "rate_limited")
			if a.Header.Get("Retry-After") == "" {
				t.Error("429 without Retry-After")
			}
			limited++
		}
		if i%10 == 0 {
			tn.Want(t, 200, "GET", "/v1/runs", nil)
		}
	}
	if limited < 50 {
		t.Errorf("%d of 150 guesses were held off", limited)
	}
	tn.Want(t, 201, "POST", "/v1/agents/"+tn.Agent+"/runs", harness.Body("x", nil))
}

// A stream ends when its reader's key is taken away, though the run says nothing, and doesn't look whole.
//
// Requirements: T1.
func TestDoor_RevokedReader(t *testing.T) {
	t.Parallel()
	tn := suite.Tenant(t, nil)
	run := tn.Create(t, "/wait 10m", nil)
	issued := tn.Root.Want(t, 201, "POST", "/v1/admin/tenants/"+tn.ID+"/keys", map[string]any{"principal_id": "svc_reader"})
	s := tn.As(issued.Str("key.secret")).Follow(t, run, "")
	defer s.Close()
	for {
		f, err := s.Next(soon)
		if err != nil {
			t.Fatal(err)
		}
		if f.HasID && harness.At(harness.Decode([]byte(f.Data)), "event.type") == "agentos.model.requested" {
			break // from here on it's quiet
		}
	}
	tn.Root.Want(t, 204, "DELETE", "/v1/admin/tenants/"+tn.ID+"/keys/"+issued.Str("key.key_id"), nil)
	begun := time.Now()
	if _, err := s.Rest(soon); s.End() != harness.Cut {
		t.Errorf("the stream ended %v, %v", s.End(), err)
	}
	if took := time.Since(begun); took > 20*time.Second {
		t.Errorf("the stream went on for %v", took)
	}
	tn.Want(t, 200, "POST", "/v1/runs/"+run+":cancel", nil)
}

// A cancel under an idempotency key is one cancel, also when the run has ended by it.
//
// Requirements: A1.
func TestDoor_CancelOnce(t *testing.T) {
	t.Parallel()
	tn := suite.Tenant(t, nil)
	run := tn.Create(t, "/wait 10m", nil)
	awaitEvent(t, tn.Client, run, "run.started")
	path := "/v1/runs/" + run + ":cancel"
	if a := tn.Want(t, 200, "POST", path, nil, "Idempotency-Key", "k"); a.Header.Get("Idempotent-Replayed") != "" {
		t.Errorf("the first is a replay")
	}
	tn.Journal(t, run)
	a := tn.Want(t, 200, "POST", path, nil, "Idempotency-Key", "k")
	if a.Header.Get("Idempotent-Replayed") != "true" || a.Str("run.status") != "canceled" {
		t.Errorf("replay: %v %s", a.Header, a.Body)
	}
	refused(t, tn.Do(t, "POST", path, nil, "Idempotency-Key", "other"), 409, "conflict")
	refused(t, tn.Do(t, "POST", path, nil), 409, "conflict")
}

// The cluster's calls are done once for each key too: a replay makes no second token and shows none, and a drain that is
// sent again after the member was taken back doesn't drain it.
func TestDoor_ClusterOnce(t *testing.T) {
	t.Parallel()
	d := harness.Up(t, suite.Binary(t))
	root := d.Admin(t)
	const tokens = "/v1/admin/cluster/join-tokens"
	first := root.Want(t, 201, "POST", tokens, `{"uses":2}`, "Idempotency-Key", "k")
	again := root.Want(t, 200, "POST", tokens, `{"uses":2,"novel":1}`, "Idempotency-Key", "k")
	if first.Str("join_token.token") == "" || first.Str("join_token.token_id") != again.Str("join_token.token_id") ||
		harness.Has(again.At(""), "join_token.token") || again.Header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("first %s, again %s", first.Body, again.Body)
	}
	refused(t, root.Do(t, "POST", tokens, `{"uses":3}`, "Idempotency-Key", "k"), 409, "conflict")
	members := "/v1/admin/cluster/members/" + d.Node().StackID
	root.Want(t, 200, "POST", members+":drain", nil, "Idempotency-Key", "k")
	root.Want(t, 200, "POST", members+":undrain", nil)
	a := root.Want(t, 200, "POST", members+":drain", nil, "Idempotency-Key", "k")
	if a.Str("member.state") != "active" || a.Header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("a drain sent again: %s", a.Body)
	}
}

// Fields that nobody knows are ignored at every door; those that a format has and the node can't honour are refused by name.
//
// Requirements: V4.
func TestDoor_UnknownFields(t *testing.T) {
	t.Parallel()
	tn := suite.Tenant(t, nil)
	tn.Want(t, 201, "POST", "/v1/agents/"+tn.Agent+"/runs", `{"novel":1,"input":{"type":"text","text":"x","novel":[{}]},"run_options":{"novel":{}},"context":{"novel":null}}`)
	tn.Want(t, 201, "PUT", "/v1/agents/agt_novel", `{"novel":1,"agent":{"name":"n","model_ref":"tier:fast","novel":2}}`)
	tn.Want(t, 200, "POST", "/v1/chat/completions", `{"model":"builtin/echo-1","novel":1,"messages":[{"role":"user","content":"x","novel":{}}]}`)
	tn.Want(t, 200, "POST", "/v1/embeddings", `{"model":"builtin/hash-embed-1","input":"x","novel":1}`)
	for _, field := range []string{"n", "logprobs", "functions", "reasoning_effort"} {
		value := map[string]string{"n": "2", "logprobs": "true", "functions": `[{"name":"f"}]`, "reasoning_effort": `"low"`}[field]
		a := tn.Do(t, "POST", "/v1/chat/completions", `{"model":"builtin/echo-1","messages":[{"role":"user","content":"x"}],"`+field+`":`+value+`}`)
		refused(t, a, 400, "invalid_request")
		if a.Str("error.param") != field {
			t.Errorf("%s: %s", field, a.Body)
		}
	}
}

// The same call under one request_id is billed once; another call under it is another.
//
// Requirements: B5.
func TestDoor_BilledOnce(t *testing.T) {
	t.Parallel()
	invoke := func(text, id string) string {
		return `{"request":{"request_id":"` + id + `","operation":"chat","model_ref":"builtin/echo-1","input":{"messages":[{"role":"user","content":"` + text + `"}]}}}`
	}
	for name, calls := range map[string][][3]string{ // path, body, idempotency key; the third is another call
		"chat":   {{"/v1/chat/completions", `{"model":"builtin/echo-1","request_id":"r","messages":[{"role":"user","content":"x"}]}`, ""}, {"/v1/chat/completions", `{"model":"builtin/echo-1","request_id":"r","messages":[{"role":"user","content":"y"}]}`, ""}},
		"header": {{"/v1/chat/completions", `{"model":"builtin/echo-1","messages":[{"role":"user","content":"x"}]}`, "k"}, {"/v1/chat/completions", `{"model":"builtin/echo-1","messages":[{"role":"user","content":"y"}]}`, "k"}},
		"invoke": {{"/v1/models:invoke", invoke("x", "r"), ""}, {"/v1/models:invoke", invoke("y", "r"), ""}},
		"embed":  {{"/v1/embeddings", `{"model":"builtin/hash-embed-1","request_id":"r","input":"x y z"}`, ""}, {"/v1/embeddings", `{"model":"builtin/hash-embed-1","request_id":"r","input":"z y x"}`, ""}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tn := suite.Tenant(t, nil)
			do := func(c [3]string) {
				var headers []string
				if c[2] != "" {
					headers = []string{"Idempotency-Key", c[2]}
				}
				tn.Want(t, 200, "POST", c[0], c[1], headers...)
			}
			for range 3 {
				do(calls[0])
			}
			if a := tn.Want(t, 200, "GET", "/v1/usage", nil); a.Int("usage.rows.0.total_tokens") != 3 {
				t.Errorf("one call of 3 tokens, sent three times: %s", a.Body)
			}
			do(calls[1])
			if a := tn.Want(t, 200, "GET", "/v1/usage", nil); a.Int("usage.rows.0.total_tokens") != 6 {
				t.Errorf("two calls of 3 tokens: %s", a.Body)
			}
		})
	}
}

// Cursors lead through a list once, and through no other.
func TestDoor_Cursors(t *testing.T) {
	t.Parallel()
	tn := suite.Tenant(t, nil)
	for i := range 5 {
		tn.Issue(t, fmt.Sprintf("svc_%d", i), []string{"tenant_user"}, nil)
	}
	path, seen, cursor := "/v1/admin/tenants/"+tn.ID+"/keys", map[string]bool{}, ""
	for range 6 {
		a := tn.Want(t, 200, "GET", path+"?limit=1&cursor="+cursor, nil)
		seen[a.Str("keys.0.key_id")] = true
		cursor = a.Str("next_cursor")
		if strings.Contains(string(a.Body), "secret") {
			t.Errorf("a list of keys holds secrets: %s", a.Body)
		}
		if cursor == "" {
			break
		}
		refused(t, tn.Do(t, "GET", "/v1/agents?cursor="+cursor, nil), 400, "invalid_request")
		refused(t, suite.Tenant(t, nil).Do(t, "GET", "/v1/agents?cursor="+cursor, nil), 400, "invalid_request")
	}
	if len(seen) != 6 || cursor != "" {
		t.Errorf("%d keys, cursor %q", len(seen), cursor)
	}
	refused(t, tn.Do(t, "GET", path+"?cursor=key_x", nil), 400, "invalid_request")
	refused(t, tn.Root.Do(t, "GET", "/v1/admin/tenants?cursor=tnt_x", nil), 400, "invalid_request")
}

// A node says what it can do for who asks, the same under both names, with a digest of it.
//
// Requirements: P9.
func TestDoor_Capabilities(t *testing.T) {
	t.Parallel()
	tn := suite.Tenant(t, nil)
	a := tn.Want(t, 200, "GET", "/v1/peer/capabilities", nil)
	b := tn.Want(t, 200, "GET", "/v1/federation/peer/capabilities", nil)
	if anonymous(a) != anonymous(b) {
		t.Errorf("two names, two answers: %s %s", a.Body, b.Body)
	}
	if a.At("capabilities.supports.events_stream") != true || a.At("capabilities.supports.tenant_isolation") != true ||
		a.Int("capabilities.limits.max_concurrent_runs") < 1 || a.Str("capabilities.models.backends.0") != "builtin" ||
		a.Int("capabilities.models.max_context_tokens") < 1 || a.Str("capabilities.contract.min") == "" || a.Str("capabilities.contract.max") == "" ||
		!strings.HasPrefix(a.Str("capabilities.digest"), "sha256:") || !strings.Contains(string(a.Body), tn.Agent) {
		t.Errorf("capabilities: %s", a.Body)
	}
	other := suite.Tenant(t, nil).Want(t, 200, "GET", "/v1/peer/capabilities", nil)
	if strings.Contains(string(other.Body), tn.Agent) {
		t.Errorf("another tenant's agent is named: %s", other.Body)
	}
	plain := tn.Issue(t, "svc_plain", []string{"tenant_service"}, []string{"peers:read"}).Want(t, 200, "GET", "/v1/peer/capabilities", nil)
	if harness.Has(plain.At(""), "capabilities.agents") {
		t.Errorf("agents are told to who may not read them: %s", plain.Body)
	}
}
