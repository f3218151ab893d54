package replica

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"github.com/nexixai/agentos/storage"
)

// A group closes at groupBytes of changes or groupAsks commands.
const (
	groupBytes = 256 << 10
	groupAsks  = 1024
)

// ask is one command, or a linearizable look, on its way through the writer.
type ask struct {
	ctx  context.Context
	cmd  storage.Command
	look bool // nothing to evaluate: the answer is the index of a group proposed after the ask came

	out  outcome
	done chan struct{} // capacity 1; out may be read after it
}

// outcome is what became of an ask. again means that nothing is known, or known not to have happened: ask once more.
type outcome struct {
	result any
	index  uint64
	err    error
	again  bool
}

var askPool = sync.Pool{New: func() any { return &ask{done: make(chan struct{}, 1)} }}

func newAsk(ctx context.Context, cmd storage.Command, look bool) *ask {
	a := askPool.Get().(*ask)
	a.ctx, a.cmd, a.look = ctx, cmd, look
	return a
}

// recycle takes back an ask that was answered.
func (a *ask) recycle() {
	a.ctx, a.cmd, a.out = nil, storage.Command{}, outcome{}
	askPool.Put(a)
}

func (a *ask) answer(o outcome) {
	a.out = o
	a.done <- struct{}{}
}

// queue holds the asks that wait for the writer. It is open while this node is in office.
type queue struct {
	mu   sync.Mutex
	open bool
	asks []*ask
	wake chan struct{} // capacity 1
}

// submit hands a to the writer, or reports that there is none here.
func (q *queue) submit(a *ask) bool {
	q.mu.Lock()
	if !q.open {
		q.mu.Unlock()
		return false
	}
	q.asks = append(q.asks, a)
	first := len(q.asks) == 1
	q.mu.Unlock()
	if first {
		select {
		case q.wake <- struct{}{}:
		default:
		}
	}
	return true
}

// take moves up to groupAsks waiting asks into into.
func (q *queue) take(into []*ask) []*ask {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := min(len(q.asks), groupAsks)
	into = append(into, q.asks[:n]...)
	rest := copy(q.asks, q.asks[n:])
	clear(q.asks[rest:])
	q.asks = q.asks[:rest]
	return into
}

func (q *queue) isOpen() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.open
}

func (q *queue) empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.asks) == 0
}

func (q *queue) setOpen(open bool) {
	q.mu.Lock()
	q.open = open
	q.mu.Unlock()
}

// group is what was evaluated together. It waits for its entry to be applied here.
type group struct {
	own, base stamp
	asks      []*ask
	settled   atomic.Bool
}

// settle answers every ask of g, once: with its own outcome when the entry was applied, else with "again".
func (g *group) settle(index uint64, ok bool) {
	if g.settled.Swap(true) {
		return
	}
	for _, a := range g.asks {
		if ok {
			o := a.out
			o.index = index
			a.answer(o)
		} else {
			a.answer(outcome{again: true})
		}
	}
}

// errOffice says that a reign has ended or must begin anew.
var errOffice = errors.New("storage: the reign is over")

// reign is one hold on the writer. Only its goroutine evaluates.
type reign struct {
	s    *Store
	term uint64
	last stamp // the stamp that the state stands at
	name uint64
	asks []*ask // taken, not yet evaluated
	room []*ask // what asks lies in
	hot  hot    // what it reads through
}

// run evaluates and proposes until the office is lost, the store stops, or an entry has met anything but success.
func (r *reign) run(office <-chan bool) error {
	for {
		if len(r.asks) == 0 {
			// Those who were just answered are about to ask again. Letting them run first, which costs nothing when nobody
			// is ready, makes one large group out of a small and a large one.
			runtime.Gosched()
			runtime.Gosched()
			r.room = r.s.queue.take(r.room[:0])
			r.asks = r.room
		}
		if len(r.asks) == 0 {
			select {
			case <-r.s.queue.wake:
			case <-office:
				return errOffice
			case <-r.s.stop:
				return storage.ErrClosed
			}
			continue
		}
		select {
		case <-office:
			return errOffice
		case <-r.s.stop:
			return storage.ErrClosed
		default:
		}
		if err := r.group(); err != nil {
			return err
		}
	}
}

// group evaluates one group of what is waiting and sees it through.
func (r *reign) group() error {
	s := r.s
	st := s.acquire()
	if st == nil {
		return storage.ErrClosed
	}
	s.disk.check() // others may fill the disk between two ticks; to look costs nothing beside a sync
	low := s.disk.low.Load()
	now := s.o.Now().UTC()
	r.hot.from(st.db)
	changes := storage.NewGroup(&r.hot, now)
	g := &group{base: r.last, own: stamp{r.name, r.last.n + 1}}
	if r.last.reign != r.name {
		g.own.n = 1
	}
	n := 0
	for n < len(r.asks) && changes.Bytes() < groupBytes {
		a := r.asks[n]
		n++
		if a.ctx.Err() != nil { // the asker is gone, or will be
			a.answer(outcome{again: true})
			continue
		}
		if !a.look && low {
			a.answer(outcome{err: errDisk()})
			continue
		}
		if !a.look {
			a.out.result, a.out.err = s.o.Registry.Evaluate(changes, a.cmd)
		}
		g.asks = append(g.asks, a)
	}
	st.release()
	clear(r.asks[:n])
	r.asks = r.asks[n:]
	if len(g.asks) == 0 {
		return nil
	}
	if changes.Empty() && s.soleVoter() {
		// Nobody else can be in office, so what this state says is what the cluster says: no entry is needed.
		g.settle(s.at.Load().index, !s.dead.Load())
		return nil
	}
	data, err := encodeEntry(g.base, g.own, now, changes)
	if err == nil {
		err = r.propose(g, data)
	}
	if err == nil {
		r.hot.wrote(changes)
	}
	if err != nil {
		g.settle(0, false)
	}
	return err
}

// propose sees one entry through the log. The asks are answered by the applier, as soon as their entry is applied here.
func (r *reign) propose(g *group, data []byte) error {
	s := r.s
	if s.beforePropose != nil {
		s.beforePropose()
	}
	s.flight.Store(g)
	future := s.raft.ApplyLog(raft.Log{Data: data}, 0)
	err := future.Error()
	s.flight.CompareAndSwap(g, nil)
	if err != nil {
		return err
	}
	if !g.settled.Load() {
		return errSkipped
	}
	r.last = g.own
	if s.queue.empty() {
		s.nudge(r.term, future.Index())
	}
	return nil
}

// errSkipped says that every replica passed the entry over: it had been evaluated on a state that was no longer the last.
var errSkipped = errors.New("storage: the entry was skipped")

// office watches for this node's office, and reigns while it lasts.
func (s *Store) office() {
	defer close(s.vacant)
	duties := newDuties(s.duties)
	defer duties.wait()
	leads := s.raft.LeaderCh()
	for {
		select {
		case lead := <-leads:
			if !lead {
				continue
			}
		case <-s.stop:
			return
		}
		for s.raft.State() == raft.Leader && !s.stopped() {
			s.reign(leads, duties)
		}
	}
}

// reign holds the writer once: after a barrier that finds the term unchanged, everything that any earlier leader or reign
// proposed is either applied here or will never be.
func (s *Store) reign(leads <-chan bool, duties *duties) {
	term := s.raft.CurrentTerm()
	if err := s.raft.Barrier(0).Error(); err != nil {
		s.watchTransfer(err)
		s.pause(leads)
		return
	}
	s.transferring = time.Time{}
	if s.raft.State() != raft.Leader || s.raft.CurrentTerm() != term {
		return
	}
	if err := s.mayLead(); err != nil {
		s.log.Debug("this member must not evaluate commands", zap.Error(err))
		s.pause(leads)
		return
	}
	r := &reign{s: s, term: term, last: s.at.Load().stamp, name: randomWord()}
	ctx, cancel := context.WithCancel(context.Background())
	s.readdress()
	stopNudges := s.startNudges(ctx, term)
	s.queue.setOpen(true)
	s.changed.broadcast()
	s.log.Info("reign begins", zap.Uint64("term", term))
	duties.begin(ctx)
	err := r.run(leads)
	s.queue.setOpen(false)
	cancel()
	stopNudges()
	for asks := append(r.asks, s.queue.take(nil)...); len(asks) > 0; asks = s.queue.take(nil) {
		for _, a := range asks {
			a.answer(outcome{again: true})
		}
	}
	s.changed.broadcast()
	s.log.Info("reign ends", zap.Uint64("term", term), zap.Error(err))
	s.watchTransfer(err)
	if err != errOffice && err != errSkipped && err != storage.ErrClosed {
		s.pause(leads)
	}
}

func (s *Store) mayLead() error {
	if s.o.MayLead == nil {
		return nil
	}
	return s.View(context.Background(), storage.Read{Consistency: storage.Stale}, func(snap storage.Snapshot) error { return s.o.MayLead(snap) })
}

// pause waits a moment before the office is looked at again, so that a leader that can't write doesn't spin.
func (s *Store) pause(leads <-chan bool) {
	t := time.NewTimer(20 * time.Millisecond)
	defer t.Stop()
	select {
	case <-t.C:
	case <-leads:
	case <-s.stop:
	}
}

// watchTransfer ends the process of a leader whose transfer of the office hangs: it refuses all work, and stays leader
// (hashicorp/raft issue 696).
func (s *Store) watchTransfer(err error) {
	if !errors.Is(err, raft.ErrLeadershipTransferInProgress) {
		s.transferring = time.Time{}
		return
	}
	if s.transferring.IsZero() {
		s.transferring = time.Now()
	}
	if hung := time.Since(s.transferring); hung > 5*s.o.timeouts().election {
		s.die(errors.New("storage: handing the office on has hung; the process must start again"))
	}
}

// duties runs what the leader has to do besides writing. A duty never runs twice at once.
type duties struct {
	all  []func(context.Context)
	last []chan struct{} // closed when the duty's latest run has returned
	wg   sync.WaitGroup
}

func newDuties(all []func(context.Context)) *duties {
	d := &duties{all: all, last: make([]chan struct{}, len(all))}
	for i := range d.last {
		d.last[i] = make(chan struct{})
		close(d.last[i])
	}
	return d
}

func (d *duties) begin(ctx context.Context) {
	for i, duty := range d.all {
		before, done := d.last[i], make(chan struct{})
		d.last[i] = done
		d.wg.Go(func() {
			defer close(done)
			<-before
			if ctx.Err() == nil {
				duty(ctx)
			}
		})
	}
}

func (d *duties) wait() { d.wg.Wait() }
