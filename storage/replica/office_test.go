package replica_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/replica"
)

// adder defines a command that adds one to a sum each time that it's evaluated, and answers the sum.
func adder(reg *storage.Registry) storage.Call[string, int] {
	return storage.Define(reg, "add", func(tx storage.Tx, key string) (int, error) {
		n := 0
		raw, err := tx.Get("sum")
		if err == nil && raw != nil {
			_, err = fmt.Sscan(string(raw), &n)
		}
		tx.Set("sum", fmt.Append(nil, n+1))
		tx.Set("add/"+key, nil)
		return n + 1, err
	})
}

// TestCluster_RetryStorm: while the office moves and answers get lost, every command is asked for twice at once at two nodes,
// and once more, late and in another order, at the third. It has one effect, and the same answer each time.
//
// Requirements: Q3.
func TestCluster_RetryStorm(t *testing.T) {
	commands, moves := 120, 3
	if long() {
		commands, moves = 3000, 60
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	reg := storage.NewRegistry()
	add := adder(reg)
	c := mustCluster(t, 3, reg, nil)
	var wg sync.WaitGroup
	answers := make([][3]int, commands)
	ask := func(i, which int) {
		n, _, err := add.Do(t.Context(), c.nodes[(i+which)%3].store, fmt.Sprint("id", i), fmt.Sprint(i))
		if err != nil {
			t.Errorf("command %d: %v", i, err)
		}
		answers[i][which] = n
	}
	for i := range commands {
		for which := range 2 {
			wg.Go(func() { ask(i, which) })
		}
	}
	for range moves {
		leader, others := c.leader(t)
		to := others[rng.IntN(2)]
		c.sever(leader.id, to.id) // answers get lost, then the office moves
		<-time.After(time.Duration(rng.IntN(100)) * time.Millisecond)
		c.mend()
		_ = leader.store.Transfer(t.Context(), to.id)
	}
	wg.Wait()
	for _, i := range rng.Perm(commands) {
		wg.Go(func() { ask(i, 2) })
	}
	wg.Wait()
	seen := make(map[int]bool)
	for i, a := range answers {
		if a[0] != a[1] || a[0] != a[2] || seen[a[0]] || a[0] < 1 || a[0] > commands {
			t.Errorf("command %d was answered %v", i, a)
		}
		seen[a[0]] = true
	}
	c.mustAgree(t)
}

// TestCluster_Transfer: the office goes where it's sent.
//
// Requirements: N3.
func TestCluster_Transfer(t *testing.T) {
	reg := storage.NewRegistry()
	count := counter(reg)
	c := mustCluster(t, 3, reg, nil)
	for i := range 6 {
		leader, others := c.leader(t)
		to := others[i%2]
		c.mustWait(t, leader, func(ctx context.Context) error { return leader.store.Transfer(ctx, to.id) })
		if now, _ := c.leader(t); now != to {
			t.Logf("the office went to %s instead of %s", now.id, to.id)
		}
		if _, _, err := count.Do(t.Context(), leader.store, "", fmt.Sprint(i)); err != nil {
			t.Errorf("at the former leader: %v", err)
		}
	}
	if err := c.nodes[0].store.Transfer(t.Context(), "nobody"); !fault.Is(err, fault.NotFound) {
		t.Errorf("a transfer to nobody: %v", err)
	}
	c.mustAgree(t)
}

// TestCluster_TransferUnheard: the office is not sent to a voter that does not answer, but to one that does.
func TestCluster_TransferUnheard(t *testing.T) {
	reg := storage.NewRegistry()
	counter(reg)
	c := mustCluster(t, 3, reg, nil)
	leader, others := c.leader(t)
	gone, there := others[0], others[1]
	c.sever(leader.id, gone.id)
	if err := leader.store.Transfer(t.Context(), gone.id); !fault.Is(err, fault.Unavailable) {
		t.Errorf("a transfer to a voter that's gone: %v", err)
	}
	c.mustWait(t, leader, func(ctx context.Context) error {
		if there.store.Status().Role == storage.Leader {
			return nil
		}
		return errors.Join(leader.store.Transfer(ctx, ""), errors.New("the office is not where somebody answers"))
	})
	c.mend()
	c.mustAgree(t)
}

// TestCluster_Wedged: a leader whose transfers hang on a member that hangs, and which has its office again, refuses all work
// for ever and stays leader (hashicorp/raft issue 696). Its process ends.
func TestCluster_Wedged(t *testing.T) {
	t.Parallel()
	here, out, err := inItsOwn(t)
	if !here {
		if err != nil || !strings.Contains(out, "ended: storage: handing the office on has hung") {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	reg := storage.NewRegistry()
	count := counter(reg)
	c := mustCluster(t, 3, reg, func(_ int, o *replica.Options) {
		o.Fatal = func(err error) { fmt.Println("ended:", err); os.Exit(0) }
	})
	wedged, hung, other := c.nodes[0], c.nodes[1], c.nodes[2]
	c.mustLead(t, wedged)
	c.isolate(hung.id, other.id)
	c.hold(wedged.id, hung.id)
	if _, _, err := count.Do(t.Context(), wedged.store, "", "k"); err != nil { // which the hung one lacks
		t.Fatal(err)
	}
	// Each transfer leaves a note for the sender to the hung member, until one waits for ever to leave its own.
	since := time.Now()
	c.mustWait(t, wedged, func(context.Context) error {
		err := wedged.store.TransferUnheard(hung.id)
		switch {
		case err == nil:
			t.Fatal("the office went to a member that hangs")
		case !replica.InTransfer(err):
			since = time.Now()
		case time.Since(since) > time.Second:
			return nil
		}
		return err
	})
	c.isolate(wedged.id, other.id)
	c.mustWait(t, wedged, func(context.Context) error {
		if wedged.store.Status().Role == storage.Leader {
			return errors.New("still in office")
		}
		return nil
	})
	c.join(wedged.id, other.id)
	c.mustWait(t, wedged, func(ctx context.Context) error {
		_ = c.office(ctx, wedged)
		return errors.New("the process has not ended")
	})
}
