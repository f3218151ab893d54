package replica_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/replica"
	"github.com/nexixai/agentos/storage/storagetest"
)

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
