package placement

import (
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
	names := make(map[string]bool)
	for _, r := range routes {
		if r.Match.AgentID != "" {
			names[r.Match.AgentID] = true
		}
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
		h := Hosted{AgentID: agentID, By: hosts(by, agentID, routes, peers)}
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

// hosts are the nodes of others that some route leads a run of the agent to.
func hosts(by *tenancy.Auth, agentID string, routes []*Route, peers []Peer) []Host {
	var list []Host
	for _, r := range routes {
		m := &r.Match
		if m.AgentID != "" && m.AgentID != agentID {
			continue
		}
		auth := *by
		if p := &auth.PolicyContext; p.Region == "" {
			p.Region = m.Region
		}
		if m.DataClassification != "" {
			auth.PolicyContext.DataClassification = m.DataClassification
		}
		in := &Input{
			Asked: run.Placing{
				Auth: &auth, AgentID: agentID, Request: &run.Request{Context: run.Context{Labels: m.Labels}}, Hops: 1,
			},
			Routes: []*Route{r}, Here: Here{Tier: m.ModelTier}, Peers: peers,
		}
		for _, target := range Decide(in).Candidates {
			told := slices.ContainsFunc(peers, func(p Peer) bool { return p.StackID == target.StackID && names(&p, agentID, m.AgentID != "") })
			h := Host{Organization: target.Organization, StackID: target.StackID}
			if told && !slices.ContainsFunc(target.Reasons, func(r run.Reason) bool { return !r.OK }) && !slices.Contains(list, h) {
				list = append(list, h)
			}
		}
	}
	slices.SortFunc(list, func(a, b Host) int {
		if c := strings.Compare(a.Organization, b.Organization); c != 0 {
			return c
		}
		return strings.Compare(a.StackID, b.StackID)
	})
	return list
}

// names reports whether a peer says that it hosts an agent, or, where a route names the agent, doesn't say that it doesn't.
func names(p *Peer, agentID string, routed bool) bool {
	if p.Capabilities == nil || p.Capabilities.Agents == nil {
		return routed
	}
	return slices.ContainsFunc(p.Capabilities.Agents, func(a registry.AgentOffered) bool { return a.ID == agentID })
}
