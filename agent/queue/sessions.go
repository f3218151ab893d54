package queue

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/storage"
)

// Defaults of Options.
const (
	DefaultTTL     = 10 * time.Second
	DefaultWorkers = 256
)

// Options says how to make Sessions. Zero fields have their defaults.
type Options struct {
	Store    storage.Store
	Commands *Commands
	// StackID names the node, Region where it stands.
	StackID, Region string
	// Workers is how many runs this node works on at once.
	Workers int
	// TTL is how long the cluster waits for a silent node before others take its runs.
	TTL    time.Duration
	Logger *zap.Logger
	// Boot reads a clock that counts suspended time; nil means the machine's. Now is the wall clock; nil means time.Now.
	Boot func() time.Duration
	Now  func() time.Time
}

// Sessions is this node's side of the leases: it keeps one session open and hands out the leases that the store shows for
// it. It's safe for concurrent use.
type Sessions struct {
	store    storage.Store
	commands *Commands
	stackID  string
	region   string
	ttl      time.Duration
	log      *zap.Logger
	boot     func() time.Duration
	now      func() time.Time

	out     line          // leases that take a worker
	relays  line          // leases of runs that others work on
	resync  chan struct{} // the store was replaced
	change  chan struct{} // workers was changed
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	unwatch func() // of keep alone

	mu      sync.Mutex
	id      string
	open    bool // the store has acknowledged id
	lapsed  bool // a worker was told to stop: the session is given up, whatever becomes of its renewal
	full    int  // workers when not draining
	workers int
	renewed moment // read before the last acknowledged renewal was sent
	twin    bool   // superseded by another process
	working int    // workers that the held leases take
	held    map[string]*holding
	gone    map[string]uint64 // leases that ended while the store is read anew, by store index; nil otherwise
	ears    []*ear
}

type ear struct{ signal func(tenantID, runID string) }

// New returns Sessions that does nothing until Start.
func New(o Options) *Sessions {
	if o.Workers <= 0 {
		o.Workers = DefaultWorkers
	}
	if o.TTL <= 0 {
		o.TTL = DefaultTTL
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.Boot == nil {
		o.Boot = sinceBoot
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Sessions{
		store: o.Store, commands: o.Commands, stackID: o.StackID, region: o.Region, ttl: max(o.TTL, minTTL),
		log: o.Logger, boot: o.Boot, now: o.Now, workers: o.Workers, full: o.Workers,
		out: newLine(), relays: newLine(), resync: make(chan struct{}, 1), change: make(chan struct{}, 1),
		held: make(map[string]*holding),
	}
}

// Start opens the session, in the background, and keeps one open until Close.
func (s *Sessions) Start() {
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.wg.Go(func() { s.keep(ctx) })
	s.wg.Go(func() { s.deliver(ctx, &s.out) })
	s.wg.Go(func() { s.deliver(ctx, &s.relays) })
}

// Close closes Leases, tells every worker to stop, and ends the session, so that others take its runs at once; it gives
// that up after a third of the TTL. Workers should have stopped before.
func (s *Sessions) Close() {
	if s.cancel == nil {
		return
	}
	s.cancel()
	s.wg.Wait()
	s.mu.Lock()
	session, open := s.id, s.open
	s.mu.Unlock()
	s.lose()
	if !open {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.ttl/3)
	defer cancel()
	if err := s.commands.End(ctx, s.store, session); err != nil {
		s.log.Warn("session not ended; its runs go on elsewhere once it has expired", zap.String("session_id", session), zap.Error(err))
	}
}

// Leases hands out once each lease of this node that takes a worker. It's closed by Close.
func (s *Sessions) Leases() <-chan Lease { return s.out.ch }

// Relays hands out once each lease of this node whose run others work on. It's closed by Close.
func (s *Sessions) Relays() <-chan Lease { return s.relays.ch }

// Subscribe calls signal when a cancel of a run that's leased to this node was requested and is in the local copy, and when
// such a lease was lost, until stop is called. signal must return at once.
func (s *Sessions) Subscribe(signal func(tenantID, runID string)) (stop func()) {
	e := &ear{signal: signal}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ears = append(s.ears, e)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.ears = slices.DeleteFunc(slices.Clone(s.ears), func(x *ear) bool { return x == e })
	}
}

// ID is the session's id, or "" while there is none that could take a run.
func (s *Sessions) ID() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.open || s.lapsed || s.workers == 0 {
		return ""
	}
	return s.id
}

// Free is how many more runs this node could begin now. It's a hint: the store counts for itself.
func (s *Sessions) Free() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.open || s.lapsed {
		return 0
	}
	return max(s.workers-s.working, 0)
}

// Held is how many leases this node holds.
func (s *Sessions) Held() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.held)
}

// Err says why this node can't work on runs, or nil.
func (s *Sessions) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.twin:
		return fault.New(fault.Unavailable, "Another process runs under the stack id %s; give each node its own.", s.stackID).With("service", "session")
	case !s.open, s.lapsed:
		return fault.New(fault.Unavailable, "This node has no session with its cluster at the moment.").With("service", "session")
	}
	return nil
}

// Drain takes no more runs; those that are held go on. The store is told at once.
func (s *Sessions) Drain() {
	s.mu.Lock()
	s.workers = 0
	s.mu.Unlock()
	signal(s.change)
}

// Resume takes runs again after Drain.
func (s *Sessions) Resume() {
	s.mu.Lock()
	s.workers = s.full
	s.mu.Unlock()
	signal(s.change)
}

// Valid returns nil when l may be acted on at this moment: this node holds it at this epoch, and has renewed its session
// within two thirds of the TTL, by the larger of boot time and wall clock. A worker asks right before each effect.
func (s *Sessions) Valid(l Lease) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.held[l.run()]
	if h == nil || h.Lease != l {
		return fault.New(fault.Conflict, "The run has gone to another worker.").With("reason", "fenced")
	}
	if !s.lapsed && s.moment().since(s.renewed) >= s.trust() {
		// A renewal may still be under way, and come through. But the worker stops now, and nobody would go on with its
		// run while this session lives: so it must not.
		s.lapsed = true
		signal(s.change)
	}
	if !s.open || s.lapsed {
		return fault.New(fault.Unavailable, "This node has lost touch with its cluster and stops its work.").With("service", "session")
	}
	return nil
}

// trust is how long after a renewal the node may act on its leases: the rest of the TTL is the margin between clocks.
func (s *Sessions) trust() time.Duration { return s.ttl * 2 / 3 }

// keep opens sessions, one after another, and renews them.
func (s *Sessions) keep(ctx context.Context) {
	defer s.deaf()
	for s.begin(ctx) {
		err := s.renewing(ctx)
		if ctx.Err() != nil {
			return // Close ends the session that still stands
		}
		s.lose()
		var f *fault.Error
		if errors.As(err, &f) && f.Details["reason"] == "superseded" {
			s.mu.Lock()
			s.twin = true
			s.mu.Unlock()
			s.log.Error("another process runs under this stack id; this one works on no more runs", zap.String("stack_id", s.stackID))
			return
		}
		s.log.Warn("session lost; opening a new one", zap.Error(err))
	}
}

// begin opens a new session; it returns false when ctx has ended.
func (s *Sessions) begin(ctx context.Context) bool {
	session := s.mint()
	for ctx.Err() == nil {
		sent := s.moment()
		ask, cancel := context.WithTimeout(ctx, s.trust())
		err := s.commands.Open(ask, s.store, Session{ID: session, StackID: s.stackID, Region: s.region, Workers: s.capacity(), TTL: s.ttl})
		cancel()
		switch {
		case err == nil && s.moment().since(sent) < s.trust():
			s.mu.Lock()
			s.open, s.lapsed, s.renewed = true, false, sent
			s.mu.Unlock()
			signal(s.out.wake)
			signal(s.relays.wake)
			s.log.Info("session opened", zap.String("session_id", session), zap.Duration("ttl", s.ttl))
			return true
		case err == nil, fault.Is(err, fault.Conflict): // it may have ended before we heard of it
			session = s.mint()
			continue
		}
		if ctx.Err() == nil {
			s.log.Warn("session not opened yet", zap.Error(err))
		}
		if !pause(ctx, s.ttl/10) {
			break
		}
	}
	return false
}

// mint makes the id of a new session and begins to listen for its leases.
func (s *Sessions) mint() string {
	session := id.New(id.Session)
	s.deaf()
	s.mu.Lock()
	s.id, s.gone = session, nil
	s.mu.Unlock()
	s.unwatch = s.store.Watch(leaseKeys+session+"/", &leaseWatch{s: s, session: session})
	return session
}

// deaf stops listening to the leases of the last session.
func (s *Sessions) deaf() {
	if s.unwatch != nil {
		s.unwatch()
		s.unwatch = nil
	}
}

func (s *Sessions) capacity() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.workers
}

// errLapsed ends a session that this node could not renew in time. It's given up even if the store would still have it:
// workers have to stop, and they begin again under a new epoch.
var errLapsed = errors.New("queue: the session was not renewed within two thirds of its TTL")

// renewing renews the session at a third of its TTL until it's lost, or ctx ends, and returns why.
func (s *Sessions) renewing(ctx context.Context) error {
	next := time.NewTimer(s.ttl / 3)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.resync:
			s.reread(ctx)
			continue
		case <-s.change:
		case <-next.C:
		}
		switch err := s.renew(ctx); {
		case err == nil:
			next.Reset(s.ttl / 3)
		case ctx.Err() != nil, errors.Is(err, errLapsed), fault.Is(err, fault.Conflict):
			return err
		default:
			s.log.Warn("session not renewed yet", zap.Error(err))
			next.Reset(s.ttl / 20)
		}
	}
}

// renew asks for one renewal, for as long as the last one may be trusted.
func (s *Sessions) renew(ctx context.Context) error {
	sent := s.moment()
	s.mu.Lock()
	args := renewArgs{ID: s.id, StackID: s.stackID, Workers: s.workers}
	last, lapsed := s.renewed, s.lapsed
	s.mu.Unlock()
	left := s.trust() - sent.since(last)
	if left <= 0 || lapsed {
		return errLapsed
	}
	ask, cancel := context.WithTimeout(ctx, left)
	defer cancel()
	_, _, err := s.commands.renew.Do(ask, s.store, "", args)
	switch {
	case err == nil:
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.lapsed {
			return errLapsed
		}
		s.renewed = sent
		return nil
	case fault.Is(err, fault.Conflict):
		return err
	case s.moment().since(last) >= s.trust():
		return errLapsed
	}
	return err
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
