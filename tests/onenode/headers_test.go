package onenode_test

import (
	"strings"
	"testing"

	"github.com/nexixai/agentos/tests/harness"
)

// The headers that every answer carries, good or bad, and what becomes of those that a caller sends.
func TestHeaders_Always(t *testing.T) {
	t.Parallel()
	tn := suite.Tenant(t, nil)
	run := tn.Create(t, "hello", nil)
	for name, a := range map[string]harness.Answer{
		"read":         tn.Do(t, "GET", "/v1/runs/"+run, nil),
		"list":         tn.Do(t, "GET", "/v1/runs", nil),
		"write":        tn.Do(t, "POST", "/v1/agents/"+tn.Agent+"/runs", harness.Body("x", nil)),
		"not found":    tn.Do(t, "GET", "/v1/runs/run_none", nil),
		"bad body":     tn.Do(t, "POST", "/v1/agents/"+tn.Agent+"/runs", "{"),
		"unauthorized": tn.As("").Do(t, "GET", "/v1/runs", nil),
		"no such path": tn.Do(t, "GET", "/v1/nothing", nil),
		"health":       tn.As("").Do(t, "GET", "/v1/health", nil),
		"models":       tn.Do(t, "GET", "/v1/models", nil),
	} {
		for _, h := range []string{"X-Request-Id", "X-Correlation-Id", "X-AgentOS-Index"} {
			if a.Header.Get(h) == "" {
				t.Errorf("%s: no %s", name, h)
			}
		}
		if a.Str("correlation_id") != a.Header.Get("X-Correlation-Id") {
			t.Errorf("%s: correlation_id %q in the body, %q in the header", name, a.Str("correlation_id"), a.Header.Get("X-Correlation-Id"))
		}
		if name != "unauthorized" && name != "health" && name != "no such path" && a.Header.Get("X-Tenant-Id") != tn.ID {
			t.Errorf("%s: X-Tenant-Id %q", name, a.Header.Get("X-Tenant-Id"))
		}
		if got := a.Header.Get("Content-Type"); !strings.HasPrefix(got, "application/json") {
			t.Errorf("%s: Content-Type %q", name, got)
		}
	}
}

func TestHeaders_Correlation(t *testing.T) {
	t.Parallel()
	tn := suite.Tenant(t, nil)
	path := "/v1/agents/" + tn.Agent + "/runs"
	a := tn.Want(t, 201, "POST", path, harness.Body("x", nil), "X-Correlation-Id", "corr_mine.1-2_3")
	if a.Str("correlation_id") != "corr_mine.1-2_3" || a.Str("run.correlation_id") != "corr_mine.1-2_3" {
		t.Errorf("a good correlation id is not kept: %s", a.Body)
	}
	a = tn.Want(t, 201, "POST", path, harness.Body("x", map[string]any{"correlation_id": "corr_body"}))
	if a.Header.Get("X-Correlation-Id") != "corr_body" {
		t.Errorf("the body's correlation id does not count: %q", a.Header.Get("X-Correlation-Id"))
	}
	a = tn.Want(t, 201, "POST", path, harness.Body("x", map[string]any{"correlation_id": "corr_body"}), "X-Correlation-Id", "corr_header")
	if a.Header.Get("X-Correlation-Id") != "corr_header" {
		t.Errorf("the header does not come first: %q", a.Header.Get("X-Correlation-Id"))
	}
	for _, bad := range []string{"a b", "ä", strings.Repeat("x", 129), "a;b=\"c\"", "<script>"} {
		a = tn.Want(t, 200, "GET", "/v1/runs", nil, "X-Correlation-Id", bad)
		if got := a.Header.Get("X-Correlation-Id"); got == bad || got == "" {
			t.Errorf("a malformed correlation id %q comes back as %q", bad, got)
		}
	}
}

// A trace goes on in the run's events; one that is none is replaced and never refused.
//
// Requirements: M2.
func TestHeaders_Traceparent(t *testing.T) {
	t.Parallel()
	tn := suite.Tenant(t, nil)
	trace := strings.Repeat("4bf92f35", 4)
	id := tn.Create(t, "x", nil, "traceparent", "00-"+trace+"-00f067aa0ba902b7-01")
	if got := tn.Journal(t, id)[0].Trace.Traceparent; !strings.HasPrefix(got, "00-"+trace+"-") {
		t.Errorf("the events' trace is %q", got)
	}
	id = tn.Create(t, "x", map[string]any{"traceparent": "00-" + trace + "-00f067aa0ba902b7-01"})
	if got := tn.Journal(t, id)[0].Trace.Traceparent; !strings.HasPrefix(got, "00-"+trace+"-") {
		t.Errorf("with the trace in the body the events' is %q", got)
	}
	for _, bad := range []string{"x", "00-" + strings.Repeat("0", 32) + "-00f067aa0ba902b7-01", "00-" + trace + "-" + strings.Repeat("0", 16) + "-01", "ff-" + trace + "-00f067aa0ba902b7-01", strings.Repeat("a", 5000)} {
		id = tn.Create(t, "x", nil, "traceparent", bad)
		tn.Journal(t, id) // the checker insists on a well-formed trace
	}
}

func TestHeaders_Problem(t *testing.T) {
	t.Parallel()
	tn := suite.Tenant(t, nil)
	a := tn.Want(t, 404, "GET", "/v1/runs/run_none", nil, "Accept", "application/problem+json")
	if got := a.Header.Get("Content-Type"); !strings.HasPrefix(got, "application/problem+json") {
		t.Errorf("Content-Type %q: %s", got, a.Body)
	}
	if a.Int("status") != 404 || a.Str("title") == "" {
		t.Errorf("problem %s", a.Body)
	}
}

// A caller reads what it wrote, and may demand an index.
//
// Requirements: N3.
func TestHeaders_Index(t *testing.T) {
	t.Parallel()
	tn := suite.Tenant(t, nil)
	for range 50 {
		a := tn.Want(t, 201, "POST", "/v1/agents/"+tn.Agent+"/runs", harness.Body("x", nil))
		tn.Want(t, 200, "GET", "/v1/runs/"+a.Str("run.run_id"), nil)
		tn.Want(t, 200, "GET", "/v1/runs/"+a.Str("run.run_id")+"?consistency=linearizable", nil, "X-AgentOS-Index", a.Header.Get("X-AgentOS-Index"))
	}
	for _, query := range []string{"consistency=eventual", "consistency="} {
		refused(t, tn.Do(t, "GET", "/v1/runs?"+query, nil), 400, "invalid_request")
	}
	refused(t, tn.Do(t, "GET", "/v1/runs", nil, "X-AgentOS-Index", "-1"), 400, "invalid_request")
}

func TestHealth(t *testing.T) {
	t.Parallel()
	c := suite.Shared(t).Client("")
	for path, service := range map[string]string{"/v1/health": "stack-a", "/stack-b/v1/health": "stack-b"} {
		a := c.Want(t, 200, "GET", path, nil)
		if a.Str("status") != "ok" || a.Str("service") != service || a.Str("version") == "" {
			t.Errorf("%s: %s", path, a.Body)
		}
	}
	c.Want(t, 200, "GET", "/healthz", nil)
	if a := c.Want(t, 200, "GET", "/readyz", nil); len(a.Body) < 10 {
		t.Errorf("readyz names no dependency: %s", a.Body)
	}
	// Metrics and profiles stand on the admin listener only.
	for _, path := range []string{"/metrics", "/debug/pprof/", "/debug/pprof/heap"} {
		if a := c.Do(t, "GET", path, nil); a.Status != 404 && a.Status != 401 {
			t.Errorf("%s on the API door: %d", path, a.Status)
		}
	}
	m := harness.NewClient(suite.Shared(t).Node().AdminURL, "").Want(t, 200, "GET", "/metrics", nil)
	for _, name := range []string{"agentos_run_count", "agentos_active_runs", "agentos_queue_depth"} {
		if !strings.Contains(string(m.Body), name) {
			t.Errorf("no %s in the metrics", name)
		}
	}
}
