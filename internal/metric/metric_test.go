package metric_test

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	gometrics "github.com/hashicorp/go-metrics"

	"github.com/nexixai/agentos/internal/metric"
)

func scrape(t *testing.T, serve func(w *httptest.ResponseRecorder)) string {
	t.Helper()
	w := httptest.NewRecorder()
	serve(w)
	if w.Code != 200 {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

// Requirements: M1.
func TestTenants_Label(t *testing.T) {
	tenants := metric.NewTenants(10)
	var wg sync.WaitGroup
	var mu sync.Mutex
	labels := map[string]bool{}
	for i := range 100 {
		wg.Go(func() {
			l := tenants.Label(fmt.Sprintf("tnt_%d", i))
			mu.Lock()
			labels[l] = true
			mu.Unlock()
		})
	}
	wg.Wait()
	if len(labels) != 11 || !labels[metric.Other] {
		t.Errorf("%d labels of 100 tenants: %v", len(labels), labels)
	}
	for l := range labels {
		if l != metric.Other && tenants.Label(l) != l {
			t.Errorf("%s lost its label", l)
		}
	}
	if got := metric.NewTenants(0).Label("tnt_x"); got != metric.Other {
		t.Errorf("a bound of nothing gives %q", got)
	}
}

// Requirements: M1.
func TestHTTP(t *testing.T) {
	r := metric.NewRegistry()
	h := metric.NewHTTP(r)
	h.Begin()
	h.Begin()
	h.End("GET", "/v1/runs/{run_id}", 200, 3*time.Millisecond)
	h.Begin()
	h.End("BREW", "", 404, time.Millisecond)
	h.Refused("unauthorized")
	h.Panicked()
	h.StreamOpened()
	h.StreamOpened()
	h.StreamEnded("final")
	text := scrape(t, func(w *httptest.ResponseRecorder) {
		metric.Handler(r).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	})
	for _, line := range []string{
		`agentos_http_requests_total{class="2xx",method="GET",route="/v1/runs/{run_id}"} 1`,
		`agentos_http_requests_total{class="4xx",method="other",route="other"} 1`,
		`agentos_http_request_duration_ms_bucket{method="GET",route="/v1/runs/{run_id}",le="2.5"} 0`,
		`agentos_http_request_duration_ms_bucket{method="GET",route="/v1/runs/{run_id}",le="5"} 1`,
		`agentos_refusals_total{code="unauthorized"} 1`,
		`agentos_auth_failures_total 1`,
		`agentos_http_panics_total 1`,
		`agentos_http_requests_open 1`,
		`agentos_event_streams_open 1`,
		`agentos_event_streams_ended_total{reason="final"} 1`,
		`go_goroutines`,
	} {
		if !strings.Contains(text, line) {
			t.Errorf("no line %s", line)
		}
	}
	if strings.Contains(text, "BREW") {
		t.Error("a method of a stranger's choice became a label")
	}
	var none *metric.HTTP
	none.Begin()
	none.End("GET", "/", 200, 0)
	none.Refused("x")
	none.Panicked()
	none.StreamOpened()
	none.StreamEnded("x")
}

// What a library counts through go-metrics is in the registry, under our prefix.
func TestNewSink(t *testing.T) {
	r := metric.NewRegistry()
	if err := metric.NewSink(r, 0); err != nil {
		t.Fatal(err)
	}
	gometrics.IncrCounter([]string{"raft", "apply"}, 2)
	gometrics.SetGauge([]string{"raft", "peers"}, 3)
	text := scrape(t, func(w *httptest.ResponseRecorder) {
		metric.Handler(r).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	})
	for _, line := range []string{"agentos_raft_apply 2", "agentos_raft_peers 3"} {
		if !strings.Contains(text, line) {
			t.Errorf("no line %s in\n%s", line, text)
		}
	}
}
