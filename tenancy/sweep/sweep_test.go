package sweep_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/mem"
	"github.com/nexixai/agentos/tenancy"
	"github.com/nexixai/agentos/tenancy/quota"
	"github.com/nexixai/agentos/tenancy/sweep"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// yard is a store with the sweep on it.
type yard struct {
	*testing.T
	store  *counting
	do     storage.Call[func(storage.Tx) error, struct{}]
	tenant *tenancy.Tenant
}

// counting counts commands, and can refuse them.
type counting struct {
	*mem.Store
	sweeps atomic.Int64
	down   atomic.Bool
	after  atomic.Pointer[func()] // called once, when a sweep has looked and doesn't know its answer yet
}

func (c *counting) Do(ctx context.Context, cmd storage.Command) (any, uint64, error) {
	if cmd.Kind == "tenancy.sweep" {
		c.sweeps.Add(1)
	}
	if c.down.Load() {
		return nil, 0, fault.New(fault.Unavailable, "no quorum")
	}
	v, index, err := c.Store.Do(ctx, cmd)
	if cmd.Kind == "tenancy.sweep" {
		if f := c.after.Swap(nil); f != nil {
			(*f)()
		}
	}
	return v, index, err
}

func newYard(t *testing.T) *yard {
	reg := storage.NewRegistry()
	y := &yard{T: t, tenant: &tenancy.Tenant{ID: "tnt_a"}}
	y.tenant.Quotas.Models.TokenBudget = &tenancy.TokenBudget{Window: "month"}
	y.do = storage.Define(reg, "test.do", func(tx storage.Tx, f func(storage.Tx) error) (struct{}, error) { return struct{}{}, f(tx) })
	cmds := sweep.Define(reg)
	y.store = &counting{Store: mem.New(mem.Options{Registry: reg})}
	s := sweep.New(sweep.Options{Store: y.store, Commands: cmds})
	y.store.Start()
	t.Cleanup(func() {
		s.Close()
		y.store.Close()
	})
	synctest.Wait() // until the first sweep has found nothing
	return y
}

func (y *yard) run(id string, f func(storage.Tx) error) {
	y.Helper()
	if _, _, err := y.do.Do(y.Context(), y.store, id, f); err != nil {
		y.Fatal(err)
	}
}

func (y *yard) reserve(id string, ttl time.Duration) {
	y.Helper()
	y.run("", func(tx storage.Tx) error {
		return quota.Reserve(tx, y.tenant, quota.Reservation{ID: id, Tokens: 1, Expires: tx.Now().Add(ttl)})
	})
}

func (y *yard) once(key string) {
	y.Helper()
	y.run("", func(tx storage.Tx) error {
		_, _, err := tenancy.Once(tx, "tnt_a", &tenancy.Idempotency{Key: key}, func() (int, error) { return 1, nil })
		return err
	})
}

// left counts the keys that begin with prefix.
func (y *yard) left(prefix string) (n int) {
	y.Helper()
	err := y.store.View(y.Context(), storage.Read{}, func(s storage.Snapshot) error {
		return s.Scan(storage.Prefix(prefix), func(string, []byte) bool { n++; return true })
	})
	if err != nil {
		y.Fatal(err)
	}
	return n
}

func (y *yard) want(prefix string, n int) {
	y.Helper()
	synctest.Wait()
	if got := y.left(prefix); got != n {
		y.Fatalf("%d keys under %s, want %d", got, prefix, n)
	}
}

func TestSweeper_EndsWhatIsDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := newYard(t)
		y.once("one")
		y.run("cmd_1", func(storage.Tx) error { return nil })
		y.reserve("rsv_1", 30*time.Second)
		y.reserve("rsv_2", 10*time.Second) // sooner than what the timer was set for
		time.Sleep(9 * time.Second)
		y.want("tenant/tnt_a/reservation/", 2)
		time.Sleep(3 * time.Second)
		y.want("tenant/tnt_a/reservation/", 1)
		time.Sleep(20 * time.Second)
		y.want("tenant/tnt_a/reservation/", 0)
		y.want("cmd/", 2)
		time.Sleep(10 * time.Minute)
		y.want("cmd/", 0)
		y.want("tenant/tnt_a/idempotency/", 1)
		time.Sleep(24*time.Hour - 11*time.Minute)
		y.want("tenant/tnt_a/idempotency/", 1)
		time.Sleep(time.Minute)
		y.want("tenant/tnt_a/idempotency/", 0)
		y.want("due/", 0)
		if n := y.store.sweeps.Load(); n > 40 { // an hour's look included
			t.Fatalf("%d sweeps in a day of nearly nothing", n)
		}
	})
}

// A thousand things that end together are ended in pieces; work that goes on doesn't keep the sweep awake.
func TestSweeper_Load(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := newYard(t)
		for i := range 1000 {
			y.run(fmt.Sprintf("cmd_%d", i), func(storage.Tx) error { return nil })
			y.reserve(fmt.Sprintf("rsv_%d", i), time.Minute)
		}
		synctest.Wait()
		if n := y.store.sweeps.Load(); n > 5 {
			t.Fatalf("%d sweeps while there was nothing to end", n)
		}
		time.Sleep(62 * time.Second)
		y.want("tenant/tnt_a/reservation/", 0)
		time.Sleep(10 * time.Minute)
		y.want("cmd/", 0)
	})
}

func TestSweeper_StoreAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := newYard(t)
		y.reserve("rsv_1", time.Second)
		y.store.down.Store(true)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n := y.store.sweeps.Load(); n > 15 {
			t.Fatalf("%d tries in ten seconds", n)
		}
		y.store.down.Store(false)
		time.Sleep(2 * time.Second)
		y.want("tenant/tnt_a/reservation/", 0)
	})
}

// A pinned record outlives its day, and goes with what it belongs to.
func TestSweeper_Pinned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := newYard(t)
		for _, key := range []string{"young", "old"} {
			y.run("", func(tx storage.Tx) error {
				_, _, err := tenancy.Once(tx, "tnt_a", &tenancy.Idempotency{Key: key, Pinned: true}, func() (int, error) { return 1, nil })
				return err
			})
		}
		unpin := func(key string) {
			y.run("", func(tx storage.Tx) error { return tenancy.Unpin(tx, "tnt_a", tenancy.Idempotency{Key: key}) })
		}
		unpin("young")
		unpin("unknown")
		time.Sleep(23 * time.Hour)
		y.want("tenant/tnt_a/idempotency/", 2)
		time.Sleep(24 * time.Hour)
		y.want("tenant/tnt_a/idempotency/", 1)
		unpin("old")
		y.want("tenant/tnt_a/idempotency/", 0)
		y.want("due/", 0)
	})
}

// What is written while a sweep is under way isn't missed.
func TestSweeper_WrittenMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := newYard(t)
		meanwhile := func() { y.reserve("rsv_2", 20*time.Second) }
		y.store.after.Store(&meanwhile)
		y.reserve("rsv_1", 10*time.Second) // wakes the sweep
		y.want("tenant/tnt_a/reservation/", 2)
		time.Sleep(22 * time.Second)
		y.want("tenant/tnt_a/reservation/", 0)

		y.once("late") // the timer stands far ahead
		synctest.Wait()
		y.store.after.Store(&meanwhile)
		y.reserve("rsv_1", time.Hour+30*time.Minute)
		time.Sleep(time.Hour + time.Second)
		y.want("tenant/tnt_a/reservation/", 2)
		time.Sleep(22 * time.Second)
		y.want("tenant/tnt_a/reservation/", 1)
	})
}
