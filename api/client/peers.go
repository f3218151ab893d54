package client

import (
	"context"
	"net/http"
	"time"
)

// KnownPeer is a node of another organisation, or of the node's own cluster, as the node that is asked sees it.
type KnownPeer struct {
	Peer
	Source         string        `json:"source"` // member, peering or gossip
	State          string        `json:"state"`  // admitted, seen, suspended or revoked
	Reachable      bool          `json:"reachable"`
	Ready          bool          `json:"ready"`
	FreeSlots      int           `json:"free_slots"`
	LastExchangeAt *time.Time    `json:"last_exchange_at"`
	NextTryAt      *time.Time    `json:"next_try_at"`
	Capabilities   *Capabilities `json:"capabilities"`
	Agreement      *Agreement    `json:"agreement"`
	PeeringID      string        `json:"peering_id"`
	Address        string        `json:"address"` // HOST:PORT of its federation door
	Reason         string        `json:"reason"`  // why it isn't reachable or not usable
}

// Agreement is what two nodes can do together.
type Agreement struct {
	Usable     bool             `json:"usable"`
	APIVersion string           `json:"api_version"`
	Contract   string           `json:"contract"`
	Features   []string         `json:"features"`
	Limits     map[string]int64 `json:"limits"`
	Missing    []Missing        `json:"missing"`
}

// Missing is one thing that is not to be had of a peer, and why.
type Missing struct {
	Name   string `json:"name"`
	Reason string `json:"reason"`
}

// AwayPeer is a door of another organisation that doesn't answer.
type AwayPeer struct {
	StackID      string     `json:"stack_id"` // "" when it isn't known who is there
	Organization string     `json:"organization"`
	PeeringID    string     `json:"peering_id"`
	Address      string     `json:"address"`
	Reason       string     `json:"reason"`
	NextTryAt    *time.Time `json:"next_try_at"`
}

// Peers lists who is known. Beside a page's peers stand the doors that don't answer, []AwayPeer, as "unreachable".
func (c *Client) Peers() *List[KnownPeer] {
	return &List[KnownPeer]{c: c, path: "/v1/federation/peers", plural: "peers"}
}

// GetPeer returns what is known of one peer.
func (c *Client) GetPeer(ctx context.Context, stackID string) (*KnownPeer, error) {
	return get[KnownPeer](ctx, c, "peer", "/v1/federation/peers/{stack_id}", stackID)
}

// Pong is how a live exchange with a peer went.
type Pong struct {
	StackID      string  `json:"stack_id"`
	Organization string  `json:"organization"`
	Address      string  `json:"address"`
	TookMS       float64 `json:"took_ms"`
	Ready        bool    `json:"ready"`
	FreeSlots    int     `json:"free_slots"`
}

// PingPeer has the node ask a peer who it is, now.
func (c *Client) PingPeer(ctx context.Context, stackID string) (*Pong, error) {
	return change[Pong](ctx, c, http.MethodPost, "ping", "/v1/federation/peers/{stack_id}:ping", nil, stackID)
}
