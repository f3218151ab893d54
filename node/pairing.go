package node

import (
	"net/url"
	"slices"

	"github.com/nexixai/agentos/peer/pairing"
	"github.com/nexixai/agentos/peer/registry"
)

// pairing makes the room that pairs this cluster with others.
func (n *Node) pairing() *pairing.Service {
	return pairing.New(pairing.Options{
		Store: n.w.store, Commands: n.w.commands.peerings, Cluster: func() registry.Cluster { return n.near.roster.Load().Cluster() },
		Addresses: n.federationAddresses, Denials: n.w.denials, Dial: n.dial(), Logger: n.log.Named("pairing"),
	})
}

// federationAddresses are HOST:PORT of the federation doors of this cluster's members, this node's first: it's known to be
// up.
func (n *Node) federationAddresses() []string {
	var out []string
	for _, m := range n.near.roster.Load().Members() {
		u, err := url.Parse(m.FederationURL)
		if err != nil || u.Host == "" || m.State == registry.Removed {
			continue
		}
		if m.StackID == n.dir.id.StackID {
			out = slices.Insert(out, 0, u.Host)
		} else {
			out = append(out, u.Host)
		}
	}
	return out
}
