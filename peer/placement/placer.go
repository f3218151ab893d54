package placement

import (
	"context"
	"slices"
	"strings"

	"github.com/nexixai/agentos/agent"
	"github.com/nexixai/agentos/agent/run"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/storage"
)

// Peers lists the nodes of others, as far as this node knows. It answers from memory; the list is not changed.
type Peers interface {
	Peers() []registry.Peer
}

// Peerings finds relations to others, from memory.
type Peerings interface {
	ByID(peeringID string) (registry.Peering, bool)
}

// Nodes lists this cluster's nodes, from memory.
type Nodes interface {
	Nodes() []Node
}

// Agents finds the agents of this cluster.
type Agents interface {
	GetAgent(ctx context.Context, r storage.Read, tenantID, agentID string) (*agent.Agent, uint64, error)
}

var _ Agents = (*agent.Catalog)(nil)

// Options says how to make a Placer. All of it has to be given, but for Peers and Peerings: without them there are no others.
type Options struct {
	Routes   *Routes
	Agents   Agents
	Nodes    Nodes
	Peers    Peers
	Peerings Peerings
	// StackID is this node's, Organization its organisation's name, Supports its features.
	StackID, Organization string
	Supports              map[string]bool
}

// Placer decides where runs go, by what this node knows. It's safe for concurrent use.
type Placer struct {
	o Options
	// here is the answer to most questions.
	here *run.Placed
}

var _ run.Placer = (*Placer)(nil)

// New returns a Placer.
func New(o Options) *Placer {
	return &Placer{o: o, here: &run.Placed{Local: true}}
}

// Place implements run.Placer.
func (p *Placer) Place(ctx context.Context, a run.Placing, fresh bool) (*run.Placed, error) {
	routes, err := p.o.Routes.of(ctx, a.Auth.TenantID, fresh)
	if err != nil {
		return nil, err
	}
	if plainly := !fresh && !a.Explain && a.Selector == nil && a.Auth.PolicyContext.Region == "" && !slices.ContainsFunc(routes, func(r *Route) bool {
		return r.Match.is(&a, r.Match.ModelTier) // of an unknown tier: it may match
	}); plainly {
		return p.here, nil
	}
	placed, found, missing, err := p.decide(ctx, &a, routes, fresh)
	switch {
	case err != nil:
		return nil, err
	case placed.Local || len(placed.Targets) > 0:
		return placed, nil
	case !found && placed.RouteID == "" && a.Selector == nil:
		return nil, noAgent()
	}
	return nil, refusal(placed, missing)
}

// Explain says where a run would go, and why, also when that's nowhere.
func (p *Placer) Explain(ctx context.Context, a run.Placing) (*run.Placed, error) {
	a.Explain = true
	routes, err := p.o.Routes.of(ctx, a.Auth.TenantID, false)
	if err != nil {
		return nil, err
	}
	placed, found, _, err := p.decide(ctx, &a, routes, false)
	if err == nil && !found && placed.RouteID == "" {
		if routes, err = p.o.Routes.of(ctx, a.Auth.TenantID, true); err == nil {
			placed, _, _, err = p.decide(ctx, &a, routes, true)
		}
	}
	return placed, err
}

// decide asks Decide with what this node knows. found tells whether there is such an agent here.
func (p *Placer) decide(ctx context.Context, a *run.Placing, routes []*Route, fresh bool) (placed *run.Placed, found bool, missing []string, err error) {
	in := &Input{Asked: *a, Routes: routes, Here: Here{
		StackID: p.o.StackID, Organization: p.o.Organization, Nodes: p.o.Nodes.Nodes(), Supports: p.o.Supports,
	}}
	if in.Peers = p.peers(); !fresh && p.abroad(a, routes) {
		if placed, missing = decide(in); len(placed.Targets) > 0 {
			return placed, false, missing, nil
		}
	}
	read := storage.Read{Consistency: storage.Stale} // not found here is nothing unusual: nobody waits for the leader to say it
	if fresh {
		read.Consistency = storage.Linearizable
	}
	switch own, _, err := p.o.Agents.GetAgent(ctx, read, a.Auth.TenantID, a.AgentID); {
	case err == nil:
		in.Here.Agent, in.Here.Tier = true, tierOf(own.ModelRef)
	case !fault.Is(err, fault.NotFound):
		return nil, false, nil, err
	}
	placed, missing = decide(in)
	return placed, in.Here.Agent, missing, nil
}

// abroad reports whether each route that may be for a leads to other organisations alone. Then it's all the same to a run that
// finds a target whether there is such an agent here, and the store need not be asked: that takes longer than all the rest.
func (p *Placer) abroad(a *run.Placing, routes []*Route) bool {
	if a.Explain || a.Selector != nil {
		return false
	}
	some := false
	for _, r := range routes {
		if !r.Match.is(a, r.Match.ModelTier) {
			continue
		}
		some = true
		if r.Match.ModelTier != "" || slices.ContainsFunc(r.Targets, func(t Target) bool { return t.Organization == "" || t.Organization == p.o.Organization }) {
			return false
		}
	}
	return some
}

func tierOf(modelRef string) string {
	tier, ok := strings.CutPrefix(modelRef, "tier:")
	if !ok {
		return ""
	}
	return tier
}

// peers joins the list of peers with their peerings. Members of this cluster are no peers of it.
func (p *Placer) peers() []Peer {
	if p.o.Peers == nil {
		return nil
	}
	all := p.o.Peers.Peers()
	list := make([]Peer, 0, len(all))
	relations := make(map[string]*registry.Peering)
	for i := range all {
		if all[i].Source == registry.FromMember {
			continue
		}
		peer := Peer{Peer: all[i]}
		relation, known := relations[peer.PeeringID]
		if !known && p.o.Peerings != nil && peer.PeeringID != "" {
			if found, ok := p.o.Peerings.ByID(peer.PeeringID); ok {
				relation = &found
			}
			relations[peer.PeeringID] = relation
		}
		peer.Peering = relation
		list = append(list, peer)
	}
	return list
}

func noAgent() error {
	return fault.New(fault.NotFound, "There is no such agent; see GET /v1/agents for those there are.")
}
