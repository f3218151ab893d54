package harness

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Cluster is a cluster of nodes that were started by hand, as an operator would on machines of their own: one with --init,
// the others with a join token.
type Cluster struct {
	tb      testing.TB
	binary  string
	dir     string
	starter *Starter
	// Organization is whose cluster it is.
	Organization string
	Nodes        []*Node
}

// Node is one node of a Cluster.
type Node struct {
	Name string // stack id
	// Host is what it listens on, and Port the first of its five ports.
	Host string
	Port int
	// Machine is where it lives; nil means with this process. Its API is then on the machine's own loopback.
	Machine *Host
	DataDir string
	// Binary is what it is started with.
	Binary  string
	process *Process
	args    []string
	c       *Cluster
}

// NewCluster starts a cluster of count nodes on loopback and waits until all of them vote and are ready. What it starts is
// ended with the test.
func NewCluster(tb testing.TB, binary string, starter *Starter, count int, args ...string) *Cluster {
	tb.Helper()
	c := &Cluster{tb: tb, binary: binary, dir: tb.TempDir(), starter: starter, Organization: "acme"}
	for i := range count {
		c.AddNode(tb, fmt.Sprintf("stk_n%d", i+1), args...)
	}
	c.AwaitVoters(tb, min(count, 5))
	return c
}

// NewClusterOn is NewCluster with one node on each machine of a network.
func NewClusterOn(tb testing.TB, binary string, starter *Starter, n *Network, args ...string) *Cluster {
	tb.Helper()
	c := NewOrganization(tb, binary, starter, "acme")
	for i, h := range n.Hosts {
		c.AddNodeOn(tb, h, fmt.Sprintf("stk_n%d", i+1), args...)
	}
	c.AwaitVoters(tb, min(len(n.Hosts), 5))
	return c
}

// NewOrganization is the cluster of an organisation, without a node yet.
func NewOrganization(tb testing.TB, binary string, starter *Starter, organization string) *Cluster {
	tb.Helper()
	return &Cluster{tb: tb, binary: binary, dir: tb.TempDir(), starter: starter, Organization: organization}
}

// AddNodeOn is AddNode on a machine.
func (c *Cluster) AddNodeOn(tb testing.TB, h *Host, name string, args ...string) *Node {
	tb.Helper()
	n := &Node{Name: name, Host: h.Addr, Port: 8420, Machine: h, Binary: c.binary, args: args, c: c, DataDir: filepath.Join(c.dir, name)}
	c.Nodes = append(c.Nodes, n)
	n.Launch(tb)
	n.AwaitReady(tb)
	return n
}

// AddNode starts one more node of that name: the first one makes the cluster.
func (c *Cluster) AddNode(tb testing.TB, name string, args ...string) *Node {
	tb.Helper()
	port, err := FreePorts(5)
	if err != nil {
		tb.Fatal(err)
	}
	n := &Node{Name: name, Host: "127.0.0.1", Port: port, Binary: c.binary, args: args, c: c}
	n.DataDir = filepath.Join(c.dir, name)
	c.Nodes = append(c.Nodes, n)
	n.Launch(tb)
	n.AwaitReady(tb)
	return n
}

// Launch starts the node's process: with --init or --join when its data directory is new.
func (n *Node) Launch(tb testing.TB) {
	tb.Helper()
	addr := func(i int) string { return fmt.Sprintf("%s:%d", n.Host, n.Port+i) }
	own := func(i int) string { return fmt.Sprintf("127.0.0.1:%d", n.Port+i) }
	argv := []string{
		n.Binary, "node", "run", "--timing=fast", "--data-dir=" + n.DataDir, "--stack-id=" + n.Name,
		"--api-listen=" + own(0), "--federation-listen=" + addr(1), "--cluster-listen=" + addr(2), "--gossip-listen=" + addr(3), "--admin-listen=" + own(4),
	}
	argv = append(argv, n.args...)
	if _, err := os.Stat(filepath.Join(n.DataDir, "trust", "node.crt")); err != nil {
		if others := n.c.others(n); len(others) == 0 {
			argv = append(argv, "--init", "--organization="+n.c.Organization)
		} else {
			var doors []string
			for _, o := range others {
				doors = append(doors, fmt.Sprintf("%s:%d", o.Host, o.Port+2))
			}
			argv = append(argv, "--join="+strings.Join(doors, ","), "--join-token="+n.c.Token(tb))
		}
	}
	if n.Machine != nil {
		argv = append([]string{"ip", "netns", "exec", n.Machine.Netns}, argv...)
	}
	n.process = n.c.starter.Launch(tb, n.c.dir, nil, argv)
}

// others are the nodes that run beside n.
func (c *Cluster) others(n *Node) []*Node {
	var out []*Node
	for _, o := range c.Nodes {
		if o != n && o.Running() {
			out = append(out, o)
		}
	}
	return out
}

// Running reports whether the node's process lives.
func (n *Node) Running() bool {
	if n.process == nil {
		return false
	}
	select {
	case <-n.process.Done():
		return false
	default:
		return true
	}
}

// Pid is the node's process.
func (n *Node) Pid() int { return n.process.Pid() }

// Output is what the node's process has printed.
func (n *Node) Output() string { return n.process.Output() }

// Kill ends the node's process as a crash would.
func (n *Node) Kill(tb testing.TB) {
	tb.Helper()
	n.process.Signal(tb, syscall.SIGKILL)
	<-n.process.Done()
}

// Signal sends sig to the node's process.
func (n *Node) Signal(tb testing.TB, sig syscall.Signal) { n.process.Signal(tb, sig) }

// Stop ends the node's process politely and returns its exit code.
func (n *Node) Stop(tb testing.TB) int {
	tb.Helper()
	n.process.Signal(tb, syscall.SIGTERM)
	return n.process.Wait(tb, 45*time.Second)
}

// AwaitReady waits until the node takes requests.
func (n *Node) AwaitReady(tb testing.TB) {
	tb.Helper()
	cl := n.Client("")
	defer cl.Close()
	if err := cl.AwaitReady(time.Minute); err != nil {
		tb.Fatalf("%v\n%s", err, tail(n.Output(), 4000))
	}
}

// Client returns a client of the node with this key.
func (n *Node) Client(key string) *Client {
	if n.Machine != nil {
		return n.Machine.Client(n.URL(), key)
	}
	return NewClient(n.URL(), key)
}

// URL is the node's API.
func (n *Node) URL() string { return fmt.Sprintf("http://127.0.0.1:%d", n.Port) }

// AdminURL is the node's admin listener.
func (n *Node) AdminURL() string { return fmt.Sprintf("http://127.0.0.1:%d", n.Port+4) }

// ClusterAddr is where the other members dial it.
func (n *Node) ClusterAddr() string { return fmt.Sprintf("%s:%d", n.Host, n.Port+2) }

// Wipe removes all that the node had; it must not run.
func (n *Node) Wipe(tb testing.TB) {
	tb.Helper()
	if err := os.RemoveAll(n.DataDir); err != nil {
		tb.Fatal(err)
	}
}

// AdminKey is the key of the platform's administrator.
func (c *Cluster) AdminKey(tb testing.TB) string {
	tb.Helper()
	raw, err := os.ReadFile(filepath.Join(c.Nodes[0].DataDir, "platform_admin.key"))
	if err != nil {
		raw, err = os.ReadFile(filepath.Join(c.dir, "platform_admin.key")) // kept when the first node was wiped
	}
	if err != nil {
		tb.Fatal(err)
	}
	key := strings.TrimSpace(string(raw))
	_ = os.WriteFile(filepath.Join(c.dir, "platform_admin.key"), raw, 0o600)
	return key
}

// Admin is a client of node i with the administrator's key.
func (c *Cluster) Admin(tb testing.TB, i int) *Client {
	tb.Helper()
	return c.Nodes[i].Client(c.AdminKey(tb))
}

// Token makes a join token through whichever node answers.
func (c *Cluster) Token(tb testing.TB) string {
	tb.Helper()
	var last Answer
	for _, n := range c.Nodes {
		if !n.Running() {
			continue
		}
		cl := n.Client(c.AdminKey(tb))
		a, err := cl.Try(context.Background(), "POST", "/v1/admin/cluster/join-tokens", map[string]any{"ttl_seconds": 600, "uses": 1})
		cl.Close()
		if last = a; err == nil && a.Status == 201 {
			return a.Str("join_token.token")
		}
	}
	tb.Fatalf("no node makes a join token: %d %s", last.Status, last.Body)
	return ""
}

// Describe asks node i about the cluster.
func (c *Cluster) Describe(tb testing.TB, i int) Answer {
	tb.Helper()
	return c.Admin(tb, i).Want(tb, 200, "GET", "/v1/admin/cluster", nil)
}

// AwaitVoters waits until count members vote and are alive, by the word of every running node.
func (c *Cluster) AwaitVoters(tb testing.TB, count int) {
	tb.Helper()
	var last Answer
	if !Poll(time.Minute, 50*time.Millisecond, func() bool {
		for i, n := range c.Nodes {
			if !n.Running() {
				continue
			}
			var err error
			last, err = c.Admin(tb, i).Try(context.Background(), "GET", "/v1/admin/cluster", nil)
			if err != nil || last.Str("cluster.leader") == "" || voters(last) != count {
				return false
			}
		}
		return true
	}) {
		tb.Fatalf("there are not %d living voters: %s", count, last.Body)
	}
}

func voters(a Answer) (n int) {
	members, _ := a.At("cluster.members").([]any)
	for i := range members {
		at := fmt.Sprintf("cluster.members.%d.", i)
		if a.Str(at+"role") == "voter" && a.Str(at+"status") == "alive" {
			n++
		}
	}
	return n
}

// Leader waits until a running node names a running leader, and returns it.
func (c *Cluster) Leader(tb testing.TB) *Node {
	tb.Helper()
	var leader *Node
	if !Poll(time.Minute, 20*time.Millisecond, func() bool {
		for i, n := range c.Nodes {
			if !n.Running() {
				continue
			}
			a, err := c.Admin(tb, i).Try(context.Background(), "GET", "/v1/admin/cluster", nil)
			if err != nil {
				continue
			}
			for _, o := range c.Nodes {
				if o.Name == a.Str("cluster.leader") && o.Running() {
					leader = o
					return true
				}
			}
		}
		return false
	}) {
		tb.Fatal("the cluster has no leader")
	}
	return leader
}

// Follower returns a running node that does not lead.
func (c *Cluster) Follower(tb testing.TB) *Node {
	tb.Helper()
	leader := c.Leader(tb)
	for _, n := range c.Nodes {
		if n != leader && n.Running() {
			return n
		}
	}
	tb.Fatal("there is no follower")
	return nil
}

// Equal waits until all running nodes stand at one index, and checks that their hashes agree.
func (c *Cluster) Equal(tb testing.TB) {
	tb.Helper()
	var last string
	if !Poll(30*time.Second, 50*time.Millisecond, func() bool {
		a := c.Describe(tb, c.running())
		members, _ := a.At("cluster.members").([]any)
		last = string(a.Body)
		index, hash := "", ""
		for i := range members {
			at := fmt.Sprintf("cluster.members.%d.", i)
			if a.Str(at+"status") != "alive" {
				continue
			}
			here := fmt.Sprint(a.At(at + "applied_index"))
			if index == "" {
				index, hash = here, a.Str(at+"hash")
			}
			if here != index || a.Str(at+"hash") != hash {
				return false
			}
		}
		return index != ""
	}) {
		tb.Fatalf("the replicas do not agree: %s", last)
	}
}

func (c *Cluster) running() int {
	for i, n := range c.Nodes {
		if n.Running() {
			return i
		}
	}
	return 0
}

// Clients returns a client with this key for every node, the nodes in order.
func (c *Cluster) Clients(key string) []*Client {
	var out []*Client
	for _, n := range c.Nodes {
		out = append(out, n.Client(key))
	}
	return out
}

// EachRunning calls do for every running node at once and waits.
func (c *Cluster) EachRunning(do func(n *Node)) {
	var wg sync.WaitGroup
	for _, n := range c.Nodes {
		if n.Running() {
			wg.Go(func() { do(n) })
		}
	}
	wg.Wait()
}

// Wait waits for the node's process to end by itself and returns its exit code.
func (n *Node) Wait(tb testing.TB) int {
	tb.Helper()
	return n.process.Wait(tb, time.Minute)
}

// MoveTo gives a node that does not run another machine.
func (n *Node) MoveTo(h *Host) { n.Machine, n.Host = h, h.Addr }

// Restored adds a node whose data directory the test fills before it's launched.
func (c *Cluster) Restored(tb testing.TB, name string) *Node {
	tb.Helper()
	port, err := FreePorts(5)
	if err != nil {
		tb.Fatal(err)
	}
	n := &Node{Name: name, Host: "127.0.0.1", Port: port, Binary: c.binary, c: c, DataDir: filepath.Join(c.dir, name)}
	c.Nodes = append(c.Nodes, n)
	return n
}

// FederationAddr is where the node's federation door listens.
func (n *Node) FederationAddr() string { return fmt.Sprintf("%s:%d", n.Host, n.Port+1) }
