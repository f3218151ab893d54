package replica_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/replica"
)

// node is one member; its store can be closed and opened again.
type node struct {
	id      string
	address string
	o       replica.Options
	w       *wire

	mu    sync.Mutex
	store *replica.Store
}

func (n *node) get() *replica.Store {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.store
}

// set replaces the store and returns the one before.
func (n *node) set(s *replica.Store) (before *replica.Store) {
	n.mu.Lock()
	defer n.mu.Unlock()
	before, n.store = n.store, s
	return before
}

// cluster is some nodes of one log.
type cluster struct {
	*wire
	nodes []*node
}

// mustCluster starts n voters. change may adapt the options of each.
func mustCluster(tb testing.TB, n int, reg *storage.Registry, change func(i int, o *replica.Options)) *cluster {
	tb.Helper()
	c := newCluster(tb)
	for i := range n {
		c.mustNode(tb, i, reg, change)
	}
	c.mustJoin(tb, n)
	return c
}

func newCluster(tb testing.TB) *cluster {
	c := &cluster{wire: newWire()}
	tb.TempDir() // makes sure that directories go after the nodes have stopped
	tb.Cleanup(func() {
		c.mend()
		for _, n := range c.nodes {
			c.mustStop(tb, n)
		}
	})
	return c
}

// mustJoin starts all nodes. The first leads, the first voters of them vote, the rest don't.
func (c *cluster) mustJoin(tb testing.TB, voters int) {
	tb.Helper()
	first := c.nodes[0]
	for i, n := range c.nodes {
		if err := n.store.Start(tb.Context()); err != nil {
			tb.Fatal(err)
		}
		switch {
		case i == 0:
			c.mustWait(tb, n, n.store.Ready)
		case i < voters:
			c.mustWait(tb, first, func(ctx context.Context) error { return first.store.AddVoter(ctx, n.id, n.address) })
		default:
			c.mustWait(tb, first, func(ctx context.Context) error { return first.store.AddNonvoter(ctx, n.id, n.address) })
		}
	}
	for _, n := range c.nodes {
		c.mustWait(tb, n, n.store.Ready)
	}
}

// mustNode opens a node that is not yet a member, unless it's the first.
func (c *cluster) mustNode(tb testing.TB, i int, reg *storage.Registry, change func(i int, o *replica.Options)) *node {
	tb.Helper()
	n := &node{id: fmt.Sprint("n", i), w: c.wire}
	n.o = replica.Options{
		Dir: tb.TempDir(), ServerID: n.id, ClusterID: "test", Registry: reg, Bootstrap: i == 0, Fast: true, DiskFloorBytes: -1,
		Forward: wireForward{c.wire, n.id}, AskTimeout: 30 * time.Second, Fatal: func(err error) { panic(err) },
	}
	if change != nil {
		change(i, &n.o)
	}
	c.nodes = append(c.nodes, n)
	n.set(c.mustOpen(tb, n))
	n.o.Bootstrap = false
	return n
}

// mustStart opens n again, at the address it had, and starts it.
func (c *cluster) mustStart(tb testing.TB, n *node) {
	tb.Helper()
	s := c.mustOpen(tb, n)
	if err := s.Start(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	n.set(s) // only now: a store takes no questions before it has started
}

func (c *cluster) mustOpen(tb testing.TB, n *node) *replica.Store {
	tb.Helper()
	listen := n.address
	if listen == "" {
		listen = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		tb.Fatal(err)
	}
	n.address = l.Addr().String()
	c.mu.Lock()
	c.wire.nodes[n.address] = n
	c.mu.Unlock()
	n.o.Stream = &wireStream{Listener: l, w: c.wire, id: n.id}
	s, err := replica.Open(n.o)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func (c *cluster) mustStop(tb testing.TB, n *node) {
	tb.Helper()
	s := n.set(nil)
	if s == nil {
		return
	}
	if err := s.Close(); err != nil {
		tb.Error(err)
	}
}

// mustWait calls f with a bound on its time.
func (c *cluster) mustWait(tb testing.TB, n *node, f func(context.Context) error) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	for {
		err := f(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			tb.Fatalf("%s: %v", n.id, err)
		case <-time.After(2 * time.Millisecond): // leaves the processor to those who are waited for
		}
	}
}

// leader returns who leads, once somebody does, and the others.
func (c *cluster) leader(tb testing.TB) (leader *node, others []*node) {
	tb.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for time.Now().Before(deadline) {
		for i, n := range c.nodes {
			s := n.get()
			if s == nil || s.Status().Role != storage.Leader {
				continue
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			err := s.Ready(ctx)
			cancel()
			if err == nil && s.Status().Role == storage.Leader {
				return n, slices.Delete(slices.Clone(c.nodes), i, i+1)
			}
		}
	}
	tb.Fatal("nobody leads")
	return nil, nil
}

// mustLead hands the office to n, and returns when it reigns.
func (c *cluster) mustLead(tb testing.TB, n *node) {
	tb.Helper()
	c.mustWait(tb, n, func(ctx context.Context) error {
		if err := c.office(ctx, n); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		if err := n.get().Ready(ctx); err != nil {
			return err
		}
		return c.office(ctx, n)
	})
}

// office tries to hand the office to n. It returns nil when n has it.
func (c *cluster) office(ctx context.Context, n *node) error {
	if n.get().Status().Role == storage.Leader {
		return nil
	}
	for _, other := range c.nodes {
		if s := other.get(); s != nil && s.Status().Role == storage.Leader {
			_ = s.Transfer(ctx, n.id) // may fail, or end elsewhere
		}
	}
	return errors.New("not in office")
}

// view is what one node says of its state.
type view struct{ index, hash, running uint64 }

// mustAgree waits until all nodes that run stand at one index, and compares there what lies on their disks and what they
// applied on the way. Nothing may be writing meanwhile.
func (c *cluster) mustAgree(tb testing.TB) {
	tb.Helper()
	for _, n := range c.nodes {
		if s := n.get(); s != nil {
			c.mustWait(tb, n, s.Ready)
		}
	}
	var views map[string]view
	c.mustWait(tb, c.nodes[0], func(ctx context.Context) error {
		views = make(map[string]view)
		at := make(map[uint64]bool)
		for _, n := range c.nodes {
			s := n.get()
			if s == nil {
				continue
			}
			hash, index, err := s.StateHash(ctx)
			if err != nil {
				return err
			}
			st := s.Status()
			views[n.id] = view{index, hash, st.Hash}
			at[index], at[st.Applied] = true, true
		}
		if len(at) > 1 {
			return fmt.Errorf("the nodes stand at different entries: %+v", views)
		}
		return nil
	})
	seen := make(map[view]bool)
	for _, v := range views {
		seen[v] = true
	}
	if len(seen) != 1 {
		tb.Errorf("the nodes differ: %+v", views)
	}
}
