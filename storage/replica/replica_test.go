package replica_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/replica"
	"github.com/nexixai/agentos/storage/storagetest"
)

// Requirements: A3, Q2.
func TestStore(t *testing.T) {
	storagetest.Run(t, func(tb testing.TB, o storagetest.Options) storagetest.Engine {
		s := mustOpen(tb, replica.Options{Dir: tb.TempDir(), Registry: o.Registry, Now: o.Now, Bootstrap: true})
		return storagetest.Engine{
			Store: s,
			Start: func(tb testing.TB) { mustStart(tb, s) },
			Close: func(tb testing.TB) { mustClose(tb, s) },
		}
	})
}

// TestStore_RefusalAlone: where nobody else can be in office a refusal, and a look, cost no entry of the log.
func TestStore_RefusalAlone(t *testing.T) {
	reg := storage.NewRegistry()
	refuse := storage.Define(reg, "refuse", func(storage.Tx, int) (int, error) { return 0, fault.New(fault.Conflict, "no") })
	s := mustOpen(t, replica.Options{Dir: t.TempDir(), Registry: reg, Bootstrap: true})
	mustStart(t, s)
	before := s.Status()
	if _, _, err := refuse.Do(t.Context(), s, "", 0); !fault.Is(err, fault.Conflict) {
		t.Errorf("refused with %v", err)
	}
	if err := s.Ready(t.Context()); err != nil {
		t.Error(err)
	}
	if after := s.Status(); after != before {
		t.Errorf("a refusal and a look went from %+v to %+v", before, after)
	}
}

// TestStore_MayLead: who has the office evaluates nothing while it's told not to, serves what it has, and goes on by itself
// when it may.
func TestStore_MayLead(t *testing.T) {
	reg := storage.NewRegistry()
	set := storage.Define(reg, "set", func(tx storage.Tx, v string) (string, error) { tx.Set("k", []byte(v)); return v, nil })
	dir, unfit := t.TempDir(), errors.New("not this one")
	s := mustOpen(t, replica.Options{Dir: dir, Registry: reg, Bootstrap: true})
	mustStart(t, s)
	if _, _, err := set.Do(t.Context(), s, "", "old"); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)

	var fit atomic.Bool
	asked := make(chan string, 1)
	s = mustOpen(t, replica.Options{Dir: dir, Registry: reg, MayLead: func(r storage.Reader) error {
		if fit.Load() {
			return nil
		}
		v, err := r.Get("k")
		select {
		case asked <- string(v):
		default:
		}
		return errors.Join(unfit, err)
	}})
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := <-asked; got != "old" {
		t.Errorf("it was asked about a state where k is %q", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, _, err := set.Do(ctx, s, "", "new"); err == nil {
		t.Error("a command was evaluated by one who must not")
	}
	err := s.View(t.Context(), storage.Read{Consistency: storage.Stale}, func(r storage.Snapshot) error {
		v, err := r.Get("k")
		if string(v) != "old" {
			t.Errorf("k is %q", v)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	fit.Store(true)
	if _, _, err := set.Do(t.Context(), s, "", "newer"); err != nil {
		t.Errorf("it may lead, and does not: %v", err)
	}
}

// mustOpen opens a replica with the tests' names in it, which is closed at the end if the test has not.
func mustOpen(tb testing.TB, o replica.Options) *replica.Store {
	tb.Helper()
	o.ServerID, o.ClusterID, o.Fast = "one", "test", true
	if o.DiskFloorBytes == 0 {
		o.DiskFloorBytes = -1
	}
	if o.Fatal == nil {
		o.Fatal = func(err error) { panic(err) }
	}
	s, err := replica.Open(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { mustClose(tb, s) })
	return s
}

func mustStart(tb testing.TB, s *replica.Store) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := errors.Join(s.Start(ctx), s.Ready(ctx)); err != nil {
		tb.Fatal(err)
	}
}

func mustClose(tb testing.TB, s *replica.Store) {
	tb.Helper()
	if err := s.Close(); err != nil {
		tb.Error(err)
	}
}

var _ storage.Store = (*replica.Store)(nil)
