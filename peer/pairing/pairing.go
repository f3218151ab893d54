package pairing

import (
	"context"
	"net"
	"time"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/peer/lobby"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/peer/trust"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
	"github.com/nexixai/agentos/tenancy/audit"
)

// Bounds and default of an invitation's life.
const (
	DefaultTTL = 24 * time.Hour
	maxTTL     = 30 * 24 * time.Hour
)

// Options says how to make a Service. Store, Commands, Cluster and Addresses are needed.
type Options struct {
	Store    storage.Store
	Commands *registry.PeeringCommands
	// Cluster is this cluster's record; its ID is empty while this node doesn't hold it.
	Cluster func() registry.Cluster
	// Addresses are HOST:PORT of this cluster's federation doors.
	Addresses func() []string
	// Denials takes note of what was refused; nil means that it's not audited.
	Denials interface{ Refused(audit.Record) }
	// Dial opens the connection to an inviter's door; nil means the machine's own network.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Now is the clock; nil means time.Now.
	Now    func() time.Time
	Logger *zap.Logger
}

// Service pairs this cluster with others. Safe for concurrent use.
type Service struct {
	o       Options
	log     *zap.Logger
	sources *lobby.Sources
}

// New returns a Service.
func New(o Options) *Service {
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Dial == nil {
		o.Dial = new(net.Dialer).DialContext
	}
	return &Service{o: o, log: o.Logger, sources: lobby.NewSources(o.Now)}
}

// Invited is an invitation as it is shown once.
type Invited struct {
	Peering *registry.Peering
	// Token is the invitation's text; "" in a replay.
	Token     string
	ExpiresAt time.Time
}

// Wish is what an invitation is to be like. The zero value means the defaults.
type Wish struct {
	// PeeringID may be chosen by people; "" mints one.
	PeeringID string
	TTL       time.Duration
}

// Invite makes an invitation. A replay of a request with an idempotency key gives the peering, without the text.
func (s *Service) Invite(ctx context.Context, by tenancy.Actor, w Wish) (out *Invited, replayed bool, index uint64, err error) {
	ttl := w.TTL
	if ttl == 0 {
		ttl = DefaultTTL
	}
	if ttl < time.Second || ttl > maxTTL {
		return nil, false, 0, fault.Invalid("ttl_seconds", "An invitation lives from a second to 30 days.")
	}
	self, err := s.self()
	if err != nil {
		return nil, false, 0, err
	}
	peeringID := w.PeeringID
	if peeringID == "" {
		peeringID = id.New(id.Peering)
	}
	inv, err := trust.NewInvitation(trust.Invitation{
		PeeringID: peeringID, Organization: self.Organization, TrustDomain: self.TrustDomain, ClusterID: self.ClusterID, Addresses: self.Addresses,
		CA: self.CA, ExpiresAt: s.o.Now().Add(ttl),
	})
	if err != nil {
		return nil, false, 0, err
	}
	changeID := id.New(id.Command)
	done, index, err := s.o.Commands.Invite.Do(ctx, s.o.Store, "", registry.NewInvitation{
		ID: changeID, PeeringID: peeringID, Key: inv.Key(), ExpiresAt: inv.ExpiresAt, By: registry.ByActor(by), Asked: registry.AskedBy(by, "invite", w.PeeringID, ttl),
	})
	if err != nil {
		return nil, false, 0, err
	}
	out = &Invited{Peering: shown(done.Peering), ExpiresAt: inv.ExpiresAt}
	if replayed = done.ID != changeID; replayed {
		if at := done.Peering.InvitationExpiresAt; at != nil {
			out.ExpiresAt = *at
		}
		return out, true, index, nil
	}
	out.Token = inv.Encode()
	s.log.Info("an invitation was made", zap.String("peering_id", peeringID), zap.Time("expires_at", inv.ExpiresAt))
	return out, false, index, nil
}

// self is this cluster as it names itself to others.
func (s *Service) self() (trust.Party, error) {
	c := s.o.Cluster()
	if c.ID == "" {
		return trust.Party{}, fault.New(fault.Unavailable, "This node does not hold the cluster's record yet; ask again in a moment.").With("service", "cluster").After(time.Second)
	}
	ca, err := trust.ParseCertificate(c.CA)
	if err != nil {
		return trust.Party{}, err
	}
	return trust.Party{Organization: c.Organization, TrustDomain: c.TrustDomain, ClusterID: c.ID, CA: trust.Fingerprint(ca), Addresses: s.o.Addresses()}, nil
}

// shown is a peering as operators see it: without the CA itself, which its fingerprint names.
func shown(p registry.Peering) *registry.Peering {
	p.Bundle = nil
	return &p
}

// Get reads one peering.
func (s *Service) Get(ctx context.Context, r storage.Read, peeringID string) (p *registry.Peering, index uint64, err error) {
	err = storage.Find(ctx, s.o.Store, r, func(snap storage.Snapshot) error {
		one, err := registry.GetPeering(snap, peeringID)
		p, index = shown(one), snap.Index()
		return err
	})
	return p, index, err
}

// List lists at most limit peerings, ordered by id, after the one named; next is the name to go on after, "" at the end.
func (s *Service) List(ctx context.Context, r storage.Read, after string, limit int) (page []registry.Peering, next string, index uint64, err error) {
	err = s.o.Store.View(ctx, r, func(snap storage.Snapshot) error {
		all, err := registry.ListPeerings(snap)
		index = snap.Index()
		for i := range all {
			if all[i].ID <= after {
				continue
			}
			if len(page) == limit {
				next = page[limit-1].ID
				break
			}
			page = append(page, *shown(all[i]))
		}
		return err
	})
	return page, next, index, err
}

// SetExports replaces what the other side may do here. A nil list means the same as an empty one: nothing.
func (s *Service) SetExports(ctx context.Context, by tenancy.Actor, peeringID string, exports []registry.Grant) (*registry.Peering, uint64, error) {
	p, index, err := s.o.Commands.SetExports.Do(ctx, s.o.Store, "", registry.PeeringChange{PeeringID: peeringID, Grants: exports, By: registry.ByActor(by)})
	if err != nil {
		return nil, 0, err
	}
	return shown(p), index, nil
}

// SetState suspends, resumes or revokes a peering. Open connections of a peering that isn't active any more are closed by
// those who hold them: see registry.Peerings.
func (s *Service) SetState(ctx context.Context, by tenancy.Actor, peeringID string, state registry.PeeringState) (p *registry.Peering, replayed bool, index uint64, err error) {
	c := registry.PeeringStateChange{ID: id.New(id.Command), PeeringID: peeringID, State: state, By: registry.ByActor(by), Asked: registry.AskedBy(by, peeringID, state)}
	done, index, err := s.o.Commands.SetState.Do(ctx, s.o.Store, "", c)
	if err != nil {
		return nil, false, 0, err
	}
	return shown(done.Peering), done.ID != c.ID, index, nil
}
