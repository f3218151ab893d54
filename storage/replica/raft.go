package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"go.uber.org/zap"
)

const (
	// never is an interval for what this package does by itself and raft need not.
	never = 1000 * time.Hour
	// cacheBytes bounds the entries held in memory when there are other members to send them to.
	cacheBytes = 16 << 20
	// noPipeline has raft await each answer of a follower. Its pipeline can lock itself up for ever when a follower refuses
	// entries, or knows a newer term: nothing is sent to that follower any more, while heartbeats go on, and raft can't be
	// shut down (hashicorp/raft issue 612). With one group under way at a time there's nothing to gain by it either.
	noPipeline = 1
	// aloneTrailing is how many entries a cut leaves at least. It is never zero: raft asks for everything to be deleted
	// only after an install, and the log relies on it.
	aloneTrailing = 2
	// stallAlone and stall are how many seconds one write may hang before the process ends: a leader with a hung disk goes
	// on sending heartbeats, and stays leader.
	stallAlone, stall = 60, 10
	// handAgain is how long a leader on a full disk waits before it tries once more to hand the office on: the others may be
	// as full.
	handAgain = 10 * time.Second
)

// raftConfig is how raft works here.
func (s *Store) raftConfig(hc hclog.Logger) *raft.Config {
	t := s.o.timeouts()
	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(s.o.ServerID)
	c.Logger = hc
	// One more than it should be: shortening it is what makes a lone voter stand for election at once.
	c.HeartbeatTimeout = t.heartbeat + time.Millisecond
	c.ElectionTimeout = t.election + time.Millisecond
	c.LeaderLeaseTimeout, c.CommitTimeout = t.lease, t.commit
	c.MaxAppendEntries = 32
	c.TrailingLogs = aloneTrailing
	c.SnapshotInterval, c.SnapshotThreshold = never, 1<<62
	c.NoSnapshotRestoreOnStart = true
	c.NoLegacyTelemetry = true
	c.ShutdownOnRemove = false
	return c
}

// transport carries raft's messages.
func (s *Store) transport(hc hclog.Logger) raft.Transport {
	if s.o.Stream == nil {
		_, t := raft.NewInmemTransport(raft.ServerAddress(s.address()))
		return t
	}
	return raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: newStream(s.o.Stream), MaxPool: 4, MaxRPCsInFlight: noPipeline, Timeout: 10 * time.Second, Logger: hc, MsgpackUseNewTimeFormat: true,
	})
}

func (s *Store) startRaft() error {
	s.lines = newRaftLines(s.log)
	hc := s.lines.logger()
	s.trans = s.transport(hc)
	r, err := raft.NewRaft(s.raftConfig(hc), s.fsm, s.logs, s.logs, snapshots{s}, s.trans)
	if err != nil {
		if closer, ok := s.trans.(io.Closer); ok {
			err = errors.Join(err, closer.Close())
		}
		return err
	}
	s.raft = r
	s.members()
	if s.alone() {
		t := s.o.timeouts()
		rc := r.ReloadableConfig()
		rc.HeartbeatTimeout, rc.ElectionTimeout = t.heartbeat, t.election
		return r.ReloadConfig(rc)
	}
	return nil
}

// alone reports whether this server is the only one in the configuration, and a voter.
func (s *Store) alone() bool {
	servers := s.raft.GetConfiguration().Configuration().Servers
	return len(servers) == 1 && servers[0].ID == raft.ServerID(s.o.ServerID) && servers[0].Suffrage == raft.Voter
}

// members adapts to who is in the configuration.
func (s *Store) members() {
	limit := cacheBytes
	if s.alone() {
		limit = 0
	}
	s.logs.mu.Lock()
	s.logs.cache.setLimit(limit)
	s.logs.mu.Unlock()
}

// observe rings the bell when another leader is known, and tells of members that are back.
func (s *Store) observe() {
	ch := make(chan raft.Observation, 16)
	o := raft.NewObserver(ch, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.LeaderObservation, raft.PeerObservation, raft.ResumedHeartbeatObservation:
			return true
		}
		return false
	})
	s.raft.RegisterObserver(o)
	defer s.raft.DeregisterObserver(o)
	s.changed.broadcast()
	for {
		select {
		case o := <-ch:
			switch data := o.Data.(type) {
			case raft.ResumedHeartbeatObservation:
				s.lines.answers(string(data.PeerID), s.addressOf(data.PeerID))
				continue
			case raft.LeaderObservation:
				if data.LeaderID != "" {
					s.lines.led(string(data.LeaderID))
				}
			}
			s.members()
			s.changed.broadcast()
		case <-s.stop:
			return
		}
	}
}

// addressOf is where raft dials a server, "" for one that it doesn't know.
func (s *Store) addressOf(id raft.ServerID) string {
	for _, server := range s.raft.GetConfiguration().Configuration().Servers {
		if server.ID == id {
			return string(server.Address)
		}
	}
	return ""
}

// snapshotLoop flushes the state and cuts the log, when enough log has come or enough time has passed.
func (s *Store) snapshotLoop() {
	look := min(time.Second, max(s.o.SnapshotInterval/4, time.Millisecond))
	tick := time.NewTicker(look)
	defer tick.Stop()
	last, bytes := time.Now(), s.logs.bytes()
	for {
		select {
		case <-tick.C:
		case <-s.logs.grown:
		case <-s.stop:
			return
		}
		s.members()
		f := s.flushed.Load()
		if f != nil && f.meta.index >= s.at.Load().index {
			continue
		}
		now := s.logs.bytes()
		if time.Since(last) < s.o.SnapshotInterval && now-bytes < s.o.SnapshotBytes {
			continue
		}
		last, bytes = time.Now(), now
		if err := s.snapshot(); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) && !s.stopped() {
			s.log.Debug("no snapshot now", zap.Error(err))
		}
	}
}

// snapshot flushes the state and has raft cut the log behind it, except for what members that lag may still need.
func (s *Store) snapshot() error {
	rc := s.raft.ReloadableConfig()
	rc.TrailingLogs = aloneTrailing
	if !s.alone() {
		rc.TrailingLogs = max(aloneTrailing, s.logs.trailing(s.o.TrailingBytes))
	}
	if err := s.raft.ReloadConfig(rc); err != nil {
		return err
	}
	return s.raft.Snapshot().Error()
}

// watchDisk ends the process when a write hangs: the office can't be handed on then, because raft itself hangs in the write.
// A leader whose disk is full to the floor, which refuses all commands, hands it on.
func (s *Store) watchDisk() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var handed time.Time
	writes := map[string]*stalls{"log": {op: &s.logs.busy}, "state": {op: &s.applying}}
	for {
		select {
		case <-tick.C:
		case <-s.stop:
			return
		}
		for what, w := range writes {
			if hung := w.look(); hung > pick(s.alone(), stallAlone, stall) {
				s.die(fmt.Errorf("storage: a write to the %s hangs since %d s", what, hung))
			}
		}
		if !s.disk.low.Load() || !s.queue.isOpen() || s.soleVoter() || time.Since(handed) < handAgain {
			continue
		}
		handed = time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), 2*s.o.timeouts().election)
		if err := s.Transfer(ctx, ""); err != nil {
			s.log.Warn("the disk is nearly full, and the office could not be handed on", zap.Error(err))
		}
		cancel()
	}
}

// stalls counts for how many looks, a second apart, one write has been under way. It reads no clock: a process that was
// stopped for a while, or whose clock was set, has no hung disk.
type stalls struct {
	op   *atomic.Int64 // differs from write to write; 0 when there is none
	last int64
	seen int
}

func (w *stalls) look() int {
	op := w.op.Load()
	if op == 0 || op != w.last {
		w.last, w.seen = op, 0
		return 0
	}
	w.seen++
	return w.seen
}
