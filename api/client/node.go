package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Health is what a service says of itself.
type Health struct {
	Status  string `json:"status"`
	Service string `json:"service"`
	Version string `json:"version"`
}

// Health asks Stack A whether it serves.
func (c *Client) Health(ctx context.Context) (*Health, error) { return c.health(ctx, "/v1/health") }

// HealthB asks Stack B whether it serves.
func (c *Client) HealthB(ctx context.Context) (*Health, error) {
	return c.health(ctx, "/stack-b/v1/health")
}

// HealthFederation asks the federation whether it serves.
func (c *Client) HealthFederation(ctx context.Context) (*Health, error) {
	return c.health(ctx, "/v1/federation/health")
}

func (c *Client) health(ctx context.Context, path string) (*Health, error) {
	a, err := c.Do(ctx, Request{Method: http.MethodGet, Path: path})
	if err != nil {
		return nil, err
	}
	h := new(Health)
	return h, json.Unmarshal(a.Body, h)
}

// Readiness says whether a node can take work, dependency by dependency.
type Readiness struct {
	Status       string            `json:"status"`       // ready, drained (an operator wants no runs there), not_ready, or draining (it stops)
	Dependencies map[string]string `json:"dependencies"` // by name: "ok", or what is wrong
}

// Ready reports whether the node can take work.
func (r *Readiness) Ready() bool { return r.Status == "ready" }

// Drained reports whether all that keeps the node from work is that an operator has drained it.
func (r *Readiness) Drained() bool { return r.Status == "drained" }

// Ready asks whether the node can take work. That it can't is no error. It is asked once, whatever Options.Retries says.
func (c *Client) Ready(ctx context.Context) (*Readiness, error) {
	once := *c
	once.o.Retries = -1
	a, err := once.Do(ctx, Request{Method: http.MethodGet, Path: "/readyz"})
	if a == nil {
		return nil, err
	}
	r := new(Readiness)
	if json.Unmarshal(a.Body, r) == nil && r.Status != "" {
		return r, nil
	}
	return nil, err
}

// Peer is who a node is, as it tells others.
type Peer struct {
	StackID     string   `json:"stack_id"`
	Environment string   `json:"environment"`
	Region      string   `json:"region"`
	APIVersions []string `json:"api_versions"`
	Endpoints   struct {
		StackA     string `json:"stack_a_base_url"`
		StackB     string `json:"stack_b_base_url"`
		Federation string `json:"federation_base_url"`
	} `json:"endpoints"`
	Build struct {
		Version   string `json:"version"`
		GitSHA    string `json:"git_sha"`
		Timestamp string `json:"timestamp"`
	} `json:"build"`
	Organization string `json:"organization"`
	TrustDomain  string `json:"trust_domain"`
	ClusterID    string `json:"cluster_id"`
	StoreEpoch   string `json:"store_epoch"`
}

// PeerInfo asks a node who it is.
func (c *Client) PeerInfo(ctx context.Context) (*Peer, error) {
	return get[Peer](ctx, c, "peer", "/v1/peer/info")
}

// Capabilities are what a node can do for who asks.
type Capabilities struct {
	// Supports is open: a feature that isn't in it is not supported.
	Supports map[string]bool  `json:"supports"`
	Limits   map[string]int64 `json:"limits"`
	Models   struct {
		Tiers            []string `json:"tiers"`
		Backends         []string `json:"backends"`
		MaxContextTokens int64    `json:"max_context_tokens"`
	} `json:"models"`
	Agents []struct {
		ID      string `json:"agent_id"`
		Version string `json:"version"`
	} `json:"agents"`
	Tools []struct {
		ID string `json:"tool_id"`
	} `json:"tools"`
	// Grants are what the asking organisation may do there, as the other side writes them; of a peer's capabilities only.
	Grants []Grant `json:"grants"`
	// Contract is the span of wire contracts that the node speaks.
	Contract struct {
		Min string `json:"min"`
		Max string `json:"max"`
	} `json:"contract"`
	// Digest is of all the rest.
	Digest string `json:"digest"`
}

// PeerCapabilities asks a node what it can do.
func (c *Client) PeerCapabilities(ctx context.Context) (*Capabilities, error) {
	return get[Capabilities](ctx, c, "capabilities", "/v1/peer/capabilities")
}

// Backend is a model backend, and whether it answers.
type Backend struct {
	Name    string `json:"name"`
	Healthy bool   `json:"healthy"`
	Reason  string `json:"reason"`
}

// Backends lists the model backends.
func (c *Client) Backends() *List[Backend] {
	return &List[Backend]{c: c, path: "/v1/admin/backends", plural: "backends"}
}

// Usage sums up what the tenant spent.
func (c *Client) Usage(ctx context.Context, u UsageQuery) (*Usage, error) {
	q := url.Values{}
	set(q, "window", u.Window)
	set(q, "from", stamp(u.From))
	set(q, "to", stamp(u.To))
	set(q, "group_by", strings.Join(u.GroupBy, ","))
	return ask[Usage](ctx, c, Request{Method: http.MethodGet, Path: "/v1/usage", Query: q}, "usage")
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// AuditRecord is one act or refusal, a link of its tenant's chain.
type AuditRecord struct {
	ID            string         `json:"audit_id"`
	Sequence      uint64         `json:"sequence"`
	Time          time.Time      `json:"time"`
	TenantID      string         `json:"tenant_id"`
	Principal     string         `json:"principal"`
	Action        string         `json:"action"`
	Resource      string         `json:"resource"`
	Outcome       string         `json:"outcome"` // "ok", or an error code
	CorrelationID string         `json:"correlation_id"`
	Peer          string         `json:"peer"`
	Policy        string         `json:"policy"`
	Details       map[string]any `json:"details"`
	Count         int            `json:"count"` // above 1: so many equal refusals in one record
	PrevHash      string         `json:"prev_hash"`
	Hash          string         `json:"hash"`
}

// AuditHead is the end of a chain. It stands beside a page's records as "head".
type AuditHead struct {
	Sequence uint64 `json:"sequence"`
	Hash     string `json:"hash"`
}

// PlatformChain is the TenantID by which a platform admin asks for the platform's own chain.
const PlatformChain = "platform"

// AuditFilter says which records a list holds; zero fields don't filter.
type AuditFilter struct {
	// TenantID is whose chain; "" is the key's own tenant.
	TenantID string
	Action   string
	From, To time.Time // From ≤ time < To
	// Newest lists the newest first.
	Newest bool
}

// Audit lists the records of one chain, in its order.
func (c *Client) Audit(f AuditFilter) *List[AuditRecord] {
	q := url.Values{}
	set(q, "tenant_id", f.TenantID)
	set(q, "action", f.Action)
	set(q, "from", stamp(f.From))
	set(q, "to", stamp(f.To))
	if f.Newest {
		q.Set("order", "desc")
	}
	return &List[AuditRecord]{c: c, path: "/v1/admin/audit", plural: "records", query: q}
}
