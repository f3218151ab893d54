package conformance_test

import (
	"context"
	"testing"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

// TestAnswers_ThreeNodes judges what one node alone can't answer: that the lead was handed on, and that there is no leader.
//
// Requirements: Q1.
func TestAnswers_ThreeNodes(t *testing.T) {
	w := newWorld(t)
	c := harness.NewCluster(t, suite.Binary(t), new(harness.Starter), 3)
	c.AwaitVoters(t, 3)
	root := c.Leader(t).Client(c.AdminKey(t))
	w.want(t, 200, w.at(t, "POST /v1/admin/cluster:transfer-leader"), request{as: root, body: object{}})
	w.want(t, 200, w.at(t, "GET /v1/admin/cluster"), request{as: root})

	for _, n := range c.Nodes[1:] {
		n.Kill(t)
	}
	left := c.Nodes[0].Client(c.AdminKey(t))
	if !harness.Poll(soon, 100*time.Millisecond, func() bool {
		a, err := left.Try(context.Background(), "GET", "/v1/agents?consistency=stale", nil)
		return err == nil && a.Header.Get("X-AgentOS-Stale") == "true" && left.Do(t, "GET", "/readyz", nil).Status == 503
	}) {
		t.Fatal("a node that is left alone does not say so")
	}
	w.want(t, 503, w.at(t, "GET /readyz"), request{as: left})
	w.want(t, 200, w.at(t, "GET /v1/admin/cluster"), request{as: left})
	w.want(t, 200, w.at(t, "GET /v1/agents"), request{as: left, query: "consistency=stale"})
	for _, name := range []string{"GET /v1/agents", "PUT /v1/agents/{agent_id}", "POST /v1/federation/peerings", "POST /v1/admin/backup"} {
		r := request{as: left, params: map[string]string{"agent_id": "agt_new"}, body: samples()[name](w).body}
		if name == "GET /v1/agents" {
			r.query = "consistency=linearizable"
		}
		if a := w.ask(t, w.at(t, name), r); a.Status < 500 && name != "POST /v1/admin/backup" {
			t.Errorf("%s without a leader: %d %.200s", name, a.Status, a.Body)
		}
	}
}
