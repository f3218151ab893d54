package conformance_test

import (
	"strings"
	"testing"

	"github.com/nexixai/agentos/tests/conformance"
	"github.com/nexixai/agentos/tests/harness"
)

// at returns the operation of a "METHOD template".
func (w *world) at(t *testing.T, name string) *conformance.Operation {
	t.Helper()
	for _, o := range w.operations() {
		if key(o) == name {
			return o
		}
	}
	t.Fatalf("no document has %s", name)
	return nil
}

// special asks for the answers that take more than one request, or a state of their own.
func (w *world) special(t *testing.T) {
	t.Run("runs", w.specialRuns)
	t.Run("streams", w.specialStreams)
	t.Run("models", w.specialModels)
	t.Run("limits", w.specialLimits)
	t.Run("reads", w.specialReads)
	t.Run("conflicts", w.specialConflicts)
	t.Run("two organisations", w.specialPeers)
}

const (
	createRun  = "POST /v1/agents/{agent_id}/runs"
	readRun    = "GET /v1/runs/{run_id}"
	readEvents = "GET /v1/runs/{run_id}/events"
	cancelRun  = "POST /v1/runs/{run_id}:cancel"
	chat       = "POST /v1/chat/completions"
)

func (w *world) specialRuns(t *testing.T) {
	create, agent := w.at(t, createRun), map[string]string{"agent_id": w.Agent}
	once := request{params: agent, body: harness.Body("/say once", nil), headers: []string{"Idempotency-Key", "a key"}}
	w.want(t, 201, create, once)
	if a := w.want(t, 200, create, once); a.Header.Get("Idempotent-Replayed") != "true" {
		t.Error("a replay does not say so")
	}
	once.body = harness.Body("/say another", nil)
	w.want(t, 409, create, once)
	w.want(t, 200, create, request{params: agent, body: harness.Body("x", object{"run_options": object{"dry_run": true}})})
	w.want(t, 413, create, request{params: agent, body: harness.Body(strings.Repeat("a", 300<<10), nil)})
	w.want(t, 400, create, request{params: agent, body: harness.Body("x", nil), headers: []string{"Idempotency-Key", strings.Repeat("k", 257)}})
	w.want(t, 400, create, request{params: agent, body: `{"input":{"type":"text","text":7}}`, headers: []string{"Accept", "application/problem+json"}})
	for name, body := range map[string]map[string]any{
		"failed": harness.Body("/error internal_error", nil), "step limit": harness.Body("/call tool.echo {}\n/call tool.echo {}", object{"run_options": object{"max_steps": 1}}),
		"timeout": harness.Body("/wait 5s", object{"run_options": object{"timeout_ms": 50}}), "denied": harness.Body("/call tool.nobodys {}\n/say on", nil),
		"deltas": harness.Body("/tokens 5", nil), "kept": harness.Body(`/call tool.kv.put {"key":"k","value":1}`+"\n"+`/call tool.kv.get {"key":"k"}`, nil),
	} {
		t.Run(name, func(t *testing.T) { w.through(t, w.Client, request{params: agent, body: body}) })
	}
	done := map[string]string{"run_id": w.through(t, w.Client, request{params: agent, body: harness.Body("done", nil)})}
	w.want(t, 409, w.at(t, cancelRun), request{params: done})
	w.want(t, 200, w.at(t, cancelRun), request{params: w.live()})
}

// through makes a run, follows it to its end, and has run and journal judged.
func (w *world) through(t *testing.T, as *harness.Client, r request) string {
	t.Helper()
	r.as = as
	id := w.want(t, 201, w.at(t, createRun), r).Str("run.run_id")
	of := request{params: map[string]string{"run_id": id}, as: as}
	w.want(t, 200, w.at(t, readEvents), of)
	w.want(t, 200, w.at(t, readRun), of)
	w.want(t, 200, w.at(t, "GET /v1/federation/runs/{run_id}/events"), of)
	return id
}

func (w *world) specialStreams(t *testing.T) {
	events, done := w.at(t, readEvents), w.run("x")
	w.want(t, 204, events, request{params: done, query: "after_sequence=1000"})
	w.want(t, 200, events, request{params: done, query: "from_sequence=1"})
	w.want(t, 200, events, request{params: done, headers: []string{"Last-Event-ID", "2"}})
	w.want(t, 400, events, request{params: done, query: "after_sequence=-1"})
	w.want(t, 400, events, request{params: done, query: "after_sequence=x"})
	text := func(content string, more object) request {
		body := object{"model": "builtin/echo-1", "messages": []any{object{"role": "user", "content": content}}, "stream": true}
		for name, v := range more {
			body[name] = v
		}
		return request{body: body}
	}
	w.want(t, 200, w.at(t, chat), text("/tokens 4", nil))
	w.want(t, 200, w.at(t, chat), text("/tokens 4", object{"stream_options": object{"include_usage": true}}))
	w.want(t, 200, w.at(t, chat), text("/cut 2", nil))
	w.want(t, 200, w.at(t, chat), text(`/call tool.echo {"a":1}`, object{"tools": []any{object{"type": "function", "function": object{"name": "echo", "parameters": object{"type": "object"}}}}}))
}

func (w *world) specialModels(t *testing.T) {
	one := func(model, content string) request {
		return request{body: object{"model": model, "messages": []any{object{"role": "user", "content": content}}}}
	}
	if a := w.want(t, 404, w.at(t, chat), one("nobodys/model", "x")); a.Str("error.param") != "model" {
		t.Errorf("an unknown model: %s", a.Body)
	}
	for _, code := range []string{"rate_limited", "dependency_unavailable", "timeout", "invalid_request", "internal_error"} {
		w.ask(t, w.at(t, chat), one("builtin/echo-1", "/error "+code)) // whatever it comes to: the answer is a documented one
	}
	w.want(t, 200, w.at(t, "POST /v1/embeddings"), request{body: object{"model": "builtin/hash-embed-1", "input": "a", "encoding_format": "base64"}})
	w.want(t, 200, w.at(t, "POST /v1/models:invoke"), request{body: object{"request": object{
		"request_id": fresh("req"), "operation": "embed", "model_ref": "builtin/hash-embed-1", "input": object{"texts": []string{"a"}, "encoding_format": "float"},
	}}})
	w.want(t, 200, w.at(t, "POST /v1/models:invoke"), request{body: object{"request": object{
		"request_id": fresh("req"), "operation": "chat", "model_ref": "builtin/echo-1", "input": object{
			"messages": []any{object{"role": "user", "content": `/call tool.echo {"a":1}`}}, "tools": []any{object{"tool_id": "tool.echo", "name": "echo", "input_schema": object{"type": "object"}}},
		},
	}}})
	w.want(t, 404, w.at(t, "GET /v1/models/{model_id}"), request{params: map[string]string{"model_id": "nobodys/model"}, headers: []string{"Accept", "application/problem+json"}})
}

func (w *world) specialLimits(t *testing.T) {
	poor := harness.Wide()
	poor["runs"] = object{"max_concurrent_runs": 0, "run_create_qps": nil, "run_create_burst": nil}
	poor["models"] = object{"token_budget": object{"window": "day", "max_tokens": 1, "max_cost_usd": 1}, "max_tokens_per_request": nil, "max_requests_per_minute": nil}
	tn := harness.NewTenant(t, w.Root, poor)
	a := w.want(t, 429, w.at(t, createRun), request{as: tn.Client, params: map[string]string{"agent_id": tn.Agent}, body: harness.Body("x", nil)})
	if a.Code() != "rate_limited" {
		t.Errorf("no slot: %s", a.Body)
	}
	a = w.want(t, 429, w.at(t, chat), request{as: tn.Client, body: object{"model": "builtin/echo-1", "messages": []any{object{"role": "user", "content": "a b c d"}}}})
	if a.Code() != "quota_exceeded" {
		t.Errorf("no budget: %s", a.Body)
	}
	w.want(t, 200, w.at(t, createRun), request{as: tn.Client, params: map[string]string{"agent_id": tn.Agent}, body: harness.Body("x", object{"run_options": object{"dry_run": true}})})
}

func (w *world) specialReads(t *testing.T) {
	tagged := map[string]request{"GET /v1/peer/info": {}, "GET /v1/peer/capabilities": {}, "GET /openapi/{name}.yaml": {params: map[string]string{"name": "common"}}, "GET /docs/": {}}
	for name, r := range tagged {
		tag := w.want(t, 200, w.at(t, name), r).Header.Get("ETag")
		r.headers = []string{"If-None-Match", tag}
		w.want(t, 304, w.at(t, name), r)
	}
	run := w.run("x")
	for _, how := range []string{"stale", "linearizable", "default"} {
		w.want(t, 200, w.at(t, readRun), request{params: run, query: "consistency=" + how})
		w.want(t, 404, w.at(t, readRun), request{params: foreign(run), query: "consistency=" + how})
	}
	w.want(t, 504, w.at(t, readRun), request{params: run, headers: []string{"X-AgentOS-Index", "1000000000"}})
	w.run("y")
	next := w.want(t, 200, w.at(t, "GET /v1/runs"), request{query: "limit=1"}).Str("next_cursor")
	if next == "" {
		t.Fatal("no second page")
	}
	w.want(t, 200, w.at(t, "GET /v1/runs"), request{query: "limit=1&cursor=" + next})
	w.want(t, 400, w.at(t, "GET /v1/agents"), request{query: "cursor=" + next})
	w.want(t, 200, w.at(t, "GET /v1/admin/audit"), request{as: w.Root, query: "tenant_id=platform&limit=500"})
}

func (w *world) specialConflicts(t *testing.T) {
	revoked := w.Root.Want(t, 201, "POST", "/v1/federation/peerings", object{"ttl_seconds": 60}).Str("peering.peering_id")
	w.Root.Want(t, 204, "DELETE", "/v1/federation/peerings/"+revoked, nil)
	of := request{as: w.Root, params: map[string]string{"peering_id": revoked}}
	w.want(t, 409, w.at(t, "POST /v1/federation/peerings/{peering_id}:suspend"), of)
	w.want(t, 409, w.at(t, "POST /v1/federation/peerings/{peering_id}:resume"), of)
	of.body = object{"exports": []any{}}
	w.want(t, 409, w.at(t, "PUT /v1/federation/peerings/{peering_id}/exports"), of)
	w.want(t, 409, w.at(t, "POST /v1/admin/tenants"), request{as: w.Root, body: object{"tenant_create": object{"tenant_id": w.ID, "name": "twice"}}})
	w.want(t, 409, w.at(t, "POST /v1/federation/runs:forward"), request{body: object{"forward": object{
		"target_selector": object{"required_capabilities": []string{"no_such_capability"}},
		"run_request":     object{"agent_id": w.Agent, "input": object{"type": "text", "text": "hello"}},
	}}})
	for _, name := range []string{"POST /v1/admin/tenants", "POST /v1/federation/peerings", "POST /v1/admin/cluster/join-tokens"} {
		r := samples()[name](w)
		r.headers = []string{"Idempotency-Key", fresh("k")}
		w.want(t, 201, w.at(t, name), r)
		w.want(t, 200, w.at(t, name), r)
	}
	issue := samples()["POST /v1/admin/tenants/{id}/keys"](w)
	issue.headers = []string{"Idempotency-Key", fresh("k")}
	w.want(t, 201, w.at(t, "POST /v1/admin/tenants/{id}/keys"), issue)
	if a := w.want(t, 200, w.at(t, "POST /v1/admin/tenants/{id}/keys"), issue); a.At("key.secret") != nil {
		t.Error("a replay shows the secret again")
	}
}

// specialPeers has a run of the demo tenant executed by the other organisation.
func (w *world) specialPeers(t *testing.T) {
	d := suite.Shared(t)
	user, admin := d.Client(d.Key(t, "tnt_demo", "tenant_user")), d.Client(d.Key(t, "tnt_demo", "tenant_admin"))
	const there = "agt_globex_summarizer_v1"
	explained := request{as: admin, body: object{"run_request": object{"agent_id": there}}}
	if !harness.Poll(soon, soon/1000, func() bool {
		return admin.Do(t, "POST", "/v1/federation/routes:explain", explained.body).At("decision.target") != nil
	}) {
		t.Fatal("nothing leads to the other organisation")
	}
	w.want(t, 200, w.at(t, "POST /v1/federation/routes:explain"), explained)
	w.want(t, 200, w.at(t, "GET /v1/agents"), request{as: user})
	w.want(t, 200, w.at(t, "GET /v1/agents/{agent_id}"), request{as: user, params: map[string]string{"agent_id": there}})
	w.want(t, 200, w.at(t, "GET /v1/federation/peers/{stack_id}"), request{as: user, params: map[string]string{"stack_id": w.globex(t)}})
	w.through(t, user, request{params: map[string]string{"agent_id": there}, body: harness.Body(`/call tool.echo {"a":1}`, nil)})
	w.want(t, 200, w.at(t, "POST /v1/federation/runs:forward"), request{as: user, body: object{"forward": object{
		"target_selector": object{"organization": "globex"}, "run_request": object{"agent_id": there, "input": object{"type": "text", "text": "hello"}},
	}}})
}
