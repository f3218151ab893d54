package replica

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// Followers learn that an entry is committed with the next entry, or after raft's CommitTimeout: heartbeats don't tell.
// So after a group is committed and nothing is queued behind it, the leader sends each follower one empty append with the
// new commit index. It speaks only in the term of its reign, about that reign's own entries: the term it would read at
// the time of sending may be another leader's. A nudge that's
// lost costs a CommitTimeout.

// nudges are the workers of one reign, one for each other member. They end with the reign, but nobody waits for them: one
// may hang in a call to a member that is gone, which then holds nothing of a reign but its term.
type nudges struct {
	mu   sync.Mutex
	all  map[raft.ServerID]*nudger
	ctx  context.Context
	term uint64
}

type nudger struct {
	address atomic.Value  // raft.ServerAddress
	index   atomic.Uint64 // the newest commit to tell
	wake    chan struct{} // capacity 1
}

// A member that took no nudge may only have to receive the entry yet, or lag far behind, or be gone: it's told again after
// nudgeAgain, then after twice that, and so on up to nudgeAtMost.
const nudgeAgain, nudgeAtMost = 2 * time.Millisecond, time.Second

// startNudges begins the workers' reign, which ends with ctx; the workers themselves begin when there's somebody to tell.
func (s *Store) startNudges(ctx context.Context, term uint64) (stop func()) {
	n := &nudges{all: make(map[raft.ServerID]*nudger), ctx: ctx, term: term}
	s.nudges.Store(n)
	return func() { s.nudges.CompareAndSwap(n, nil) }
}

// nudge tells the followers that index is committed in term.
func (s *Store) nudge(term, index uint64) {
	n := s.nudges.Load()
	if n == nil || n.term != term {
		return
	}
	for _, server := range s.raft.GetConfiguration().Configuration().Servers {
		if server.ID == raft.ServerID(s.o.ServerID) {
			continue
		}
		w := n.worker(s, server)
		w.address.Store(server.Address)
		w.index.Store(index)
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

func (n *nudges) worker(s *Store, server raft.Server) *nudger {
	n.mu.Lock()
	defer n.mu.Unlock()
	w := n.all[server.ID]
	if w == nil {
		w = &nudger{wake: make(chan struct{}, 1)}
		n.all[server.ID] = w
		s.background.Go(func() { s.runNudger(n, server.ID, w) })
	}
	return w
}

func (s *Store) runNudger(n *nudges, id raft.ServerID, w *nudger) {
	for {
		select {
		case <-w.wake:
		case <-n.ctx.Done():
			return
		}
		for again := nudgeAgain; ; again = min(2*again, nudgeAtMost) {
			index := w.index.Load()
			to := raft.Server{ID: id, Address: w.address.Load().(raft.ServerAddress)}
			if s.emptyAppend(to, n.term, &raft.AppendEntriesRequest{PrevLogEntry: index, PrevLogTerm: n.term, LeaderCommitIndex: index}) {
				break
			}
			t := time.NewTimer(again)
			select {
			case <-t.C:
			case <-n.ctx.Done():
			}
			t.Stop()
			if n.ctx.Err() != nil {
				return
			}
		}
	}
}

// emptyAppend sends req, which carries no entries, in term, and reports whether the member took it.
func (s *Store) emptyAppend(to raft.Server, term uint64, req *raft.AppendEntriesRequest) bool {
	self := s.trans.EncodePeer(raft.ServerID(s.o.ServerID), s.trans.LocalAddr())
	req.RPCHeader = raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(s.o.ServerID), Addr: self}
	req.Term = term
	var answer raft.AppendEntriesResponse
	err := s.trans.AppendEntries(to.ID, to.Address, req, &answer)
	return err == nil && answer.Success
}

// firstHeard asks servers whether they are there, and returns the first that answers within an election time-out; ok is
// false when none does. What is asked goes through a member's main loop, as a heartbeat would not: one whose disk hangs
// answers heartbeats.
func (s *Store) firstHeard(ctx context.Context, term uint64, servers []raft.Server) (first raft.Server, ok bool) {
	heard := make(chan raft.Server, len(servers))
	for _, server := range servers {
		go func() { // ends with the call, at the latest when the transport is closed
			if s.emptyAppend(server, term, &raft.AppendEntriesRequest{LeaderCommitIndex: 1}) {
				heard <- server
			}
		}()
	}
	t := time.NewTimer(s.o.timeouts().election)
	defer t.Stop()
	select {
	case first = <-heard:
		return first, true
	case <-t.C:
	case <-ctx.Done():
	}
	return first, false
}
