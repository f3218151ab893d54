package api

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/peer/contact"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/tenancy"
)

// Peers is who is known, of other organisations and of this cluster. It answers from memory.
type Peers interface {
	All() []registry.Peer
	Unreachable() []contact.Unreachable
	// Ping asks a peer now.
	Ping(ctx context.Context, stackID string) (*contact.Pong, error)
}

var _ Peers = (*contact.Book)(nil)

// listPeers lists who is known, and beside it who doesn't answer.
func (c *call) listPeers() error {
	if _, err := c.read(); err != nil {
		return err
	}
	cursor, limit, err := c.page()
	if err != nil {
		return err
	}
	after, err := placeOf(cursor, c.auth.TenantID, "peers")
	if err != nil {
		return err
	}
	away := []contact.Unreachable{}
	var all []registry.Peer
	if c.s.o.Peers != nil {
		all, away = c.s.o.Peers.All(), append(away, c.s.o.Peers.Unreachable()...)
	}
	place := func(p *registry.Peer) string { return p.StackID + "/" + p.PeeringID }
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b registry.Peer) int { return strings.Compare(place(&a), place(&b)) })
	page, next := []registry.Peer{}, ""
	for i := range all {
		if place(&all[i]) <= after {
			continue
		}
		if len(page) == limit {
			next = place(&page[limit-1])
			break
		}
		page = append(page, c.shownPeer(all[i]))
	}
	return c.reply(http.StatusOK, member{"peers", page}, cursorOf(cursorAt(next, c.auth.TenantID, "peers")), member{"unreachable", away})
}

// getPeer tells all that is known of one peer.
func (c *call) getPeer() error {
	stackID, err := c.ident("stack_id")
	if err != nil {
		return err
	}
	if _, err := c.read(); err != nil {
		return err
	}
	if c.s.o.Peers != nil {
		for _, p := range c.s.o.Peers.All() {
			if p.StackID == stackID {
				return c.reply(http.StatusOK, member{"peer", c.shownPeer(p)})
			}
		}
	}
	return fault.New(fault.NotFound, "There is no peer %q; 'agentos peers list' shows who is known.", stackID)
}

// pingPeer has this node ask a peer now, and tells how long that took.
func (c *call) pingPeer() error {
	stackID, err := c.ident("stack_id")
	if err != nil {
		return err
	}
	if c.s.o.Peers == nil {
		return fault.New(fault.NotFound, "There is no peer %q.", stackID)
	}
	pong, err := c.s.o.Peers.Ping(c.ctx(), stackID)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, member{"ping", pong})
}

// shownPeer is a peer as the caller may see it: what it grants other tenants, and what they may run there, is theirs to
// know.
func (c *call) shownPeer(p registry.Peer) registry.Peer {
	if p.Capabilities == nil || p.Source == registry.FromMember || c.auth.Has(tenancy.PlatformAdmin) {
		return p
	}
	caps := *p.Capabilities
	caps.Grants = slices.DeleteFunc(slices.Clone(caps.Grants), func(g registry.Grant) bool { return g.TenantID != c.auth.TenantID })
	if len(caps.Grants) == 0 {
		caps.Agents, caps.Tools = nil, nil
	}
	p.Capabilities = &caps
	return p
}
