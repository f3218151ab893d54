package replica

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// Bare is a yardstick: raft on this package's log store, with its settings and its transport, and a state that only counts.
// It's what the same log can do for commands that nobody evaluates, groups, or keeps.
type Bare struct {
	s    *Store
	fsm  *counting
	stop chan struct{}
	wg   sync.WaitGroup
}

// counting is a state that keeps nothing but where it stands.
type counting struct{ at atomic.Uint64 }

var _ raft.BatchingFSM = (*counting)(nil)

// Apply implements raft.FSM.
func (c *counting) Apply(l *raft.Log) any { c.at.Store(l.Index); return nil }

// ApplyBatch implements raft.BatchingFSM.
func (c *counting) ApplyBatch(logs []*raft.Log) []any {
	c.at.Store(logs[len(logs)-1].Index)
	return make([]any, len(logs))
}

// Snapshot implements raft.FSM.
func (c *counting) Snapshot() (raft.FSMSnapshot, error) { return c, nil }

// Restore implements raft.FSM.
func (c *counting) Restore(rc io.ReadCloser) error { return rc.Close() }

// Persist implements raft.FSMSnapshot.
func (c *counting) Persist(sink raft.SnapshotSink) error { return sink.Close() }

// Release implements raft.FSMSnapshot.
func (c *counting) Release() {}

// OpenBare makes a new directory and takes part with it.
func OpenBare(o Options) (*Bare, error) {
	s, err := Open(o)
	if err != nil {
		return nil, err
	}
	b := &Bare{s: s, fsm: &counting{}, stop: make(chan struct{})}
	s.logs.applied, s.logs.flushed = b.fsm.at.Load, b.fsm.at.Load
	s.lines = newRaftLines(s.log)
	hc := s.lines.logger()
	s.trans = s.transport(hc)
	if s.raft, err = raft.NewRaft(s.raftConfig(hc), b.fsm, s.logs, s.logs, raft.NewInmemSnapshotStore(), s.trans); err != nil {
		s.discard()
		return nil, err
	}
	s.members()
	b.wg.Go(b.cut)
	return b, nil
}

// cut shortens the log as often as the replica's own loop does.
func (b *Bare) cut() {
	for {
		select {
		case <-b.s.logs.grown:
			b.s.members()
			_ = b.s.snapshot()
		case <-b.stop:
			return
		}
	}
}

// Lead waits until this node leads.
func (b *Bare) Lead() error {
	for until := time.Now().Add(time.Minute); time.Now().Before(until); {
		if b.s.raft.VerifyLeader().Error() == nil {
			return b.s.raft.Barrier(time.Minute).Error()
		}
		select {
		case <-b.s.raft.LeaderCh():
		case <-time.After(10 * time.Millisecond):
		}
	}
	return errors.New("no leader")
}

// AddVoter adds a member.
func (b *Bare) AddVoter(id, address string) error {
	err := b.s.raft.AddVoter(raft.ServerID(id), raft.ServerAddress(address), 0, time.Minute).Error()
	b.s.members()
	return err
}

// Do puts one command into the log and waits until it's applied here.
func (b *Bare) Do(command []byte) error { return b.s.raft.Apply(command, 0).Error() }

// Close ends it.
func (b *Bare) Close() error {
	close(b.stop)
	b.wg.Wait()
	down := b.s.raft.Shutdown()
	if t, ok := b.s.trans.(raft.WithClose); ok {
		_ = t.Close()
	}
	return errors.Join(down.Error(), b.s.closeFiles())
}
