package storagetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
)

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
