package onenode_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

func budgeted(t *testing.T, tokens int) *harness.Tenant {
	t.Helper()
	quotas := harness.Wide()
	quotas["models"] = map[string]any{"token_budget": map[string]any{"window": "day", "max_tokens": tokens}}
	return suite.Tenant(t, quotas)
}

// books waits until nothing is reserved and returns what the tenant's day budget says it has spent.
func books(t *testing.T, tn *harness.Tenant) int64 {
	t.Helper()
	spent := int64(-1)
	if !harness.Poll(soon, 50*time.Millisecond, func() bool {
		a := tn.Want(t, 200, "GET", "/v1/usage?window=day", nil)
		budgets, _ := a.At("usage.budgets").([]any)
		for i := range budgets {
			b := fmt.Sprintf("usage.budgets.%d.", i)
			if a.Str(b+"window") == "day" && a.At(b+"limit") != nil {
				spent = a.Int(b + "spent")
				return a.Int(b+"reserved") == 0
			}
		}
		t.Fatalf("no day budget in %s", a.Body)
		return false
	}) {
		t.Error("something stays reserved")
	}
	return spent
}

// However many calls come at once, no more is spent than the budget holds; what was answered is what the books say.
//
// Requirements: B6, T4, Q4.
func TestBudget_Calls(t *testing.T) {
	t.Parallel()
	const budget = 200
	tn := budgeted(t, budget)
	answered := int64(0)
	for _, a := range parallel(t, 200, func(i int) (harness.Answer, error) {
		return tn.Try(context.Background(), "POST", "/v1/chat/completions", chatBody("/tokens 8", map[string]any{"max_tokens": 8}))
	}) {
		if a.Status == 200 {
			answered += a.Int("usage.total_tokens")
			continue
		}
		refused(t, a, 429, "quota_exceeded")
		for _, name := range []string{"tenant_id", "limit", "used", "reserved", "window", "resets_at"} {
			if !harness.Has(a.At(""), "error.details."+name) {
				t.Fatalf("quota_exceeded without %s: %s", name, a.Body)
			}
		}
		if a.Header.Get("Retry-After") == "" {
			t.Error("quota_exceeded without Retry-After")
		}
	}
	if answered == 0 || answered > budget {
		t.Errorf("%d tokens were answered against a budget of %d", answered, budget)
	}
	if spent := books(t, tn); spent != answered {
		t.Errorf("the books say %d, the answers %d", spent, answered)
	}
	// Once the reservations are gone, what is left can be spent: the refusals were not for ever.
	if left := budget - answered; left >= 20 {
		tn.Want(t, 200, "POST", "/v1/chat/completions", chatBody("/tokens 8", map[string]any{"max_tokens": 8}))
	}
}

// The same inside runs, whose model calls are reserved and settled with the journal.
//
// Requirements: B6, T4.
func TestBudget_Runs(t *testing.T) {
	t.Parallel()
	const budget = 3000
	tn := budgeted(t, budget)
	created := parallel(t, 60, func(i int) (harness.Answer, error) {
		return tn.Try(context.Background(), "POST", "/v1/agents/"+tn.Agent+"/runs", harness.Body("/call tool.echo {}\n/tokens 100", nil))
	})
	var journals int64
	outcomes := map[string]int{}
	for _, a := range created {
		events := tn.Journal(t, a.Str("run.run_id"))
		for _, e := range events {
			if e.Type == "agentos.model.completed" {
				n, _ := harness.At(e.Payload, "usage.total_tokens").(json.Number)
				v, _ := n.Int64()
				journals += v
			}
		}
		last := events[len(events)-1]
		outcomes[last.Type+last.Str("error.code")]++
		if last.Type == "agentos.run.failed" && last.Str("error.code") != "quota_exceeded" {
			t.Errorf("failed by another reason: %s", last.Raw)
		}
	}
	if journals > budget {
		t.Errorf("%d tokens in the journals against a budget of %d", journals, budget)
	}
	if outcomes["agentos.run.failedquota_exceeded"] == 0 {
		t.Errorf("nobody met the limit: %v", outcomes)
	}
	if spent := books(t, tn); spent != journals {
		t.Errorf("the books say %d, the journals %d", spent, journals)
	}
}

// Every door to a model stands before the same budget.
//
// Requirements: B6.
func TestBudget_EveryDoor(t *testing.T) {
	t.Parallel()
	tn := budgeted(t, 0)
	stream := chatBody("x", map[string]any{"stream": true})
	for path, body := range map[string]any{
		"/v1/chat/completions":         chatBody("x", nil),
		"/stack-b/v1/chat/completions": stream,
		"/v1/embeddings":               map[string]any{"model": "builtin/hash-embed-1", "input": "x"},
		"/stack-b/v1/embeddings":       map[string]any{"model": "builtin/hash-embed-1", "input": "x"},
	} {
		refused(t, tn.Do(t, "POST", path, body), 429, "quota_exceeded")
	}
	a, _ := tn.Complete(t, "x", nil)
	if a.Str("run.error.code") != "quota_exceeded" {
		t.Errorf("run %s", a.Body)
	}
}
