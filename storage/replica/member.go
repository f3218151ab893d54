package replica

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/zap"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
)

// Configuration returns the members, as this replica knows them, and in which entry it learnt of them.
func (s *Store) Configuration() []Server {
	var out []Server
	for _, server := range s.raft.GetConfiguration().Configuration().Servers {
		out = append(out, Server{ID: string(server.ID), Address: string(server.Address), Voter: server.Suffrage == raft.Voter})
	}
	return out
}

// AddVoter makes id, dialled at address, a voter, or changes its address. It returns when the change is committed. Only
// the leader can; others return fault.Unavailable. A new voter counts for the quorum at once: add it as a non-voter
// first, and wait until it has caught up.
func (s *Store) AddVoter(ctx context.Context, id, address string) error {
	return s.change(ctx, func() raft.Future {
		return s.raft.AddVoter(raft.ServerID(id), raft.ServerAddress(address), 0, s.o.AskTimeout)
	})
}

// AddNonvoter adds id, dialled at address, without a vote; see AddVoter.
func (s *Store) AddNonvoter(ctx context.Context, id, address string) error {
	return s.change(ctx, func() raft.Future {
		return s.raft.AddNonvoter(raft.ServerID(id), raft.ServerAddress(address), 0, s.o.AskTimeout)
	})
}

// Demote takes the vote from id; see AddVoter.
func (s *Store) Demote(ctx context.Context, id string) error {
	return s.change(ctx, func() raft.Future { return s.raft.DemoteVoter(raft.ServerID(id), 0, s.o.AskTimeout) })
}

// Remove takes id out of the members; see AddVoter. A leader that removes itself steps down.
func (s *Store) Remove(ctx context.Context, id string) error {
	return s.change(ctx, func() raft.Future { return s.raft.RemoveServer(raft.ServerID(id), 0, s.o.AskTimeout) })
}

// Transfer hands the office to the voter id, or to the one that answers first when id is empty. A voter that doesn't answer
// just now is not tried: fault.Unavailable. It returns when this node has lost the office; whether id has won it shows in
// Status.
func (s *Store) Transfer(ctx context.Context, id string) error {
	if s.stopped() || s.dead.Load() {
		return storage.Closed()
	}
	var voters []raft.Server
	for _, server := range s.raft.GetConfiguration().Configuration().Servers {
		if server.Suffrage == raft.Voter && (string(server.ID) == id || id == "" && string(server.ID) != s.o.ServerID) {
			voters = append(voters, server)
		}
	}
	if len(voters) == 0 {
		return fault.New(fault.NotFound, "The cluster has no voter %q to hand the office to.", id)
	}
	reign := s.nudges.Load()
	if reign == nil {
		return errQuorum(raft.ErrNotLeader)
	}
	to, ok := s.firstHeard(ctx, reign.term, voters)
	if !ok {
		return fault.New(fault.Unavailable, "No voter that could take the office answered.").With("service", "quorum").After(time.Second)
	}
	return s.change(ctx, func() raft.Future { return s.raft.LeadershipTransferToServer(to.ID, to.Address) })
}

// change runs one change of the members and waits for it. Changes go one at a time: raft refuses the next until the one
// before is committed.
func (s *Store) change(ctx context.Context, begin func() raft.Future) error {
	if s.stopped() || s.dead.Load() {
		return storage.Closed()
	}
	result := make(chan error, 1)
	go func() { result <- begin().Error() }()
	select {
	case err := <-result:
		switch {
		case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipLost), errors.Is(err, raft.ErrEnqueueTimeout),
			errors.Is(err, raft.ErrLeadershipTransferInProgress):
			return errQuorum(err)
		case errors.Is(err, raft.ErrRaftShutdown):
			return storage.Closed()
		}
		return err
	case <-ctx.Done():
		return ended(ctx.Err())
	}
}

// readdress corrects this server's own address in the configuration, when it leads alone and is dialled elsewhere now.
func (s *Store) readdress() {
	if !s.soleVoter() {
		return
	}
	want := raft.ServerAddress(s.address())
	for _, server := range s.raft.GetConfiguration().Configuration().Servers {
		if server.ID == raft.ServerID(s.o.ServerID) && server.Address != want {
			if err := s.raft.AddVoter(server.ID, want, 0, time.Second).Error(); err != nil {
				s.log.Warn("this server's new address could not be recorded", zap.Error(err))
			}
		}
	}
}
