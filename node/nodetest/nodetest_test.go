package nodetest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/nexixai/agentos/api/client"
	"github.com/nexixai/agentos/node"
	"github.com/nexixai/agentos/node/nodetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// mustCreate makes a run at n.
func mustCreate(t *testing.T, n *nodetest.Node, text string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := n.Client().CreateRun(ctx, node.SampleAgentID, client.RunCreate{Input: client.Text{Text: text}})
	if err != nil {
		t.Fatalf("create at %s: %v", n.Name, err)
	}
	return r.ID
}

// mustEnd follows a run at n to its end.
func mustEnd(t *testing.T, n *nodetest.Node, runID string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, err := range n.Client().Follow(ctx, runID, 0) {
		if err != nil {
			t.Fatalf("%s at %s: %v", runID, n.Name, err)
		}
	}
	if r, err := n.Client().GetRun(ctx, runID); err != nil || r.Status != "completed" {
		t.Fatalf("%s at %s: %+v, %v", runID, n.Name, r, err)
	}
}

// TestCluster_Isolate: a leader that is cut off loses the office and what it is asked for; the others go on, and all agree
// when the network heals.
func TestCluster_Isolate(t *testing.T) {
	t.Parallel()
	began := time.Now()
	c := nodetest.New(t, 3)
	t.Logf("three nodes are ready after %v", time.Since(began))
	before := mustCreate(t, c.Node(1), "before")
	old := c.WaitLeader()
	old.Isolate()
	leader := c.WaitLeader()
	if leader == old {
		t.Fatalf("%s is cut off, and leads", old.Name)
	}
	mustEnd(t, leader, mustCreate(t, leader, "meanwhile"))
	mustEnd(t, leader, before)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if r, err := old.Client().CreateRun(ctx, node.SampleAgentID, client.RunCreate{Input: client.Text{Text: "lost"}}); err == nil {
		t.Errorf("%s is cut off, and has made %s", old.Name, r.ID)
	}
	c.Heal()
	c.WaitReady()
	mustEnd(t, old, mustCreate(t, old, "after"))
	c.WaitEqual()
}

// TestCluster_Gossip: gossip is cut and slowed with the rest, so who is cut off is rumoured dead.
func TestCluster_Gossip(t *testing.T) {
	t.Parallel()
	c := nodetest.New(t, 3)
	away := c.Node(2)
	status := func(want string) {
		t.Helper()
		deadline := time.After(time.Minute)
		for {
			seen, err := c.Node(0).Client().Cluster(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range seen.Members {
				if m.StackID == away.Name && m.Status == want {
					return
				}
			}
			select {
			case <-time.After(20 * time.Millisecond):
			case <-deadline:
				t.Fatalf("%s never seems %s: %+v", away.Name, want, seen.Members)
			}
		}
	}
	status("alive")
	away.Isolate()
	status("dead")
	c.Heal()
	status("alive")
}

// TestCluster_Delay: a write waits for the nearer of two followers, not for the slow one; with both slow it waits.
func TestCluster_Delay(t *testing.T) {
	t.Parallel()
	const slow = 60 * time.Millisecond // less than makes anybody stand for election
	c := nodetest.New(t, 3)
	leader, others := split(c)
	write := func() time.Duration {
		t.Helper()
		began := time.Now()
		mustCreate(t, leader, "how long?")
		return time.Since(began)
	}
	for _, o := range others {
		leader.Delay(o, slow)
	}
	if took := write(); took < 2*slow {
		t.Errorf("a write with both followers %v away took %v", slow, took)
	}
	quick := false
	for i := 0; i < 20 && !quick; i++ { // a busy machine is slow by itself at times, and the leader may be another
		c.Heal()
		leader, others = split(c)
		leader.Delay(others[0], slow)
		quick = write() < 2*slow
	}
	if !quick {
		t.Errorf("with one follower near, no write of 20 took less than %v", 2*slow)
	}
	c.Heal()
	c.WaitEqual()
}

// split returns the leader, and the others.
func split(c *nodetest.Cluster) (leader *nodetest.Node, others []*nodetest.Node) {
	leader = c.WaitLeader()
	for _, n := range c.Nodes() {
		if n != leader {
			others = append(others, n)
		}
	}
	return leader, others
}

// TestCluster_OneWay: a leader whose words are lost, while it hears the others, does not stay in office for long.
func TestCluster_OneWay(t *testing.T) {
	t.Parallel()
	c := nodetest.New(t, 3)
	old, others := split(c)
	for _, n := range others {
		old.Mute(n)
	}
	leader := c.WaitLeader()
	mustEnd(t, leader, mustCreate(t, leader, "heard"))
	c.Heal()
	c.WaitReady()
	c.WaitEqual()
}

// TestNetwork_Connection: what is sent on a connection comes in order, late by the delay, and not before a cut is healed;
// none is opened through a cut.
func TestNetwork_Connection(t *testing.T) {
	t.Parallel()
	network := nodetest.NewNetwork(t)
	a, b := network.NewOrg("acme", 1).Node(0), network.NewOrg("globex", 1).Node(0)
	home, _, err := net.SplitHostPort(b.FederationAddr())
	if err != nil {
		t.Fatal(err)
	}
	echo, err := net.Listen("tcp", net.JoinHostPort(home, "0"))
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	served.Go(func() {
		for conn, err := echo.Accept(); err == nil; conn, err = echo.Accept() {
			served.Go(func() { defer conn.Close(); _, _ = io.Copy(conn, conn) })
		}
	})
	defer served.Wait()
	defer echo.Close()
	dial := func(bound time.Duration) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(t.Context(), bound)
		defer cancel()
		return a.Network().DialContext(ctx, "tcp", echo.Addr().String())
	}
	conn, err := dial(time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	say := func(text string) {
		t.Helper()
		if _, err := io.WriteString(conn, text); err != nil {
			t.Fatal(err)
		}
	}
	hear := func(want string, bound time.Duration) error {
		t.Helper()
		got := make([]byte, len(want))
		_ = conn.SetReadDeadline(time.Now().Add(bound))
		_, err := io.ReadFull(conn, got)
		if err == nil && string(got) != want {
			t.Fatalf("came back as %q: %q", got, want)
		}
		return err
	}
	say("hello")
	if err := hear("hello", time.Minute); err != nil {
		t.Fatal(err)
	}

	const late = 50 * time.Millisecond
	a.Delay(b, late)
	began := time.Now()
	say("one ")
	say("two")
	if err := hear("one two", time.Minute); err != nil || time.Since(began) < 2*late {
		t.Errorf("came back after %v, %v; want %v at least", time.Since(began), err, 2*late)
	}

	for name, cut := range map[string]func(){"cut": func() { a.Cut(b) }, "unheard": func() { a.Mute(b) }, "deaf": func() { b.Mute(a) }} {
		network.Heal()
		cut()
		say(name)
		if err := hear(name, late); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: came through: %v", name, err)
		}
		if c, err := dial(late); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: a connection was opened: %v, %v", name, c, err)
		}
		network.Heal()
		if err := hear(name, time.Minute); err != nil {
			t.Errorf("%s: never came, though the network has healed: %v", name, err)
		}
	}
}

// TestNode_Restart: nodes come back where they were with what they had, one of them or all.
func TestNode_Restart(t *testing.T) {
	t.Parallel()
	c := nodetest.New(t, 3)
	kept := mustCreate(t, c.Node(0), "kept")
	mustEnd(t, c.Node(0), kept)
	c.WaitLeader().Restart()
	c.WaitReady()
	mustEnd(t, c.WaitLeader(), kept)
	for _, n := range c.Nodes() {
		n.Stop()
	}
	done := make(chan struct{})
	for _, n := range c.Nodes() {
		go func() { defer func() { done <- struct{}{} }(); n.Restart() }()
	}
	for range c.Nodes() {
		<-done
	}
	c.WaitReady()
	for _, n := range c.Nodes() {
		mustEnd(t, n, kept)
	}
	c.WaitEqual()
}

// TestNetwork_NewOrg: two organisations side by side know nothing of each other, and one goes on while nodes of the other
// are cut off from it and each other.
//
// Requirements: V1.
func TestNetwork_NewOrg(t *testing.T) {
	t.Parallel()
	network := nodetest.NewNetwork(t)
	orgs := map[string]*nodetest.Cluster{}
	for _, name := range []string{"acme", "globex"} {
		orgs[name] = network.NewOrg(name, 3)
	}
	ids := map[string]string{}
	for name, c := range orgs {
		seen, err := c.Node(0).Client().Cluster(t.Context())
		if err != nil || len(seen.Members) != 3 {
			t.Fatalf("%s: %+v, %v", name, seen, err)
		}
		who, err := c.Node(0).Client().PeerInfo(t.Context())
		if err != nil || who.Organization != name {
			t.Fatalf("%s calls itself %+v, %v", name, who, err)
		}
		ids[seen.ID] = fmt.Sprint(name)
	}
	if len(ids) != 2 {
		t.Errorf("the two are one cluster: %v", ids)
	}
	for _, n := range orgs["acme"].Nodes() {
		for _, m := range orgs["globex"].Nodes() {
			n.Cut(m)
		}
	}
	orgs["globex"].WaitLeader().Isolate()
	for _, c := range orgs {
		leader := c.WaitLeader()
		mustEnd(t, leader, mustCreate(t, leader, "on we go"))
	}
	network.Heal()
	for _, c := range orgs {
		c.WaitReady()
		c.WaitEqual()
	}
}
