package faults_test

import (
	"context"
	"fmt"
	"strconv"
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
//
// Requirements: N5, A2, Q3.
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
		pause(time.Duration(chance.IntN(30_000)) * time.Microsecond)
		d.Kill(t)
		await(t, over, "the end of the load")
		cancel()
		again := chance.IntN(3)
		for range again {
			killStart(t, d, time.Duration(chance.IntN(400))*time.Millisecond)
		}
		begun := time.Now()
		d.Up(t)
		t.Logf("round %d: killed after %d acknowledged creates, and %d times in its start; up again in %v", round, l.acks, again, time.Since(begun).Round(time.Millisecond))
		tn.Client = d.Client(tn.Key)
		l.settle(t)
		l.finish(t, known)
		total += len(l.ops)
		if t.Failed() {
			return
		}
	}
	must(t, once(known))
	must(t, slots(tn, slotLimit))
	var tokens int64
	for _, e := range known {
		tokens += e.tokens
	}
	must(t, budget(tn, tokens+slotTokens(t, tn)))
	if out := d.CLI(t, "audit", "verify"); out.Code != 0 {
		t.Errorf("audit verify: exit code %d\n%s\n%s", out.Code, out.Stdout, out.Stderr)
	}
	t.Logf("%d creates, %d runs, each ended once", total, len(known))
}

// The very first start of a deployment is cut short, wherever it is. The next `up` completes it: keys, seeds and all.
//
// Requirements: O2, Q3.
func TestKill_FirstStart(t *testing.T) {
	t.Parallel()
	chance := seeded(t)
	for round := range rounds(2, 20) {
		d := harness.NewDeployment(t, suite.Binary(t))
		var after []time.Duration
		for range 1 + chance.IntN(3) {
			after = append(after, time.Duration(chance.IntN(900))*time.Millisecond)
			killStart(t, d, after[len(after)-1])
		}
		d.Up(t)
		t.Logf("round %d: killed after %v", round, after)
		tn := harness.NewTenant(t, d.Admin(t), nil)
		tn.Complete(t, "hello", nil)
		for _, role := range []string{"tenant_user", "tenant_admin", "platform_admin"} {
			d.Client(d.Key(t, "tnt_demo", role)).Want(t, 200, "GET", "/v1/agents/agt_sample_echo_v1", nil)
		}
		if out := d.CLI(t, "validate"); out.Code != 0 {
			t.Errorf("validate: exit code %d\n%s\n%s", out.Code, out.Stdout, out.Stderr)
		}
		d.Kill(t)
	}
}

// killStart has `up` start the node, and kills both after a while, wherever they are by then.
func killStart(t *testing.T, d *harness.Deployment, after time.Duration) {
	t.Helper()
	var starter harness.Starter
	p := starter.Launch(t, d.Dir, d.Env, d.Argv("up", "--orgs", "1", "--nodes", "1", "--base-port", strconv.Itoa(d.BasePort), "--output", "json"))
	pause(after)
	p.Signal(t, syscall.SIGKILL)
	p.Wait(t, bound)
	for _, pid := range harness.Holders(d.StateDir) {
		if err := syscall.Kill(pid, syscall.SIGKILL); err == nil {
			err = harness.AwaitExit(pid, bound)
			must(t, err)
		}
	}
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
//
// Requirements: N6, Q3.
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
	must(t, once(known))
	must(t, slots(tn, slotLimit))
}

// freeze stops a process for d and lets it go on.
func freeze(t *testing.T, pid int, d time.Duration) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	pause(d)
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
}
