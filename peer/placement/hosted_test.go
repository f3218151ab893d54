package placement_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nexixai/agentos/peer/placement"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/tenancy"
)

// TestPlacer_Hosted: an agent is told of exactly when a run of it, with what some route matches, would be placed there.
func TestPlacer_Hosted(t *testing.T) {
	h := mustHouse(t)
	tell := func(ids ...string) func(*placement.Peer) {
		return func(p *placement.Peer) {
			p.Capabilities.Agents = nil
			for _, id := range ids {
				p.Capabilities.Agents = append(p.Capabilities.Agents, registry.AgentOffered{ID: id, Version: "v-" + p.StackID})
			}
		}
	}
	all := peers{
		peer("globex", "stk_g1", tell("agt_1", "agt_2")), peer("globex", "stk_g2", tell("agt_2")), peer("initech", "stk_i1", tell()),
		peer("hooli", "stk_h1", tell("agt_1", "agt_3"), func(p *placement.Peer) { p.Peering.Imports[0].Agents = []string{"agt_3"} }),
		peer("umbrella", "stk_u1", tell("agt_1"), func(p *placement.Peer) { p.Peering.State = registry.PeeringSuspended }),
	}
	p := h.placer(func(o *placement.Options) { o.Peers, o.Peerings = all, all })
	auth := &tenancy.Auth{TenantID: "tnt_demo", Principal: tenancy.Principal{ID: "usr_ann"}}
	if list, err := p.Hosted(t.Context(), auth); err != nil || list != nil {
		t.Errorf("without routes: %v %v", list, err)
	}
	h.mustPut(t, "tnt_demo", placement.Route{ID: "rte_1", Match: placement.Match{AgentID: "agt_1", Labels: map[string]string{"a": "b"}, Region: "eu-1", ModelTier: "premium"}, Targets: to("globex")})
	h.mustPut(t, "tnt_demo", placement.Route{ID: "rte_2", Match: placement.Match{AgentID: "agt_quiet"}, Targets: to("initech")})
	h.mustPut(t, "tnt_demo", placement.Route{ID: "rte_3", Match: placement.Match{DataClassification: "internal"}, Targets: []placement.Target{{StackID: "stk_g2"}, {Organization: "hooli"}, {Organization: "umbrella"}}})
	h.mustPut(t, "tnt_demo", placement.Route{ID: "rte_4", Match: placement.Match{AgentID: "agt_1", Region: "us-1"}, Targets: to("hooli")})
	list, err := p.Hosted(t.Context(), auth)
	want := []placement.Hosted{
		{AgentID: "agt_1", Version: "v-stk_g1", By: []placement.Host{{Organization: "globex", StackID: "stk_g1"}}},
		{AgentID: "agt_2", Version: "v-stk_g2", By: []placement.Host{{Organization: "globex", StackID: "stk_g2"}}},
		{AgentID: "agt_3", Version: "v-stk_h1", By: []placement.Host{{Organization: "hooli", StackID: "stk_h1"}}},
		{AgentID: "agt_quiet", By: []placement.Host{{Organization: "initech", StackID: "stk_i1"}}},
	}
	if diff := cmp.Diff(want, list); diff != "" || err != nil {
		t.Error(diff, err)
	}
	bound := *auth
	bound.PolicyContext.Region = "us-1"
	if list, err := p.Hosted(t.Context(), &bound); err != nil || len(list) != 0 {
		t.Errorf("to one who is bound to another region: %v %v", list, err)
	}
}

// BenchmarkPlacer_Hosted: the worst list there can be is made in a moment.
func BenchmarkPlacer_Hosted(b *testing.B) {
	h := mustHouse(b)
	var all peers
	for i := range 10 {
		all = append(all, peer(fmt.Sprint("org", i), fmt.Sprint("stk_", i), func(p *placement.Peer) {
			p.Capabilities.Agents = nil
			for j := range 500 {
				p.Capabilities.Agents = append(p.Capabilities.Agents, registry.AgentOffered{ID: fmt.Sprint("agt_", j)})
			}
		}))
	}
	for i := range placement.MaxRoutes {
		h.mustPut(b, "tnt_demo", placement.Route{ID: fmt.Sprint("rte_", i), Match: placement.Match{Labels: map[string]string{"n": fmt.Sprint(i)}}, Targets: to(fmt.Sprint("org", i%10))})
	}
	p := h.placer(func(o *placement.Options) { o.Peers, o.Peerings = all, all })
	for b.Loop() {
		if list, err := p.Hosted(b.Context(), &tenancy.Auth{TenantID: "tnt_demo"}); err != nil || len(list) != 500 {
			b.Fatal(len(list), err)
		}
	}
}
