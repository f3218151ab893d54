package placement_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nexixai/agentos/agent"
	"github.com/nexixai/agentos/agent/run"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/peer/placement"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/storage"
)

type nodes []placement.Node

func (n nodes) Nodes() []placement.Node { return n }

// peers are a node's peers and their peerings.
type peers []placement.Peer

func (p peers) Peers() []registry.Peer {
	list := []registry.Peer{{Info: registry.Info{StackID: "stk_a2", Organization: "acme"}, Source: registry.FromMember}}
	for i := range p {
		list = append(list, p[i].Peer)
	}
	return list
}

func (p peers) ByID(peeringID string) (registry.Peering, bool) {
	i := slices.IndexFunc(p, func(q placement.Peer) bool { return q.PeeringID == peeringID })
	if i < 0 {
		return registry.Peering{}, false
	}
	return *p[i].Peering, true
}

func TestPlacer(t *testing.T) {
	h := mustHouse(t)
	p := h.placer()
	place := func(fresh bool, change ...func(*run.Placing)) (*run.Placed, error) {
		a := asked()
		for _, f := range change {
			f(&a)
		}
		return p.Place(t.Context(), a, fresh)
	}
	if placed, err := place(false); err != nil || !placed.Local || placed.Candidates != nil {
		t.Errorf("without routes: %+v %v", placed, err)
	}
	if _, err := place(true); !fault.Is(err, fault.NotFound) {
		t.Errorf("no agent and no route, after a look: %v", err)
	}
	region := func(a *run.Placing) { a.Auth.PolicyContext.Region = "us-1" }
	if _, err := place(false, region); !fault.Is(err, fault.NotFound) {
		t.Errorf("bound to our region, and no agent: %v", err)
	}
	if _, _, _, err := h.catalog.PutAgent(t.Context(), by("tnt_demo"), agent.Agent{ID: "agt_local"}); err != nil {
		t.Fatal(err)
	}
	here := func(a *run.Placing) { a.AgentID = "agt_local" }
	if placed, err := place(true, here); err != nil || !placed.Local {
		t.Errorf("a local agent: %+v %v", placed, err)
	}
	if placed, err := place(false, here, region); err != nil || !placed.Local {
		t.Errorf("a local agent, bound to our region: %+v %v", placed, err)
	}
	_, err := place(false, here, func(a *run.Placing) { a.Auth.PolicyContext.Region = "eu-1" })
	if e := fault.Of(err); !fault.Is(err, fault.UnsupportedCapability) {
		t.Errorf("a local agent, bound to globex's region, and no route there: %v", err)
	} else {
		if diff := cmp.Diff([]string{"region:eu-1"}, e.Details["missing"]); diff != "" {
			t.Error(diff)
		}
		if c := e.Details["candidates"].([]run.Candidate); len(c) != 2 || c[0].StackID != "stk_a1" || c[1].StackID != "stk_g1" {
			t.Errorf("candidates %+v", c)
		}
	}
	placed, err := place(false, here, func(a *run.Placing) { a.Explain = true })
	if err != nil || !placed.Local || len(placed.Candidates) != 2 {
		t.Errorf("explained: %+v %v", placed, err)
	}

	h.mustPut(t, "tnt_demo", placement.Route{ID: "rte_g", Match: placement.Match{AgentID: agentID}, Targets: to("globex"), LostAfterMS: 9000})
	h.mustPut(t, "tnt_demo", placement.Route{ID: "rte_n", Match: placement.Match{AgentID: "agt_nowhere"}, Targets: to("nobody")})
	for _, fresh := range []bool{false, true} {
		placed, err := place(fresh)
		want := []run.Target{{PeeringID: "prg_globex", Organization: "globex", ClusterID: "clu_globex", StackID: "stk_g1", TenantID: "tnt_globex", RouteID: "rte_g", LostAfterMS: 9000}}
		if err != nil || placed.Local || !slices.Equal(placed.Targets, want) {
			t.Errorf("routed: %+v %v", placed, err)
		}
	}
	if placed, err := place(false, here); err != nil || !placed.Local || placed.Candidates != nil {
		t.Errorf("an agent that no route is for: %+v %v", placed, err)
	}
	_, err = place(false, func(a *run.Placing) { a.AgentID = "agt_nowhere" })
	if e := fault.Of(err); !fault.Is(err, fault.UnsupportedCapability) || !slices.Equal(e.Details["missing"].([]string), []string{"peering:nobody"}) {
		t.Errorf("a route to nobody: %v %v", err, e.Details)
	}
	if _, err := place(false, func(a *run.Placing) { a.AgentID, a.Selector = "agt_x", &run.Selector{} }); !fault.Is(err, fault.UnsupportedCapability) {
		t.Errorf("a selector that matches nothing: %v", err)
	}
}

// unasked are agents that nobody may look at.
type unasked struct{ t *testing.T }

func (u unasked) GetAgent(context.Context, storage.Read, string, string) (*agent.Agent, uint64, error) {
	u.t.Error("the store was asked for the agent")
	return nil, 0, fault.New(fault.NotFound, "There is no such agent.")
}

// TestPlacer_abroad: where a route leads to others alone, whether there is such an agent here is not looked at.
func TestPlacer_abroad(t *testing.T) {
	h := mustHouse(t)
	h.mustPut(t, "tnt_demo", placement.Route{ID: "rte_g", Match: placement.Match{AgentID: agentID}, Targets: to("globex")})
	p := h.placer(func(o *placement.Options) { o.Agents = unasked{t} })
	placed, err := p.Place(t.Context(), asked(), false)
	if err != nil || placed.Local || len(placed.Targets) != 1 || placed.RouteID != "rte_g" || !placed.Live {
		t.Errorf("placed %+v, %v", placed, err)
	}
	if _, _, _, err := h.catalog.PutAgent(t.Context(), by("tnt_demo"), agent.Agent{ID: agentID}); err != nil {
		t.Fatal(err)
	}
	if again, err := h.placer().Place(t.Context(), asked(), true); err != nil || !slices.Equal(again.Targets, placed.Targets) {
		t.Errorf("with a look, and the agent here too: %+v, %v", again, err)
	}
}

// TestPlacer_tier: a route for a tier is asked about the agent's own, which takes a look at it.
func TestPlacer_tier(t *testing.T) {
	h := mustHouse(t)
	p := h.placer(func(o *placement.Options) {
		far := peer("globex", "stk_g1", func(q *placement.Peer) { q.Capabilities.Agents = nil })
		o.Peers, o.Peerings = peers{far}, peers{far}
	})
	for id, model := range map[string]string{"agt_p": "tier:premium", "agt_f": "tier:fast", "agt_m": "builtin/echo-1"} {
		if _, _, _, err := h.catalog.PutAgent(t.Context(), by("tnt_demo"), agent.Agent{ID: id, ModelRef: model}); err != nil {
			t.Fatal(err)
		}
	}
	h.mustPut(t, "tnt_demo", placement.Route{ID: "rte_p", Match: placement.Match{ModelTier: "premium"}, Targets: to("globex")})
	for id, local := range map[string]bool{"agt_p": false, "agt_f": true, "agt_m": true} {
		a := asked()
		a.AgentID = id
		if placed, err := p.Place(t.Context(), a, false); err != nil || placed.Local != local {
			t.Errorf("%s: %+v %v", id, placed, err)
		}
	}
}

func TestPlacer_Explain(t *testing.T) {
	h := mustHouse(t)
	p := h.placer()
	placed, err := p.Explain(t.Context(), asked())
	if err != nil || placed.Local || len(placed.Targets) > 0 || len(placed.Candidates) != 2 || placed.Candidates[0].Chosen {
		t.Fatalf("no agent and no route: %+v %v", placed, err)
	}
	h.mustPut(t, "tnt_demo", placement.Route{ID: "rte_g", Targets: to("globex")})
	explained, err := p.Explain(t.Context(), asked())
	if err != nil {
		t.Fatal(err)
	}
	placed, err = p.Place(t.Context(), asked(), false)
	if diff := cmp.Diff(placed, explained); diff != "" || err != nil {
		t.Errorf("what is explained is not what is done: %s %v", diff, err)
	}
}

// TestPlacer_alone: a node that knows nobody places all the same.
func TestPlacer_alone(t *testing.T) {
	h := mustHouse(t)
	p := h.placer(func(o *placement.Options) { o.Peers, o.Peerings = nil, nil })
	h.mustPut(t, "tnt_demo", placement.Route{ID: "rte_g", Targets: to("globex")})
	if _, err := p.Place(t.Context(), asked(), false); !fault.Is(err, fault.UnsupportedCapability) {
		t.Errorf("a route to nobody: %v", err)
	}
}

// BenchmarkPlacer: what a create pays for there being routes at all. The first is what every run pays.
func BenchmarkPlacer(b *testing.B) {
	h := mustHouse(b)
	p := h.placer()
	for i := range 50 {
		h.mustPut(b, "tnt_other", placement.Route{ID: fmt.Sprint("rte_", i), Match: placement.Match{AgentID: "agt_x"}, Targets: to("globex")})
	}
	h.mustPut(b, "tnt_demo", placement.Route{ID: "rte_g", Match: placement.Match{AgentID: agentID}, Targets: to("globex")})
	for name, a := range map[string]run.Placing{
		"no routes": with(func(a *run.Placing) { a.Auth.TenantID = "tnt_none" }),
		"50 routes": with(func(a *run.Placing) { a.Auth.TenantID = "tnt_other" }),
		"routed":    asked(),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := p.Place(b.Context(), a, false); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func with(f func(*run.Placing)) run.Placing {
	a := asked()
	f(&a)
	return a
}
