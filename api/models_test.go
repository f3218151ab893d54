package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"github.com/nexixai/agentos/model"
	"github.com/nexixai/agentos/tenancy"
)

// The models are read as everything else is: as new as was asked for, and what can't be asked for is refused.
func TestDoor_ModelsRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	key, _ := w.key("tnt_a", tenancy.RoleTenantUser)
	for _, path := range []string{"/v1/models", "/v1/models/builtin/echo-1"} {
		if a := w.refuse(400, "invalid_request", request{method: "GET", path: path + "?consistency=newest", key: key}); a.field() != "consistency" {
			t.Errorf("%s: %s", path, a.raw)
		}
		q := request{method: "GET", path: path, key: key, header: http.Header{"X-Agentos-Index": {"x"}}}
		w.refuse(400, "invalid_request", q)
		q.header.Set("X-Agentos-Index", fmt.Sprint(w.store.Status().Applied))
		w.want(200, q)
		if a := w.want(200, request{method: "GET", path: path + "?consistency=stale", key: key}); a.Header.Get("X-Agentos-Stale") != "true" {
			t.Errorf("%s: no mark on a stale answer: %v", path, a.Header)
		}
		w.want(200, request{method: "GET", path: path + "?consistency=linearizable", key: key})
	}
}

// A tool that can't be told from others, and a choice of what isn't offered, are named by their place in the envelope.
func TestDoor_InvokeTools(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	key, _ := w.key("tnt_a", tenancy.RoleTenantUser)
	for _, c := range []struct{ input, field string }{
		{`"tools":[{"tool_id":"tool.echo"}]`, "request.input.tools"},
		{`"tools":[{"name":"a"},{"name":"a"}]`, "request.input.tools"},
		{`"tools":[{"name":"a"}],"tool_choice":"b"`, "request.input.tool_choice"},
		{`"tool_choice":"required"`, "request.input.tool_choice"},
	} {
		body := `{"request":{"operation":"chat","input":{"messages":[{"role":"user","content":"x"}],` + c.input + `}}}`
		for _, verb := range []string{"invoke", "explain"} {
			if a := w.refuse(400, "invalid_request", request{method: "POST", path: "/v1/models:" + verb, key: key, body: body}); a.field() != c.field {
				t.Errorf("%s of %s names %v", verb, c.input, a.field())
			}
		}
	}
	w.want(200, request{method: "POST", path: "/v1/models:invoke", key: key, body: `{"request":{"operation":"chat","input":{"messages":[{"role":"user","content":"x"}],"tools":[{"name":"a"}],"tool_choice":"a"}}}`})
}

// Settings that no model could follow are refused for what has no use for them too.
func TestDoor_InvokeGeneration(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	key, _ := w.key("tnt_a", tenancy.RoleTenantUser)
	for _, ask := range []string{`"operation":"chat","input":{"messages":[{"role":"user","content":"x"}]}`, `"operation":"embed","input":{"texts":["x"]}`} {
		for name, bad := range map[string]string{"temperature": "2.1", "top_p": "-0.1", "max_output_tokens": "0"} {
			body := fmt.Sprintf(`{"request":{%s,"generation":{%q:%s}}}`, ask, name, bad)
			if a := w.refuse(400, "invalid_request", request{method: "POST", path: "/v1/models:invoke", key: key, body: body}); a.field() != "request.generation."+name {
				t.Errorf("%s names %v", body, a.field())
			}
		}
	}
}

// What policy blocks is explained as what it does not: with the candidates, and with nothing held back.
func TestDoor_ExplainBlocked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	key, _ := w.key("tnt_a", tenancy.RoleTenantAdmin)
	w.want(201, request{method: "PUT", path: "/v1/policy/rulesets/pol_strict", key: key, body: `{"ruleset":{"deny":[{"name":"word","pattern":"basalt"}]}}`})
	platform, _ := w.key("tnt_a", tenancy.RolePlatformAdmin)
	w.want(200, request{method: "PATCH", path: "/v1/admin/tenants/tnt_a", key: platform, body: `{"tenant_update":{"default_policy_id":"pol_strict"}}`})
	for _, ask := range []string{
		`{"request":{"operation":"chat","input":{"messages":[{"role":"user","content":"basalt"}]}}}`,
		`{"request":{"operation":"embed","input":{"texts":["basalt"]}}}`,
	} {
		a := w.want(200, request{method: "POST", path: "/v1/models:explain", key: key, body: ask})
		var got struct{ Explanation model.Explanation }
		w.must(json.Unmarshal(a.raw, &got))
		if e := got.Explanation; e.Decision.ModelRef != "tier:fast" || len(e.Decision.Considered) == 0 || e.PolicyOutcome.Decision != model.Blocked || e.Reservation.Tokens != 0 {
			t.Errorf("%s: %s", ask, a.raw)
		}
		w.refuse(403, "policy_blocked", request{method: "POST", path: "/v1/models:invoke", key: key, body: ask})
	}
}
