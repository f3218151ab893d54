package memory_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/nexixai/agentos/agent/memory"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/mem"
	"github.com/nexixai/agentos/tenancy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a memory on a store in memory, for tenants with a byte quota.
type world struct {
	store  *mem.Store
	memory *memory.Store
}

// letters embeds a text by counting its letters: crude, and enough to tell near from far.
type letters struct {
	mu    sync.Mutex
	model string
	err   error
}

func (l *letters) Embed(_ context.Context, _ *tenancy.Auth, text string) ([]float32, string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return nil, "", l.err
	}
	v := make([]float32, 26)
	for _, r := range strings.ToLower(text) {
		if 'a' <= r && r <= 'z' {
			v[r-'a']++
		}
	}
	return v, l.model, nil
}

func newWorld(tb testing.TB, embedder memory.Embedder, quota int64, tenants ...string) *world {
	tb.Helper()
	reg := storage.NewRegistry()
	tenantCommands, commands := tenancy.Define(reg), memory.Define(reg)
	w := &world{store: mem.New(mem.Options{Registry: reg})}
	directory := tenancy.New(tenancy.Options{Store: w.store, Commands: tenantCommands})
	w.memory = memory.New(memory.Options{Store: w.store, Commands: commands, Embedder: embedder})
	tb.Cleanup(func() {
		w.store.Close()
		directory.Close()
	})
	for _, tenantID := range append(tenants, "tnt_a") {
		var create tenancy.TenantCreate
		raw := fmt.Appendf(nil, `{"tenant_id":%q,"name":"a","plan_tier":"enterprise","quotas":{"storage":{"max_memory_bytes":%d}}}`, tenantID, quota)
		if err := json.Unmarshal(raw, &create); err != nil {
			tb.Fatal(err)
		}
		if _, _, err := directory.EnsureTenant(tb.Context(), create); err != nil {
			tb.Fatal(err)
		}
	}
	return w
}

func by(tenantID string) tenancy.Actor {
	return tenancy.Actor{Auth: &tenancy.Auth{TenantID: tenantID, Principal: tenancy.Principal{ID: "usr_a"}}, CorrelationID: "corr_a"}
}

func (w *world) put(ctx context.Context, ns, key, value, metadata string) error {
	_, _, _, err := w.memory.Put(ctx, by("tnt_a"), memory.Write{Namespace: ns, Key: key, Value: json.RawMessage(value), Metadata: json.RawMessage(metadata)})
	return err
}

func (w *world) mustPut(tb testing.TB, ns, key, value, metadata string) {
	tb.Helper()
	if err := w.put(tb.Context(), ns, key, value, metadata); err != nil {
		tb.Fatal(err)
	}
}

func (w *world) used(tb testing.TB, tenantID string) (n int64) {
	tb.Helper()
	err := w.store.View(tb.Context(), storage.Read{}, func(r storage.Snapshot) (err error) {
		n, err = memory.Used(r, tenantID)
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

func TestStore_Put(t *testing.T) {
	w := newWorld(t, nil, 1<<20, "tnt_b")
	item, created, _, err := w.memory.Put(t.Context(), by("tnt_a"), memory.Write{Namespace: "notes", Key: "k", Value: json.RawMessage("{ \"a\" : 1 }")})
	if err != nil || !created || string(item.Value) != `{"a":1}` || string(item.Metadata) != "{}" {
		t.Fatalf("item %+v, created %v, err %v", item, created, err)
	}
	again, created, _, err := w.memory.Put(t.Context(), by("tnt_a"), memory.Write{Namespace: "notes", Key: "k", Value: json.RawMessage(`2`), Metadata: json.RawMessage(`{"m":true}`)})
	if err != nil || created || !again.CreatedAt.Equal(item.CreatedAt) {
		t.Fatalf("item %+v, created %v, err %v", again, created, err)
	}
	got, _, err := w.memory.Get(t.Context(), storage.Read{}, "tnt_a", "notes", "k")
	if diff := cmp.Diff(again, got); err != nil || diff != "" {
		t.Errorf("err %v, %s", err, diff)
	}
	for _, other := range [][3]string{{"tnt_b", "notes", "k"}, {"tnt_a", "other", "k"}, {"tnt_a", "notes", "l"}} {
		if _, _, err := w.memory.Get(t.Context(), storage.Read{}, other[0], other[1], other[2]); !fault.Is(err, fault.NotFound) {
			t.Errorf("%v: err %v", other, err)
		}
	}
	if _, err := w.memory.Delete(t.Context(), by("tnt_b"), "notes", "k"); !fault.Is(err, fault.NotFound) {
		t.Errorf("another tenant deleted it: %v", err)
	}
	if _, err := w.memory.Delete(t.Context(), by("tnt_a"), "notes", "k"); err != nil {
		t.Error(err)
	}
	if _, err := w.memory.Delete(t.Context(), by("tnt_a"), "notes", "k"); !fault.Is(err, fault.NotFound) {
		t.Errorf("err %v", err)
	}
	if n := w.used(t, "tnt_a"); n != 0 {
		t.Errorf("%d bytes used by nothing", n)
	}
}

func TestStore_Put_refuses(t *testing.T) {
	w := newWorld(t, nil, 1<<30)
	long := strings.Repeat("k", memory.MaxName)
	w.mustPut(t, long, long, `1`, ``)
	for _, c := range []struct {
		ns, key, value, metadata string
		code                     fault.Code
	}{
		{"", "k", "1", "", fault.InvalidRequest},
		{"n", "", "1", "", fault.InvalidRequest},
		{"a/b", "k", "1", "", fault.InvalidRequest},
		{"n", "..", "1", "", fault.InvalidRequest},
		{"n", "ü", "1", "", fault.InvalidRequest},
		{"n", long + "k", "1", "", fault.InvalidRequest},
		{"n", "k", "", "", fault.InvalidRequest},
		{"n", "k", "{", "", fault.InvalidRequest},
		{"n", "k", "1", "[]", fault.InvalidRequest},
		{"n", "k", `"` + strings.Repeat("x", memory.MaxValue) + `"`, "", fault.PayloadTooLarge},
		{"n", "k", "1", `{"x":"` + strings.Repeat("x", memory.MaxMetadata) + `"}`, fault.PayloadTooLarge},
	} {
		if err := w.put(t.Context(), c.ns, c.key, c.value, c.metadata); !fault.Is(err, c.code) {
			t.Errorf("%.20q %.20q %.20q %.20q: err %v, want %s", c.ns, c.key, c.value, c.metadata, err, c.code)
		}
	}
	w.mustPut(t, "n", "k", `"`+strings.Repeat("x", memory.MaxValue-2)+`"`, "")
}

// TestStore_Put_quota: no interleaving of writers passes the quota, and it can be filled to the last byte.
//
// Requirements: A5.
func TestStore_Put_quota(t *testing.T) {
	const quota = 1000
	w := newWorld(t, nil, quota)
	const one = int64(len("n") + len("k00") + len(`"12345"`) + len("{}"))
	var wg sync.WaitGroup
	var mu sync.Mutex
	kept := 0
	for i := range 100 {
		wg.Go(func() {
			err := w.put(t.Context(), "n", fmt.Sprintf("k%02d", i), `"12345"`, "")
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				kept++
			case !fault.Is(err, fault.QuotaExceeded):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if want := int(quota / one); kept != want || w.used(t, "tnt_a") != int64(want)*one {
		t.Errorf("kept %d of %d, %d bytes", kept, want, w.used(t, "tnt_a"))
	}
	err := w.put(t.Context(), "n", "more", `"12345"`, "")
	if !fault.Is(err, fault.QuotaExceeded) {
		t.Fatal(err)
	}
	details := fault.Of(err).Details
	for _, name := range []string{"tenant_id", "limit", "used", "reserved", "window", "resets_at"} {
		if _, has := details[name]; !has {
			t.Errorf("details lack %s: %v", name, details)
		}
	}
	rest := quota - w.used(t, "tnt_a")
	w.mustPut(t, "n", "z", `"`+strings.Repeat("x", int(rest)-int(len("n")+len("z")+len(`""`)+len("{}")))+`"`, "")
	if n := w.used(t, "tnt_a"); n != quota {
		t.Errorf("%d of %d bytes", n, quota)
	}
}

// TestStore_Put_counts: after any changes, what is counted is what is there.
func TestStore_Put_counts(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t, nil, 300)
		want := map[string]int64{}
		for range rapid.IntRange(1, 25).Draw(rt, "steps") {
			key := rapid.SampledFrom([]string{"a", "bb", "ccc"}).Draw(rt, "key")
			if rapid.Bool().Draw(rt, "delete") {
				if _, err := w.memory.Delete(t.Context(), by("tnt_a"), "n", key); (err == nil) != (want[key] > 0) {
					rt.Fatalf("delete %s: %v", key, err)
				}
				delete(want, key)
				continue
			}
			value := `"` + strings.Repeat("v", rapid.IntRange(0, 200).Draw(rt, "size")) + `"`
			size, total := int64(len("n")+len(key)+len(value)+len("{}")), int64(0)
			for k, n := range want {
				if k != key {
					total += n
				}
			}
			err := w.put(t.Context(), "n", key, value, "")
			fits := total+size <= 300 || size <= want[key]
			if (err == nil) != fits {
				rt.Fatalf("put %s of %d beside %d: %v", key, size, total, err)
			}
			if err == nil {
				want[key] = size
			}
		}
		total := int64(0)
		for _, n := range want {
			total += n
		}
		if n := w.used(t, "tnt_a"); n != total {
			rt.Fatalf("%d counted, %d there", n, total)
		}
	})
}

// TestStore_Put_effect: the same effect writes once, also when something else was written since.
func TestStore_Put_effect(t *testing.T) {
	w := newWorld(t, nil, 1<<20)
	write := memory.Write{Namespace: "kv", Key: "k", Value: json.RawMessage(`"first"`), EffectID: "tcall_1"}
	if _, _, _, err := w.memory.Put(t.Context(), by("tnt_a"), write); err != nil {
		t.Fatal(err)
	}
	w.mustPut(t, "kv", "k", `"second"`, "")
	if _, created, _, err := w.memory.Put(t.Context(), by("tnt_a"), write); err != nil || !created {
		t.Fatalf("created %v, err %v", created, err)
	}
	item, _, err := w.memory.Get(t.Context(), storage.Read{}, "tnt_a", "kv", "k")
	if err != nil || string(item.Value) != `"second"` {
		t.Errorf("item %+v, err %v", item, err)
	}
}

func TestStore_List(t *testing.T) {
	w := newWorld(t, nil, 1<<20)
	for i := range 5 {
		w.mustPut(t, "n", fmt.Sprint("k", i), fmt.Sprint(i), "")
	}
	w.mustPut(t, "n.other", "k", "1", "")
	var got []string
	after := ""
	for pages := 0; ; pages++ {
		items, next, _, err := w.memory.List(t.Context(), storage.Read{}, "tnt_a", "n", after, 2)
		if err != nil || pages > 3 {
			t.Fatalf("page %d: err %v", pages, err)
		}
		for _, item := range items {
			got = append(got, item.Key)
		}
		if after = next; next == "" {
			break
		}
	}
	if diff := cmp.Diff([]string{"k0", "k1", "k2", "k3", "k4"}, got); diff != "" {
		t.Error(diff)
	}
}

func (w *world) search(tb testing.TB, tenantID string, q memory.Query) []string {
	tb.Helper()
	results, _, err := w.memory.Search(tb.Context(), storage.Read{}, by(tenantID).Auth, "n", q)
	if err != nil {
		tb.Fatal(err)
	}
	keys := []string{}
	for i, r := range results {
		keys = append(keys, r.Key)
		if i > 0 && r.Score > results[i-1].Score {
			tb.Errorf("not best first: %v", results)
		}
		if len(r.Value) == 0 || len(r.Metadata) == 0 {
			tb.Errorf("result %+v", r)
		}
	}
	return keys
}

// wide makes large vectors.
type wide struct{}

func (wide) Embed(context.Context, *tenancy.Auth, string) ([]float32, string, error) {
	v := make([]float32, 8192)
	v[0] = 1
	return v, "wide", nil
}

// The vectors of small values are larger than the values: they have an end too, beyond which values are kept without; and
// what is forgotten makes room.
func TestStore_Put_vectorRoom(t *testing.T) {
	w := newWorld(t, wide{}, 100_000)
	const values = 50
	for i := range values {
		w.mustPut(t, "n", fmt.Sprintf("k%02d", i), `"word"`, ``)
	}
	found := func(mode string) int {
		t.Helper()
		results, _, err := w.memory.Search(t.Context(), storage.Read{}, by("tnt_a").Auth, "n", memory.Query{Query: "word", Mode: mode})
		if err != nil {
			t.Fatal(err)
		}
		return len(results)
	}
	full := found(memory.Vector)
	if words := found(memory.Keyword); full < 20 || full >= values || words != values {
		t.Fatalf("%d found by vector, %d by word", full, words)
	}
	for i := range values {
		w.mustPut(t, "n", fmt.Sprintf("k%02d", i), `"word again"`, ``) // replaces what is counted, and adds nothing
	}
	if n := found(memory.Vector); n != full {
		t.Errorf("%d found by vector after each was written again, %d before", n, full)
	}
	for i := range values {
		if _, err := w.memory.Delete(t.Context(), by("tnt_a"), "n", fmt.Sprintf("k%02d", i)); err != nil {
			t.Fatal(err)
		}
	}
	w.mustPut(t, "n", "new", `"word"`, ``)
	if n := found(memory.Vector); n != 1 {
		t.Errorf("%d found by vector after all was forgotten", n)
	}
}

// An answer holds the best of what there is, and has an end in bytes.
func TestStore_Search_bytes(t *testing.T) {
	w := newWorld(t, nil, 1<<30)
	for i := range 40 {
		w.mustPut(t, "n", fmt.Sprintf("k%02d", i), `"`+strings.Repeat("fox ", 60_000)+`"`, ``)
	}
	results, _, err := w.memory.Search(t.Context(), storage.Read{}, by("tnt_a").Auth, "n", memory.Query{Query: "fox", Limit: 500})
	if err != nil || len(results) < 20 || len(results) >= 40 {
		t.Errorf("%d results of 240 KB: %v", len(results), err)
	}
}

// Requirements: A5.
func TestStore_Search(t *testing.T) {
	embedder := &letters{model: "m1"}
	w := newWorld(t, embedder, 1<<20, "tnt_b")
	w.mustPut(t, "n", "fox", `{"title":"The quick brown FOX","body":"jumps over the lazy dog"}`, `{"kind":"animal","n":1}`)
	w.mustPut(t, "n", "foxes", `"fox fox fox"`, `{"kind":"animal","n":2}`)
	w.mustPut(t, "n", "plain", `"nothing of the kind"`, `{"kind":"text"}`)
	w.mustPut(t, "n", "unicode", `"Zürich \u00fcber 東京"`, `{}`)
	w.mustPut(t, "n", "number", `{"answer":42}`, `{}`)
	w.mustPut(t, "n2", "fox", `"fox in another namespace"`, `{}`)
	for _, c := range []struct {
		name string
		q    memory.Query
		want []string
	}{
		{"the word that is denser comes first", memory.Query{Query: "fox"}, []string{"foxes", "fox"}},
		{"case and escapes don't matter", memory.Query{Query: "ÜBER"}, []string{"unicode"}},
		{"scripts without spaces", memory.Query{Query: "京"}, []string{"unicode"}},
		{"numbers", memory.Query{Query: "42"}, []string{"number"}},
		{"names of members are no text", memory.Query{Query: "title"}, []string{}},
		{"filters", memory.Query{Query: "fox", Filters: map[string]any{"n": 1.0}}, []string{"fox"}},
		{"filters that nothing passes", memory.Query{Query: "fox", Filters: map[string]any{"kind": "text"}}, []string{}},
		{"limit", memory.Query{Query: "fox", Limit: 1}, []string{"foxes"}},
		{"vector finds what shares no word", memory.Query{Query: "xof oxf", Mode: memory.Vector, Limit: 1}, []string{"foxes"}},
		{"vector with a filter", memory.Query{Query: "fox", Mode: memory.Vector, Filters: map[string]any{"kind": "text"}}, []string{"plain"}},
		{"hybrid", memory.Query{Query: "fox", Mode: memory.Hybrid, Limit: 2}, []string{"foxes", "fox"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, w.search(t, "tnt_a", c.q)); diff != "" {
				t.Error(diff)
			}
		})
	}
	t.Run("another tenant finds nothing", func(t *testing.T) {
		for _, mode := range []string{memory.Keyword, memory.Vector, memory.Hybrid} {
			if got := w.search(t, "tnt_b", memory.Query{Query: "fox", Mode: mode}); len(got) > 0 {
				t.Errorf("%s: %v", mode, got)
			}
		}
	})
	t.Run("what is deleted is not found", func(t *testing.T) {
		if _, err := w.memory.Delete(t.Context(), by("tnt_a"), "n", "foxes"); err != nil {
			t.Fatal(err)
		}
		for _, mode := range []string{memory.Keyword, memory.Vector, memory.Hybrid} {
			if got := strings.Join(w.search(t, "tnt_a", memory.Query{Query: "fox", Mode: mode}), " "); strings.Contains(got, "foxes") {
				t.Errorf("%s: %v", mode, got)
			}
		}
	})
	t.Run("vectors of another model are not compared", func(t *testing.T) {
		embedder.mu.Lock()
		embedder.model = "m2"
		embedder.mu.Unlock()
		if got := w.search(t, "tnt_a", memory.Query{Query: "fox", Mode: memory.Vector}); len(got) > 0 {
			t.Errorf("found %v", got)
		}
	})
	t.Run("a value without an embedding is kept", func(t *testing.T) {
		embedder.mu.Lock()
		embedder.err = errors.New("away")
		embedder.mu.Unlock()
		w.mustPut(t, "n", "late", `"walrus"`, ``)
		if diff := cmp.Diff([]string{"late"}, w.search(t, "tnt_a", memory.Query{Query: "walrus"})); diff != "" {
			t.Error(diff)
		}
	})
}

func TestStore_Search_refuses(t *testing.T) {
	w := newWorld(t, nil, 1<<20)
	for _, c := range []struct {
		q    memory.Query
		code fault.Code
	}{
		{memory.Query{}, fault.InvalidRequest},
		{memory.Query{Query: "x", Mode: "magic"}, fault.InvalidRequest},
		{memory.Query{Query: "x", Limit: -1}, fault.InvalidRequest},
		{memory.Query{Query: "x", Limit: 501}, fault.InvalidRequest},
		{memory.Query{Query: "x", Mode: memory.Vector}, fault.UnsupportedCapability},
	} {
		if _, _, err := w.memory.Search(t.Context(), storage.Read{}, by("tnt_a").Auth, "n", c.q); !fault.Is(err, c.code) {
			t.Errorf("%+v: err %v", c.q, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := w.memory.Search(ctx, storage.Read{}, by("tnt_a").Auth, "n", memory.Query{Query: "x"}); err == nil {
		t.Error("searched for nobody")
	}
}

func BenchmarkStore_Search(b *testing.B) {
	embedder := &letters{model: "m1"}
	w := newWorld(b, embedder, 1<<30)
	for i := range 5000 {
		w.mustPut(b, "n", fmt.Sprintf("k%05d", i), fmt.Sprintf(`{"title":"note %d","body":%q}`, i, strings.Repeat("some words of a note that is of middling length ", 8)), `{}`)
	}
	for _, mode := range []string{memory.Keyword, memory.Vector, memory.Hybrid} {
		b.Run(mode, func(b *testing.B) {
			for b.Loop() {
				w.search(b, "tnt_a", memory.Query{Query: "note 4711", Mode: mode, Limit: 10})
			}
		})
	}
}
