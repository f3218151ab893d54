package nodetest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nexixai/agentos/node"
)

// bound is how long anything is waited for. On a machine that is not busy it takes a moment.
const bound = time.Minute

// Cluster is the nodes of one organisation.
type Cluster struct {
	*Network
	Organization string
	members      []*Node
	configure    []func(*node.Options)
}

// New starts a cluster of count nodes on a network of its own and waits until all of them vote. What configure changes in
// the options of a node holds for each of its starts.
func New(tb testing.TB, count int, configure ...func(*node.Options)) *Cluster {
	tb.Helper()
	return NewNetwork(tb).NewOrg("acme", count, configure...)
}

// NewOrg is New for another organisation on the same network. It may be called for one after another.
func (n *Network) NewOrg(organization string, count int, configure ...func(*node.Options)) *Cluster {
	n.tb.Helper()
	c := &Cluster{Network: n, Organization: organization, configure: configure}
	for i := range count {
		c.members = append(c.members, c.place(i))
	}
	c.members[0].start(true, "")
	ctx, cancel := context.WithTimeout(n.tb.Context(), bound)
	defer cancel()
	if count > 1 {
		tok, err := c.members[0].Client().CreateJoinToken(ctx, bound, count-1)
		if err != nil {
			n.tb.Fatalf("nodetest: %v", err)
		}
		var wg sync.WaitGroup
		for _, m := range c.members[1:] {
			wg.Go(func() { m.start(false, tok.Token) })
		}
		wg.Wait()
	}
	c.WaitReady()
	return c
}

// Node returns the i-th node, the first being 0.
func (c *Cluster) Node(i int) *Node { return c.members[i] }

// Nodes returns all nodes, running or not.
func (c *Cluster) Nodes() []*Node { return c.members }

// WaitReady waits until every running node is ready, knows the leader, and sees as many voters as there can be.
func (c *Cluster) WaitReady() {
	c.tb.Helper()
	c.wait("be ready", func() error {
		leader := ""
		for _, m := range c.members {
			if !m.running() {
				continue
			}
			ctx, cancel := context.WithTimeout(c.tb.Context(), 5*time.Second)
			seen, err := m.Client().Cluster(ctx)
			if err == nil {
				_, err = m.Client().Ready(ctx)
			}
			cancel()
			switch {
			case err != nil:
				return err
			case seen.Leader == nil || leader != "" && *seen.Leader != leader:
				return fmt.Errorf("%s takes another, or nobody, for the leader", m.Name)
			}
			leader = *seen.Leader
			voting := 0
			for _, other := range seen.Members {
				if other.Role == "voter" {
					voting++
				}
			}
			if want := voters(len(c.members)); voting != want {
				return fmt.Errorf("%s knows %d voters, not %d", m.Name, voting, want)
			}
		}
		return nil
	})
}

// voters is how many of count members get a vote: two of two, else the largest odd number up to five.
func voters(count int) int {
	if count == 2 {
		return 2
	}
	return min((count-1)|1, 5)
}

// WaitLeader waits for a leader that most nodes name, itself among them, and that reaches them, and returns it.
func (c *Cluster) WaitLeader() (leader *Node) {
	c.tb.Helper()
	c.wait("have a leader", func() error {
		for _, m := range c.members {
			votes := 0
			for _, by := range c.members {
				out, _ := c.look(path{by.addr, m.addr})
				back, _ := c.look(path{m.addr, by.addr})
				if by.names(m) && !out.cut && !back.cut {
					votes++
				}
			}
			if m.names(m) && votes > len(c.members)/2 {
				leader = m
				return nil
			}
		}
		return fmt.Errorf("most nodes of %s name nobody", c.Organization)
	})
	return leader
}

// WaitEqual waits until all running nodes hold the same, by index and running hash.
func (c *Cluster) WaitEqual() {
	c.tb.Helper()
	c.wait("agree", func() error {
		var first *Node
		for _, m := range c.members {
			switch {
			case !m.running():
			case first == nil:
				first = m
			default:
				a, b := first.node.Status(), m.node.Status()
				if a.Applied != b.Applied || a.Hash != b.Hash {
					return fmt.Errorf("%s stands at %d with hash %x, %s at %d with %x", first.Name, a.Applied, a.Hash, m.Name, b.Applied, b.Hash)
				}
			}
		}
		return nil
	})
}

// wait asks again and again until done has nothing against it.
func (c *Cluster) wait(what string, done func() error) {
	c.tb.Helper()
	deadline := time.NewTimer(bound)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := done()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			c.tb.Fatalf("nodetest: the nodes of %s do not come to %s: %v", c.Organization, what, err)
		}
	}
}
