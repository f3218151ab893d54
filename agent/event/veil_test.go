package event_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/storage"
)

// veil puts a run's veil on, or takes it away.
func (s *stage) veil(tb testing.TB, runID, value string) {
	tb.Helper()
	if _, _, err := s.write.Do(tb.Context(), s.Store, "", []write{{event.VeilKey(head.TenantID, runID), value}}); err != nil {
		tb.Fatal(err)
	}
}

// mustBegin writes a run's first event, and its veil with it.
func (s *stage) mustBegin(tb testing.TB, runID string) {
	tb.Helper()
	h := head
	h.RunID = runID
	d := event.Draft{ID: "evt_1", Type: event.RunCreated, Payload: event.Created()}
	first := write{event.Key(h.TenantID, runID, 1), string(event.AppendEnvelope(nil, &h, &d, 1, at))}
	if _, _, err := s.write.Do(tb.Context(), s.Store, "", []write{{event.VeilKey(h.TenantID, runID), "final"}, first}); err != nil {
		tb.Fatal(err)
	}
}

// all reads a cursor to the run's end.
func all(ctx context.Context, tb testing.TB, c *event.Cursor) (got []uint64) {
	for {
		b, err := c.Next(ctx)
		if err != nil {
			tb.Errorf("after %v: %v", got, err)
			return got
		}
		got = append(got, sequences(tb, b.Frames)...)
		if b.Final {
			return got
		}
	}
}

// What is veiled is held back from the tenant, wherever a reader stands when it comes: in the window, behind it, at the
// journal's end or beyond; and it comes, once, when the veil goes. Who may see it sees it at once.
func TestHub_Veil(t *testing.T) {
	for name, long := range map[string]int{"in the window": 3, "behind it": 400} {
		for _, young := range []bool{true, false} {
			t.Run(fmt.Sprint(name, ", young=", young), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { veiled(t, long, young) })
			})
		}
	}
}

func veiled(t *testing.T, long int, young bool) {
	s := mustStage(t, event.Options{Window: 4 << 10})
	defer s.close()
	s.mustBegin(t, "run_1")
	if !young {
		s.hub.Close()
		s.hub = event.New(event.Options{Store: s, Window: 4 << 10})
	}
	end := uint64(long)
	early := s.mustFollow(t, "run_1", 0)
	s.must(t, "run_1", 2, long, true)
	readers := map[string]*event.Cursor{
		"early": early, "late": s.mustFollow(t, "run_1", 0), "at the end": s.mustFollow(t, "run_1", end-1), "beyond": s.mustFollow(t, "run_1", end),
	}
	got := make(map[string][]uint64)
	var mu sync.Mutex
	var reading sync.WaitGroup
	for name, c := range readers {
		defer c.Close()
		if c.Ended() {
			t.Errorf("%s has heard of the end", name)
		}
		reading.Go(func() {
			for final := false; !final; {
				b, err := c.Next(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				got[name] = append(got[name], sequences(t, b.Frames)...)
				mu.Unlock()
				final = b.Final
			}
		})
	}
	synctest.Wait()
	mu.Lock()
	for name, list := range got {
		if slices.Contains(list, end) {
			t.Errorf("%s was shown what is veiled: %v", name, list)
		}
	}
	if len(got["early"]) != long-1 || len(got["late"]) != long-1 {
		t.Errorf("%d and %d events came of %d", len(got["early"]), len(got["late"]), long-1)
	}
	mu.Unlock()
	whole, err := s.hub.FollowWhole(t.Context(), storage.Read{}, head.TenantID, "run_1", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer whole.Close()
	if seen := all(t.Context(), t, whole); len(seen) != long || seen[long-1] != end {
		t.Errorf("who may see all saw %v", seen)
	}
	s.veil(t, "run_1", "")
	reading.Wait()
	for name, want := range map[string]int{"early": long, "late": long, "at the end": 1, "beyond": 0} {
		list := slices.DeleteFunc(got[name], func(n uint64) bool { return n == 0 })
		if len(list) != want || want > 0 && list[want-1] != end {
			t.Errorf("%s got %d events, to %v, want %d", name, len(list), list[max(0, len(list)-2):], want)
		}
	}
	after := s.mustFollow(t, "run_1", end)
	defer after.Close()
	if !after.Ended() {
		t.Error("the end is still hidden")
	}
}

// A veil that goes while the store is being read, or replaced, is not believed to be there for ever.
func TestHub_VeilRace(t *testing.T) {
	chance := rand.New(rand.NewPCG(1, 2))
	for i := range 200 {
		s := mustStage(t, event.Options{Window: 1 << 10})
		runID := fmt.Sprint("run_", i)
		s.mustBegin(t, runID)
		s.must(t, runID, 2, 5, false)
		deaf := chance.IntN(3) == 0
		s.setDeaf(deaf)
		var both sync.WaitGroup
		both.Go(func() {
			c, err := s.hub.Follow(t.Context(), storage.Read{}, head.TenantID, runID, 0)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			if got := all(t.Context(), t, c); len(got) != 6 {
				t.Errorf("it ended with %v", got)
			}
		})
		both.Go(func() {
			s.must(t, runID, 6, 6, true)
			s.veil(t, runID, "")
			if deaf {
				s.setDeaf(false)
				s.Jumped(0)
			}
		})
		both.Wait()
		s.close()
		if t.Failed() {
			return
		}
	}
}
