package storagetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
)

// Engine is one store under test.
type Engine struct {
	Store storage.Store
	// Remote says that Store follows another node, which leads.
	Remote bool
	// Start is called once, after the suite has registered its duties; the store leads when it returns.
	Start func(tb testing.TB)
	// Close stops the store. The suite calls it at most once; the factory has to bear a second call from its own clean-up.
	Close func(tb testing.TB)
}

// Options are what the factory makes an engine from.
type Options struct {
	Registry *storage.Registry
	// Now is the leader's clock; nil means time.Now.
	Now func() time.Time
}

// Factory makes an empty engine, and sees to its clean-up.
type Factory func(tb testing.TB, o Options) Engine

// Run holds an engine to the treaty.
func Run(t *testing.T, factory Factory) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, Factory)
	}{
		{"Order", testOrder},
		{"Snapshot", testSnapshot},
		{"Refusal", testRefusal},
		{"AnswerByID", testAnswerByID},
		{"SweepAnswers", testSweepAnswers},
		{"Watch", testWatch},
		{"WatchManyWriters", testWatchManyWriters},
		{"WatchBeforeAnswer", testWatchBeforeAnswer},
		{"WatchBeforeRead", testWatchBeforeRead},
		{"Find", testFind},
		{"Lead", testLead},
		{"Close", testClose},
		{"Model", testModel},
		{"Counter", testCounter},
		{"Now", testNow},
		{"Raw", testRaw},
		{"Size", testSize},
		{"Context", testContext},
		{"MinIndex", testMinIndex},
		{"Status", testStatus},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, factory) })
	}
}

// fixture is a started engine with the suite's commands.
type fixture struct {
	Commands
	engine Engine
	store  storage.Store
	reads  bool // each write is followed by a read
}

// caughtUp returns f with writes that return only when the store's own copy holds them, as a read would have it. On a
// leader that's so anyway.
func (f fixture) caughtUp() fixture {
	f.reads = f.engine.Remote
	return f
}

func start(tb testing.TB, factory Factory, now func() time.Time) fixture {
	tb.Helper()
	reg := storage.NewRegistry()
	f := fixture{Commands: Define(reg)}
	f.engine = factory(tb, Options{Registry: reg, Now: now})
	f.store = f.engine.Store
	f.engine.Start(tb)
	return f
}

func (f fixture) mustWrite(tb testing.TB, ops ...Op) uint64 {
	tb.Helper()
	_, index, err := f.write.Do(tb.Context(), f.store, "", ops)
	if err != nil {
		tb.Errorf("write: %v", err)
		return 0
	}
	if f.reads {
		if err := f.store.View(tb.Context(), storage.Read{}, func(storage.Snapshot) error { return nil }); err != nil {
			tb.Errorf("reading the write: %v", err)
		}
	}
	return index
}

// mustStatus returns the status once the store's own copy holds all that it was answered. What changed nothing may have
// moved the index: a refusal, too, is only said behind an entry of the log when others could be in office.
func (f fixture) mustStatus(tb testing.TB) storage.Status {
	tb.Helper()
	if err := f.store.View(tb.Context(), storage.Read{}, func(storage.Snapshot) error { return nil }); err != nil {
		tb.Fatalf("view: %v", err)
	}
	return f.store.Status()
}

func set(key, value string) Op { return Op{Kind: "set", Key: key, Data: []byte(value)} }

// mustView returns all pairs of r, as "key=value".
func (f fixture) mustView(tb testing.TB, r storage.Range) []string {
	tb.Helper()
	var out []string
	err := f.store.View(tb.Context(), storage.Read{}, func(s storage.Snapshot) error {
		out = nil
		return s.Scan(r, func(key string, value []byte) bool {
			out = append(out, key+"="+string(value))
			return true
		})
	})
	if err != nil {
		tb.Fatalf("view: %v", err)
	}
	return out
}

func equal(tb testing.TB, what string, got, want []string) {
	tb.Helper()
	if !slices.Equal(got, want) {
		tb.Errorf("%s:\n got %q\nwant %q", what, got, want)
	}
}

func testOrder(t *testing.T, factory Factory) {
	f := start(t, factory, nil)
	f.mustWrite(t, set("b", "2"), set("a", "1"), set("a\x00", "1.5"), set("c", ""), set("\xff\xff", "last"), set("\x00", "first"))
	all := []string{"\x00=first", "a=1", "a\x00=1.5", "b=2", "c=", "\xff\xff=last"}
	back := slices.Clone(all)
	slices.Reverse(back)
	equal(t, "all", f.mustView(t, storage.Range{}), all)
	equal(t, "all, backwards", f.mustView(t, storage.Range{Reverse: true}), back)
	equal(t, "a span without its end", f.mustView(t, storage.Range{From: "a", To: "b"}), []string{"a=1", "a\x00=1.5"})
	equal(t, "a span backwards", f.mustView(t, storage.Range{From: "a\x00", To: "c", Reverse: true}), []string{"b=2", "a\x00=1.5"})
	equal(t, "from a key on", f.mustView(t, storage.Range{From: "c"}), []string{"c=", "\xff\xff=last"})
	equal(t, "a prefix", f.mustView(t, storage.Prefix("a")), []string{"a=1", "a\x00=1.5"})
	equal(t, "the prefix after which nothing comes", f.mustView(t, storage.Prefix("\xff")), []string{"\xff\xff=last"})
	equal(t, "an empty span", f.mustView(t, storage.Range{From: "b", To: "b"}), nil)
	equal(t, "an inverted span", f.mustView(t, storage.Range{From: "c", To: "a"}), nil)
	equal(t, "an inverted span backwards", f.mustView(t, storage.Range{From: "c", To: "a", Reverse: true}), nil)
	err := f.store.View(t.Context(), storage.Read{}, func(s storage.Snapshot) error {
		if v, err := s.Get("c"); err != nil || v == nil || len(v) != 0 {
			t.Errorf("a stored empty value is %v, %v; want one that is empty and not nil", v, err)
		}
		if v, err := s.Get("nothing"); err != nil || v != nil {
			t.Errorf("what isn't there is %v, %v; want nil, nil", v, err)
		}
		seen := 0
		err := s.Scan(storage.Range{}, func(string, []byte) bool { seen++; return seen < 2 })
		if seen != 2 {
			t.Errorf("a scan that was told to stop after 2 went on to %d", seen)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	f.mustWrite(t, Op{Kind: "cut", Key: "a\x00", To: "c"}, Op{Kind: "delete", Key: "nothing"}, set("b", "new"))
	equal(t, "after a cut and a set within it", f.mustView(t, storage.Range{}), []string{"\x00=first", "a=1", "b=new", "c=", "\xff\xff=last"})
	f.mustWrite(t, Op{Kind: "cut", Key: "b"})
	equal(t, "after a cut without an end", f.mustView(t, storage.Range{}), []string{"\x00=first", "a=1"})
}

func testSnapshot(t *testing.T, factory Factory) {
	f := start(t, factory, nil)
	first := f.mustWrite(t, set("k", "old"), set("gone", "x"))
	err := f.store.View(t.Context(), storage.Read{}, func(s storage.Snapshot) error {
		if s.Index() < first {
			t.Errorf("the state shows index %d, after an answer at %d", s.Index(), first)
		}
		at := s.Index()
		before, err := s.Get("k")
		if err != nil {
			return err
		}
		f.mustWrite(t, set("k", "new"), Op{Kind: "cut", Key: "g", To: "h"}, set("l", "more"))
		after, err := s.Get("k")
		if string(before) != "old" || string(after) != "old" {
			t.Errorf("a snapshot saw %q, then %q", before, after)
		}
		if s.Index() != at {
			t.Errorf("a snapshot's index went from %d to %d", at, s.Index())
		}
		seen := 0
		if err := s.Scan(storage.Range{}, func(string, []byte) bool { seen++; return true }); err != nil {
			return err
		}
		if seen != 2 {
			t.Errorf("a snapshot of 2 keys scanned %d", seen)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "afterwards", f.mustView(t, storage.Range{}), []string{"k=new", "l=more"})
	want := errors.New("the reader's own")
	if err := f.store.View(t.Context(), storage.Read{}, func(storage.Snapshot) error { return want }); err != want {
		t.Errorf("the reader's error came back as %v", err)
	}
}

// testRefusal: a command that is refused, or breaks, or panics, leaves nothing, while its neighbours commit.
func testRefusal(t *testing.T, factory Factory) {
	f := start(t, factory, nil)
	const rounds = 40
	var wg sync.WaitGroup
	for i := range rounds {
		good, bad := fmt.Sprintf("good/%03d", i), fmt.Sprintf("bad/%03d", i)
		wg.Go(func() { f.mustWrite(t, set(good, "x")) })
		for _, end := range []string{"refuse", "break", "panic"} {
			wg.Go(func() {
				_, _, err := f.write.Do(t.Context(), f.store, "", []Op{
					set(bad, "x"), {Kind: "cut", Key: "good/", To: "good0"}, set(good, "overwritten"), {Kind: end},
				})
				switch {
				case err == nil:
					t.Errorf("a command that ends with %s succeeded", end)
				case end == "refuse" && !fault.Is(err, fault.Conflict):
					t.Errorf("a refusal came back as %v", err)
				case end == "panic" && !fault.Is(err, fault.Internal):
					t.Errorf("a panic came back as %v", err)
				}
			})
		}
	}
	wg.Wait()
	var want []string
	for i := range rounds {
		want = append(want, fmt.Sprintf("good/%03d=x", i))
	}
	equal(t, "what is left", f.mustView(t, storage.Range{}), want)
	if _, _, err := f.store.Do(t.Context(), storage.Command{Kind: "storagetest.unknown"}); !fault.Is(err, fault.Unavailable) {
		t.Errorf("an unknown command came back as %v", err)
	}
	if _, _, err := f.write.Do(t.Context(), f.store, "", []Op{set("", "x")}); err == nil {
		t.Error("a write to the empty key succeeded")
	}
}

func testAnswerByID(t *testing.T, factory Factory) {
	f := start(t, factory, nil)
	ask := func(id, key string) int {
		n, _, err := f.count.Do(t.Context(), f.store, id, key)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if a, b := ask("once", "a"), ask("once", "b"); a != 1 || b != 1 {
		t.Errorf("one command asked twice answered %d, then %d", a, b)
	}
	if n := ask("", "c"); n != 2 {
		t.Errorf("the next command answered %d", n)
	}
	equal(t, "what was done", f.mustView(t, storage.Prefix("counted/")), []string{"counted/a=1", "counted/c=2"})
	answers := make([]int, 50)
	var wg sync.WaitGroup
	for i := range answers {
		wg.Go(func() { answers[i] = ask("storm", fmt.Sprint("storm", i)) })
	}
	wg.Wait()
	for i, n := range answers {
		if n != 3 {
			t.Errorf("ask %d of a storm answered %d", i, n)
		}
	}
	if _, _, err := f.write.Do(t.Context(), f.store, "refused", []Op{{Kind: "refuse"}}); !fault.Is(err, fault.Conflict) {
		t.Errorf("refused: %v", err)
	}
	if n, _, err := f.write.Do(t.Context(), f.store, "refused", []Op{set("later", "x")}); err != nil || n != 1 {
		t.Errorf("a refusal was kept as an answer: %d, %v", n, err)
	}
}

func testSweepAnswers(t *testing.T, factory Factory) {
	var mu sync.Mutex
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	f := start(t, factory, func() time.Time { mu.Lock(); defer mu.Unlock(); return now })
	sweep := func() int {
		n, _, err := f.sweep.Do(t.Context(), f.store, "", 100)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for i := range 3 {
		if _, _, err := f.count.Do(t.Context(), f.store, fmt.Sprint("id", i), "k"); err != nil {
			t.Fatal(err)
		}
	}
	mu.Lock()
	now = now.Add(storage.AnswerTTL - time.Second)
	mu.Unlock()
	if n := sweep(); n != 0 {
		t.Errorf("%d answers were swept before their time", n)
	}
	mu.Lock()
	now = now.Add(3 * time.Second)
	mu.Unlock()
	if n := sweep(); n != 3 {
		t.Errorf("%d of 3 answers were swept", n)
	}
	if n, _, err := f.count.Do(t.Context(), f.store, "id0", "k"); err != nil || n != 4 {
		t.Errorf("a swept answer still answers: %d, %v", n, err)
	}
}

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

func testFind(t *testing.T, factory Factory) {
	f := start(t, factory, nil)
	f.mustWrite(t, set("there", "x"))
	looks := 0
	look := func(key string) func(storage.Snapshot) error {
		looks = 0
		return func(s storage.Snapshot) error {
			looks++
			v, err := s.Get(key)
			if err == nil && v == nil {
				err = fault.New(fault.NotFound, "no %s", key)
			}
			return err
		}
	}
	if err := storage.Find(t.Context(), f.store, storage.Read{}, look("there")); err != nil || looks != 1 {
		t.Errorf("there: %v after %d looks", err, looks)
	}
	if err := storage.Find(t.Context(), f.store, storage.Read{}, look("absent")); !fault.Is(err, fault.NotFound) || looks != 2 {
		t.Errorf("absent: %v after %d looks, want two", err, looks)
	}
	if err := storage.Find(t.Context(), f.store, storage.Read{Consistency: storage.Stale}, look("absent")); !fault.Is(err, fault.NotFound) || looks != 1 {
		t.Errorf("absent, stale: %v after %d looks", err, looks)
	}
}

func testLead(t *testing.T, factory Factory) {
	reg := storage.NewRegistry()
	c := Define(reg)
	e := factory(t, Options{Registry: reg})
	if e.Remote {
		e.Store.Lead(func(context.Context) { t.Error("a duty runs on a node that doesn't lead") })
		e.Start(t)
		e.Close(t)
		return
	}
	began, ended := make(chan error, 2), make(chan struct{}, 2)
	for i := range 2 {
		e.Store.Lead(func(ctx context.Context) {
			_, _, err := c.write.Do(ctx, e.Store, "", []Op{set(fmt.Sprint("duty", i), "x")})
			began <- err
			<-ctx.Done()
			ended <- struct{}{}
		})
	}
	e.Start(t)
	for range 2 {
		if err := <-began; err != nil {
			t.Errorf("a duty's command: %v", err)
		}
	}
	e.Close(t)
	if len(ended) != 2 {
		t.Errorf("%d of 2 duties had ended when the store was closed", len(ended))
	}
}

func testClose(t *testing.T, factory Factory) {
	f := start(t, factory, nil)
	f.mustWrite(t, set("k", "x"))
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			for n := 0; ; n++ {
				_, _, err := f.write.Do(context.Background(), f.store, "", []Op{set(fmt.Sprintf("%d/%d", i, n), "x")})
				if errors.Is(err, storage.ErrClosed) {
					return
				}
				if err != nil {
					t.Errorf("while closing: %v", err)
					return
				}
			}
		})
	}
	reading := make(chan struct{})
	wg.Go(func() {
		err := f.store.View(context.Background(), storage.Read{}, func(s storage.Snapshot) error {
			close(reading)
			for range 1000 {
				if v, err := s.Get("k"); err != nil || string(v) != "x" {
					t.Errorf("a read across Close: %q, %v", v, err)
				}
			}
			return nil
		})
		if err != nil {
			t.Errorf("a read across Close: %v", err)
		}
	})
	<-reading
	f.engine.Close(t)
	wg.Wait()
	if _, _, err := f.write.Do(t.Context(), f.store, "", nil); !errors.Is(err, storage.ErrClosed) {
		t.Errorf("a command after Close: %v", err)
	}
	err := f.store.View(t.Context(), storage.Read{}, func(storage.Snapshot) error { return nil })
	if !errors.Is(err, storage.ErrClosed) {
		t.Errorf("a read after Close: %v", err)
	}
}

// testCounter: a read-modify-write counter asked for from many sides counts every command once.
func testCounter(t *testing.T, factory Factory) {
	f := start(t, factory, nil)
	const callers, each = 32, 40
	var wg sync.WaitGroup
	for c := range callers {
		wg.Go(func() {
			for i := range each {
				// It changes something each time it's evaluated, so it goes by an id: a leader that lost its office may have been
				// asked, and is asked again.
				if _, _, err := f.count.Do(t.Context(), f.store, fmt.Sprintf("count-%d-%d", c, i), fmt.Sprintf("%02d/%02d", c, i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	equal(t, "the counter", f.mustView(t, storage.Range{From: "count", To: "count\x00"}), []string{fmt.Sprintf("count=%d", callers*each)})
	numbers := make(map[string]bool)
	for _, pair := range f.mustView(t, storage.Prefix("counted/")) {
		_, n, _ := strings.Cut(pair, "=")
		numbers[n] = true
	}
	if len(numbers) != callers*each {
		t.Errorf("%d commands were answered with %d different numbers", callers*each, len(numbers))
	}
}

func testNow(t *testing.T, factory Factory) {
	at := time.Date(2031, 2, 3, 4, 5, 6, 7, time.FixedZone("elsewhere", 3600))
	f := start(t, factory, func() time.Time { return at })
	got, _, err := f.now.Do(t.Context(), f.store, "", "now")
	if err != nil {
		t.Fatal(err)
	}
	if !got.Equal(at) || got.Location() != time.UTC {
		t.Errorf("a command saw %v, want %v in UTC", got, at)
	}
}

// testRaw: JSON within a command and its answer keeps its bytes, also on the way to a leader elsewhere.
func testRaw(t *testing.T, factory Factory) {
	f := start(t, factory, nil)
	const text = `{"html":"<b>&</b>","é":"\u2028"}`
	for range 2 { // the second is the kept answer
		got, _, err := f.raw.Do(t.Context(), f.store, "once", json.RawMessage(text))
		if err != nil || string(got) != text {
			t.Errorf("answered %s, %v", got, err)
		}
	}
	equal(t, "what was written", f.mustView(t, storage.Prefix("raw")), []string{"raw=" + text})
}

func testSize(t *testing.T, factory Factory) {
	f := start(t, factory, nil)
	if _, _, err := f.fill.Do(t.Context(), f.store, "", storage.MaxCommandBytes-100); err != nil {
		t.Errorf("a command just below the limit: %v", err)
	}
	before := f.mustStatus(t)
	if _, _, err := f.fill.Do(t.Context(), f.store, "", storage.MaxCommandBytes+4); !fault.Is(err, fault.PayloadTooLarge) {
		t.Errorf("a command above the limit: %v", err)
	}
	if after := f.mustStatus(t); after.Hash != before.Hash {
		t.Errorf("a refused command went from %+v to %+v", before, after)
	}
	var wg sync.WaitGroup
	for range 8 { // each as large as may be: together far more than one group takes
		wg.Go(func() {
			if _, _, err := f.fill.Do(t.Context(), f.store, "", storage.MaxCommandBytes-100); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func testContext(t *testing.T, factory Factory) {
	f := start(t, factory, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := f.write.Do(ctx, f.store, "", []Op{set("k", "x")}); !errors.Is(err, context.Canceled) {
		t.Errorf("a command under a cancelled context: %v", err)
	}
	err := f.store.View(ctx, storage.Read{}, func(storage.Snapshot) error { return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("a read under a cancelled context: %v", err)
	}
	equal(t, "what was done", f.mustView(t, storage.Range{}), nil)
}

// testMinIndex: a read waits for the index it demands.
func testMinIndex(t *testing.T, factory Factory) {
	f := start(t, factory, nil)
	at := f.mustWrite(t, set("k", "1"))
	seen := make(chan string, 1)
	go func() {
		var v []byte
		err := f.store.View(t.Context(), storage.Read{MinIndex: at + 1}, func(s storage.Snapshot) (err error) {
			v, err = s.Get("k")
			return err
		})
		seen <- fmt.Sprint(string(v), err)
	}()
	for range 3 {
		f.mustWrite(t, set("k", "2"))
	}
	if got := <-seen; got != "2<nil>" && got != "2 <nil>" {
		t.Errorf("a read of the index after the first write saw %s", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	err := f.store.View(ctx, storage.Read{MinIndex: at + 1_000_000}, func(storage.Snapshot) error { return nil })
	if err == nil || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a read of an index that never came: %v", err)
	}
}

func testStatus(t *testing.T, factory Factory) {
	f := start(t, factory, nil)
	s := f.store.Status()
	want := storage.Leader
	if f.engine.Remote {
		want = storage.Follower
	}
	if s.Role != want || s.Leader == "" || s.Term == 0 {
		t.Errorf("started: %+v, want a %s", s, want)
	}
	at := f.mustWrite(t, set("k", "x"))
	after := f.mustStatus(t)
	if after.Applied < at || after.Hash == s.Hash {
		t.Errorf("after a write at %d: %+v, before: %+v", at, after, s)
	}
	if n, _, err := f.touch.Do(t.Context(), f.store, "", "k"); err != nil || n != 1 {
		t.Errorf("a command that only reads: %d, %v", n, err)
	}
	if again := f.mustStatus(t); again.Hash != after.Hash {
		t.Error("a command that only reads changed the hash")
	}
}
