package quota_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
	"github.com/nexixai/agentos/tenancy/quota"
)

// base is an empty state under a group, which is itself a transaction.
type base struct{}

func (base) Get(string) ([]byte, error)                          { return nil, nil }
func (base) Scan(storage.Range, func(string, []byte) bool) error { return nil }

var noon = time.Date(2026, 5, 14, 12, 0, 0, 0, time.UTC)

func newTx() *storage.Group { return storage.NewGroup(base{}, noon) }

func ptr[T any](v T) *T { return &v }

func refusal(tb testing.TB, err error, code fault.Code) *fault.Error {
	tb.Helper()
	if !fault.Is(err, code) {
		tb.Fatalf("got %v, want %s", err, code)
	}
	return fault.Of(err)
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func TestAdmitRun_Slots(t *testing.T) {
	tx := newTx()
	tenant := &tenancy.Tenant{ID: "tnt_a"}
	tenant.Quotas.Runs.MaxConcurrentRuns = ptr(int64(10))
	admitted := 0
	for range 100 {
		err := quota.AdmitRun(tx, tenant)
		if err == nil {
			admitted++
			continue
		}
		if f := refusal(t, err, fault.RateLimited); f.RetryAfter != time.Second {
			t.Fatalf("retry after %v", f.RetryAfter)
		}
	}
	if admitted != 10 {
		t.Fatalf("admitted %d", admitted)
	}
	must(t, quota.ReleaseRun(tx, "tnt_a"))
	must(t, quota.AdmitRun(tx, tenant))
	if err := quota.AdmitRun(tx, tenant); err == nil {
		t.Fatal("an eleventh was admitted")
	}
	other := &tenancy.Tenant{ID: "tnt_b", Quotas: tenant.Quotas}
	must(t, quota.AdmitRun(tx, other))

	none := &tenancy.Tenant{ID: "tnt_c"}
	none.Quotas.Runs.MaxConcurrentRuns = ptr(int64(0))
	refusal(t, quota.AdmitRun(tx, none), fault.RateLimited)
}

// Every interleaving of admits and releases keeps the counter between nothing and the limit, and equal to a plain count.
//
// Requirements: T4.
func TestAdmitRun_SlotsNeverPassed(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		tx, live := newTx(), int64(0)
		tenant := &tenancy.Tenant{ID: "tnt_a"}
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			if rapid.Bool().Draw(rt, "raise or cut") && rapid.IntRange(0, 9).Draw(rt, "often") == 0 {
				tenant.Quotas.Runs.MaxConcurrentRuns = ptr(rapid.Int64Range(0, 5).Draw(rt, "limit"))
			}
			if rapid.Bool().Draw(rt, "admit") {
				if err := quota.AdmitRun(tx, tenant); err == nil {
					live++
					if most := tenant.Quotas.Runs.MaxConcurrentRuns; most != nil && live > *most {
						rt.Fatalf("%d live runs, limit %d", live, *most)
					}
				}
			} else {
				must(t, quota.ReleaseRun(tx, tenant.ID))
				live = max(live-1, 0)
			}
			if n, err := quota.Slots(tx, tenant.ID); err != nil || n != live {
				rt.Fatalf("counter %d (%v), want %d", n, err, live)
			}
		}
	})
}

func TestAdmitRun_Rate(t *testing.T) {
	tx := newTx()
	tenant := &tenancy.Tenant{ID: "tnt_a"}
	tenant.Quotas.Runs.RunCreateQPS, tenant.Quotas.Runs.RunCreateBurst = ptr(5.0), ptr(int64(10))
	burst := func() (n int) {
		for range 100 {
			if quota.AdmitRun(tx, tenant) == nil {
				n++
			}
		}
		return n
	}
	steps := []struct {
		name string
		step time.Duration
		want int
	}{
		{"a full bucket at first", 0, 10},
		{"nothing comes without time", 0, 0},
		{"a second brings the rate", time.Second, 5},
		{"a fifth of a second brings one", 200 * time.Millisecond, 1},
		{"a small step back brings nothing", -time.Second, 0},
		{"the same second again brings nothing", time.Second, 0},
		{"a large step back brings one, once", -time.Hour, 1},
		{"time after the step back counts", time.Second, 5},
		{"a leap brings one burst at most", 24 * 365 * time.Hour, 10},
	}
	for _, s := range steps {
		tx.SetNow(tx.Now().Add(s.step))
		if got := burst(); got != s.want {
			t.Fatalf("%s: admitted %d, want %d", s.name, got, s.want)
		}
	}
	f := refusal(t, quota.AdmitRun(tx, tenant), fault.RateLimited)
	if want := 200 * time.Millisecond; f.RetryAfter < want-time.Millisecond || f.RetryAfter > want+time.Millisecond {
		t.Fatalf("retry after %v, want %v", f.RetryAfter, want)
	}
	tx.SetNow(tx.Now().Add(f.RetryAfter))
	must(t, quota.AdmitRun(tx, tenant))
}

func TestAdmitRun_RateOfNothing(t *testing.T) {
	for name, q := range map[string]tenancy.RunQuotas{
		"rate":  {RunCreateQPS: ptr(0.0), RunCreateBurst: ptr(int64(5))},
		"burst": {RunCreateQPS: ptr(5.0), RunCreateBurst: ptr(int64(0))},
		"tiny":  {RunCreateQPS: ptr(5e-324), RunCreateBurst: ptr(int64(1))},
	} {
		t.Run(name, func(t *testing.T) {
			tx := newTx()
			tenant := &tenancy.Tenant{ID: "tnt_a", Quotas: tenancy.Quotas{Runs: q}}
			err := quota.AdmitRun(tx, tenant)
			if name == "tiny" {
				must(t, err)
				err = quota.AdmitRun(tx, tenant)
			}
			if f := refusal(t, err, fault.RateLimited); f.RetryAfter <= 0 || f.RetryAfter > time.Hour {
				t.Fatalf("retry after %v", f.RetryAfter)
			}
		})
	}
}

// Requirements: T4.
func TestTakeToolCall(t *testing.T) {
	tx := newTx()
	tenant := &tenancy.Tenant{ID: "tnt_a"}
	must(t, quota.TakeToolCall(tx, tenant)) // unlimited
	tenant.Quotas.Tools.ToolCallsPerMinute = ptr(int64(3))
	for range 3 {
		must(t, quota.TakeToolCall(tx, tenant))
		tx.SetNow(tx.Now().Add(10 * time.Second))
	}
	f := refusal(t, quota.TakeToolCall(tx, tenant), fault.RateLimited)
	tx.SetNow(tx.Now().Add(f.RetryAfter - time.Millisecond))
	refusal(t, quota.TakeToolCall(tx, tenant), fault.RateLimited)
	tx.SetNow(tx.Now().Add(time.Millisecond))
	must(t, quota.TakeToolCall(tx, tenant))

	tx.SetNow(tx.Now().Add(-48 * time.Hour)) // what was counted isn't forgotten, and doesn't stay for two days
	must(t, quota.TakeToolCall(tx, tenant))
	refusal(t, quota.TakeToolCall(tx, tenant), fault.RateLimited)
	tx.SetNow(tx.Now().Add(62 * time.Second))
	must(t, quota.TakeToolCall(tx, tenant))

	tenant.Quotas.Tools.ToolCallsPerMinute = ptr(int64(0))
	refusal(t, quota.TakeToolCall(tx, tenant), fault.RateLimited)
	must(t, quota.TakeModelRequest(tx, tenant))
}

// No sixty seconds, wherever they begin, hold more than the limit; and who waits as told gets in.
//
// Requirements: T4.
func TestTakeModelRequest_NeverPassed(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		most := rapid.Int64Range(1, 8).Draw(rt, "limit")
		tenant := &tenancy.Tenant{ID: "tnt_a"}
		tenant.Quotas.Models.MaxRequestsPerMinute = &most
		tx := newTx()
		var done []time.Time
		for range rapid.IntRange(1, 80).Draw(rt, "steps") {
			tx.SetNow(tx.Now().Add(time.Duration(rapid.Int64Range(0, int64(20*time.Second)).Draw(rt, "pause"))))
			err := quota.TakeModelRequest(tx, tenant)
			if err != nil {
				tx.SetNow(tx.Now().Add(fault.Of(err).RetryAfter))
				if err := quota.TakeModelRequest(tx, tenant); err != nil {
					rt.Fatalf("waited as told: %v", err)
				}
			}
			done = append(done, tx.Now())
			if i := len(done) - 1 - int(most); i >= 0 && done[len(done)-1].Sub(done[i]) < time.Minute {
				rt.Fatalf("%d requests within %v", most+1, done[len(done)-1].Sub(done[i]))
			}
		}
	})
}

func TestStatus(t *testing.T) {
	tx := newTx()
	tenant := &tenancy.Tenant{ID: "tnt_a"}
	tenant.Quotas.Runs.MaxConcurrentRuns = ptr(int64(1))
	must(t, quota.AdmitRun(tx, tenant))
	got, err := quota.Status(tx, tenant, tx.Now())
	must(t, err)
	want := map[string]string{
		"max_concurrent_runs": "1/1 false", "run_create_burst": "-/0 true", "tool_calls_per_minute": "-/0 true",
		"max_requests_per_minute": "-/0 true", "max_tokens": "-/0 true", "max_cost_usd": "-/0 true",
	}
	have := map[string]string{}
	for _, l := range got {
		limit := "-"
		if l.Limit != nil {
			limit = fmt.Sprint(*l.Limit)
		}
		have[l.Name] = fmt.Sprintf("%s/%v %v", limit, l.Used, l.OK)
	}
	if d := cmp.Diff(want, have); d != "" {
		t.Fatal(d)
	}
}
