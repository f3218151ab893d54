package replica

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// Followers learn that an entry is committed with the next entry, or after raft's CommitTimeout: heartbeats don't tell.
// So after a group is committed and nothing is queued behind it, the leader sends each follower one empty append with the
// new commit index. It speaks only in the term of its reign, about that reign's own entries: the term it would read at
// the time of sending may be another leader's. Answers are ignored; a lost nudge costs a CommitTimeout.

// nudges are the workers of one reign, one for each other member.
type nudges struct {
	mu   sync.Mutex
	all  map[raft.ServerID]*nudger
	ctx  context.Context
	term uint64
	wg   sync.WaitGroup
}

type nudger struct {
	address atomic.Value  // raft.ServerAddress
	index   atomic.Uint64 // the newest commit to tell
	wake    chan struct{} // capacity 1
}

// startNudges begins the workers' reign; the workers themselves begin when there's somebody to tell.
func (s *Store) startNudges(ctx context.Context, term uint64) (stop func()) {
	n := &nudges{all: make(map[raft.ServerID]*nudger), ctx: ctx, term: term}
	s.nudges.Store(n)
	return func() {
		s.nudges.CompareAndSwap(n, nil)
		n.wg.Wait()
	}
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
		n.wg.Go(func() { s.runNudger(n, server.ID, w) })
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
		index := w.index.Load()
		self := s.trans.EncodePeer(raft.ServerID(s.o.ServerID), s.trans.LocalAddr())
		req := &raft.AppendEntriesRequest{
			RPCHeader:    raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(s.o.ServerID), Addr: self},
			Term:         n.term,
			PrevLogEntry: index, PrevLogTerm: n.term, LeaderCommitIndex: index,
		}
		_ = s.trans.AppendEntries(id, w.address.Load().(raft.ServerAddress), req, new(raft.AppendEntriesResponse))
	}
}
