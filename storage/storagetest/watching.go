package storagetest

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nexixai/agentos/storage"
)

// notes is a watcher that remembers.
type notes struct {
	mu      sync.Mutex
	seen    []string
	indexes []uint64
	entries int
}

// Applied implements storage.Watcher.
func (n *notes) Applied(index uint64, changes []storage.Change) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.entries++
	n.indexes = append(n.indexes, index)
	for _, c := range changes {
		switch {
		case c.RangeEnd != "":
			n.seen = append(n.seen, fmt.Sprintf("-[%s,%s)", c.Key, c.RangeEnd))
		case c.Value == nil:
			n.seen = append(n.seen, "-"+c.Key)
		default:
			n.seen = append(n.seen, c.Key+"="+string(c.Value))
		}
	}
}

// Jumped implements storage.Watcher.
func (n *notes) Jumped(uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.seen = append(n.seen, "jumped")
}

func (n *notes) take() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := n.seen
	n.seen = nil
	return out
}

func testWatch(t *testing.T, factory Factory) {
	f := start(t, factory, nil).caughtUp()
	f.mustWrite(t, set("a/0", "before"))
	var a, all notes
	stop := f.store.Watch("a/", &a)
	defer f.store.Watch("", &all)()
	f.mustWrite(t, set("b/1", "x"), set("a/2", "two"), set("a/1", "one"), set("a/1", "uno"))
	equal(t, "a/", a.take(), []string{"a/1=uno", "a/2=two"})
	equal(t, "all", all.take(), []string{"a/1=uno", "a/2=two", "b/1=x"})
	f.mustWrite(t, Op{Kind: "delete", Key: "a/1"}, Op{Kind: "cut", Key: "a/2", To: "c"}, set("a/3", ""))
	equal(t, "a/ after a cut that reaches beyond it", a.take(), []string{"-[a/2,a0)", "-a/1", "a/3="})
	f.mustWrite(t, set("c", "x"))
	equal(t, "a/ after a change elsewhere", a.take(), nil)
	f.mustWrite(t, Op{Kind: "cut", Key: ""})
	if got := strings.Join(a.take(), " "); !strings.Contains(got, "-[a/,") {
		t.Errorf("a cut of everything was told as %q", got)
	}
	if _, _, err := f.write.Do(t.Context(), f.store, "", []Op{set("a/9", "x"), {Kind: "refuse"}}); err == nil {
		t.Error("not refused")
	}
	stop()
	f.mustWrite(t, set("a/4", "x"))
	equal(t, "a/ after stop", a.take(), nil)
}

// testWatchManyWriters: each change is seen once, in the order of the indexes, whoever wrote it.
func testWatchManyWriters(t *testing.T, factory Factory) {
	f := start(t, factory, nil).caughtUp()
	var all notes
	defer f.store.Watch("w/", &all)()
	const writers, each = 16, 50
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				f.mustWrite(t, set(fmt.Sprintf("w/%02d", w), fmt.Sprint(i)), set(fmt.Sprintf("w/%02d/%03d", w, i), ""))
			}
		})
	}
	wg.Wait()
	next := make([]int, writers)
	single := make(map[string]int)
	all.mu.Lock()
	defer all.mu.Unlock()
	for _, s := range all.seen {
		key, value, _ := strings.Cut(s, "=")
		if value == "" {
			single[key]++
			continue
		}
		var w, i int
		if _, err := fmt.Sscanf(s, "w/%d=%d", &w, &i); err != nil {
			t.Fatal(err)
		}
		if i < next[w] {
			t.Errorf("writer %d's change %d came after %d", w, i, next[w]-1)
		}
		next[w] = i + 1
	}
	if len(single) != writers*each {
		t.Errorf("%d of %d keys were told", len(single), writers*each)
	}
	for key, n := range single {
		if n != 1 {
			t.Errorf("%s was told %d times", key, n)
		}
	}
	if !slices.IsSorted(all.indexes) {
		t.Error("indexes came out of order")
	}
}

func testWatchBeforeAnswer(t *testing.T, factory Factory) {
	f := start(t, factory, nil).caughtUp()
	var w notes
	defer f.store.Watch("", &w)()
	for i := range 50 {
		f.mustWrite(t, set("k", fmt.Sprint(i)))
		equal(t, "told by the time of the answer", w.take(), []string{fmt.Sprintf("k=%d", i)})
	}
}

// testWatchBeforeRead: who reads a state that holds an index finds that watchers were told of it.
func testWatchBeforeRead(t *testing.T, factory Factory) {
	f := start(t, factory, nil)
	w := &slowWatcher{told: make(chan uint64), read: make(chan struct{}), early: make(chan bool, 1)}
	defer f.store.Watch("k", w)()
	var wg sync.WaitGroup
	wg.Go(func() {
		err := f.store.View(t.Context(), storage.Read{MinIndex: <-w.told}, func(storage.Snapshot) error { return nil })
		if err != nil {
			t.Error(err)
		}
		close(w.read)
	})
	f.mustWrite(t, set("k", "1"))
	wg.Wait()
	if <-w.early {
		t.Error("a read returned before watchers had been told of what it demanded")
	}
}

// slowWatcher takes its time, in which nobody may read what it's being told.
type slowWatcher struct {
	told  chan uint64
	read  chan struct{}
	early chan bool
}

// Applied implements storage.Watcher.
func (w *slowWatcher) Applied(index uint64, _ []storage.Change) {
	w.told <- index
	select {
	case <-w.read:
		w.early <- true
	case <-time.After(50 * time.Millisecond):
		w.early <- false
	}
}

// Jumped implements storage.Watcher.
func (*slowWatcher) Jumped(uint64) {}
