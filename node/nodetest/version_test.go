package nodetest_test

import (
	"sync"
	"testing"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/node"
	"github.com/nexixai/agentos/node/nodetest"
)

// awaitVersion waits until n holds the store to be at version want.
func awaitVersion(t *testing.T, n *nodetest.Node, want int) {
	t.Helper()
	deadline := time.After(time.Minute)
	for {
		seen, err := n.Client().Cluster(t.Context())
		if err == nil && seen.StoreVersion == want {
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-deadline:
			t.Fatalf("%s never sees the store at version %d: %+v, %v", n.Name, want, seen, err)
		}
	}
}

// TestCluster_RisesWhileApart: a node that was set back to an earlier release while its cluster went on to a higher version
// of the store, and that starts with nobody in reach, serves what it has; once it hears of the rise, it fails.
//
// Requirements: N5.
func TestCluster_RisesWhileApart(t *testing.T) {
	t.Parallel()
	var highest sync.Map // stack id → what its binary can do
	c := nodetest.New(t, 3, func(o *node.Options) {
		o.StoreVersion = 1
		if v, ok := highest.Load(o.StackID); ok {
			o.StoreVersion = v.(int)
		}
	})
	apart := c.Node(2)
	for _, n := range []*nodetest.Node{apart, c.Node(0)} {
		highest.Store(n.Name, 2)
		n.Restart()
		c.WaitReady()
	}
	awaitVersion(t, apart, 1)
	apart.Stop()
	highest.Store(c.Node(1).Name, 2)
	c.Node(1).Restart()
	awaitVersion(t, c.Node(0), 2)

	highest.Store(apart.Name, 1)
	apart.Isolate()
	apart.Restart()
	awaitVersion(t, apart, 1)
	c.Heal()
	select {
	case err := <-apart.Node().Failed():
		if !fault.Is(err, fault.UnsupportedCapability) {
			t.Errorf("%s fails by %v", apart.Name, err)
		}
	case <-time.After(time.Minute):
		t.Errorf("%s goes on with a store that it can't read", apart.Name)
	}
}
