package onenode_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

// anonymous returns what an answer says when the ids asked for and the correlation are taken out.
func anonymous(a harness.Answer, ids ...string) string {
	text := string(a.Body)
	for _, id := range append(ids, a.Str("correlation_id")) {
		if id != "" {
			text = strings.ReplaceAll(text, id, "·")
		}
	}
	return text
}

// What is another tenant's answers like what nobody has: the same status, the same body, on every path that takes an id;
// and to its owner the same path gives it.
//
// Requirements: T2, Q3, Q4.
func TestIsolation_Objects(t *testing.T) {
	t.Parallel()
	alice, bob := suite.Tenant(t, nil), suite.Tenant(t, nil)
	run := alice.Create(t, "/call tool.kv.put {\"key\":\"key_of_alice\",\"value\":1}\n/wait 10m", nil)
	ended, _ := alice.Complete(t, "hello", nil)
	done := ended.Str("run.run_id")
	const noRun = "run_01J0000000000000000000NONE"
	key := alice.Root.Want(t, 200, "GET", "/v1/admin/tenants/"+alice.ID+"/keys", nil).Str("keys.0.key_id")
	for _, c := range []struct {
		method, path, theirs, nobodys string
		body                          any
	}{
		{"GET", "/v1/runs/{id}", run, noRun, nil},
		{"GET", "/v1/runs/{id}", done, noRun, nil},
		{"GET", "/v1/runs/{id}?consistency=stale", run, noRun, nil},
		{"GET", "/v1/runs/{id}?consistency=linearizable", run, noRun, nil},
		{"GET", "/v1/runs/{id}/events", run, noRun, nil},
		{"GET", "/v1/runs/{id}/events?after_sequence=2", run, noRun, nil},
		{"GET", "/v1/runs/{id}/events?after_sequence=1000", done, noRun, nil},
		{"GET", "/v1/runs/{id}/receipt", done, noRun, nil},
		{"POST", "/v1/runs/{id}:cancel", run, noRun, nil},
		{"POST", "/v1/runs/{id}:cancel", done, noRun, nil},
		{"GET", "/v1/agents/{id}", alice.Agent, "agt_nobodys", nil},
		{"DELETE", "/v1/agents/{id}", alice.Agent, "agt_nobodys", nil},
		{"POST", "/v1/agents/{id}/runs", alice.Agent, "agt_nobodys", harness.Body("x", nil)},
		{"GET", "/v1/memory/kv/{id}", "key_of_alice", "key_of_nobody", nil},
		{"GET", "/v1/admin/tenants/{id}", alice.ID, "tnt_nobodys", nil},
		{"PATCH", "/v1/admin/tenants/{id}", alice.ID, "tnt_nobodys", map[string]any{"tenant_update": map[string]any{"name": "mine"}}},
		{"GET", "/v1/admin/tenants/{id}/keys", alice.ID, "tnt_nobodys", nil},
		{"POST", "/v1/admin/tenants/{id}/keys", alice.ID, "tnt_nobodys", map[string]any{"principal_id": "svc_spy"}},
		{"GET", "/v1/admin/tenants/{id}/quotas", alice.ID, "tnt_nobodys", nil},
		{"DELETE", "/v1/admin/tenants/" + "{id}" + "/keys/" + key, alice.ID, "tnt_nobodys", nil},
	} {
		theirs := bob.Do(t, c.method, strings.Replace(c.path, "{id}", c.theirs, 1), c.body)
		nobodys := bob.Do(t, c.method, strings.Replace(c.path, "{id}", c.nobodys, 1), c.body)
		refused(t, theirs, 404, "not_found")
		if theirs.Status != nobodys.Status || anonymous(theirs, c.theirs) != anonymous(nobodys, c.nobodys) {
			t.Errorf("%s %s: another's %d %s\nnobody's %d %s", c.method, c.path, theirs.Status, theirs.Body, nobodys.Status, nobodys.Body)
		}
		if !slices.Equal(headerNames(theirs), headerNames(nobodys)) {
			t.Errorf("%s %s: headers %v, nobody's %v", c.method, c.path, headerNames(theirs), headerNames(nobodys))
		}
	}
	// Lists and names of one's own show nothing of the other.
	for _, path := range []string{"/v1/runs", "/v1/agents", "/v1/runs?agent_id=" + alice.Agent, "/v1/admin/audit", "/v1/usage"} {
		if a := bob.Do(t, "GET", path, nil); strings.Contains(string(a.Body), alice.ID) || strings.Contains(string(a.Body), run) {
			t.Errorf("%s shows another tenant: %s", path, a.Body)
		}
	}
	// The positive twins: their owner has them still, unharmed.
	if got := alice.Want(t, 200, "GET", "/v1/runs/"+run, nil).Str("run.status"); got != "running" {
		t.Errorf("the run is %s", got)
	}
	alice.Want(t, 200, "GET", "/v1/agents/"+alice.Agent, nil)
	alice.Want(t, 200, "GET", "/v1/memory/kv/key_of_alice", nil)
	alice.Want(t, 200, "GET", "/v1/admin/tenants/"+alice.ID, nil)
	alice.Want(t, 200, "POST", "/v1/runs/"+run+":cancel", nil)
	alice.Journal(t, run)
}

func headerNames(a harness.Answer) []string {
	var names []string
	for name := range a.Header {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Another tenant's idempotency key names nothing here.
//
// Requirements: T2, Q3.
func TestIsolation_IdempotencyKey(t *testing.T) {
	t.Parallel()
	alice, bob := suite.Tenant(t, nil), suite.Tenant(t, nil)
	// The same agent id in both tenants, so that only the tenant differs.
	bob.Want(t, 201, "PUT", "/v1/agents/"+alice.Agent, map[string]any{"agent": map[string]any{"name": "n", "model_ref": "tier:fast", "status": "active"}})
	path := "/v1/agents/" + alice.Agent + "/runs"
	a := alice.Want(t, 201, "POST", path, harness.Body("alice's", nil), "Idempotency-Key", "k")
	b := bob.Want(t, 201, "POST", path, harness.Body("bob's", nil), "Idempotency-Key", "k")
	if a.Str("run.run_id") == b.Str("run.run_id") {
		t.Error("one run under two tenants")
	}
}

// The tenant comes from the credential, and from nothing else that a request says.
//
// Requirements: T1, Q3.
func TestIsolation_TenantConfusion(t *testing.T) {
	t.Parallel()
	alice, bob := suite.Tenant(t, nil), suite.Tenant(t, nil)
	run := alice.Create(t, "/wait 10m", nil)
	refused(t, bob.Do(t, "GET", "/v1/runs/"+run, nil, "X-Tenant-Id", alice.ID), 403, "forbidden")
	refused(t, bob.Do(t, "GET", "/v1/runs/"+run, nil, "x-tenant-id", alice.ID), 403, "forbidden")
	refused(t, bob.Do(t, "GET", "/v1/runs/"+run, nil, "X-Tenant-Id", bob.ID, "X-Tenant-Id", alice.ID), 400, "invalid_request")
	refused(t, bob.Do(t, "GET", "/v1/runs/"+run, nil, "X-Tenant-Id", alice.ID, "X-Tenant-Id", alice.ID), 400, "invalid_request")
	refused(t, bob.Do(t, "GET", "/v1/runs/"+run, nil, "X-Tenant-Id", bob.ID), 404, "not_found")
	refused(t, bob.Do(t, "GET", "/v1/runs/"+run+"?tenant_id="+alice.ID, nil), 404, "not_found")
	refused(t, bob.Do(t, "PUT", "/v1/agents/agt_mine", map[string]any{"agent": map[string]any{"name": "n", "model_ref": "tier:fast", "tenant_id": alice.ID}}), 403, "forbidden")
	auth := func(tenant, principal string, scopes ...string) map[string]any {
		return map[string]any{"auth": map[string]any{"tenant_id": tenant, "principal": map[string]any{"principal_id": principal, "principal_type": "user"}, "scopes": scopes}}
	}
	path := "/v1/agents/" + bob.Agent + "/runs"
	me := "usr_" + strings.TrimPrefix(bob.ID, "tnt_")
	refused(t, bob.Do(t, "POST", path, harness.Body("x", auth(alice.ID, me))), 403, "forbidden")
	refused(t, bob.Do(t, "POST", path, harness.Body("x", auth(bob.ID, "usr_platform_admin"))), 403, "forbidden")
	refused(t, bob.Do(t, "POST", path, harness.Body("x", auth(bob.ID, me, "platform:admin"))), 403, "forbidden")
	bob.Want(t, 201, "POST", path, harness.Body("x", auth(bob.ID, me, "runs:create")))
	alice.Want(t, 200, "GET", "/v1/runs/"+run, nil, "X-Tenant-Id", alice.ID)
	alice.Want(t, 200, "POST", "/v1/runs/"+run+":cancel", nil)
}

// No credential or a wrong one is 401; a credential without the scope is 403; and each refusal stands in the audit within
// three seconds, without the secret.
//
// Requirements: T1, T5.
func TestAuth_Refusals(t *testing.T) {
	t.Parallel()
	tn := suite.Tenant(t, nil)
	run := tn.Create(t, "hello", nil)
	for name, key := range map[string]string{"none": "", "unknown": "aos_" + strings.Repeat("A", 43), "short": "aos_", "cut": tn.Key[:len(tn.Key)-1], "longer": tn.Key + "x", "huge": "aos_" + strings.Repeat("B", 20000)} {
		a := tn.As(key).Do(t, "GET", "/v1/runs/"+run, nil)
		refused(t, a, 401, "unauthorized")
		if a.Header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s: no WWW-Authenticate", name)
		}
	}
	refused(t, tn.As("").Do(t, "GET", "/v1/runs/"+run, nil, "Authorization", "Basic "+tn.Key), 401, "unauthorized")
	tn.As("").Want(t, 200, "GET", "/v1/runs/"+run, nil, "X-API-Key", tn.Key)
	tn.As("").Want(t, 200, "GET", "/v1/runs/"+run, nil, "Authorization", "bearer "+tn.Key)

	reader := tn.Issue(t, "svc_reader", []string{"tenant_service"}, []string{"runs:read"})
	reader.Want(t, 200, "GET", "/v1/runs/"+run, nil)
	denied := reader.Do(t, "POST", "/v1/agents/"+tn.Agent+"/runs", harness.Body("x", nil))
	refused(t, denied, 403, "forbidden")
	refused(t, reader.Do(t, "POST", "/v1/runs/"+run+":cancel", nil), 403, "forbidden")
	refused(t, reader.Do(t, "GET", "/v1/agents", nil), 403, "forbidden")
	refused(t, reader.Do(t, "POST", "/v1/chat/completions", map[string]any{"model": "builtin/echo-1", "messages": []any{map[string]any{"role": "user", "content": "x"}}}), 403, "forbidden")
	user := tn.Issue(t, "usr_plain", []string{"tenant_user"}, nil)
	refused(t, user.Do(t, "GET", "/v1/admin/audit", nil), 403, "forbidden")
	refused(t, user.Do(t, "PUT", "/v1/agents/agt_new", map[string]any{"agent": map[string]any{"name": "n", "model_ref": "tier:fast"}}), 403, "forbidden")
	refused(t, tn.Do(t, "POST", "/v1/admin/tenants", map[string]any{"tenant_create": map[string]any{"tenant_id": "tnt_mine", "name": "n", "plan_tier": "demo"}}), 403, "forbidden")

	begun := time.Now()
	if !harness.Poll(3*time.Second, 50*time.Millisecond, func() bool {
		a := tn.Want(t, 200, "GET", "/v1/admin/audit?limit=500", nil)
		records, _ := a.At("records").([]any)
		return slices.ContainsFunc(records, func(r any) bool {
			outcome, _ := harness.At(r, "outcome").(string)
			principal, _ := harness.At(r, "principal").(string)
			return outcome != "ok" && strings.Contains(outcome, "forbidden") && principal == "svc_reader"
		})
	}) {
		t.Errorf("the refusal %s is not in the audit after %v", denied.Str("correlation_id"), time.Since(begun))
	}
}

// A key can be turned over, with both valid for a while, and taken away at once; a disabled tenant is closed.
//
// Requirements: T1.
func TestAuth_KeyLife(t *testing.T) {
	t.Parallel()
	tn := suite.Tenant(t, nil)
	admin := "/v1/admin/tenants/" + tn.ID
	issued := tn.Root.Want(t, 201, "POST", admin+"/keys", map[string]any{"principal_id": "svc_one"}, "Idempotency-Key", "issue")
	keyID, secret := issued.Str("key.key_id"), issued.Str("key.secret")
	if !strings.HasPrefix(secret, "aos_") || len(secret) < 47 {
		t.Errorf("secret of %d characters", len(secret))
	}
	replay := tn.Root.Want(t, 200, "POST", admin+"/keys", map[string]any{"principal_id": "svc_one"}, "Idempotency-Key", "issue")
	if replay.Str("key.key_id") != keyID || harness.Has(replay.At(""), "key.secret") || replay.Header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("replay of an issue: %s", replay.Body)
	}
	one := tn.As(secret)
	one.Want(t, 200, "GET", "/v1/runs", nil)
	if list := tn.Root.Want(t, 200, "GET", admin+"/keys", nil); strings.Contains(string(list.Body), "secret") || !strings.Contains(string(list.Body), keyID) {
		t.Errorf("list of keys: %s", list.Body)
	}
	rotated := tn.Root.Do(t, "POST", admin+"/keys/"+keyID+":rotate", nil)
	if rotated.Status != 200 && rotated.Status != 201 || rotated.Str("key.secret") == "" || rotated.Str("key.secret") == secret {
		t.Fatalf("rotate: %d %s", rotated.Status, rotated.Body)
	}
	tn.As(rotated.Str("key.secret")).Want(t, 200, "GET", "/v1/runs", nil)
	tn.Root.Want(t, 204, "DELETE", admin+"/keys/"+keyID, nil)
	refused(t, one.Do(t, "GET", "/v1/runs", nil), 401, "unauthorized")

	expired := tn.Root.Do(t, "POST", admin+"/keys", map[string]any{"principal_id": "svc_old", "expires_at": "2020-01-01T00:00:00Z"})
	if expired.Status == 201 {
		refused(t, tn.As(expired.Str("key.secret")).Do(t, "GET", "/v1/runs", nil), 401, "unauthorized")
	} else {
		refused(t, expired, 400, "invalid_request")
	}
	tn.Root.Want(t, 200, "POST", admin+":disable", nil)
	if a := tn.Do(t, "GET", "/v1/runs", nil); a.Status != 401 && a.Status != http.StatusForbidden {
		t.Errorf("a disabled tenant: %d %s", a.Status, a.Body)
	}
	tn.Root.Want(t, 200, "POST", admin+":enable", nil)
	tn.Want(t, 200, "GET", "/v1/runs", nil)
}

// A tenant's objects carry its id, and the tenant's record keeps what it was given.
//
// Requirements: V3.
func TestTenant_Roundtrip(t *testing.T) {
	t.Parallel()
	quotas := harness.Wide()
	quotas["runs"] = map[string]any{"max_concurrent_runs": 7, "run_create_qps": 2.5, "run_create_burst": 9}
	tn := suite.Tenant(t, quotas)
	a := tn.Root.Want(t, 200, "GET", "/v1/admin/tenants/"+tn.ID, nil)
	for path, want := range map[string]any{
		"tenant.tenant_id": tn.ID, "tenant.status": "active", "tenant.plan_tier": "enterprise",
		"tenant.quotas.runs.max_concurrent_runs": json.Number("7"), "tenant.quotas.runs.run_create_qps": json.Number("2.5"),
	} {
		if got := a.At(path); got != want {
			t.Errorf("%s = %v, want %v", path, got, want)
		}
	}
	tn.Root.Want(t, 200, "PATCH", "/v1/admin/tenants/"+tn.ID, map[string]any{"tenant_update": map[string]any{"name": "renamed"}})
	a = tn.Root.Want(t, 200, "GET", "/v1/admin/tenants/"+tn.ID, nil)
	if a.Str("tenant.name") != "renamed" || a.Int("tenant.quotas.runs.run_create_burst") != 9 {
		t.Errorf("after an update: %s", a.Body)
	}
	refused(t, tn.Root.Do(t, "POST", "/v1/admin/tenants", map[string]any{"tenant_create": map[string]any{"tenant_id": tn.ID, "name": "twin", "plan_tier": "demo"}}), 409, "conflict")
}
