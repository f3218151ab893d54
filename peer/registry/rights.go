package registry

import (
	"slices"

	"github.com/nexixai/agentos/tenancy"
)

// ExportInto finds the grant by which the other side acts in a tenant of ours. Several of its tenants may act in the same;
// what they do can't be told apart by who is trusted to say it, so the first grant that gives scope counts, or else the
// first.
func (p *Peering) ExportInto(ourTenant string, scope tenancy.Scope) (Grant, bool) {
	first := -1
	for i := range p.Exports {
		g := &p.Exports[i]
		if g.LocalTenantID != ourTenant {
			continue
		}
		if slices.Contains(g.Scopes, scope) {
			return *g, true
		}
		if first < 0 {
			first = i
		}
	}
	if first < 0 {
		return Grant{}, false
	}
	return p.Exports[first], true
}

// Rights are the scopes that asked and g have in common, without those that no grant can give.
func (g *Grant) Rights(asked []tenancy.Scope) []tenancy.Scope {
	out := []tenancy.Scope{}
	for _, s := range asked {
		if slices.Contains(g.Scopes, s) && slices.Contains(grantable[:], s) && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// Allows reports whether g lets an agent be run.
func (g *Grant) Allows(agentID string) bool {
	return g.Agents == nil || slices.Contains(g.Agents, agentID)
}
