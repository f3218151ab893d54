package faults_test

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

// slotLimit is the number of run slots of the tenant under load.
const slotLimit = 48

func quotas() map[string]any {
	q := harness.Wide()
	q["runs"] = map[string]any{"max_concurrent_runs": slotLimit}
	q["models"] = map[string]any{"token_budget": map[string]any{"window": "day", "max_tokens": 1_000_000_000}}
	return q
}

// mixed are runs of several kinds: tools that write, tools that only answer, waits, and long answers.
func mixed(w, i int) string {
	switch (w + i) % 4 {
	case 0:
		return fmt.Sprintf("/call tool.kv.put {\"key\":\"w%d\",\"value\":%d}\n/call tool.kv.get {\"key\":\"w%d\"}\n/say done", w, i, w)
	case 1:
		return fmt.Sprintf("/wait %dms\n/call tool.echo {\"w\":%d}\n/wait %dms\n/say done", 10+i%90, w, i%40)
	case 2:
		return "/call tool.echo {\"a\":1}\n/call tool.echo {\"a\":2}\n/call tool.echo {\"a\":3}"
	default:
		return "/tokens 30"
	}
}

// The node is killed at random moments under load and started again by `up`. Whatever it acknowledged is there and ends;
// whatever it did not can be asked for again under the same key.
func TestKill_Loop(t *testing.T) {
	t.Parallel()
	chance := seeded(t)
	d := harness.Up(t, suite.Binary(t))
	tn := harness.NewTenant(t, d.Admin(t), quotas())
	known := map[string]ended{}
	total := 0
	for round := range rounds(4, 20) {
		ctx, cancel := context.WithCancel(context.Background())
		l := &load{tenant: tn, texts: mixed, prefix: fmt.Sprintf("r%d", round)}
		busy := make(chan struct{})
		threshold := 1 + chance.IntN(300)
		l.onAck = func(n int) {
			if n == threshold {
				close(busy)
			}
		}
		over := make(chan struct{})
		go func() {
			defer close(over)
			l.run(ctx, t, 16)
		}()
		await(t, busy, "load")
		grace := time.NewTimer(time.Duration(chance.IntN(30_000)) * time.Microsecond)
		<-grace.C
		d.Kill(t)
		await(t, over, "the end of the load")
		cancel()
		begun := time.Now()
		d.Up(t)
		t.Logf("round %d: killed after %d acknowledged creates; up again in %v", round, l.acks, time.Since(begun).Round(time.Millisecond))
		tn.Client = d.Client(tn.Key)
		l.settle(t)
		l.finish(t, known)
		total += len(l.ops)
		if t.Failed() {
			return
		}
	}
	once(t, known)
	checkSlots(t, tn, slotLimit)
	var tokens int64
	for _, e := range known {
		tokens += e.tokens
	}
	checkBudget(t, tn, tokens+slotTokens(t, tn))
	if out := d.CLI(t, "audit", "verify"); out.Code != 0 {
		t.Errorf("audit verify: exit code %d\n%s\n%s", out.Code, out.Stdout, out.Stderr)
	}
	t.Logf("%d creates, %d runs, each ended once", total, len(known))
}

// once checks that no effect was completed twice, over all runs.
func once(t *testing.T, known map[string]ended) {
	t.Helper()
	seen := map[string]string{}
	for id, e := range known {
		for _, call := range e.calls {
			if other, ok := seen[call]; ok {
				t.Errorf("effect %s was completed in %s and in %s", call, other, id)
			}
			seen[call] = id
		}
	}
}

// slotTokens is what the canceled runs of checkSlots have spent; they are the newest.
func slotTokens(t *testing.T, tn *harness.Tenant) int64 {
	t.Helper()
	a := tn.Want(t, 200, "GET", fmt.Sprintf("/v1/runs?status=canceled&limit=%d", 500), nil)
	runs, _ := a.At("runs").([]any)
	var tokens int64
	for i := range runs {
		tokens += a.Int(fmt.Sprintf("runs.%d.usage.total_tokens", i))
	}
	return tokens
}

func await(t *testing.T, c <-chan struct{}, what string) {
	t.Helper()
	timer := time.NewTimer(bound)
	defer timer.Stop()
	select {
	case <-c:
	case <-timer.C:
		t.Fatalf("no %s within %v", what, bound)
	}
}

// A frozen node that thaws goes on where it was: nothing is lost and nothing is done twice.
func TestStop_Freeze(t *testing.T) {
	t.Parallel()
	d := harness.Up(t, suite.Binary(t))
	tn := harness.NewTenant(t, d.Admin(t), quotas())
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{tenant: tn, texts: mixed, prefix: "freeze"}
	busy := make(chan struct{})
	l.onAck = func(n int) {
		if n == 50 {
			close(busy)
		}
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		l.run(ctx, t, 8)
	}()
	await(t, busy, "load")
	freeze(t, d.Pid(), time.Duration(rounds(4, 15))*time.Second)
	cancel()
	await(t, over, "the end of the load")
	l.settle(t)
	known := map[string]ended{}
	l.finish(t, known)
	once(t, known)
	checkSlots(t, tn, slotLimit)
}

// freeze stops a process for d and lets it go on.
func freeze(t *testing.T, pid int, d time.Duration) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	timer := time.NewTimer(d)
	<-timer.C
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
}
