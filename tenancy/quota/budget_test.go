package quota_test

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
	"github.com/nexixai/agentos/tenancy/quota"
)

func budgeted(window string, tokens *int64, usd *float64) *tenancy.Tenant {
	t := &tenancy.Tenant{ID: "tnt_a"}
	t.Quotas.Models.TokenBudget = &tenancy.TokenBudget{Window: window, MaxTokens: tokens, MaxCostUSD: usd}
	return t
}

func reservation(id string, tokens int64, tx storage.Tx) quota.Reservation {
	return quota.Reservation{ID: id, Tokens: tokens, CostNUSD: tokens * 1000, Expires: tx.Now().Add(time.Minute), PrincipalID: "usr_a"}
}

func settle(tb testing.TB, tx storage.Tx, id string, tokens int64) {
	tb.Helper()
	must(tb, quota.Settle(tx, "tnt_a", quota.Settlement{ReservationID: id, Usage: &quota.Usage{
		PrincipalID: "usr_a", AgentID: "agt_a", Model: "builtin/echo-1", Operation: "chat",
		Requests: 1, InputTokens: tokens / 2, OutputTokens: tokens - tokens/2, CostNUSD: tokens * 1000,
	}}))
}

func stands(tb testing.TB, tx storage.Tx, t *tenancy.Tenant, spent, reserved float64) {
	tb.Helper()
	b, err := quota.Budgets(tx, t, tx.Now())
	must(tb, err)
	if len(b) == 0 || b[0].Spent != spent || b[0].Reserved != reserved {
		tb.Fatalf("budgets %+v, want spent %v, reserved %v", b, spent, reserved)
	}
}

func TestReserve_Exceeded(t *testing.T) {
	tx := newTx()
	tenant := budgeted("day", ptr(int64(100)), nil)
	must(t, quota.Reserve(tx, tenant, reservation("rsv_1", 60, tx)))
	must(t, quota.Reserve(tx, tenant, reservation("rsv_1", 60, tx))) // again: held once
	stands(t, tx, tenant, 0, 60)
	settle(t, tx, "rsv_1", 50)
	must(t, quota.Reserve(tx, tenant, reservation("rsv_2", 30, tx)))

	f := refusal(t, quota.Reserve(tx, tenant, reservation("rsv_3", 21, tx)), fault.QuotaExceeded)
	want := map[string]any{
		"tenant_id": "tnt_a", "limit": int64(100), "used": int64(50), "reserved": int64(30),
		"window": "day", "resets_at": "2026-05-15T00:00:00Z",
	}
	if d := cmp.Diff(want, f.Details); d != "" {
		t.Fatal(d)
	}
	if f.RetryAfter != 12*time.Hour {
		t.Fatalf("retry after %v", f.RetryAfter)
	}
	must(t, quota.Reserve(tx, tenant, reservation("rsv_4", 20, tx)))
	refusal(t, quota.Reserve(tx, tenant, reservation("rsv_5", 0, tx)), fault.QuotaExceeded)
}

func TestReserve_Cost(t *testing.T) {
	tx := newTx()
	tenant := budgeted("month", nil, ptr(0.1))
	r := quota.Reservation{ID: "rsv_1", Tokens: 1e9, CostNUSD: 100_000_000, Expires: noon.Add(time.Minute)}
	must(t, quota.Reserve(tx, tenant, r))
	r.ID, r.CostNUSD = "rsv_2", 1
	f := refusal(t, quota.Reserve(tx, tenant, r), fault.QuotaExceeded)
	want := map[string]any{
		"tenant_id": "tnt_a", "limit": 0.1, "used": 0.0, "reserved": 0.1, "window": "month", "resets_at": "2026-06-01T00:00:00Z",
	}
	if d := cmp.Diff(want, f.Details); d != "" {
		t.Fatal(d)
	}
	r.ID, r.CostNUSD = "rsv_3", 0 // a model without a price spends none of it
	must(t, quota.Reserve(tx, tenant, r))
}

func TestReserve_Invalid(t *testing.T) {
	for name, r := range map[string]quota.Reservation{
		"id":       {ID: "rsv/1", Expires: noon.Add(time.Minute)},
		"tokens":   {ID: "rsv_1", Tokens: -1, Expires: noon.Add(time.Minute)},
		"cost":     {ID: "rsv_1", CostNUSD: math.MinInt64, Expires: noon.Add(time.Minute)},
		"too late": {ID: "rsv_1", Expires: noon},
	} {
		t.Run(name, func(t *testing.T) {
			tx := newTx()
			if err := quota.Reserve(tx, budgeted("day", nil, nil), r); err == nil || !tx.Empty() {
				t.Fatalf("got %v, empty %v", err, tx.Empty())
			}
		})
	}
	tx := newTx()
	tenant := budgeted("day", ptr(int64(100)), ptr(1.0))
	huge := quota.Reservation{ID: "rsv_1", Tokens: math.MaxInt64, CostNUSD: math.MaxInt64, Expires: noon.Add(time.Minute)}
	refusal(t, quota.Reserve(tx, tenant, huge), fault.QuotaExceeded)
	must(t, quota.Reserve(tx, budgeted("day", nil, nil), huge))
	refusal(t, quota.Reserve(tx, tenant, reservation("rsv_2", 1, tx)), fault.QuotaExceeded)
}

func TestSettle_Once(t *testing.T) {
	tx := newTx()
	tenant := budgeted("day", ptr(int64(100)), nil)
	must(t, quota.Reserve(tx, tenant, reservation("rsv_1", 50, tx)))
	settle(t, tx, "rsv_1", 55) // the estimate was wrong by five
	settle(t, tx, "rsv_1", 55)
	settle(t, tx, "rsv_unknown", 10)
	stands(t, tx, tenant, 55, 0)

	must(t, quota.Reserve(tx, tenant, reservation("rsv_2", 45, tx)))
	must(t, quota.Settle(tx, "tnt_a", quota.Settlement{ReservationID: "rsv_2"})) // released unspent
	stands(t, tx, tenant, 55, 0)
	refusal(t, quota.Settle(tx, "tnt_a", quota.Settlement{ReservationID: "rsv_2", Usage: &quota.Usage{CostNUSD: -1}}), fault.InvalidRequest)
}

func TestSettle_AfterTheWindow(t *testing.T) {
	for _, window := range []string{"minute", "hour", "day", "month"} {
		t.Run(window, func(t *testing.T) {
			tx := newTx()
			tenant := budgeted(window, ptr(int64(100)), nil)
			first, err := quota.Budgets(tx, tenant, tx.Now())
			must(t, err)
			tx.SetNow(first[0].ResetsAt.Add(-time.Second))
			must(t, quota.Reserve(tx, tenant, reservation("rsv_1", 90, tx)))
			tx.SetNow(tx.Now().Add(2 * time.Second))
			must(t, quota.Reserve(tx, tenant, reservation("rsv_2", 100, tx))) // the new window is whole
			settle(t, tx, "rsv_1", 80)
			stands(t, tx, tenant, 0, 100)
			settle(t, tx, "rsv_2", 100)
			stands(t, tx, tenant, 100, 0)
			tx.SetNow(tx.Now().Add(-2 * time.Second)) // a clock that steps back finds the old window as it was left
			stands(t, tx, tenant, 80, 0)
		})
	}
}

// A budget given in the middle of a window begins with what was spent before.
func TestReserve_NewBudget(t *testing.T) {
	tx := newTx()
	must(t, quota.Reserve(tx, budgeted("minute", nil, nil), reservation("rsv_1", 70, tx)))
	settle(t, tx, "rsv_1", 70)
	for _, window := range []string{"day", "month"} {
		tenant := budgeted(window, ptr(int64(100)), nil)
		stands(t, tx, tenant, 70, 0)
		refusal(t, quota.Reserve(tx, tenant, reservation("rsv_2", 31, tx)), fault.QuotaExceeded)
	}
}

func TestExpire(t *testing.T) {
	tx := newTx()
	tenant := budgeted("day", ptr(int64(100)), nil)
	for i := range 5 {
		r := reservation(fmt.Sprintf("rsv_%d", i), 10, tx)
		r.Expires = noon.Add(time.Duration(i+1) * time.Second)
		must(t, quota.Reserve(tx, tenant, r))
	}
	tx.SetNow(noon.Add(3 * time.Second))
	settle(t, tx, "rsv_0", 1)
	if n, err := quota.Expire(tx, 1); err != nil || n != 1 {
		t.Fatalf("expired %d, %v", n, err)
	}
	if n, err := quota.Expire(tx, 100); err != nil || n != 1 {
		t.Fatalf("expired %d, %v", n, err)
	}
	stands(t, tx, tenant, 21, 20)
	settle(t, tx, "rsv_1", 1) // too late: it was booked in full
	stands(t, tx, tenant, 21, 20)
	rows, err := quota.UsageRows(tx, "tnt_a", noon, noon, "day", []string{"operation"})
	must(t, err)
	want := []quota.UsageRow{
		{Group: map[string]string{"operation": "chat"}, Requests: 1, OutputTokens: 1, CostNUSD: 1000},
		{Group: map[string]string{"operation": "expired"}, Requests: 2, OutputTokens: 20, CostNUSD: 20_000, Estimated: true},
	}
	if d := cmp.Diff(want, rows); d != "" {
		t.Fatal(d)
	}
}

// Whatever the interleaving of reserve, settle, release and expire over windows and steps of the clock: what is spent and
// held never passes the limit when no call spends more than it reserved, each call is booked once, and at the end nothing
// is held.
//
// Requirements: B6.
func TestBudget_NeverPassed(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		const limit = 100
		window := rapid.SampledFrom([]string{"minute", "hour", "day", "month"}).Draw(rt, "window")
		tenant := budgeted(window, ptr(int64(limit)), ptr(limit*1000/1e9))
		tx := newTx()
		open, booked := map[string]int64{}, int64(0)
		ends := map[string]time.Time{}
		expire := func() {
			for {
				n, err := quota.Expire(tx, 2)
				must(t, err)
				if n == 0 {
					break
				}
			}
			for id, tokens := range open {
				if !ends[id].After(tx.Now()) {
					booked += tokens
					delete(open, id)
				}
			}
		}
		for i := range rapid.IntRange(1, 80).Draw(rt, "steps") {
			switch rapid.IntRange(0, 5).Draw(rt, "act") {
			case 0, 1:
				id := fmt.Sprintf("rsv_%d", i)
				r := reservation(id, rapid.Int64Range(0, 60).Draw(rt, "tokens"), tx)
				r.Expires = tx.Now().Add(time.Duration(rapid.IntRange(1, 300).Draw(rt, "ttl")) * time.Second)
				if err := quota.Reserve(tx, tenant, r); err == nil {
					open[id], ends[id] = r.Tokens, r.Expires
				} else {
					refusal(t, err, fault.QuotaExceeded)
				}
			case 2, 3:
				for _, id := range slices.Sorted(maps.Keys(open))[:min(1, len(open))] {
					tokens := open[id]
					spent := rapid.Int64Range(0, tokens).Draw(rt, "spent")
					settle(t, tx, id, spent)
					settle(t, tx, id, spent)
					booked += spent
					delete(open, id)
				}
			case 4:
				tx.SetNow(tx.Now().Add(time.Duration(rapid.IntRange(-90, 4000).Draw(rt, "seconds")) * time.Second))
			case 5:
				expire()
			}
			b, err := quota.Budgets(tx, tenant, tx.Now())
			must(t, err)
			for _, b := range b {
				if b.Spent < 0 || b.Reserved < 0 || b.Spent+b.Reserved > b.Limit+1e-12 {
					rt.Fatalf("passed: %+v", b)
				}
			}
		}
		tx.SetNow(tx.Now().Add(24 * time.Hour))
		expire()
		if len(open) > 0 {
			rt.Fatalf("still open: %v", open)
		}
		rows, err := quota.UsageRows(tx, "tnt_a", noon.AddDate(0, -1, 0), tx.Now().AddDate(0, 0, 1), "month", nil)
		must(t, err)
		var total int64
		for _, r := range rows {
			total += r.InputTokens + r.OutputTokens
		}
		if total != booked {
			rt.Fatalf("booked %d, want %d", total, booked)
		}
	})
}
