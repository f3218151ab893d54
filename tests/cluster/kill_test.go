package cluster_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

// under runs fault while load is on, and returns the load once it's over. The fault comes after a random number of
// acknowledged creates, and the load goes on until some more were acknowledged after it.
func under(t *testing.T, chance *rand.Rand, l *load, workers int, fault func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	begin := 20 + chance.IntN(150)
	busy, more := make(chan struct{}), make(chan struct{})
	goal := -1
	l.onAck = func(n int) {
		if n == begin {
			close(busy)
		}
		if n == goal {
			close(more)
		}
	}
	over := make(chan struct{})
	go func() { defer close(over); l.run(ctx, t, workers) }()
	await(t, busy, "load")
	fault()
	l.mu.Lock()
	goal = l.acks + 100
	l.mu.Unlock()
	await(t, more, "acknowledgement after the fault")
	cancel()
	await(t, over, "end of the load")
}

func await(t *testing.T, c <-chan struct{}, what string) {
	t.Helper()
	timer := time.NewTimer(2 * bound)
	defer timer.Stop()
	select {
	case <-c:
	case <-timer.C:
		t.Fatalf("no %s within %v", what, 2*bound)
	}
}

// The leader is killed under load: writes succeed again within seconds, nothing acknowledged is lost, nothing is done
// twice, and every run that any node had in hand ends.
//
// Requirements: N3, N6, Q3.
func TestKill_Leader(t *testing.T) {
	t.Parallel()
	chance := seeded(t)
	c := harness.NewCluster(t, suite.Binary(t), &starter, 3)
	tn := harness.NewTenant(t, c.Admin(t, 0), nil)
	var worst time.Duration
	for round := range rounds(3, 20) {
		l := newLoad(c, tn, fmt.Sprintf("leader%d", round), mixed)
		var killed *harness.Node
		var at time.Time
		under(t, chance, l, 12, func() {
			killed = c.Leader(t)
			killed.Kill(t)
			at = time.Now()
		})
		gap := l.gap(at)
		worst = max(worst, gap)
		t.Logf("round %d: %s killed, %d acknowledged, longest silence %v", round, killed.Name, l.acks, gap.Round(time.Millisecond))
		if gap > 10*time.Second {
			t.Errorf("round %d: nothing was acknowledged for %v after the leader's death", round, gap)
		}
		killed.Launch(t)
		killed.AwaitReady(t)
		l.check(t)
		if t.Failed() {
			return
		}
	}
	c.AwaitVoters(t, 3)
	c.Equal(t)
	t.Logf("worst silence %v", worst.Round(time.Millisecond))
}

// Each node is killed in its turn while it has runs in every stage; they go on elsewhere.
//
// Requirements: N6, Q3.
func TestKill_EachInTurn(t *testing.T) {
	t.Parallel()
	chance := seeded(t)
	c := harness.NewCluster(t, suite.Binary(t), &starter, 3)
	tn := harness.NewTenant(t, c.Admin(t, 0), nil)
	for round := range rounds(1, 7) {
		for i, n := range c.Nodes {
			l := newLoad(c, tn, fmt.Sprintf("each%d-%d", round, i), mixed)
			under(t, chance, l, 12, func() { n.Kill(t) })
			// Not started again before the runs that it held have ended elsewhere.
			others := l.clients[:0:0]
			for j, o := range c.Nodes {
				if o.Running() {
					others = append(others, l.clients[j])
				}
			}
			l.clients = others
			l.check(t)
			t.Logf("round %d: %s killed, %d runs acknowledged, all ended at the others", round, n.Name, l.acks)
			n.Launch(t)
			n.AwaitReady(t)
			if t.Failed() {
				return
			}
		}
	}
	c.AwaitVoters(t, 3)
	c.Equal(t)
}

// A frozen leader loses its office, and when it thaws it has nothing to say: what the others did stands.
//
// Requirements: N3, N6, Q3.
func TestKill_FrozenLeader(t *testing.T) {
	t.Parallel()
	chance := seeded(t)
	c := harness.NewCluster(t, suite.Binary(t), &starter, 3)
	tn := harness.NewTenant(t, c.Admin(t, 0), nil)
	for round := range rounds(1, 10) {
		l := newLoad(c, tn, fmt.Sprintf("frozen%d", round), mixed)
		// Nobody waits at the frozen node for longer than a client would.
		under(t, chance, l, 9, func() {
			leader := c.Leader(t)
			leader.Signal(t, syscall.SIGSTOP)
			timer := time.NewTimer(time.Duration(5+chance.IntN(rounds(1, 20))) * time.Second)
			<-timer.C
			leader.Signal(t, syscall.SIGCONT)
		})
		l.check(t)
		t.Logf("round %d: %d runs acknowledged", round, l.acks)
	}
	c.AwaitVoters(t, 3)
	c.Equal(t)
}
