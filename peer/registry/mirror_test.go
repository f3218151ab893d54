package registry_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/storage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// gate is a store whose linearizable reads wait until they are let through.
type gate struct {
	storage.Store
	looks atomic.Int64
	pass  chan struct{}
}

func (g *gate) View(ctx context.Context, r storage.Read, read func(storage.Snapshot) error) error {
	if r.Consistency == storage.Linearizable {
		g.looks.Add(1)
		select {
		case <-g.pass:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return g.Store.View(ctx, r, read)
}

// However many strangers make a node look for their trust domain, it looks one at a time, and nobody is answered by a look
// that began before he asked.
func TestPeerings_FreshTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		acme := newCell(t, "acme")
		defer acme.store.Close()
		g := &gate{Store: acme.store, pass: make(chan struct{})}
		peerings := registry.NewPeerings(g, nil)
		defer peerings.Close()
		var wg sync.WaitGroup
		var answered atomic.Int64
		ask := func() {
			wg.Go(func() {
				if _, _, err := peerings.Fresh(t.Context(), "globex.test"); err != nil {
					t.Error(err)
				}
				answered.Add(1)
			})
		}
		ask()
		synctest.Wait() // the first look is under way
		for range 50 {
			ask()
		}
		synctest.Wait()
		if n := g.looks.Load(); n != 1 {
			t.Fatalf("%d looks at once", n)
		}
		g.pass <- struct{}{}
		synctest.Wait()
		if n := answered.Load(); n != 1 {
			t.Errorf("%d were answered by a look that began before they asked", n-1)
		}
		g.pass <- struct{}{}
		wg.Wait()
		if n := g.looks.Load(); n != 2 {
			t.Errorf("%d looks for 51 who asked", n)
		}
	})
}

// A node that can't look says so in time, to everybody who waits and to who comes while it closes.
func TestPeerings_FreshInVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		acme := newCell(t, "acme")
		defer acme.store.Close()
		g := &gate{Store: acme.store, pass: make(chan struct{})}
		peerings := registry.NewPeerings(g, nil)
		began := time.Now()
		if _, _, err := peerings.Fresh(t.Context(), "globex.test"); !fault.Is(err, fault.Unavailable) {
			t.Errorf("without a quorum: %v", err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("it took %v", took)
		}
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if _, _, err := peerings.Fresh(t.Context(), "globex.test"); err == nil {
					t.Error("a closed look has found something")
				}
			})
		}
		synctest.Wait()
		peerings.Close()
		wg.Wait()
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if _, _, err := peerings.Fresh(gone, "globex.test"); err == nil {
			t.Error("who has left is answered")
		}
	})
}
