package fleet

import (
	"context"
	"fmt"

	"github.com/nexixai/agentos/node"
)

// census remembers which runs had been accepted and had not ended.
type census struct {
	open map[string][]string // by organisation
}

// count notes the runs of the deployment's default tenants that have not ended. Nodes that don't run are not asked: what
// they accepted is in their data, and recount finds it there.
func (f *Fleet) count(ctx context.Context, p *phase, into *census) error {
	p.total(len(f.plan.Organizations))
	into.open = map[string][]string{}
	for _, org := range f.plan.Organizations {
		n := org.Nodes[0]
		if _, alive, err := f.running(n.StackID); err != nil {
			return err
		} else if !alive {
			p.step("%s does not run: nothing to count", n.StackID)
			continue
		}
		c, err := f.with(n, f.keyFile(org, node.DefaultTenantID, roleTenantUser))
		if err != nil {
			return err
		}
		ids, err := unfinished(ctx, c)
		c.Close()
		if err != nil {
			return &FailedError{Phase: p.name, Check: "runs of " + org.Organization, Err: err, Next: "agentos status" + f.at()}
		}
		into.open[org.Organization] = ids
		p.step("%s has %d run(s) that have not ended", org.Organization, len(ids))
	}
	return nil
}

// recount looks each of them up again: it must be there, and must not have failed for want of a node.
func (f *Fleet) recount(ctx context.Context, p *phase, had *census) error {
	p.total(len(f.plan.Organizations))
	for _, org := range f.plan.Organizations {
		ids := had.open[org.Organization]
		if len(ids) == 0 {
			p.step("%s had no run under way", org.Organization)
			continue
		}
		c, err := f.with(org.Nodes[0], f.keyFile(org, node.DefaultTenantID, roleTenantUser))
		if err != nil {
			return err
		}
		defer c.Close()
		states := map[string]int{}
		for _, id := range ids {
			r, err := c.GetRun(ctx, id)
			if err != nil {
				return &FailedError{Phase: p.name, Check: "run " + id + " is kept", Err: err, Next: "agentos runs get " + id + f.at()}
			}
			states[r.Status]++
		}
		p.step("%s: all %d run(s) are kept: %v", org.Organization, len(ids), fmt.Sprint(states))
	}
	return nil
}

// facts puts the tenants' limits into the report.
func (f *Fleet) facts(ctx context.Context, r *Report) {
	org := f.plan.Organizations[0]
	c, err := f.with(org.Nodes[0], f.keyFile(org, node.DefaultTenantID, rolePlatformAdmin))
	if err != nil {
		return
	}
	defer c.Close()
	for _, id := range []string{node.DefaultTenantID, node.IsolationTenantID} {
		if t, err := c.GetTenant(ctx, id); err == nil {
			r.Tenants = append(r.Tenants, TenantFacts{TenantID: id, Name: t.Name, Status: t.Status, Quotas: t.Quotas})
		}
	}
}
