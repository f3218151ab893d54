package fleet

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/nexixai/agentos/node"
)

// Up makes the deployment, or makes it whole again: what runs is left alone, what was killed is started, what is seeded
// stays as it is. The report is never nil unless the request was refused.
func (f *Fleet) Up(ctx context.Context) (*Report, error) {
	r := f.newReport("up")
	if err := f.lay(); err != nil {
		return nil, err
	}
	release, err := f.hold()
	if _, failed := errors.AsType[*FailedError](err); failed {
		return r, f.finish(r, err)
	}
	if err != nil {
		return nil, err
	}
	defer release()
	err = f.phases(ctx, r,
		step{"preflight", f.preflight},
		step{"boot", f.bootAll},
		step{"seed", f.seed},
		step{"wire", f.wire},
		step{"validate", f.validate},
		step{"report", f.describe},
	)
	return r, f.finish(r, err)
}

// Redeploy restarts every node with this binary, one after another, and checks that nothing accepted was lost.
func (f *Fleet) Redeploy(ctx context.Context) (*Report, error) { return f.roll(ctx, "redeploy", "") }

// Restart is Redeploy of one node.
func (f *Fleet) Restart(ctx context.Context, stackID string) (*Report, error) {
	if _, err := f.LogFiles(stackID); err != nil { // which knows the nodes
		return nil, err
	}
	return f.roll(ctx, "restart", stackID)
}

// roll restarts the node named only, or all of them for "".
func (f *Fleet) roll(ctx context.Context, action, only string) (*Report, error) {
	r := f.newReport(action)
	if _, err := f.need(); err != nil {
		return nil, err
	}
	release, err := f.hold()
	if err != nil {
		return nil, err
	}
	defer release()
	accepted := &census{}
	err = f.phases(ctx, r,
		step{"count", func(ctx context.Context, _ *Report, p *phase) error { return f.count(ctx, p, accepted) }},
		step{"restart", func(ctx context.Context, _ *Report, p *phase) error { return f.restart(ctx, p, only) }},
		step{"recount", func(ctx context.Context, _ *Report, p *phase) error { return f.recount(ctx, p, accepted) }},
		step{"validate", f.validate},
		step{"report", f.describe},
	)
	return r, f.finish(r, err)
}

// Validate checks the deployment from end to end. Every check is tried; the error names those that failed.
func (f *Fleet) Validate(ctx context.Context) (*Report, error) {
	r := f.newReport("validate")
	if _, err := f.need(); err != nil {
		return nil, err
	}
	err := f.phases(ctx, r, step{"validate", f.validate}, step{"report", f.describe})
	return r, f.finish(r, err)
}

type step struct {
	name string
	do   func(context.Context, *Report, *phase) error
}

func (f *Fleet) phases(ctx context.Context, r *Report, steps ...step) error {
	for _, s := range steps {
		if err := f.run(ctx, r, s.name, func(ctx context.Context, p *phase) error { return s.do(ctx, r, p) }); err != nil {
			f.survey(context.WithoutCancel(ctx), r)
			return err
		}
	}
	return nil
}

// bootAll writes the plan down before the first process is started, so that nothing runs which no command can find.
func (f *Fleet) bootAll(ctx context.Context, r *Report, p *phase) error {
	if err := f.plan.save(f.o.StateDir); err != nil {
		return err
	}
	f.saved = true
	return f.boot(ctx, r, p)
}

// saveAccess describes the deployment as it stands in access.json.
func (f *Fleet) saveAccess() error {
	a, err := f.access()
	if err != nil {
		return err
	}
	return writeJSON(f.path(accessName), a)
}

// restart stops and starts each node, or the one named only. Of one cluster, the next node is touched when the one before
// is ready again; clusters don't wait for each other.
func (f *Fleet) restart(ctx context.Context, p *phase, only string) error {
	p.total(2)
	if only == "" {
		p.total(2 * len(f.plan.nodes()))
	}
	return f.each(func(org planOrg) error {
		for _, n := range org.Nodes {
			if only != "" && n.StackID != only {
				continue
			}
			if err := f.restartNode(ctx, p, org, n); err != nil {
				return err
			}
		}
		return nil
	})
}

func (f *Fleet) restartNode(ctx context.Context, p *phase, org planOrg, n planNode) error {
	who, alive, err := f.running(n.StackID)
	if err != nil {
		return err
	}
	if alive {
		forced, err := f.stop(ctx, who, stopPatience)
		if err != nil {
			return &FailedError{Phase: p.name, Check: "stop " + n.StackID, Err: err, Next: "agentos status" + f.at()}
		}
		p.step("%s stopped, process %d%s", n.StackID, who.PID, map[bool]string{true: ", killed because it did not drain in time"}[forced])
	} else {
		p.step("%s did not run", n.StackID)
	}
	c, err := f.launch(org, n)
	if err != nil {
		return &FailedError{Phase: p.name, Check: "start " + n.StackID, Err: err, Next: "agentos logs " + n.StackID + f.at()}
	}
	if err := f.awaitReady(ctx, n, c.Identity, c); err != nil {
		return f.bootFailed(p, n, c.logAt, err)
	}
	p.step("%s is ready, process %d", n.StackID, c.PID)
	return nil
}

// describe fills in the rest of the report.
func (f *Fleet) describe(ctx context.Context, r *Report, p *phase) (err error) {
	p.total(2)
	if r.Access, err = f.access(); err != nil {
		return err
	}
	f.survey(ctx, r)
	p.step("%d node(s), %d health check(s), %d smoke test(s)", len(r.Nodes), len(r.Checks), len(r.Smoke))
	if f.plan.Seeded != nil {
		r.Seeded = f.plan.Seeded
		f.facts(ctx, r)
	}
	for _, route := range f.wantedRoutes() {
		r.Advice = append(r.Advice, Advice{
			"a run that " + route.Targets[0].Organization + " does for " + f.plan.Organizations[0].Organization,
			"agentos runs create --agent " + route.Match.AgentID + " --text 'Two organisations share their agents.' --watch" + f.at(),
		})
	}
	if len(f.plan.Organizations) > 1 {
		other := f.plan.Organizations[1].Organization
		r.Advice = append(r.Advice, Advice{"the same as another organisation", "agentos runs list --org " + other + f.at()})
	}
	r.Advice = append(r.Advice,
		Advice{"a first run", "agentos runs create --agent " + node.SampleAgentID + " --text hello --watch" + f.at()},
		Advice{"make a tenant", "agentos tenants create tnt_mine --name Mine --plan standard" + f.at()},
		Advice{"change quotas", "agentos tenants quotas " + node.DefaultTenantID + " --file quotas.json" + f.at()},
		Advice{"rotate a key", "agentos keys rotate KEY --out KEY_FILE" + f.at() + " (KEY as agentos keys list shows it)"},
		Advice{"see how it is", "agentos status" + f.at()},
	)
	p.step("%d tenant(s) and their quotas, %d agent(s), %d peering(s), %d route(s)", len(r.Tenants), len(r.Agents), len(r.Peerings), len(r.Routes))
	return nil
}

// at is the flag that names this deployment, "" for the one that is meant without it.
func (f *Fleet) at() string {
	if dir, err := filepath.Abs(".agentos"); err == nil && f.o.StateDir == dir {
		return ""
	}
	return " --state-dir " + f.o.StateDir
}

// survey puts the nodes' state into the report; what can't be found out is left out.
func (f *Fleet) survey(ctx context.Context, r *Report) {
	s, err := f.Status(ctx)
	if err != nil {
		r.Remedies = append(r.Remedies, fmt.Sprintf("status: %v", err))
		return
	}
	r.Nodes = s.Nodes
	f.listPorts(ctx, r)
}

// listPorts says who has the ports of the deployment. Those of a process that is only just gone are given a moment.
func (f *Fleet) listPorts(ctx context.Context, r *Report) {
	ctx, cancel := context.WithTimeout(ctx, dyingPatience)
	defer cancel()
	r.Ports = []Port{}
	for _, n := range f.plan.nodes() {
		_, alive, _ := f.running(n.StackID)
		for _, l := range n.listeners() {
			p := Port{StackID: n.StackID, Listener: l.name, Protocol: l.network, Address: l.addr, State: "free"}
			switch {
			case alive:
				p.State = "ours"
			case freed(ctx, l.network, l.addr) != nil:
				p.State = "taken by another"
			}
			r.Ports = append(r.Ports, p)
		}
	}
}
