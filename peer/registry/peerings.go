package registry

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/peer/trust"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
)

// Keys of the peerings. They belong to no tenant.
const (
	peeringTables  = "peerings/"
	peeringKeys    = "peerings/records/"
	invitationKeys = "peerings/invitations/"
)

const (
	// maxPeerings bounds the relations that are kept, revoked ones included.
	maxPeerings = 10_000
	// maxBundle bounds a CA bundle, in bytes of PEM.
	maxBundle = 16 << 10
	maxNonce  = 128
)

// invitation is what is kept of an invitation until it expires. The text that was shown can't be made from it.
type invitation struct {
	Key       []byte    `json:"key"`
	ExpiresAt time.Time `json:"expires_at"`
}

// PeeringCommands are the changes of the peerings.
type PeeringCommands struct {
	Invite       storage.Call[NewInvitation, PeeringDone]
	Join         storage.Call[PeeringJoin, PeeringDone]
	Accept       storage.Call[PeeringAccept, PeeringDone]
	SetState     storage.Call[PeeringStateChange, PeeringDone]
	SetExports   storage.Call[PeeringChange, Peering]
	SetImports   storage.Call[PeeringChange, Peering]
	SetAddresses storage.Call[PeeringChange, Peering]
}

// DefinePeerings adds the commands to reg.
func DefinePeerings(reg *storage.Registry) *PeeringCommands {
	return &PeeringCommands{
		Invite:       storage.Define(reg, "peering.invite", invite),
		Join:         storage.Define(reg, "peering.join", joinPeering),
		Accept:       storage.Define(reg, "peering.accept", accept),
		SetState:     storage.Define(reg, "peering.state", setPeeringState),
		SetExports:   storage.Define(reg, "peering.exports", setExports),
		SetImports:   storage.Define(reg, "peering.imports", setImports),
		SetAddresses: storage.Define(reg, "peering.addresses", setAddresses),
	}
}

// PeeringDone is the answer to a change that can be asked for once: the peering as it is now, and the change that was done,
// which is another one than was asked for when the same request had been done before.
type PeeringDone struct {
	ID      string  `json:"id"`
	Peering Peering `json:"peering"`
}

// NewInvitation is an invitation to be kept.
type NewInvitation struct {
	ID        string    `json:"id"`
	PeeringID string    `json:"peering_id"`
	Key       []byte    `json:"key"`
	ExpiresAt time.Time `json:"expires_at"`
	By        By        `json:"by"`
	Asked     Asked     `json:"asked"`
}

// PeeringJoin is another cluster's wish to pair, proven by an invitation that this cluster made.
type PeeringJoin struct {
	PeeringID string      `json:"peering_id"`
	Accepter  trust.Party `json:"accepter"`
	Bundle    []byte      `json:"bundle"` // the accepter's CA, PEM
	Nonce     string      `json:"nonce"`
	Proof     string      `json:"proof"`
	By        By          `json:"by"`
}

// PeeringAccept is the accepter's own record, after the inviter has said yes.
type PeeringAccept struct {
	ID        string      `json:"id"`
	PeeringID string      `json:"peering_id"`
	Inviter   trust.Party `json:"inviter"`
	Bundle    []byte      `json:"bundle"` // the inviter's CA, PEM
	Imports   []Grant     `json:"imports"`
	By        By          `json:"by"`
	Asked     Asked       `json:"asked"`
}

// PeeringStateChange suspends, resumes or revokes.
type PeeringStateChange struct {
	ID        string       `json:"id"`
	PeeringID string       `json:"peering_id"`
	State     PeeringState `json:"state"`
	By        By           `json:"by"`
	Asked     Asked        `json:"asked"`
}

// PeeringChange sets one part of a peering: the one that the command names.
type PeeringChange struct {
	PeeringID string   `json:"peering_id"`
	Grants    []Grant  `json:"grants,omitempty"`
	Addresses []string `json:"addresses,omitempty"`
	By        By       `json:"by"`
}

func (by By) auditPeering(tx storage.Tx, action string, p *Peering, details map[string]any) error {
	_, err := tenancy.AppendAudit(tx, tenancy.AuditRecord{
		Principal: by.Principal, Action: action, Resource: "peering/" + p.ID, Outcome: "ok", CorrelationID: by.CorrelationID,
		Peer: p.TrustDomain, Details: details,
	})
	return err
}

// own is this cluster, as far as a peering with it or with its like must be told apart.
func own(r storage.Reader) (c Cluster, fingerprint string, err error) {
	if c, err = GetCluster(r); err != nil {
		return c, "", err
	}
	ca, err := trust.ParseCertificate(c.CA)
	if err != nil {
		return c, "", err
	}
	return c, trust.Fingerprint(ca), nil
}

func invite(tx storage.Tx, n NewInvitation) (done PeeringDone, err error) {
	// What is kept of the change names the peering too: in a replay it's another one than was minted.
	ids, err := n.Asked.once(tx, n.ID+" "+n.PeeringID, func() error { return n.keep(tx) })
	if err == nil {
		var peeringID string
		done.ID, peeringID, _ = strings.Cut(ids, " ")
		done.Peering, err = GetPeering(tx, peeringID)
	}
	return done, err
}

func (n *NewInvitation) keep(tx storage.Tx) error {
	if !id.Valid(n.PeeringID) || len(n.Key) == 0 {
		return fault.Invalid("peering_id", "A peering id is 1 to %d of [A-Za-z0-9._-].", id.MaxLen)
	}
	if !n.ExpiresAt.After(tx.Now()) {
		return fault.Invalid("expires_at", "The invitation would already have expired.")
	}
	_, ours, err := own(tx)
	if err != nil {
		return err
	}
	all, err := ListPeerings(tx)
	if err != nil {
		return err
	}
	if len(all) >= maxPeerings {
		return fault.New(fault.QuotaExceeded, "There are %d peerings already, which is as many as are kept.", len(all))
	}
	if slices.ContainsFunc(all, func(p Peering) bool { return p.ID == n.PeeringID }) {
		return fault.New(fault.Conflict, "There is a peering %s already.", n.PeeringID)
	}
	if err := forgetInvitations(tx); err != nil {
		return err
	}
	if err := put(tx, invitationKeys+n.PeeringID, invitation{Key: n.Key, ExpiresAt: n.ExpiresAt}); err != nil {
		return err
	}
	expires := n.ExpiresAt
	p := Peering{
		ID: n.PeeringID, State: PeeringInvited, Fingerprints: Fingerprints{Ours: ours}, Exports: []Grant{}, Imports: []Grant{}, Addresses: []string{},
		CreatedAt: tx.Now(), UpdatedAt: tx.Now(), InvitationExpiresAt: &expires,
	}
	if err := put(tx, peeringKeys+p.ID, p); err != nil {
		return err
	}
	return n.By.auditPeering(tx, "peering.invite", &p, map[string]any{"expires_at": expires.UTC().Format(time.RFC3339)})
}

// forgetInvitations removes what is kept of invitations that nobody can accept any more. The peerings stay, as invited.
func forgetInvitations(tx storage.Tx) error {
	var old []string
	var bad error
	err := tx.Scan(storage.Prefix(invitationKeys), func(key string, _ []byte) bool {
		var i invitation
		if _, bad = get(tx, key, &i); bad != nil {
			return false
		}
		if !tx.Now().Before(i.ExpiresAt) {
			old = append(old, key)
		}
		return true
	})
	for _, key := range old {
		tx.Delete(key)
	}
	return cmp.Or(err, bad)
}

// joinPeering lets another cluster in that proves an invitation. The messages of its refusals are for this side's log and
// audit; the door tells strangers less. What refuses before the proof is told apart by the code: Forbidden.
func joinPeering(tx storage.Tx, j PeeringJoin) (done PeeringDone, err error) {
	refused := func(why string) (PeeringDone, error) {
		return PeeringDone{}, fault.New(fault.Forbidden, "The invitation of peering %s is not accepted: %s.", j.PeeringID, why)
	}
	if !id.Valid(j.PeeringID) || len(j.Nonce) == 0 || len(j.Nonce) > maxNonce {
		return PeeringDone{}, fault.Invalid("peering_id", "The request names a peering and a nonce.")
	}
	if err := j.Accepter.Validate(); err != nil {
		return PeeringDone{}, err
	}
	var kept invitation
	there, err := get(tx, invitationKeys+j.PeeringID, &kept)
	if err != nil {
		return PeeringDone{}, err
	}
	p, err := GetPeering(tx, j.PeeringID)
	switch {
	case fault.Is(err, fault.NotFound):
		return refused("it is unknown")
	case err != nil:
		return PeeringDone{}, err
	case p.State == PeeringRevoked && !there:
		return refused("it was withdrawn")
	case !there || !tx.Now().Before(kept.ExpiresAt):
		return refused("it has expired")
	}
	c, ours, err := own(tx)
	if err != nil {
		return PeeringDone{}, err
	}
	terms := trust.Terms{PeeringID: j.PeeringID, InviterCA: ours, InviterCluster: c.ID, Accepter: j.Accepter, Nonce: j.Nonce}
	if !trust.Proven(kept.Key, terms, j.Proof) {
		return refused("the proof is wrong, so the text was altered, or the caller doesn't hold it")
	}
	if p.State != PeeringInvited {
		// The answer may have been lost: the same cluster may ask again until the invitation would have expired.
		if p.State == PeeringActive && p.ClusterID == j.Accepter.ClusterID && p.Fingerprints.Theirs == j.Accepter.CA {
			return PeeringDone{ID: p.ID, Peering: p}, nil
		}
		return refused("it was used, by cluster " + p.ClusterID + " of " + p.TrustDomain)
	}
	if err := pair(tx, &p, j.Accepter, j.Bundle); err != nil {
		return PeeringDone{}, err
	}
	p.InvitationExpiresAt = nil
	if err := put(tx, peeringKeys+p.ID, p); err != nil {
		return PeeringDone{}, err
	}
	return PeeringDone{ID: p.ID, Peering: p}, j.By.auditPeering(tx, "peering.join", &p, pairDetails(&p))
}

func pairDetails(p *Peering) map[string]any {
	return map[string]any{
		"organization": p.Organization, "cluster_id": p.ClusterID, "fingerprint": p.Fingerprints.Theirs, "addresses": p.Addresses,
	}
}

// pair makes p the active peering with other, whose CA is bundle.
func pair(tx storage.Tx, p *Peering, other trust.Party, bundle []byte) error {
	if len(bundle) > maxBundle {
		return fault.Invalid("bundle", "A CA bundle has at most %d bytes.", maxBundle)
	}
	domain, fingerprint, err := trust.ReadAuthority(bundle, tx.Now())
	if err != nil {
		return err
	}
	if domain != other.TrustDomain || fingerprint != other.CA {
		return fault.Invalid("bundle", "The CA certificate is not the one that its owner named, by trust domain and fingerprint.")
	}
	ours, err := canPair(tx, p.ID, &other)
	if err != nil {
		return err
	}
	p.Organization, p.TrustDomain, p.ClusterID, p.Addresses = other.Organization, domain, other.ClusterID, other.Addresses
	p.Fingerprints, p.Bundle = Fingerprints{Ours: ours, Theirs: fingerprint}, bundle
	p.State, p.UpdatedAt = PeeringActive, tx.Now()
	return nil
}

// canPair reports with an error that a peering with other can't be: it's this very cluster, or another with its names, or
// there is a live peering with it. It returns this cluster's fingerprint.
func canPair(r storage.Reader, peeringID string, other *trust.Party) (ours string, err error) {
	c, ours, err := own(r)
	switch {
	case err != nil:
		return "", err
	case other.ClusterID == c.ID:
		return "", fault.New(fault.Conflict, "A cluster can't pair with itself (%s).", c.ID)
	case other.TrustDomain == c.TrustDomain && other.CA != ours:
		return "", fault.New(fault.Conflict, "The trust domain %s is this organisation's own, and the other side has another CA for it: a trust domain has one CA.", c.TrustDomain)
	case other.TrustDomain != c.TrustDomain && other.Organization == c.Organization:
		return "", fault.New(fault.Conflict, "The organisation %s is this cluster's own, and the other side gives it another trust domain (%s).", c.Organization, other.TrustDomain)
	}
	all, err := ListPeerings(r)
	if err != nil {
		return "", err
	}
	for i := range all {
		if q := &all[i]; q.ID != peeringID && q.Live() && (q.TrustDomain == other.TrustDomain || q.Organization == other.Organization) {
			return "", fault.New(fault.Conflict, "There is a peering with %s (%s) already, %s: revoke it first.", q.Organization, q.TrustDomain, q.ID).With("peering_id", q.ID)
		}
	}
	return ours, nil
}

func accept(tx storage.Tx, a PeeringAccept) (done PeeringDone, err error) {
	done.ID, err = a.Asked.once(tx, a.ID, func() error { return a.do(tx) })
	if err == nil {
		done.Peering, err = GetPeering(tx, a.PeeringID)
	}
	return done, err
}

func (a *PeeringAccept) do(tx storage.Tx) error {
	if err := CanAccept(tx, a.PeeringID, a.Inviter); err != nil {
		return err
	}
	if err := a.Inviter.Validate(); err != nil {
		return err
	}
	p := Peering{ID: a.PeeringID, Exports: []Grant{}, Imports: a.Imports, CreatedAt: tx.Now()}
	if p.Imports == nil || validGrants("imports", p.Imports) != nil { // of a version that can say more; the inviter has said yes already
		p.Imports = []Grant{}
	}
	if err := pair(tx, &p, a.Inviter, a.Bundle); err != nil {
		return err
	}
	if err := put(tx, peeringKeys+p.ID, p); err != nil {
		return err
	}
	return a.By.auditPeering(tx, "peering.accept", &p, pairDetails(&p))
}

// CanAccept reports with an error that an invitation was accepted here before, or comes from here, or that there can be no
// peering with its maker.
func CanAccept(r storage.Reader, peeringID string, inviter trust.Party) error {
	p, err := GetPeering(r, peeringID)
	switch {
	case fault.Is(err, fault.NotFound):
		_, err = canPair(r, peeringID, &inviter)
		return err
	case err != nil:
		return err
	case p.State == PeeringInvited:
		return fault.New(fault.Conflict, "This cluster made the invitation itself: give it to the other organisation, who accepts it there.").With("peering_id", p.ID)
	}
	return fault.New(fault.Conflict, "The invitation was used already: the peering %s with %s is %s.", p.ID, p.Organization, p.State).With("peering_id", p.ID)
}

func setPeeringState(tx storage.Tx, c PeeringStateChange) (done PeeringDone, err error) {
	done.ID, err = c.Asked.once(tx, c.ID, func() error { return c.do(tx) })
	if err == nil {
		done.Peering, err = GetPeering(tx, c.PeeringID)
	}
	return done, err
}

func (c *PeeringStateChange) do(tx storage.Tx) error {
	p, err := GetPeering(tx, c.PeeringID)
	if err != nil {
		return err
	}
	action := ""
	switch c.State {
	case PeeringActive:
		action = "peering.resume"
	case PeeringSuspended:
		action = "peering.suspend"
	case PeeringRevoked:
		action = "peering.revoke"
	default:
		return fault.Invalid("state", "A peering is suspended, resumed or revoked.")
	}
	switch {
	case p.State == c.State:
		return nil
	case p.State == PeeringRevoked:
		return fault.New(fault.Conflict, "The peering %s was revoked, which is final; pair anew with an invitation.", p.ID)
	case p.State == PeeringInvited && c.State != PeeringRevoked:
		return fault.New(fault.Conflict, "Nobody has accepted the invitation of %s yet; it can only be revoked.", p.ID)
	}
	p.State, p.UpdatedAt, p.InvitationExpiresAt = c.State, tx.Now(), nil
	if c.State == PeeringRevoked {
		tx.Delete(invitationKeys + p.ID)
	}
	if err := put(tx, peeringKeys+p.ID, p); err != nil {
		return err
	}
	return c.By.auditPeering(tx, action, &p, nil)
}

// setExports says what the other may do here. An invited peering may have exports ahead of its acceptance.
func setExports(tx storage.Tx, c PeeringChange) (Peering, error) {
	if err := ValidExports(c.Grants); err != nil {
		return Peering{}, err
	}
	for i := range c.Grants {
		_, err := tenancy.GetTenant(tx, c.Grants[i].LocalTenantID)
		if fault.Is(err, fault.NotFound) {
			return Peering{}, fault.Invalid(grantField("exports", i, "local_tenant_id"), "There is no tenant %q here.", c.Grants[i].LocalTenantID)
		}
		if err != nil {
			return Peering{}, err
		}
	}
	return set(tx, &c, "peering.exports", func(p *Peering) *[]Grant { return &p.Exports }, c.grants())
}

// setImports writes down what the other side says that we may do there.
func setImports(tx storage.Tx, c PeeringChange) (Peering, error) {
	if err := validGrants("imports", c.Grants); err != nil {
		return Peering{}, err
	}
	return set(tx, &c, "peering.imports", func(p *Peering) *[]Grant { return &p.Imports }, c.grants())
}

func setAddresses(tx storage.Tx, c PeeringChange) (Peering, error) {
	if err := trust.ValidAddresses(c.Addresses); err != nil {
		return Peering{}, err
	}
	return set(tx, &c, "peering.addresses", func(p *Peering) *[]string { return &p.Addresses }, c.Addresses)
}

func (c *PeeringChange) grants() []Grant {
	if c.Grants == nil {
		return []Grant{}
	}
	return c.Grants
}

// maxNoted is the longest value, in bytes of JSON, that the audit repeats; of a longer one it gives the hash.
const maxNoted = 8 << 10

// set puts a new value into one field of the peering that c names, unless it's the same.
func set[T any](tx storage.Tx, c *PeeringChange, action string, field func(*Peering) *T, value T) (Peering, error) {
	p, err := GetPeering(tx, c.PeeringID)
	if err != nil {
		return Peering{}, err
	}
	if p.State == PeeringRevoked {
		return Peering{}, fault.New(fault.Conflict, "The peering %s was revoked, which is final; pair anew with an invitation.", p.ID)
	}
	at := field(&p)
	if reflect.DeepEqual(*at, value) {
		return p, nil
	}
	*at, p.UpdatedAt = value, tx.Now()
	if err := put(tx, peeringKeys+p.ID, p); err != nil {
		return Peering{}, err
	}
	raw, err := json.Marshal(value)
	if err != nil {
		return Peering{}, fmt.Errorf("registry: %s: %w", action, err)
	}
	sum := sha256.Sum256(raw)
	details := map[string]any{"sha256": hex.EncodeToString(sum[:])}
	if len(raw) <= maxNoted {
		details["value"] = value
	}
	return p, c.By.auditPeering(tx, action, &p, details)
}

// GetPeering reads one peering.
func GetPeering(r storage.Reader, peeringID string) (Peering, error) {
	var p Peering
	ok, err := get(r, peeringKeys+peeringID, &p)
	if err == nil && !ok {
		err = fault.New(fault.NotFound, "There is no peering %q.", peeringID)
	}
	return p, err
}

// ListPeerings lists all peerings, revoked ones too, ordered by id.
func ListPeerings(r storage.Reader) ([]Peering, error) { return list[Peering](r, peeringKeys) }
