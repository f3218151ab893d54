package fleet

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/nexixai/agentos/api/client"
	"github.com/nexixai/agentos/node"
)

// Report is what one action did and found. It holds no secret.
type Report struct {
	Action     string    `json:"action"`
	Result     string    `json:"result"` // ok or failed
	StartedAt  time.Time `json:"started_at"`
	EndedAt    time.Time `json:"ended_at"`
	DurationMS int64     `json:"duration_ms"`

	Host     Host       `json:"host"`
	Build    node.Build `json:"build"`
	Mode     string     `json:"mode"`
	StateDir string     `json:"state_dir"`

	Ports    []Port         `json:"ports"`
	Nodes    []NodeStatus   `json:"nodes"`
	Seeded   *node.Seeded   `json:"seeded"`
	Phases   []PhaseResult  `json:"phases"`
	Checks   []Check        `json:"checks"`
	Smoke    []Check        `json:"smoke_tests"`
	Alerts   Alerts         `json:"alerts"`
	Access   *Access        `json:"access"`
	Tenants  []TenantFacts  `json:"tenants"`
	Agents   []AgentFacts   `json:"agents"`
	Peerings []PeeringFacts `json:"peerings"`
	Routes   []RouteFacts   `json:"routes"`
	Advice   []Advice       `json:"advice"`
	Removed  []string       `json:"removed,omitempty"`
	Error    string         `json:"error,omitempty"`
	LastLog  []string       `json:"last_log_lines,omitempty"`
	Remedies []string       `json:"remediation"`

	// Files are where the report lies; filled in by write.
	Files []string `json:"files"`
}

// Host is the machine.
type Host struct {
	Hostname  string     `json:"hostname"`
	OS        string     `json:"os"`
	Arch      string     `json:"arch"`
	CPUs      int        `json:"cpus"`
	DiskFree  node.Bytes `json:"disk_free_bytes"`
	GoVersion string     `json:"go_version"`
}

// Port is one address of a node.
type Port struct {
	StackID  string `json:"stack_id"`
	Listener string `json:"listener"`
	Protocol string `json:"protocol"`
	Address  string `json:"address"`
	State    string `json:"state"` // free, ours, or taken by another, when it was looked at
}

// Check is one thing that was tried.
type Check struct {
	Name       string `json:"name"`
	OK         bool   `json:"ok"`
	Detail     string `json:"detail"`
	DurationMS int64  `json:"duration_ms"`
}

// Alerts is the state of alerting.
type Alerts struct {
	Configured bool   `json:"configured"`
	Detail     string `json:"detail"`
	HowToTest  string `json:"how_to_test"`
}

// TenantFacts are a tenant's limits, for the report.
type TenantFacts struct {
	Organization string        `json:"organization"`
	TenantID     string        `json:"tenant_id"`
	Name         string        `json:"name"`
	Status       string        `json:"status"`
	Quotas       client.Quotas `json:"quotas"`
}

// AgentFacts are an agent that was seeded.
type AgentFacts struct {
	Organization string `json:"organization"`
	TenantID     string `json:"tenant_id"`
	AgentID      string `json:"agent_id"`
	ModelRef     string `json:"model_ref"`
}

// PeeringFacts are a peering as one of the two organisations has it.
type PeeringFacts struct {
	At      string         `json:"at"` // that organisation
	Peering client.Peering `json:"peering"`
}

// RouteFacts are a route of an organisation's default tenant.
type RouteFacts struct {
	Organization string   `json:"organization"`
	ID           string   `json:"route_id"`
	AgentID      string   `json:"agent_id"` // "" for any
	To           []string `json:"to"`
}

// Advice is how to do what people do next.
type Advice struct {
	What    string `json:"what"`
	Command string `json:"command"`
}

func (f *Fleet) newReport(action string) *Report {
	r := &Report{
		Action: action, Result: "ok", StartedAt: time.Now().UTC(), Build: f.o.Build, StateDir: f.o.StateDir,
		Host:  Host{OS: runtime.GOOS, Arch: runtime.GOARCH, CPUs: runtime.NumCPU(), GoVersion: runtime.Version()},
		Ports: []Port{}, Nodes: []NodeStatus{}, Phases: []PhaseResult{}, Checks: []Check{}, Smoke: []Check{},
		Tenants: []TenantFacts{}, Agents: []AgentFacts{}, Peerings: []PeeringFacts{}, Routes: []RouteFacts{}, Advice: []Advice{}, Remedies: []string{}, Files: []string{},
		Alerts: Alerts{Detail: "none: this version sends no alerts", HowToTest: "nothing to test yet: agentos validate fails when something is broken, and a monitor of your own can ask each node's /readyz and /metrics"},
	}
	r.Host.Hostname, _ = os.Hostname()
	r.Host.DiskFree, _ = freeSpace(filepath.Dir(f.o.StateDir))
	return r
}

// finish completes the report with how the action ended and writes it. It returns the action's error, joined with its own.
func (f *Fleet) finish(r *Report, err error) error {
	r.EndedAt = time.Now().UTC()
	r.DurationMS = r.EndedAt.Sub(r.StartedAt).Milliseconds()
	if f.plan != nil {
		r.Mode = string(f.plan.Mode)
	}
	if err != nil {
		r.Result, r.Error = "failed", err.Error()
		if failed, ok := errors.AsType[*FailedError](err); ok {
			r.LastLog = failed.Log
			r.Remedies = append(r.Remedies, failed.Next)
		}
	}
	err = errors.Join(err, f.write(r))
	if r.Action == "validate" || f.plan == nil { // which changes nothing
		return err
	}
	if _, statErr := os.Stat(f.path(accessName)); statErr == nil { // it names the reports, this one too
		err = errors.Join(err, f.saveAccess())
	}
	return err
}

// write puts the report into the report directory, as Markdown and JSON. Two reports never share a name.
func (f *Fleet) write(r *Report) error {
	if err := os.MkdirAll(f.o.ReportDir, 0o755); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	for at := r.EndedAt; ; at = at.Add(time.Second) {
		base := filepath.Join(f.o.ReportDir, r.Action+"-"+at.Format("20060102-150405"))
		file, err := os.OpenFile(base+".json", os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("report: %w", err)
		}
		r.Files = []string{base + ".md", base + ".json"}
		if r.Access != nil {
			r.Access.Reports = f.reports()
		}
		enc := json.NewEncoder(file)
		enc.SetIndent("", "  ")
		if err := errors.Join(enc.Encode(r), file.Close()); err != nil {
			return fmt.Errorf("report: %w", err)
		}
		if err := os.WriteFile(base+".md", []byte(r.markdown()), 0o644); err != nil {
			return fmt.Errorf("report: %w", err)
		}
		return nil
	}
}

// reports lists the reports there are, oldest first.
func (f *Fleet) reports() []string {
	names, _ := filepath.Glob(filepath.Join(f.o.ReportDir, "*-[0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9]-[0-9][0-9][0-9][0-9][0-9][0-9].json"))
	slices.SortFunc(names, func(a, b string) int { return strings.Compare(stamp(a), stamp(b)) })
	if names == nil {
		names = []string{}
	}
	const most = 20
	return names[max(0, len(names)-most):]
}

func stamp(name string) string {
	base := strings.TrimSuffix(filepath.Base(name), ".json")
	return base[max(0, len(base)-15):]
}
