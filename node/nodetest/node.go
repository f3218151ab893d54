package nodetest

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/nexixai/agentos/api/client"
	"github.com/nexixai/agentos/node"
	"github.com/nexixai/agentos/peer/cluster"
	"github.com/nexixai/agentos/peer/trust"
)

// The ports of every node, each at its own address.
const (
	portAPI = 18420 + iota
	portFederation
	portCluster
	portGossip
	portAdmin
)

// Node is one node of a Cluster. One goroutine at a time may stop and start it.
type Node struct {
	Name string // stack id
	c    *Cluster
	addr string
	dir  string
	node *node.Node // nil while it is stopped
	once sync.Once
	api  *client.Client
	http http.Transport
}

// place gives the i-th node of c an address and a directory.
func (c *Cluster) place(i int) *Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := &Node{Name: fmt.Sprintf("stk_%s_%d", c.Organization, i+1), c: c, dir: filepath.Join(c.tb.TempDir(), "data")}
	m.addr = fmt.Sprintf("%s.%d", c.subnet, len(c.nodes)+1)
	c.nodes[m.addr] = m
	c.tb.Cleanup(m.Stop)
	return m
}

// start starts the node: as its cluster's first, by joining it, or, with neither, with what it has.
func (m *Node) start(first bool, token string) {
	m.c.tb.Helper()
	at := func(port int) string { return fmt.Sprintf("%s:%d", m.addr, port) }
	o := node.Options{
		Mode: node.Demo, StackID: m.Name, Organization: m.c.Organization, DataDir: m.dir, Timing: "fast", DrainTimeout: time.Second,
		APIListen: at(portAPI), FederationListen: at(portFederation), ClusterListen: at(portCluster), GossipListen: at(portGossip),
		AdminListen: at(portAdmin), Init: first, Network: m.Network(),
		Logger: zaptest.NewLogger(m.c.tb, zaptest.Level(zap.InfoLevel)).Named(m.Name),
	}
	if token != "" {
		o.JoinToken, o.Join = token, []string{fmt.Sprintf("%s:%d", m.c.members[0].addr, portCluster)}
	}
	for _, configure := range m.c.configure {
		configure(&o)
	}
	n, err := node.New(o)
	if err == nil {
		ctx, cancel := context.WithTimeout(m.c.tb.Context(), bound)
		defer cancel()
		err = n.Start(ctx)
	}
	if err != nil {
		m.c.tb.Errorf("nodetest: start %s: %v", m.Name, err) // maybe not in the test's goroutine
		return
	}
	m.node = n
}

func (m *Node) running() bool { return m.node != nil }

// names reports whether the node takes other for the leader.
func (m *Node) names(other *Node) bool {
	return m.running() && cluster.StackOf(m.node.Status().Leader) == other.Name
}

// Stop stops the node in its own time; a stopped one stays so. It keeps its data and its address.
func (m *Node) Stop() {
	m.c.tb.Helper()
	if m.node == nil {
		return
	}
	m.http.CloseIdleConnections()
	if err := m.node.Stop(context.Background()); err != nil {
		m.c.tb.Errorf("nodetest: stop %s: %v", m.Name, err)
	}
	m.node = nil
}

// Restart starts the node again with what it has, stopping it first if it runs.
func (m *Node) Restart() {
	m.c.tb.Helper()
	m.Stop()
	m.start(false, "")
	if m.node == nil {
		m.c.tb.FailNow()
	}
}

// Cut cuts the node off another, both ways, until the network heals.
func (m *Node) Cut(other *Node) { m.c.both(m, other, func(s *state) { s.cut = true }) }

// Mute loses what the node sends to another; what the other sends still comes through.
func (m *Node) Mute(other *Node) {
	m.c.change(func(paths map[path]state) {
		s := paths[path{m.addr, other.addr}]
		s.cut = true
		paths[path{m.addr, other.addr}] = s
	})
}

// Isolate cuts the node off all others on the network that there are now, of any organisation.
func (m *Node) Isolate() {
	for _, other := range m.c.all() {
		if other != m {
			m.Cut(other)
		}
	}
}

// Delay makes everything between the node and another take d longer, each way, until the network heals.
func (m *Node) Delay(other *Node, d time.Duration) {
	m.c.both(m, other, func(s *state) { s.delay = d })
}

func (n *Network) all() (out []*Node) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, m := range n.nodes {
		out = append(out, m)
	}
	return out
}

// Node is the node itself; nil while it is stopped.
func (m *Node) Node() *node.Node { return m.node }

// Network is what the node reaches others through: by it a test may dial as the node would.
func (m *Node) Network() node.Network { return reach{m.c.Network, m.addr} }

// URL is the node's API.
func (m *Node) URL() string { return fmt.Sprintf("http://%s:%d", m.addr, portAPI) }

// FederationAddr is where other organisations dial the node.
func (m *Node) FederationAddr() string { return fmt.Sprintf("%s:%d", m.addr, portFederation) }

// Credentials are the node's own, as it holds them on disk: with them a test may stand at another organisation's door as the
// node would.
func (m *Node) Credentials() *trust.Credentials {
	m.c.tb.Helper()
	file := func(name string) []byte {
		raw, err := os.ReadFile(filepath.Join(m.dir, "trust", name))
		if err != nil {
			m.c.tb.Fatal(err)
		}
		return raw
	}
	c, err := trust.NewCredentials(file("node.crt"), file("node.key"), file("ca.crt"), nil)
	if err != nil {
		m.c.tb.Fatal(err)
	}
	return c
}

// Client returns a client of the node with the key of the cluster's administrator. It tries each call once. Any
// goroutine may ask for it.
func (m *Node) Client() *client.Client {
	m.once.Do(func() {
		raw, err := os.ReadFile(filepath.Join(m.c.members[0].dir, node.PlatformKeyName))
		if err == nil {
			key := strings.TrimSpace(string(raw))
			m.api, err = client.New(client.Options{BaseURL: m.URL(), Key: key, HTTP: &http.Client{Transport: &m.http}, Retries: -1})
		}
		if err != nil {
			panic(fmt.Sprintf("nodetest: %s was never started: %v", m.Name, err))
		}
	})
	return m.api
}
