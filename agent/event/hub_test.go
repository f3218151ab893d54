package event_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/mem"
)

// stage is a store with one command, which writes events, and a hub that hears of them unless it's deaf.
type stage struct {
	*mem.Store
	write storage.Call[[]write, struct{}]
	hub   *event.Hub

	mu      sync.Mutex
	deaf    bool
	watcher storage.Watcher
}

type write struct{ key, value string }

func mustStage(tb testing.TB, o event.Options) *stage {
	tb.Helper()
	reg := storage.NewRegistry()
	s := &stage{}
	s.write = storage.Define(reg, "test.write", func(tx storage.Tx, w []write) (none struct{}, err error) {
		for _, one := range w {
			if one.value == "" {
				tx.Delete(one.key)
			} else {
				tx.Set(one.key, []byte(one.value))
			}
		}
		return none, nil
	})
	s.Store = mem.New(mem.Options{Registry: reg})
	o.Store = s
	s.hub = event.New(o)
	return s
}

func (s *stage) close() {
	s.hub.Close()
	s.Store.Close()
}

// Watch puts s between the store and the hub.
func (s *stage) Watch(prefix string, w storage.Watcher) func() {
	s.watcher = w
	return s.Store.Watch(prefix, s)
}

func (s *stage) Applied(index uint64, changes []storage.Change) {
	s.mu.Lock()
	deaf := s.deaf
	s.mu.Unlock()
	if !deaf {
		s.watcher.Applied(index, changes)
	}
}

func (s *stage) Jumped(index uint64) { s.watcher.Jumped(index) }

func (s *stage) setDeaf(deaf bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deaf = deaf
}

// must writes events from to to of a run; final makes the last one final.
func (s *stage) must(tb testing.TB, runID string, from, to int, final bool) {
	tb.Helper()
	var all []write
	h := head
	h.RunID = runID
	for n := from; n <= to; n++ {
		d := event.Draft{ID: fmt.Sprintf("evt_%d", n), Type: event.StepStarted, Payload: json.RawMessage(`{}`)}
		if final && n == to {
			d.Type = event.RunCompleted
		}
		all = append(all, write{event.Key(h.TenantID, runID, uint64(n)), string(event.AppendEnvelope(nil, &h, &d, uint64(n), at))})
	}
	if _, _, err := s.write.Do(tb.Context(), s.Store, "", all); err != nil {
		tb.Fatal(err)
	}
}

func (s *stage) mustFollow(tb testing.TB, runID string, after uint64) *event.Cursor {
	tb.Helper()
	c, err := s.hub.Follow(tb.Context(), storage.Read{}, head.TenantID, runID, after)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// sequences reads the ids of the frames in b; deltas and gaps are 0.
func sequences(tb testing.TB, b []byte) []uint64 {
	tb.Helper()
	var all []uint64
	for frame := range strings.SplitSeq(strings.TrimSuffix(string(b), "\n\n"), "\n\n") {
		if strings.HasPrefix(frame, ":") {
			continue
		}
		lines := strings.Split(frame, "\n")
		id, ok := strings.CutPrefix(lines[0], "id: ")
		if !ok {
			all = append(all, 0)
			continue
		}
		n, err := strconv.ParseUint(id, 10, 64)
		if err != nil || len(lines) != 3 || lines[1] != "event: agentos.event" || !strings.HasPrefix(lines[2], "data: {") {
			tb.Errorf("broken frame %q", frame)
		}
		v, err := event.Scan([]byte(strings.TrimPrefix(lines[2], "data: ")))
		if err != nil || v.Sequence != n {
			tb.Errorf("frame %d holds %d: %v", n, v.Sequence, err)
		}
		all = append(all, n)
	}
	return all
}

// expect reads until the final event and checks that exactly after+1..last came, each once and in order.
func expect(tb testing.TB, c *event.Cursor, after, last uint64) {
	next := after + 1
	for {
		b, err := c.Next(tb.Context())
		if err != nil {
			tb.Errorf("after %d: %v", next-1, err)
			return
		}
		count := 0
		for _, n := range sequences(tb, b.Frames) {
			if n == 0 {
				continue
			}
			if n != next {
				tb.Errorf("got %d, want %d", n, next)
				return
			}
			next++
			count++
		}
		if count != b.Count || b.Last != max(next-1, after) {
			tb.Errorf("batch says %d events up to %d, holds %d up to %d", b.Count, b.Last, count, next-1)
		}
		if b.Final {
			if next != last+1 {
				tb.Errorf("ended after %d, want %d", next-1, last)
			}
			return
		}
	}
}

// Readers that come at any moment, fast and slow, see what comes after their place once each: no seam between replay and
// live, whatever falls out of the window meanwhile.
func TestHub_ReadersAtAnyMoment(t *testing.T) {
	for _, o := range []event.Options{{}, {Window: 2000}, {Window: 1}, {Memory: 1000}} {
		t.Run(fmt.Sprintf("window %d memory %d", o.Window, o.Memory), func(t *testing.T) {
			s := mustStage(t, o)
			defer s.close()
			const last, readers = 400, 48
			s.must(t, "run_1", 1, 1, false)
			var wg sync.WaitGroup
			for i := range readers {
				wg.Go(func() {
					for range rand.IntN(60) {
						runtime.Gosched()
					}
					after := uint64(0)
					if i%3 != 0 {
						after = rand.Uint64N(last)
					}
					c := s.mustFollow(t, "run_1", after)
					defer c.Close()
					expect(t, c, after, last)
				})
			}
			wg.Go(func() {
				for n := 2; n <= last; {
					to := min(n+rand.IntN(6), last)
					s.must(t, "run_1", n, to, to == last)
					if rand.IntN(4) == 0 {
						s.hub.Delta(event.Delta{TenantID: head.TenantID, RunID: "run_1", Text: "piece"})
					}
					if rand.IntN(20) == 0 {
						s.Jumped(0)
					}
					runtime.Gosched()
					n = to + 1
				}
			})
			wg.Wait()
			if n := s.hub.Followers(); n != 0 {
				t.Errorf("%d followers left", n)
			}
			if n := s.hub.Held(); n != 0 {
				t.Errorf("%d bytes still held with nobody there", n)
			}
		})
	}
}

// What came while the hub could not hear (a snapshot was installed) must still reach who was waiting.
func TestHub_Jumped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustStage(t, event.Options{})
		defer s.close()
		s.must(t, "run_1", 1, 3, false)
		done := make(chan struct{})
		c, far := s.mustFollow(t, "run_1", 0), s.mustFollow(t, "run_1", 6)
		defer far.Close()
		go func() {
			defer close(done)
			defer c.Close()
			expect(t, c, 0, 9)
		}()
		synctest.Wait()
		s.setDeaf(true)
		s.must(t, "run_1", 4, 8, false)
		s.setDeaf(false)
		s.Jumped(0)
		synctest.Wait()
		if c.Last() != 8 {
			t.Errorf("after the jump the reader is at %d, want 8", c.Last())
		}
		s.must(t, "run_1", 9, 9, true)
		<-done
		expect(t, far, 6, 9)
	})
}

// A feed with a hole, without being told of a jump, is a fault of the store; readers must still miss nothing.
func TestHub_HoleInTheFeed(t *testing.T) {
	s := mustStage(t, event.Options{})
	defer s.close()
	s.must(t, "run_1", 1, 2, false)
	c := s.mustFollow(t, "run_1", 0)
	defer c.Close()
	if b, err := c.Next(t.Context()); err != nil || b.Last != 2 {
		t.Fatalf("batch to %d, %v", b.Last, err)
	}
	s.setDeaf(true)
	s.must(t, "run_1", 3, 4, false)
	s.setDeaf(false)
	s.must(t, "run_1", 5, 6, true)
	expect(t, c, 2, 6)
}

func TestHub_Follow(t *testing.T) {
	s := mustStage(t, event.Options{})
	defer s.close()
	s.must(t, "run_1", 1, 5, true)
	s.must(t, "run_2", 1, 2, false)
	t.Run("not there", func(t *testing.T) {
		for _, c := range []struct{ tenant, run string }{
			{"tnt_demo", "run_x"}, {"tnt_other", "run_1"}, {"tnt_demo", "run_1/events"}, {"tnt_demo", ""}, {"", "run_1"},
		} {
			if _, err := s.hub.Follow(t.Context(), storage.Read{}, c.tenant, c.run, 0); !fault.Is(err, fault.NotFound) {
				t.Errorf("%v: %v, want not_found", c, err)
			}
		}
		if n := s.hub.Followers(); n != 0 {
			t.Errorf("%d followers left behind by refusals", n)
		}
	})
	t.Run("finished", func(t *testing.T) {
		for after := range uint64(8) {
			c := s.mustFollow(t, "run_1", after)
			if got, want := c.Ended(), after >= 5; got != want {
				t.Errorf("after %d: ended %v, want %v", after, got, want)
			}
			if !c.Ended() {
				expect(t, c, after, 5)
			}
			if b, err := c.Next(t.Context()); err != nil || !b.Final || b.Count != 0 || len(b.Frames) != 0 {
				t.Errorf("after the end: %+v, %v", b, err)
			}
			c.Close()
			c.Close()
		}
	})
	t.Run("beyond the end of a live run", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := mustStage(t, event.Options{})
			defer s.close()
			s.must(t, "run_2", 1, 2, false)
			near, far := s.mustFollow(t, "run_2", 4), s.mustFollow(t, "run_2", 50)
			defer near.Close()
			defer far.Close()
			var got, ended event.Batch
			go func() { got, _ = near.Next(t.Context()) }()
			go func() { ended, _ = far.Next(t.Context()) }()
			synctest.Wait()
			s.must(t, "run_2", 3, 4, false)
			synctest.Wait()
			if got.Count != 0 {
				t.Errorf("a reader after 4 was given %d events up to %d", got.Count, got.Last)
			}
			s.must(t, "run_2", 5, 6, true)
			synctest.Wait()
			if got.Count != 2 || got.Last != 6 || !got.Final {
				t.Errorf("a reader after 4 was given %+v", got)
			}
			if !ended.Final || ended.Count != 0 {
				t.Errorf("a reader after 50 was given %+v when the run ended at 6", ended)
			}
		})
	})
}

// What retention has taken is told, not passed over in silence.
func TestHub_Gap(t *testing.T) {
	s := mustStage(t, event.Options{})
	defer s.close()
	s.must(t, "run_1", 1, 6, true)
	var cut []write
	for n := range uint64(3) {
		cut = append(cut, write{key: event.Key(head.TenantID, "run_1", n+1)})
	}
	if _, _, err := s.write.Do(t.Context(), s.Store, "", cut); err != nil {
		t.Fatal(err)
	}
	c := s.mustFollow(t, "run_1", 1)
	defer c.Close()
	b, err := c.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := "event: agentos.gap\ndata: " + `{"gap":{"run_id":"run_1","from_sequence":2,"to_sequence":3,"reason":"retention"}}` + "\n\nid: 4\n"
	if !bytes.HasPrefix(b.Frames, []byte(want)) || b.Count != 3 || !b.Final {
		t.Errorf("got %d events, %q", b.Count, b.Frames)
	}
}

func TestHub_Delta(t *testing.T) {
	s := mustStage(t, event.Options{Now: func() time.Time { return at }})
	defer s.close()
	s.must(t, "run_1", 1, 1, false)
	d := event.Delta{TenantID: "tnt_demo", AgentID: "agt_echo", RunID: "run_1", StepID: "stp_1", ModelRef: "tier:fast", Text: "a\nb"}
	s.hub.Delta(d) // nobody listens
	c := s.mustFollow(t, "run_1", 1)
	defer c.Close()
	s.hub.Delta(event.Delta{TenantID: "tnt_other", RunID: "run_1", Text: "another's"})
	s.hub.Delta(d)
	b, err := c.Next(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := "event: agentos.event\ndata: " + `{"event":{"sequence":null,"time":"2026-03-04T04:06:07.089Z","type":"agentos.model.delta","tenant_id":"tnt_demo",` +
		`"agent_id":"agt_echo","run_id":"run_1","step_id":"stp_1","trace":{"traceparent":"","span_id":""},"payload":{"model_ref":"tier:fast","text":"a\nb"}}}` + "\n\n"
	if string(b.Frames) != want || b.Count != 0 || b.Last != 1 {
		t.Errorf("got %q", b.Frames)
	}
	s.must(t, "run_1", 2, 2, true)
	s.hub.Delta(d) // too late
	expect(t, c, 1, 2)
	if b, err := c.Next(t.Context()); err != nil || len(b.Frames) != 0 {
		t.Errorf("after the end came %q, %v", b.Frames, err)
	}
}

func TestCursor_Next(t *testing.T) {
	t.Run("heartbeat", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			s := mustStage(t, event.Options{Heartbeat: 15 * time.Second})
			defer s.close()
			s.must(t, "run_1", 1, 1, false)
			c := s.mustFollow(t, "run_1", 1)
			defer c.Close()
			for range 3 {
				began := time.Now()
				b, err := c.Next(t.Context())
				if err != nil || string(b.Frames) != event.Heartbeat || b.Count != 0 || time.Since(began) != 15*time.Second {
					t.Fatalf("after %v: %q, %v", time.Since(began), b.Frames, err)
				}
			}
		})
	})
	t.Run("ended by its context", func(t *testing.T) {
		s := mustStage(t, event.Options{})
		defer s.close()
		s.must(t, "run_1", 1, 1, false)
		c := s.mustFollow(t, "run_1", 1)
		defer c.Close()
		ctx, cancel := context.WithCancel(t.Context())
		got := make(chan error)
		go func() {
			_, err := c.Next(ctx)
			got <- err
		}()
		cancel()
		if err := <-got; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("ended by the hub", func(t *testing.T) {
		s := mustStage(t, event.Options{})
		s.must(t, "run_1", 1, 1, false)
		c := s.mustFollow(t, "run_1", 1)
		defer c.Close()
		got := make(chan error)
		go func() {
			_, err := c.Next(t.Context())
			got <- err
		}()
		s.close()
		if err := <-got; !errors.Is(err, storage.ErrClosed) {
			t.Errorf("got %v", err)
		}
	})
}

// Ten thousand quiet streams have to fit beside everything else.
func TestHub_IdleFollowerIsSmall(t *testing.T) {
	s := mustStage(t, event.Options{})
	defer s.close()
	const followers = 2000
	cursors := make([]*event.Cursor, followers)
	for i := range followers {
		s.must(t, fmt.Sprint("run_", i), 1, 4, false)
	}
	before := heap()
	for i := range cursors {
		cursors[i] = s.mustFollow(t, fmt.Sprint("run_", i), 0)
		if b, err := cursors[i].Next(t.Context()); err != nil || b.Count != 4 {
			t.Fatal(b.Count, err)
		}
	}
	for i := range cursors { // some live, each had to itself
		s.must(t, fmt.Sprint("run_", i), 5, 6, false)
		if b, err := cursors[i].Next(t.Context()); err != nil || b.Count != 2 {
			t.Fatal(b.Count, err)
		}
	}
	if each := (heap() - before) / followers; each > 3<<10 { // the store in memory grew by two events each, about 1 KiB
		t.Errorf("an idle follower takes %d bytes", each)
	}
	if held := s.hub.Held(); held != 0 {
		t.Errorf("windows hold %d bytes that everybody has had", held)
	}
	runtime.KeepAlive(cursors)
	for _, c := range cursors {
		c.Close()
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// Windows are bounded, however much is written and however few read.
func TestHub_WindowIsBounded(t *testing.T) {
	s := mustStage(t, event.Options{Window: 4096, Memory: 20_000})
	defer s.close()
	var cursors []*event.Cursor
	for i := range 16 {
		runID := fmt.Sprint("run_", i)
		s.must(t, runID, 1, 1, false)
		cursors = append(cursors, s.mustFollow(t, runID, 0), s.mustFollow(t, runID, 0))
		s.must(t, runID, 2, 100, false)
	}
	if held := s.hub.Held(); held > 24_000 {
		t.Errorf("%d bytes held, want at most the 20000 allowed and one event more", held)
	}
	for _, c := range cursors {
		c.Close()
	}
}

// BenchmarkHub_Wake1000 is what one event costs when a thousand readers follow its run.
func BenchmarkHub_Wake1000(b *testing.B) {
	s := mustStage(b, event.Options{})
	s.must(b, "run_1", 1, 1, false)
	const readers = 1000
	var wg sync.WaitGroup
	got := make(chan struct{}, readers)
	for range readers {
		c := s.mustFollow(b, "run_1", 1)
		wg.Go(func() {
			defer c.Close()
			for {
				if _, err := c.Next(context.Background()); err != nil {
					return
				}
				got <- struct{}{}
			}
		})
	}
	n := 1
	b.ReportAllocs()
	for b.Loop() {
		n++
		s.must(b, "run_1", n, n, false)
		for range readers {
			<-got
		}
	}
	b.StopTimer()
	s.close()
	wg.Wait()
}
