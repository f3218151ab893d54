package federation_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

// bound is how long anything may take that should take no time, on a machine that is busy.
const bound = 60 * time.Second

// rounds is how often a fault is made: few times by default, many with AGENTOS_FAULTS=full.
func rounds(few, many int) int {
	if os.Getenv("AGENTOS_FAULTS") == "full" {
		return many
	}
	return few
}

// seeded returns a source of chance whose seed is printed.
func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

// allScopes are what a peer may be granted for runs.
var allScopes = []string{"runs:create", "runs:read", "runs:cancel", "events:read", "events:ingest", "tools:invoke", "models:invoke", "memory:read", "memory:write"}

// couple is two organisations that are paired: acme, whose tenant here sends its runs of an agent to globex, where it acts
// as the tenant there. Everything that acme asks of globex goes through the proxy.
type couple struct {
	acme, globex *harness.Cluster
	proxy        *harness.Proxy
	peering      string
	here, there  *harness.Tenant
	route        string
}

// pairUp starts acme with count nodes and globex with one, and pairs them. args are for acme's first node.
func pairUp(t *testing.T, count int, args ...string) *couple {
	t.Helper()
	c := &couple{proxy: harness.NewProxy(t), route: "rte_globex"}
	c.globex = harness.NewOrganization(t, suite.Binary(t), &starter, "globex")
	c.globex.AddNode(t, "stk_globex_1", "--federation-advertise="+c.proxy.Addr())
	c.proxy.To(c.globex.Nodes[0].FederationAddr())
	c.acme = harness.NewOrganization(t, suite.Binary(t), &starter, "acme")
	for i := range count {
		c.acme.AddNode(t, fmt.Sprintf("stk_acme_%d", i+1), args...)
		args = nil
	}
	c.acme.AwaitVoters(t, count)
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		for _, n := range append(c.globex.Nodes, c.acme.Nodes...) {
			out := n.Output()
			t.Logf("%s printed at last:\n%s", n.Name, out[max(0, len(out)-4000):])
		}
	})
	a, g := c.acme.Admin(t, 0), c.globex.Admin(t, 0)
	c.peering = invite(t, a, g)
	c.here, c.there = harness.NewTenant(t, a, nil), harness.NewTenant(t, g, nil)
	c.grant(t, nil)
	c.lead(t, nil)
	c.awaitRoute(t)
	return c
}

// invite has two organisations' administrators pair them, and returns the peering's id.
func invite(t *testing.T, inviter, accepter *harness.Client) string {
	t.Helper()
	invited := inviter.Want(t, 201, "POST", "/v1/federation/peerings", map[string]any{"ttl_seconds": 600})
	accepter.Want(t, 201, "POST", "/v1/federation/peerings", map[string]any{
		"token": invited.Str("token"), "expect_fingerprint": invited.Str("peering.fingerprints.ours"),
	})
	return invited.Str("peering.peering_id")
}

// grant lets here act as there, with more members of the grant.
func (c *couple) grant(t *testing.T, more map[string]any) {
	t.Helper()
	g := map[string]any{"tenant_id": c.here.ID, "local_tenant_id": c.there.ID, "scopes": allScopes}
	for k, v := range more {
		g[k] = v
	}
	c.globex.Admin(t, 0).Want(t, 200, "PUT", "/v1/federation/peerings/"+c.peering+"/exports", map[string]any{"exports": []any{g}})
}

// lead routes here's runs of there's agent to globex, with more members of the route.
func (c *couple) lead(t *testing.T, more map[string]any) {
	t.Helper()
	r := map[string]any{"match": map[string]any{"agent_id": c.there.Agent}, "targets": []any{map[string]any{"organization": "globex"}}}
	for k, v := range more {
		r[k] = v
	}
	a := c.here.Do(t, "PUT", "/v1/federation/routes/"+c.route, map[string]any{"route": r})
	if a.Status/100 != 2 {
		t.Fatalf("route: %d %s", a.Status, a.Body)
	}
}

// awaitRoute waits until every node of acme's knows that globex would take here's runs.
func (c *couple) awaitRoute(t *testing.T) {
	t.Helper()
	for i := range c.acme.Nodes {
		cl := c.at(i)
		var last harness.Answer
		if !harness.Poll(bound, 50*time.Millisecond, func() bool {
			var err error
			last, err = cl.Try(context.Background(), "POST", "/v1/federation/routes:explain", map[string]any{"run_request": map[string]any{"agent_id": c.there.Agent}})
			return err == nil && last.Status == 200 && last.At("decision.target") != nil
		}) {
			t.Fatalf("%s leads nowhere: %s", c.acme.Nodes[i].Name, last.Body)
		}
		cl.Close()
	}
}

// at is here's client of acme's node i.
func (c *couple) at(i int) *harness.Client { return c.acme.Nodes[i].Client(c.here.Key) }

// create makes a run of there's agent at acme's node i.
func (c *couple) create(t *testing.T, i int, text string, headers ...string) string {
	t.Helper()
	id, err := c.tryCreate(i, text, headers...)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func (c *couple) tryCreate(i int, text string, headers ...string) (string, error) {
	a, err := c.at(i).Try(context.Background(), "POST", "/v1/agents/"+c.there.Agent+"/runs", harness.Body(text, nil), headers...)
	if err == nil && a.Status/100 != 2 {
		err = fmt.Errorf("create: %d %s", a.Status, a.Body)
	}
	return a.Str("run.run_id"), err
}

// tell reads a run's journal at a node to its end, and checks it.
func tell(t *testing.T, c *harness.Client, runID string) []harness.Event {
	t.Helper()
	events, err := tryTell(c, runID)
	if err != nil {
		t.Fatal(err)
	}
	return events
}

func tryTell(c *harness.Client, runID string) ([]harness.Event, error) {
	events, err := c.TryJournal(runID, bound)
	if err == nil {
		err = harness.CheckJournal(events)
	}
	if err != nil {
		err = fmt.Errorf("journal of %s at %s: %w\n%v", runID, c.Base, err, harness.Types(events))
	}
	return events, err
}

// same reports how two journals of one run differ, by the ids and types of their events; "" when they don't.
func same(a, b []harness.Event) string {
	list := func(events []harness.Event) string {
		var out strings.Builder
		for _, e := range events {
			fmt.Fprintf(&out, "%d %s %s\n", *e.Sequence, e.ID, e.Type)
		}
		return out.String()
	}
	if x, y := list(a), list(b); x != y {
		return "one is\n" + x + "the other\n" + y
	}
	return ""
}

// await waits until a run at a node satisfies ok.
func await(t *testing.T, c *harness.Client, runID string, ok func(a harness.Answer) bool) harness.Answer {
	t.Helper()
	var last harness.Answer
	if !harness.Poll(bound, 20*time.Millisecond, func() bool {
		var err error
		last, err = c.Try(context.Background(), "GET", "/v1/runs/"+runID, nil)
		return err == nil && last.Status == 200 && ok(last)
	}) {
		t.Fatalf("%s at %s has not come to be: %d %s", runID, c.Base, last.Status, last.Body)
	}
	return last
}

func final(a harness.Answer) bool {
	switch a.Str("run.status") {
	case "completed", "failed", "canceled":
		return true
	}
	return false
}

func status(want string) func(harness.Answer) bool {
	return func(a harness.Answer) bool { return a.Str("run.status") == want }
}

// runsOf are the ids of all runs that a tenant lists at a node.
func runsOf(t *testing.T, c *harness.Client) map[string]int {
	t.Helper()
	found := make(map[string]int)
	for cursor := ""; ; {
		a := c.Want(t, 200, "GET", "/v1/runs?limit=100&cursor="+cursor, nil)
		runs, _ := a.At("runs").([]any)
		for _, r := range runs {
			id, _ := harness.At(r, "run_id").(string)
			found[id]++
		}
		if cursor = a.Str("next_cursor"); cursor == "" {
			return found
		}
	}
}
