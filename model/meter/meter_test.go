package meter_test

import (
	"encoding/json"
	"math"
	"runtime"
	"strings"
	"testing"

	"github.com/nexixai/agentos/model"
	"github.com/nexixai/agentos/model/meter"
)

func MustMeter(tb testing.TB, t meter.Table) *meter.Meter {
	tb.Helper()
	m, err := meter.New(meter.Options{Table: t})
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

// Not parallel, and first: it looks at the memory of the process.
func TestMeter_LoadsLate(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	m := MustMeter(t, meter.Table{})
	m.CountRequest("builtin", "echo-1", &model.ChatRequest{Messages: []model.Message{{Content: "a b"}}})
	m.CountTexts("far", "some-model", []string{"a b"})
	m.Cost("openai", "gpt-4o", model.Usage{InputTokens: 1})
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 1<<20 {
		t.Errorf("a meter that needed no vocabulary took %d bytes", grown)
	}
}

func TestWords(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{"": 0, " ": 0, "a": 1, " a  b\tc\nd\r\n": 4, "日本 語": 2} {
		if got := meter.Words(text); got != want || got != int64(len(strings.Fields(text))) {
			t.Errorf("%q has %d words, want %d", text, got, want)
		}
	}
}

// Requirements: B5.
func TestMeter_Count(t *testing.T) {
	t.Parallel()
	m := MustMeter(t, meter.Table{})
	for _, c := range []struct {
		backend, name, text string
		want                int64
		exact               bool
	}{
		{"builtin", "hash-embed-1", "one two  three", 3, true},
		{"openai", "gpt-4o", "hello world", 2, true},                        // o200k_base: 24912 2375
		{"openai", "gpt-4o-2024-08-06", "hello world", 2, true},             //
		{"openai", "text-embedding-3-small", "tiktoken is great!", 6, true}, // cl100k_base: 83 1609 5963 374 2294 0
		{"openai", "gpt-3.5-turbo", "tiktoken is great!", 6, true},
		{"vllm", "llama-3", "hello world", 4, false},
		{"vllm", "gpt-4ever", "hello world", 4, false}, // only looks like one of OpenAI's
	} {
		got, exact := m.CountTexts(c.backend, c.name, []string{c.text})
		if got != c.want || exact != c.exact {
			t.Errorf("%s/%s: %q has %d tokens (exact %v), want %d (%v)", c.backend, c.name, c.text, got, exact, c.want, c.exact)
		}
	}
	req := &model.ChatRequest{
		Messages: []model.Message{{Role: "user", Content: "one two"}, {Role: "assistant", ToolCalls: []model.ToolCall{{Name: "echo", Arguments: json.RawMessage(`{"a": 1}`)}}}},
		Tools:    []model.Tool{{Name: "echo", Description: strings.Repeat("long ", 100)}},
	}
	if n, exact := m.CountRequest("builtin", "echo-1", req); n != 5 || !exact {
		t.Errorf("words of a request: %d %v", n, exact)
	}
	with, exact := m.CountRequest("openai", "gpt-4o", req)
	req.Tools = nil
	if without, _ := m.CountRequest("openai", "gpt-4o", req); exact || with < without+100 {
		t.Errorf("tools are not counted: %d with, %d without", with, without)
	}
	if n, exact := m.CountMessage("vllm", "llama", &model.Message{Content: "hello world"}); n != 4 || exact {
		t.Errorf("an answer: %d %v", n, exact)
	}
	huge := strings.Repeat("a", 2<<20)
	if n, exact := m.CountTexts("openai", "gpt-4o", []string{huge}); n < 1<<19 || exact {
		t.Errorf("a huge text: %d %v", n, exact)
	}
}

// Requirements: B5.
func TestMeter_Cost(t *testing.T) {
	t.Parallel()
	m := MustMeter(t, meter.Table{})
	for _, c := range []struct {
		backend, name string
		usage         model.Usage
		want          int64
		known         bool
	}{
		{"builtin", "echo-1", model.Usage{InputTokens: 2, OutputTokens: 3}, 5000, true},
		{"builtin", "another", model.Usage{InputTokens: 1}, 1000, true},
		{"openai", "gpt-4o", model.Usage{InputTokens: 1_000_000, OutputTokens: 1_000_000}, 12_500_000_000, true},
		{"openai", "gpt-4o-2024-08-06", model.Usage{OutputTokens: 1}, 10_000, true},
		{"openai", "gpt-4o-mini", model.Usage{InputTokens: 1000, CachedInputTokens: 400}, 600*150 + 400*75, true},
		{"openai", "text-embedding-3-small", model.Usage{InputTokens: 1}, 20, true},
		{"vllm", "llama", model.Usage{InputTokens: 1, OutputTokens: 1}, 40_000, false},
		{"vllm", "llama", model.Usage{InputTokens: math.MaxInt64, OutputTokens: math.MaxInt64}, math.MaxInt64, false},
		{"openai", "gpt-4o", model.Usage{InputTokens: -5, OutputTokens: -5, CachedInputTokens: 9}, 0, true},
		{"openai", "gpt-4o", model.Usage{InputTokens: 1, CachedInputTokens: math.MaxInt64}, 1250, true},
	} {
		if got, known := m.Cost(c.backend, c.name, c.usage); got != c.want || known != c.known {
			t.Errorf("%s/%s %+v costs %d (known %v), want %d (%v)", c.backend, c.name, c.usage, got, known, c.want, c.known)
		}
	}
	// A fraction of a nano-dollar is rounded up: many small calls must not be free.
	small := meter.Table{Prices: map[string]meter.Price{"a/*": {InputNUSD: 1}}, Default: meter.DefaultTable().Default}
	if got, _ := MustMeter(t, small).Cost("a", "b", model.Usage{InputTokens: 1}); got != 1 {
		t.Errorf("a small price became %d", got)
	}
}

func TestMeter_Replace(t *testing.T) {
	t.Parallel()
	m := MustMeter(t, meter.Table{})
	for name, table := range map[string]meter.Table{
		"free default": {Prices: map[string]meter.Price{"a/b": {InputNUSD: 1}}},
		"negative":     {Prices: map[string]meter.Price{"a/b": {InputNUSD: -1}}, Default: meter.DefaultTable().Default},
	} {
		if err := m.Replace(table); err == nil {
			t.Errorf("%s: was taken", name)
		}
	}
	next := meter.Table{Prices: map[string]meter.Price{"a/b": {InputNUSD: 1_000_000, OutputNUSD: 2_000_000}}, Default: meter.Price{InputNUSD: 7, OutputNUSD: 7}}
	if err := m.Replace(next); err != nil {
		t.Fatal(err)
	}
	if got, known := m.Cost("a", "b", model.Usage{InputTokens: 1, OutputTokens: 1}); got != 3 || !known || m.Table().Default.InputNUSD != 7 {
		t.Errorf("after the change: %d %v", got, known)
	}
}
