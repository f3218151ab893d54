package api_test

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nexixai/agentos/api"
	"github.com/nexixai/agentos/peer/pairing"
	"github.com/nexixai/agentos/peer/trust"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
	"github.com/nexixai/agentos/tenancy/audit"
)

// openFederation serves w's federation door over TLS on loopback, showing the certificate of creds.
func (w *world) openFederation(creds *trust.Credentials) {
	w.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	w.must(err)
	w.federation = ln.Addr().String()
	srv := api.HTTP(w.door.FederationHandler(), nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(tls.NewListener(ln, creds.JoinServer()))
	}()
	w.t.Cleanup(func() { _ = srv.Close(); <-done })
}

// two are clusters of two organisations that can reach each other, with a platform admin's key each.
func two(t *testing.T) (acme, globex *world, acmeKey, globexKey string) {
	t.Helper()
	acme, globex = newWorld(t, nil), newWorldOf(t, "globex", nil)
	for _, w := range []*world{acme, globex} {
		w.openFederation(w.org.Node("stk_1"))
	}
	acmeKey, _ = acme.key("tnt_a", tenancy.RolePlatformAdmin)
	globexKey, _ = globex.key("tnt_a", tenancy.RolePlatformAdmin)
	return acme, globex, acmeKey, globexKey
}

const peerings = "/v1/federation/peerings"

// invite makes an invitation and returns its text and its peering's id.
func (w *world) invite(key, body string) (token, peeringID string) {
	w.t.Helper()
	a := w.want(201, request{method: "POST", path: peerings, key: key, body: body})
	token, _ = a.body["token"].(string)
	p, _ := a.body["peering"].(map[string]any)
	peeringID, _ = p["peering_id"].(string)
	if !strings.HasPrefix(token, "aiv_") || len(token) >= 2048 || !strings.HasPrefix(peeringID, "prg_") || p["state"] != "invited" {
		w.t.Fatalf("an invitation is %s", a.raw)
	}
	return token, peeringID
}

func accepting(token string) string {
	raw, _ := json.Marshal(map[string]string{"token": token})
	return string(raw)
}

// acts are the audited acts about peerings: those that were done, and those that were refused and not yet flushed.
func (w *world) acts(action string) (list []audit.Record) {
	w.t.Helper()
	w.must(w.store.View(w.t.Context(), storage.Read{}, func(s storage.Snapshot) error {
		for r, err := range audit.Chain(s, "") {
			if err != nil {
				return err
			}
			if r.Action == action {
				list = append(list, r)
			}
		}
		return nil
	}))
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.refused {
		if r.Action == action {
			list = append(list, r)
		}
	}
	return list
}

func (w *world) peering(key, peeringID string) map[string]any {
	w.t.Helper()
	a := w.want(200, request{method: "GET", path: peerings + "/" + peeringID, key: key})
	p, _ := a.body["peering"].(map[string]any)
	return p
}

func TestPeerings_Pair(t *testing.T) {
	t.Parallel()
	acme, globex, acmeKey, globexKey := two(t)
	token, peeringID := acme.invite(acmeKey, `{}`)
	grant := `{"tenant_id":"tnt_theirs","local_tenant_id":"tnt_a","scopes":["runs:create"],"agents":[],"quotas":{"max_concurrent_runs":0},"max_data_classification":"internal"}`
	acme.want(200, request{method: "PUT", path: peerings + "/" + peeringID + "/exports", key: acmeKey, body: `{"exports":[` + grant + `]}`})

	a := globex.want(201, request{method: "POST", path: peerings, key: globexKey, body: accepting(token)})
	there := a.body["peering"].(map[string]any)
	here := acme.peering(acmeKey, peeringID)
	for _, c := range []struct {
		p            map[string]any
		self, other  *world
		organization string
	}{{there, globex, acme, "acme"}, {here, acme, globex, "globex"}} {
		prints, _ := c.p["fingerprints"].(map[string]any)
		if c.p["state"] != "active" || c.p["peering_id"] != peeringID || c.p["organization"] != c.organization || c.p["trust_domain"] != c.organization+".test" ||
			prints["ours"] != c.self.org.Fingerprint() || prints["theirs"] != c.other.org.Fingerprint() || c.p["addresses"].([]any)[0] != c.other.federation {
			t.Errorf("the peering with %s: %v", c.organization, c.p)
		}
		if _, told := c.p["bundle"]; told {
			t.Error("the bundle is shown")
		}
	}
	if raw, _ := json.Marshal(here["exports"]); len(here["exports"].([]any)) != 1 || !strings.Contains(string(raw), `"agents":[]`) {
		t.Errorf("an empty list of agents became none: %s", raw)
	}
	want := map[string]any{"tenant_id": "tnt_a", "local_tenant_id": "tnt_theirs"}
	imports, _ := there["imports"].([]any)
	if len(imports) != 1 || len(there["exports"].([]any)) != 0 {
		t.Fatalf("at globex: %v", there)
	}
	for name, v := range want {
		if got := imports[0].(map[string]any)[name]; got != v {
			t.Errorf("imports: %s is %v, want %v", name, got, v)
		}
	}
	for w, actions := range map[*world][]string{acme: {"peering.invite", "peering.exports", "peering.join"}, globex: {"peering.accept"}} {
		for _, action := range actions {
			of := slices.DeleteFunc(w.acts(action), func(r audit.Record) bool { return r.Resource != "peering/"+peeringID })
			if n := len(of); n != 1 {
				t.Errorf("%s is audited %d times", action, n)
			}
		}
	}
	for _, w := range []*world{acme, globex} {
		w.must(w.store.View(t.Context(), storage.Read{}, func(s storage.Snapshot) error {
			return s.Scan(storage.Prefix(""), func(key string, value []byte) bool {
				if strings.Contains(string(value), token) || strings.Contains(string(value), secretOf(t, token)) {
					t.Errorf("the invitation lies open under %s", key)
				}
				return true
			})
		}))
	}
}

// secretOf is the part of an invitation that nobody may keep.
func secretOf(t *testing.T, token string) string {
	t.Helper()
	var text struct {
		Secret string `json:"s"`
	}
	if err := json.Unmarshal(unfold(t, token), &text); err != nil || text.Secret == "" {
		t.Fatal("no secret", err)
	}
	return text.Secret
}

// What can't be accepted is refused on both sides as far as they learn of it, written down once on each, with the reason; and
// the other side says the same to whoever can't prove an invitation.
//
// Requirements: P1.
func TestPeerings_Refusals(t *testing.T) {
	t.Parallel()
	altered := func(member string, value any) func(*testing.T, string) string {
		return func(t *testing.T, token string) string {
			var text map[string]any
			d := json.NewDecoder(strings.NewReader(string(unfold(t, token))))
			d.UseNumber()
			if err := d.Decode(&text); err != nil {
				t.Fatal(err)
			}
			if text[member] == nil {
				t.Fatalf("there is no %s", member)
			}
			text[member] = value
			return fold(t, text)
		}
	}
	other := strings.Repeat("ab", 32)
	for name, c := range map[string]struct {
		invite string
		before func(t *testing.T, acme, globex *world, acmeKey, globexKey, token, peeringID string)
		change func(*testing.T, string) string
		body   func(token string) string
		status int
		says   string
		there  string // what the inviter's audit says; "" when it isn't asked
	}{
		"used here": {
			before: func(t *testing.T, _, globex *world, _, globexKey, token, _ string) {
				globex.want(201, request{method: "POST", path: peerings, key: globexKey, body: accepting(token)})
			},
			status: 409, says: "used already",
		},
		"used by another": {
			before: func(t *testing.T, acme, _ *world, _, _, token, _ string) {
				initech := newWorldOf(t, "initech", nil)
				key, _ := initech.key("tnt_a", tenancy.RolePlatformAdmin)
				initech.want(201, request{method: "POST", path: peerings, key: key, body: accepting(token)})
			},
			status: 403, there: "it was used",
		},
		"withdrawn": {
			before: func(t *testing.T, acme, _ *world, acmeKey, _, _, peeringID string) {
				acme.want(204, request{method: "DELETE", path: peerings + "/" + peeringID, key: acmeKey})
			},
			status: 403, there: "it was withdrawn",
		},
		"unknown":              {change: altered("p", "prg_other"), status: 403, there: "it is unknown"},
		"altered secret":       {change: altered("s", strings.Repeat("A", 43)), status: 403, there: "the proof is wrong"},
		"altered expiry":       {change: altered("e", 4102444800), status: 403, there: "the proof is wrong"},
		"altered organisation": {change: altered("o", "acmf"), status: 403, there: "the proof is wrong"},
		"altered trust domain": {change: altered("d", "acmf.test"), status: 403, there: "the proof is wrong"},
		"altered cluster":      {change: altered("c", "clu_x"), status: 403, there: "the proof is wrong"},
		"altered fingerprint":  {change: altered("f", other), status: 403, says: "does not show the CA"},
		"expired":              {change: altered("e", 1), status: 403, says: "has expired"},
		"no invitation":        {change: func(*testing.T, string) string { return "ajt_x" }, status: 400, says: "not an invitation"},
		"cut":                  {change: func(_ *testing.T, s string) string { return s[:len(s)-9] }, status: 400, says: "damaged"},
		"expected another": {
			body:   func(token string) string { return `{"token":"` + token + `","expect_fingerprint":"` + other + `"}` },
			status: 403, says: "not the one that was expected",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			acme, globex, acmeKey, globexKey := two(t)
			token, peeringID := acme.invite(acmeKey, `{}`)
			if c.before != nil {
				c.before(t, acme, globex, acmeKey, globexKey, token, peeringID)
			}
			if c.change != nil {
				token = c.change(t, token)
			}
			body := accepting(token)
			if c.body != nil {
				body = c.body(token)
			}
			was := len(globex.acts("peering.accept"))
			a := globex.want(c.status, request{method: "POST", path: peerings, key: globexKey, body: body})
			message, _ := a.body["error"].(map[string]any)["message"].(string)
			if c.there != "" {
				c.says = "TCP " + acme.federation + " (TLS 1.3) refused: The invitation is not accepted here"
			}
			if !strings.Contains(message, c.says) {
				t.Errorf("said %q, want %q", message, c.says)
			}
			here := globex.acts("peering.accept")
			if len(here) != was+1 || here[was].Outcome != a.code() || here[was].Details["reason"] != message {
				t.Errorf("audited here: %+v", here)
			}
			globex.mu.Lock()
			for _, r := range globex.refused {
				if r.Action == "http.post" {
					t.Errorf("audited twice: %+v", r)
				}
			}
			globex.mu.Unlock()
			there := slices.DeleteFunc(acme.acts("peering.join"), func(r audit.Record) bool { return r.Outcome == "ok" })
			if c.there == "" {
				if len(there) > 0 {
					t.Errorf("the inviter was asked: %+v", there)
				}
			} else if len(there) != 1 || !strings.Contains(there[0].Details["reason"].(string), c.there) || there[0].Details["source"] != "127.0.0.1" {
				t.Errorf("audited there: %+v, want %q", there, c.there)
			}
			for _, w := range []*world{acme, globex} {
				w.mu.Lock()
				raw, _ := json.Marshal(w.refused)
				w.mu.Unlock()
				if strings.Contains(string(raw), "aiv_ey") { // as every one begins
					t.Errorf("an invitation is in the audit: %s", raw)
				}
			}
		})
	}
}

// joinWith calls the join call of w by hand.
func (w *world) joinWith(body string) *answer {
	w.t.Helper()
	r := httptest.NewRequest("POST", pairing.JoinPath, strings.NewReader(body))
	rec := httptest.NewRecorder()
	w.door.FederationHandler().ServeHTTP(rec, r)
	return w.check(request{method: "POST", path: pairing.JoinPath}, rec.Result())
}

// A stranger can't tell one reason from another, nor is the door a way around anything.
func TestPeerings_JoinRevealsNothing(t *testing.T) {
	t.Parallel()
	acme, globex, acmeKey, _ := two(t)
	token, peeringID := acme.invite(acmeKey, `{}`)
	_, gone := acme.invite(acmeKey, `{}`)
	acme.want(204, request{method: "DELETE", path: peerings + "/" + gone, key: acmeKey})
	inv, err := trust.ParseInvitation(token)
	acme.must(err)
	party := trust.Party{Organization: "globex", TrustDomain: "globex.test", ClusterID: "clu_globex", CA: globex.org.Fingerprint(), Addresses: []string{"127.0.0.1:1"}}
	good := pairing.JoinRequest{
		PeeringID: peeringID, Organization: party.Organization, TrustDomain: party.TrustDomain, ClusterID: party.ClusterID, Fingerprint: party.CA,
		Bundle: string(globex.org.CA.CertificatePEM()), Addresses: party.Addresses, Nonce: "n",
		Proof: trust.Prove(inv.Key(), trust.Terms{PeeringID: peeringID, InviterCA: inv.CA, InviterCluster: inv.ClusterID, Accepter: party, Nonce: "n"}),
	}
	bodyOf := func(change func(*pairing.JoinRequest)) string {
		r := good
		change(&r)
		raw, _ := json.Marshal(r)
		return string(raw)
	}
	said := map[string][]string{}
	for name, body := range map[string]string{
		"unknown":         bodyOf(func(r *pairing.JoinRequest) { r.PeeringID = "prg_none" }),
		"withdrawn":       bodyOf(func(r *pairing.JoinRequest) { r.PeeringID = gone }),
		"proof":           bodyOf(func(r *pairing.JoinRequest) { r.Proof = strings.Repeat("0", 64) }),
		"no proof":        bodyOf(func(r *pairing.JoinRequest) { r.Proof = "" }),
		"nonce":           bodyOf(func(r *pairing.JoinRequest) { r.Nonce = "m" }),
		"other cluster":   bodyOf(func(r *pairing.JoinRequest) { r.ClusterID = "clu_x" }),
		"other CA":        bodyOf(func(r *pairing.JoinRequest) { r.Fingerprint = strings.Repeat("cd", 32) }),
		"other addresses": bodyOf(func(r *pairing.JoinRequest) { r.Addresses = []string{"10.6.6.6:8421"} }),
	} {
		a := acme.joinWith(body)
		if a.StatusCode != 403 {
			t.Errorf("%s: %d %s", name, a.StatusCode, a.raw)
		}
		text := anonymous(a)
		said[text] = append(said[text], name)
	}
	if len(said) != 1 {
		t.Errorf("strangers can tell %d kinds of refusal apart: %v", len(said), slices.Collect(maps.Values(said)))
	}
	for name, body := range map[string]string{"form": "{", "twice": `{"nonce":"a","nonce":"b"}`, "empty": "", "list": "[]"} {
		if a := acme.joinWith(body); a.StatusCode != 400 {
			t.Errorf("%s: %d %s", name, a.StatusCode, a.raw)
		}
	}
	if a := acme.joinWith(`{"nonce":"` + strings.Repeat("x", pairing.MaxJoinBody) + `"}`); a.StatusCode != 413 {
		t.Errorf("a long body: %d", a.StatusCode)
	}
	// Asked again by the same cluster, the answer is the same, and nothing is done twice.
	for range 2 {
		if a := acme.joinWith(bodyOf(func(*pairing.JoinRequest) {})); a.StatusCode != 200 {
			t.Fatalf("%d %s", a.StatusCode, a.raw)
		}
	}
	if n := len(slices.DeleteFunc(acme.acts("peering.join"), func(r audit.Record) bool { return r.Outcome != "ok" })); n != 1 {
		t.Errorf("audited %d times", n)
	}
	var slowed bool
	for range 50 {
		a := acme.joinWith(bodyOf(func(*pairing.JoinRequest) {}))
		slowed = slowed || a.StatusCode == 429 && a.Header.Get("Retry-After") != ""
	}
	if !slowed {
		t.Error("nothing bounds how often one source may try")
	}
	for _, path := range []string{"/v1/runs", peerings, "/v1/admin/cluster", "/healthz"} {
		rec := httptest.NewRecorder()
		r := httptest.NewRequest("GET", path, nil)
		r.Header.Set("Authorization", "Bearer "+acmeKey)
		acme.door.FederationHandler().ServeHTTP(rec, r)
		if rec.Code != 401 { // a stranger learns not even what there is
			t.Errorf("%s is served at the federation door: %d", path, rec.Code)
		}
	}
	acme.refuse(404, "not_found", request{method: "POST", path: pairing.JoinPath, body: "{}"})
}

func TestPeerings_States(t *testing.T) {
	t.Parallel()
	acme, globex, acmeKey, globexKey := two(t)
	token, peeringID := acme.invite(acmeKey, `{"peering":{"peering_id":"prg_chosen","ttl_seconds":60}}`)
	at := func(suffix string) request {
		return request{method: "POST", path: peerings + "/" + peeringID + suffix, key: acmeKey}
	}
	acme.refuse(409, "conflict", at(":suspend"))
	globex.want(201, request{method: "POST", path: peerings, key: globexKey, body: accepting(token)})
	for _, c := range []struct{ verb, state string }{{":suspend", "suspended"}, {":suspend", "suspended"}, {":resume", "active"}, {":resume", "active"}} {
		a := acme.want(200, at(c.verb))
		if got := a.body["peering"].(map[string]any)["state"]; got != c.state {
			t.Errorf("%s: %v", c.verb, got)
		}
	}
	if a, b := len(acme.acts("peering.suspend")), len(acme.acts("peering.resume")); a != 1 || b != 1 {
		t.Errorf("audited %d and %d times", a, b)
	}
	drop := request{method: "DELETE", path: peerings + "/" + peeringID, key: acmeKey}
	acme.want(204, drop)
	acme.want(204, drop)
	acme.refuse(409, "conflict", at(":resume"))
	acme.refuse(409, "conflict", request{method: "PUT", path: peerings + "/" + peeringID + "/exports", key: acmeKey, body: `{"exports":[]}`})
	if p := acme.peering(acmeKey, peeringID); p["state"] != "revoked" || len(acme.acts("peering.revoke")) != 1 {
		t.Errorf("%v", p)
	}
	// The other side still has its own, which is live: it has to let go too before they can pair anew.
	again, _ := acme.invite(acmeKey, `{}`)
	globex.refuse(409, "conflict", request{method: "POST", path: peerings, key: globexKey, body: accepting(again)})
	globex.want(204, request{method: "DELETE", path: peerings + "/" + peeringID, key: globexKey})
	globex.want(201, request{method: "POST", path: peerings, key: globexKey, body: accepting(again)})
	acme.refuse(404, "not_found", request{method: "GET", path: peerings + "/prg_none", key: acmeKey})

	a := acme.want(200, request{method: "GET", path: peerings + "?limit=1", key: acmeKey})
	var all []any
	for {
		all = append(all, a.body["peerings"].([]any)...)
		next, _ := a.body["next_cursor"].(string)
		if next == "" {
			break
		}
		a = acme.want(200, request{method: "GET", path: peerings + "?limit=1&cursor=" + next, key: acmeKey})
	}
	if len(all) != 3 { // with the one that every world has
		t.Errorf("listed %v", all)
	}
}

func TestPeerings_OnceForEachKey(t *testing.T) {
	t.Parallel()
	acme, globex, acmeKey, globexKey := two(t)
	q := request{method: "POST", path: peerings, key: acmeKey, body: `{}`, header: http.Header{"Idempotency-Key": {"k"}}}
	first := acme.want(201, q)
	again := acme.want(200, q)
	if _, shown := again.body["token"]; shown || again.Header.Get("Idempotent-Replayed") != "true" || again.body["expires_at"] != first.body["expires_at"] ||
		again.body["peering"].(map[string]any)["peering_id"] != first.body["peering"].(map[string]any)["peering_id"] {
		t.Errorf("a replay answered %s", again.raw)
	}
	q.body = `{"ttl_seconds":5}`
	acme.refuse(409, "conflict", q)
	q = request{method: "POST", path: peerings, key: globexKey, body: accepting(first.body["token"].(string)), header: http.Header{"Idempotency-Key": {"k"}}}
	globex.want(201, q)
	if a := globex.want(200, q); a.Header.Get("Idempotent-Replayed") != "true" || a.body["peering"].(map[string]any)["state"] != "active" {
		t.Errorf("a replay answered %s", a.raw)
	}
}

func TestPeerings_ExportsAreChecked(t *testing.T) {
	t.Parallel()
	acme := newWorld(t, nil)
	key, _ := acme.key("tnt_a", tenancy.RolePlatformAdmin)
	put := func(body string) request {
		return request{method: "PUT", path: peerings + "/prg_a/exports", key: key, body: body}
	}
	grant := func(members string) string {
		return `{"exports":[{"tenant_id":"tnt_x","local_tenant_id":"tnt_a","scopes":["runs:create"]` + members + `}]}`
	}
	for field, body := range map[string]string{
		"exports":                               `{}`,
		"exports[0].tenant_id":                  `{"exports":[{"tenant_id":"a/b","local_tenant_id":"tnt_a","scopes":[]}]}`,
		"exports[0].local_tenant_id":            `{"exports":[{"tenant_id":"tnt_x","local_tenant_id":"tnt_none","scopes":[]}]}`,
		"exports[0].scopes":                     `{"exports":[{"tenant_id":"tnt_x","local_tenant_id":"tnt_a","scopes":["platform:admin"]}]}`,
		"exports[0].quotas.max_concurrent_runs": grant(`,"quotas":{"max_concurrent_runs":-1}`),
		"exports[0].max_data_classification":    grant(`,"max_data_classification":"secret"`),
		"exports[0].agents":                     grant(`,"agents":["a b"]`),
		"exports[1].tenant_id":                  strings.TrimSuffix(grant(""), "]}") + `,{"tenant_id":"tnt_x","local_tenant_id":"tnt_b","scopes":[]}]}`,
	} {
		if a := acme.refuse(400, "invalid_request", put(body)); a.field() != field {
			t.Errorf("%s: %v in %s", field, a.field(), a.raw)
		}
	}
	for _, scope := range []string{"tenants:admin", "agents:write", "tools:write", "runs:Create", ""} {
		acme.refuse(400, "invalid_request", put(`{"exports":[{"tenant_id":"tnt_x","local_tenant_id":"tnt_a","scopes":["`+scope+`"]}]}`))
	}
	acme.refuse(400, "invalid_request", put(`{"exports":[{"tenant_id":"tnt_x","local_tenant_id":"tnt_a"}]}`))
	a := acme.want(200, put(grant("")))
	if _, bound := a.body["exports"].([]any)[0].(map[string]any)["agents"]; bound {
		t.Errorf("no bound became one: %s", a.raw)
	}
	if len(acme.acts("peering.exports")) != 1 {
		t.Error("what was refused is audited, or what was done is not")
	}
}

// An accepter whose answer was lost asks again, and has its peering then.
//
// Requirements: P1.
func TestPeerings_AnswerLost(t *testing.T) {
	t.Parallel()
	acme, globex, acmeKey, globexKey := two(t)
	token, peeringID := acme.invite(acmeKey, `{}`)
	inv, err := trust.ParseInvitation(token)
	acme.must(err)
	party := trust.Party{Organization: "globex", TrustDomain: "globex.test", ClusterID: "clu_globex", CA: globex.org.Fingerprint(), Addresses: []string{globex.federation}}
	raw, err := json.Marshal(pairing.JoinRequest{
		PeeringID: peeringID, Organization: party.Organization, TrustDomain: party.TrustDomain, ClusterID: party.ClusterID, Fingerprint: party.CA,
		Bundle: string(globex.org.CA.CertificatePEM()), Addresses: party.Addresses, Nonce: "n",
		Proof: trust.Prove(inv.Key(), trust.Terms{PeeringID: peeringID, InviterCA: inv.CA, InviterCluster: inv.ClusterID, Accepter: party, Nonce: "n"}),
	})
	acme.must(err)
	if a := acme.joinWith(string(raw)); a.StatusCode != 200 {
		t.Fatalf("%d %s", a.StatusCode, a.raw)
	}
	globex.want(201, request{method: "POST", path: peerings, key: globexKey, body: accepting(token)})
	if n := len(acme.acts("peering.join")); n != 1 {
		t.Errorf("audited %d times", n)
	}
}

// An inviter that does not answer is named with protocol, address and reason, and asked again at its other doors.
func TestPeerings_InviterAway(t *testing.T) {
	t.Parallel()
	acme, globex := newWorld(t, nil), newWorldOf(t, "globex", nil)
	acmeKey, _ := acme.key("tnt_a", tenancy.RolePlatformAdmin)
	globexKey, _ := globex.key("tnt_a", tenancy.RolePlatformAdmin)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	acme.must(err)
	acme.federation = ln.Addr().String()
	acme.must(ln.Close())
	token, peeringID := acme.invite(acmeKey, `{}`)
	a := globex.refuse(503, "dependency_unavailable", request{method: "POST", path: peerings, key: globexKey, body: accepting(token)})
	message, _ := a.body["error"].(map[string]any)["message"].(string)
	if !strings.Contains(message, "TCP "+acme.federation+" (TLS 1.3)") || !strings.Contains(message, "refused") {
		t.Errorf("said %q", message)
	}
	globex.refuse(404, "not_found", request{method: "GET", path: peerings + "/" + peeringID, key: globexKey})
	if n := len(globex.acts("peering.accept")); n > 0 {
		t.Error("nobody refused anything")
	}
}

// A server that is not the inviter's learns nothing by which it could pair in the accepter's name.
func TestPeerings_AnotherServer(t *testing.T) {
	t.Parallel()
	for name, door := range map[string]func(t *testing.T) *tls.Config{
		"another CA of the same name": func(t *testing.T) *tls.Config { return newWorld(t, nil).org.Node("stk_1").JoinServer() },
		"a self-signed certificate": func(t *testing.T) *tls.Config {
			srv := httptest.NewUnstartedServer(nil)
			srv.StartTLS()
			t.Cleanup(srv.Close)
			return srv.TLS.Clone()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			acme, globex := newWorld(t, nil), newWorldOf(t, "globex", nil)
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			acme.must(err)
			asked := make(chan string, 1)
			srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				raw, _ := io.ReadAll(r.Body)
				asked <- string(raw)
			})}
			done := make(chan struct{})
			go func() { defer close(done); _ = srv.Serve(tls.NewListener(ln, door(t))) }()
			t.Cleanup(func() { _ = srv.Shutdown(context.Background()); <-done })
			acme.federation = ln.Addr().String()
			acmeKey, _ := acme.key("tnt_a", tenancy.RolePlatformAdmin)
			globexKey, _ := globex.key("tnt_a", tenancy.RolePlatformAdmin)
			token, _ := acme.invite(acmeKey, `{}`)
			a := globex.refuse(403, "forbidden", request{method: "POST", path: peerings, key: globexKey, body: accepting(token)})
			if !strings.Contains(string(a.raw), acme.federation) {
				t.Errorf("said %s", a.raw)
			}
			select {
			case got := <-asked:
				t.Errorf("the server was shown %q", got)
			default:
			}
		})
	}
}

// unfold and fold take an invitation's text apart and put it together.
func unfold(t *testing.T, token string) []byte {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(token, "aiv_"))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func fold(t *testing.T, text map[string]any) string {
	t.Helper()
	raw, err := json.Marshal(text)
	if err != nil {
		t.Fatal(err)
	}
	return "aiv_" + base64.RawURLEncoding.EncodeToString(raw)
}
