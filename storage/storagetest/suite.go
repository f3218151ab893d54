package storagetest

import (
	"slices"
	"testing"
	"time"

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
