package onenode_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/nexixai/agentos/tests/harness"
)

// parallel sends n requests at once and returns the answers.
func parallel(t *testing.T, n int, ask func(i int) (harness.Answer, error)) []harness.Answer {
	t.Helper()
	answers := make([]harness.Answer, n)
	gate := make(chan struct{})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			<-gate
			a, err := ask(i)
			if err != nil {
				t.Errorf("request %d: %v", i, err)
			}
			answers[i] = a
		})
	}
	close(gate)
	wg.Wait()
	return answers
}

// Requirements: A1.
func TestCreate_Idempotent(t *testing.T) {
	t.Parallel()
	tn := suite.Tenant(t, nil)
	path := "/v1/agents/" + tn.Agent + "/runs"
	for _, where := range []string{"header", "body"} {
		key := "key of " + where
		create := func(text string) (harness.Answer, error) {
			if where == "header" {
				return tn.Try(context.Background(), "POST", path, harness.Body(text, nil), "Idempotency-Key", key)
			}
			return tn.Try(context.Background(), "POST", path, harness.Body(text, map[string]any{"idempotency_key": key}))
		}
		answers := parallel(t, 50, func(int) (harness.Answer, error) { return create("hello") })
		fresh := 0
		for _, a := range answers {
			if a.Str("run.run_id") == "" || a.Str("run.run_id") != answers[0].Str("run.run_id") {
				t.Errorf("%s: another run: %d %s", where, a.Status, a.Body)
			}
			switch replayed := a.Header.Get("Idempotent-Replayed"); {
			case a.Status == 201 && replayed == "":
				fresh++
			case a.Status == 200 && replayed == "true":
			default:
				t.Errorf("%s: status %d, Idempotent-Replayed %q", where, a.Status, replayed)
			}
		}
		if fresh != 1 {
			t.Errorf("%s: %d answers say that they made the run", where, fresh)
		}
		id := answers[0].Str("run.run_id")
		tn.Journal(t, id)
		// After the end the key still names the run, and another body is a conflict.
		if a, err := create("hello"); err != nil || a.Status != 200 || a.Str("run.run_id") != id {
			t.Errorf("%s: replay after the end: %d %s %v", where, a.Status, a.Body, err)
		}
		a, err := create("another")
		if err != nil {
			t.Fatal(err)
		}
		refused(t, a, 409, "conflict")
	}
	if runs, _ := tn.Want(t, 200, "GET", "/v1/runs", nil).At("runs").([]any); len(runs) != 2 {
		t.Errorf("%d runs under two keys", len(runs))
	}
	refused(t, tn.Do(t, "POST", path, harness.Body("x", map[string]any{"idempotency_key": "a"}), "Idempotency-Key", "b"), 400, "invalid_request")
	refused(t, tn.Do(t, "POST", path, harness.Body("x", nil), "Idempotency-Key", strings.Repeat("k", 257)), 400, "invalid_request")
	// Fields that don't count: order, unknown members, defaults spelled out, another trace.
	first := tn.Want(t, 201, "POST", path, `{"input":{"type":"text","text":"y"}}`, "Idempotency-Key", "same")
	again := tn.Want(t, 200, "POST", path, `{"run_options":{"max_steps":30,"priority":"normal"},"novel":1,"input":{"text":"y","type":"text"}}`,
		"Idempotency-Key", "same", "traceparent", "00-"+strings.Repeat("1a", 16)+"-"+strings.Repeat("2b", 8)+"-01")
	if first.Str("run.run_id") != again.Str("run.run_id") {
		t.Errorf("the same request made two runs")
	}
	// Another principal and another tenant have keys of their own.
	second := tn.Issue(t, "svc_second", []string{"tenant_service"}, nil)
	if a := second.Want(t, 201, "POST", path, `{"input":{"type":"text","text":"y"}}`, "Idempotency-Key", "same"); a.Str("run.run_id") == first.Str("run.run_id") {
		t.Error("two principals share a run by a key")
	}
}

// slots fills a tenant with parallel creates and returns the ids of those admitted; all others must be refused by name.
func slots(t *testing.T, tn *harness.Tenant, creates int) []string {
	t.Helper()
	var admitted []string
	for _, a := range parallel(t, creates, func(i int) (harness.Answer, error) {
		return tn.Try(context.Background(), "POST", "/v1/agents/"+tn.Agent+"/runs", harness.Body(fmt.Sprintf("/wait 10m\n%d", i), nil))
	}) {
		if a.Status == 201 {
			admitted = append(admitted, a.Str("run.run_id"))
			continue
		}
		refused(t, a, 429, "rate_limited")
		if got := a.Header.Get("Retry-After"); got != "1" {
			t.Errorf("Retry-After %q", got)
		}
	}
	return admitted
}

func cancelAll(t *testing.T, tn *harness.Tenant, ids []string) {
	t.Helper()
	for _, id := range ids {
		tn.Want(t, 200, "POST", "/v1/runs/"+id+":cancel", nil)
	}
	for _, id := range ids {
		tn.Journal(t, id)
	}
}

// Of a hundred creates at once exactly as many are admitted as there are slots; and a slot that was given back is there
// again, each time.
//
// Requirements: A6, T4.
func TestCreate_Slots(t *testing.T) {
	t.Parallel()
	quotas := harness.Wide()
	quotas["runs"] = map[string]any{"max_concurrent_runs": 10}
	tn := suite.Tenant(t, quotas)
	for round := range 3 {
		ids := slots(t, tn, 100)
		if len(ids) != 10 {
			t.Fatalf("round %d: %d admitted, want 10", round, len(ids))
		}
		// A replay takes no slot.
		if round == 0 {
			cancelAll(t, tn, ids[:1])
			path := "/v1/agents/" + tn.Agent + "/runs"
			a := tn.Want(t, 201, "POST", path, harness.Body("/wait 10m", nil), "Idempotency-Key", "k")
			tn.Want(t, 200, "POST", path, harness.Body("/wait 10m", nil), "Idempotency-Key", "k")
			ids[0] = a.Str("run.run_id")
		}
		cancelAll(t, tn, ids)
	}
	quotas["runs"] = map[string]any{"max_concurrent_runs": 0}
	if ids := slots(t, suite.Tenant(t, quotas), 3); len(ids) != 0 {
		t.Errorf("0 slots admitted %d", len(ids))
	}
}

// A tenant makes no more runs at once than its burst, and Retry-After says when to come again.
//
// Requirements: T4.
func TestCreate_Rate(t *testing.T) {
	t.Parallel()
	quotas := harness.Wide()
	quotas["runs"] = map[string]any{"run_create_qps": 0.01, "run_create_burst": 4}
	tn := suite.Tenant(t, quotas)
	admitted := 0
	for _, a := range parallel(t, 40, func(int) (harness.Answer, error) {
		return tn.Try(context.Background(), "POST", "/v1/agents/"+tn.Agent+"/runs", harness.Body("x", nil))
	}) {
		if a.Status == 201 {
			admitted++
			continue
		}
		refused(t, a, 429, "rate_limited")
		var seconds int
		if _, err := fmt.Sscan(a.Header.Get("Retry-After"), &seconds); err != nil || seconds < 1 || seconds > 100 {
			t.Errorf("Retry-After %q", a.Header.Get("Retry-After"))
		}
	}
	if admitted != 4 {
		t.Errorf("%d admitted, want the burst of 4", admitted)
	}
}
