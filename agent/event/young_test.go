package event_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
)

// counted is a stage whose reads of the store are counted.
type counted struct {
	*stage
	reads atomic.Int64
}

func (c *counted) View(ctx context.Context, r storage.Read, read func(storage.Snapshot) error) error {
	return c.stage.View(ctx, r, func(s storage.Snapshot) error { return read(&countedSnapshot{s, &c.reads}) })
}

type countedSnapshot struct {
	storage.Snapshot
	reads *atomic.Int64
}

func (s *countedSnapshot) Get(key string) ([]byte, error) {
	s.reads.Add(1)
	return s.Snapshot.Get(key)
}

func (s *countedSnapshot) Scan(r storage.Range, visit func(string, []byte) bool) error {
	s.reads.Add(1)
	return s.Snapshot.Scan(r, visit)
}

func mustCounted(tb testing.TB) *counted {
	tb.Helper()
	c := &counted{stage: mustStage(tb, event.Options{})}
	c.hub.Close()
	c.hub = event.New(event.Options{Store: c})
	return c
}

// Who creates a run asks for its events a moment later: without a search of the store, though nobody followed the run
// before. That holds for the newest runs only, so that memory is bounded; an older one is read from the store as ever.
func TestHub_Young(t *testing.T) {
	s := mustCounted(t)
	defer s.close()
	follow := func(runID string, last uint64) {
		t.Helper()
		c := s.mustFollow(t, runID, 0)
		defer c.Close()
		expect(t, c, 0, last)
	}
	s.must(t, "run_0", 1, 3, false)
	s.must(t, "run_0", 4, 7, true)
	follow("run_0", 7)
	if n := s.reads.Load(); n != 0 {
		t.Errorf("a young run cost its follower %d reads", n)
	}
	for n := range 700 {
		s.must(t, fmt.Sprintf("run_%d", n+1), 1, 2, true)
	}
	if held := s.hub.Held(); held > 1<<20 {
		t.Errorf("the hub holds %d bytes for runs that nobody follows", held)
	}
	follow("run_0", 7)
	if s.reads.Load() == 0 {
		t.Error("a run that is no longer young cost its follower no read")
	}
	follow("run_700", 2)
}

// A young run that has been removed is gone for those who ask for it.
func TestHub_YoungRemoved(t *testing.T) {
	s := mustCounted(t)
	defer s.close()
	s.must(t, "run_1", 1, 2, true)
	s.must(t, "run_2", 1, 2, true)
	cut := []write{{key: event.Key(head.TenantID, "run_1", 1)}, {key: event.Key(head.TenantID, "run_1", 2)}}
	if _, _, err := s.write.Do(t.Context(), s.Store, "", cut); err != nil {
		t.Fatal(err)
	}
	if _, err := s.hub.Follow(t.Context(), storage.Read{}, head.TenantID, "run_1", 0); !fault.Is(err, fault.NotFound) {
		t.Errorf("a removed run answers %v", err)
	}
	c := s.mustFollow(t, "run_2", 0)
	defer c.Close()
	expect(t, c, 0, 2)
}
