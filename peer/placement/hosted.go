package placement

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/nexixai/agentos/agent/run"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/tenancy"
)

// Hosted is an agent that isn't here, and that a tenant's runs can be routed to.
type Hosted struct {
	AgentID string
	Version string // as its first host says it, "" when it doesn't
	By      []Host // by organisation and node
}

// Host is a node that hosts an agent.
type Host struct {
	Organization string `json:"organization"`
	StackID      string `json:"stack_id"`
}

// maxHosted bounds how many agents a tenant is told of.
const maxHosted = 1000

// Hosted lists, by id, the agents at peers to which the tenant's routes lead: those that routes name, and those that peers
// tell of. A route counts as if a run had what it matches. An agent of this cluster may be among them; where routes lead is
// not where it is defined.
func (p *Placer) Hosted(ctx context.Context, by *tenancy.Auth) ([]Hosted, error) {
	routes, err := p.o.Routes.of(ctx, by.TenantID, false)
	if err != nil || len(routes) == 0 {
		return nil, err
	}
	peers := p.peers()
	leads := make([]lead, 0, len(routes))
	names := make(map[string]bool)
	for _, r := range routes {
		if r.Match.AgentID != "" {
			names[r.Match.AgentID] = true
		}
		leads = append(leads, leadOf(by, r, peers))
	}
	versions := make(map[[2]string]string)
	for i := range peers {
		if c := peers[i].Capabilities; c != nil {
			for _, a := range c.Agents {
				names[a.ID] = true
				versions[[2]string{peers[i].StackID, a.ID}] = a.Version
			}
		}
	}
	var list []Hosted
	for _, agentID := range slices.Sorted(maps.Keys(names)) {
		h := Hosted{AgentID: agentID, By: hosts(agentID, leads)}
		if len(h.By) == 0 {
			continue
		}
		h.Version = versions[[2]string{h.By[0].StackID, agentID}]
		if list = append(list, h); len(list) == maxHosted {
			break
		}
	}
	return list, nil
}

// lead is a route and the nodes of others that it leads to, whatever agents they host: looked at once for all agents.
type lead struct {
	d     *decision
	nodes []Peer
}

func leadOf(by *tenancy.Auth, r *Route, peers []Peer) lead {
	m, auth := &r.Match, *by
	if p := &auth.PolicyContext; p.Region == "" {
		p.Region = m.Region
	}
	if m.DataClassification != "" {
		auth.PolicyContext.DataClassification = m.DataClassification
	}
	l := lead{d: newDecision(&Input{
		Asked: run.Placing{
			Auth: &auth, AgentID: m.AgentID, Request: &run.Request{Context: run.Context{Labels: m.Labels}}, Hops: 1,
		},
		Routes: []*Route{r}, Here: Here{Tier: m.ModelTier}, Peers: peers,
	})}
	for _, p := range peers {
		// Without what depends on the agent.
		bare := p
		if p.Capabilities != nil {
			capabilities := *p.Capabilities
			capabilities.Agents = nil
			bare.Capabilities = &capabilities
		}
		if p.Peering != nil {
			peering := *p.Peering
			peering.Imports = slices.Clone(peering.Imports)
			for i := range peering.Imports {
				peering.Imports[i].Agents = nil
			}
			bare.Peering = &peering
		}
		if l.d.route != nil && l.d.remote(&bare).ok {
			l.nodes = append(l.nodes, p)
		}
	}
	return l
}

// hosts are the nodes of others that some route leads a run of the agent to.
func hosts(agentID string, leads []lead) []Host {
	var list []Host
	for i := range leads {
		l := &leads[i]
		named := l.d.route != nil && l.d.route.Match.AgentID != ""
		if named && l.d.route.Match.AgentID != agentID {
			continue
		}
		l.d.agentID = agentID
		for j := range l.nodes {
			p := &l.nodes[j]
			h := Host{Organization: p.Organization, StackID: p.StackID}
			if names(p, agentID, named) && l.d.granting(p) && !slices.Contains(list, h) {
				list = append(list, h)
			}
		}
	}
	slices.SortFunc(list, func(a, b Host) int {
		return cmp.Or(strings.Compare(a.Organization, b.Organization), strings.Compare(a.StackID, b.StackID))
	})
	return list
}

// granting reports whether a grant lets the tenant run the agent at p.
func (d *decision) granting(p *Peer) bool {
	return p.Peering != nil && slices.ContainsFunc(p.Peering.Imports, func(g registry.Grant) bool {
		return g.LocalTenantID == d.tenantID && d.may(&g) == "" && d.within(&g)
	})
}

// names reports whether a peer says that it hosts an agent, or, where a route names the agent, doesn't say that it doesn't.
func names(p *Peer, agentID string, routed bool) bool {
	if p.Capabilities == nil || p.Capabilities.Agents == nil {
		return routed
	}
	return slices.ContainsFunc(p.Capabilities.Agents, func(a registry.AgentOffered) bool { return a.ID == agentID })
}
