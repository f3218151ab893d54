package placement_test

import (
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/nexixai/agentos/agent/run"
	"github.com/nexixai/agentos/negotiation"
	"github.com/nexixai/agentos/peer/placement"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/tenancy"
)

const agentID = "agt_sum"

func weight(n int) *int { return &n }

// peering is an active one with an organisation, whose grants allow everything to tnt_demo.
func peering(org string) *registry.Peering {
	return &registry.Peering{
		ID: "prg_" + org, Organization: org, ClusterID: "clu_" + org, State: registry.PeeringActive,
		Imports: []registry.Grant{{TenantID: "tnt_" + org, LocalTenantID: "tnt_demo", Scopes: []tenancy.Scope{tenancy.RunsCreate}}},
	}
}

// peer is a node that answers, and with which all is agreed.
func peer(org, stackID string, change ...func(*placement.Peer)) placement.Peer {
	p := placement.Peer{Peering: peering(org), Peer: registry.Peer{
		Info:   registry.Info{StackID: stackID, Organization: org, ClusterID: "clu_" + org, Region: "eu-1"},
		Source: registry.FromPeering, State: registry.PeerAdmitted, Reachable: true, Ready: true, FreeSlots: 4, PeeringID: "prg_" + org,
		Capabilities: &registry.Capabilities{Agents: []registry.AgentOffered{{ID: agentID}}, Models: registry.ModelsOffered{Tiers: []string{"fast"}}},
		Agreement:    &negotiation.Agreement{Usable: true, Contract: "1.2", Features: []string{"events_stream", "origin_run_ids", "runs_forward"}},
	}}
	for _, f := range change {
		f(&p)
	}
	return p
}

func asked() run.Placing {
	return run.Placing{
		AgentID: agentID, Hops: 3, Request: &run.Request{},
		Auth: &tenancy.Auth{TenantID: "tnt_demo", Principal: tenancy.Principal{ID: "usr_ann"}},
	}
}

// world is two nodes of acme that don't host the agent, and globex, which does, with a route to it.
func world(change ...func(*placement.Input)) *placement.Input {
	in := &placement.Input{
		Asked:  asked(),
		Routes: []*placement.Route{{ID: "rte_globex", Match: placement.Match{AgentID: agentID}, Targets: []placement.Target{{Organization: "globex", Weight: weight(1)}}}},
		Here: placement.Here{StackID: "stk_a1", Organization: "acme", Nodes: []placement.Node{
			{StackID: "stk_a1", Region: "us-1"}, {StackID: "stk_a2", Region: "eu-1"},
		}},
		Peers: []placement.Peer{peer("globex", "stk_g1")},
	}
	for _, f := range change {
		f(in)
	}
	return in
}

func failed(p *run.Placed, stackID string) (checks []string) {
	for _, c := range p.Candidates {
		if c.StackID != stackID {
			continue
		}
		for _, r := range c.Reasons {
			if !r.OK {
				checks = append(checks, r.Check)
			}
			if r.Detail == "" {
				checks = append(checks, "no detail for "+r.Check)
			}
		}
	}
	return checks
}

func TestDecide_follows(t *testing.T) {
	p := placement.Decide(world())
	want := []run.Target{{PeeringID: "prg_globex", Organization: "globex", ClusterID: "clu_globex", StackID: "stk_g1", TenantID: "tnt_globex", RouteID: "rte_globex"}}
	if p.Local || p.RouteID != "rte_globex" || !slices.Equal(p.Targets, want) {
		t.Fatalf("placed %+v", p)
	}
	if c := p.Candidates[0]; c.StackID != "stk_g1" || !c.Chosen {
		t.Errorf("the first candidate is %+v", c)
	}
	for _, id := range []string{"stk_a1", "stk_a2"} {
		if diff := cmp.Diff([]string{"route", "agent"}, failed(p, id)); diff != "" {
			t.Errorf("why not at %s: %s", id, diff)
		}
	}
	in := world()
	in.Peers[0].Agreement = &negotiation.Agreement{Usable: true, Contract: "1.2", Features: []string{"events_stream", "final_ack", "origin_run_ids", "runs_forward"}}
	if want[0].FinalAck = true; !slices.Equal(placement.Decide(in).Targets, want) {
		t.Errorf("agreed to be told of the end, and the target is %+v", placement.Decide(in).Targets)
	}
	if f := failed(p, "stk_g1"); f != nil {
		t.Errorf("the chosen one fails %v", f)
	}
}

// TestDecide_live: a run is only sent at once to a node that would take it now.
func TestDecide_live(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*placement.Peer)
		live   bool
	}{
		"free":    {func(*placement.Peer) {}, true},
		"full":    {func(p *placement.Peer) { p.FreeSlots = 0 }, true},
		"unready": {func(p *placement.Peer) { p.Ready = false }, false},
		"away":    {func(p *placement.Peer) { p.Reachable = false }, false},
	} {
		placed := placement.Decide(world(func(in *placement.Input) { in.Peers = []placement.Peer{peer("globex", "stk_g1", c.change)} }))
		if len(placed.Targets) != 1 || placed.Live != c.live {
			t.Errorf("%s: placed %+v", name, placed)
		}
	}
}

// TestDecide_refuses: each thing that must keep a run from a peer does, alone, and is told by its name.
//
// Requirements: P4.
func TestDecide_refuses(t *testing.T) {
	only := func(f func(*placement.Peer)) func(*placement.Input) {
		return func(in *placement.Input) { in.Peers = []placement.Peer{peer("globex", "stk_g1", f)} }
	}
	auth := func(f func(*tenancy.Auth)) func(*placement.Input) {
		return func(in *placement.Input) { f(in.Asked.Auth) }
	}
	bounded := func(class, bound string) func(*placement.Input) {
		return func(in *placement.Input) {
			in.Asked.Auth.PolicyContext.DataClassification = class
			in.Peers[0].Peering.Imports[0].MaxDataClassification = bound
		}
	}
	for name, c := range map[string]struct {
		change func(*placement.Input)
		check  []string
	}{
		"no peering":              {only(func(p *placement.Peer) { p.Peering = nil }), []string{"peering", "grant", "classification"}},
		"a suspended peering":     {only(func(p *placement.Peer) { p.Peering.State = registry.PeeringSuspended }), []string{"peering"}},
		"a revoked peering":       {only(func(p *placement.Peer) { p.Peering.State = registry.PeeringRevoked }), []string{"peering"}},
		"a peer only seen":        {only(func(p *placement.Peer) { p.State = registry.PeerSeen }), []string{"peering"}},
		"another cluster's node":  {only(func(p *placement.Peer) { p.ClusterID = "clu_other" }), []string{"peering"}},
		"nothing agreed":          {only(func(p *placement.Peer) { p.Agreement = nil }), []string{"agreement"}},
		"no agreement":            {only(func(p *placement.Peer) { p.Agreement = &negotiation.Agreement{} }), []string{"agreement"}},
		"no origin run ids":       {only(func(p *placement.Peer) { p.Agreement.Features = []string{"events_stream", "runs_forward"} }), []string{"capabilities"}},
		"another agent":           {only(func(p *placement.Peer) { p.Capabilities.Agents[0].ID = "agt_other" }), []string{"agent"}},
		"no grant for the tenant": {auth(func(a *tenancy.Auth) { a.TenantID = "tnt_other" }), []string{"grant", "classification"}},
		"a grant without a scope": {only(func(p *placement.Peer) { p.Peering.Imports[0].Scopes = []tenancy.Scope{tenancy.RunsRead} }), []string{"grant"}},
		"a grant of other agents": {only(func(p *placement.Peer) { p.Peering.Imports[0].Agents = []string{"agt_other"} }), []string{"grant"}},
		"a grant of no agents":    {only(func(p *placement.Peer) { p.Peering.Imports[0].Agents = []string{} }), []string{"grant"}},
		"too high a class":        {bounded("restricted", "confidential"), []string{"classification"}},
		"an unknown class":        {bounded("secret", ""), []string{"classification"}},
		"an unknown bound":        {bounded("public", "secret"), []string{"classification"}},
		"another region":          {auth(func(a *tenancy.Auth) { a.PolicyContext.Region = "us-1" }), []string{"region"}},
		"an unknown region": {func(in *placement.Input) {
			in.Asked.Auth.PolicyContext.Region = "eu-1"
			in.Peers[0].Region = ""
		}, []string{"region"}},
		"no hops left": {func(in *placement.Input) { in.Asked.Hops = 0 }, []string{"hops"}},
		"a loop":       {func(in *placement.Input) { in.Asked.Via = []string{"clu_x", "clu_globex"} }, []string{"loop"}},
		"a capability of the route": {func(in *placement.Input) {
			in.Routes[0].Match.RequiredCapabilities = []string{"tool_hosting"}
		}, []string{"capabilities"}},
		"a capability of the caller": {func(in *placement.Input) {
			in.Asked.Selector = &run.Selector{RequiredCapabilities: []string{"tool.hosting"}}
		}, []string{"capabilities"}},
		"another node asked for":         {func(in *placement.Input) { in.Asked.Selector = &run.Selector{StackID: "stk_g2"} }, []string{"selector"}},
		"another organization asked for": {func(in *placement.Input) { in.Asked.Selector = &run.Selector{Organization: "initech"} }, []string{"selector"}},
		"another region asked for":       {func(in *placement.Input) { in.Asked.Selector = &run.Selector{Region: "us-1"} }, []string{"region"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := placement.Decide(world(c.change))
			if p.Local || len(p.Targets) > 0 || p.Candidates[0].Chosen {
				t.Fatalf("placed: %+v", p)
			}
			if diff := cmp.Diff(c.check, failed(p, "stk_g1")); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestDecide_takes(t *testing.T) {
	for name, change := range map[string]func(*placement.Input){
		"agents that aren't told": func(in *placement.Input) { in.Peers[0].Capabilities.Agents = nil },
		"a class within the grant": func(in *placement.Input) {
			in.Asked.Auth.PolicyContext.DataClassification = "internal"
			in.Peers[0].Peering.Imports[0].MaxDataClassification = "confidential"
		},
		"no class, within any": func(in *placement.Input) { in.Peers[0].Peering.Imports[0].MaxDataClassification = "public" },
		"its region":           func(in *placement.Input) { in.Asked.Auth.PolicyContext.Region = "eu-1" },
		"a second grant that allows it": func(in *placement.Input) {
			g := &in.Peers[0].Peering.Imports
			*g = append(*g, registry.Grant{TenantID: "tnt_aaa", LocalTenantID: "tnt_demo", Scopes: []tenancy.Scope{tenancy.RunsCreate}, Agents: []string{}})
		},
		"a selector that fits": func(in *placement.Input) {
			in.Asked.Selector = &run.Selector{StackID: "stk_g1", Region: "eu-1", Organization: "globex", RequiredCapabilities: []string{"events.stream"}}
		},
		"a peer that is away":      func(in *placement.Input) { in.Peers[0].Reachable = false },
		"a peer that isn't ready":  func(in *placement.Input) { in.Peers[0].Ready = false },
		"a spare":                  func(in *placement.Input) { in.Routes[0].Targets[0].Weight = weight(0) },
		"no route, and a selector": func(in *placement.Input) { in.Routes, in.Asked.Selector = nil, &run.Selector{} },
	} {
		if p := placement.Decide(world(change)); p.Local || len(p.Targets) != 1 || p.Targets[0].TenantID != "tnt_globex" || !p.Candidates[0].Chosen {
			t.Errorf("%s: %+v", name, p)
		}
	}
}

// TestDecide_here: this cluster is a place like others, and the one to stay at where nothing says otherwise.
func TestDecide_here(t *testing.T) {
	local := func(in *placement.Input) { in.Here.Agent = true }
	for name, c := range map[string]struct {
		change func(*placement.Input)
		chosen string // "" for a refusal
	}{
		"no route":                  {func(in *placement.Input) { in.Routes = nil }, "stk_a1"},
		"a route for others":        {func(in *placement.Input) { in.Routes[0].Match.AgentID = "agt_other" }, "stk_a1"},
		"a region of another node":  {func(in *placement.Input) { in.Routes, in.Asked.Auth.PolicyContext.Region = nil, "eu-1" }, "stk_a2"},
		"a region of nobody":        {func(in *placement.Input) { in.Routes, in.Asked.Auth.PolicyContext.Region = nil, "ap-1" }, ""},
		"the asked node is drained": {func(in *placement.Input) { in.Routes, in.Here.Nodes[0].Drained = nil, true }, "stk_a2"},
		"a tie goes to us":          {func(in *placement.Input) { in.Routes, in.Asked.Selector = nil, &run.Selector{} }, "stk_a1"},
		"a node asked for":          {func(in *placement.Input) { in.Routes, in.Asked.Selector = nil, &run.Selector{StackID: "stk_a2"} }, "stk_a2"},
		"a spare for who is away": {func(in *placement.Input) {
			in.Routes[0].Targets = append(in.Routes[0].Targets, placement.Target{Local: true, Weight: weight(0)})
			in.Peers[0].Reachable = false
		}, "stk_a1"},
		"a spare for who is there": {func(in *placement.Input) {
			in.Routes[0].Targets = append(in.Routes[0].Targets, placement.Target{Local: true, Weight: weight(0)})
		}, "stk_g1"},
		"our organization by name": {func(in *placement.Input) { in.Routes[0].Targets[0].Organization = "acme" }, "stk_a1"},
		"our node by name": {func(in *placement.Input) {
			in.Routes[0].Targets[0] = placement.Target{StackID: "stk_a2", Weight: weight(1)}
		}, "stk_a2"},
		"a route elsewhere stays one": {func(in *placement.Input) { in.Peers = nil }, ""},
	} {
		p := placement.Decide(world(local, c.change))
		chosen := ""
		if p.Candidates[0].Chosen {
			chosen = p.Candidates[0].StackID
		}
		if chosen != c.chosen || p.Local != (chosen == "stk_a1" || chosen == "stk_a2") || p.Local && len(p.Targets) > 0 {
			t.Errorf("%s: chosen %q of %+v", name, chosen, p)
		}
	}
	if p := placement.Decide(world(local, func(in *placement.Input) { in.Routes, in.Asked.Selector = nil, &run.Selector{StackID: "stk_a2"} })); p.StackID != "stk_a2" {
		t.Errorf("a node that was asked for by name is told as %q", p.StackID)
	}
}

// TestDecide_specific: the most specific route is the rule, and the only one.
//
// Requirements: P4.
func TestDecide_specific(t *testing.T) {
	route := func(id string, m placement.Match, org string) *placement.Route {
		return &placement.Route{ID: id, Match: m, Targets: []placement.Target{{Organization: org, Weight: weight(1)}}}
	}
	in := world()
	in.Asked.Request.Context.Labels = map[string]string{"team": "red", "env": "prod"}
	in.Asked.Auth.PolicyContext.DataClassification = "internal"
	in.Routes = []*placement.Route{
		route("rte_z", placement.Match{}, "globex"),
		route("rte_b", placement.Match{AgentID: agentID}, "globex"),
		route("rte_a", placement.Match{AgentID: agentID}, "globex"),
		route("rte_c", placement.Match{Labels: map[string]string{"team": "red", "env": "prod"}, AgentID: agentID}, "nobody"),
		route("rte_0", placement.Match{Labels: map[string]string{"team": "blue"}, AgentID: agentID, DataClassification: "internal", Region: "eu-1"}, "globex"),
		route("rte_1", placement.Match{ModelTier: "premium", AgentID: agentID, DataClassification: "internal", Labels: map[string]string{"team": "red"}}, "globex"),
	}
	for _, want := range []string{"rte_c", "rte_a", "rte_b", "rte_z"} {
		p := placement.Decide(in)
		if p.RouteID != want {
			t.Fatalf("the rule is %s, want %s", p.RouteID, want)
		}
		if (want == "rte_c") != (len(p.Targets) == 0) {
			t.Errorf("by %s it goes to %+v", want, p.Targets)
		}
		in.Routes = slices.DeleteFunc(in.Routes, func(r *placement.Route) bool { return r.ID == want })
	}
	in.Routes = []*placement.Route{route("rte_t", placement.Match{ModelTier: "premium"}, "globex")}
	for _, tier := range []string{"premium", "fast"} {
		in.Asked.Selector = &run.Selector{PreferredModelTier: tier}
		if p := placement.Decide(in); (p.RouteID == "rte_t") != (tier == "premium") {
			t.Errorf("tier %s: route %q", tier, p.RouteID)
		}
	}
}

// TestDecide_order: who answers goes before who doesn't, a cluster is asked once, and a preferred tier counts.
func TestDecide_order(t *testing.T) {
	in := world()
	in.Routes[0].Targets = []placement.Target{{Organization: "globex", Weight: weight(1000)}, {Organization: "initech", Weight: weight(1)}, {Organization: "hooli", Weight: weight(0)}}
	in.Routes[0].LostAfterMS = 5000
	in.Peers = []placement.Peer{
		peer("globex", "stk_g1", func(p *placement.Peer) { p.Reachable = false }), peer("globex", "stk_g2", func(p *placement.Peer) { p.Ready = false }),
		peer("initech", "stk_i1"), peer("initech", "stk_i2"), peer("hooli", "stk_h1"),
	}
	p := placement.Decide(in)
	var got []string
	for _, target := range p.Targets {
		got = append(got, target.StackID[:5])
		if target.LostAfterMS != 5000 {
			t.Errorf("%s is lost after %d ms", target.StackID, target.LostAfterMS)
		}
	}
	if diff := cmp.Diff([]string{"stk_i", "stk_h", "stk_g"}, got); diff != "" {
		t.Error(diff)
	}
	if p.Targets[2].StackID != "stk_g2" {
		t.Errorf("globex is asked at %s, which doesn't answer", p.Targets[2].StackID)
	}
	in.Peers[3].FreeSlots, in.Peers[2].FreeSlots = 0, 0
	if p := placement.Decide(in); p.Targets[0].Organization != "hooli" {
		t.Errorf("initech has no room, the spare has, and it goes to %s", p.Targets[0].Organization)
	}
	in.Peers[2].FreeSlots = 1
	if p := placement.Decide(in); p.Targets[0].StackID != "stk_i1" {
		t.Errorf("one node of initech has room, and it goes to %s", p.Targets[0].StackID)
	}
	in.Asked.Selector = &run.Selector{PreferredModelTier: "premium"}
	in.Peers[4].Capabilities.Models.Tiers = []string{"fast", "premium"}
	if p := placement.Decide(in); p.Targets[0].Organization != "hooli" {
		t.Errorf("the preferred tier is had at hooli, and it goes to %s", p.Targets[0].Organization)
	}
}

// TestDecide_weights: of many sessions each target gets its share, and a session stays where it is.
//
// Requirements: P4.
func TestDecide_weights(t *testing.T) {
	in := world(func(in *placement.Input) { in.Here.Agent = true })
	in.Routes[0].Targets = []placement.Target{{Local: true, Weight: weight(6)}, {Organization: "globex", Weight: weight(3)}, {StackID: "stk_i1", Weight: weight(1)}}
	in.Peers = append(in.Peers, peer("globex", "stk_g2"), peer("initech", "stk_i1"))
	const n = 4000
	first := map[string]string{}
	share := map[string]float64{}
	for i := range n {
		in.Asked.Request.Context.SessionID = fmt.Sprintf("ses_%d", i)
		in.Asked.Auth.Principal.ID = fmt.Sprintf("usr_%d", i%7)
		p := placement.Decide(in)
		first[in.Asked.Request.Context.SessionID] = p.Candidates[0].Organization
		share[p.Candidates[0].Organization] += 1.0 / n
		if p.Candidates[0].StackID == "stk_a2" {
			t.Fatal("it left the node that was asked for no reason")
		}
	}
	for org, want := range map[string]float64{"acme": 0.6, "globex": 0.3, "initech": 0.1} {
		if math.Abs(share[org]-want) > 0.03 {
			t.Errorf("%s gets %.3f of the runs, want %.1f", org, share[org], want)
		}
	}
	// A new weight moves only those who have to move.
	in.Routes[0].Targets[2].Weight = weight(2)
	for i := range n {
		in.Asked.Request.Context.SessionID = fmt.Sprintf("ses_%d", i)
		now, before := placement.Decide(in).Candidates[0].Organization, first[in.Asked.Request.Context.SessionID]
		if now != before && now != "initech" {
			t.Fatalf("session %d moved from %s to %s when initech's weight rose", i, before, now)
		}
	}
}

// TestDecide_namesake: a node is named by its owner. Who takes another's name does not get what is meant for that one.
func TestDecide_namesake(t *testing.T) {
	in := world(func(in *placement.Input) {
		in.Routes[0].Targets = []placement.Target{{StackID: "stk_g1", Weight: weight(1)}}
		in.Peers = append(in.Peers, peer("mallory", "stk_g1"), peer("mallory", "stk_a1"))
	})
	if p := placement.Decide(in); len(p.Targets) > 0 {
		t.Errorf("a name of two leads to %+v", p.Targets)
	}
	in.Routes[0].Targets = append(in.Routes[0].Targets, placement.Target{Organization: "globex", Weight: weight(0)})
	if p := placement.Decide(in); len(p.Targets) != 1 || p.Targets[0].Organization != "globex" {
		t.Errorf("by the organisation's name it goes to %+v", p.Targets)
	}
	in.Routes, in.Here.Agent = nil, true
	for _, selector := range []run.Selector{{StackID: "stk_a1"}, {StackID: "stk_g1"}, {StackID: "stk_g1", Organization: "globex"}} {
		in.Asked.Selector = &selector
		for _, target := range placement.Decide(in).Targets {
			if target.Organization != selector.Organization {
				t.Errorf("the wish %+v leads to %+v", selector, target)
			}
		}
	}
	if p := placement.Decide(in); len(p.Targets) != 1 {
		t.Errorf("with the organisation said, it goes to %+v", p.Targets)
	}
	in.Asked.Selector = nil
	in.Routes = []*placement.Route{{ID: "rte_s", Targets: []placement.Target{{StackID: "stk_a1", Weight: weight(1)}}}}
	if p := placement.Decide(in); !p.Local || p.StackID != "stk_a1" {
		t.Errorf("our own node's name leads to %+v", p)
	}
	in.Peers[1].State = registry.PeerSuspended
	in.Routes[0].Targets[0].StackID = "stk_g1"
	if p := placement.Decide(in); len(p.Targets) != 1 || p.Targets[0].Organization != "globex" {
		t.Errorf("with the other one suspended it goes to %+v", p.Targets)
	}
}

// drawInput draws any input that a node could find itself with.
func drawInput(t *rapid.T) *placement.Input {
	orgs := []string{"acme", "globex", "initech", "hooli"}
	regions := []string{"", "eu-1", "us-1"}
	classes := []string{"", "public", "internal", "confidential", "restricted", "secret"}
	features := []string{"events_stream", "origin_run_ids", "runs_forward", "tool_hosting"}
	in := world()
	in.Here.Agent = rapid.Bool().Draw(t, "agent here")
	in.Here.Tier = rapid.SampledFrom([]string{"", "fast", "premium"}).Draw(t, "tier here")
	in.Asked.Hops = rapid.IntRange(-1, 3).Draw(t, "hops")
	in.Asked.Via = rapid.SliceOfN(rapid.SampledFrom([]string{"clu_globex", "clu_initech", "clu_x"}), 0, 2).Draw(t, "via")
	in.Asked.Auth.PolicyContext.Region = rapid.SampledFrom(regions).Draw(t, "region")
	in.Asked.Auth.PolicyContext.DataClassification = rapid.SampledFrom(classes).Draw(t, "class")
	in.Asked.Request.Context.Labels = rapid.MapOfN(rapid.SampledFrom([]string{"a", "b"}), rapid.SampledFrom([]string{"1", "2"}), 0, 2).Draw(t, "labels")
	in.Asked.Request.Context.SessionID = rapid.SampledFrom([]string{"", "s1", "s2", "s3"}).Draw(t, "session")
	if rapid.Bool().Draw(t, "selects") {
		in.Asked.Selector = &run.Selector{
			StackID: rapid.SampledFrom([]string{"", "", "stk_a2", "stk_0", "stk_1"}).Draw(t, "sel stack"), Region: rapid.SampledFrom(regions).Draw(t, "sel region"),
			Organization: rapid.SampledFrom(append(orgs, "", "")).Draw(t, "sel org"), PreferredModelTier: rapid.SampledFrom([]string{"", "fast", "premium"}).Draw(t, "sel tier"),
			RequiredCapabilities: rapid.SliceOfN(rapid.SampledFrom(features), 0, 2).Draw(t, "sel caps"),
		}
	}
	in.Routes = nil
	for i := range rapid.IntRange(0, 4).Draw(t, "routes") {
		r := &placement.Route{ID: fmt.Sprint("rte_", i), Match: placement.Match{
			AgentID: rapid.SampledFrom([]string{"", agentID, "agt_x"}).Draw(t, "m agent"), ModelTier: rapid.SampledFrom([]string{"", "", "fast"}).Draw(t, "m tier"),
			Region: rapid.SampledFrom(regions).Draw(t, "m region"), DataClassification: rapid.SampledFrom(classes[:5]).Draw(t, "m class"),
			RequiredCapabilities: rapid.SliceOfN(rapid.SampledFrom(features), 0, 1).Draw(t, "m caps"),
		}}
		for range rapid.IntRange(1, 4).Draw(t, "targets") {
			target := placement.Target{Weight: weight(rapid.IntRange(0, 5).Draw(t, "weight"))}
			switch rapid.IntRange(0, 2).Draw(t, "kind") {
			case 0:
				target.Local = true
			case 1:
				target.Organization = rapid.SampledFrom(orgs).Draw(t, "t org")
			case 2:
				target.StackID = rapid.SampledFrom([]string{"stk_a1", "stk_0", "stk_1", "stk_2", "stk_gone"}).Draw(t, "t stack")
			}
			r.Targets = append(r.Targets, target)
		}
		in.Routes = append(in.Routes, r)
	}
	in.Peers = nil
	for i := range rapid.IntRange(0, 5).Draw(t, "peers") {
		in.Peers = append(in.Peers, peer(rapid.SampledFrom(orgs).Draw(t, "org"), fmt.Sprint("stk_", i), func(p *placement.Peer) {
			p.Region = rapid.SampledFrom(regions).Draw(t, "p region")
			p.Reachable, p.Ready, p.FreeSlots = rapid.Bool().Draw(t, "reachable"), rapid.Bool().Draw(t, "ready"), rapid.IntRange(0, 2).Draw(t, "free")
			p.State = rapid.SampledFrom([]registry.PeerState{registry.PeerAdmitted, registry.PeerAdmitted, registry.PeerAdmitted, registry.PeerSeen}).Draw(t, "state")
			p.Peering.Imports[0].MaxDataClassification = rapid.SampledFrom(classes).Draw(t, "bound")
			p.Agreement.Features = append(p.Agreement.Features, rapid.SliceOfN(rapid.SampledFrom(features), 0, 1).Draw(t, "features")...)
			switch rapid.IntRange(0, 7).Draw(t, "lack") {
			case 0:
				p.Peering = nil
			case 1:
				p.Agreement = nil
			case 2:
				p.Capabilities = nil
			}
		}))
	}
	return in
}

// TestDecide_never: whatever the input, no run leaves its region, no class goes beyond a grant, nothing goes round in a
// circle or too far, and whoever is chosen has passed every check that is told.
//
// Requirements: P4.
func TestDecide_never(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		p := placement.Decide(in)
		region := in.Asked.Auth.PolicyContext.Region
		class, known := tenancy.ClassRank(in.Asked.Auth.PolicyContext.DataClassification)
		if p.Local && len(p.Targets) > 0 {
			t.Fatalf("both here and elsewhere: %+v", p)
		}
		for _, target := range p.Targets {
			i := slices.IndexFunc(in.Peers, func(q placement.Peer) bool { return q.StackID == target.StackID })
			q := &in.Peers[i]
			bound, ok := tenancy.ClassRank(q.Peering.Imports[0].MaxDataClassification)
			switch {
			case region != "" && q.Region != region:
				t.Fatalf("a run bound to %q goes to %s in %q", region, q.StackID, q.Region)
			case !known || !ok || q.Peering.Imports[0].MaxDataClassification != "" && class > bound:
				t.Fatalf("class %q goes to %s under a grant up to %q", in.Asked.Auth.PolicyContext.DataClassification, q.StackID, q.Peering.Imports[0].MaxDataClassification)
			case in.Asked.Hops <= 0 || slices.Contains(in.Asked.Via, target.ClusterID):
				t.Fatalf("hops %d, via %v, and it goes to %s", in.Asked.Hops, in.Asked.Via, target.ClusterID)
			case q.State != registry.PeerAdmitted || target.TenantID == "" || target.ClusterID == "":
				t.Fatalf("it goes to %+v of %+v", target, q)
			case p.RouteID == "" && in.Asked.Selector == nil:
				t.Fatalf("nobody has said that it may leave, and it goes to %+v", target)
			}
		}
		if p.Local && region != "" {
			i := slices.IndexFunc(in.Here.Nodes, func(n placement.Node) bool { return n.StackID == p.Candidates[0].StackID })
			if in.Here.Nodes[i].Region != region {
				t.Fatalf("a run bound to %q stays at a node in %q", region, in.Here.Nodes[i].Region)
			}
		}
		chosen := 0
		for i, c := range p.Candidates {
			if len(c.Reasons) == 0 {
				t.Fatalf("%s without reasons", c.StackID)
			}
			if c.Chosen {
				chosen++
				if i != 0 || slices.ContainsFunc(c.Reasons, func(r run.Reason) bool { return !r.OK }) {
					t.Fatalf("chosen as number %d: %+v", i, c)
				}
			}
		}
		if placed := p.Local || len(p.Targets) > 0; placed != (chosen == 1) {
			t.Fatalf("%d candidates are chosen in %+v", chosen, p)
		}
	})
}

// TestDecide_steady: the same input gives the same answer, in whatever order its lists come.
func TestDecide_steady(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		first := placement.Decide(in)
		in.Routes = rapid.Permutation(in.Routes).Draw(t, "routes'")
		in.Peers = rapid.Permutation(in.Peers).Draw(t, "peers'")
		in.Here.Nodes = rapid.Permutation(in.Here.Nodes).Draw(t, "nodes'")
		for i := range in.Routes {
			in.Routes[i].Targets = rapid.Permutation(in.Routes[i].Targets).Draw(t, "targets'")
		}
		if diff := cmp.Diff(first, placement.Decide(in)); diff != "" {
			t.Fatal(diff)
		}
	})
}
