package cluster_test

import (
	"testing"

	"github.com/nexixai/agentos/peer/cluster"
	"github.com/nexixai/agentos/storage/replica"
)

// A member may only be removed while those who stay can decide without it: from then on nobody speaks to it.
func TestDecidesWithout(t *testing.T) {
	t.Parallel()
	voter := func(id string) replica.Server { return replica.Server{ID: id, Voter: true} }
	nonvoter := func(id string) replica.Server { return replica.Server{ID: id} }
	three := []replica.Server{voter("a"), voter("b"), voter("c")}
	for _, c := range []struct {
		name    string
		servers []replica.Server
		leaving string
		answers []string
		want    bool
	}{
		{"one of two", []replica.Server{voter("a"), voter("b")}, "a", []string{"a", "b"}, true},
		{"the living of two", []replica.Server{voter("a"), voter("b")}, "a", []string{"a"}, false},
		{"one of three", three, "a", []string{"a", "b", "c"}, true},
		{"the dead of three", three, "a", []string{"b", "c"}, true},
		{"a living of three, one dead", three, "a", []string{"a", "b"}, false},
		{"a living of five, two dead", []replica.Server{voter("a"), voter("b"), voter("c"), voter("d"), voter("e")}, "a", []string{"a", "b", "c"}, false},
		{"without a vote", append([]replica.Server{nonvoter("d")}, three...), "d", []string{"a", "b"}, true},
		{"nobody of three, two dead", three, "", []string{"a"}, false},
		{"nobody of three, one dead", three, "", []string{"a", "b"}, true},
		{"the only voter", []replica.Server{voter("a"), nonvoter("b")}, "a", []string{"a", "b"}, false},
	} {
		answers := make(map[string]bool)
		for _, id := range c.answers {
			answers[id] = true
		}
		if got := cluster.DecidesWithout(c.servers, c.leaving, answers); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
