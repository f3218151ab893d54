package cluster_test

import (
	"bytes"
	"context"
	"errors"
	"strconv"
	"sync"
	"testing"

	"github.com/nexixai/agentos/peer/cluster"
	"github.com/nexixai/agentos/peer/trust/trusttest"
)

func serve(t *testing.T, d *cluster.Door, handle func(context.Context, []byte) []byte) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); d.ServeCommands(handle) }()
	t.Cleanup(func() { _ = d.Close(); <-done })
}

func TestCommander_AnswersBelongToTheirQuestions(t *testing.T) {
	acme := trusttest.New(t, "acme.test")
	a, b := open(t, acme.Node("stk_a"), nil), open(t, acme.Node("stk_b"), nil)
	serve(t, a, func(_ context.Context, batch []byte) []byte { return append([]byte("re: "), batch...) })
	c := cluster.NewCommander(b)
	defer c.Close()
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			for j := range 20 {
				ask := []byte(strconv.Itoa(i*1000 + j))
				got, err := c.Forward(t.Context(), "stk_a", a.Addr(), ask)
				if err != nil || string(got) != "re: "+string(ask) {
					t.Errorf("asked %s, got %q, %v", ask, got, err)
				}
			}
		})
	}
	wg.Wait()
	big := bytes.Repeat([]byte("x"), 3<<20)
	if got, err := c.Forward(t.Context(), "stk_a", a.Addr(), big); err != nil || len(got) != len(big)+4 {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if _, err := c.Forward(t.Context(), "stk_a", a.Addr(), make([]byte, 17<<20)); !errors.Is(err, cluster.ErrFrame) {
		t.Fatalf("an over-long batch: %v", err)
	}
}

// A caller that gives up must not leave its late answer to the next one.
func TestCommander_GivingUpSpoilsNothing(t *testing.T) {
	acme := trusttest.New(t, "acme.test")
	a, b := open(t, acme.Node("stk_a"), nil), open(t, acme.Node("stk_b"), nil)
	asked, release := make(chan struct{}, 1), make(chan struct{})
	serve(t, a, func(_ context.Context, batch []byte) []byte {
		if string(batch) == "slow" {
			asked <- struct{}{}
			<-release
		}
		return batch
	})
	c := cluster.NewCommander(b)
	defer c.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	if _, err := c.Forward(ctx, "stk_a", a.Addr(), []byte("slow")); !errors.Is(err, context.Canceled) {
		t.Fatalf("gave up, yet: %v", err)
	}
	close(release)
	for range 10 {
		if got, err := c.Forward(t.Context(), "stk_a", a.Addr(), []byte("quick")); err != nil || string(got) != "quick" {
			t.Fatalf("%q, %v", got, err)
		}
	}
}
