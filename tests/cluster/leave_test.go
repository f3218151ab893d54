package cluster_test

import (
	"testing"

	"github.com/nexixai/agentos/tests/harness"
)

// A cluster may shrink to one node, also by the removal of the one that leads, which is asked for at that node itself: those
// who stay refuse its certificate from then on, so that it has to hand the office on before.
//
// Requirements: N3.
func TestCluster_RemoveTheLeader(t *testing.T) {
	t.Parallel()
	c := harness.NewCluster(t, suite.Binary(t), &starter, 3)
	tn := harness.NewTenant(t, c.Admin(t, 0), nil)
	for left := 2; left > 0; left-- {
		leader := c.Leader(t)
		admin := leader.Client(c.AdminKey(t))
		admin.Want(t, 204, "DELETE", "/v1/admin/cluster/members/"+leader.Name, nil)
		if code := leader.Wait(t); code == 0 {
			t.Errorf("%s was removed, and ended well", leader.Name)
		}
		c.AwaitVoters(t, left)
		at := c.Leader(t).Client(tn.Key)
		a := at.Want(t, 201, "POST", "/v1/agents/"+tn.Agent+"/runs", harness.Body("/say on", nil))
		at.Journal(t, a.Str("run.run_id"))
	}
	last := c.Leader(t)
	a := last.Client(c.AdminKey(t)).Do(t, "DELETE", "/v1/admin/cluster/members/"+last.Name, nil)
	if err := a.CheckError(409, "conflict"); err != nil {
		t.Errorf("the last member's removal: %v; %s", err, a.Body)
	}
	a = last.Client(c.AdminKey(t)).Do(t, "POST", "/v1/admin/cluster:transfer-leader", nil)
	if err := a.CheckError(409, "conflict"); err != nil {
		t.Errorf("a transfer with nobody to take the office: %v; %s", err, a.Body)
	}
	a = last.Client(c.AdminKey(t)).Do(t, "DELETE", "/v1/admin/cluster/members/stk_nobody", nil)
	if err := a.CheckError(404, "not_found"); err != nil {
		t.Errorf("a stranger's removal: %v; %s", err, a.Body)
	}
}
