package cluster

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/internal/zaplog"
	"github.com/nexixai/agentos/peer/gossip"
	"github.com/nexixai/agentos/peer/lobby"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/peer/trust"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/replica"
	"github.com/nexixai/agentos/tenancy"
)

// Purposes under which a cluster's secrets are sealed.
const (
	SealedCA     = "the CA's key"
	SealedGossip = "a gossip key"
)

// MembershipOptions says how to make a Membership. All of it is needed, but for Seal and Logger.
type MembershipOptions struct {
	Store    storage.Store
	Commands *registry.Commands
	Roster   *registry.Roster
	Door     *Door
	Log      Log
	// Seal opens the cluster's secrets; nil means that this node can't sign certificates.
	Seal *trust.SealKey
	// ShareSeal sends the seal key to those who join: in demo only.
	ShareSeal bool
	// GossipKeys are the pool's, in the clear, for those who join.
	GossipKeys func() [][]byte
	// Rumours is what gossip says of the others.
	Rumours func() []gossip.Member
	// Self is this node's own row, as it is to be.
	Self func() registry.Member
	// Life is how long the certificates live that this node signs; 0 means trust.CertificateLife.
	Life time.Duration
	// Copy streams a copy of the store.
	Copy func(ctx context.Context) (*replica.Backup, error)
	// Standing is where this node stands at this moment.
	Standing func() Standing
	Logger   *zap.Logger
}

// Membership is who belongs to the cluster, from the view of one node: it lets new nodes in, tells how everybody is, and
// takes the operator's wishes. Safe for concurrent use.
type Membership struct {
	o   MembershipOptions
	log *zap.Logger

	sources  *lobby.Sources  // of those who ask to join
	refusals *zaplog.Repeats // of them

	mu    sync.Mutex
	heard map[string]time.Time // stack id → when it last answered
}

// NewMembership returns a Membership.
func NewMembership(o MembershipOptions) *Membership {
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	return &Membership{
		o: o, log: o.Logger, sources: lobby.NewSources(nil), refusals: zaplog.NewRepeats(tellAgain), heard: make(map[string]time.Time),
	}
}

// admit decides about a node that brings a token: the join is committed first, and then signed.
func (m *Membership) admit(ctx context.Context, correlationID string, tok trust.JoinToken, pub *ecdsa.PublicKey, r *JoinRequest) (*JoinAnswer, error) {
	key, err := KeyHash(pub)
	if err != nil {
		return nil, err
	}
	authority, err := m.authority()
	if err != nil {
		return nil, err
	}
	replaces, err := m.vacated(ctx, r.Member)
	if err != nil {
		return nil, err
	}
	j := registry.Join{
		TokenID: tok.ID, TokenHash: tok.Hash(), PublicKey: key, Replaces: replaces, Member: r.Member,
		By: registry.By{Principal: "join-token/" + tok.ID, CorrelationID: correlationID},
	}
	c, index, err := m.o.Commands.Join.Do(ctx, m.o.Store, "", j)
	if err != nil {
		return nil, err
	}
	cert, err := m.sign(authority, r.Member.StackID, pub, r.Hosts)
	if err != nil {
		return nil, err
	}
	a := &JoinAnswer{Certificate: string(cert), CABundle: string(c.CA), ClusterID: c.ID, Organization: c.Organization, TrustDomain: c.TrustDomain, GossipKeys: m.o.GossipKeys(), Servers: []string{}, GossipSeeds: []string{}}
	if m.o.ShareSeal && m.o.Seal != nil {
		a.SealKey = m.o.Seal[:]
	}
	err = m.o.Store.View(ctx, storage.Read{MinIndex: index}, func(s storage.Snapshot) error {
		all, err := registry.Members(s)
		for _, other := range all {
			if other.State != registry.Removed && other.StackID != r.Member.StackID {
				a.Servers = append(a.Servers, other.ClusterAddr)
				a.GossipSeeds = append(a.GossipSeeds, other.GossipAddr)
			}
		}
		return err
	})
	m.log.Info("a node was admitted", zap.String("stack_id", r.Member.StackID), zap.String("server_id", r.Member.ServerID), zap.String("replaces", replaces))
	return a, err
}

// vacated returns the server id whose place a joiner takes under its stack id, when nobody answers there any more.
func (m *Membership) vacated(ctx context.Context, joiner registry.Member) (string, error) {
	var old registry.Member
	err := storage.Find(ctx, m.o.Store, storage.Read{}, func(s storage.Snapshot) (err error) {
		old, err = registry.GetMember(s, joiner.StackID)
		return err
	})
	switch {
	case fault.Is(err, fault.NotFound):
		return "", nil
	case err != nil:
		return "", err
	case old.State == registry.Removed || old.ServerID == joiner.ServerID:
		return old.ServerID, nil
	}
	if st, err := m.Probe(ctx, old); err == nil && st.ServerID == old.ServerID {
		return "", fault.New(fault.Conflict, "Node %s is a member, and it answers at %s: join under another stack id, or stop that node first.", old.StackID, old.ClusterAddr)
	}
	return old.ServerID, nil
}

// authority opens the CA.
func (m *Membership) authority() (*trust.Authority, error) {
	c := m.o.Roster.Cluster()
	if m.o.Seal == nil {
		return nil, fault.New(fault.Unavailable, "This node has no seal key, so it can't sign certificates: ask another node, or give this one --seal-key-file.").With("service", "ca")
	}
	if c.ID == "" {
		return nil, fault.New(fault.Unavailable, "This node does not hold the cluster's record yet; ask again in a moment.").With("service", "cluster").After(time.Second)
	}
	key, err := m.o.Seal.Open(SealedCA, c.CAKey)
	if err != nil {
		return nil, err
	}
	return trust.OpenAuthority(c.CA, key)
}

// maxHosts bounds the names in one certificate.
const maxHosts = 16

func (m *Membership) sign(a *trust.Authority, stackID string, pub *ecdsa.PublicKey, hosts []string) ([]byte, error) {
	if len(hosts) > maxHosts {
		return nil, fault.Invalid("hosts", "A certificate holds at most %d host names, not %d.", maxHosts, len(hosts))
	}
	who := trust.ID{TrustDomain: a.TrustDomain(), Role: trust.Node, Name: stackID}
	return a.Sign(trust.Request{ID: who, Public: pub, Hosts: hosts, Life: m.o.Life}, time.Now())
}

// Answer answers the questions of other members.
func (m *Membership) Answer(ctx context.Context, asker trust.ID, leaf *x509.Certificate, q Question) (*Reply, error) {
	m.answered(asker.Name)
	switch {
	case q.Status != nil:
		st := m.o.Standing()
		return &Reply{Status: &st}, nil
	case q.Announce != nil:
		if q.Announce.StackID != asker.Name {
			return nil, fault.New(fault.Forbidden, "%s may announce itself only, not %.128s.", asker.Name, q.Announce.StackID)
		}
		_, _, err := m.o.Commands.Update.Do(ctx, m.o.Store, "", *q.Announce)
		return &Reply{}, err
	case q.Renew != nil:
		pub, ok := leaf.PublicKey.(*ecdsa.PublicKey)
		if !ok {
			return nil, fault.Invalid("certificate", "Node keys are ECDSA P-256.")
		}
		authority, err := m.authority()
		if err != nil {
			return nil, err
		}
		cert, err := m.sign(authority, asker.Name, pub, q.Renew.Hosts)
		return &Reply{Certificate: string(cert)}, err
	}
	return nil, fault.New(fault.UnsupportedCapability, "This node is of a version that does not know the question.")
}

// Probe asks a member where it stands.
func (m *Membership) Probe(ctx context.Context, other registry.Member) (*Standing, error) {
	r, err := m.o.Door.Ask(ctx, other.ClusterAddr, other.StackID, Question{Status: &struct{}{}})
	if err != nil {
		return nil, err
	}
	if r.Status == nil {
		return nil, fault.New(fault.Unavailable, "Node %s answered something else.", other.StackID)
	}
	m.answered(other.StackID)
	return r.Status, nil
}

func (m *Membership) answered(stackID string) {
	m.mu.Lock()
	m.heard[stackID] = time.Now()
	m.mu.Unlock()
}

// Forget takes the wish away.
func (m *Membership) Forget(ctx context.Context) error {
	_, _, err := m.o.Commands.Wish.Do(ctx, m.o.Store, "", registry.Wish{})
	return err
}

// Raise lifts the cluster's version of the store to the lowest of its members, for good. This node speaks first: it may have
// been set back since.
func (m *Membership) Raise(ctx context.Context) error {
	if err := m.Announce(ctx); err != nil {
		return err
	}
	by := registry.By{Principal: "leader/" + m.o.Self().StackID, CorrelationID: id.New(id.Correlation)}
	version, _, err := m.o.Commands.Raise.Do(ctx, m.o.Store, "", by)
	if err == nil {
		m.log.Info("the store's version stands at the lowest of the members", zap.Int("store_version", version))
	}
	return err
}

// Announce sees to it that the member list says of this node what it says of itself.
func (m *Membership) Announce(ctx context.Context) error {
	self := m.o.Self()
	if own, ok := m.o.Roster.Member(self.StackID); ok && sayTheSame(self, own) {
		return nil
	}
	direct, cancel := context.WithTimeout(ctx, talkTimeout)
	defer cancel()
	_, _, err := m.o.Commands.Update.Do(direct, m.o.Store, "", self)
	return err
}

// Knock asks every other member in turn to pass on where this node is to be found now, for a node that the leader does not
// reach: after a move, nobody dials its new address. fault.Forbidden means that the cluster does not want this node: a
// member, proven as such, refuses its certificate because the member list says so. fault.UnsupportedCapability means that
// the cluster's store is above what the node's binary can do.
func (m *Membership) Knock(ctx context.Context) error {
	self := m.o.Self()
	var err error
	for _, other := range m.o.Roster.Members() {
		if other.StackID == self.StackID || other.State == registry.Removed {
			continue
		}
		_, err = m.o.Door.Ask(ctx, other.ClusterAddr, other.StackID, Question{Announce: &self})
		switch {
		case err == nil, fault.Is(err, fault.Forbidden), fault.Is(err, fault.UnsupportedCapability):
			return err
		case refusedCertificate(err) && m.o.Door.Expired():
			return fault.New(fault.Forbidden, "This node's certificate has expired while it was away. Empty its data directory and join anew.").Because(err)
		case refusedCertificate(err):
			return fault.New(fault.Forbidden, "Node %s refuses this node's certificate: it was removed from its cluster, or replaced. Empty its data directory and join anew.", other.StackID).Because(err)
		}
	}
	return err
}

// refusedCertificate reports whether a member, proven as such, turned this node's certificate down (RFC 8446, section 6.2:
// bad_certificate).
func refusedCertificate(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "remote error" && strings.Contains(op.Error(), "bad certificate")
}

// sayTheSame compares what a member says of itself with its row, whose other fields are not its own to say.
func sayTheSame(self, row registry.Member) bool {
	self.State, self.JoinedAt, self.UpdatedAt, self.PublicKey = row.State, row.JoinedAt, row.UpdatedAt, row.PublicKey
	return self == row
}

// Renew gets a new certificate for this node's key: signed here if the seal key is at hand, else by another member.
func (m *Membership) Renew(ctx context.Context, pub *ecdsa.PublicKey, hosts []string) ([]byte, error) {
	authority, err := m.authority()
	if err == nil {
		return m.sign(authority, m.o.Self().StackID, pub, hosts)
	}
	for _, other := range m.o.Roster.Members() {
		if other.StackID == m.o.Self().StackID || other.State == registry.Removed {
			continue
		}
		var r *Reply
		if r, err = m.o.Door.Ask(ctx, other.ClusterAddr, other.StackID, Question{Renew: &Renewal{Hosts: hosts}}); err == nil && r.Certificate != "" {
			return []byte(r.Certificate), nil
		}
	}
	return nil, fmt.Errorf("cluster: no member could sign: %w", err)
}

// Token is a join token as it is shown once.
type Token struct {
	ID        string    `json:"token_id"`
	Token     string    `json:"token,omitempty"` // absent in a replay
	ExpiresAt time.Time `json:"expires_at"`
	Uses      int       `json:"uses"`
	// CAFingerprint is what the token pins: the SHA-256 of the CA's certificate.
	CAFingerprint string `json:"ca_fingerprint"`
	// Addresses are the cluster doors that a joiner can use it at.
	Addresses []string `json:"addresses"`
}

// Bounds and defaults of a token.
const (
	DefaultTokenTTL = time.Hour
	maxTokenTTL     = 30 * 24 * time.Hour
)

// CreateToken makes a join token. Zero ttl and uses mean an hour and one node. A replay of a request with an idempotency key
// gives the token that was made, without what lets a node in.
func (m *Membership) CreateToken(ctx context.Context, by tenancy.Actor, ttl time.Duration, uses int) (t *Token, replayed bool, index uint64, err error) {
	if ttl == 0 {
		ttl = DefaultTokenTTL
	}
	if ttl < time.Second || ttl > maxTokenTTL {
		return nil, false, 0, fault.Invalid("ttl_seconds", "A join token lives from a second to 30 days.")
	}
	uses = max(uses, 1)
	c := m.o.Roster.Cluster()
	if c.ID == "" {
		return nil, false, 0, fault.New(fault.Unavailable, "This node does not hold the cluster's record yet; ask again in a moment.").With("service", "cluster").After(time.Second)
	}
	ca, err := trust.ParseCertificate(c.CA)
	if err != nil {
		return nil, false, 0, err
	}
	tok := trust.NewJoinToken(trust.Fingerprint(ca))
	kept := registry.JoinToken{ID: tok.ID, Hash: tok.Hash(), ExpiresAt: time.Now().UTC().Add(ttl).Truncate(time.Second), UsesLeft: uses, By: registry.ByActor(by)}
	done, index, err := m.o.Commands.PutToken.Do(ctx, m.o.Store, "", registry.NewToken{JoinToken: kept, Asked: registry.AskedBy(by, ttl, uses)})
	if err != nil {
		return nil, false, 0, err
	}
	out := &Token{ID: done.ID, ExpiresAt: done.ExpiresAt, Uses: uses, CAFingerprint: tok.CA}
	if replayed = done.ID != tok.ID; !replayed {
		out.Token = tok.Encode()
	}
	for _, other := range m.o.Roster.Members() {
		if other.State == registry.Active {
			out.Addresses = append(out.Addresses, other.ClusterAddr)
		}
	}
	return out, replayed, index, nil
}

// Backup streams a copy of the whole store, of every tenant. That it was taken is in the audit before the first byte is.
func (m *Membership) Backup(ctx context.Context, by tenancy.Actor) (*replica.Backup, error) {
	if _, _, err := m.o.Commands.Note.Do(ctx, m.o.Store, "", registry.Act{Action: "cluster.backup", By: registry.ByActor(by)}); err != nil {
		return nil, err
	}
	return m.o.Copy(ctx)
}
