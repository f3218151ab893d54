package storagetest

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
)

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
