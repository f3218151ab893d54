package api_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nexixai/agentos/api"
	"github.com/nexixai/agentos/peer/cluster"
	"github.com/nexixai/agentos/storage/replica"
	"github.com/nexixai/agentos/tenancy"
)

// Cursors belong to one list of one tenant under one filter; any other is refused, as are limits out of bounds.
func TestDoor_Cursors(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	root, _ := w.key("tnt_a", tenancy.RolePlatformAdmin)
	bob, _ := w.key("tnt_b", tenancy.RoleTenantAdmin)
	w.key("tnt_a", tenancy.RoleTenantUser)
	w.key("tnt_b", tenancy.RoleTenantUser)
	for i := range 3 {
		w.want(201, request{method: "PUT", path: fmt.Sprintf("/v1/agents/agt_%d", i), key: bob, body: `{"agent":{"name":"n","model_ref":"tier:fast"}}`})
		w.want(201, request{method: "POST", path: "/v1/agents/agt_0/runs", key: bob, body: `{"input":{"type":"text","text":"x"},"context":{"labels":{"a":"b"}}}`, header: nil})
	}
	lists := []string{
		"/v1/runs", "/v1/runs?label=a:b", "/v1/runs?agent_id=agt_0", "/v1/runs?label=a:b&agent_id=agt_0", "/v1/agents", "/v1/tools",
		"/v1/admin/tenants", "/v1/admin/tenants/tnt_a/keys", "/v1/admin/tenants/tnt_b/keys", "/v1/admin/audit?tenant_id=tnt_b", "/v1/admin/audit?tenant_id=tnt_b&order=desc",
		"/v1/admin/audit?tenant_id=tnt_a", "/v1/admin/audit?tenant_id=tnt_b&action=agent.put", "/v1/policy/rulesets",
	}
	with := func(path, query string) string {
		if strings.Contains(path, "?") {
			return path + "&" + query
		}
		return path + "?" + query
	}
	who := func(path string) string {
		if strings.HasPrefix(path, "/v1/admin/") || path == "/v1/policy/rulesets" {
			return root
		}
		return bob
	}
	cursors := map[string]string{}
	for _, path := range lists {
		a := w.want(200, request{method: "GET", path: with(path, "limit=1"), key: who(path)})
		next, ok := a.body["next_cursor"].(string)
		if !ok {
			t.Errorf("%s: no cursor in %s", path, a.raw)
		}
		cursors[path] = next
		for _, bad := range []string{"limit=0", "limit=-1", "limit=501", "limit=x", "limit=1.5", "cursor=zz", "cursor=tnt_a", "cursor=%00", "cursor=" + strings.Repeat("A", 5000)} {
			w.refuse(400, "invalid_request", request{method: "GET", path: with(path, bad), key: who(path)})
		}
	}
	for from, cursor := range cursors {
		for _, path := range lists {
			q := request{method: "GET", path: with(path, "limit=1&cursor="+cursor), key: who(path)}
			if path == from {
				w.want(200, q)
			} else {
				w.refuse(400, "invalid_request", q)
			}
		}
	}
	// The same list, of another tenant.
	alice, _ := w.key("tnt_a", tenancy.RoleTenantAdmin)
	w.refuse(400, "invalid_request", request{method: "GET", path: "/v1/agents?cursor=" + cursors["/v1/agents"], key: alice})
	w.refuse(400, "invalid_request", request{method: "GET", path: "/v1/runs?cursor=" + cursors["/v1/runs"], key: alice})
	w.refuse(400, "invalid_request", request{method: "GET", path: "/v1/runs?label=a:b&label=a:c", key: alice})
}

// Read-only fields sent along are ignored, but another tenant's id is not; nor is one in auth.
//
// Requirements: T1.
func TestDoor_ForeignTenantID(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	root, _ := w.key("tnt_a", tenancy.RolePlatformAdmin)
	for _, c := range []struct{ method, path, body string }{
		{"POST", "/v1/agents/agt_a/runs", `{"input":{"type":"text","text":"x"},"tenant_id":%q}`},
		{"POST", "/v1/agents/agt_a/runs", `{"input":{"type":"text","text":"x"},"auth":{"tenant_id":%q}}`},
		{"PUT", "/v1/agents/agt_a", `{"agent":{"name":"n","model_ref":"tier:fast","tenant_id":%q}}`},
		{"PUT", "/v1/tools/tool.mine", `{"tool":{"kind":"http","config":{"url":"https://example.com/"},"tenant_id":%q}}`},
		{"PUT", "/v1/memory/notes/k", `{"value":1,"tenant_id":%q}`},
		{"PUT", "/v1/policy/rulesets/pol_a", `{"ruleset":{"tenant_id":%q}}`},
		{"POST", "/v1/admin/tenants/tnt_a/keys", `{"principal_id":"svc_a","tenant_id":%q}`},
		{"PATCH", "/v1/admin/tenants/tnt_a", `{"tenant_update":{"name":"n","tenant_id":%q}}`},
		{"PUT", "/v1/admin/tenants/tnt_a/quotas", `{"quota_config":{},"tenant_id":%q}`},
		{"POST", "/v1/chat/completions", `{"model":"tier:fast","messages":[{"role":"user","content":"x"}],"tenant_id":%q}`},
		{"POST", "/v1/models:invoke", `{"request":{"operation":"embed","input":{"texts":["x"]}},"auth":{"tenant_id":%q}}`},
	} {
		q := request{method: c.method, path: c.path, key: root, body: fmt.Sprintf(c.body, "tnt_b")}
		if a := w.refuse(403, "forbidden", q); a.field() == nil {
			t.Errorf("%s: no field in %s", c.path, a.raw)
		}
		q.body = fmt.Sprintf(c.body, "tnt_a")
		if a := w.do(q); a.StatusCode >= 300 {
			t.Errorf("%s %s with its own tenant's id: %d %s", c.method, c.path, a.StatusCode, a.raw)
		}
	}
	// A platform admin's object lies in the tenant of the path.
	w.want(201, request{method: "POST", path: "/v1/admin/tenants/tnt_b/keys", key: root, body: `{"principal_id":"svc_a","tenant_id":"tnt_b"}`})
	w.refuse(403, "forbidden", request{method: "POST", path: "/v1/admin/tenants/tnt_b/keys", key: root, body: `{"principal_id":"svc_a","tenant_id":"tnt_a"}`})
}

// An idempotency key makes a call that changes something one call, whatever becomes of the thing meanwhile; both names of
// the call are one, and a secret is told once.
//
// Requirements: A1.
func TestDoor_Idempotency(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	root, _ := w.key("tnt_a", tenancy.RolePlatformAdmin)
	_, keyID := w.key("tnt_a", tenancy.RoleTenantUser)
	runID := w.create("/wait 10m")
	for _, c := range []struct {
		path, body, other string
		status            int
	}{
		{"/v1/agents/agt_a/runs", `{"input":{"type":"text","text":"x"},"novel":1}`, `{"input":{"type":"text","text":"y"}}`, 201},
		{"/v1/runs/" + runID + ":cancel", "", "", 200},
		{"/v1/admin/tenants", `{"tenant_create":{"tenant_id":"tnt_c","name":"n"}}`, `{"tenant_create":{"tenant_id":"tnt_d","name":"n"}}`, 201},
		{"/v1/admin/tenants/tnt_b:disable", "", "", 200},
		{"/v1/admin/tenants/tnt_b:enable", "", "", 200},
		{"/v1/admin/tenants/tnt_b/keys", `{"principal_id":"svc_a"}`, `{"principal_id":"svc_b"}`, 201},
		{"/v1/admin/tenants/tnt_a/keys/" + keyID + ":rotate", `{"overlap_seconds":60}`, `{"overlap_seconds":61}`, 200},
	} {
		q := request{method: "POST", path: c.path, key: root, body: c.body, header: http.Header{"Idempotency-Key": {"k"}}}
		first := w.want(c.status, q)
		if first.Header.Get("Idempotent-Replayed") != "" {
			t.Errorf("%s: the first is a replay", c.path)
		}
		q.body = strings.Replace(c.body, `"novel":1`, `"novel":2`, 1) // unknown fields are no part of a request
		for _, prefix := range []string{"", api.StackBPrefix} {
			q.path = prefix + c.path
			again := w.want(200, q)
			if again.Header.Get("Idempotent-Replayed") != "true" || strings.Contains(string(again.raw), "aos_") {
				t.Errorf("%s: %v %s", q.path, again.Header, again.raw)
			}
			if id(first) != id(again) {
				t.Errorf("%s made %s, then %s", q.path, first.raw, again.raw)
			}
		}
		if c.other != "" {
			q.body = c.other
			w.refuse(409, "conflict", q)
		}
	}
	q := request{method: "POST", path: "/v1/agents/agt_a/runs", key: root, body: `{"input":{"type":"text","text":"x"},"idempotency_key":"a"}`, header: http.Header{"Idempotency-Key": {"b"}}}
	w.refuse(400, "invalid_request", q)
	for _, bad := range [][]string{{""}, {strings.Repeat("k", 257)}, {"a", "a"}} {
		q.header["Idempotency-Key"] = bad
		w.refuse(400, "invalid_request", q)
	}
}

// id is what an answer says of the object it made.
func id(a *answer) any {
	for noun, name := range map[string]string{"run": "run_id", "tenant": "tenant_id", "key": "key_id"} {
		if object, ok := a.body[noun].(map[string]any); ok {
			return object[name]
		}
	}
	return nil
}

// A slash that was escaped doesn't move the end of a name; a model's name may have one.
func TestDoor_EscapedSlash(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	key, _ := w.key("tnt_a", tenancy.RoleTenantAdmin)
	runID := w.create("x")
	for _, path := range []string{"/v1/runs/" + runID + "%2Fevents", "/v1/runs/" + runID + "%2freceipt", "/v1/memory/notes%2Fk/x", "/v1%2Fruns", "/v1/agents/a%2Fb"} {
		if a := w.do(request{method: "GET", path: path, key: key}); a.StatusCode != 400 && a.StatusCode != 404 {
			t.Errorf("%s: %d %s", path, a.StatusCode, a.raw)
		}
	}
	for _, path := range []string{"/v1/models/builtin%2Fecho-1", "/v1/models/builtin/echo-1"} {
		if a := w.want(200, request{method: "GET", path: path, key: key}); a.body["id"] != "builtin/echo-1" {
			t.Errorf("%s: %s", path, a.raw)
		}
	}
}

// An index that this node's copy has not reached is waited for, and not for ever.
func TestDoor_Index(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		key, _ := w.key("tnt_a", tenancy.RoleTenantUser)
		q := request{method: "GET", path: "/v1/runs", key: key, header: http.Header{"X-Agentos-Index": {"1000000"}}}
		begun := time.Now()
		w.refuse(504, "timeout", q)
		if took := time.Since(begun); took != 5*time.Second {
			t.Errorf("refused after %v", took)
		}
		q.header["X-Agentos-Index"] = []string{fmt.Sprint(w.store.Status().Applied + 1)}
		done := make(chan *answer)
		go func() { done <- w.do(q) }()
		synctest.Wait()
		w.create("x")
		if a := <-done; a.StatusCode != 200 {
			t.Errorf("%d %s", a.StatusCode, a.raw)
		}
		for _, bad := range []string{"-1", "x", "1.5", "18446744073709551616"} {
			q.header["X-Agentos-Index"] = []string{bad}
			w.refuse(400, "invalid_request", q)
		}
		for _, consistency := range []string{"default", "stale", "linearizable"} {
			a := w.want(200, request{method: "GET", path: "/v1/runs?consistency=" + consistency, key: key})
			if got := a.Header.Get("X-Agentos-Stale"); (got == "true") != (consistency == "stale") {
				t.Errorf("%s: X-AgentOS-Stale %q", consistency, got)
			}
		}
		for _, consistency := range []string{"", "eventual", "Stale"} {
			w.refuse(400, "invalid_request", request{method: "GET", path: "/v1/runs?consistency=" + consistency, key: key})
		}
	})
}

// Large bodies share a room: who finds it full is told to come again, and room that was used is free again.
func TestDoor_BodyRoom(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *api.Options) { o.BodyRoom = 4 << 20 })
	key, _ := w.key("tnt_a", tenancy.RoleTenantUser)
	q := request{method: "POST", path: "/v1/chat/completions", key: key, reader: nil}
	large := func(n int64) io.Reader { return io.MultiReader(strings.NewReader(chat), io.LimitReader(spaces{}, n)) }
	for range 3 {
		q.reader = large(3 << 20)
		w.want(200, q)
		q.reader = large(8 << 20)
		if a := w.refuse(429, "rate_limited", q); a.Header.Get("Retry-After") == "" {
			t.Error("429 without Retry-After")
		}
	}
	q.reader, q.body = nil, chat
	w.want(200, q)
}

// A body that comes too slowly is cut off, whether anybody wants it or not, and its sender told so.
func TestDoor_SlowBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		dial := w.serve(false).Transport.(*based).inner.DialContext
		key, _ := w.key("tnt_a", tenancy.RoleTenantUser)
		for path, want := range map[string]int{
			"/v1/agents/agt_a/runs": 400, "/v1/nothing": 404, "/v1/runs": 405, "/v1/admin/tenants": 403, "/v1/chat/completions": 400, "/v1/runs/run_none:cancel": 404,
		} {
			conn, err := dial(t.Context(), "", "")
			w.must(err)
			begun, done := time.Now(), make(chan struct{})
			go func() { // ends when the door has closed the connection
				defer close(done)
				_, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Length: 1000\r\n\r\n", path, key)
				for err == nil {
					_, err = conn.Write([]byte(" "))
					time.Sleep(time.Minute)
				}
			}()
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			w.must(err)
			a := w.check(request{method: "POST", path: path}, resp)
			if took := time.Since(begun); a.StatusCode != want || took > 10*time.Minute {
				t.Errorf("%s: %d %s after %v", path, a.StatusCode, a.raw, took)
			}
			_ = conn.Close()
			<-done
		}
	})
}

// A caller that leaves is no failure of ours: neither in the figures nor in the log.
func TestDoor_Left(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	key, _ := w.key("tnt_a", tenancy.RoleTenantUser)
	ctx, cancel := context.WithCancel(t.Context())
	r := httptest.NewRequestWithContext(ctx, "POST", "/v1/chat/completions", strings.NewReader(strings.Replace(chat, `"x"`, `"/wait 10m"`, 1)))
	r.Header.Set("Authorization", "Bearer "+key)
	time.AfterFunc(50*time.Millisecond, cancel)
	w.door.Handler().ServeHTTP(httptest.NewRecorder(), r)
	if o := w.seen[len(w.seen)-1]; o.Status != 499 || o.Code != "" {
		t.Errorf("observed %+v", o)
	}
}

// Headers that could mean two things are refused before anything is done by them.
func TestDoor_Headers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	key, _ := w.key("tnt_a", tenancy.RoleTenantUser)
	other, _ := w.key("tnt_b", tenancy.RoleTenantUser)
	q := request{method: "GET", path: "/v1/runs"}
	for name, c := range map[string]struct {
		header http.Header
		status int
	}{
		"bearer":                {http.Header{"Authorization": {"bearer " + key}}, 200},
		"api key":               {http.Header{"X-Api-Key": {key}}, 200},
		"both the same":         {http.Header{"Authorization": {"Bearer " + key}, "X-Api-Key": {key}}, 200},
		"both, not the same":    {http.Header{"Authorization": {"Bearer " + key}, "X-Api-Key": {other}}, 400},
		"two bearers":           {http.Header{"Authorization": {"Bearer " + key, "Bearer " + key}}, 400},
		"basic":                 {http.Header{"Authorization": {"Basic " + key}}, 401},
		"no kind":               {http.Header{"Authorization": {key}}, 401},
		"empty":                 {http.Header{"Authorization": {"Bearer "}}, 401},
		"own tenant":            {http.Header{"X-Api-Key": {key}, "X-Tenant-Id": {"tnt_a"}}, 200},
		"another tenant":        {http.Header{"X-Api-Key": {key}, "X-Tenant-Id": {"tnt_b"}}, 403},
		"a tenant that is none": {http.Header{"X-Api-Key": {key}, "X-Tenant-Id": {"tnt_none"}}, 403},
		"odd spelling":          {http.Header{"X-Api-Key": {key}, "X-Tenant-Id": {"TNT_A"}}, 403},
		"two tenants":           {http.Header{"X-Api-Key": {key}, "X-Tenant-Id": {"tnt_a", "tnt_a"}}, 400},
	} {
		q.header = c.header
		if a := w.do(q); a.StatusCode != c.status {
			t.Errorf("%s: %d %s, want %d", name, a.StatusCode, a.raw, c.status)
		}
	}
	// A service of the platform may act for another tenant, and then is that tenant's in every way.
	k, _, _, err := w.tenants.IssueKey(t.Context(), actor("tnt_a"), "tnt_a", tenancy.KeyCreate{PrincipalID: "svc_root", Roles: []tenancy.Role{tenancy.RolePlatformAdmin}})
	w.must(err)
	q.header = http.Header{"X-Api-Key": {k.Secret}, "X-Tenant-Id": {"tnt_b"}}
	if a := w.want(200, q); a.Header.Get("X-Tenant-Id") != "tnt_b" {
		t.Errorf("acts for %q", a.Header.Get("X-Tenant-Id"))
	}
	q.header["X-Tenant-Id"] = []string{"tnt_none"}
	w.refuse(404, "not_found", q)
}

// Failed credentials from one source are answered 429 after a while, and the owner of a good one never notices.
func TestDoor_BruteForce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	key, _ := w.key("tnt_a", tenancy.RoleTenantUser)
	limited := false
	for i := range 200 {
		a := w.do(request{method: "GET", path: "/v1/runs", key: fmt.Sprintf("aos_guess%d", i)})
		switch {
		case a.StatusCode == 429 && a.code() == "rate_limited" && a.Header.Get("Retry-After") != "":
			limited = true
		case a.StatusCode != 401 || limited && i < 60:
			t.Fatalf("guess %d: %d %s", i, a.StatusCode, a.raw)
		}
		w.want(200, request{method: "GET", path: "/v1/runs", key: key})
	}
	if !limited {
		t.Error("200 guesses, and no end")
	}
}

// Where the admin calls stand apart, the public door doesn't know them, and theirs knows nothing else but health and what
// the platform's administrator alone may do.
//
// Requirements: T3, T7.
func TestDoor_AdminApart(t *testing.T) {
	t.Parallel()
	for _, apart := range []bool{false, true} {
		w := newWorld(t, func(o *api.Options) { o.AdminApart = apart })
		root, _ := w.key("tnt_a", tenancy.RolePlatformAdmin)
		ask := func(h http.Handler, path string) int {
			r := httptest.NewRequest("GET", path, nil)
			r.Header.Set("Authorization", "Bearer "+root)
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, r)
			return rec.Code
		}
		for path, want := range map[string][2]int{ // at the public door when apart, at the admin's
			"/v1/admin/tenants": {404, 200}, "/v1/admin/audit": {404, 200}, "/v1/admin/prices": {404, 200}, "/v1/admin/cluster": {404, 200},
			"/v1/federation/peerings": {200, 200}, "/v1/runs": {200, 404}, "/v1/usage": {200, 404}, "/healthz": {200, 200}, "/readyz": {200, 200},
		} {
			public := want[0]
			if !apart {
				public = 200
			}
			if got := ask(w.door.Handler(), path); got != public {
				t.Errorf("apart %v: %s at the public door: %d", apart, path, got)
			}
			if got := ask(w.door.AdminHandler(), path); got != want[1] {
				t.Errorf("apart %v: %s at the admin door: %d", apart, path, got)
			}
		}
	}
}

// A door with a room missing doesn't open.
func TestNew_Refuses(t *testing.T) {
	t.Parallel()
	if _, err := api.New(api.Options{}); err == nil || !strings.Contains(err.Error(), "is missing") {
		t.Errorf("a door without rooms: %v", err)
	}
}

// A large answer that nobody takes is given up.
func TestDoor_SlowAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		client := w.serve(false)
		key, _ := w.key("tnt_a", tenancy.RoleTenantUser)
		w.want(200, request{method: "PUT", path: "/v1/memory/notes/k", key: key, body: `{"value":"` + strings.Repeat("x", 200<<10) + `"}`})
		r, err := http.NewRequestWithContext(t.Context(), "GET", "/v1/memory/notes/k", nil)
		w.must(err)
		r.Header.Set("Authorization", "Bearer "+key)
		resp, err := client.Do(r)
		w.must(err)
		time.Sleep(20 * time.Second)
		if _, err := io.ReadAll(resp.Body); err == nil {
			t.Error("the answer waited for its reader")
		}
		w.must(resp.Body.Close())
	})
}

// On OpenAI's paths an error has what OpenAI's clients look for, null when there is nothing to say; elsewhere it has not.
func TestDoor_OpenAIErrors(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	key, _ := w.key("tnt_a", tenancy.RoleTenantUser)
	for _, c := range []struct {
		q     request
		kind  any
		param any
	}{
		{request{method: "POST", path: "/v1/chat/completions", body: chat}, "authentication_error", nil},
		{request{method: "POST", path: "/v1/chat/completions", key: key, body: `{"model":"none","messages":[{"role":"user","content":"x"}]}`}, "invalid_request_error", "model"},
		{request{method: "POST", path: "/v1/chat/completions", key: key, body: `{"model":"none"}`}, "invalid_request_error", "messages"},
		{request{method: "POST", path: "/v1/embeddings", key: key, body: `{"model":"builtin/echo-1","input":"x"}`}, "invalid_request_error", "model"},
		{request{method: "GET", path: "/v1/models/none", key: key}, "invalid_request_error", "model"},
		{request{method: "POST", path: "/v1/chat/completions", key: key, body: strings.Replace(chat, `"x"`, `"/cut 1"`, 1)}, "server_error", nil},
	} {
		a := w.do(c.q)
		e := a.body["error"].(map[string]any)
		param, has := e["param"]
		if e["type"] != c.kind || param != c.param || !has {
			t.Errorf("%s %s: %s", c.q.path, c.q.body, a.raw)
		}
	}
	a := w.refuse(404, "not_found", request{method: "GET", path: "/v1/runs/run_none", key: key})
	if e := a.body["error"].(map[string]any); len(e) != 4 {
		t.Errorf("elsewhere: %s", a.raw)
	}
}

// A failure nobody expected says nothing of itself; the door stands.
func TestDoor_Panic(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *api.Options) { o.Cluster = broken{} })
	key, _ := w.key("tnt_a", tenancy.RolePlatformAdmin)
	for _, path := range []string{"/v1/admin/cluster:transfer-leader", "/v1/admin/cluster/join-tokens"} {
		if a := w.refuse(500, "internal_error", request{method: "POST", path: path, key: key}); strings.Contains(string(a.raw), "secret") {
			t.Errorf("%s", a.raw)
		}
	}
	w.want(200, request{method: "GET", path: "/v1/runs", key: key})
}

// broken fails in both ways there are.
type broken struct{ nobody }

func (broken) RotateGossip(context.Context, tenancy.Actor) error { panic("the secret reason") }

func (broken) Backup(context.Context, tenancy.Actor) (*replica.Backup, error) {
	panic("the secret reason")
}

func (broken) Transfer(context.Context, tenancy.Actor, string) (bool, uint64, error) {
	return false, 0, errors.New("the secret reason")
}

func (broken) CreateToken(context.Context, tenancy.Actor, time.Duration, int) (*cluster.Token, bool, uint64, error) {
	panic("the secret reason")
}
