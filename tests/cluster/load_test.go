package cluster_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

// load makes runs at all nodes of a cluster at once, each under a key of its own, and remembers what was acknowledged. A
// caller whose node does not answer turns to the next, under the same key, as a client of a cluster does.
type load struct {
	tenant  *harness.Tenant
	clients []*harness.Client
	prefix  string
	text    func(w, i int) string

	mu     sync.Mutex
	runs   map[string]string // key → run id
	acks   int
	onAck  func(n int)
	served []time.Time
}

func newLoad(c *harness.Cluster, tn *harness.Tenant, prefix string, text func(w, i int) string) *load {
	return &load{tenant: tn, clients: c.Clients(tn.Key), prefix: prefix, text: text, runs: make(map[string]string)}
}

// run keeps workers busy until ctx ends; each sees its last create through.
func (l *load) run(ctx context.Context, t *testing.T, workers int) {
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				l.create(t, w, i)
			}
		})
	}
	wg.Wait()
}

func (l *load) create(t *testing.T, w, i int) {
	key, text := fmt.Sprintf("%s-%d-%d", l.prefix, w, i), l.text(w, i)
	at := w
	var last harness.Answer
	var lastErr error
	if !harness.Poll(bound, 10*time.Millisecond, func() bool {
		c := l.clients[at%len(l.clients)]
		ctx, cancel := context.WithTimeout(context.Background(), 12*time.Second)
		defer cancel()
		a, err := c.Try(ctx, "POST", "/v1/agents/"+l.tenant.Agent+"/runs", harness.Body(text, nil), "Idempotency-Key", key)
		last, lastErr = a, err
		if err == nil && (a.Status == 200 || a.Status == 201) {
			l.acked(key, a.Str("run.run_id"))
			return true
		}
		if err == nil && a.Status != 503 {
			t.Errorf("create %s: %d %s", key, a.Status, a.Body)
			return true
		}
		at++
		return false
	}) {
		t.Errorf("create %s: no node took it within %v: %d %s %v", key, bound, last.Status, last.Body, lastErr)
	}
}

func (l *load) acked(key, runID string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.runs[key] = runID
	l.served = append(l.served, time.Now())
	l.acks++
	if l.onAck != nil {
		l.onAck(l.acks)
	}
}

// gap is the longest time after from without an acknowledgement.
func (l *load) gap(from time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	longest, last := time.Duration(0), from
	for _, at := range l.served {
		if at.After(from) {
			longest, last = max(longest, at.Sub(last)), at
		}
	}
	return longest
}

// check follows every acknowledged run to its end, at node i%n: it must be there, whole, completed, and no effect of it
// done twice.
func (l *load) check(t *testing.T) {
	t.Helper()
	type job struct{ key, id string }
	jobs := make(chan job)
	var wg sync.WaitGroup
	var mu sync.Mutex
	effects := map[string]string{}
	seen := map[string]string{}
	for w := range 6 {
		wg.Go(func() {
			c := l.clients[w%len(l.clients)]
			for j := range jobs {
				var events []harness.Event
				var err error
				harness.Poll(bound, 50*time.Millisecond, func() bool { // a node that has just thawed may say 503 for a moment
					events, err = c.TryJournal(j.id, bound)
					return err == nil || !strings.Contains(err.Error(), "status 503")
				})
				if err == nil {
					err = harness.CheckJournal(events)
				}
				if err == nil && events[len(events)-1].Type != "agentos.run.completed" {
					err = fmt.Errorf("it ended with %s", events[len(events)-1].Raw)
				}
				if err != nil {
					t.Errorf("run %s of key %s at node %d: %v\n%v", j.id, j.key, w%len(l.clients), err, harness.Types(events))
					continue
				}
				mu.Lock()
				if other, twice := seen[j.id]; twice {
					t.Errorf("keys %s and %s are both run %s", j.key, other, j.id)
				}
				seen[j.id] = j.key
				for _, e := range events {
					if e.Type != "agentos.tool.call.completed" {
						continue
					}
					if other, twice := effects[e.Str("tool_call_id")]; twice {
						t.Errorf("effect %s was completed in %s and %s", e.Str("tool_call_id"), other, j.id)
					}
					effects[e.Str("tool_call_id")] = j.id
				}
				mu.Unlock()
			}
		})
	}
	for key, id := range l.runs {
		jobs <- job{key, id}
	}
	close(jobs)
	wg.Wait()
}

// mixed are runs of several kinds, so that a fault meets them in every stage.
func mixed(w, i int) string {
	switch (w + i) % 4 {
	case 0:
		return fmt.Sprintf("/call tool.kv.put {\"key\":\"w%d\",\"value\":%d}\n/call tool.kv.get {\"key\":\"w%d\"}\n/say done", w, i, w)
	case 1:
		return fmt.Sprintf("/wait %dms\n/call tool.echo {\"w\":%d}\n/wait %dms\n/say done", 10+i%90, w, i%40)
	case 2:
		return "/call tool.echo {\"a\":1}\n/call tool.echo {\"a\":2}\n/call tool.echo {\"a\":3}"
	}
	return "/tokens 30"
}
