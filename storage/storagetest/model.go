package storagetest

import (
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
)

// Keys draws short keys that meet each other often: also empty prefixes, NULs and the highest bytes.
func Keys() *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		return string(rapid.SliceOfN(rapid.SampledFrom([]byte{0, 'a', 'b', 'm', 0xfe, 0xff}), 1, 3).Draw(t, "key"))
	})
}

// Ops draws what one command does.
func Ops() *rapid.Generator[[]Op] {
	one := rapid.Custom(func(t *rapid.T) Op {
		kinds := []string{"set", "set", "set", "set", "delete", "delete", "cut", "refuse", "panic"}
		op := Op{Kind: rapid.SampledFrom(kinds).Draw(t, "kind"), Key: Keys().Draw(t, "key")}
		switch op.Kind {
		case "set":
			op.Data = rapid.SliceOfN(rapid.Byte(), 0, 8).Draw(t, "data")
		case "cut":
			op.To = rapid.OneOf(rapid.Just(""), Keys()).Draw(t, "to")
		}
		return op
	})
	return rapid.SliceOfN(one, 1, 8)
}

// Model is the plainest thing that behaves like a store.
type Model map[string]string

// Do returns the model after ops, and whether they succeed. m stays as it is.
func (m Model) Do(ops []Op) (Model, bool) {
	next := maps.Clone(m)
	for _, op := range ops {
		switch op.Kind {
		case "set":
			next[op.Key] = string(op.Data)
		case "delete":
			delete(next, op.Key)
		case "cut":
			maps.DeleteFunc(next, func(key, _ string) bool { return key >= op.Key && (op.To == "" || key < op.To) })
		default:
			return m, false
		}
	}
	return next, true
}

// Scan lists what lies in r, as "key=value".
func (m Model) Scan(r storage.Range) []string {
	var out []string
	for _, key := range slices.Sorted(maps.Keys(m)) {
		if key >= r.From && (r.To == "" || key < r.To) {
			out = append(out, key+"="+m[key])
		}
	}
	if r.Reverse {
		slices.Reverse(out)
	}
	return out
}

// Apply makes the changes that a watcher is told of. It keeps a copy of a state by watching.
func (m Model) Apply(changes []storage.Change) {
	for _, c := range changes {
		switch {
		case c.RangeEnd != "":
			maps.DeleteFunc(m, func(key, _ string) bool { return key >= c.Key && key < c.RangeEnd })
		case c.Value == nil:
			delete(m, c.Key)
		default:
			m[c.Key] = string(c.Value)
		}
	}
}

// follower keeps a Model by watching.
type follower struct{ m Model }

// Applied implements storage.Watcher.
func (f *follower) Applied(_ uint64, changes []storage.Change) { f.m.Apply(changes) }

// Jumped implements storage.Watcher.
func (f *follower) Jumped(uint64) {}

// testModel asks one engine for random commands, and compares the state, and a copy kept by watching, with a model.
func testModel(t *testing.T, factory Factory) {
	f := start(t, factory, nil)
	rapid.Check(t, func(t *rapid.T) {
		if _, _, err := f.write.Do(t.Context(), f.store, "", []Op{{Kind: "cut"}}); err != nil {
			t.Fatal(err)
		}
		if err := f.store.View(t.Context(), storage.Read{}, func(storage.Snapshot) error { return nil }); err != nil {
			t.Fatal(err)
		}
		m := Model{}
		copied := &follower{m: Model{}}
		stop := f.store.Watch("", copied)
		defer stop()
		part := &follower{m: Model{}}
		prefix := Keys().Draw(t, "prefix")[:1]
		defer f.store.Watch(prefix, part)()
		for range rapid.IntRange(1, 8).Draw(t, "commands") {
			ops := Ops().Draw(t, "ops")
			next, ok := m.Do(ops)
			_, _, err := f.write.Do(t.Context(), f.store, "", ops)
			if ok != (err == nil) {
				t.Fatalf("%+v: %v", ops, err)
			}
			if err != nil && !fault.Is(err, fault.Conflict) && !fault.Is(err, fault.Internal) {
				t.Fatalf("%+v: %v", ops, err)
			}
			m = next
			r := storage.Range{
				From: rapid.OneOf(rapid.Just(""), Keys()).Draw(t, "from"), To: rapid.OneOf(rapid.Just(""), Keys()).Draw(t, "to"),
				Reverse: rapid.Bool().Draw(t, "reverse"),
			}
			var got []string
			err = f.store.View(t.Context(), storage.Read{}, func(s storage.Snapshot) error {
				return s.Scan(r, func(key string, value []byte) bool { got = append(got, key+"="+string(value)); return true })
			})
			if err != nil || !slices.Equal(got, m.Scan(r)) {
				t.Fatalf("%+v after %+v:\n got %q, %v\nwant %q", r, ops, got, err, m.Scan(r))
			}
			if !maps.Equal(copied.m, m) {
				t.Fatalf("a copy kept by watching is %q, want %q", copied.m, m)
			}
			if want := m.Scan(storage.Prefix(prefix)); !slices.Equal(part.m.Scan(storage.Range{}), want) {
				t.Fatalf("a copy of %q kept by watching is %q, want %q", prefix, part.m, want)
			}
		}
	})
}
