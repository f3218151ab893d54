package api_test

import (
	"bufio"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/nexixai/agentos/tenancy"
)

// unharmed asks, and fails when the answer is a failure of ours, or is no answer.
func (w *world) unharmed(q request) *answer {
	w.t.Helper()
	a := w.do(q)
	if a.StatusCode >= 500 || a.StatusCode >= 400 && a.code() == "" && q.method != http.MethodHead {
		w.t.Errorf("%s %q with %q and %v: %d %s", q.method, q.path, q.body, q.header, a.StatusCode, a.raw)
	}
	return a
}

// Whatever a body holds, it is taken or it is the sender's fault, at every kind of door.
func FuzzBody(f *testing.F) {
	for _, s := range samples {
		f.Add([]byte(s.body))
	}
	for _, body := range []string{
		`{"input":{"type":"text","text":"x"},"run_options":{"dry_run":true,"max_steps":1e9},"context":{"labels":{"a":"b"}},"policy_context":{"region":"x"}}`,
		`{"auth":{"tenant_id":"tnt_a","scopes":["runs:read"]},"traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01","correlation_id":"c"}`,
		`{"auth":null,"tenant_id":null}`, `{"auth":[]}`, "{\"a\":\"\\ud800\"}", `{"INPUT":1}`, `[[[[`, "\x00", `{"value":1e999}`,
	} {
		f.Add([]byte(body))
	}
	w := newWorld(f, nil)
	key, _ := w.key("tnt_a", tenancy.RolePlatformAdmin)
	f.Fuzz(func(t *testing.T, body []byte) {
		w := &world{t: t, door: w.door}
		for _, path := range []string{
			"POST /v1/agents/agt_none/runs", "PUT /v1/agents/agt_x", "PUT /v1/tools/tool.x", "PUT /v1/memory/n/k", "POST /v1/memory/n:search", "PUT /v1/policy/rulesets/pol_x",
			"POST /v1/chat/completions", "POST /v1/embeddings", "POST /v1/models:explain", "POST /v1/policy/check", "PATCH /v1/admin/tenants/tnt_b", "PUT /v1/admin/tenants/tnt_b/quotas",
			"PUT /v1/admin/prices",
		} {
			method, path, _ := strings.Cut(path, " ")
			w.unharmed(request{method: method, path: path, key: key, body: string(body)})
		}
	})
}

// Whatever a path holds, it is one of ours or the asker's fault, and nobody without a credential gets in by it.
func FuzzPath(f *testing.F) {
	for _, path := range []string{
		"/v1/runs/run_a/events", "/v1/runs/run_a:cancel", "/v1/runs/:cancel", "/v1//runs", "/stack-b/v1/models/a/b/c", "/v1/models/", "/v1/memory/a/b", "/v1/memory/a:search",
		"/v1/runs/%2e%2e/events", "/v1/agents/a%00b", "/v1/agents/a%2Fb", "/v1/runs/run_a%0d%0a", "/healthz:x", "/v1/runs/..;/x", "/v1/policy:check:check", "/v1/admin/tenants/:enable",
	} {
		f.Add("GET", path, "limit=1")
	}
	f.Add("POST", "/v1/runs/run_a:cancel", "")
	f.Add("HEAD", "/v1/runs", "cursor=a&label=x:y&label=&status=queued&agent_id=%ff")
	w := newWorld(f, nil)
	key, _ := w.key("tnt_a", tenancy.RolePlatformAdmin)
	open := map[string]bool{}
	for _, r := range w.door.Routes() {
		for _, prefix := range []string{"", "/stack-b"} {
			open[prefix+r.Template] = open[prefix+r.Template] || r.Open
		}
	}
	f.Fuzz(func(t *testing.T, method, path, query string) {
		target := (&url.URL{Path: path, RawQuery: query}).RequestURI()
		line := method + " " + target + " HTTP/1.1\r\nHost: x\r\n\r\n"
		if r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(line))); err != nil || r.Method != method || r.URL.Path != path {
			return // the server's own reader refuses it
		}
		w := &world{t: t, door: w.door}
		w.unharmed(request{method: method, path: target, key: key})
		if a := w.unharmed(request{method: method, path: target}); a.StatusCode < 400 && !open[path] {
			t.Errorf("%s %s without a credential: %d", method, target, a.StatusCode)
		}
	})
}

// Whatever a reader says of where it was, it is believed or refused.
func FuzzResume(f *testing.F) {
	for _, place := range []string{"0", "1", "7", "-1", "1.5", "0x1", "", " 1", "9223372036854775807", "9223372036854775808", "18446744073709551616", "evt_1", "\u0661"} {
		f.Add(place, place)
	}
	w := newWorld(f, nil)
	key, _ := w.key("tnt_a", tenancy.RoleTenantUser)
	runID := w.create("/wait 10m")
	w.cancel(runID)
	f.Fuzz(func(t *testing.T, query, header string) {
		if strings.ContainsFunc(header, func(r rune) bool { return r < ' ' || r > '~' }) {
			return
		}
		w := &world{t: t, door: w.door}
		a := w.unharmed(request{
			method: "GET", path: "/v1/runs/" + runID + "/events?after_sequence=" + url.QueryEscape(query), key: key,
			header: http.Header{"Last-Event-Id": {header}},
		})
		if a.StatusCode != 200 && a.StatusCode != 204 && a.StatusCode != 400 {
			t.Errorf("%q and %q: %d", query, header, a.StatusCode)
		}
	})
}

// Whatever the headers hold, what goes out is one line each.
func FuzzHeaders(f *testing.F) {
	f.Add("corr_1", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "tnt_a", "7", "application/problem+json")
	f.Add("a\r\nX-Evil: 1", "ff-", "tnt_b", "-1", "*/*, application/problem+json;q=0")
	w := newWorld(f, nil)
	key, _ := w.key("tnt_a", tenancy.RoleTenantUser)
	f.Fuzz(func(t *testing.T, correlation, trace, tenant, index, accept string) {
		if len(index) > 0 && index[0] >= '1' && index[0] <= '9' {
			return // a state to come would be waited for
		}
		r := httptest.NewRequest("GET", "/v1/runs", nil)
		for name, value := range map[string]string{
			"X-Correlation-Id": correlation, "Traceparent": trace, "X-Tenant-Id": tenant, "X-Agentos-Index": index, "Accept": accept, "Authorization": "Bearer " + key,
		} {
			r.Header.Set(name, value)
		}
		rec := httptest.NewRecorder()
		w.door.Handler().ServeHTTP(rec, r)
		if rec.Code >= 500 {
			t.Errorf("%d %s", rec.Code, rec.Body)
		}
		for name, values := range rec.Header() {
			for _, v := range values {
				if strings.ContainsAny(v, "\r\n\x00") {
					t.Errorf("%s: %q", name, v)
				}
			}
		}
	})
}
