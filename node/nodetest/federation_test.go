package nodetest_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nexixai/agentos/api/client"
	"github.com/nexixai/agentos/node/nodetest"
)

const summarizer = "agt_globex_summarizer_v1"

var grantScopes = []string{"runs:create", "runs:read", "runs:cancel", "events:read", "tools:invoke", "models:invoke", "memory:read", "memory:write"}

// befriend pairs acme and globex, gives globex an agent, and acme a route to it.
func befriend(t *testing.T, acme, globex *nodetest.Cluster) {
	t.Helper()
	lead(t, acme, globex)
	if _, err := globex.Node(0).Client().PutAgent(t.Context(), summarizer, client.Agent{Name: "Summarizer", ModelRef: "builtin/echo-1"}); err != nil {
		t.Fatal(err)
	}
}

// lead pairs two organisations, and leads runs of the agent from one to the other.
func lead(t *testing.T, from, to *nodetest.Cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	id := pair(t, from.Node(0), to.Node(0))
	_, err := to.Node(0).Client().PutExports(ctx, id, []client.Grant{{TenantID: tenant, LocalTenantID: tenant, Scopes: grantScopes}})
	if err == nil {
		_, err = from.Node(0).Client().PutRoute(ctx, "rte_"+to.Organization, client.Route{
			Match: client.RouteMatch{AgentID: summarizer}, Targets: []client.RouteTarget{{Organization: to.Organization}},
		})
	}
	if err != nil {
		t.Fatal(err)
	}
}

const tenant = "tnt_demo"

// forwarded makes a run of the agent that only globex has, at n.
func forwarded(t *testing.T, n *nodetest.Node, text, key string) *client.Run {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		r, err := n.Client().With(client.Call{IdempotencyKey: key}).CreateRun(ctx, summarizer, client.RunCreate{Input: client.Text{Text: text}})
		if err == nil {
			return r
		}
		if !strings.Contains(err.Error(), "unsupported_capability") || ctx.Err() != nil { // it has not been heard of globex yet
			t.Fatal(err)
		}
		wait(ctx, 20*time.Millisecond)
	}
}

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// journalAt reads a run's whole journal at a node: the ids of its events, in order.
func journalAt(t *testing.T, n *nodetest.Node, runID string) (ids []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for e, err := range n.Client().Follow(ctx, runID, 0) {
		if err != nil {
			t.Fatalf("%s at %s: %v", runID, n.Name, err)
		}
		if e.Delta() {
			continue
		}
		if e.Gap != nil || int(e.Event.Sequence) != len(ids)+1 {
			t.Fatalf("%s at %s: after %d events came %s", runID, n.Name, len(ids), e.Data)
		}
		ids = append(ids, fmt.Sprint(e.Event.Type, " ", e.Event.ID))
	}
	return ids
}

// TestFederation_Forward: a run goes to the other organisation and comes back whole, at every node, also when the link breaks
// meanwhile and after the executor is gone.
//
// Requirements: P5, P7.
func TestFederation_Forward(t *testing.T) {
	t.Parallel()
	network := nodetest.NewNetwork(t)
	acme, globex := network.NewOrg("acme", 3), network.NewOrg("globex", 1)
	befriend(t, acme, globex)
	r := forwarded(t, acme.Node(1), "hello over there", "key-1")
	want := journalAt(t, acme.Node(1), r.ID)
	if got, err := acme.Node(0).Client().GetRun(t.Context(), r.ID); err != nil || got.Status != "completed" {
		t.Fatalf("ended as %+v, %+v, %v", got, got.Error, err)
	}
	if got := journalAt(t, globex.Node(0), r.ID); !slices.Equal(got, want) {
		t.Errorf("the journals differ:\n%s\n%s", strings.Join(want, "\n"), strings.Join(got, "\n"))
	}
	if again := forwarded(t, acme.Node(2), "hello over there", "key-1"); again.ID != r.ID {
		t.Errorf("one key made %s and %s", r.ID, again.ID)
	}
	got, err := acme.Node(0).Client().GetRun(t.Context(), r.ID)
	if err != nil || got.Status != "completed" || got.Output.Text != "echo: hello over there" || got.Placement.Organization != "globex" {
		t.Errorf("ended as %+v, %v", got, err)
	}

	long := forwarded(t, acme.Node(0), "/wait 300ms\n/wait 300ms\n/wait 300ms\n/say done", "")
	for _, n := range acme.Nodes() {
		n.Cut(globex.Node(0))
	}
	wait(t.Context(), 500*time.Millisecond)
	acme.Heal()
	want = journalAt(t, acme.Node(2), long.ID)
	globex.Node(0).Stop()
	for _, n := range acme.Nodes() {
		if got := journalAt(t, n, long.ID); !slices.Equal(got, want) {
			t.Errorf("at %s the journal is another:\n%s", n.Name, strings.Join(got, "\n"))
		}
	}
	if !strings.HasPrefix(want[len(want)-1], "agentos.run.completed") {
		t.Errorf("the run ended with %s", want[len(want)-1])
	}
}

// TestFederation_Hops: a run goes on from the second organisation to a third, and its events come all the way back.
//
// Requirements: P5, P7.
func TestFederation_Hops(t *testing.T) {
	t.Parallel()
	network := nodetest.NewNetwork(t)
	acme, globex, initech := network.NewOrg("acme", 1), network.NewOrg("globex", 1), network.NewOrg("initech", 1)
	lead(t, acme, globex)
	befriend(t, globex, initech)
	forwarded(t, globex.Node(0), "as soon as it knows initech", "")
	r := forwarded(t, acme.Node(0), "far away", "")
	want := journalAt(t, acme.Node(0), r.ID)
	for _, c := range []*nodetest.Cluster{globex, initech} {
		if got := journalAt(t, c.Node(0), r.ID); !slices.Equal(got, want) {
			t.Errorf("at %s the journal is another:\n%s\n%s", c.Organization, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	got, err := acme.Node(0).Client().GetRun(t.Context(), r.ID)
	if err != nil || got.Status != "completed" || got.Output.Text != "echo: far away" {
		t.Errorf("ended as %+v, %v", got, err)
	}
	for _, c := range []*nodetest.Cluster{globex, initech} { // whose streams have told the end: it has gone from origin to origin that it counts
		if there, err := c.Node(0).Client().GetRun(t.Context(), r.ID); err != nil || there.Status != "completed" || there.Placement.Superseded {
			t.Errorf("at %s it's shown as %+v, %v", c.Organization, there, err)
		}
	}
	between, err := globex.Node(0).Client().GetRun(t.Context(), r.ID)
	if err != nil || between.Placement.Organization != "initech" || between.Placement.ForwardedFrom != "acme" {
		t.Errorf("on its way it is %+v, %v", between, err)
	}
}
