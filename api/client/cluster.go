package client

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// Cluster is the nodes that share one store, as one of them sees it.
type Cluster struct {
	ID           string   `json:"cluster_id"`
	StoreEpoch   string   `json:"store_epoch"`
	StoreVersion int      `json:"store_version"` // of the layouts and commands in use
	Leader       *string  `json:"leader"`        // a stack_id; nil while there is none
	Term         uint64   `json:"term"`
	AppliedIndex uint64   `json:"applied_index"`
	Version      string   `json:"version"`
	CanSign      bool     `json:"can_sign"` // the node can sign certificates for nodes that join
	Members      []Member `json:"members"`
	Warnings     []string `json:"warnings"`
}

// Member is one node of a cluster.
type Member struct {
	StackID       string `json:"stack_id"`
	Role          string `json:"role"`   // voter, nonvoter or joining
	Status        string `json:"status"` // alive, suspect, dead or left
	State         string `json:"state"`  // active or draining
	Region        string `json:"region"`
	APIURL        string `json:"api_url"`
	ClusterAddr   string `json:"cluster_addr"`
	Version       string `json:"version"`
	StoreVersion  int    `json:"store_version"`   // the highest that its binary can do
	LastContactMS *int64 `json:"last_contact_ms"` // nil for never
	AppliedIndex  uint64 `json:"applied_index"`
	Lag           uint64 `json:"lag"` // entries behind the node that was asked
}

// Cluster returns the node's cluster as it sees it. It is answered without a leader, too.
func (c *Client) Cluster(ctx context.Context) (*Cluster, error) {
	return get[Cluster](ctx, c, "cluster", "/v1/admin/cluster")
}

// JoinToken lets nodes join. Token is shown this once.
type JoinToken struct {
	ID            string    `json:"token_id"`
	Token         string    `json:"token"`
	ExpiresAt     time.Time `json:"expires_at"`
	Uses          int       `json:"uses"`
	CAFingerprint string    `json:"ca_fingerprint"`
	Addresses     []string  `json:"addresses"` // cluster doors of members to join through
}

// CreateJoinToken makes a join token; zero values mean an hour and one node.
func (c *Client) CreateJoinToken(ctx context.Context, ttl time.Duration, uses int) (*JoinToken, error) {
	body := map[string]any{"ttl_seconds": int64(ttl / time.Second), "uses": uses}
	return ask[JoinToken](ctx, c, Request{Method: http.MethodPost, Path: "/v1/admin/cluster/join-tokens", Body: body}, "join_token")
}

// TransferLeader asks the leader to hand the office to a member, or to whoever is furthest along when stackID is "". It
// returns when the wish is recorded; who leads then shows in Cluster.
func (c *Client) TransferLeader(ctx context.Context, stackID string) (*Cluster, error) {
	body := map[string]any{"stack_id": stackID}
	return ask[Cluster](ctx, c, Request{Method: http.MethodPost, Path: "/v1/admin/cluster:transfer-leader", Body: body}, "cluster")
}

// RotateGossipKey gives the members' gossip a new key; it returns when no member that answers has the old one.
func (c *Client) RotateGossipKey(ctx context.Context) (*Cluster, error) {
	return ask[Cluster](ctx, c, Request{Method: http.MethodPost, Path: "/v1/admin/cluster:rotate-gossip-key", Slow: true}, "cluster")
}

// DrainMember takes no new runs to a member; Undrain takes it back.
func (c *Client) DrainMember(ctx context.Context, stackID string) error {
	return c.member(ctx, http.MethodPost, stackID, ":drain")
}

// UndrainMember lets a drained member take runs again.
func (c *Client) UndrainMember(ctx context.Context, stackID string) error {
	return c.member(ctx, http.MethodPost, stackID, ":undrain")
}

// RemoveMember takes a member out of its cluster for good.
func (c *Client) RemoveMember(ctx context.Context, stackID string) error {
	return c.member(ctx, http.MethodDelete, stackID, "")
}

func (c *Client) member(ctx context.Context, method, stackID, verb string) error {
	_, err := c.Do(ctx, Request{Method: method, Path: "/v1/admin/cluster/members/" + url.PathEscape(stackID) + verb})
	return err
}

// Backup writes a copy of the node's whole store to w, and returns the index that it holds. A copy that broke off is an
// error, and of no use. progress, which may be nil, is told how many of how many bytes have come.
func (c *Client) Backup(ctx context.Context, w io.Writer, progress func(done, size int64)) (index uint64, err error) {
	r := Request{Method: http.MethodPost, Path: "/v1/admin/backup"}
	resp, err := c.send(ctx, r, nil, "application/x-tar")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		_, err := c.read(ctx, r, resp)
		return 0, err
	}
	from := &counted{Reader: resp.Body, size: resp.ContentLength, told: progress}
	if _, err := io.Copy(w, from); err != nil {
		return 0, fmt.Errorf("the backup broke off after %d of %d bytes: %w", from.done, from.size, told(ctx, err))
	}
	return (&Answer{Header: resp.Header}).Index(), nil
}

// counted tells how much was read.
type counted struct {
	io.Reader
	done, size int64
	told       func(done, size int64)
}

// Read implements io.Reader.
func (c *counted) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.done += int64(n)
	if c.told != nil && n > 0 {
		c.told(c.done, c.size)
	}
	return n, err
}
