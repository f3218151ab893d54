package cluster_test

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/nexixai/agentos/peer/cluster"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/storage/replica"
)

// world is a cluster as the plan sees it, with a log that does what it is told.
type world struct {
	self         string
	members      []registry.Member
	servers      []replica.Server
	stable, dead map[string]bool
}

// step carries the next change out, and reports whether there was one. It fails the test when the change is one that a
// cluster could not survive.
func (w *world) step(t interface{ Fatalf(string, ...any) }) bool {
	kind, id, address := cluster.Plan(w.self, w.members, w.servers, w.stable, w.dead)
	at := slices.IndexFunc(w.servers, func(s replica.Server) bool { return s.ID == id })
	switch kind {
	case "":
		return false
	case cluster.ChangeAdd:
		if at >= 0 && w.servers[at].Voter {
			t.Fatalf("adding %s without a vote takes its vote away", id)
		}
		if at < 0 {
			w.servers = append(w.servers, replica.Server{ID: id, Address: address})
		} else {
			w.servers[at].Address = address
		}
	case cluster.ChangeVote:
		if at < 0 {
			t.Fatalf("%s gets a vote before it is in the log", id)
		}
		if !w.servers[at].Voter && !w.stable[id] {
			t.Fatalf("%s gets a vote without having been well", id)
		}
		w.servers[at].Voter, w.servers[at].Address = true, address
	case cluster.ChangeDemote:
		w.servers[at].Voter = false
	case cluster.ChangeRemove:
		w.servers = slices.Delete(w.servers, at, at+1)
	case cluster.ChangeStepDown:
		for _, s := range w.servers {
			if s.Voter && s.ID != w.self && w.stable[s.ID] {
				w.self = s.ID
				return true
			}
		}
		t.Fatalf("the leader steps down, and nobody can take the office")
	}
	if kind == cluster.ChangeDemote || kind == cluster.ChangeRemove {
		if id == w.self {
			t.Fatalf("the leader takes itself out")
		}
		voters, well := 0, 0
		for _, s := range w.servers {
			if s.Voter {
				voters++
				if s.ID == w.self || w.stable[s.ID] {
					well++
				}
			}
		}
		if well <= voters/2 {
			t.Fatalf("after %s of %s %d of %d voters are well: no quorum", kind, id, well, voters)
		}
	}
	return true
}

func (w *world) voters() (n int) {
	for _, s := range w.servers {
		if s.Voter {
			n++
		}
	}
	return n
}

// TestPlan_converges: whatever has happened to the members, the changes come to an end, none of them costs the quorum, and
// what is left is what was wanted.
//
// Requirements: N3.
func TestPlan_converges(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := &world{stable: map[string]bool{}, dead: map[string]bool{}}
		count := rapid.IntRange(1, 9).Draw(rt, "members")
		wellActive := 0
		for i := range count {
			id := fmt.Sprintf("stk_%d", i)
			m := registry.Member{StackID: id, ServerID: id + ".a", State: registry.Active, ClusterAddr: id + ":1"}
			fate := "leader"
			if i > 0 {
				fate = rapid.SampledFrom([]string{"well", "well", "well", "joining", "dead", "removed", "replaced", "moved", "draining"}).Draw(rt, "fate")
			}
			server := replica.Server{ID: m.ServerID, Address: m.ClusterAddr, Voter: fate != "joining" && w.voters() < 5}
			w.stable[m.ServerID] = fate != "dead"
			w.dead[m.ServerID] = fate == "dead"
			switch fate {
			case "joining":
				w.members = append(w.members, m)
				continue // not in the log yet
			case "removed":
				m.State = registry.Removed
			case "replaced": // an emptied node came back as another server
				w.stable[m.ServerID], w.dead[m.ServerID] = false, true
				m.ServerID = id + ".b"
				w.stable[m.ServerID] = true
			case "moved":
				m.ClusterAddr = id + ":2"
			case "draining":
				m.State = registry.Draining
			}
			w.members, w.servers = append(w.members, m), append(w.servers, server)
		}
		w.self = w.servers[0].ID
		wellVoters := 0
		for _, s := range w.servers {
			if s.Voter && w.stable[s.ID] {
				wellVoters++
			}
		}
		if wellVoters <= w.voters()/2 {
			rt.Skip("there is no quorum to begin with")
		}
		steps := 0
		for w.step(rt) {
			if steps++; steps > 100 {
				rt.Fatalf("the changes never end: %+v", w.servers)
			}
		}
		active := 0
		for _, m := range w.members {
			if m.State == registry.Active {
				active++
				if w.stable[m.ServerID] {
					wellActive++
				}
			}
			in := slices.IndexFunc(w.servers, func(s replica.Server) bool { return s.ID == m.ServerID })
			if m.State == registry.Active && in < 0 {
				rt.Fatalf("%s is active and not in the log", m.ServerID)
			}
			if m.State == registry.Removed && in >= 0 {
				rt.Fatalf("%s was removed and is in the log", m.ServerID)
			}
			if in >= 0 && w.servers[in].Address != m.ClusterAddr {
				rt.Fatalf("%s is dialled at %s, and lives at %s", m.ServerID, w.servers[in].Address, m.ClusterAddr)
			}
		}
		want := cluster.WantedVoters(active)
		if wellActive == active && w.voters() != want {
			rt.Fatalf("%d of %d active members vote, want %d: %+v", w.voters(), active, want, w.servers)
		}
		if w.voters() > max(want, 1)+1 {
			rt.Fatalf("%d voters of %d active members", w.voters(), active)
		}
	})
}

func TestWantedVoters(t *testing.T) {
	for n, want := range map[int]int{0: 0, 1: 1, 2: 2, 3: 3, 4: 3, 5: 5, 6: 5, 100: 5} {
		if got := cluster.WantedVoters(n); got != want {
			t.Errorf("of %d members %d vote, want %d", n, got, want)
		}
	}
}
