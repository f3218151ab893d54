package conformance_test

import (
	"strings"
	"testing"

	"github.com/nexixai/agentos/tests/harness"
)

type object = map[string]any

// sample makes a request that succeeds, with whatever it builds on.
type sample func(w *world) request

// nothing is for an operation that needs no more than its path.
func nothing(*world) request { return request{} }

// with is for one that takes a body.
func with(body any) sample { return func(*world) request { return request{body: body} } }

// root has the platform's administrator send a sample.
func root(s sample) sample {
	return func(w *world) request {
		r := s(w)
		r.as = w.Root
		return r
	}
}

// expect has a sample answered with a status other than success, where no success is to be had.
func expect(status int, s sample) sample {
	return func(w *world) request {
		r := s(w)
		r.status = status
		return r
	}
}

// samples has one for every operation that the API serves; an operation without one fails the test.
func samples() map[string]sample {
	all := map[string]sample{}
	for _, some := range []map[string]sample{runSamples(), catalogSamples(), modelSamples(), federationSamples(), adminSamples()} {
		for at, s := range some {
			all[at] = s
		}
	}
	return all
}

func (w *world) run(text string) map[string]string {
	id := w.Create(w.t, text, nil)
	w.Journal(w.t, id)
	return map[string]string{"run_id": id}
}

func (w *world) live() map[string]string {
	return map[string]string{"run_id": w.Create(w.t, "/wait 10s", nil)}
}

func runSamples() map[string]sample {
	done := func(w *world) request { return request{params: w.run("/call tool.echo {\"a\":1}")} }
	live := func(w *world) request { return request{params: w.live()} }
	return map[string]sample{
		"GET /healthz":              nothing,
		"GET /readyz":               nothing,
		"GET /v1/health":            nothing,
		"GET /stack-b/v1/health":    nothing,
		"GET /v1/federation/health": nothing,
		"GET /docs/":                nothing,
		"GET /openapi/{name}.yaml":  func(*world) request { return request{params: map[string]string{"name": "stack-a"}} },
		"POST /v1/agents/{agent_id}/runs": func(w *world) request {
			return request{params: map[string]string{"agent_id": w.Agent}, body: harness.Body("hello", object{
				"context":     object{"locale": "en", "timezone": "UTC", "channel": "test", "user_id": "u", "session_id": "s", "labels": object{"team": "red"}, "metadata": object{"n": 1}},
				"tooling":     object{"tool_allowlist": []string{"tool.echo"}, "tool_denymap": []string{}},
				"run_options": object{"priority": "high", "timeout_ms": 60000, "max_steps": 5, "stream_events": false},
			})}
		},
		"GET /v1/runs":                             func(w *world) request { w.run("x"); return request{query: "status=completed&limit=1"} },
		"GET /v1/runs/{run_id}":                    done,
		"POST /v1/runs/{run_id}:cancel":            live,
		"GET /v1/runs/{run_id}/events":             done,
		"GET /v1/runs/{run_id}/receipt":            expect(404, done), // none is written yet
		"GET /v1/federation/runs/{run_id}":         done,
		"GET /v1/federation/runs/{run_id}/events":  done,
		"POST /v1/federation/runs/{run_id}:cancel": live,
		"POST /v1/federation/runs:forward": func(w *world) request {
			return request{body: object{"forward": object{
				"target_selector": object{"required_capabilities": []string{"events_stream"}},
				"run_request":     object{"agent_id": w.Agent, "input": object{"type": "text", "text": "hello"}},
			}}}
		},
		"POST /v1/federation/events:ingest": func(w *world) request {
			id := w.run("x")["run_id"]
			return request{body: object{"ingest": object{"source_stack_id": w.stack, "dedupe": object{"mode": "event_id"}}, "events": []any{object{"event": object{
				"event_id": fresh("evt"), "sequence": 99, "time": "2026-11-25T08:00:00Z", "type": "agentos.run.started", "tenant_id": w.ID, "agent_id": w.Agent,
				"run_id": id, "step_id": nil, "trace": object{"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "span_id": "b7ad6b7169203331"},
				"payload": object{"status": "running", "stack_id": w.stack, "attempt": 1},
			}}}}}
		},
	}
}

func catalogSamples() map[string]sample {
	agent := object{"agent": object{"name": "Echo", "description": "d", "version": "1", "status": "active", "model_ref": "tier:fast", "instructions": "i", "tool_ids": []string{"tool.echo"}}}
	tool := object{"tool": object{"kind": "http", "description": "d", "input_schema": object{"type": "object"}, "idempotent": true, "config": object{"url": "https://example.com/"}}}
	note := object{"value": object{"text": "a note"}, "metadata": object{"kind": "note"}}
	put := func(path, name string, body any) sample {
		return func(w *world) request {
			id := fresh("x")
			if name == "tool_id" {
				id = "tool." + id
			}
			w.need("PUT", path+id, body)
			return request{params: map[string]string{name: id, "ns": "notes"}}
		}
	}
	again := func(s sample, body any) sample {
		return func(w *world) request {
			r := s(w)
			r.body = body
			return r
		}
	}
	agents, tools, notes := put("/v1/agents/", "agent_id", agent), put("/v1/tools/", "tool_id", tool), put("/v1/memory/notes/", "key", note)
	return map[string]sample{
		"GET /v1/agents":                           nothing,
		"GET /v1/agents/{agent_id}":                agents,
		"PUT /v1/agents/{agent_id}":                again(agents, agent),
		"DELETE /v1/agents/{agent_id}":             agents,
		"GET /v1/tools":                            nothing,
		"GET /v1/tools/{tool_id}":                  tools,
		"PUT /v1/tools/{tool_id}":                  again(tools, tool),
		"DELETE /v1/tools/{tool_id}":               tools,
		"GET /v1/memory/{ns}/{key}":                notes,
		"PUT /v1/memory/{ns}/{key}":                again(notes, note),
		"DELETE /v1/memory/{ns}/{key}":             notes,
		"POST /v1/memory/{ns}:search":              again(notes, object{"query": "note", "limit": 3, "filters": object{"kind": "note"}, "mode": "keyword"}),
		"GET /v1/federation/peers":                 nothing,
		"GET /v1/usage":                            func(w *world) request { w.run("x"); return request{query: "window=day&group_by=model"} },
		"GET /v1/admin/audit":                      func(*world) request { return request{query: "limit=5"} },
		"GET /v1/peer/info":                        nothing,
		"GET /v1/federation/peer":                  nothing,
		"GET /v1/peer/capabilities":                nothing,
		"GET /v1/admin/backends":                   nothing,
		"GET /v1/admin/prices":                     nothing,
		"PUT /v1/admin/prices":                     root(prices),
		"POST /v1/admin/backup":                    root(nothing),
		"GET /v1/admin/cluster":                    root(nothing),
		"GET /v1/federation/peerings":              root(nothing),
		"GET /v1/policy/rulesets":                  nothing,
		"GET /v1/models":                           nothing,
		"GET /v1/federation/routes":                nothing,
		"POST /v1/federation/peerings":             root(with(object{"ttl_seconds": 60})),
		"GET /v1/admin/tenants":                    root(func(*world) request { return request{query: "limit=2"} }),
		"POST /v1/admin/cluster/join-tokens":       root(with(object{"ttl_seconds": 60, "uses": 1})),
		"POST /v1/admin/cluster:rotate-gossip-key": root(nothing),
		"GET /v1/federation/peer/capabilities":     nothing,
	}
}

// prices sets what is set already.
func prices(w *world) request {
	a := w.Root.Want(w.t, 200, "GET", "/v1/admin/prices", nil)
	return request{body: object{"prices": a.At("prices")}}
}

func modelSamples() map[string]sample {
	invoke := object{"request": object{
		"request_id": "req_1", "operation": "chat", "model_ref": "tier:fast", "requirements": object{"max_latency_ms": 30000, "max_cost_usd": 1},
		"input": object{"messages": []any{object{"role": "user", "content": "hello"}}}, "generation": object{"max_output_tokens": 20},
	}}
	check := with(object{"policy_check": object{"request_id": "req_1", "content": object{"type": "text", "text": "write to ann@example.com"}, "ruleset": "pol_default"}})
	ruleset := object{"ruleset": object{"redact": []string{"email"}}}
	rules := func(body any) sample {
		return func(w *world) request {
			id := fresh("pol")
			w.need("PUT", "/v1/policy/rulesets/"+id, ruleset)
			return request{params: map[string]string{"policy_id": id}, body: body}
		}
	}
	return map[string]sample{
		"POST /v1/chat/completions": with(object{
			"model": "builtin/echo-1", "messages": []any{object{"role": "system", "content": "s"}, object{"role": "user", "content": "hello ann@example.com"}}, "max_tokens": 20,
		}),
		"POST /v1/embeddings":                    with(object{"model": "builtin/hash-embed-1", "input": []string{"a", "b"}}),
		"GET /v1/models/{model_id}":              func(*world) request { return request{params: map[string]string{"model_id": "builtin/echo-1"}} },
		"POST /v1/models:invoke":                 with(invoke),
		"POST /v1/models:explain":                with(invoke),
		"POST /v1/policy/check":                  check,
		"POST /v1/policy:check":                  check,
		"GET /v1/policy/rulesets/{policy_id}":    rules(nil),
		"PUT /v1/policy/rulesets/{policy_id}":    rules(ruleset),
		"DELETE /v1/policy/rulesets/{policy_id}": rules(nil),
	}
}

func federationSamples() map[string]sample {
	route := object{"route": object{"match": object{"agent_id": "agt_nobodys", "labels": object{"team": "red"}}, "targets": []any{object{"organization": "globex", "weight": 3}, object{"local": true, "weight": 1}}, "lost_after_ms": 60000, "on_lost": "fail"}}
	routes := func(body any) sample {
		return func(w *world) request {
			id := fresh("rte")
			w.need("PUT", "/v1/federation/routes/"+id, route)
			return request{params: map[string]string{"route_id": id}, body: body}
		}
	}
	peer := func(w *world) request { return request{params: map[string]string{"stack_id": w.globex(w.t)}} }
	peering := root(func(w *world) request { return request{params: map[string]string{"peering_id": w.peering}} })
	suspend := func(w *world) request {
		w.after = append(w.after, func() { w.Root.Want(w.t, 200, "POST", "/v1/federation/peerings/"+w.peering+":resume", nil) })
		return peering(w)
	}
	return map[string]sample{
		"GET /v1/federation/routes/{route_id}":              routes(nil),
		"PUT /v1/federation/routes/{route_id}":              routes(route),
		"DELETE /v1/federation/routes/{route_id}":           routes(nil),
		"POST /v1/federation/routes:explain":                with(object{"run_request": object{"agent_id": "agt_sample_echo_v1"}}),
		"GET /v1/federation/peers/{stack_id}":               peer,
		"POST /v1/federation/peers/{stack_id}:ping":         peer,
		"GET /v1/federation/peerings/{peering_id}":          peering,
		"POST /v1/federation/peerings/{peering_id}:suspend": suspend,
		"POST /v1/federation/peerings/{peering_id}:resume":  suspend,
		"PUT /v1/federation/peerings/{peering_id}/exports": root(func(w *world) request {
			a := w.Root.Want(w.t, 200, "GET", "/v1/federation/peerings/"+w.peering, nil)
			return request{params: map[string]string{"peering_id": w.peering}, body: object{"exports": a.At("peering.exports")}}
		}),
		"DELETE /v1/federation/peerings/{peering_id}": root(func(w *world) request {
			a := w.Root.Want(w.t, 201, "POST", "/v1/federation/peerings", object{"ttl_seconds": 60})
			return request{params: map[string]string{"peering_id": a.Str("peering.peering_id")}}
		}),
	}
}

// globex is the stack id of the other organisation's node, once it is known.
func (w *world) globex(tb testing.TB) string {
	tb.Helper()
	return suite.Shared(tb).Org(tb, "globex").Nodes[0].StackID
}

func adminSamples() map[string]sample {
	own := func(body any) sample {
		return func(w *world) request { return request{params: map[string]string{"id": w.ID}, body: body} }
	}
	other := func(w *world) request {
		a := w.Root.Want(w.t, 201, "POST", "/v1/admin/tenants", object{"tenant_create": object{"name": "another"}})
		return request{params: map[string]string{"id": a.Str("tenant.tenant_id")}}
	}
	issued := func(w *world) request {
		a := w.need("POST", "/v1/admin/tenants/"+w.ID+"/keys", object{"principal_id": "svc_a"})
		return request{params: map[string]string{"id": w.ID, "key_id": a.Str("key.key_id")}}
	}
	return map[string]sample{
		"POST /v1/admin/tenants": root(with(object{"tenant_create": object{
			"name": "Sales", "plan_tier": "standard", "entitlements": object{"model_tiers_allowed": []string{"fast"}},
			"quotas":   object{"runs": object{"max_concurrent_runs": 5}, "models": object{"token_budget": object{"window": "day", "max_tokens": 1000, "max_cost_usd": 1}}},
			"metadata": object{"tags": []string{"a"}, "billing_account": "b"},
		}})),
		"GET /v1/admin/tenants/{id}":                        own(nil),
		"PATCH /v1/admin/tenants/{id}":                      own(object{"tenant_update": object{"name": "another name"}}),
		"POST /v1/admin/tenants/{id}:enable":                root(other),
		"POST /v1/admin/tenants/{id}:disable":               root(other),
		"GET /v1/admin/tenants/{id}/quotas":                 own(nil),
		"PUT /v1/admin/tenants/{id}/quotas":                 root(own(object{"quota_config": harness.Wide()})),
		"POST /v1/admin/tenants/{id}/keys":                  own(object{"principal_id": "svc_a", "principal_type": "service", "roles": []string{"tenant_service"}, "scopes": []string{"runs:read"}, "policy_context": object{"data_classification": "internal"}}),
		"GET /v1/admin/tenants/{id}/keys":                   own(nil),
		"POST /v1/admin/tenants/{id}/keys/{key_id}:rotate":  issued,
		"DELETE /v1/admin/tenants/{id}/keys/{key_id}":       issued,
		"POST /v1/admin/cluster/members/{stack_id}:drain":   root(member),
		"POST /v1/admin/cluster/members/{stack_id}:undrain": root(member),
		"DELETE /v1/admin/cluster/members/{stack_id}":       root(expect(409, member)),         // the only one; doors_test removes another
		"POST /v1/admin/cluster:transfer-leader":            root(expect(409, with(object{}))), // to nobody; tests/cluster has three
	}
}

// member is the node itself.
func member(w *world) request {
	return request{params: map[string]string{"stack_id": w.stack}}
}

// foreign names the parameters of a path something that does not exist.
func foreign(params map[string]string) map[string]string {
	out := map[string]string{}
	for name := range params {
		out[name] = "nothing_" + strings.ToLower(name)
		if name == "tool_id" {
			out[name] = "tool.nothing"
		}
	}
	return out
}
