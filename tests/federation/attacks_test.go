package federation_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

// refusals are the audit's records of refusals by correlation id, of the platform and of these tenants.
func refusals(t *testing.T, admin *harness.Client, tenants ...string) map[string]int {
	t.Helper()
	found := make(map[string]int)
	for _, tenant := range append(tenants, "platform") {
		for cursor := ""; ; {
			a := admin.Want(t, 200, "GET", "/v1/admin/audit?order=desc&limit=100&tenant_id="+tenant+"&cursor="+cursor, nil)
			records, _ := a.At("records").([]any)
			for _, r := range records {
				if harness.At(r, "outcome") != "ok" {
					found[fmt.Sprint(harness.At(r, "correlation_id"))]++
				}
			}
			if cursor = a.Str("next_cursor"); cursor == "" {
				break
			}
		}
	}
	return found
}

// try is one attack and how it's to be answered.
type try struct {
	name   string
	status int
	code   string
	call   func(correlation string) (harness.Answer, error)
}

// refuse makes the attacks of a group: each is refused as it should be, says nothing of secret, and is in the audit once.
func refuse(t *testing.T, group string, admin *harness.Client, tenants, secret []string, tries []try) {
	t.Helper()
	for i, x := range tries {
		a, err := x.call(fmt.Sprintf("corr_%s_%d", group, i))
		if err == nil {
			err = a.CheckError(x.status, x.code)
		}
		if err != nil {
			t.Errorf("%s: %v", x.name, err)
			continue
		}
		message := a.Str("error.message") + fmt.Sprint(a.At("error.details"))
		for _, s := range secret {
			if strings.Contains(message, s) {
				t.Errorf("%s: the answer tells %q: %s", x.name, s, a.Body)
			}
		}
	}
	var found map[string]int
	harness.Poll(10*time.Second, 100*time.Millisecond, func() bool {
		found = refusals(t, admin, tenants...)
		for i := range tries {
			if found[fmt.Sprintf("corr_%s_%d", group, i)] == 0 {
				return false
			}
		}
		return true
	})
	for i, x := range tries {
		if n := found[fmt.Sprintf("corr_%s_%d", group, i)]; n != 1 {
			t.Errorf("%s is in the audit %d times", x.name, n)
		}
	}
}

// Who is no node of a paired organisation, or says what it may not, gets nothing at globex's federation door, and learns nothing.
//
// Requirements: N4, P6, T2, Q3.
func TestAttacks_Door(t *testing.T) {
	t.Parallel()
	ca := harness.NewAuthority(t, "acme.agentos.internal")
	c := pairUp(t, 1, "--ca-cert-file="+ca.CertFile, "--ca-key-file="+ca.KeyFile)
	g := c.globex.Admin(t, 0)
	other := harness.NewTenant(t, g, nil) // globex's, and nobody's business
	initech := harness.NewOrganization(t, suite.Binary(t), &starter, "initech")
	initech.AddNode(t, "stk_initech_1")
	second := invite(t, g, initech.Admin(t, 0))
	c.globex.Admin(t, 0).Want(t, 200, "PUT", "/v1/federation/peerings/"+second+"/exports", map[string]any{"exports": []any{
		map[string]any{"tenant_id": "tnt_initech", "local_tenant_id": c.there.ID, "scopes": allScopes},
	}})
	c.globex.Admin(t, 0).Want(t, 200, "PUT", "/v1/federation/peerings/"+c.peering+"/exports", map[string]any{"exports": []any{
		map[string]any{"tenant_id": c.here.ID, "local_tenant_id": c.there.ID, "scopes": allScopes, "agents": []string{c.there.Agent}, "max_data_classification": "internal"},
	}})

	f := forge(t, c.acme, c.globex)
	f.tenant, f.origin, f.agent = c.there.ID, c.here.ID, c.there.Agent
	const path = "/v1/federation/runs:forward"
	// The good twin, or none of the rest would prove anything.
	id := newRun()
	once := f.token()
	if a, err := f.call("POST", path, once, f.forwarded(id, "/wait 60s"), "corr_good"); err != nil || a.Status != 200 || a.Str("forwarded.run_id") != id {
		t.Fatalf("a good forward: %v, %d %s", err, a.Status, a.Body)
	}

	t.Run("certificates", func(t *testing.T) {
		node := "spiffe://acme.agentos.internal/node/stk_acme_1"
		both := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
		stranger := harness.NewAuthority(t, "acme.agentos.internal")
		for name, cert := range map[string]*tls.Certificate{
			"self-signed":                ca.Issue(t, harness.Identity{URIs: []string{node}, Usages: both, Self: true}),
			"another CA of that name":    stranger.Issue(t, harness.Identity{URIs: []string{node}, Usages: both}),
			"another domain's name":      ca.Issue(t, harness.Identity{URIs: []string{"spiffe://initech.agentos.internal/node/stk_initech_1"}, Usages: both}),
			"globex's own name":          ca.Issue(t, harness.Identity{URIs: []string{"spiffe://globex.agentos.internal/node/stk_globex_1"}, Usages: both}),
			"a domain without peering":   ca.Issue(t, harness.Identity{URIs: []string{"spiffe://nobody.agentos.internal/node/stk_1"}, Usages: both}),
			"a person":                   ca.Issue(t, harness.Identity{URIs: []string{"spiffe://acme.agentos.internal/user/ops"}, Usages: both}),
			"two names":                  ca.Issue(t, harness.Identity{URIs: []string{node, "spiffe://acme.agentos.internal/node/stk_2"}, Usages: both}),
			"no name":                    ca.Issue(t, harness.Identity{Usages: both}),
			"a client that is no server": ca.Issue(t, harness.Identity{URIs: []string{node}, Usages: both[:1]}),
			"out of date":                ca.Issue(t, harness.Identity{URIs: []string{node}, Usages: both, Until: time.Now().Add(-time.Minute)}),
		} {
			s := f.with(cert)
			if a, err := s.call("POST", path, s.token(), s.forwarded(newRun(), "x"), "corr_cert"); err == nil || !strings.Contains(err.Error(), "tls: ") {
				t.Errorf("%s: %v, %d %s", name, err, a.Status, a.Body)
			} else if said := err.Error(); strings.Contains(said, "globex") || strings.Contains(said, "initech") || strings.Contains(said, "agentos") {
				t.Errorf("%s: the refusal tells: %s", name, said)
			}
		}
		nobody := *f.with(nil)
		if a, err := nobody.call("POST", path, f.token(), f.forwarded(newRun(), "x"), "corr_nobody"); err != nil || a.CheckError(401, "unauthorized") != nil {
			t.Errorf("without a certificate: %v, %d %s", err, a.Status, a.Body)
		}
		reasons := make(map[string]int)
		harness.Poll(10*time.Second, 100*time.Millisecond, func() bool {
			clear(reasons)
			a := g.Want(t, 200, "GET", "/v1/admin/audit?tenant_id=platform&action=federation.connect&limit=100", nil)
			records, _ := a.At("records").([]any)
			for _, r := range records {
				reasons[fmt.Sprint(harness.At(r, "details.reason"))]++
			}
			return len(reasons) >= 8
		})
		for reason, n := range reasons {
			if n != 1 {
				t.Errorf("%d times in the audit: %s", n, reason)
			}
		}
		if len(reasons) < 8 {
			t.Errorf("the audit has %d reasons: %v", len(reasons), reasons)
		}
	})

	secret := []string{other.ID, clusterOf(t, c.globex), c.peering, "x5t", "jti", "aud", "signature", "expired", "globex"}
	act := func(links ...[2]string) map[string]any {
		var chain map[string]any
		for _, l := range links {
			link := map[string]any{"sub": l[0], "cluster_id": l[1]}
			if chain != nil {
				link["act"] = chain
			}
			chain = link
		}
		return chain
	}
	forward := func(changes ...change) func(string) (harness.Answer, error) {
		return func(correlation string) (harness.Answer, error) {
			return f.call("POST", path, f.token(changes...), f.forwarded(newRun(), "x"), correlation)
		}
	}
	t.Run("tokens", func(t *testing.T) {
		tries := []try{
			{"for another cluster", 401, "unauthorized", forward(set("aud", f.cluster))},
			{"for nobody", 401, "unauthorized", forward(set("aud", nil))},
			{"replayed", 401, "unauthorized", func(correlation string) (harness.Answer, error) {
				return f.call("POST", path, once, f.forwarded(newRun(), "x"), correlation)
			}},
			{"another issuer", 401, "unauthorized", forward(set("iss", "initech.agentos.internal"))},
			{"expired", 401, "unauthorized", forward(set("iat", time.Now().Unix()-300), set("exp", time.Now().Unix()-240))},
			{"too long-lived", 401, "unauthorized", forward(set("exp", time.Now().Unix()+3600))},
			{"of another certificate", 401, "unauthorized", forward(set("cnf", map[string]any{"x5t#S256": strings.Repeat("A", 43)}))},
			{"signed by another", 401, "unauthorized", func(correlation string) (harness.Answer, error) {
				thief := f.with(ca.Issue(t, harness.Identity{URIs: []string{f.spiffe()}}))
				return f.call("POST", path, thief.token(), f.forwarded(newRun(), "x"), correlation)
			}},
		}
		refuse(t, "tokens", g, []string{c.there.ID}, secret, tries)
		tries = []try{
			{"no token", 401, "unauthorized", func(correlation string) (harness.Answer, error) {
				return f.call("POST", path, "", f.forwarded(newRun(), "x"), correlation)
			}},
			{"an API key", 401, "unauthorized", func(correlation string) (harness.Answer, error) {
				return f.call("POST", path, c.there.Key, f.forwarded(newRun(), "x"), correlation)
			}},
			{"no hops", 401, "unauthorized", forward(set("hops", nil))},
			{"hops below zero", 401, "unauthorized", forward(set("hops", -1))},
			{"hops beyond three", 401, "unauthorized", forward(set("hops", 4))},
			{"huge hops", 401, "unauthorized", forward(set("hops", 1<<40))},
			{"no chain", 401, "unauthorized", forward(set("act", nil))},
			{"another in the chain's place", 401, "unauthorized", forward(set("act", act([2]string{"spiffe://acme.agentos.internal/node/stk_else", f.cluster})))},
			{"a chain of four", 401, "unauthorized", forward(set("act", act([2]string{"a", "a"}, [2]string{"b", "b"}, [2]string{"c", "c"}, [2]string{f.spiffe(), f.cluster})))},
		}
		refuse(t, "more", g, []string{c.there.ID}, secret, tries)
	})

	t.Run("rights", func(t *testing.T) {
		strange := func(change func(fw map[string]any)) func(string) (harness.Answer, error) {
			return func(correlation string) (harness.Answer, error) {
				body := f.forwarded(newRun(), "x")
				change(body["forward"].(map[string]any))
				return f.call("POST", path, f.token(), body, correlation)
			}
		}
		refuse(t, "rights", g, []string{c.there.ID, other.ID}, []string{other.Agent, c.peering}, []try{
			{"a tenant without a grant", 403, "forbidden", forward(set("tenant_id", other.ID))},
			{"a tenant that is not there", 403, "forbidden", forward(set("tenant_id", "tnt_nowhere"))},
			{"a class above the grant", 403, "forbidden", forward(set("policy_context", map[string]any{"data_classification": "restricted"}))},
			{"a token that may not", 403, "forbidden", forward(set("scope", "runs:read"))},
			{"an agent outside the grant", 404, "not_found", strange(func(fw map[string]any) {
				fw["run_request"].(map[string]any)["agent_id"] = other.Agent
				origin := fw["origin"].(map[string]any)
				origin["journal"] = []any{envelope(1, "run.created", f.origin, other.Agent, origin["run_id"].(string), map[string]any{"status": "queued"})}
			})},
			{"another origin", 403, "forbidden", strange(func(fw map[string]any) { fw["origin"].(map[string]any)["stack_id"] = "stk_else" })},
			{"another origin's tenant", 403, "forbidden", strange(func(fw map[string]any) {
				origin := fw["origin"].(map[string]any)
				origin["tenant_id"] = "tnt_else"
				origin["journal"] = []any{envelope(1, "run.created", "tnt_else", f.agent, origin["run_id"].(string), map[string]any{"status": "queued"})}
			})},
			{"a loop", 508, "loop_detected", forward(set("act", act([2]string{"spiffe://globex.agentos.internal/node/stk_globex_1", f.audience}, [2]string{f.spiffe(), f.cluster})))},
		})
	})

	t.Run("runs of others", func(t *testing.T) {
		own := c.there.Create(t, "/wait 60s", nil) // of the tenant itself: forwarded by nobody
		i := forge(t, initech, c.globex)
		i.tenant = c.there.ID
		look := func(who *forger, method, path string) func(string) (harness.Answer, error) {
			return func(correlation string) (harness.Answer, error) {
				return who.call(method, path, who.token(), nil, correlation)
			}
		}
		var tries []try
		for name, at := range map[string]struct {
			who *forger
			run string
		}{"another peer's": {i, id}, "the tenant's own": {f, own}} {
			tries = append(tries,
				try{name + ", read", 404, "not_found", look(at.who, "GET", "/v1/federation/runs/"+at.run)},
				try{name + ", streamed", 404, "not_found", look(at.who, "GET", "/v1/federation/runs/"+at.run+"/events")},
			)
		}
		refuse(t, "others", g, []string{c.there.ID, other.ID}, nil, tries)
		// A cancel for a run that a peer hasn't sent is noted for when it does, and touches no other's.
		for _, at := range []struct {
			who *forger
			run string
		}{{i, id}, {f, own}} {
			if a, err := at.who.call("POST", "/v1/federation/runs/"+at.run+":cancel", at.who.token(), nil, "corr_cancel"); err != nil || a.Status >= 500 {
				t.Errorf("cancel: %v %d %s", err, a.Status, a.Body)
			}
		}
		for _, run := range []string{id, own} {
			if a := c.there.Want(t, 200, "GET", "/v1/runs/"+run, nil); final(a) || a.At("run.cancel_requested_at") != nil {
				t.Errorf("a stranger's cancel: %s", a.Body)
			}
		}
		// Nobody else at globex sees the run that acme sent.
		if runs := runsOf(t, other.Client); len(runs) != 0 {
			t.Errorf("another tenant lists %v", runs)
		}
		for _, x := range [][2]string{{"GET", "/v1/runs/" + id}, {"GET", "/v1/runs/" + id + "/events"}, {"POST", "/v1/runs/" + id + ":cancel"}, {"GET", "/v1/federation/runs/" + id}, {"GET", "/v1/federation/runs/" + id + "/events"}, {"POST", "/v1/federation/runs/" + id + ":cancel"}} {
			if err := other.Do(t, x[0], x[1], nil).CheckError(404, "not_found"); err != nil {
				t.Errorf("another tenant, %s %s: %v", x[0], x[1], err)
			}
		}
		if a := other.Want(t, 200, "GET", "/v1/admin/audit?limit=100", nil); strings.Contains(string(a.Body), id) || strings.Contains(string(a.Body), "usr_forger@") {
			t.Errorf("another tenant's audit tells of the run: %s", a.Body)
		}
	})

	t.Run("an end to the peering", func(t *testing.T) {
		for _, verb := range []string{":suspend", ""} {
			resp, err := f.open("GET", "/v1/federation/runs/"+id+"/events", f.token(), nil, "corr_stream")
			if err != nil || resp.StatusCode != 200 {
				t.Fatalf("%v %v", err, resp)
			}
			read := make(chan error, 1)
			go func() {
				_, err := io.Copy(io.Discard, resp.Body)
				read <- err
			}()
			method := "DELETE"
			if verb != "" {
				method = "POST"
			}
			began := time.Now()
			if a := g.Do(t, method, "/v1/federation/peerings/"+c.peering+verb, nil); a.Status/100 != 2 {
				t.Fatalf("%s: %d %s", verb, a.Status, a.Body)
			}
			err = <-read
			_ = resp.Body.Close()
			if took := time.Since(began); err == nil || took > 5*time.Second {
				t.Errorf("%q: the open stream ended after %v: %v", verb, took, err)
			}
			if a, err := f.call("GET", "/v1/federation/runs/"+id, f.token(), nil, "corr_late"); err == nil && a.Status != 401 {
				t.Errorf("%q: let in all the same: %d %s", verb, a.Status, a.Body)
			}
			if verb == "" {
				break
			}
			g.Want(t, 200, "POST", "/v1/federation/peerings/"+c.peering+":resume", nil)
			if !harness.Poll(bound, 50*time.Millisecond, func() bool {
				a, err := f.call("GET", "/v1/federation/runs/"+id, f.token(), nil, "corr_again")
				return err == nil && a.Status == 200
			}) {
				t.Error("not let in after the peering was resumed")
			}
		}
	})
	if a, err := g.Try(context.Background(), "GET", "/readyz", nil); err != nil || a.Status != 200 {
		t.Errorf("globex is not well after all that: %v %d", err, a.Status)
	}
}
