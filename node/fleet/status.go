package fleet

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"time"
)

// Status is how a deployment is.
type Status struct {
	StateDir string       `json:"state_dir"`
	Mode     string       `json:"mode"`
	Ready    bool         `json:"ready"` // every node is
	Nodes    []NodeStatus `json:"nodes"`
}

// NodeStatus is how one node is.
type NodeStatus struct {
	StackID      string `json:"stack_id"`
	Organization string `json:"organization"`
	State        string `json:"state"` // ready, drained, not ready, unreachable or stopped
	PID          int    `json:"pid"`   // 0 when it does not run
	Uptime       string `json:"uptime"`
	Version      string `json:"version"`
	Leader       string `json:"leader"`
	APIURL       string `json:"api_url"`
	AdminURL     string `json:"admin_url"`
	LogFile      string `json:"log_file"`
	DataDir      string `json:"data_dir"`
	Detail       string `json:"detail"` // what is wrong, by dependency
}

// Status looks at every node, also at those that don't answer. It changes nothing and needs no key.
func (f *Fleet) Status(ctx context.Context) (*Status, error) {
	p, err := f.need()
	if err != nil {
		return nil, err
	}
	s := &Status{StateDir: f.o.StateDir, Mode: string(p.Mode), Ready: true, Nodes: []NodeStatus{}}
	for _, org := range p.Organizations {
		for _, n := range org.Nodes {
			one, err := f.look(ctx, org, n)
			if err != nil {
				return nil, err
			}
			s.Nodes = append(s.Nodes, one)
			s.Ready = s.Ready && one.State == "ready"
		}
	}
	return s, nil
}

func (f *Fleet) look(ctx context.Context, org planOrg, n planNode) (NodeStatus, error) {
	s := NodeStatus{
		StackID: n.StackID, Organization: org.Organization, State: "stopped", APIURL: n.apiURL(), AdminURL: n.adminURL(),
		LogFile: f.logFile(n.StackID), DataDir: f.dataDir(n.StackID), Uptime: "-",
	}
	who, alive, err := f.running(n.StackID)
	if err != nil {
		return s, err
	}
	if !alive {
		s.Detail = "no process; agentos up starts it"
		return s, nil
	}
	s.PID = who.PID
	var l launched
	if raw, err := os.ReadFile(filepath.Join(f.nodeDir(n.StackID), processName)); err == nil && json.Unmarshal(raw, &l) == nil && l.Identity == who {
		s.Uptime = time.Since(l.StartedAt).Round(time.Second).String()
	}
	api, err := f.once(n.apiURL())
	if err != nil {
		return s, err
	}
	defer api.Close()
	ready, err := api.Ready(ctx)
	switch {
	case err != nil:
		s.State, s.Detail = "unreachable", err.Error()
		return s, nil
	case ready.Ready():
		s.State = "ready"
	case ready.Drained():
		s.State, s.Detail = "drained", "agentos cluster drain "+n.StackID+" --undo"+f.at()+" takes it back"
	default:
		s.State, s.Detail = "not ready", unready(ready)
	}
	if health, err := api.Health(ctx); err == nil {
		s.Version = health.Version
	}
	if s.State == "ready" && s.Version != "" && s.Version != f.o.Build.Version {
		s.Detail = "runs another version than this agentos (" + f.o.Build.Version + "); agentos redeploy changes it"
	}
	s.Leader = f.leader(ctx, org, n)
	return s, nil
}

// leader asks with the administrator's key, if there is one, who leads the node's cluster.
func (f *Fleet) leader(ctx context.Context, org planOrg, n planNode) string {
	c, err := f.with(n, f.keyFile(org, defaultTenant(f.plan), rolePlatformAdmin))
	if err != nil {
		return ""
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	leader, err := leaderOf(ctx, c)
	if err != nil {
		return ""
	}
	return leader
}
