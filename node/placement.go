package node

import (
	"context"

	"github.com/nexixai/agentos/peer/placement"
	"github.com/nexixai/agentos/peer/registry"
)

// features are what this node can do, by the names that are negotiated with.
func features() map[string]bool {
	return map[string]bool{
		"events_stream": true, "tenant_isolation": true, "runs_forward": true, "events_ingest": true, "origin_run_ids": true, "final_ack": true, "tool_hosting": false,
	}
}

// wirePlacement makes the rooms that decide where runs go.
func (n *Node) wirePlacement() {
	w := &n.w
	w.routes = placement.NewRoutes(placement.RoutesOptions{Store: w.store, Commands: w.commands.routes, Logger: n.log.Named("routes")})
	n.down.push("routes", func(context.Context) error { w.routes.Close(); return nil })
	w.placer = placement.New(placement.Options{
		Routes: w.routes, Agents: w.catalog, Nodes: placedNodes{n}, Peers: n.abroad.book, Peerings: n.near.peerings,
		StackID: n.dir.id.StackID, Organization: n.o.Organization, Supports: features(),
	})
}

// placedNodes are this cluster's nodes as a placement sees them.
type placedNodes struct{ n *Node }

var _ placement.Nodes = placedNodes{}

// Nodes implements placement.Nodes. The node itself is one of them, also before it reads so of the member list.
func (p placedNodes) Nodes() []placement.Node {
	self := placement.Node{StackID: p.n.dir.id.StackID, Region: p.n.o.Region, Drained: p.n.drained.Load()}
	list := []placement.Node{self}
	for _, m := range p.n.near.roster.Load().Members() {
		if m.State != registry.Removed && m.StackID != self.StackID {
			list = append(list, placement.Node{StackID: m.StackID, Region: m.Region, Drained: m.State == registry.Draining})
		}
	}
	return list
}
