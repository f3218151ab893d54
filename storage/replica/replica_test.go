package replica_test

import (
	"context"
	"errors"
	"testing"
	"time"

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
