package node

import (
	"context"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/agent/queue"
	"github.com/nexixai/agentos/api"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/negotiation"
	"github.com/nexixai/agentos/peer/contact"
	"github.com/nexixai/agentos/peer/gossip"
	"github.com/nexixai/agentos/peer/link"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/storage"
)

// outOfTouch is for how long a node that hears no leader still believes what it knows of peerings.
const outOfTouch = time.Minute

// federation is what connects the node with other organisations.
type federation struct {
	door  *link.Door
	links *link.Links
	book  *contact.Book
	// heard is when this node last knew a leader, in Unix nanoseconds.
	heard atomic.Int64
}

// activePeering returns the peering with a trust domain if it's in force. Before it says no, it asks the cluster: another
// node may have made the peering a moment ago.
func (n *Node) activePeering(ctx context.Context, domain string) (registry.Peering, error) {
	p, ok := n.near.peerings.Active(domain)
	if ok {
		return p, nil
	}
	p, ok, err := n.near.peerings.Fresh(ctx, domain)
	switch {
	case err != nil:
		return p, err
	case !ok:
		return p, fault.New(fault.Forbidden, "There is no peering with %s.", domain)
	case p.State != registry.PeeringActive:
		return p, fault.New(fault.Forbidden, "The peering %s with %s is %s.", p.ID, domain, p.State)
	}
	return p, nil
}

// peerBundle is the CA of an organisation whose peering is in force.
func (n *Node) peerBundle(domain string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	p, err := n.activePeering(ctx, domain)
	return p.Bundle, err
}

// keptBundle is peerBundle as far as this node's copy knows.
func (n *Node) keptBundle(domain string) ([]byte, error) {
	p, ok := n.near.peerings.Active(domain)
	if !ok {
		return nil, fault.New(fault.Forbidden, "There is no peering with %s in force.", domain)
	}
	return p.Bundle, nil
}

// wireAbroad makes what knows other organisations and calls at their doors.
func (n *Node) wireAbroad() {
	f := &n.abroad
	f.links = link.New(link.Options{
		Credentials: n.near.proof.creds, Peerings: n.near.peerings, ClusterID: n.dir.id.ClusterID, Dial: n.dial(), Logger: n.log.Named("link"),
	})
	n.down.push("links", func(context.Context) error { f.links.Close(); return nil })
	f.book = contact.Open(contact.Options{
		Store: n.w.store, Commands: n.w.commands.heard, Peerings: n.near.peerings, Links: f.links, Offer: n.offer, Members: n.ownNodes,
		Logger: n.log.Named("contact"),
	})
	n.down.push("contacts", func(context.Context) error { f.book.Close(); return nil })
}

// offer is what this node can do, to be compared with what others can.
func (n *Node) offer() negotiation.Offer {
	a := n.about()
	return negotiation.Offer{APIVersions: api.APIVersions(), Contract: api.Contract(), Supports: a.Capabilities, Limits: a.Limits()}
}

// ownNodes are this cluster's members, as entries of the list of peers. That they answer is rumour.
func (n *Node) ownNodes() []registry.Peer {
	rumours := make(map[string]gossip.State)
	for _, m := range n.near.pool.Members() {
		rumours[m.Name] = m.State
	}
	about, offer := n.about(), n.offer()
	agreed := negotiation.Negotiate(offer, offer, negotiation.Need{})
	caps := registry.Capabilities{
		Supports: offer.Supports, Limits: offer.Limits, Contract: offer.Contract, Models: registry.ModelsOffered{Tiers: about.Tiers, Backends: about.Backends},
	}
	free := n.freeSlots()
	var list []registry.Peer
	for _, m := range n.near.roster.Load().Members() {
		if m.State == registry.Removed {
			continue
		}
		self := m.StackID == n.dir.id.StackID
		p := registry.Peer{Info: about.Info(), Source: registry.FromMember, State: registry.PeerAdmitted, Capabilities: &caps, Agreement: &agreed}
		p.StackID, p.Region, p.Build = m.StackID, m.Region, registry.BuildInfo{Version: m.Version}
		p.Endpoints = registry.Endpoints{StackA: m.APIURL, StackB: m.APIURL + api.StackBPrefix, Federation: m.FederationURL}
		if u, err := url.Parse(m.FederationURL); err == nil {
			p.Address = u.Host
		}
		if self {
			p.Build = about.Info().Build
		}
		p.FreeSlots = free[m.StackID]
		p.Reachable = self || rumours[m.StackID] == gossip.Alive
		if p.Ready = p.Reachable && m.State == registry.Active; !p.Reachable {
			p.Reason = "It is silent in the cluster's gossip."
		}
		list = append(list, p)
	}
	return list
}

// freeSlots is how many runs each node of the cluster could begin now, as this node's copy of the store has it.
func (n *Node) freeSlots() map[string]int {
	free := make(map[string]int)
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := n.w.store.View(ctx, storage.Read{Consistency: storage.Stale}, func(s storage.Snapshot) error {
		return queue.EachSession(s, func(s *queue.Session) bool {
			free[s.StackID] += s.Free()
			return true
		})
	})
	if err != nil {
		n.log.Debug("free workers can't be read", zap.Error(err))
	}
	return free
}

// openFederation opens the door for other organisations. The port is already bound.
func (n *Node) openFederation(ln net.Listener, calls *api.Server) {
	f, log := &n.abroad, n.log.Named("federation")
	f.door = link.OpenDoor(link.DoorOptions{
		Listener: ln, Credentials: n.near.proof.creds, Bundles: n.peerBundle, Denials: n.w.denials, Logger: log,
	})
	n.near.peerings.Listen(func() {
		f.door.Cut(n.keptBundle)
	})
	s := api.HTTP(calls.FederationHandler(), log)
	n.serveBy("federation", s, func() error { return s.Serve(f.door) })
}

// watchTouch keeps count of when this node last knew a leader.
func (n *Node) watchTouch() {
	f := &n.abroad
	f.heard.Store(time.Now().UnixNano())
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			if n.w.store.Status().Leader != "" {
				f.heard.Store(time.Now().UnixNano())
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	n.down.push("touch", func(context.Context) error { cancel(); wg.Wait(); return nil })
}

// inTouch refuses to speak for a cluster that has not been heard of for long: peerings may have been revoked meanwhile.
func (n *Node) inTouch() error {
	if away := time.Since(time.Unix(0, n.abroad.heard.Load())); away > outOfTouch {
		return fault.New(fault.Unavailable, "This node has been out of touch with its cluster for %s; ask another of its nodes.", away.Round(time.Second)).With("service", "quorum")
	}
	return nil
}

// load says whether this node takes new runs, and how many it could begin at once.
func (n *Node) load() (ready bool, freeSlots int) {
	if n.draining.Load() || n.drained.Load() || n.w.sessions.Err() != nil || n.w.store.Room() != nil {
		return false, 0
	}
	return true, max(n.w.sessions.Free(), 0)
}
