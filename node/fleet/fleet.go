package fleet

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/nexixai/agentos/node"
)

// Options say which deployment, and what it is to be if it is made now.
type Options struct {
	// StateDir is where the deployment lives; "" means .agentos in the working directory.
	StateDir string
	// ReportDir is where reports go; "" means reports in the working directory. It must not be within StateDir.
	ReportDir string
	// Binary is the agentos that is started as a node; "" means the running one.
	Binary string
	// Env holds variables for the nodes that the environment does not set.
	Env map[string]string
	// Build says what this binary is.
	Build node.Build
	// Progress is told what happens, in order, from one goroutine at a time; nil tells nobody.
	Progress func(Event)

	// Mode, BasePort, Nodes (of the first organisation; every other has one) and Orgs shape a new deployment; zero values
	// mean demo, DefaultBasePort, 3 and 2. For a deployment that exists they must be zero or what it was made with.
	Mode     node.Mode
	BasePort int
	Nodes    int
	Orgs     int
	// FreshMode and FreshBasePort stand in for a zero Mode and BasePort, but only when the deployment is made now.
	FreshMode     node.Mode
	FreshBasePort int
}

// Fleet is one deployment. Its methods are not for concurrent use.
type Fleet struct {
	o     Options
	plan  *plan // nil: there is none yet
	saved bool  // the plan is on disk
}

// RefusedError is a request that can't be carried out as it stands; nothing was changed.
type RefusedError struct {
	Reason string
	Hint   string // what to do instead
}

// Error implements error.
func (e *RefusedError) Error() string { return e.Reason }

// Open reads the deployment in the state directory, if there is one.
func Open(o Options) (*Fleet, error) {
	var err error
	if o.StateDir == "" {
		o.StateDir = ".agentos"
	}
	if o.ReportDir == "" {
		o.ReportDir = "reports"
	}
	if o.StateDir, err = filepath.Abs(o.StateDir); err != nil {
		return nil, err
	}
	if o.ReportDir, err = filepath.Abs(o.ReportDir); err != nil {
		return nil, err
	}
	if o.ReportDir == o.StateDir || strings.HasPrefix(o.ReportDir, o.StateDir+string(filepath.Separator)) {
		return nil, &RefusedError{"the report directory lies within the state directory, which nuke --hard removes", "give a --report-dir outside of " + o.StateDir}
	}
	if o.Binary == "" {
		if o.Binary, err = os.Executable(); err != nil {
			return nil, err
		}
	}
	if o.Progress == nil {
		o.Progress = func(Event) {}
	}
	f := &Fleet{o: o}
	if f.plan, err = readPlan(o.StateDir); err != nil {
		return nil, err
	}
	f.saved = f.plan != nil
	return f, nil
}

// Exists reports whether there is a deployment on disk.
func (f *Fleet) Exists() bool { return f.saved }

// StateDir returns the deployment's directory, absolute.
func (f *Fleet) StateDir() string { return f.o.StateDir }

// lay makes the plan of a new deployment, or holds the wishes against the one there is.
func (f *Fleet) lay() error {
	if f.o.Nodes < 0 || f.o.Nodes > maxNodes || f.o.Orgs < 0 || f.o.Orgs > len(organizations) {
		return &RefusedError{
			fmt.Sprintf("--nodes counts from 1 to %d, and --orgs from 1 to %d", maxNodes, len(organizations)),
			fmt.Sprintf("leave them out for %d nodes and %d organisations", defaultNodes, defaultOrgs),
		}
	}
	mode, port := f.o.Mode, f.o.BasePort
	if f.plan == nil {
		mode, port = cmp.Or(mode, f.o.FreshMode, node.Demo), cmp.Or(port, f.o.FreshBasePort, DefaultBasePort)
	}
	nodes, orgs := cmp.Or(f.o.Nodes, defaultNodes), cmp.Or(f.o.Orgs, defaultOrgs)
	if last := 65535 - PortStep*(nodes+orgs-1); port != 0 && (port < 1024 || port > last) {
		return &RefusedError{fmt.Sprintf("base port %d is not between 1024 and %d", port, last), fmt.Sprintf("leave it out for %d", DefaultBasePort)}
	}
	switch mode {
	case "", node.Demo, node.Dev:
	case node.Prod:
		return &RefusedError{
			"up does not make production deployments yet: it has no certificates and secrets to give to the node",
			"run the node itself: agentos node run --mode prod --init … (docs/configuration.md)",
		}
	default:
		return &RefusedError{fmt.Sprintf("mode %q is none of demo, dev, prod", mode), "leave it out for demo"}
	}
	if f.plan == nil {
		p := newPlan(mode, port, nodes, orgs)
		f.plan = &p
		return nil
	}
	differs := func(what, has, wanted string) error {
		return &RefusedError{
			fmt.Sprintf("the deployment in %s was made with %s %s, not %s", f.o.StateDir, what, has, wanted),
			"leave it out to keep the deployment, give another --state-dir, or remove this one: agentos nuke --yes-really --hard",
		}
	}
	if f.o.Mode != "" && f.o.Mode != f.plan.Mode {
		return differs("mode", string(f.plan.Mode), string(f.o.Mode))
	}
	if has := len(f.plan.Organizations[0].Nodes); f.o.Nodes != 0 && f.o.Nodes != has {
		return differs("nodes:", fmt.Sprint(has), fmt.Sprint(f.o.Nodes))
	}
	if has := len(f.plan.Organizations); f.o.Orgs != 0 && f.o.Orgs != has {
		return differs("organisations:", fmt.Sprint(has), fmt.Sprint(f.o.Orgs))
	}
	if f.o.BasePort != 0 && f.o.BasePort != f.plan.BasePort {
		return differs("base port", fmt.Sprint(f.plan.BasePort), fmt.Sprint(f.o.BasePort))
	}
	return nil
}

// hold locks the deployment for one action; the lock goes with the process. A state directory that nothing came of is
// removed again.
func (f *Fleet) hold() (release func(), err error) {
	unusable := func(err error) error {
		return &FailedError{Phase: "preflight", Check: "state directory", Err: err, Next: "agentos up --state-dir DIR, with a directory that you may write to"}
	}
	if err := os.MkdirAll(f.o.StateDir, 0o700); err != nil {
		return nil, unusable(err)
	}
	file, err := os.OpenFile(f.path(lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, unusable(err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		file.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, &RefusedError{"another agentos command is changing the deployment in " + f.o.StateDir, "wait for it to end, then try again"}
		}
		return nil, err
	}
	return func() {
		if !f.saved {
			_ = os.Remove(f.path(lockName))
			_ = os.Remove(f.o.StateDir) // only if it's empty
		}
		file.Close()
	}, nil
}

// need returns the plan, or the error that there is no deployment.
func (f *Fleet) need() (*plan, error) {
	if f.plan == nil {
		return nil, fmt.Errorf("%w in %s", ErrNoDeployment, f.o.StateDir)
	}
	return f.plan, nil
}

// access describes the deployment as it stands now.
func (f *Fleet) access() (*Access, error) {
	a := &Access{Mode: string(f.plan.Mode), StateDir: f.o.StateDir, Observability: Observability{MetricsURLs: []string{}}, Reports: f.reports()}
	for _, org := range f.plan.Organizations {
		ca := filepath.Join(f.dataDir(org.Nodes[0].StackID), node.CAName)
		o := Organization{Name: org.Organization, CAFile: &ca, TrustDomain: org.TrustDomain, Nodes: []Node{}, Tenants: f.tenants(org)}
		for _, n := range org.Nodes {
			who, alive, err := f.running(n.StackID)
			if err != nil {
				return nil, err
			}
			if !alive {
				who.PID = 0
			}
			o.Nodes = append(o.Nodes, Node{
				StackID: n.StackID, Region: n.Region, Role: n.Role, APIURL: n.apiURL(), FederationURL: "https://" + n.addr("federation"),
				ClusterAddr: n.addr("cluster"), AdminURL: n.adminURL(), GossipAddr: n.addr("gossip"), PID: who.PID,
				LogFile: f.logFile(n.StackID), DataDir: f.dataDir(n.StackID),
			})
			a.Observability.MetricsURLs = append(a.Observability.MetricsURLs, n.adminURL()+"/metrics")
		}
		a.Organizations = append(a.Organizations, o)
	}
	return a, nil
}
