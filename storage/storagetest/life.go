package storagetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/nexixai/agentos/storage"
)

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
