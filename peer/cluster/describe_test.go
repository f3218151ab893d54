package cluster_test

import (
	"strings"
	"testing"

	"github.com/nexixai/agentos/peer/cluster"
)

// With two voters the warning says where the third is to come from.
func TestDescription_TwoVoters(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		third []cluster.MemberDescription
		want  string
	}{
		{"two nodes", nil, "let a third node join"},
		{"one drained", []cluster.MemberDescription{{StackID: "stk_c", Role: "nonvoter", Status: "alive", State: "draining"}}, "agentos cluster drain stk_c --undo"},
		{"one joining", []cluster.MemberDescription{{StackID: "stk_c", Role: "joining", Status: "alive", State: "active"}}, "stk_c becomes the third by itself, once it has caught up"},
		{"one without a vote yet", []cluster.MemberDescription{{StackID: "stk_c", Role: "nonvoter", Status: "alive", State: "active"}}, "stk_c becomes the third by itself, once it has caught up"},
		{"one joining and away", []cluster.MemberDescription{{StackID: "stk_c", Role: "joining", Status: "dead", State: "active"}}, "once it answers"},
		{"one drained, one joining", []cluster.MemberDescription{
			{StackID: "stk_c", Role: "nonvoter", Status: "alive", State: "draining"}, {StackID: "stk_d", Role: "joining", Status: "alive", State: "active"},
		}, "stk_d becomes the third"},
	} {
		leader := "stk_a"
		d := &cluster.Description{Leader: &leader, CanSign: true}
		for _, id := range []string{"stk_a", "stk_b"} {
			d.Members = append(d.Members, cluster.MemberDescription{StackID: id, Role: "voter", Status: "alive", State: "active"})
		}
		d.Members = append(d.Members, c.third...)
		d.Warn(2)
		if len(d.Warnings) != 1 || !strings.Contains(d.Warnings[0], "Two voters survive no failure") || !strings.Contains(d.Warnings[0], c.want) {
			t.Errorf("%s: %q, want %q", c.name, d.Warnings, c.want)
		}
	}
}
