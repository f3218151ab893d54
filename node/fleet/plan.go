package fleet

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"github.com/nexixai/agentos/node"
	"github.com/nexixai/agentos/peer/cluster"
)

// DefaultBasePort is the first port of a deployment. Each node takes five in a row (API, federation, cluster, gossip,
// admin), the next node begins PortStep further on.
const (
	DefaultBasePort = 8420
	PortStep        = 10
)

// maxNodes bounds a cluster on one machine.
const maxNodes = 9

// What a deployment is when nothing else is asked for: two organisations, of which the first has three nodes.
const (
	defaultNodes = 3
	defaultOrgs  = 2
)

// organizations are the names given out, in order.
var organizations = [...]string{"acme", "globex", "initech", "umbrella", "hooli"}

// plan is what a deployment was made as. It is written once, by the first up.
type plan struct {
	Format        int          `json:"format"`
	Mode          node.Mode    `json:"mode"`
	BasePort      int          `json:"base_port"`
	Organizations []planOrg    `json:"organizations"`
	Seeded        *node.Seeded `json:"seeded,omitempty"`
	// Wired are the peerings that up has made and given grants. What people change about them stays as they leave it.
	Wired []string `json:"wired,omitempty"`
}

type planOrg struct {
	Organization string     `json:"organization"`
	TrustDomain  string     `json:"trust_domain"`
	Nodes        []planNode `json:"nodes"`
}

type planNode struct {
	StackID string `json:"stack_id"`
	Region  string `json:"region"`
	Role    string `json:"role"`
	Port    int    `json:"port"` // the first of its five
}

const planFormat = 1

// newPlan lays out a deployment. acme has nodes nodes, every further organisation one.
func newPlan(mode node.Mode, basePort, nodes, orgs int) plan {
	p := plan{Format: planFormat, Mode: mode, BasePort: basePort}
	port := basePort
	for i, name := range organizations[:orgs] {
		count := 1
		if i == 0 {
			count = nodes
		}
		org := planOrg{Organization: name, TrustDomain: name + ".agentos.internal"}
		for n := range count {
			role := "voter"
			if n >= cluster.WantedVoters(count) {
				role = "nonvoter"
			}
			org.Nodes = append(org.Nodes, planNode{StackID: fmt.Sprintf("stk_%s_node_%02d", name, n+1), Region: "local", Role: role, Port: port})
			port += PortStep
		}
		p.Organizations = append(p.Organizations, org)
	}
	return p
}

func (p plan) nodes() []planNode {
	var all []planNode
	for _, org := range p.Organizations {
		all = append(all, org.Nodes...)
	}
	return all
}

// readPlan returns nil without an error when the directory holds no deployment.
func readPlan(dir string) (*plan, error) {
	name := filepath.Join(dir, planName)
	raw, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var p plan
	if err := json.Unmarshal(raw, &p); err != nil {
		return nil, fmt.Errorf("%s is damaged: %w", name, err)
	}
	if p.Format != planFormat || len(p.Organizations) == 0 {
		return nil, fmt.Errorf("%s has format %d, and this agentos reads format %d", name, p.Format, planFormat)
	}
	return &p, nil
}

func (p plan) save(dir string) error { return writeJSON(filepath.Join(dir, planName), p) }

// listener is one address that a node takes.
type listener struct {
	name, network, addr string
}

// listeners returns the addresses of n in their fixed order.
func (n planNode) listeners() []listener {
	at := func(i int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(n.Port+i)) }
	return []listener{
		{"api", "tcp", at(0)},
		{"federation", "tcp", at(1)},
		{"cluster", "tcp", at(2)},
		{"gossip", "tcp", at(3)},
		{"gossip", "udp", at(3)},
		{"admin", "tcp", at(4)},
	}
}

func (n planNode) addr(name string) string {
	for _, l := range n.listeners() {
		if l.name == name {
			return l.addr
		}
	}
	return ""
}

func (n planNode) apiURL() string   { return "http://" + n.addr("api") }
func (n planNode) adminURL() string { return "http://" + n.addr("admin") }

// Names within a state directory.
const (
	planName     = "plan.json"
	accessName   = "access.json"
	lockName     = "lock"
	removingName = "removing" // is there while nuke --hard is at work
	keysName     = "keys"
	nodesName    = "nodes"
	processName  = "process.json"
	logName      = "node.log"
	dataName     = "data"
)

func (f *Fleet) path(parts ...string) string {
	return filepath.Join(append([]string{f.o.StateDir}, parts...)...)
}

func (f *Fleet) nodeDir(stackID string) string { return f.path(nodesName, stackID) }
func (f *Fleet) dataDir(stackID string) string { return f.path(nodesName, stackID, dataName) }
func (f *Fleet) logFile(stackID string) string { return f.path(nodesName, stackID, logName) }

func writeJSON(name string, v any) error {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return node.WriteFile(name, append(raw, '\n'), 0o600)
}
