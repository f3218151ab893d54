package audit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/mem"
	"github.com/nexixai/agentos/tenancy"
	"github.com/nexixai/agentos/tenancy/audit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// base is an empty state under a group, which is itself a transaction.
type base struct{}

func (base) Get(string) ([]byte, error)                          { return nil, nil }
func (base) Scan(storage.Range, func(string, []byte) bool) error { return nil }

var noon = time.Date(2026, 5, 14, 12, 0, 0, 123456789, time.UTC)

func newTx() *storage.Group { return storage.NewGroup(base{}, noon) }

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func appendN(tb testing.TB, tx *storage.Group, tenantID string, n int) {
	tb.Helper()
	for i := range n {
		tx.SetNow(tx.Now().Add(time.Second))
		_, err := audit.Append(tx, audit.Record{
			TenantID: tenantID, Principal: "usr_a", Action: []string{"run.create", "run.cancel", "key.issue"}[i%3],
			Resource: fmt.Sprintf("run/run_%d", i), Outcome: "ok", CorrelationID: "corr_1",
			Details: map[string]any{"n": i, "agent_id": "agt_a"},
		})
		must(tb, err)
	}
}

func TestAppend(t *testing.T) {
	tx := newTx()
	got, err := audit.Append(tx, audit.Record{
		ID: "chosen", Sequence: 77, Time: noon.Add(time.Hour), PrevHash: "x", Hash: "y", // none of these is the caller's
		TenantID: "tnt_a", Principal: "usr_a", Action: "run.create", Resource: "run/run_1", Outcome: "ok", CorrelationID: "corr_1",
	})
	must(t, err)
	if got.Sequence != 1 || !got.Time.Equal(noon) || got.PrevHash != strings.Repeat("0", 64) || !strings.HasPrefix(got.ID, "aud_") || len(got.ID) != 30 {
		t.Fatalf("got %+v", got)
	}
	raw, err := tx.Get("tenant/tnt_a/audit/0000000000000001")
	must(t, err)
	want := `{"audit_id":"` + got.ID + `","sequence":1,"time":"2026-05-14T12:00:00.123456789Z","tenant_id":"tnt_a","principal":"usr_a",` +
		`"action":"run.create","resource":"run/run_1","outcome":"ok","correlation_id":"corr_1","prev_hash":"` + got.PrevHash + `","hash":"` + got.Hash + `"}`
	if string(raw) != want {
		t.Fatalf("stored %s\nwant   %s", raw, want)
	}
	// The form that is hashed is fixed for ever: a record of yesterday has to verify tomorrow.
	if got.Hash != goldenHash {
		t.Fatalf("hash %s", got.Hash)
	}
}

const goldenHash = "76de7b6e70bd63eafdd6a0c365ada1a73dea35c85683c85bf9d914e4c168b91e"

// What is written by hand is what encoding/json would write, and it hashes the same after any number of trips through JSON.
func TestAppend_SurvivesJSON(t *testing.T) {
	text := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"a<b>&\"\\", "\xff\xfe", "\u2028", "é\n\x00", "run.create"}))
	rapid.Check(t, func(rt *rapid.T) {
		r := audit.Record{
			Principal: text.Draw(rt, "principal"), Action: text.Draw(rt, "action"), Resource: text.Draw(rt, "resource"),
			Outcome: text.Draw(rt, "outcome"), CorrelationID: text.Draw(rt, "correlation"), Peer: text.Draw(rt, "peer"),
			Policy: text.Draw(rt, "policy"), Count: rapid.IntRange(0, 3).Draw(rt, "count"),
		}
		if rapid.Bool().Draw(rt, "details") {
			r.Details = map[string]any{
				text.Draw(rt, "key"): text.Draw(rt, "value"), "n": rapid.Int64().Draw(rt, "n"), "f": rapid.Float64Range(-1e300, 1e300).Draw(rt, "f"),
				"u": uint64(math.MaxUint64), "list": []string{text.Draw(rt, "item")}, "map": map[string]any{"x": nil, "y": true},
			}
		}
		tx := newTx()
		done, err := audit.Append(tx, r)
		must(t, err)
		raw, err := tx.Get("platform/audit/0000000000000001")
		must(t, err)
		for range 3 {
			var back audit.Record
			must(t, json.Unmarshal(raw, &back))
			again, err := json.Marshal(back)
			must(t, err)
			if !bytes.Equal(again, raw) {
				rt.Fatalf("stored %s\nencodes to %s", raw, again)
			}
			if hash, id, err := tenancy.AuditSum(back); err != nil || hash != done.Hash || id != done.ID {
				rt.Fatalf("hash %s, id %s (%v), want %s, %s", hash, id, err, done.Hash, done.ID)
			}
			raw = again
		}
	})
}

func lines(tb testing.TB, r storage.Reader, tenantID string) (out []string) {
	tb.Helper()
	for rec, err := range audit.Chain(r, tenantID) {
		must(tb, err)
		b, err := json.Marshal(rec)
		must(tb, err)
		out = append(out, string(b))
	}
	return out
}

func verify(file []string, head *audit.Head) (int, error) {
	return audit.Verify(audit.Lines(strings.NewReader(strings.Join(file, "\n"))), head)
}

func TestVerify(t *testing.T) {
	tx := newTx()
	appendN(t, tx, "tnt_a", 20)
	appendN(t, tx, "tnt_b", 5)
	head, err := audit.ReadHead(tx, "tnt_a")
	must(t, err)
	file, other := lines(t, tx, "tnt_a"), lines(t, tx, "tnt_b")
	if n, err := verify(file, &head); err != nil || n != 20 {
		t.Fatalf("a whole chain: %d, %v", n, err)
	}
	edit := func(at int, from, to string) []string {
		out := slices.Clone(file)
		out[at-1] = strings.Replace(out[at-1], from, to, 1)
		if out[at-1] == file[at-1] {
			t.Fatalf("%q isn't in %s", from, out[at-1])
		}
		return out
	}
	swapped := slices.Clone(file)
	swapped[6], swapped[7] = swapped[7], swapped[6]
	for name, c := range map[string]struct {
		file []string
		at   uint64
	}{
		"edited principal":     {edit(7, "usr_a", "usr_b"), 7},
		"edited detail":        {edit(7, `"n":6`, `"n":5`), 7},
		"edited time":          {edit(7, ".123456789Z", ".123456788Z"), 7},
		"edited id":            {edit(7, `"audit_id":"aud_0`, `"audit_id":"aud_1`), 7},
		"edited hash":          {edit(7, `"hash":"`, `"hash":"00`), 7},
		"moved to other":       {edit(7, "tnt_a", "tnt_b"), 7},
		"edited first":         {edit(1, "usr_a", "usr_b"), 1},
		"edited last":          {edit(20, "usr_a", "usr_b"), 20},
		"removed":              {slices.Delete(slices.Clone(file), 6, 7), 7},
		"removed first":        {file[1:], 1},
		"removed last":         {file[:19], 20},
		"removed all":          {nil, 1},
		"reordered":            {swapped, 7},
		"repeated":             {slices.Insert(slices.Clone(file), 6, file[5]), 7},
		"of another chain":     {slices.Insert(slices.Clone(file), 6, other[2]), 7},
		"one added at the end": {append(slices.Clone(file), file[19]), 21},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := verify(c.file, &head)
			var broken *audit.BrokenError
			if !errors.As(err, &broken) || broken.Sequence != c.at {
				t.Fatalf("got %v, want a break at %d", err, c.at)
			}
		})
	}
	for name, file := range map[string][]string{
		"a member twice":   edit(3, `"outcome":"ok"`, `"outcome":"forbidden","outcome":"ok"`),
		"a detail twice":   edit(3, `"n":2`, `"n":9,"n":2`),
		"a member unknown": edit(3, `"outcome":"ok"`, `"outcome":"ok","note":"x"`),
		"other case":       edit(3, `"outcome":"ok"`, `"outcome":"ok","Outcome":"forbidden"`),
		"not JSON":         edit(3, `{`, `[`),
	} {
		t.Run(name, func(t *testing.T) {
			if n, err := verify(file, &head); err == nil || n != 2 || !strings.Contains(err.Error(), "line 3") {
				t.Fatalf("got %d, %v", n, err)
			}
		})
	}
}

// Whatever is done to a file of a chain, the verifier says so: any byte changed, any record removed, any two exchanged.
//
// Requirements: T5.
func TestVerify_FindsEveryEdit(t *testing.T) {
	tx := newTx()
	appendN(t, tx, "tnt_a", 12)
	head, err := audit.ReadHead(tx, "tnt_a")
	must(t, err)
	file := lines(t, tx, "tnt_a")
	rapid.Check(t, func(rt *rapid.T) {
		changed := slices.Clone(file)
		i := rapid.IntRange(0, len(file)-1).Draw(rt, "record")
		switch rapid.IntRange(0, 2).Draw(rt, "how") {
		case 0:
			b := []byte(changed[i])
			at := rapid.IntRange(0, len(b)-1).Draw(rt, "byte")
			b[at] ^= byte(rapid.IntRange(1, 255).Draw(rt, "flip"))
			changed[i] = string(b)
		case 1:
			changed = slices.Delete(changed, i, rapid.IntRange(i+1, len(file)).Draw(rt, "to"))
		case 2:
			j := rapid.IntRange(0, len(file)-1).Draw(rt, "other")
			if i == j {
				return
			}
			changed[i], changed[j] = changed[j], changed[i]
		}
		if _, err := verify(changed, &head); err == nil {
			rt.Fatal("not found")
		}
	})
}

func TestList(t *testing.T) {
	tx := newTx()
	appendN(t, tx, "tnt_a", 10)
	appendN(t, tx, "tnt_b", 3)
	list := func(f audit.Filter, limit int) (got []uint64) {
		t.Helper()
		for {
			page, next, err := audit.List(tx, "tnt_a", f, limit)
			must(t, err)
			if len(page) > limit {
				t.Fatalf("%d records on a page of %d", len(page), limit)
			}
			for _, r := range page {
				if r.TenantID != "tnt_a" {
					t.Fatalf("a record of %s", r.TenantID)
				}
				got = append(got, r.Sequence)
			}
			if next == 0 {
				return got
			}
			f.After = next
		}
	}
	at := func(n int) time.Time { return noon.Add(time.Duration(n) * time.Second) } // of record n
	for name, c := range map[string]struct {
		f    audit.Filter
		want []uint64
	}{
		"all":       {audit.Filter{}, []uint64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}},
		"newest":    {audit.Filter{Newest: true}, []uint64{10, 9, 8, 7, 6, 5, 4, 3, 2, 1}},
		"after":     {audit.Filter{After: 8}, []uint64{9, 10}},
		"before":    {audit.Filter{After: 3, Newest: true}, []uint64{2, 1}},
		"action":    {audit.Filter{Action: "run.cancel"}, []uint64{2, 5, 8}},
		"family":    {audit.Filter{Action: "run.", Newest: true}, []uint64{10, 8, 7, 5, 4, 2, 1}},
		"no family": {audit.Filter{Action: "run"}, nil},
		"from to":   {audit.Filter{From: at(3), To: at(6)}, []uint64{3, 4, 5}},
		"none":      {audit.Filter{From: at(100)}, nil},
	} {
		for _, limit := range []int{1, 2, 3, 100} {
			if d := cmp.Diff(c.want, list(c.f, limit)); d != "" {
				t.Errorf("%s by %d: %s", name, limit, d)
			}
		}
	}
	_, _, err := audit.List(tx, "tnt_a", audit.Filter{From: at(2), To: at(1)}, 1)
	if !fault.Is(err, fault.InvalidRequest) {
		t.Fatalf("got %v", err)
	}
}

// office is a store with two tenants and Denials on it.
type office struct {
	store   *slow
	denials *audit.Denials
}

// slow is a store that can be stopped from taking commands.
type slow struct {
	storage.Store
	down  atomic.Bool
	lost  atomic.Bool // it takes them, and doesn't say so
	tries atomic.Int64
}

func (s *slow) Do(ctx context.Context, cmd storage.Command) (any, uint64, error) {
	s.tries.Add(1)
	if s.down.Load() {
		return nil, 0, fault.New(fault.Unavailable, "no quorum")
	}
	v, index, err := s.Store.Do(ctx, cmd)
	if s.lost.Load() {
		return nil, 0, fault.New(fault.Unavailable, "no answer")
	}
	return v, index, err
}

func newOffice(t *testing.T) *office {
	t.Helper()
	reg := storage.NewRegistry()
	tenants, cmds := tenancy.Define(reg), audit.Define(reg)
	o := &office{store: &slow{Store: mem.New(mem.Options{Registry: reg})}}
	dir := tenancy.New(tenancy.Options{Store: o.store, Commands: tenants})
	for _, id := range []string{"tnt_a", "tnt_b"} {
		_, _, err := dir.EnsureTenant(t.Context(), tenancy.TenantCreate{ID: id})
		must(t, err)
	}
	dir.Close()
	o.denials = audit.New(audit.Options{Store: o.store, Commands: cmds})
	t.Cleanup(o.denials.Close)
	return o
}

// refused returns what stands in a chain of refusals: "action code xcount".
func (o *office) refused(t *testing.T, tenantID string) (got []string) {
	t.Helper()
	must(t, o.store.View(t.Context(), storage.Read{}, func(s storage.Snapshot) error {
		head, err := audit.ReadHead(s, tenantID)
		must(t, err)
		_, err = audit.Verify(audit.Chain(s, tenantID), &head)
		must(t, err)
		for r, err := range audit.Chain(s, tenantID) {
			must(t, err)
			if r.Action != "tenant.create" {
				got = append(got, fmt.Sprintf("%s %s x%d", r.Action, r.Outcome, max(r.Count, 1)))
			}
		}
		return nil
	}))
	return got
}

func refusal(tenantID, action string) audit.Record {
	return audit.Record{
		TenantID: tenantID, Principal: "usr_a", Action: action, Resource: "run/run_1", Outcome: "forbidden",
		Details: map[string]any{"source": "192.0.2.1"},
	}
}

func TestDenials_Refused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t)
		o.denials.Refused(refusal("tnt_a", "run.get"))
		o.denials.Refused(refusal("tnt_a", "run.cancel"))
		o.denials.Refused(refusal("tnt_b", "run.get"))
		o.denials.Refused(refusal("", "login"))
		o.denials.Refused(refusal("tnt_guessed", "run.get"))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		for tenantID, want := range map[string][]string{
			"tnt_a": {"run.get forbidden x1", "run.cancel forbidden x1"}, "tnt_b": {"run.get forbidden x1"},
			"": {"login forbidden x1", "run.get forbidden x1"}, "tnt_guessed": nil,
		} {
			if d := cmp.Diff(want, o.refused(t, tenantID)); d != "" {
				t.Errorf("%s: %s", tenantID, d)
			}
		}
	})
}

// A flood is counted, not written out; another principal's refusal still has a record of its own.
//
// Requirements: T5.
func TestDenials_Flood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t)
		for range 10_000 {
			o.denials.Refused(refusal("tnt_a", "run.get"))
		}
		other := refusal("tnt_a", "run.get")
		other.Principal = "usr_b"
		o.denials.Refused(other)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		want := append(slices.Repeat([]string{"run.get forbidden x1"}, 10), "run.get forbidden x9990", "run.get forbidden x1")
		if d := cmp.Diff(want, o.refused(t, "tnt_a")); d != "" {
			t.Fatal(d)
		}
	})
}

// Who varies everything that tells refusals apart fills neither memory nor the chain, and is counted to the last one.
func TestDenials_Varied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t)
		const n = 50_000
		for i := range n {
			r := refusal(fmt.Sprintf("tnt_%d", i), fmt.Sprintf("act.%d", i))
			r.Resource = strings.Repeat("x", 10_000)
			o.denials.Refused(r)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		records, sum := 0, 0
		must(t, o.store.View(t.Context(), storage.Read{}, func(s storage.Snapshot) error {
			for r, err := range audit.Chain(s, "") {
				must(t, err)
				records, sum = records+1, sum+max(r.Count, 1)
				if len(r.Resource) > 300 {
					t.Fatalf("a resource of %d bytes", len(r.Resource))
				}
			}
			return nil
		}))
		if records > 3000 || sum != n {
			t.Fatalf("%d records for %d refusals", records, sum)
		}
	})
}

// While the store doesn't answer, nothing blocks and nothing is lost; and what it took without saying so isn't written twice.
func TestDenials_StoreAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t)
		o.store.down.Store(true)
		for range 30 {
			o.denials.Refused(refusal("tnt_a", "run.get"))
		}
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if got := o.refused(t, "tnt_a"); len(got) > 0 || o.store.tries.Load() > 10 {
			t.Fatalf("got %v after %d tries", got, o.store.tries.Load())
		}
		o.store.down.Store(false)
		o.store.lost.Store(true)
		time.Sleep(60 * time.Second)
		synctest.Wait()
		o.store.lost.Store(false)
		o.denials.Refused(refusal("tnt_a", "run.cancel"))
		o.denials.Close()
		want := append(slices.Repeat([]string{"run.get forbidden x1"}, 10), "run.get forbidden x20", "run.cancel forbidden x1")
		if d := cmp.Diff(want, o.refused(t, "tnt_a")); d != "" {
			t.Fatal(d)
		}
		o.denials.Refused(refusal("tnt_a", "after")) // harmless
	})
}

func BenchmarkAppend(b *testing.B) {
	for name, details := range map[string]map[string]any{
		"plain":   nil,
		"details": {"agent_id": "agt_sample_echo_v1", "policy_id": "pol_default"},
	} {
		b.Run(name, func(b *testing.B) {
			tx := newTx()
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if i%1000 == 0 {
					tx = newTx()
				}
				if _, err := audit.Append(tx, audit.Record{
					TenantID: "tnt_demo", Principal: "usr_tnt_demo_admin", Action: "run.create", Outcome: "ok",
					Resource:      "run/run_01JZXW6T2V3Y4Z5A6B7C8D9E0F",
					CorrelationID: "corr_01JZXW6T2V3Y4Z5A6B7C8D9E0F", Details: details,
				}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func FuzzLines(f *testing.F) {
	tx := newTx()
	appendN(f, tx, "tnt_a", 2)
	f.Add([]byte(strings.Join(lines(f, tx, "tnt_a"), "\n")))
	f.Add([]byte(`{"details":{"a":[[[[1]]]]}}`))
	f.Fuzz(func(t *testing.T, file []byte) {
		next, stop := iter.Pull2(audit.Lines(bytes.NewReader(file)))
		defer stop()
		for {
			rec, err, ok := next()
			if !ok || err != nil {
				return
			}
			if _, _, err := tenancy.AuditSum(rec); err != nil {
				t.Fatal(err)
			}
		}
	})
}
