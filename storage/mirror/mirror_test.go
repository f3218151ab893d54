package mirror_test

import (
	"context"
	"errors"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/mem"
	"github.com/nexixai/agentos/storage/mirror"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pairs is what the mirrors of these tests hold: keys and values, as they stand.
type pairs = map[string]string

// book is a store that can fail, hold a reading up, and pretend to have jumped.
type book struct {
	*mem.Store
	down     atomic.Bool
	hold     atomic.Pointer[chan struct{}]
	views    atomic.Int64
	watchers []storage.Watcher
	write    storage.Call[pairs, int]
	cut      storage.Call[string, int]
}

func mustBook(tb testing.TB) *book {
	tb.Helper()
	reg := storage.NewRegistry()
	b := &book{
		write: storage.Define(reg, "test.write", func(tx storage.Tx, all pairs) (int, error) {
			for key, value := range all {
				if value == "" {
					tx.Delete(key)
				} else {
					tx.Set(key, []byte(value))
				}
			}
			return len(all), nil
		}),
		cut: storage.Define(reg, "test.cut", func(tx storage.Tx, prefix string) (int, error) {
			tx.DeleteRange(storage.Prefix(prefix))
			return 0, nil
		}),
	}
	b.Store = mem.New(mem.Options{Registry: reg})
	b.Start()
	tb.Cleanup(b.Store.Close)
	return b
}

func (b *book) set(tb testing.TB, key, value string) {
	tb.Helper()
	if _, _, err := b.write.Do(tb.Context(), b.Store, "", pairs{key: value}); err != nil {
		tb.Fatal(err)
	}
}

func (b *book) jump() {
	for _, w := range b.watchers {
		w.Jumped(0)
	}
}

func (b *book) Watch(prefix string, w storage.Watcher) func() {
	b.watchers = append(b.watchers, w)
	return b.Store.Watch(prefix, w)
}

func (b *book) View(ctx context.Context, r storage.Read, read func(storage.Snapshot) error) error {
	b.views.Add(1)
	if b.down.Load() {
		return errors.New("not yet")
	}
	hold := b.hold.Load()
	return b.Store.View(ctx, r, func(s storage.Snapshot) error {
		if hold != nil {
			<-*hold // s is older than what is written meanwhile
		}
		return read(s)
	})
}

func readPairs(s storage.Snapshot) (pairs, error) {
	all := pairs{}
	for _, prefix := range []string{"a/", "b/"} {
		err := s.Scan(storage.Prefix(prefix), func(key string, value []byte) bool {
			all[strings.Clone(key)] = string(value)
			return true
		})
		if err != nil {
			return nil, err
		}
	}
	return all, nil
}

func applyPairs(held pairs, changes []storage.Change) pairs {
	next := maps.Clone(held)
	for _, c := range changes {
		switch {
		case c.RangeEnd != "":
			maps.DeleteFunc(next, func(key, _ string) bool { return c.Key <= key && key < c.RangeEnd })
		case c.Value == nil:
			delete(next, c.Key)
		default:
			next[strings.Clone(c.Key)] = string(c.Value)
		}
	}
	return next
}

// follow is a mirror of both kinds' options: rereading without apply.
func (b *book) follow(apply bool) *mirror.Mirror[pairs] {
	o := mirror.Options[pairs]{Store: b, Prefixes: []string{"a/", "b/"}, What: "pairs", Read: readPairs, Empty: pairs{"none": "yet"}}
	if apply {
		o.Apply = applyPairs
	}
	return mirror.New(o)
}

// both runs test with a mirror that reads anew, and with one that applies changes.
func both(t *testing.T, test func(t *testing.T, apply bool)) {
	for name, apply := range map[string]bool{"read anew": false, "applied": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, apply) })
		})
	}
}

func holds(t *testing.T, m *mirror.Mirror[pairs], when string, want pairs) {
	t.Helper()
	synctest.Wait()
	if got, whole := m.Now(); !whole || !maps.Equal(got, want) {
		t.Errorf("%s: %v (whole: %v), want %v", when, got, whole, want)
	}
}

// TestMirror_follows: what is in the store is held, whatever becomes of the state.
func TestMirror_follows(t *testing.T) {
	both(t, func(t *testing.T, apply bool) {
		b := mustBook(t)
		b.set(t, "a/1", "one")
		m := b.follow(apply)
		defer m.Close()
		holds(t, m, "at the start", pairs{"a/1": "one"})
		b.set(t, "b/1", "two")
		b.set(t, "c/1", "of somebody else")
		holds(t, m, "after changes", pairs{"a/1": "one", "b/1": "two"})
		b.set(t, "a/1", "")
		holds(t, m, "after a deletion", pairs{"b/1": "two"})
		b.set(t, "a/2", "three")
		if _, _, err := b.cut.Do(t.Context(), b.Store, "", "b/"); err != nil {
			t.Fatal(err)
		}
		holds(t, m, "after a range was removed", pairs{"a/2": "three"})
		b.jump()
		holds(t, m, "after a jump", pairs{"a/2": "three"})
	})
}

// TestMirror_notYet: a store that can't be read is asked again, the log has one line of it, and nobody takes what is held for
// all there is.
func TestMirror_notYet(t *testing.T) {
	both(t, func(t *testing.T, apply bool) {
		core, logs := observer.New(zap.DebugLevel)
		b := mustBook(t)
		b.down.Store(true)
		o := mirror.Options[pairs]{Store: b, Prefixes: []string{"a/", "b/"}, What: "pairs", Read: readPairs, Empty: pairs{"none": "yet"}, Logger: zap.New(core)}
		if apply {
			o.Apply = applyPairs
		}
		m := mirror.New(o)
		defer m.Close()
		heard := 0
		m.Listen(func() { heard++ })
		b.set(t, "a/1", "one")
		time.Sleep(time.Second) // of the bubble's clock
		synctest.Wait()
		if got, whole := m.Now(); whole || got["none"] != "yet" {
			t.Errorf("before anything was read: %v (whole: %v)", got, whole)
		}
		if heard != 0 {
			t.Error("told of a change although nothing was read")
		}
		if n := logs.Len(); n != 1 {
			t.Errorf("%d lines in the log of one store that can't be read", n)
		}
		b.down.Store(false)
		time.Sleep(time.Second)
		holds(t, m, "as soon as it can be read", pairs{"a/1": "one"})
		if heard == 0 {
			t.Error("nobody was told of the first reading")
		}
	})
}

// TestMirror_amidChanges: what changes while everything is being read is neither lost nor undone.
func TestMirror_amidChanges(t *testing.T) {
	both(t, func(t *testing.T, apply bool) {
		b := mustBook(t)
		b.set(t, "a/1", "old")
		hold := make(chan struct{})
		b.hold.Store(&hold)
		m := b.follow(apply)
		defer m.Close()
		synctest.Wait() // the reader has its snapshot
		b.hold.Store(nil)
		b.set(t, "a/1", "new")
		b.set(t, "b/1", "x")
		close(hold)
		holds(t, m, "after the reading", pairs{"a/1": "new", "b/1": "x"})
	})
}

// TestMirror_jumpAmidReading: what was read of a state that was replaced meanwhile is not held.
func TestMirror_jumpAmidReading(t *testing.T) {
	both(t, func(t *testing.T, apply bool) {
		b := mustBook(t)
		m := b.follow(apply)
		defer m.Close()
		b.set(t, "a/1", "old")
		synctest.Wait()
		hold := make(chan struct{})
		b.hold.Store(&hold)
		b.jump()
		synctest.Wait()
		switch got, whole := m.Now(); {
		case apply && (whole || got["none"] != "yet"):
			t.Errorf("after a jump it still says it holds all: %v", got)
		case !apply && (!whole || got["a/1"] != "old"):
			t.Errorf("what is read anew isn't shown until then: %v", got)
		}
		next := make(chan struct{})
		b.hold.Store(&next)
		b.jump() // again, while it's being read
		close(hold)
		synctest.Wait()
		if got, whole := m.Now(); apply && whole {
			t.Errorf("what was read before the second jump is held as all there is: %v", got)
		}
		b.hold.Store(nil)
		b.set(t, "a/1", "new")
		close(next)
		holds(t, m, "after two jumps", pairs{"a/1": "new"})
	})
}

// TestMirror_toldAfterReading: a change that was read before it's told leaves what came after it in place.
func TestMirror_toldAfterReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustBook(t)
		b.set(t, "a/1", "first")
		b.set(t, "a/1", "second")
		m := b.follow(true)
		defer m.Close()
		holds(t, m, "at the start", pairs{"a/1": "second"})
		b.watchers[0].Applied(b.Status().Applied-1, []storage.Change{{Key: "a/1", Value: []byte("first")}})
		holds(t, m, "after an old change", pairs{"a/1": "second"})
	})
}

// TestMirror_Listen: who listens is told once at the start and after changes, by then sees them, and not after Close.
func TestMirror_Listen(t *testing.T) {
	both(t, func(t *testing.T, apply bool) {
		b := mustBook(t)
		m := b.follow(apply)
		synctest.Wait()
		var mu sync.Mutex
		var saw []string
		m.Listen(func() {
			now, _ := m.Now()
			mu.Lock()
			defer mu.Unlock()
			saw = append(saw, now["a/1"])
		})
		synctest.Wait()
		for _, value := range []string{"one", "two"} {
			b.set(t, "a/1", value)
			synctest.Wait()
		}
		b.set(t, "c/1", "of somebody else")
		synctest.Wait()
		m.Close()
		b.set(t, "a/1", "three")
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if got := strings.Join(saw, ","); got != ",one,two" {
			t.Errorf("saw %q", got)
		}
	})
}

// TestMirror_Close waits for whoever is being told.
func TestMirror_Close(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mustBook(t).follow(false)
		slow := make(chan struct{})
		var left atomic.Bool
		m.Listen(func() { <-slow; left.Store(true) })
		synctest.Wait()
		closed := make(chan struct{})
		go func() { m.Close(); close(closed) }()
		synctest.Wait()
		select {
		case <-closed:
			t.Fatal("closed while somebody was still being told")
		default:
		}
		close(slow)
		<-closed
		if !left.Load() {
			t.Error("closed before who was told had returned")
		}
	})
}

// TestMirror_Refresh: what was written before it is held after it, and an older reading that ends later changes nothing.
func TestMirror_Refresh(t *testing.T) {
	both(t, func(t *testing.T, apply bool) {
		b := mustBook(t)
		m := b.follow(apply)
		defer m.Close()
		synctest.Wait()
		hold := make(chan struct{})
		b.hold.Store(&hold)
		old := make(chan error, 1)
		go func() { old <- m.Refresh(t.Context(), storage.Read{Consistency: storage.Stale}) }()
		synctest.Wait() // it has its snapshot
		b.hold.Store(nil)
		b.set(t, "a/1", "one")
		if err := m.Refresh(t.Context(), storage.Read{Consistency: storage.Linearizable}); err != nil {
			t.Fatal(err)
		}
		holds(t, m, "after a refresh", pairs{"a/1": "one"})
		close(hold)
		if err := <-old; err != nil {
			t.Fatal(err)
		}
		holds(t, m, "after the older reading", pairs{"a/1": "one"})
		b.down.Store(true)
		if err := m.Refresh(t.Context(), storage.Read{}); err == nil {
			t.Error("refreshed from a store that can't be read")
		}
		holds(t, m, "after a refresh that failed", pairs{"a/1": "one"})
	})
}

// TestMirror_Wants: what is not wanted is passed over: it costs no reading.
func TestMirror_Wants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustBook(t)
		m := mirror.New(mirror.Options[pairs]{
			Store: b, Prefixes: []string{"a/"}, What: "pairs", Read: readPairs,
			Wants: func(c storage.Change) bool { return strings.HasPrefix(c.Key, "a/mine/") },
		})
		defer m.Close()
		synctest.Wait()
		before := b.views.Load()
		b.set(t, "a/yours/1", "x")
		synctest.Wait()
		if n := b.views.Load() - before; n != 0 {
			t.Errorf("%d readings for a change that isn't wanted", n)
		}
		b.set(t, "a/mine/1", "x")
		holds(t, m, "after one that is", pairs{"a/mine/1": "x", "a/yours/1": "x"})
	})
}

// TestMirror_tooMuchMeanwhile: more changes than are kept while it's being read have it read anew, and none is lost.
func TestMirror_tooMuchMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustBook(t)
		b.down.Store(true)
		m := b.follow(true)
		defer m.Close()
		synctest.Wait()
		b.set(t, "a/1", "one")
		many := make([]storage.Change, 60_000)
		for i := range many {
			many[i] = storage.Change{Key: "a/2", Value: []byte("never in the store")}
		}
		for range 2 {
			b.watchers[0].Applied(b.Status().Applied, many)
		}
		b.down.Store(false)
		time.Sleep(time.Second) // of the bubble's clock
		holds(t, m, "after all that", pairs{"a/1": "one"})
	})
}
