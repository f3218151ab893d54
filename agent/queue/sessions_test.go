package queue_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nexixai/agentos/agent/queue"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/storage"
)

// link is a store that can be cut off.
type link struct {
	storage.Store
	cut     atomic.Bool                   // commands find no leader
	late    atomic.Pointer[chan struct{}] // what answers wait for
	deaf    atomic.Bool                   // changes are not told
	watcher storage.Watcher
}

func (l *link) Do(ctx context.Context, cmd storage.Command) (any, uint64, error) {
	if l.cut.Load() {
		<-ctx.Done()
		return nil, 0, fault.New(fault.Unavailable, "cut off").With("service", "quorum")
	}
	result, index, err := l.Store.Do(ctx, cmd)
	if late := l.late.Load(); late != nil {
		<-*late
	}
	return result, index, err
}

func (l *link) Watch(prefix string, w storage.Watcher) func() {
	l.watcher = w
	return l.Store.Watch(prefix, l)
}

func (l *link) Applied(index uint64, changes []storage.Change) {
	if !l.deaf.Load() {
		l.watcher.Applied(index, changes)
	}
}

func (l *link) Jumped(index uint64) { l.watcher.Jumped(index) }

// clock is a boot clock and a wall clock that a test can set.
type clock struct {
	began      time.Time
	boot, wall atomic.Int64 // added to the true time
}

func newClock() *clock                   { return &clock{began: time.Now()} }
func (c *clock) sleep() time.Duration    { return time.Since(c.began) + time.Duration(c.boot.Load()) }
func (c *clock) now() time.Time          { return time.Now().Add(time.Duration(c.wall.Load())) }
func (c *clock) suspend(d time.Duration) { c.boot.Add(int64(d)); c.wall.Add(int64(d)) }

const ttl = 9 * time.Second

func open(d *desk, l *link, c *clock, stack string) *queue.Sessions {
	s := queue.New(queue.Options{
		Store: l, Commands: d.commands, StackID: stack, Region: "usw2", Workers: 4, TTL: ttl, Boot: c.sleep, Now: c.now,
	})
	s.Start()
	synctest.Wait()
	return s
}

// lease gives a run to a session, as the commands of package run do.
func (d *desk) lease(t testing.TB, session, run string, epoch uint64) queue.Lease {
	t.Helper()
	l := queue.Lease{TenantID: "tnt_a", RunID: run, SessionID: session, Epoch: epoch}
	d.must(t, func(tx storage.Tx) error {
		s, err := queue.ReadSession(tx, session)
		if err == nil && s == nil {
			err = fmt.Errorf("no session %s", session)
		}
		if err == nil {
			queue.Assign(tx, s, l)
		}
		return err
	})
	return l
}

func (d *desk) session(t testing.TB, session string) *queue.Session {
	t.Helper()
	var s *queue.Session
	if err := d.View(t.Context(), storage.Read{}, func(r storage.Snapshot) (err error) {
		s, err = queue.ReadSession(r, session)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return s
}

// told collects what Sessions tells workers.
type told struct {
	mu   sync.Mutex
	runs []string
}

func (x *told) signal(_, run string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.runs = append(x.runs, run)
}

func (x *told) take() []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	runs := x.runs
	x.runs = nil
	slices.Sort(runs)
	return runs
}

func receive(s *queue.Sessions) *queue.Lease {
	synctest.Wait()
	select {
	case l, ok := <-s.Leases():
		if ok {
			return &l
		}
	default:
	}
	return nil
}

func TestSessions_Leases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk()
		defer d.Close()
		l := &link{Store: d.Store}
		s := open(d, l, newClock(), "stk_a")
		defer s.Close()
		var heard told
		defer s.Subscribe(heard.signal)()
		if s.Err() != nil || s.ID() == "" || s.Free() != 4 {
			t.Fatalf("session %q, %d free, %v", s.ID(), s.Free(), s.Err())
		}
		lease := d.lease(t, s.ID(), "run_1", 1)
		other := d.lease(t, s.ID(), "run_2", 1)
		if got := receive(s); got == nil || *got != lease {
			t.Fatalf("got %v, want %v", got, lease)
		}
		if err := s.Valid(lease); err != nil {
			t.Error(err)
		}
		older := lease
		older.Epoch = 0
		if err := s.Valid(older); !fault.Is(err, fault.Conflict) {
			t.Errorf("an older epoch is valid: %v", err)
		}
		if s.Free() != 2 || s.Held() != 2 || d.session(t, s.ID()).Leased != 2 {
			t.Errorf("%d free, %d held, %d counted", s.Free(), s.Held(), d.session(t, s.ID()).Leased)
		}
		d.must(t, func(tx storage.Tx) error { queue.Cancel(tx, lease); return nil })
		synctest.Wait()
		if got := heard.take(); !slices.Equal(got, []string{"run_1"}) {
			t.Errorf("a cancel told %v", got)
		}
		release := func(l queue.Lease) {
			d.must(t, func(tx storage.Tx) error { _, err := queue.Release(tx, l); return err })
		}
		release(other) // before a worker had it: it isn't handed out any more
		release(lease)
		synctest.Wait()
		if got := heard.take(); !slices.Equal(got, []string{"run_1", "run_2"}) {
			t.Errorf("a lost lease told %v", got)
		}
		if err := s.Valid(lease); !fault.Is(err, fault.Conflict) {
			t.Errorf("a lost lease is valid: %v", err)
		}
		d.lease(t, s.ID(), "run_1", 2)
		if got := receive(s); got == nil || got.RunID != "run_1" || got.Epoch != 2 {
			t.Errorf("the next epoch was handed out as %v", got)
		}
		if got := receive(s); got != nil {
			t.Errorf("handed out twice, or after it was lost: %v", got)
		}
	})
}

// A session lives as long as its node renews it, and not much longer.
func TestWarden(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk()
		defer d.Close()
		changed := make(chan struct{}, 100)
		w := queue.NewWarden(queue.WardenOptions{Store: d.Store, Commands: d.commands, Changed: func() { changed <- struct{}{} }})
		defer w.Close()
		d.Start()
		l, c := &link{Store: d.Store}, newClock()
		s := open(d, l, c, "stk_a")
		defer s.Close()
		first := s.ID()
		<-changed
		time.Sleep(10 * ttl)
		if s.ID() != first || d.session(t, first).Renewals < 25 {
			t.Fatalf("after ten TTLs the session is %q with %d renewals", s.ID(), d.session(t, first).Renewals)
		}
		lease := d.lease(t, first, "run_1", 1)
		var heard told
		defer s.Subscribe(heard.signal)()
		if got := receive(s); got == nil {
			t.Fatal("no lease")
		}
		l.cut.Store(true)
		cut := time.Now()
		for s.Valid(lease) == nil {
			time.Sleep(10 * time.Millisecond)
		}
		if since := time.Since(cut); since > ttl*2/3+20*time.Millisecond {
			t.Errorf("the owner trusted its lease for %v", since)
		}
		time.Sleep(20 * time.Millisecond)
		if got := heard.take(); !slices.Equal(got, []string{"run_1"}) {
			t.Errorf("workers were told of %v", got)
		}
		if row := d.session(t, first); row.Ended {
			t.Error("ended before the TTL: the owner could not have known")
		}
		for !d.session(t, first).Ended {
			time.Sleep(10 * time.Millisecond)
		}
		if since := time.Since(cut); since < ttl*2/3 || since > ttl+100*time.Millisecond {
			t.Errorf("ended after %v, want within the TTL", since)
		}
		<-changed
		l.cut.Store(false)
		time.Sleep(ttl)
		if s.ID() == "" || s.ID() == first || s.Err() != nil {
			t.Errorf("after the cut the session is %q (%v), want a new one", s.ID(), s.Err())
		}
	})
}

// A new leader gives every session time to be heard, whatever its own clock says.
func TestWarden_NewOffice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk()
		defer d.Close()
		session := id.New(id.Session)
		if err := d.commands.Open(t.Context(), d.Store, queue.Session{ID: session, StackID: "stk_a", Workers: 1, TTL: time.Second}); err != nil {
			t.Fatal(err)
		}
		w := queue.NewWarden(queue.WardenOptions{Store: d.Store, Commands: d.commands})
		defer w.Close()
		time.Sleep(time.Hour) // it leads only now
		began := time.Now()
		d.Start()
		for !d.session(t, session).Ended {
			time.Sleep(10 * time.Millisecond)
		}
		if since := time.Since(began); since < 2*time.Second || since > 2100*time.Millisecond {
			t.Errorf("ended after %v, want 2s", since)
		}
	})
}

// A machine that slept, or whose clock jumped, must not act on what it held before.
//
// Requirements: N6, Q3.
func TestSessions_Valid(t *testing.T) {
	for name, step := range map[string]func(*clock){
		"suspended":        func(c *clock) { c.suspend(ttl) },
		"boot clock alone": func(c *clock) { c.boot.Add(int64(ttl)) },
		"wall clock alone": func(c *clock) { c.wall.Add(int64(365 * 24 * time.Hour)) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDesk()
				defer d.Close()
				c := newClock()
				s := open(d, &link{Store: d.Store}, c, "stk_a")
				defer s.Close()
				lease := d.lease(t, s.ID(), "run_1", 1)
				if receive(s) == nil || s.Valid(lease) != nil {
					t.Fatal("not valid at first")
				}
				step(c)
				if err := s.Valid(lease); !fault.Is(err, fault.Unavailable) {
					t.Errorf("still valid: %v", err)
				}
				time.Sleep(ttl)
				if s.Err() != nil {
					t.Errorf("did not recover: %v", s.Err())
				}
			})
		})
	}
	t.Run("wall clock set back", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			d := newDesk()
			defer d.Close()
			c := newClock()
			s := open(d, &link{Store: d.Store}, c, "stk_a")
			defer s.Close()
			lease := d.lease(t, s.ID(), "run_1", 1)
			receive(s)
			c.wall.Add(-int64(time.Hour))
			time.Sleep(5 * ttl)
			if err := s.Valid(lease); err != nil {
				t.Errorf("a session that was renewed all the time: %v", err)
			}
		})
	})
}

// A worker that was told to stop has stopped: a renewal that comes through after that must not keep its runs here, where
// nobody works on them.
func TestSessions_RenewalAfterTheWorkersStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk()
		defer d.Close()
		l, c := &link{Store: d.Store}, newClock()
		s := open(d, l, c, "stk_a")
		defer s.Close()
		first := s.ID()
		lease := d.lease(t, first, "run_1", 1)
		receive(s)
		answer := make(chan struct{})
		l.late.Store(&answer)
		time.Sleep(ttl/3 + time.Millisecond) // the renewal is under way
		c.suspend(ttl)
		if err := s.Valid(lease); !fault.Is(err, fault.Unavailable) {
			t.Fatalf("valid after a suspension: %v", err)
		}
		l.late.Store(nil)
		close(answer)
		synctest.Wait()
		if !d.session(t, first).Ended || s.ID() == first || s.Err() != nil {
			t.Errorf("the session goes on as %q (%v), ended %v", s.ID(), s.Err(), d.session(t, first).Ended)
		}
	})
}

func TestSessions_Start(t *testing.T) {
	t.Run("a restarted node ends its former session", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			d := newDesk()
			defer d.Close()
			former := id.New(id.Session)
			if err := d.commands.Open(t.Context(), d.Store, queue.Session{ID: former, StackID: "stk_a", Workers: 1, TTL: ttl}); err != nil {
				t.Fatal(err)
			}
			s := open(d, &link{Store: d.Store}, newClock(), "stk_a")
			defer s.Close()
			if !d.session(t, former).Ended || s.ID() == "" {
				t.Error("the former session stands")
			}
		})
	})
	t.Run("a twin makes the older process stop", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			d := newDesk()
			defer d.Close()
			older := open(d, &link{Store: d.Store}, newClock(), "stk_a")
			defer older.Close()
			newer := open(d, &link{Store: d.Store}, newClock(), "stk_a")
			defer newer.Close()
			time.Sleep(10 * ttl)
			if older.ID() != "" || older.Err() == nil {
				t.Errorf("the older one goes on as %q, %v", older.ID(), older.Err())
			}
			if newer.ID() == "" || newer.Err() != nil {
				t.Errorf("the newer one: %v", newer.Err())
			}
		})
	})
	t.Run("without a leader at first", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			d := newDesk()
			defer d.Close()
			l := &link{Store: d.Store}
			l.cut.Store(true)
			s := open(d, l, newClock(), "stk_a")
			defer s.Close()
			time.Sleep(5 * ttl)
			if s.ID() != "" || s.Err() == nil {
				t.Fatal("open without anybody to open it")
			}
			l.cut.Store(false)
			time.Sleep(ttl)
			if s.Err() != nil {
				t.Error(s.Err())
			}
		})
	})
}

func TestSessions_Close(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk()
		defer d.Close()
		s := open(d, &link{Store: d.Store}, newClock(), "stk_a")
		session := s.ID()
		s.Drain()
		synctest.Wait()
		if row := d.session(t, session); row.Workers != 0 || row.Ended {
			t.Errorf("draining: %+v", row)
		}
		if s.ID() != "" {
			t.Error("a draining session offers itself")
		}
		s.Close()
		if !d.session(t, session).Ended {
			t.Error("not ended by Close")
		}
		if _, open := <-s.Leases(); open {
			t.Error("leases after Close")
		}
	})
}

// After the store was replaced, what it holds now counts, and nothing is handed out twice.
func TestSessions_Jumped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk()
		defer d.Close()
		l := &link{Store: d.Store}
		s := open(d, l, newClock(), "stk_a")
		defer s.Close()
		var heard told
		defer s.Subscribe(heard.signal)()
		kept, lost := d.lease(t, s.ID(), "run_kept", 1), d.lease(t, s.ID(), "run_lost", 1)
		receive(s)
		receive(s)
		l.deaf.Store(true) // as when what follows comes within a snapshot
		d.must(t, func(tx storage.Tx) error { _, err := queue.Release(tx, lost); return err })
		d.lease(t, s.ID(), "run_new", 1)
		l.deaf.Store(false)
		l.Jumped(0)
		if got := receive(s); got == nil || got.RunID != "run_new" {
			t.Errorf("handed out %v, want run_new", got)
		}
		if got := receive(s); got != nil {
			t.Errorf("handed out %v again", got)
		}
		if got := heard.take(); !slices.Equal(got, []string{"run_lost"}) {
			t.Errorf("workers were told of %v", got)
		}
		if s.Valid(kept) != nil || s.Valid(lost) == nil {
			t.Error("what is valid isn't what the store holds")
		}
	})
}
