package node_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nexixai/agentos/api/client"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/node"
	"github.com/nexixai/agentos/node/nodetest"
)

// TestRoutes_everyNode: a route that one node has acknowledged is what every other node places by at once, also one whose
// copy is behind; and while it is there it is the rule at all of them.
//
// Requirements: P4.
func TestRoutes_everyNode(t *testing.T) {
	c := nodetest.New(t, 3)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for round := range 9 {
		asked, other := c.Node(round%3).Client(), c.Node((round+1+round/3)%3).Client()
		agentID, routeID := fmt.Sprint("agt_far_", round), fmt.Sprint("rte_", round)
		create := client.RunCreate{Input: client.Text{Text: "x"}}
		if _, err := other.CreateRun(ctx, agentID, create); !fault.Is(err, fault.NotFound) {
			t.Fatalf("no agent and no route: %v", err)
		}
		route := client.Route{Match: client.RouteMatch{AgentID: agentID}, Targets: []client.RouteTarget{{Organization: "globex"}}}
		if _, err := asked.PutRoute(ctx, routeID, route); err != nil {
			t.Fatal(err)
		}
		for _, at := range []*client.Client{other, asked} {
			if _, err := at.CreateRun(ctx, agentID, create); !fault.Is(err, fault.UnsupportedCapability) {
				t.Fatalf("round %d: a route to nobody, right after it was made: %v", round, err)
			}
			e, err := at.ExplainRoute(ctx, client.RouteExplain{AgentID: agentID})
			if err != nil || e.Decision.RouteID == nil || *e.Decision.RouteID != routeID || len(e.Candidates) != 4 {
				t.Fatalf("round %d: explained as %+v, %v", round, e, err)
			}
		}
		if err := asked.DeleteRoute(ctx, routeID); err != nil {
			t.Fatal(err)
		}
		if _, err := asked.CreateRun(ctx, agentID, create); !fault.Is(err, fault.NotFound) {
			t.Fatalf("round %d: after the route was deleted: %v", round, err)
		}
	}
	// A run that no route is for is not held up by those that are there.
	if _, err := c.Node(0).Client().PutRoute(ctx, "rte_red", client.Route{
		Match: client.RouteMatch{Labels: map[string]string{"team": "red"}}, Targets: []client.RouteTarget{{Organization: "globex"}},
	}); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Nodes() {
		r, err := n.Client().CreateRun(ctx, node.SampleAgentID, client.RunCreate{Input: client.Text{Text: "x"}})
		if err != nil || r.Placement.Organization != "acme" {
			t.Errorf("a run without the label: %+v, %v", r, err)
		}
	}
}
