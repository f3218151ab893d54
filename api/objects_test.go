package api_test

import (
	"strings"
	"testing"

	"github.com/nexixai/agentos/tenancy"
)

// What a tool signs its calls with is shown to nobody, and what stands in its place is not taken for a secret.
//
// Requirements: A4, T6.
func TestDoor_ToolSecret(t *testing.T) {
	w := newWorld(t, nil)
	admin, _ := w.key("tnt_a", tenancy.RoleTenantAdmin)
	put := func(secret string) request {
		return request{method: "PUT", path: "/v1/tools/tool.signed", key: admin, body: `{"tool":{"kind":"http","config":{"url":"https://example.com/","signing_secret":"` + secret + `"}}}`}
	}
	const secret = "very-secret-words"
	made := w.want(201, put(secret))
	for _, a := range []*answer{
		made,
		w.want(200, request{method: "GET", path: "/v1/tools/tool.signed", key: admin}),
		w.want(200, request{method: "GET", path: "/v1/tools", key: admin}),
	} {
		if s := string(a.raw); strings.Contains(s, secret) || !strings.Contains(s, `"signing_secret":"********"`) {
			t.Errorf("answered %s", s)
		}
	}
	if a := w.refuse(400, "invalid_request", put("********")); !strings.Contains(string(a.raw), `"tool.config.signing_secret"`) {
		t.Errorf("answered %s", a.raw)
	}
}

// Members that may be empty are there all the same, and nothing is echoed that nobody knows.
//
// Requirements: Q1.
func TestDoor_WholeObjects(t *testing.T) {
	w := newWorld(t, nil)
	admin, _ := w.key("tnt_a", tenancy.RolePlatformAdmin)
	for _, c := range []struct{ method, path, body, holds string }{
		{"PUT", "/v1/agents/agt_bare", `{"agent":{}}`, `"run_defaults":{},"policy_id":null`},
		{"PUT", "/v1/agents/agt_bare", `{"agent":{"policy_id":"pol_x","run_defaults":{"max_steps":3,"priority":null,"color":"red"}}}`, `"run_defaults":{"max_steps":3},"policy_id":"pol_x"`},
		{"GET", "/v1/agents/agt_bare", "", `"run_defaults":{"max_steps":3},"policy_id":"pol_x"`},
		{"GET", "/v1/tools/tool.echo", "", `"config":{}`},
		{"POST", "/v1/admin/tenants/tnt_a/keys", `{"principal_id":"svc_a","expires_at":"2999-01-01T02:00:00+02:00"}`, `"expires_at":"2999-01-01T00:00:00Z"`},
	} {
		if a := w.do(request{method: c.method, path: c.path, key: admin, body: c.body}); a.StatusCode >= 300 || !strings.Contains(string(a.raw), c.holds) {
			t.Errorf("%s %s: %d %s, want %s", c.method, c.path, a.StatusCode, a.raw, c.holds)
		}
	}
	for _, path := range []string{"/v1/admin/cluster", "/v1/admin/backends"} {
		w.refuse(400, "invalid_request", request{method: "GET", path: path + "?consistency=fresh", key: admin})
	}
	w.refuse(400, "invalid_request", request{method: "POST", path: "/v1/admin/cluster/join-tokens", key: admin, body: `{"uses":-1}`})
}
