package api_test

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/nexixai/agentos/api"
	"github.com/nexixai/agentos/tenancy"
)

// sample is a request of one route that succeeds.
type sample struct {
	status int
	body   string // "" for a route that takes none
	// foreign says which parameter names something of another tenant's, if such a thing is to be found by this route.
	foreign string
}

const chat = `{"model":"builtin/echo-1","messages":[{"role":"user","content":"x"}]}`

// samples has one request for every route; a route without one fails the test.
var samples = map[string]sample{
	"GET /healthz":                                      {status: 200},
	"GET /readyz":                                       {status: 200},
	"GET /v1/health":                                    {status: 200},
	"GET /stack-b/v1/health":                            {status: 200},
	"GET /v1/federation/health":                         {status: 200},
	"GET /openapi/{name}.yaml":                          {status: 200},
	"GET /docs/":                                        {status: 200},
	"GET /v1/runs":                                      {status: 200},
	"GET /v1/agents":                                    {status: 200},
	"GET /v1/tools":                                     {status: 200},
	"GET /v1/models":                                    {status: 200},
	"GET /v1/models/{model_id}":                         {status: 200},
	"GET /v1/usage":                                     {status: 200},
	"GET /v1/policy/rulesets":                           {status: 200},
	"GET /v1/federation/peers":                          {status: 200},
	"GET /v1/federation/peers/{stack_id}":               {status: 200},
	"POST /v1/federation/peers/{stack_id}:ping":         {status: 200},
	"GET /v1/peer/info":                                 {status: 200},
	"GET /v1/federation/peer":                           {status: 200},
	"GET /v1/peer/capabilities":                         {status: 200},
	"GET /v1/admin/tenants":                             {status: 200},
	"GET /v1/admin/audit":                               {status: 200},
	"GET /v1/admin/cluster":                             {status: 200},
	"POST /v1/admin/cluster:rotate-gossip-key":          {status: 200},
	"POST /v1/admin/backup":                             {status: 200},
	"GET /v1/admin/backends":                            {status: 200},
	"GET /v1/admin/prices":                              {status: 200},
	"GET /v1/runs/{run_id}":                             {status: 200, foreign: "run_id"},
	"GET /v1/agents/{agent_id}":                         {status: 200, foreign: "agent_id"},
	"GET /v1/tools/{tool_id}":                           {status: 200, foreign: "tool_id"},
	"GET /v1/memory/{ns}/{key}":                         {status: 200, foreign: "key"},
	"GET /v1/runs/{run_id}/events":                      {status: 200, foreign: "run_id"},
	"GET /v1/runs/{run_id}/receipt":                     {status: 404, foreign: "run_id"}, // nothing was forwarded
	"GET /v1/policy/rulesets/{policy_id}":               {status: 200, foreign: "policy_id"},
	"GET /v1/federation/peer/capabilities":              {status: 200},
	"GET /v1/admin/tenants/{id}":                        {status: 200, foreign: "id"},
	"GET /v1/admin/tenants/{id}/quotas":                 {status: 200, foreign: "id"},
	"GET /v1/admin/tenants/{id}/keys":                   {status: 200, foreign: "id"},
	"POST /v1/runs/{run_id}:cancel":                     {status: 200, foreign: "run_id"},
	"POST /v1/agents/{agent_id}/runs":                   {status: 201, body: `{"input":{"type":"text","text":"x"}}`, foreign: "agent_id"},
	"PUT /v1/agents/{agent_id}":                         {status: 200, body: `{"agent":{"name":"n","model_ref":"tier:fast"}}`},
	"PUT /v1/tools/{tool_id}":                           {status: 200, body: `{"tool":{"kind":"http","config":{"url":"https://example.com/"}}}`},
	"PUT /v1/memory/{ns}/{key}":                         {status: 200, body: `{"value":1}`},
	"PUT /v1/policy/rulesets/{policy_id}":               {status: 200, body: `{"ruleset":{"redact":["email"]}}`},
	"DELETE /v1/agents/{agent_id}":                      {status: 204, foreign: "agent_id"},
	"DELETE /v1/tools/{tool_id}":                        {status: 204, foreign: "tool_id"},
	"DELETE /v1/memory/{ns}/{key}":                      {status: 204, foreign: "key"},
	"DELETE /v1/policy/rulesets/{policy_id}":            {status: 204, foreign: "policy_id"},
	"POST /v1/memory/{ns}:search":                       {status: 200, body: `{"query":"note"}`},
	"POST /v1/chat/completions":                         {status: 200, body: chat},
	"POST /v1/embeddings":                               {status: 200, body: `{"model":"builtin/hash-embed-1","input":"x"}`},
	"POST /v1/models:invoke":                            {status: 200, body: `{"request":{"operation":"chat","input":{"messages":[{"role":"user","content":"x"}]}}}`},
	"POST /v1/models:explain":                           {status: 200, body: `{"request":{"operation":"embed","model_ref":"builtin/hash-embed-1","input":{"texts":["x"]}}}`},
	"POST /v1/policy/check":                             {status: 200, body: `{"policy_check":{"content":{"type":"text","text":"x"}}}`},
	"POST /v1/policy:check":                             {status: 200, body: `{"policy_check":{"content":{"type":"text","text":"x"}}}`},
	"POST /v1/admin/tenants":                            {status: 201, body: `{"tenant_create":{"name":"n"}}`},
	"PATCH /v1/admin/tenants/{id}":                      {status: 200, body: `{"tenant_update":{"name":"n"}}`, foreign: "id"},
	"POST /v1/admin/tenants/{id}:enable":                {status: 200, foreign: "id"},
	"POST /v1/admin/tenants/{id}:disable":               {status: 200, foreign: "id"},
	"PUT /v1/admin/tenants/{id}/quotas":                 {status: 200, body: `{"quota_config":{}}`, foreign: "id"},
	"POST /v1/admin/tenants/{id}/keys":                  {status: 201, body: `{"principal_id":"svc_a"}`, foreign: "id"},
	"POST /v1/admin/tenants/{id}/keys/{key_id}:rotate":  {status: 200, foreign: "id"},
	"DELETE /v1/admin/tenants/{id}/keys/{key_id}":       {status: 204, foreign: "id"},
	"PUT /v1/admin/prices":                              {status: 200, body: `{"prices":{"default":{"input_usd_per_million":1,"output_usd_per_million":1}}}`},
	"POST /v1/admin/cluster:transfer-leader":            {status: 200, body: `{}`},
	"POST /v1/admin/cluster/members/{stack_id}:drain":   {status: 200},
	"POST /v1/admin/cluster/members/{stack_id}:undrain": {status: 200},
	"DELETE /v1/admin/cluster/members/{stack_id}":       {status: 204},
	"POST /v1/admin/cluster/join-tokens":                {status: 201},
	"POST /v1/federation/runs:forward":                  {status: 200, body: `{"forward":{"run_request":{"agent_id":"agt_a","input":{"type":"text","text":"x"}}}}`},
	"POST /v1/federation/events:ingest":                 {status: 400, body: `{"events":[],"ingest":{"source_stack_id":"stk_a"}}`},
	"GET /v1/federation/runs/{run_id}":                  {status: 200, foreign: "run_id"},
	"GET /v1/federation/runs/{run_id}/events":           {status: 200, foreign: "run_id"},
	"POST /v1/federation/runs/{run_id}:cancel":          {status: 200, foreign: "run_id"},
	"GET /v1/federation/routes":                         {status: 200},
	"GET /v1/federation/routes/{route_id}":              {status: 200, foreign: "route_id"},
	"PUT /v1/federation/routes/{route_id}":              {status: 200, body: `{"route":{"targets":[{"local":true}]}}`},
	"DELETE /v1/federation/routes/{route_id}":           {status: 204, foreign: "route_id"},
	"POST /v1/federation/routes:explain":                {status: 200, body: `{"run_request":{"agent_id":"agt_a"}}`},
	"POST /v1/federation/peerings":                      {status: 201, body: `{}`},
	"GET /v1/federation/peerings":                       {status: 200},
	"GET /v1/federation/peerings/{peering_id}":          {status: 200},
	"DELETE /v1/federation/peerings/{peering_id}":       {status: 204},
	"POST /v1/federation/peerings/{peering_id}:suspend": {status: 409}, // nobody has accepted it
	"POST /v1/federation/peerings/{peering_id}:resume":  {status: 409},
	"PUT /v1/federation/peerings/{peering_id}/exports":  {status: 200, body: `{"exports":[]}`},
}

// param is a name in a template.
func params(template string) (names []string) {
	for rest := template; ; {
		_, after, ok := strings.Cut(rest, "{")
		if !ok {
			return names
		}
		name, tail, _ := strings.Cut(after, "}")
		names, rest = append(names, name), tail
	}
}

// eachRoute runs a test for each route, in a world of its own: routes change things.
func eachRoute(t *testing.T, test func(t *testing.T, w *world, r api.Route, s sample, fill func(key, value string) string)) {
	t.Helper()
	for _, r := range newWorld(t, nil).door.Routes() {
		name := r.Method + " " + r.Template
		t.Run(strings.ReplaceAll(name, "/", "|"), func(t *testing.T) {
			t.Parallel()
			s, ok := samples[name]
			if !ok {
				t.Fatalf("%s has no sample", name)
			}
			w := newWorld(t, nil)
			_, keyID := w.key("tnt_a", tenancy.RoleTenantUser)
			runID := w.create("/wait 10m")
			if strings.HasSuffix(r.Template, "/runs/{run_id}/events") {
				_, _, _, err := w.runs.Cancel(t.Context(), actor("tnt_a"), runID)
				w.must(err)
			}
			values := map[string]string{
				"run_id": runID, "agent_id": "agt_a", "tool_id": "tool.mine", "ns": "notes", "key": "k", "model_id": "builtin/echo-1",
				"policy_id": "pol_a", "id": "tnt_a", "key_id": keyID, "stack_id": "stk_a", "peering_id": "prg_a", "route_id": "rte_a",
				"name": "stack-a",
			}
			test(t, w, r, s, func(param, value string) string {
				path := r.Template
				for name, v := range values {
					if name == param {
						v = value
					}
					path = strings.ReplaceAll(path, "{"+name+"}", v)
				}
				return path
			})
		})
	}
}

// Every route answers who may ask, and refuses everybody else in the same way: no credential 401, the scope missing 403.
//
// Requirements: T1, T3.
func TestRoutes_Rights(t *testing.T) {
	t.Parallel()
	eachRoute(t, func(t *testing.T, w *world, r api.Route, s sample, fill func(string, string) string) {
		q := request{method: r.Method, path: fill("", ""), body: s.body}
		if !r.Open {
			if a := w.refuse(401, "unauthorized", q); a.Header.Get("WWW-Authenticate") == "" {
				t.Error("401 without WWW-Authenticate")
			}
			q.key = "aos_" + strings.Repeat("A", 43)
			if a := w.refuse(401, "unauthorized", q); a.Header.Get("WWW-Authenticate") == "" {
				t.Error("401 without WWW-Authenticate")
			}
			q.key, _ = w.key("tnt_a", tenancy.RoleTenantAdmin, slices.DeleteFunc(tenancy.ScopesOf([]tenancy.Role{tenancy.RoleTenantAdmin}), func(s tenancy.Scope) bool { return s == r.Scope })...)
			w.refuse(403, "forbidden", q)
			if n := len(w.refused); n != 3 || w.refused[2].Principal != "usr_tenant_admin" || w.refused[2].Resource != r.Template {
				t.Errorf("audited %+v", w.refused)
			}
		}
		q.key, _ = w.key("tnt_a", tenancy.RolePlatformAdmin)
		if r.Open {
			q.key = ""
		}
		a := w.want(s.status, q)
		if tenantID := a.Header.Get("X-Tenant-Id"); (tenantID == "tnt_a") == r.Open {
			t.Errorf("X-Tenant-Id %q", tenantID)
		}
		if a.StatusCode == 204 && len(a.raw) > 0 {
			t.Errorf("204 with %q", a.raw)
		}
		if o := w.seen[len(w.seen)-1]; o.Template != r.Template || o.Method != r.Method || o.Status != s.status || (o.Code == "") != (s.status < 400) {
			t.Errorf("observed %+v", o)
		}
	})
}

// What is another tenant's is answered like what nobody has: the same status, body and headers.
//
// Requirements: T2.
func TestRoutes_Foreign(t *testing.T) {
	t.Parallel()
	eachRoute(t, func(t *testing.T, w *world, r api.Route, s sample, fill func(string, string) string) {
		if s.foreign == "" {
			for _, name := range params(r.Template) {
				if name != "ns" && name != "model_id" && name != "stack_id" && name != "peering_id" && r.Method != http.MethodPut && !r.Open {
					t.Errorf("nothing is said of whose {%s} may be asked for", name)
				}
			}
			return
		}
		bob, _ := w.key("tnt_b", tenancy.RoleTenantAdmin)
		const nobodys = "tool.nobodys" // as good as an id of any kind
		theirs := w.refuse(404, "not_found", request{method: r.Method, path: fill("", ""), body: s.body, key: bob})
		none := w.refuse(404, "not_found", request{method: r.Method, path: fill(s.foreign, nobodys), body: s.body, key: bob})
		if a, b := anonymous(theirs), anonymous(none); a != b {
			t.Errorf("another's: %s\nnobody's:  %s", a, b)
		}
		if s.status < 400 {
			alice, _ := w.key("tnt_a", tenancy.RolePlatformAdmin)
			w.want(s.status, request{method: r.Method, path: fill("", ""), body: s.body, key: alice})
		}
	})
}

// anonymous is an answer without what differs from one request to the next.
func anonymous(a *answer) string {
	h := a.Header.Clone()
	id := h.Get("X-Correlation-Id")
	for _, name := range []string{"X-Correlation-Id", "X-Request-Id", "X-Agentos-Index"} {
		h.Set(name, "·")
	}
	var b strings.Builder
	_ = h.Write(&b)
	return b.String() + strings.ReplaceAll(string(a.raw), id, "·")
}

// A method that a path doesn't know is 405, with those that it knows; a path that nobody knows is 404.
func TestRoutes_Method(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	methods := map[string][]string{}
	for _, r := range w.door.Routes() {
		path := strings.NewReplacer("{run_id}", "run_a", "{agent_id}", "agt_a", "{tool_id}", "tool.a", "{ns}", "n", "{key}", "k", "{model_id}", "m",
			"{policy_id}", "pol_a", "{id}", "tnt_a", "{key_id}", "key_a", "{stack_id}", "stk_a", "{peering_id}", "prg_a").Replace(r.Template)
		methods[path] = append(methods[path], r.Method)
		if r.Method == http.MethodGet {
			methods[path] = append(methods[path], http.MethodHead)
		}
	}
	for path, known := range methods {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW"} {
			if slices.Contains(known, method) {
				continue
			}
			for _, prefix := range []string{"", api.StackBPrefix} {
				if strings.HasPrefix(path, api.StackBPrefix) && prefix != "" || path == "/v1/health" && prefix != "" {
					continue
				}
				a := w.do(request{method: method, path: prefix + path})
				allowed := strings.Split(a.Header.Get("Allow"), ", ")
				slices.Sort(allowed)
				slices.Sort(known)
				if a.StatusCode != 405 || !slices.Equal(allowed, known) || method != "HEAD" && a.code() != "method_not_allowed" {
					t.Errorf("%s %s%s: %d, Allow %v, want %v; %s", method, prefix, path, a.StatusCode, allowed, known, a.raw)
				}
			}
		}
	}
	for _, path := range []string{"/", "/v1", "/v1/", "/v1/runs/", "/v2/runs", "/metrics", "/debug/pprof/", "/v1//runs", "/stack-b", "/stack-b/stack-b/v1/runs", "/v1/runs/run_a/events/1"} {
		w.refuse(404, "not_found", request{method: "GET", path: path})
	}
}

// spaces is an endless body.
type spaces struct{}

func (spaces) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = ' '
	}
	return len(b), nil
}

// What is no JSON is 415, what is too large 413, whether it says so beforehand or not; and nothing of it is an object.
func TestRoutes_Body(t *testing.T) {
	t.Parallel()
	eachRoute(t, func(t *testing.T, w *world, r api.Route, s sample, fill func(string, string) string) {
		if s.body == "" {
			return
		}
		key, _ := w.key("tnt_a", tenancy.RolePlatformAdmin)
		q := request{method: r.Method, path: fill("", ""), key: key, body: s.body}
		for _, kind := range []string{"text/plain", "application/x-www-form-urlencoded", "application/jsonx", ";", "multipart/form-data; boundary=x"} {
			q.header = http.Header{"Content-Type": {kind}}
			w.refuse(415, "unsupported_media_type", q)
		}
		q.header = nil
		limit := int64(1 << 20)
		if r.MaxBody > 0 {
			limit = r.MaxBody
		}
		q.reader = io.LimitReader(spaces{}, limit+1)
		w.refuse(413, "payload_too_large", q)
		q.reader = nil
		if limit == 1<<20 {
			q.body = strings.Repeat(" ", int(limit)+1)
			w.refuse(413, "payload_too_large", q)
		}
		for _, body := range []string{"null", "[]", "7", `"x"`, "{", "{}{}", "\xff", " ", `{"a":1,"a":2}`, `{"a":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`} {
			q.body = body
			if a := w.refuse(400, "invalid_request", q); a.field() == nil {
				t.Errorf("%q: no field in %s", body, a.raw)
			}
		}
		q.body, q.header = s.body, http.Header{"Content-Type": {"application/json; charset=utf-8"}}
		w.want(s.status, q)
	})
}

// Each error has a twin by RFC 9457 that says the same.
func TestRoutes_Problem(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	key, _ := w.key("tnt_a", tenancy.RoleTenantUser)
	for name, q := range map[string]request{
		"401": {method: "GET", path: "/v1/runs"},
		"403": {method: "GET", path: "/v1/usage", key: key},
		"404": {method: "GET", path: "/v1/runs/run_none", key: key},
		"405": {method: "PUT", path: "/v1/runs", key: key},
		"400": {method: "POST", path: "/v1/agents/agt_a/runs", key: key, body: "{"},
		"503": {method: "POST", path: "/v1/chat/completions", key: key, body: strings.Replace(chat, `"x"`, `"/cut 1"`, 1)},
	} {
		plain := w.do(q)
		q.header = http.Header{"Accept": {"text/html, application/problem+json;q=0.9"}}
		twin := w.do(q)
		if twin.Header.Get("Content-Type") != "application/problem+json" || twin.StatusCode != plain.StatusCode || name != plain.Status[:3] {
			t.Errorf("%s: %d and %d, %s", name, plain.StatusCode, twin.StatusCode, twin.Header.Get("Content-Type"))
		}
		e := plain.body["error"].(map[string]any)
		for member, want := range map[string]any{"detail": e["message"], "code": e["code"], "title": e["code"], "retryable": e["retryable"], "tenant_id": plain.body["tenant_id"]} {
			if twin.body[member] != want {
				t.Errorf("%s: %s is %v, want %v", name, member, twin.body[member], want)
			}
		}
		for _, header := range []string{"Retry-After", "Allow", "WWW-Authenticate"} {
			if twin.Header.Get(header) != plain.Header.Get(header) {
				t.Errorf("%s: %s %q and %q", name, header, plain.Header.Get(header), twin.Header.Get(header))
			}
		}
	}
}
