package cluster

import (
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/storage/replica"
)

// kind is what one change of the log's servers does.
type kind string

const (
	changeNone     kind = ""
	changeAdd      kind = "add without a vote, or move"
	changeVote     kind = "give a vote, or move"
	changeDemote   kind = "take the vote"
	changeRemove   kind = "remove"
	changeStepDown kind = "hand the office on"
)

type change struct {
	kind            kind
	server, address string
}

// health is how a server is, as the leader has seen it.
type health struct {
	well   bool // it answers, and has caught up
	stable bool // it has been well for a while
	dead   bool // it has not answered for a while
}

// view is all that the next change is decided by.
type view struct {
	self    string
	members []registry.Member
	servers []replica.Server
	health  map[string]health
}

// WantedVoters is how many of n members vote: all of two, else the largest odd number, at most MaxVoters.
func WantedVoters(n int) int {
	switch {
	case n <= 2:
		return n
	case n >= MaxVoters:
		return MaxVoters
	}
	return n - (n+1)%2
}

// plan decides the one next change. It is a pure function of v.
func (v *view) plan() change {
	byServer := make(map[string]registry.Member, len(v.members))
	gone := make(map[string]bool) // members' servers that are to leave the log
	stacks := make(map[string]string)
	active := 0
	for _, m := range v.members {
		stacks[m.StackID] = m.ServerID
		if m.State == registry.Removed {
			gone[m.ServerID] = true
			continue
		}
		byServer[m.ServerID] = m
		if m.State == registry.Active {
			active++
		}
	}
	if c := v.removal(byServer, gone, stacks); c.kind != changeNone {
		return c
	}
	for _, s := range v.servers { // moved
		if m, ok := byServer[s.ID]; ok && m.ClusterAddr != s.Address {
			return change{pickKind(s.Voter, changeVote, changeAdd), s.ID, m.ClusterAddr}
		}
	}
	known := make(map[string]bool, len(v.servers))
	for _, s := range v.servers {
		known[s.ID] = true
	}
	for _, m := range v.members { // joined
		if m.State == registry.Active && !known[m.ServerID] {
			return change{changeAdd, m.ServerID, m.ClusterAddr}
		}
	}
	return v.votes(byServer, WantedVoters(active))
}

func pickKind(first bool, a, b kind) kind {
	if first {
		return a
	}
	return b
}

// removal finds a server that no member stands behind any more: removed, or replaced by a later incarnation.
func (v *view) removal(byServer map[string]registry.Member, gone map[string]bool, stacks map[string]string) change {
	for _, s := range v.servers {
		replaced := false
		if _, ok := byServer[s.ID]; !ok && !gone[s.ID] {
			current, known := stacks[StackOf(s.ID)]
			replaced = known && current != s.ID
		}
		if !gone[s.ID] && !replaced {
			continue
		}
		if s.ID == v.self {
			return change{kind: changeStepDown}
		}
		if s.Voter && !v.quorumWithout(s.ID) {
			continue
		}
		return change{kind: changeRemove, server: s.ID}
	}
	return change{}
}

// quorumWithout reports whether the voters left without id can decide by themselves.
func (v *view) quorumWithout(id string) bool {
	voters, well := 0, 0
	for _, s := range v.servers {
		if s.Voter && s.ID != id {
			voters++
			if v.health[s.ID].well {
				well++
			}
		}
	}
	return voters > 0 && well > voters/2
}

// votes gives or takes one vote.
func (v *view) votes(byServer map[string]registry.Member, wanted int) change {
	var voters []replica.Server
	var candidate *replica.Server
	for i, s := range v.servers {
		m, ok := byServer[s.ID]
		switch {
		case s.Voter:
			voters = append(voters, s)
		case ok && m.State == registry.Active && v.health[s.ID].stable && candidate == nil:
			candidate = &v.servers[i]
		}
	}
	for _, s := range voters { // about to leave
		if m := byServer[s.ID]; m.State == registry.Draining {
			if s.ID == v.self {
				if len(voters) > 1 && v.quorumWithout(s.ID) {
					return change{kind: changeStepDown}
				}
				continue
			}
			if v.quorumWithout(s.ID) {
				return change{kind: changeDemote, server: s.ID}
			}
		}
	}
	if len(voters) < wanted && candidate != nil {
		return change{changeVote, candidate.ID, candidate.Address}
	}
	for _, s := range voters { // silent for long, and somebody can take its place
		if v.health[s.ID].dead && (candidate != nil || len(voters) > wanted) {
			if len(voters) > wanted && v.quorumWithout(s.ID) {
				return change{kind: changeDemote, server: s.ID}
			}
			if len(voters) <= wanted && candidate != nil {
				return change{changeVote, candidate.ID, candidate.Address}
			}
		}
	}
	if len(voters) > wanted {
		for i := len(voters) - 1; i >= 0; i-- {
			if s := voters[i]; s.ID != v.self && v.quorumWithout(s.ID) {
				return change{kind: changeDemote, server: s.ID}
			}
		}
	}
	return change{}
}

// waiting reports whether a change may come due by itself: somebody is being watched.
func (v *view) waiting() bool {
	voters := 0
	active := 0
	for _, s := range v.servers {
		if s.Voter {
			voters++
		}
		if !v.health[s.ID].well {
			return true
		}
	}
	for _, m := range v.members {
		if m.State == registry.Active {
			active++
		}
	}
	return voters != WantedVoters(active) || len(v.servers) < active
}

// StackOf is the stack id in a server id, which adds the incarnation of the data directory to it.
func StackOf(serverID string) string {
	for i := len(serverID) - 1; i >= 0; i-- {
		if serverID[i] == '.' {
			return serverID[:i]
		}
	}
	return serverID
}
