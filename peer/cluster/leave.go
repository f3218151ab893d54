package cluster

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/storage/replica"
	"github.com/nexixai/agentos/tenancy"
)

// Transfer asks the leader to hand the office to a member, or to whoever is furthest along when to is "".
func (m *Membership) Transfer(ctx context.Context, by tenancy.Actor, to string) (replayed bool, index uint64, err error) {
	if err := m.eligible(to); err != nil {
		return false, 0, err
	}
	wish := registry.Wish{ID: id.New(id.Command), To: to, By: registry.ByActor(by), Asked: registry.AskedBy(by, to)}
	done, index, err := m.o.Commands.Wish.Do(ctx, m.o.Store, "", wish)
	return err == nil && done.ID != wish.ID, index, err
}

// eligible refuses a transfer that nobody could take: it would be waited for in vain.
func (m *Membership) eligible(to string) error {
	servers := m.o.Log.Configuration()
	if to == "" {
		if !slices.ContainsFunc(servers, func(s replica.Server) bool { return s.Voter && StackOf(s.ID) != StackOf(m.o.Standing().Leader) }) {
			return fault.New(fault.Conflict, "There is no other voter to hand the office to.")
		}
		return nil
	}
	member, known := m.o.Roster.Member(to)
	if known && !slices.ContainsFunc(servers, func(s replica.Server) bool { return s.Voter && s.ID == member.ServerID }) {
		return fault.New(fault.Conflict, "Member %s has no vote, so it can't lead.", to)
	}
	return nil // who is not known is refused by the command
}

// SetState drains a member, takes it back, or removes it for good.
func (m *Membership) SetState(ctx context.Context, by tenancy.Actor, stackID string, state registry.MemberState) (row *registry.Member, replayed bool, index uint64, err error) {
	if member, ok := m.o.Roster.Member(stackID); ok && state == registry.Removed && member.State != registry.Removed {
		if err := m.letGo(ctx, by, member); err != nil {
			return nil, false, 0, err
		}
	}
	change := registry.StateChange{ID: id.New(id.Command), StackID: stackID, State: state, By: registry.ByActor(by), Asked: registry.AskedBy(by, stackID, state)}
	done, index, err := m.o.Commands.SetState.Do(ctx, m.o.Store, "", change)
	if own := m.o.Standing().StackID; err != nil && state == registry.Removed && stackID == own {
		if gone, ok := m.farewell(ctx); ok {
			return &gone, false, m.o.Standing().Applied, nil
		}
	}
	return &done.Member, err == nil && done.ID != change.ID, index, err
}

// farewell waits for this node's own removal to reach it. The leader's answer does not: from the moment the removal counts
// the others hang up on this node.
func (m *Membership) farewell(ctx context.Context) (own registry.Member, removed bool) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	_ = until(ctx, func() bool {
		own, _ = m.o.Roster.Member(m.o.Standing().StackID)
		return own.State == registry.Removed
	})
	return own, own.State == registry.Removed
}

// until looks again and again, and returns the context's error when done has not come true by its end.
func until(ctx context.Context, done func() bool) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}

// letGo makes sure that the cluster can do without a member before it is removed, for from then on nobody speaks to it any
// more: those who stay must be able to decide by themselves, and the member must not be the leader, whose last act would
// be a change that nobody takes from it.
func (m *Membership) letGo(ctx context.Context, by tenancy.Actor, member registry.Member) error {
	others := slices.ContainsFunc(m.o.Roster.Members(), func(o registry.Member) bool {
		return o.StackID != member.StackID && o.State == registry.Active
	})
	if !others {
		return fault.New(fault.Conflict, "Node %s is the last active member; to be rid of the cluster, stop it and remove its data directory.", member.StackID)
	}
	servers := m.o.Log.Configuration()
	answers := m.answering(ctx, servers)
	if !DecidesWithout(servers, "", answers) {
		return fault.New(fault.Conflict, "The voters that answer are not more than half, so nobody can be removed: bring the others back. If they are lost for good, one that is left can go on: agentos cluster recover.")
	}
	if !DecidesWithout(servers, member.ServerID, answers) {
		return fault.New(fault.Conflict, "Without %s the voters that answer are not more than half of those left: bring the others back, or remove the dead ones first.", member.StackID)
	}
	if m.o.Standing().Leader != member.ServerID {
		return nil
	}
	if _, _, err := m.Transfer(ctx, tenancy.Actor{Auth: by.Auth, CorrelationID: by.CorrelationID}, ""); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err := until(ctx, func() bool {
		now := m.o.Standing().Leader
		return now != "" && now != member.ServerID
	})
	if err != nil {
		return fault.New(fault.Unavailable, "Node %s leads, and nobody has taken the office from it yet; ask again.", member.StackID).With("service", "cluster").After(time.Second)
	}
	return nil
}

// answering asks the voters how they are, and returns the server ids of those that answer.
func (m *Membership) answering(ctx context.Context, servers []replica.Server) map[string]bool {
	ctx, cancel := context.WithTimeout(ctx, askAll)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	own := m.o.Standing().ServerID
	answers := map[string]bool{own: true}
	for _, row := range m.o.Roster.Members() {
		if row.ServerID == own || !slices.ContainsFunc(servers, func(s replica.Server) bool { return s.Voter && s.ID == row.ServerID }) {
			continue
		}
		wg.Go(func() {
			if st, err := m.Probe(ctx, row); err == nil && st.ServerID == row.ServerID {
				mu.Lock()
				answers[row.ServerID] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return answers
}

// DecidesWithout reports whether, once a server has left, those voters that answer are more than half; "" for none leaving.
func DecidesWithout(servers []replica.Server, leaving string, answers map[string]bool) bool {
	voters, well := 0, 0
	for _, s := range servers {
		if s.Voter && s.ID != leaving {
			voters++
			if answers[s.ID] {
				well++
			}
		}
	}
	return well > voters/2
}
