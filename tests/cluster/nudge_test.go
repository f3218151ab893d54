package cluster_test

import (
	"slices"
	"testing"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

// An event that the leader appends is at a watcher of an idle follower within about the time of the leader's own answer:
// raft by itself would tell the follower some 50 ms later. The median is printed; only a ratio that no busy machine
// explains fails.
func TestCluster_FollowerHearsSoon(t *testing.T) {
	c := harness.NewCluster(t, suite.Binary(t), &starter, 3, "--timing=standard")
	tn := harness.NewTenant(t, c.Admin(t, 0), nil)
	leader, follower := c.Leader(t).Client(tn.Key), c.Follower(t).Client(tn.Key)
	var answers, arrivals []time.Duration
	for range 60 {
		id := leader.Want(t, 201, "POST", "/v1/agents/"+tn.Agent+"/runs", harness.Body("/wait 10m", nil)).Str("run.run_id")
		s := follower.Follow(t, id, "")
		for types := ""; types != "agentos.model.requested"; { // then nothing more happens by itself
			f, err := s.Next(bound)
			if err != nil {
				t.Fatal(err)
			}
			events, err := harness.Stored([]harness.Frame{f})
			if err != nil {
				t.Fatal(err)
			}
			if len(events) == 1 {
				types = events[0].Type
			}
		}
		arrived := make(chan time.Time, 1)
		go func() {
			if _, err := s.Next(bound); err == nil {
				arrived <- time.Now()
			}
			close(arrived)
		}()
		begun := time.Now()
		leader.Want(t, 200, "POST", "/v1/runs/"+id+":cancel", nil)
		answers = append(answers, time.Since(begun))
		at, ok := <-arrived
		if !ok {
			t.Fatal("the watcher heard nothing of the cancel")
		}
		arrivals = append(arrivals, at.Sub(begun))
		s.Close()
	}
	slices.Sort(answers)
	slices.Sort(arrivals)
	answer, arrival := answers[len(answers)/2], arrivals[len(arrivals)/2]
	t.Logf("the leader answers after %v, the follower's watcher has it after %v: %.1f times (p50 of %d)", answer, arrival, float64(arrival)/float64(answer), len(answers))
	if arrival > 10*answer {
		t.Errorf("a follower's watcher hears after %v, the leader's own answer takes %v", arrival, answer)
	}
}
