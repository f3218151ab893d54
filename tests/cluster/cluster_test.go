package cluster_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

// Every node serves every run, and every run's stream: the same bytes.
//
// Requirements: N6.
func TestCluster_EveryNodeServesEveryRun(t *testing.T) {
	t.Parallel()
	c := harness.NewCluster(t, suite.Binary(t), &starter, 3)
	tn := harness.NewTenant(t, c.Admin(t, 0), nil)
	clients := c.Clients(tn.Key)
	for i, asked := range clients {
		a := asked.Want(t, 201, "POST", "/v1/agents/"+tn.Agent+"/runs", harness.Body("/call tool.echo {\"a\":1}\n/wait 300ms\n/say done", nil))
		id := a.Str("run.run_id")
		var journals [3]string
		var wg sync.WaitGroup
		for j, at := range clients {
			wg.Go(func() {
				events, err := at.TryJournal(id, 25*time.Second)
				if err == nil {
					err = harness.CheckJournal(events)
				}
				if err != nil {
					t.Errorf("run made at %d, followed at %d: %v", i, j, err)
				}
				for _, e := range events {
					journals[j] += e.Raw + "\n"
				}
			})
		}
		wg.Wait()
		for j := range journals {
			if journals[j] != journals[0] {
				t.Errorf("node %d tells another journal than node 0:\n%s\n%s", j, journals[j], journals[0])
			}
			if got := clients[j].Want(t, 200, "GET", "/v1/runs/"+id, nil).Str("run.output.text"); got != "done" {
				t.Errorf("node %d: output %q", j, got)
			}
		}
	}
	c.Equal(t)
}

// One idempotency key is one run, whichever nodes are asked and while the leader dies.
//
// Requirements: N3, N6, Q3.
func TestCluster_OneKeyOneRun(t *testing.T) {
	t.Parallel()
	c := harness.NewCluster(t, suite.Binary(t), &starter, 3)
	tn := harness.NewTenant(t, c.Admin(t, 0), nil)
	clients := c.Clients(tn.Key)
	for round := range rounds(2, 20) {
		leader := c.Leader(t)
		ids := make([]string, 50)
		var wg sync.WaitGroup
		var asked atomic.Int32
		key := fmt.Sprintf("one-%d", round)
		for i := range ids {
			wg.Go(func() {
				// A caller whose node is gone asks another: that's what the key is for.
				harness.Poll(bound, 20*time.Millisecond, func() bool {
					at := clients[(i+int(asked.Add(1)))%len(clients)]
					a, err := at.Try(context.Background(), "POST", "/v1/agents/"+tn.Agent+"/runs", harness.Body("/say once", nil), "Idempotency-Key", key)
					if err == nil && (a.Status == 200 || a.Status == 201) {
						ids[i] = a.Str("run.run_id")
						return true
					}
					return false
				})
			})
			if i == 10 {
				wg.Go(func() { leader.Kill(t) })
			}
		}
		wg.Wait()
		for i, id := range ids {
			if id == "" || id != ids[0] {
				t.Fatalf("round %d: caller %d was told run %q, the first %q", round, i, id, ids[0])
			}
		}
		leader.Launch(t)
		leader.AwaitReady(t)
	}
	a := c.Clients(tn.Key)[0].Want(t, 200, "GET", "/v1/runs?limit=500&consistency=linearizable", nil)
	if runs, _ := a.At("runs").([]any); len(runs) != rounds(2, 20) {
		t.Errorf("%d runs, want %d", len(runs), rounds(2, 20))
	}
	c.Equal(t)
}

// A limit of ten admits ten, though three nodes are asked at once.
//
// Requirements: T4, Q3.
func TestCluster_LimitIsExact(t *testing.T) {
	t.Parallel()
	c := harness.NewCluster(t, suite.Binary(t), &starter, 3)
	quotas := harness.Wide()
	quotas["runs"] = map[string]any{"max_concurrent_runs": 10}
	tn := harness.NewTenant(t, c.Admin(t, 0), quotas)
	clients := c.Clients(tn.Key)
	var admitted, refused atomic.Int32
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			a, err := clients[i%3].Try(context.Background(), "POST", "/v1/agents/"+tn.Agent+"/runs", harness.Body("/wait 10m", nil))
			switch {
			case err != nil:
				t.Error(err)
			case a.Status == 201:
				admitted.Add(1)
			case a.Status == 429 && a.Code() == "rate_limited" && a.Header.Get("Retry-After") != "":
				refused.Add(1)
			default:
				t.Errorf("%d %s", a.Status, a.Body)
			}
		})
	}
	wg.Wait()
	if admitted.Load() != 10 || refused.Load() != 90 {
		t.Errorf("%d admitted, %d refused; want 10 and 90", admitted.Load(), refused.Load())
	}
}

// Without a quorum, what is there can be read and is marked stale, what can't be written says why, and the quorum's return
// heals it without a hand.
//
// Requirements: N3, Q3.
func TestCluster_QuorumLost(t *testing.T) {
	t.Parallel()
	c := harness.NewCluster(t, suite.Binary(t), &starter, 3)
	tn := harness.NewTenant(t, c.Admin(t, 0), nil)
	kept := tn.Create(t, "kept", nil)
	tn.Journal(t, kept)
	c.Equal(t)
	// A node that starts alone knows of each write by the next one that it's committed.
	tn.Journal(t, tn.Create(t, "the next", nil))
	c.Equal(t)
	survivor := c.Nodes[2]
	c.Nodes[0].Kill(t)
	c.Nodes[1].Kill(t)
	at := harness.NewClient(survivor.URL(), tn.Key)
	readable(t, at, kept)
	a := at.Do(t, "POST", "/v1/agents/"+tn.Agent+"/runs", harness.Body("lost?", nil), "Idempotency-Key", "later")
	if err := a.CheckError(503, "dependency_unavailable"); err != nil || a.Str("error.details.service") != "quorum" {
		t.Errorf("a create without a quorum: %v; %s", err, a.Body)
	}
	if a := at.Do(t, "GET", "/v1/runs/"+kept+"?consistency=linearizable", nil); a.Status != 503 {
		t.Errorf("a linearizable read without a quorum: %d %s", a.Status, a.Body)
	}

	// All of them gone, and one started alone: keys still work for reads.
	survivor.Kill(t)
	survivor.Launch(t)
	if !harness.Poll(bound, 50*time.Millisecond, func() bool {
		a, err := at.Try(context.Background(), "GET", "/v1/runs/"+kept, nil)
		return err == nil && a.Status == 200
	}) {
		t.Fatalf("a node alone does not serve reads:\n%s", survivor.Output())
	}
	readable(t, at, kept)

	c.Nodes[0].Launch(t)
	c.Nodes[1].Launch(t)
	if !harness.Poll(bound, 50*time.Millisecond, func() bool {
		a, err := at.Try(context.Background(), "POST", "/v1/agents/"+tn.Agent+"/runs", harness.Body("lost?", nil), "Idempotency-Key", "later")
		return err == nil && (a.Status == 201 || a.Status == 200)
	}) {
		t.Fatal("the quorum is back, and nothing can be written")
	}
	c.AwaitVoters(t, 3)
	c.Equal(t)
}

// readable checks a read and a stream at a node that has no leader.
func readable(t *testing.T, at *harness.Client, runID string) {
	t.Helper()
	var a harness.Answer
	if !harness.Poll(bound, 50*time.Millisecond, func() bool {
		a = at.Do(t, "GET", "/v1/runs/"+runID, nil)
		return a.Header.Get("X-AgentOS-Stale") == "true"
	}) || a.Status != 200 {
		t.Errorf("a read without a leader: %d, stale %q: %s", a.Status, a.Header.Get("X-AgentOS-Stale"), a.Body)
	}
	at.Journal(t, runID)
}
