package harness

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Access is what `agentos up` leaves in access.json, as far as the suites read it.
type Access struct {
	Mode          string         `json:"mode"`
	StateDir      string         `json:"state_dir"`
	Organizations []Organization `json:"organizations"`
	Reports       []any          `json:"reports"`
}

// Organization is one organisation of an Access.
type Organization struct {
	Organization string       `json:"organization"`
	TrustDomain  string       `json:"trust_domain"`
	CAFile       string       `json:"ca_file"`
	Nodes        []AccessNode `json:"nodes"`
	Tenants      []struct {
		TenantID   string `json:"tenant_id"`
		Principals []struct {
			PrincipalID string `json:"principal_id"`
			Role        string `json:"role"`
			KeyFile     string `json:"key_file"`
		} `json:"principals"`
	} `json:"tenants"`
}

// AccessNode is one node of an Access.
type AccessNode struct {
	StackID  string `json:"stack_id"`
	Region   string `json:"region"`
	APIURL   string `json:"api_url"`
	AdminURL string `json:"admin_url"`
	// FederationURL and ClusterAddr are the doors of other organisations' nodes and of the cluster's own.
	FederationURL string `json:"federation_url"`
	ClusterAddr   string `json:"cluster_addr"`
	Pid           int    `json:"pid"`
	LogFile       string `json:"log_file"`
	DataDir       string `json:"data_dir"`
}

// Deployment is made by `agentos up` in a directory of its own: of one node, unless Shape says otherwise.
type Deployment struct {
	Binary   string
	Dir      string // working directory; reports go below it
	StateDir string
	BasePort int
	Env      []string
	// Shape are the flags that say how many organisations and nodes there are; empty and not nil leaves that to the binary.
	Shape  []string
	Access Access
}

// UpBound bounds one `agentos up`.
const UpBound = 2 * time.Minute

// NewDeployment prepares a deployment in a fresh directory without starting it. What it starts later is ended and removed
// with the test.
func NewDeployment(tb testing.TB, binary string, env ...string) *Deployment {
	tb.Helper()
	d := &Deployment{Binary: binary, Dir: tb.TempDir(), Env: env}
	d.StateDir = filepath.Join(d.Dir, "state")
	port, err := FreePorts(50)
	if err != nil {
		tb.Fatal(err)
	}
	d.BasePort = port
	tb.Cleanup(func() { d.end(tb) })
	return d
}

// Up is NewDeployment, started.
func Up(tb testing.TB, binary string, env ...string) *Deployment {
	tb.Helper()
	d := NewDeployment(tb, binary, env...)
	d.Up(tb)
	return d
}

// Up runs `agentos up` and reads access.json. It may be run again after a node was killed.
func (d *Deployment) Up(tb testing.TB) Outcome {
	tb.Helper()
	shape := d.Shape
	if shape == nil {
		shape = []string{"--orgs", "1", "--nodes", "1"}
	}
	out := d.CLI(tb, append([]string{"up", "--base-port", strconv.Itoa(d.BasePort), "--output", "json"}, shape...)...)
	if out.Code != 0 {
		tb.Fatalf("agentos up: exit code %d\n%s\n%s\n%s", out.Code, tail(out.Stdout, 2000), tail(out.Stderr, 4000), tail(d.Log(), 4000))
	}
	if err := d.read(); err != nil {
		tb.Fatalf("read access.json: %v", err)
	}
	return out
}

func (d *Deployment) read() error {
	text, err := os.ReadFile(filepath.Join(d.StateDir, "access.json"))
	if err != nil {
		return err
	}
	d.Access = Access{}
	if err := json.Unmarshal(text, &d.Access); err != nil {
		return err
	}
	if len(d.Access.Organizations) == 0 || len(d.Access.Organizations[0].Nodes) == 0 {
		return fmt.Errorf("no node in %s", text)
	}
	return nil
}

// Argv is the command line of the binary with args and this deployment's state directory.
func (d *Deployment) Argv(args ...string) []string {
	return append(append([]string{d.Binary}, args...), "--state-dir", d.StateDir)
}

// CLI runs the binary with args and this deployment's state directory.
func (d *Deployment) CLI(tb testing.TB, args ...string) Outcome {
	tb.Helper()
	return Command(tb, UpBound, d.Dir, d.Env, d.Argv(args...)...)
}

// Node returns the node: the first one of the first organisation, if there are more.
func (d *Deployment) Node() AccessNode { return d.Access.Organizations[0].Nodes[0] }

// Org returns the organisation of this name.
func (d *Deployment) Org(tb testing.TB, name string) Organization {
	tb.Helper()
	for _, o := range d.Access.Organizations {
		if o.Organization == name {
			return o
		}
	}
	tb.Fatalf("no organisation %s in access.json", name)
	return Organization{}
}

// Key returns the API key of the first principal with this role in this tenant of the first organisation.
func (d *Deployment) Key(tb testing.TB, tenantID, role string) string {
	tb.Helper()
	return d.Access.Organizations[0].Key(tb, tenantID, role)
}

// Key returns the API key of the first principal with this role in this tenant.
func (o Organization) Key(tb testing.TB, tenantID, role string) string {
	tb.Helper()
	for _, t := range o.Tenants {
		for _, p := range t.Principals {
			if (tenantID == "" || t.TenantID == tenantID) && p.Role == role {
				text, err := os.ReadFile(p.KeyFile)
				if err != nil {
					tb.Fatal(err)
				}
				return strings.TrimSpace(string(text))
			}
		}
	}
	tb.Fatalf("no principal with role %s in tenant %q in access.json", role, tenantID)
	return ""
}

// Client returns a client of the API with a key.
func (d *Deployment) Client(key string) *Client { return NewClient(d.Node().APIURL, key) }

// Admin returns a client of the API with the platform administrator's key.
func (d *Deployment) Admin(tb testing.TB) *Client {
	tb.Helper()
	return d.Client(d.Key(tb, "", "platform_admin"))
}

// Pid returns the node's process id.
func (d *Deployment) Pid() int { return d.Node().Pid }

// Kill ends the node without a warning and waits until it is gone.
func (d *Deployment) Kill(tb testing.TB) {
	tb.Helper()
	d.KillNode(tb, d.Node())
}

// KillNode is Kill of one of several nodes.
func (d *Deployment) KillNode(tb testing.TB, n AccessNode) {
	tb.Helper()
	pid := n.Pid
	if !Alive(pid) {
		tb.Fatalf("node %d was dead before it was killed; its log ends:\n%s", pid, tail(d.Log(), 4000))
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		tb.Fatalf("kill %d: %v", pid, err)
	}
	if err := AwaitExit(pid, 20*time.Second); err != nil {
		tb.Fatal(err)
	}
}

// Log returns what the node has logged.
func (d *Deployment) Log() string {
	if len(d.Access.Organizations) > 0 {
		if text, err := os.ReadFile(d.Node().LogFile); err == nil {
			return string(text)
		}
	}
	var all strings.Builder
	_ = filepath.WalkDir(d.StateDir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() && strings.HasSuffix(path, ".log") && !strings.Contains(path, "/log/") && !strings.Contains(path, "/st/") {
			if text, err := os.ReadFile(path); err == nil {
				all.Write(text)
			}
		}
		return nil
	})
	return all.String()
}

// CommandLine returns argv and environment of the running node, as the kernel has them, so that a suite can start the
// very same node again under other circumstances: without --init, then, which a directory that holds a node refuses.
func (d *Deployment) CommandLine(tb testing.TB) (argv, env []string) {
	tb.Helper()
	for name, into := range map[string]*[]string{"cmdline": &argv, "environ": &env} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", d.Pid(), name))
		if err != nil {
			tb.Fatal(err)
		}
		*into = strings.Split(strings.TrimRight(string(text), "\x00"), "\x00")
	}
	argv = slices.DeleteFunc(argv, func(arg string) bool { return arg == "--init" })
	return argv, env
}

// AwaitReady waits until /readyz of the API says 200, at most for d.
func AwaitReady(base string, d time.Duration) error {
	c := NewClient(base, "")
	defer c.Close()
	return c.AwaitReady(d)
}

// AwaitReady waits until the client's listener says on /readyz that it takes requests, at most for d.
func (c *Client) AwaitReady(d time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	var last string
	if Poll(d, 3*time.Millisecond, func() bool {
		a, err := c.Try(ctx, "GET", "/readyz", nil)
		last = fmt.Sprintf("%d %s %v", a.Status, a.Body, err)
		return err == nil && a.Status == 200
	}) {
		return nil
	}
	return fmt.Errorf("%s is not ready after %v: %s", c.Base, d, last)
}

// end kills what is left of the deployment, by the ids that it names itself and by the sessions that hold its directory.
func (d *Deployment) end(tb testing.TB) {
	if strings.Contains(d.Log(), "WARNING: DATA RACE") { // of a binary built by EnvRace
		tb.Errorf("the node's log tells of a data race")
	}
	if tb.Failed() {
		tb.Logf("the node's log ends:\n%s", tail(d.Log(), 6000))
	}
	_ = d.read()
	for _, o := range d.Access.Organizations {
		for _, n := range o.Nodes {
			if owns(n.Pid, d.StateDir) && syscall.Kill(n.Pid, syscall.SIGKILL) == nil {
				_ = AwaitExit(n.Pid, 20*time.Second)
			}
		}
	}
	for _, pid := range Holders(d.StateDir) {
		if syscall.Kill(pid, syscall.SIGKILL) == nil {
			_ = AwaitExit(pid, 20*time.Second)
		}
	}
}

// Holders returns the processes whose command line or environment names dir: those which a deployment in it has started.
func Holders(dir string) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && pid != os.Getpid() && owns(pid, dir) && Alive(pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func owns(pid int, dir string) bool {
	for _, name := range []string{"cmdline", "environ"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
		if err == nil && strings.Contains(string(text), dir) {
			return true
		}
	}
	return false
}

// FreePorts returns a port p such that p … p+n-1 were free on loopback a moment ago, below the range from which the
// kernel takes ports for connections.
func FreePorts(n int) (int, error) {
	for range 200 {
		p := 12000 + rand.IntN(18000/n)*n
		if free(p, n) {
			return p, nil
		}
	}
	return 0, fmt.Errorf("no %d free ports in a row", n)
}

func free(p, n int) bool {
	for i := range n {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(p+i)))
		if err != nil {
			return false
		}
		_ = l.Close()
	}
	return true
}
