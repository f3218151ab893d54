package replica_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/replica"
)

// TestStore_StaleStamp: an entry that was evaluated on a state which is no longer the last, because another reign wrote
// between evaluating and proposing, is passed over, asked again, and applied once.
func TestStore_StaleStamp(t *testing.T) {
	reg := storage.NewRegistry()
	count := counter(reg)
	s := mustOpen(t, replica.Options{Dir: t.TempDir(), Registry: reg, Bootstrap: true})
	var proposals, foreign atomic.Int64
	s.BeforePropose(func() {
		if n := proposals.Add(1); n%3 != 1 {
			return
		}
		applied, err := s.ProposeForeign(fmt.Sprint("foreign/", foreign.Add(1)), false)
		if err != nil || !applied {
			t.Errorf("an entry on the last stamp: applied %v, %v", applied, err)
		}
	})
	mustStart(t, s)
	w := &indexes{}
	defer s.Watch("k/", w)()
	const callers, each = 8, 12
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := range each {
				if _, _, err := count.Do(t.Context(), s, "", fmt.Sprintf("%d/%d", c, i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n, _ := mustCount(t, s); n != callers*each {
		t.Errorf("%d commands were applied %d times", callers*each, n)
	}
	if foreign.Load() == 0 {
		t.Fatal("no reign came between")
	}
	if w.keys != callers*each {
		t.Errorf("watchers were told of %d keys, want each of %d once", w.keys, callers*each)
	}
}

// TestStore_StaleEntry: an entry on a stamp that isn't the last moves the index and nothing else, and wakes nobody.
func TestStore_StaleEntry(t *testing.T) {
	reg := storage.NewRegistry()
	count := counter(reg)
	dir := t.TempDir()
	s := mustOpen(t, replica.Options{Dir: dir, Registry: reg, Bootstrap: true})
	mustStart(t, s)
	if _, _, err := count.Do(t.Context(), s, "", "one"); err != nil {
		t.Fatal(err)
	}
	w := &indexes{}
	defer s.Watch("", w)()
	before := s.Status()
	if applied, err := s.ProposeForeign("ghost", true); err != nil || applied {
		t.Errorf("a stale entry: applied %v, %v", applied, err)
	}
	after := s.Status()
	if after.Hash != before.Hash || after.Applied != before.Applied+1 || w.keys != 0 {
		t.Errorf("a stale entry went from %+v to %+v, and watchers saw %d keys", before, after, w.keys)
	}
	hash, index, err := s.StateHash(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	s = mustOpen(t, replica.Options{Dir: dir, Registry: reg})
	mustStart(t, s)
	if again, at, err := s.StateHash(t.Context()); err != nil || again != hash || at < index {
		t.Errorf("after a restart the state's hash is %x at %d, %v; was %x at %d", again, at, err, hash, index)
	}
}

// TestCluster_StaleLeader: a leader evaluates, loses the office to another, which writes, and has it back before it
// proposes. Every copy passes the entry over, and the askers get the answer of a second evaluation.
func TestCluster_StaleLeader(t *testing.T) {
	reg := storage.NewRegistry()
	count := counter(reg)
	c := newCluster(t)
	watchers := make([]*indexes, 3)
	for i := range watchers {
		n := c.mustNode(t, i, reg, nil)
		watchers[i] = &indexes{}
		defer n.store.Watch("k/", watchers[i])()
	}
	first, other := c.nodes[0], c.nodes[1]
	var armed atomic.Bool
	rounds := 3
	first.store.BeforePropose(func() {
		if !armed.CompareAndSwap(true, false) {
			return
		}
		c.mustLead(t, other)
		if _, _, err := count.Do(context.Background(), other.store, "", fmt.Sprint("between", rounds)); err != nil {
			t.Error(err)
		}
		c.mustWait(t, first, func(ctx context.Context) error { return c.office(ctx, first) })
	})
	c.mustJoin(t, 3)
	for want := 2; rounds > 0; want += 2 {
		c.mustLead(t, first)
		armed.Store(true)
		n, _, err := count.Do(t.Context(), first.store, "", fmt.Sprint("around", rounds))
		if err != nil {
			t.Fatal(err)
		}
		if n != want {
			t.Errorf("answered %d, want %d: what the other leader wrote comes before", n, want)
		}
		rounds--
	}
	c.mustAgree(t)
	for i, n := range c.nodes {
		if total, keys := mustCount(t, n.store); total != 6 || len(keys) != 6 {
			t.Errorf("%s counts %d, want 6", n.id, total)
		}
		if watchers[i].keys != 6 {
			t.Errorf("watchers at %s were told of %d keys, want each of 6 once", n.id, watchers[i].keys)
		}
	}
}

// indexes is a watcher that counts keys.
type indexes struct{ keys int }

// Applied implements storage.Watcher.
func (w *indexes) Applied(_ uint64, changes []storage.Change) {
	for _, c := range changes {
		if c.Key != "n" && c.Key[0] == 'k' {
			w.keys++
		}
	}
	if len(changes) == 1 && changes[0].Key == "ghost" {
		w.keys += 1000
	}
}

// Jumped implements storage.Watcher.
func (w *indexes) Jumped(uint64) {}
