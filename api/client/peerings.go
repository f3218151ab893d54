package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// Peering is the relation to a cluster of another organisation.
type Peering struct {
	ID           string `json:"peering_id"`
	Organization string `json:"organization"` // theirs; "" until the invitation is accepted, as the three below
	TrustDomain  string `json:"trust_domain"`
	ClusterID    string `json:"cluster_id"`
	State        string `json:"state"` // invited, active, suspended or revoked
	// Fingerprints are the SHA-256 of both sides' CA certificates, for people to compare.
	Fingerprints struct {
		Ours   string `json:"ours"`
		Theirs string `json:"theirs"`
	} `json:"fingerprints"`
	Exports   []Grant   `json:"exports"` // what they may do here
	Imports   []Grant   `json:"imports"` // what we may do there
	Addresses []string  `json:"addresses"`
	Gossip    bool      `json:"gossip"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
	// InvitationExpiresAt is nil once the invitation was accepted or withdrawn.
	InvitationExpiresAt *time.Time `json:"invitation_expires_at"`
}

// Grant is what one side lets the other do for one tenant.
type Grant struct {
	TenantID      string       `json:"tenant_id"`       // theirs
	LocalTenantID string       `json:"local_tenant_id"` // ours
	Scopes        []string     `json:"scopes"`
	Quotas        *GrantQuotas `json:"quotas,omitempty"`
	// Agents bounds the agents that may be run; nil sets no bound, an empty list allows none.
	Agents                []string `json:"agents,omitzero"`
	MaxDataClassification string   `json:"max_data_classification,omitempty"`
}

// GrantQuotas bound what the other side takes under one grant; nil is unlimited, 0 is none.
type GrantQuotas struct {
	MaxConcurrentRuns *int64 `json:"max_concurrent_runs,omitempty"`
}

// Invitation is what lets one other cluster pair with this one. Token is shown this once.
type Invitation struct {
	Peering   Peering   `json:"peering"`
	Token     string    `json:"token"`
	ExpiresAt time.Time `json:"expires_at"`
}

// InvitePeer makes an invitation that is good for ttl, 0 for a day. peeringID may be "".
func (c *Client) InvitePeer(ctx context.Context, peeringID string, ttl time.Duration) (*Invitation, error) {
	body := map[string]any{"ttl_seconds": int64(ttl / time.Second)}
	if peeringID != "" {
		body["peering_id"] = peeringID
	}
	a, err := c.Do(ctx, Request{Method: http.MethodPost, Path: "/v1/federation/peerings", Body: body})
	if err != nil {
		return nil, err
	}
	v := new(Invitation)
	if err := json.Unmarshal(a.Body, v); err != nil {
		return nil, fmt.Errorf("POST /v1/federation/peerings: %w", err)
	}
	return v, nil
}

// AcceptPeer accepts another cluster's invitation. fingerprint, unless "", is what the inviter's CA must be.
func (c *Client) AcceptPeer(ctx context.Context, token, fingerprint string) (*Peering, error) {
	body := map[string]any{"token": token}
	if fingerprint != "" {
		body["expect_fingerprint"] = fingerprint
	}
	return ask[Peering](ctx, c, Request{Method: http.MethodPost, Path: "/v1/federation/peerings", Body: body, Slow: true}, "peering")
}

// Peerings lists the peerings of every state.
func (c *Client) Peerings() *List[Peering] {
	return &List[Peering]{c: c, path: "/v1/federation/peerings", plural: "peerings"}
}

// GetPeering returns one peering.
func (c *Client) GetPeering(ctx context.Context, peeringID string) (*Peering, error) {
	return get[Peering](ctx, c, "peering", "/v1/federation/peerings/{peering_id}", peeringID)
}

// PutExports replaces what the other side may do here; an empty list grants nothing.
func (c *Client) PutExports(ctx context.Context, peeringID string, exports []Grant) (*Peering, error) {
	if exports == nil {
		exports = []Grant{}
	}
	return change[Peering](ctx, c, http.MethodPut, "peering", "/v1/federation/peerings/{peering_id}/exports", map[string]any{"exports": exports}, peeringID)
}

// SuspendPeering lets nothing through either way until ResumePeering.
func (c *Client) SuspendPeering(ctx context.Context, peeringID string) (*Peering, error) {
	return change[Peering](ctx, c, http.MethodPost, "peering", "/v1/federation/peerings/{peering_id}:suspend", nil, peeringID)
}

// ResumePeering takes a suspended peering up again.
func (c *Client) ResumePeering(ctx context.Context, peeringID string) (*Peering, error) {
	return change[Peering](ctx, c, http.MethodPost, "peering", "/v1/federation/peerings/{peering_id}:resume", nil, peeringID)
}

// RevokePeering ends a peering for good, or withdraws an invitation.
func (c *Client) RevokePeering(ctx context.Context, peeringID string) error {
	return c.remove(ctx, "/v1/federation/peerings/{peering_id}", peeringID)
}
