package replica

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"github.com/nexixai/agentos/storage"
)

// Store is one replica. Safe for concurrent use after Start.
//
// Lock order: cutting before all others, watches.mu before queue.mu, waiters.mu and bell.mu; swap, installMu and the log's mu
// are taken alone.
type Store struct {
	o     Options
	log   *zap.Logger
	disk  *disk
	dir   directory
	cache *pebble.Cache

	logDB *pebble.DB
	tail  *tail
	logs  *logStore
	raft  *raft.Raft
	lines *raftLines // what raft has to say
	trans raft.Transport
	fsm   *machine

	swap sync.RWMutex
	cur  *state // nil once closed
	at   atomic.Pointer[meta]

	flushed   atomic.Pointer[flushed]
	installMu sync.Mutex
	arrived   *installed
	sending   sync.Mutex   // held while a checkpoint is streamed
	cutting   sync.Mutex   // held while the state is replaced, and while raft notes a local snapshot; see flushing.Persist
	applying  atomic.Int64 // when the commit to the state under way began, Unix nanoseconds; 0 when there is none
	serial    atomic.Uint64

	queue    queue
	flight   atomic.Pointer[group]
	answered atomic.Uint64 // the highest index that a caller here has been given
	forward  courier
	waiters  waiters
	watches  watches
	changed  bell // rings when the office or the leader changes
	nudges   atomic.Pointer[nudges]

	duties       []func(context.Context)
	transferring time.Time // since when the office is being handed on; the office's goroutine owns it

	beforePropose func() // for tests: between evaluating and proposing

	started    atomic.Bool
	armed      atomic.Bool // failures end the process
	dead       atomic.Bool // nothing is acknowledged any more
	sick       atomic.Pointer[error]
	stop       chan struct{}
	stopOnce   sync.Once
	closed     chan struct{}
	vacant     chan struct{} // closed when the office and its duties have ended
	background sync.WaitGroup
}

var _ storage.Store = (*Store)(nil)

// Open opens the replica in o.Dir, or makes it. It takes part in nothing before Start.
func Open(o Options) (*Store, error) {
	s, err := prepare(o)
	if err != nil {
		return nil, err
	}
	err = s.open()
	if sick := s.sick.Load(); sick != nil { // it names the place, where err may only tell what came of it
		err = errors.Join(*sick, err)
	}
	if err != nil {
		s.discard()
		return nil, fmt.Errorf("storage: opening %s: %w", s.o.Dir, err)
	}
	s.disk.check()
	return s, nil
}

// prepare returns a Store that has opened nothing yet.
func prepare(o Options) (*Store, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Store{
		o: o, log: o.Logger.Named("storage"), stop: make(chan struct{}), closed: make(chan struct{}),
		vacant: make(chan struct{}),
		cache:  newCache(&o),
	}
	s.queue.wake = make(chan struct{}, 1)
	s.disk = newDisk(o, s.die)
	s.dir = directory{fs: s.disk, root: o.Dir}
	s.fsm = &machine{s: s}
	return s, nil
}

// note publishes where the state stands.
func (s *Store) note(m meta) { s.at.Store(&m) }

// publish tells everybody about entries that were just committed: reads see them already. Watchers come first, so that who
// waits for an index finds what is kept by watching as new as the state.
func (s *Store) publish(m meta, fates []applied) {
	s.tell(fates)
	s.note(m)
	s.waiters.reached(m.index)
	g := s.flight.Load()
	if g == nil || s.dead.Load() {
		return
	}
	for _, f := range fates {
		if f.entry.own == g.own && !f.skip {
			g.settle(f.index, true)
			// Those who wait for the answers go on at once; else they'd wait for another processor to wake, or until this
			// goroutine and all that it wakes have nothing more to do.
			runtime.Gosched()
		}
	}
}

// Start takes part in the cluster: alone, this replica leads within milliseconds.
func (s *Store) Start(ctx context.Context) error {
	if sick := s.sick.Load(); sick != nil {
		return *sick
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	s.armed.Store(true)
	if err := s.startRaft(); err != nil {
		return fmt.Errorf("storage: starting raft: %w", err)
	}
	s.started.Store(true)
	s.background.Go(s.office)
	s.background.Go(s.observe)
	s.background.Go(s.snapshotLoop)
	s.background.Go(func() { s.disk.watch(s.stop) })
	s.background.Go(s.watchDisk)
	return nil
}

// Ready waits until this replica can serve: a leader is known, and this copy holds all that was acknowledged before.
func (s *Store) Ready(ctx context.Context) error {
	return s.View(ctx, storage.Read{Consistency: storage.Linearizable}, func(storage.Snapshot) error { return nil })
}

// Close ends the duties, answers what waits, and closes the files. Readers are waited for.
func (s *Store) Close() error {
	first := false
	s.stopOnce.Do(func() { first = true; close(s.stop) })
	if !first {
		<-s.closed
		return nil
	}
	defer close(s.closed)
	if s.dead.Load() {
		return storage.ErrClosed // the engines are in an unknown state; the process is about to end
	}
	s.changed.broadcast()
	var err error
	if s.started.Load() {
		s.forward.close()
		select { // what is under way may still be answered, if its quorum answers
		case <-s.vacant:
		case <-time.After(s.o.timeouts().election):
		}
		down := s.raft.Shutdown()
		if t, ok := s.trans.(raft.WithClose); ok {
			_ = t.Close() // raft would wait for its calls first, and one to a member that hangs may last
		}
		err = down.Error()
		s.background.Wait()
	}
	return errors.Join(err, s.closeFiles())
}

// closeFiles flushes the state, so that the next start has nothing to do again, and closes both engines.
func (s *Store) closeFiles() error {
	s.swap.Lock()
	st := s.cur
	s.cur = nil
	s.swap.Unlock()
	err := st.db.Flush()
	st.release()
	<-st.done
	err = errors.Join(err, st.err, s.logDB.Close(), s.tail.close())
	s.cache.Unref()
	return err
}

// discard closes what a failed Open had opened.
func (s *Store) discard() {
	if s.cur != nil {
		s.cur.release()
		<-s.cur.done
	}
	if s.logDB != nil {
		_ = s.logDB.Close()
	}
	if s.tail != nil {
		_ = s.tail.close()
	}
	s.cache.Unref()
}

func (s *Store) stopped() bool {
	select {
	case <-s.stop:
		return true
	default:
		return false
	}
}

// die ends the process from within: what failed may already be half done, and asking the disk a second time could get a
// better answer than the truth. Before Start it only keeps Start from happening.
func (s *Store) die(err error) {
	if s.armed.Load() {
		s.perish(err)
		return
	}
	s.sick.CompareAndSwap(nil, &err)
}

func (s *Store) perish(err error) {
	if s.dead.Swap(true) {
		return
	}
	s.log.Error("the store has failed, the process ends", zap.Error(err))
	s.o.Fatal(err)
}

// Lead implements storage.Store.
func (s *Store) Lead(duty func(context.Context)) { s.duties = append(s.duties, duty) }

// Room returns nil while there is disk space for new work, else the error that new work is refused with.
func (s *Store) Room() error {
	if s.disk.low.Load() {
		return errDisk()
	}
	return nil
}

// Status implements storage.Store.
func (s *Store) Status() storage.Status {
	m := s.at.Load()
	out := storage.Status{Role: storage.Follower, Applied: m.index, Hash: m.hash}
	if !s.started.Load() {
		return out
	}
	_, leader := s.raft.LeaderWithID()
	out.Leader, out.Term = string(leader), s.raft.CurrentTerm()
	if s.raft.State() == raft.Leader {
		out.Role = storage.Leader
	}
	return out
}

func randomWord() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return binary.BigEndian.Uint64(b[:])
}
