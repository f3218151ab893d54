package registry

import (
	"time"

	"github.com/nexixai/agentos/negotiation"
	"github.com/nexixai/agentos/tenancy"
)

// PeeringState is where the relation to another organisation stands.
type PeeringState string

const (
	// PeeringInvited: an invitation was given out, and nobody has accepted it yet.
	PeeringInvited PeeringState = "invited"
	// PeeringActive: both sides hold each other's CA, and may do what the grants say.
	PeeringActive PeeringState = "active"
	// PeeringSuspended: nothing goes either way until it's resumed.
	PeeringSuspended PeeringState = "suspended"
	// PeeringRevoked: over for good. The record stays, for what it has done remains in the audit.
	PeeringRevoked PeeringState = "revoked"
)

// Grant is what one side lets the other do for one tenant. In exports the other organisation acts for TenantID (its own)
// as LocalTenantID (ours) here; in imports we act for LocalTenantID (ours) as TenantID (theirs) there.
type Grant struct {
	TenantID      string          `json:"tenant_id"`
	LocalTenantID string          `json:"local_tenant_id"`
	Scopes        []tenancy.Scope `json:"scopes"`
	Quotas        *GrantQuotas    `json:"quotas,omitempty"`
	// Agents bounds the agents that may be run; nil sets no bound, an empty list allows none.
	Agents []string `json:"agents,omitzero"`
	// MaxDataClassification is the highest class that may cross; "" sets no bound.
	MaxDataClassification string `json:"max_data_classification,omitempty"`
}

// GrantQuotas bound what the other side takes under one grant, within the tenant's own quotas.
type GrantQuotas struct {
	MaxConcurrentRuns *int64 `json:"max_concurrent_runs,omitempty"`
}

// Fingerprints are the SHA-256 of both sides' CA certificates, in lower-case hex, for people to compare.
type Fingerprints struct {
	Ours   string `json:"ours"`
	Theirs string `json:"theirs"`
}

// Peering is the relation to one cluster of another organisation (or to another cell of our own), as the store keeps it.
type Peering struct {
	ID           string       `json:"peering_id"`
	Organization string       `json:"organization"`
	TrustDomain  string       `json:"trust_domain"`
	ClusterID    string       `json:"cluster_id,omitempty"` // theirs; "" until accepted
	State        PeeringState `json:"state"`
	Fingerprints Fingerprints `json:"fingerprints"`
	Exports      []Grant      `json:"exports"`
	Imports      []Grant      `json:"imports"`
	// Addresses are HOST:PORT of their federation doors; any of them reaches their cluster.
	Addresses []string  `json:"addresses"`
	Gossip    bool      `json:"gossip"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
	// InvitationExpiresAt is until when the invitation can be accepted; nil once it was, or was withdrawn.
	InvitationExpiresAt *time.Time `json:"invitation_expires_at,omitempty"`
	// Bundle is their CA, PEM: one trust domain's certificates, never merged with another's.
	Bundle []byte `json:"bundle,omitempty"`
}

// Export finds what the other side may do here for its tenant.
func (p *Peering) Export(theirTenant string) (Grant, bool) { return find(p.Exports, theirTenant, "") }

// Import finds what we may do there for our tenant.
func (p *Peering) Import(ourTenant string) (Grant, bool) { return find(p.Imports, "", ourTenant) }

// Live reports whether the peering is in force: active, or suspended and so able to become active again. A trust domain has at
// most one live peering.
func (p *Peering) Live() bool { return p.State == PeeringActive || p.State == PeeringSuspended }

// Turned returns grants as the other side writes them: what is theirs to us is ours to them. So one side's exports are the
// other's imports.
func Turned(grants []Grant) []Grant {
	out := make([]Grant, len(grants))
	for i, g := range grants {
		g.TenantID, g.LocalTenantID = g.LocalTenantID, g.TenantID
		out[i] = g
	}
	return out
}

func find(list []Grant, theirs, ours string) (Grant, bool) {
	for i := range list {
		if (theirs == "" || list[i].TenantID == theirs) && (ours == "" || list[i].LocalTenantID == ours) {
			return list[i], true
		}
	}
	return Grant{}, false
}

// Endpoints are where a node is to be found.
type Endpoints struct {
	StackA     string `json:"stack_a_base_url"`
	StackB     string `json:"stack_b_base_url"`
	Federation string `json:"federation_base_url"`
}

// BuildInfo identifies a node's binary.
type BuildInfo struct {
	Version   string `json:"version"`
	GitSHA    string `json:"git_sha"`
	Timestamp string `json:"timestamp"`
}

// Info is what a node says of itself (GET /v1/peer/info).
type Info struct {
	StackID      string    `json:"stack_id"`
	Environment  string    `json:"environment"`
	Region       string    `json:"region"`
	APIVersions  []string  `json:"api_versions"`
	Endpoints    Endpoints `json:"endpoints"`
	Build        BuildInfo `json:"build"`
	Organization string    `json:"organization"`
	TrustDomain  string    `json:"trust_domain"`
	ClusterID    string    `json:"cluster_id"`
	StoreEpoch   string    `json:"store_epoch"`
}

// Capabilities are what a node can do for who asks (GET /v1/peer/capabilities).
type Capabilities struct {
	Supports map[string]bool   `json:"supports"`
	Limits   map[string]int64  `json:"limits"`
	Models   ModelsOffered     `json:"models"`
	Agents   []AgentOffered    `json:"agents,omitempty"`
	Tools    []ToolOffered     `json:"tools,omitempty"`
	Contract negotiation.Range `json:"contract"`
	// Grants are what the asking organisation may do here; told to a peer only, and part of the digest.
	Grants []Grant `json:"grants,omitzero"`
	// Members are the federation doors (HOST:PORT) of the cluster's nodes; told to a peer only.
	Members []string `json:"members,omitempty"`
	// Digest is of all the rest: who has seen the same digest has seen the same capabilities.
	Digest string `json:"digest,omitempty"`
}

// ModelsOffered sums up what models there are.
type ModelsOffered struct {
	Tiers            []string `json:"tiers"`
	Backends         []string `json:"backends"`
	MaxContextTokens int64    `json:"max_context_tokens"`
}

// AgentOffered is an agent that the asker may run.
type AgentOffered struct {
	ID      string `json:"agent_id"`
	Version string `json:"version"`
}

// ToolOffered is a tool that there is.
type ToolOffered struct {
	ID string `json:"tool_id"`
}

// Source is from where a peer is known.
type Source string

const (
	FromMember  Source = "member"
	FromPeering Source = "peering"
	FromGossip  Source = "gossip"
)

// PeerState is what a peer is to us.
type PeerState string

const (
	PeerAdmitted  PeerState = "admitted"
	PeerSeen      PeerState = "seen"
	PeerSuspended PeerState = "suspended"
	PeerRevoked   PeerState = "revoked"
)

// Peer is one node of others, or of this cluster, as seen from here: what it says of itself, whether it answers, and what
// was agreed.
type Peer struct {
	Info
	Source         Source                 `json:"source"`
	State          PeerState              `json:"state"`
	Reachable      bool                   `json:"reachable"`
	LastExchangeAt *time.Time             `json:"last_exchange_at"`
	NextTryAt      *time.Time             `json:"next_try_at"`
	Capabilities   *Capabilities          `json:"capabilities"`
	Agreement      *negotiation.Agreement `json:"agreement"`
	// PeeringID names the relation through which it's known; "" for members.
	PeeringID string `json:"peering_id,omitempty"`
	// Address is HOST:PORT of its federation door.
	Address string `json:"address,omitempty"`
	// Ready says that it takes new runs, as far as it has said so lately.
	Ready bool `json:"ready"`
	// FreeSlots is how many runs it said it could begin at once.
	FreeSlots int `json:"free_slots"`
	// Reason tells in a sentence why it isn't reachable or not usable; "" when there is nothing to tell.
	Reason string `json:"reason,omitempty"`
}
