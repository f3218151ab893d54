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
		n, alive, err := f.oneOf(org)
		if err != nil {
			return err
		}
		if !alive {
			p.step("no node of %s runs: nothing to count", org.Organization)
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

// oneOf returns the first node of an organisation that runs, or false.
func (f *Fleet) oneOf(org planOrg) (planNode, bool, error) {
	for _, n := range org.Nodes {
		if _, alive, err := f.running(n.StackID); alive || err != nil {
			return n, alive, err
		}
	}
	return planNode{}, false, nil
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
		n, alive, err := f.oneOf(org) // only one may have been restarted, and the first be down
		if err != nil {
			return err
		}
		if !alive {
			n = org.Nodes[0]
		}
		c, err := f.with(n, f.keyFile(org, node.DefaultTenantID, roleTenantUser))
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

// facts puts into the report what the organisations keep: tenants and their limits, agents, peerings and routes. What can't
// be found out is left out.
func (f *Fleet) facts(ctx context.Context, r *Report) {
	for _, org := range f.plan.Organizations {
		n, alive, err := f.oneOf(org)
		if err != nil || !alive {
			continue
		}
		f.factsOf(ctx, r, org, n)
	}
}

func (f *Fleet) factsOf(ctx context.Context, r *Report, org planOrg, n planNode) {
	c, err := f.with(n, f.keyFile(org, node.DefaultTenantID, rolePlatformAdmin))
	if err != nil {
		return
	}
	defer c.Close()
	for _, id := range []string{node.DefaultTenantID, node.IsolationTenantID} {
		if t, err := c.GetTenant(ctx, id); err == nil {
			r.Tenants = append(r.Tenants, TenantFacts{Organization: org.Organization, TenantID: id, Name: t.Name, Status: t.Status, Quotas: t.Quotas})
		}
	}
	for p, err := range c.Peerings().All(ctx) {
		if err != nil {
			break
		}
		r.Peerings = append(r.Peerings, PeeringFacts{At: org.Organization, Peering: p})
	}
	for _, a := range agentsOf(org) {
		if a, err := c.GetAgent(ctx, a.ID); err == nil {
			r.Agents = append(r.Agents, AgentFacts{Organization: org.Organization, TenantID: a.TenantID, AgentID: a.ID, ModelRef: a.ModelRef})
		}
	}
	for route, err := range c.Routes().All(ctx) {
		if err != nil {
			break
		}
		r.Routes = append(r.Routes, RouteFacts{Organization: org.Organization, ID: route.ID, AgentID: route.Match.AgentID, To: placesOf(route)})
	}
}
