package meter_test

import (
	"encoding/json"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/model"
	"github.com/nexixai/agentos/model/meter"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/mem"
	"github.com/nexixai/agentos/tenancy"
)

func mustList(tb testing.TB, text string) *meter.PriceList {
	tb.Helper()
	var l meter.PriceList
	if err := json.Unmarshal([]byte(text), &l); err != nil {
		tb.Fatal(err)
	}
	return &l
}

// A list that was put is in force when Put returns, is read back as it was written, and is what a node begins with.
//
// Requirements: B5.
func TestPrices(t *testing.T) { synctest.Test(t, testPrices) }

func testPrices(t *testing.T) {
	reg := storage.NewRegistry()
	commands := meter.Define(reg)
	store := mem.New(mem.Options{Registry: reg})
	t.Cleanup(store.Close)
	newPrices := func() (*meter.Meter, *meter.Prices) {
		m, err := meter.New(meter.Options{})
		if err != nil {
			t.Fatal(err)
		}
		p := meter.NewPrices(meter.PricesOptions{Store: store, Commands: commands, Meter: m})
		t.Cleanup(p.Close)
		return m, p
	}
	m, p := newPrices()
	store.Start()
	usage := model.Usage{InputTokens: 1_000_000, OutputTokens: 1_000_000}
	if nusd, known := m.Cost("openai", "gpt-4o", usage); nusd != 12_500_000_000 || !known {
		t.Errorf("by the list that the product comes with: %d, %v", nusd, known)
	}
	by := tenancy.Actor{Auth: &tenancy.Auth{TenantID: "tnt_a", Principal: tenancy.Principal{ID: "usr_a"}}}
	list := mustList(t, `{"as_of":"2026-05-01T00:00:00Z","models":{"openai/gpt-4o":{"input_usd_per_million":1.25,"output_usd_per_million":5},
		"local/*":{"input_usd_per_million":0.01,"cached_input_usd_per_million":0,"output_usd_per_million":0}},"default":{"input_usd_per_million":7,"output_usd_per_million":8}}`)
	put, _, err := p.Put(t.Context(), by, list)
	if err != nil {
		t.Fatal(err)
	}
	check := func(m *meter.Meter) {
		t.Helper()
		for name, want := range map[string]int64{"gpt-4o": 6_250_000_000, "gpt-5": 15_000_000_000} {
			if nusd, known := m.Cost("openai", name, usage); nusd != want || known != (name == "gpt-4o") {
				t.Errorf("%s costs %d, known %v", name, nusd, known)
			}
		}
	}
	check(m)
	got, _, err := p.Get(t.Context(), storage.Read{})
	if diff := cmp.Diff(put, got); err != nil || diff != "" {
		t.Errorf("read back: %v %s", err, diff)
	}
	if c := got.Models["openai/gpt-4o"].CachedInput; c == nil || *c != 1.25 || got.Models["local/*"].Output != 0 || !got.AsOf.Equal(*list.AsOf) {
		t.Errorf("read back %+v", got)
	}
	// A node that starts later reads the list, as one does that was given the whole state anew.
	later, _ := newPrices()
	synctest.Wait()
	check(later)
}

func TestPriceList_Refuses(t *testing.T) {
	for text, field := range map[string]string{
		`{}`: "default",
		`{"default":{"input_usd_per_million":0,"output_usd_per_million":1}}`:                                                                "default.input_usd_per_million",
		`{"default":{"input_usd_per_million":-1,"output_usd_per_million":1}}`:                                                               "default.input_usd_per_million",
		`{"default":{"input_usd_per_million":1,"output_usd_per_million":1e300}}`:                                                            "default.output_usd_per_million",
		`{"default":{"input_usd_per_million":1,"output_usd_per_million":1},"models":{"":{}}}`:                                               "models",
		`{"default":{"input_usd_per_million":1,"output_usd_per_million":1},"models":{"a/b":{"cached_input_usd_per_million":-0.1}}}`:         "models.a/b.cached_input_usd_per_million",
		`{"default":{"input_usd_per_million":0.0000000001,"output_usd_per_million":1},"models":{"a/b":{"cached_input_usd_per_million":0}}}`: "default.input_usd_per_million",
	} {
		_, err := mustList(t, text).Table(meter.DefaultTable().AsOf)
		if !fault.Is(err, fault.InvalidRequest) || fault.Of(err).Details["field"] != field {
			t.Errorf("%s: %v, want the field %s", text, err, field)
		}
	}
}
