package api_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nexixai/agentos/api"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/peer/trust"
	"github.com/nexixai/agentos/peer/trust/trusttest"
	"github.com/nexixai/agentos/tenancy"
)

// ours is what globex may do at acme.
func ours() registry.Peering {
	return registry.Peering{
		ID: "prg_1", Organization: "globex", TrustDomain: "globex.test", ClusterID: "clu_globex", State: registry.PeeringActive,
		Exports: []registry.Grant{
			{TenantID: "tnt_g", LocalTenantID: "tnt_a", Scopes: []tenancy.Scope{tenancy.RunsRead, tenancy.RunsForward, tenancy.TenantsAdmin}, MaxDataClassification: "internal"},
			{TenantID: "tnt_gone", LocalTenantID: "tnt_gone", Scopes: []tenancy.Scope{tenancy.RunsRead, tenancy.RunsForward}},
		},
	}
}

// abroad is acme's federation door, and globex's node before it.
type abroad struct {
	*world
	mu      sync.Mutex
	peering registry.Peering
	touch   error
	free    int
	creds   *trust.Credentials
}

func newAbroad(t *testing.T) *abroad {
	t.Helper()
	a := &abroad{peering: ours(), free: 3, creds: trusttest.New(t, "globex.test").Node("stk_g")}
	a.world = newWorld(t, func(o *api.Options) {
		o.About.ClusterID, o.About.TrustDomain = "clu_acme", "acme.test"
		o.Federation = &api.Federation{
			Active: func(_ context.Context, domain string) (registry.Peering, error) {
				a.mu.Lock()
				defer a.mu.Unlock()
				if domain != a.peering.TrustDomain || a.peering.State != registry.PeeringActive {
					return registry.Peering{}, fault.New(fault.Forbidden, "There is no peering with %s.", domain)
				}
				return a.peering, nil
			},
			Members: func() []string { return []string{"b:8421", "a:8421"} },
			Load:    func() (bool, int) { a.mu.Lock(); defer a.mu.Unlock(); return true, a.free },
			InTouch: func() error { a.mu.Lock(); defer a.mu.Unlock(); return a.touch },
		}
	})
	return a
}

// ask asks at the federation door with a certificate, nil for none, and a token.
func (a *abroad) ask(leaf *x509.Certificate, method, path, token string, header ...string) *answer {
	a.t.Helper()
	r := httptest.NewRequest(method, path, nil)
	r.TLS = &tls.ConnectionState{}
	if leaf != nil {
		r.TLS.PeerCertificates = []*x509.Certificate{leaf}
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	rec := httptest.NewRecorder()
	a.door.FederationHandler().ServeHTTP(rec, r)
	return a.check(request{method: method, path: path}, rec.Result())
}

// token signs for globex's principal usr_g, as change has it.
func (a *abroad) token(change func(*trust.ForwardClaims)) string {
	a.t.Helper()
	signer, err := a.creds.ForwardSigner()
	a.must(err)
	c := trust.ForwardClaims{
		Subject: "usr_g", Audience: "clu_acme", TenantID: "tnt_a", Scopes: []tenancy.Scope{tenancy.RunsRead, tenancy.AgentsRead, tenancy.TenantsAdmin}, ID: "jti_1", Hops: 2,
	}
	if change != nil {
		change(&c)
	}
	text, _, err := signer.Sign(c, "clu_globex", time.Now())
	a.must(err)
	return text
}

// TestFederation_rights: what is done for a tenant takes a token for this cluster, a grant in that tenant, and a scope of both.
//
// Requirements: P6.
func TestFederation_rights(t *testing.T) {
	a := newAbroad(t)
	const path = "/v1/federation/runs/run_none"
	stranger := trusttest.New(t, "initech.test").Node("stk_i").Leaf()
	for name, c := range map[string]struct {
		leaf   *x509.Certificate
		token  string
		status int
		code   string
	}{
		"all of it":                 {a.creds.Leaf(), a.token(nil), 404, "not_found"}, // it may look, and there is no such run
		"no certificate":            {nil, a.token(nil), 401, "unauthorized"},
		"a domain without peering":  {stranger, a.token(nil), 403, "forbidden"},
		"no token":                  {a.creds.Leaf(), "", 401, "unauthorized"},
		"an API key for a token":    {a.creds.Leaf(), "aos_x", 401, "unauthorized"},
		"for another cluster":       {a.creds.Leaf(), a.token(func(c *trust.ForwardClaims) { c.Audience = "clu_other" }), 401, "unauthorized"},
		"a tenant without a grant":  {a.creds.Leaf(), a.token(func(c *trust.ForwardClaims) { c.TenantID = "tnt_b" }), 403, "forbidden"},
		"a tenant that isn't there": {a.creds.Leaf(), a.token(func(c *trust.ForwardClaims) { c.TenantID = "tnt_gone" }), 403, "forbidden"},
		"a scope not in the token":  {a.creds.Leaf(), a.token(func(c *trust.ForwardClaims) { c.Scopes = []tenancy.Scope{tenancy.RunsForward} }), 403, "forbidden"},
		"too high a class":          {a.creds.Leaf(), a.token(func(c *trust.ForwardClaims) { c.PolicyContext.DataClassification = "restricted" }), 403, "forbidden"},
		"a loop": {a.creds.Leaf(), a.token(func(c *trust.ForwardClaims) {
			c.Actors = []trust.ForwardActor{{Node: "spiffe://acme.test/node/stk_a", ClusterID: "clu_acme"}}
		}), 508, "loop_detected"},
	} {
		t.Run(name, func(t *testing.T) {
			got := a.ask(c.leaf, "GET", path, c.token)
			if got.StatusCode != c.status || got.code() != c.code {
				t.Errorf("%d %s", got.StatusCode, got.raw)
			}
		})
	}
	t.Run("another certificate's token", func(t *testing.T) {
		other := trusttest.New(t, "globex.test").Node("stk_other").Leaf()
		if got := a.ask(other, "GET", path, a.token(nil)); got.StatusCode != 401 {
			t.Errorf("%d %s", got.StatusCode, got.raw)
		}
	})
	t.Run("out of touch", func(t *testing.T) {
		a.mu.Lock()
		a.touch = fault.New(fault.Unavailable, "Out of touch.").With("service", "quorum")
		a.mu.Unlock()
		if got := a.ask(a.creds.Leaf(), "GET", path, a.token(nil)); got.StatusCode != 503 {
			t.Errorf("%d %s", got.StatusCode, got.raw)
		}
	})
	for _, outcome := range []string{"forbidden", "loop_detected"} {
		if !slices.ContainsFunc(a.refused, func(r tenancy.AuditRecord) bool { return r.Peer == "globex.test" && r.Outcome == outcome }) {
			t.Errorf("no %s is in the audit: %+v", outcome, a.refused)
		}
	}
}

// TestFederation_stranger: without a certificate there is one call and one look, and no word of what else there is.
//
// Requirements: P6.
func TestFederation_stranger(t *testing.T) {
	a := newAbroad(t)
	if got := a.ask(nil, "GET", "/v1/federation/health", ""); got.StatusCode != 200 {
		t.Errorf("health: %s", got.raw)
	}
	for _, path := range []string{"/v1/peer/info", "/v1/federation/runs/run_a", "/v1/runs", "/healthz", "/nothing", "/v1/admin/tenants", "/v1/federation/peerings"} {
		if got := a.ask(nil, "GET", path, ""); got.StatusCode != 401 {
			t.Errorf("%s: %d %s", path, got.StatusCode, got.raw)
		}
	}
	for _, path := range []string{"/v1/runs", "/v1/admin/tenants", "/v1/chat/completions", "/healthz"} {
		if got := a.ask(a.creds.Leaf(), "GET", path, a.token(nil)); got.StatusCode != 404 {
			t.Errorf("a peer at %s: %d %s", path, got.StatusCode, got.raw)
		}
	}
}

// TestFederation_capabilities: a peer is told what its own grants allow, again only when that has changed, and at each look
// how busy the node is.
//
// Requirements: P9.
func TestFederation_capabilities(t *testing.T) {
	a := newAbroad(t)
	const path = "/v1/peer/capabilities"
	got := a.ask(a.creds.Leaf(), "GET", path, "")
	caps, _ := got.body["capabilities"].(map[string]any)
	agents, _ := caps["agents"].([]any)
	grants, _ := caps["grants"].([]any)
	members, _ := caps["members"].([]any)
	if got.StatusCode != 200 || len(agents) != 1 || len(grants) != 2 || len(members) != 2 || members[0] != "a:8421" {
		t.Fatalf("%d %s", got.StatusCode, got.raw)
	}
	tag := got.Header.Get("ETag")
	if caps["digest"] != strings.Trim(tag, `"`) || got.Header.Get("X-AgentOS-Free-Slots") != "3" || got.Header.Get("X-AgentOS-Ready") != "true" {
		t.Errorf("digest %v, headers %v", caps["digest"], got.Header)
	}
	a.mu.Lock()
	a.free = 0
	a.mu.Unlock()
	same := a.ask(a.creds.Leaf(), "GET", path, "", "If-None-Match", tag)
	if same.StatusCode != 304 || len(same.raw) != 0 || same.Header.Get("X-AgentOS-Free-Slots") != "0" {
		t.Errorf("%d %s %v", same.StatusCode, same.raw, same.Header)
	}
	a.mu.Lock()
	a.peering.Exports = slices.Clone(a.peering.Exports)
	a.peering.Exports[0].Agents = []string{}
	a.mu.Unlock()
	less := a.ask(a.creds.Leaf(), "GET", path, "", "If-None-Match", tag)
	caps, _ = less.body["capabilities"].(map[string]any)
	if less.StatusCode != 200 || caps["agents"] != nil || less.Header.Get("ETag") == tag {
		t.Errorf("agents that no grant allows: %d %s", less.StatusCode, less.raw)
	}
	info := a.ask(a.creds.Leaf(), "GET", "/v1/federation/peer", "")
	who, _ := info.body["peer"].(map[string]any)
	if who["cluster_id"] != "clu_acme" || info.Header.Get("ETag") == "" {
		t.Errorf("%s", info.raw)
	}
	if again := a.ask(a.creds.Leaf(), "GET", "/v1/peer/info", "", "If-None-Match", info.Header.Get("ETag")); again.StatusCode != 304 {
		t.Errorf("%d", again.StatusCode)
	}
	a.mu.Lock()
	a.peering.State = registry.PeeringSuspended
	a.mu.Unlock()
	if got := a.ask(a.creds.Leaf(), "GET", path, ""); got.StatusCode != 403 {
		t.Errorf("suspended: %d %s", got.StatusCode, got.raw)
	}
}

// TestPeers_tenants: what a peer grants other tenants, and what they may run there, is not shown.
//
// Requirements: P3, T2.
func TestPeers_tenants(t *testing.T) {
	w := newWorld(t, nil)
	user, _ := w.key("tnt_a", tenancy.RoleTenantUser)
	mine, _ := w.key("tnt_b", tenancy.RoleTenantUser)
	if a := w.want(200, request{method: "GET", path: "/v1/federation/peers/stk_a", key: user}); strings.Contains(string(a.raw), "agt_theirs") || strings.Contains(string(a.raw), "tnt_x") {
		t.Errorf("%s", a.raw)
	}
	if a := w.want(200, request{method: "GET", path: "/v1/federation/peers", key: mine}); !strings.Contains(string(a.raw), "agt_theirs") || !strings.Contains(string(a.raw), "tnt_x") {
		t.Errorf("%s", a.raw)
	}
	w.refuse(404, "not_found", request{method: "GET", path: "/v1/federation/peers/stk_none", key: user})
}
