package faults_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

// counter is a web service that counts how often it was asked for each thing: a path of its own for what has no effect id
// (fetches), the effect id for what has one (webhooks).
type counter struct {
	mu    sync.Mutex
	calls map[string]int
}

func (c *counter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	c.calls[r.URL.Path+" "+r.Header.Get("Idempotency-Key")]++
	c.mu.Unlock()
	timer := time.NewTimer(3 * time.Millisecond) // long enough for a kill to fall into it
	select {
	case <-timer.C:
	case <-r.Context().Done():
	}
	_, _ = w.Write([]byte(`{"ok":true}`))
}

// tools makes two webhooks that differ in one word, and lets the tenant's agent use them.
func (c *counter) tools(t *testing.T, tn *harness.Tenant) {
	t.Helper()
	ids := []string{"tool.http.fetch"}
	for name, idempotent := range map[string]bool{"once": false, "again": true} {
		ids = append(ids, "tool."+name)
		tn.Want(t, 201, "PUT", "/v1/tools/tool."+name, map[string]any{"tool": map[string]any{
			"kind": "http", "description": "counts", "input_schema": map[string]any{"type": "object"}, "idempotent": idempotent,
			"config": map[string]any{"url": "http://" + harness.OutsideAddress + "/" + name},
		}})
	}
	tn.Want(t, 200, "PUT", "/v1/agents/"+tn.Agent, map[string]any{"agent": map[string]any{
		"name": "caller", "version": "2", "status": "active", "model_ref": "tier:fast", "instructions": "Call.", "tool_ids": ids,
	}})
}

// serve answers on the address that looks foreign.
func (c *counter) serve(t *testing.T) {
	t.Helper()
	listener, err := net.Listen("tcp", harness.OutsideAddress+":80")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: c}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
}

// check compares what arrived with what the journals say was done. It returns how many calls were repeats of one that may
// be repeated.
func (c *counter) check(done map[string][]string) (repeated int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for call, n := range c.calls {
		switch {
		case strings.HasPrefix(call, "/again "):
			repeated += n - 1
		case n > 1:
			errs = append(errs, fmt.Errorf("%w: %q was called %d times", errWrong, call, n))
		}
	}
	for tool, ids := range done {
		for _, id := range ids {
			if c.calls["/"+tool+" "+id] == 0 {
				errs = append(errs, fmt.Errorf("%w: effect %s of tool.%s is journaled as done, and no call arrived", errWrong, id, tool))
			}
		}
	}
	if len(c.calls) == 0 || len(done["once"]) == 0 || len(done["again"]) == 0 {
		errs = append(errs, errors.New("no call arrived at all: this test counts nothing"))
	}
	return repeated, errors.Join(errs...)
}

// A call to a tool that must not be repeated is sent at most once, however the node dies around it; when the outcome is
// unknown the run says so instead of trying again.
//
// Requirements: A2, Q3.
func TestKill_CallsOnce(t *testing.T) {
	t.Parallel()
	if !harness.Apart(t, suite.Binary(t), 5*time.Minute) {
		return
	}
	chance := seeded(t)
	c := &counter{calls: map[string]int{}}
	c.serve(t)
	d := harness.Up(t, suite.Binary(t))
	tn := harness.NewTenant(t, d.Admin(t), quotas())
	c.tools(t, tn)
	done := map[string][]string{}
	for round := range rounds(3, 20) {
		ctx, cancel := context.WithCancel(context.Background())
		l := &load{tenant: tn, prefix: fmt.Sprintf("once%d", round), texts: func(w, i int) string {
			return fmt.Sprintf(`/call tool.http.fetch {"url":"http://%s/%d/%d/%d","method":"POST","body":"{}"}`, harness.OutsideAddress, round, w, i) +
				"\n/call tool.once {}\n/call tool.again {}\n/say done"
		}}
		busy := make(chan struct{})
		threshold := 5 + chance.IntN(80)
		l.onAck = func(n int) {
			if n == threshold {
				close(busy)
			}
		}
		over := make(chan struct{})
		go func() {
			defer close(over)
			l.run(ctx, t, 12)
		}()
		await(t, busy, "load")
		d.Kill(t)
		await(t, over, "the end of the load")
		cancel()
		d.Up(t)
		tn.Client = d.Client(tn.Key)
		l.settle(t)
		outcomes := map[string]int{}
		for _, o := range l.ops {
			if o.runID == "" || o.text == "" {
				continue
			}
			events, err := tn.TryJournal(o.runID, bound)
			if err == nil {
				err = harness.CheckJournal(events)
			}
			if err != nil {
				t.Errorf("run %s: %v\n%v", o.runID, err, harness.Types(events))
				continue
			}
			for _, e := range events {
				if e.Type == "agentos.tool.call.completed" && e.Str("status") == "ok" {
					tool := strings.TrimPrefix(e.Str("tool_id"), "tool.")
					if tool != "http.fetch" {
						done[tool] = append(done[tool], e.Str("tool_call_id"))
					}
				}
			}
			outcomes[strings.TrimPrefix(events[len(events)-1].Type, "agentos.run.")+" "+events[len(events)-1].Str("error.code")]++
		}
		t.Logf("round %d: %d acknowledged, outcomes %v", round, l.acks, outcomes)
		if t.Failed() {
			return
		}
	}
	repeated, err := c.check(done)
	must(t, err)
	t.Logf("%d different calls, %d repeats of the one that may be repeated", len(c.calls), repeated)
	must(t, slots(tn, slotLimit))
}
