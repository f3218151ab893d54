package client

import (
	"context"
	"net/http"
	"time"
)

// Tenant is the unit of isolation. Lists that are nil set no further limit; empty ones allow nothing.
type Tenant struct {
	ID              string       `json:"tenant_id"`
	Name            string       `json:"name"`
	Status          string       `json:"status"`    // active or disabled
	PlanTier        string       `json:"plan_tier"` // demo, standard or enterprise
	CreatedAt       time.Time    `json:"created_at"`
	UpdatedAt       time.Time    `json:"updated_at"`
	DefaultPolicyID string       `json:"default_policy_id"`
	Entitlements    Entitlements `json:"entitlements"`
	Quotas          Quotas       `json:"quotas"`
	Metadata        struct {
		Tags           []string `json:"tags"`
		BillingAccount string   `json:"billing_account"`
	} `json:"metadata"`
}

// Entitlements are what a tenant may use at all.
type Entitlements struct {
	ModelTiersAllowed    []string `json:"model_tiers_allowed"`
	ModelBackendsAllowed []string `json:"model_backends_allowed"`
	ToolIDsAllowed       []string `json:"tool_ids_allowed"`
}

// Quotas are limits; a nil number is unlimited, 0 is none.
type Quotas struct {
	Runs struct {
		MaxConcurrentRuns *int64   `json:"max_concurrent_runs"`
		RunCreateQPS      *float64 `json:"run_create_qps"`
		RunCreateBurst    *int64   `json:"run_create_burst"`
	} `json:"runs"`
	Tools struct {
		ToolCallsPerMinute *int64 `json:"tool_calls_per_minute"`
	} `json:"tools"`
	Models struct {
		TokenBudget          *TokenBudget `json:"token_budget"`
		MaxTokensPerRequest  *int64       `json:"max_tokens_per_request"`
		MaxRequestsPerMinute *int64       `json:"max_requests_per_minute"`
	} `json:"models"`
	Storage struct {
		MaxMemoryBytes *int64 `json:"max_memory_bytes"`
	} `json:"storage"`
}

// TokenBudget is what a tenant may spend on models in one window.
type TokenBudget struct {
	Window     string   `json:"window"` // minute, hour, day or month
	MaxTokens  *int64   `json:"max_tokens"`
	MaxCostUSD *float64 `json:"max_cost_usd"`
}

// TenantCreate asks for a tenant; what is left out comes from the plan's defaults. Without an ID one is made up.
type TenantCreate struct {
	ID string `json:"tenant_id,omitempty"`
	TenantUpdate
}

// TenantUpdate is any subset of what can be changed of a tenant.
type TenantUpdate struct {
	Name            Opt[string]        `json:"name,omitzero"`
	PlanTier        Opt[string]        `json:"plan_tier,omitzero"`
	DefaultPolicyID Opt[string]        `json:"default_policy_id,omitzero"`
	Entitlements    EntitlementsUpdate `json:"entitlements,omitzero"`
	Quotas          QuotasUpdate       `json:"quotas,omitzero"`
	Metadata        struct {
		Tags           Opt[[]string] `json:"tags,omitzero"`
		BillingAccount Opt[string]   `json:"billing_account,omitzero"`
	} `json:"metadata,omitzero"`
}

// EntitlementsUpdate is any subset of Entitlements.
type EntitlementsUpdate struct {
	ModelTiersAllowed    Opt[[]string] `json:"model_tiers_allowed,omitzero"`
	ModelBackendsAllowed Opt[[]string] `json:"model_backends_allowed,omitzero"`
	ToolIDsAllowed       Opt[[]string] `json:"tool_ids_allowed,omitzero"`
}

// QuotasUpdate is any subset of Quotas. A token budget is given whole.
type QuotasUpdate struct {
	Runs struct {
		MaxConcurrentRuns Opt[*int64]   `json:"max_concurrent_runs,omitzero"`
		RunCreateQPS      Opt[*float64] `json:"run_create_qps,omitzero"`
		RunCreateBurst    Opt[*int64]   `json:"run_create_burst,omitzero"`
	} `json:"runs,omitzero"`
	Tools struct {
		ToolCallsPerMinute Opt[*int64] `json:"tool_calls_per_minute,omitzero"`
	} `json:"tools,omitzero"`
	Models struct {
		TokenBudget          Opt[*TokenBudget] `json:"token_budget,omitzero"`
		MaxTokensPerRequest  Opt[*int64]       `json:"max_tokens_per_request,omitzero"`
		MaxRequestsPerMinute Opt[*int64]       `json:"max_requests_per_minute,omitzero"`
	} `json:"models,omitzero"`
	Storage struct {
		MaxMemoryBytes Opt[*int64] `json:"max_memory_bytes,omitzero"`
	} `json:"storage,omitzero"`
}

// CreateTenant makes a tenant; a platform admin may.
func (c *Client) CreateTenant(ctx context.Context, t TenantCreate) (*Tenant, error) {
	return change[Tenant](ctx, c, http.MethodPost, "tenant", "/v1/admin/tenants", map[string]any{"tenant_create": t})
}

// GetTenant returns one tenant.
func (c *Client) GetTenant(ctx context.Context, tenantID string) (*Tenant, error) {
	return get[Tenant](ctx, c, "tenant", "/v1/admin/tenants/{id}", tenantID)
}

// Tenants lists tenants by id.
func (c *Client) Tenants() *List[Tenant] {
	return &List[Tenant]{c: c, path: "/v1/admin/tenants", plural: "tenants"}
}

// UpdateTenant changes what u holds of a tenant.
func (c *Client) UpdateTenant(ctx context.Context, tenantID string, u TenantUpdate) (*Tenant, error) {
	return change[Tenant](ctx, c, http.MethodPatch, "tenant", "/v1/admin/tenants/{id}", map[string]any{"tenant_update": u}, tenantID)
}

// EnableTenant lets a disabled tenant work again.
func (c *Client) EnableTenant(ctx context.Context, tenantID string) (*Tenant, error) {
	return change[Tenant](ctx, c, http.MethodPost, "tenant", "/v1/admin/tenants/{id}:enable", nil, tenantID)
}

// DisableTenant refuses everything to a tenant; its data is kept.
func (c *Client) DisableTenant(ctx context.Context, tenantID string) (*Tenant, error) {
	return change[Tenant](ctx, c, http.MethodPost, "tenant", "/v1/admin/tenants/{id}:disable", nil, tenantID)
}

// GetQuotas returns the quotas of a tenant.
func (c *Client) GetQuotas(ctx context.Context, tenantID string) (*Quotas, error) {
	return get[Quotas](ctx, c, "quota_config", "/v1/admin/tenants/{id}/quotas", tenantID)
}

// PutQuotas replaces the quotas of a tenant, all of them.
func (c *Client) PutQuotas(ctx context.Context, tenantID string, q Quotas) (*Quotas, error) {
	return change[Quotas](ctx, c, http.MethodPut, "quota_config", "/v1/admin/tenants/{id}/quotas", map[string]any{"quota_config": q}, tenantID)
}

// Key is an API key of one principal.
type Key struct {
	ID            string        `json:"key_id"`
	TenantID      string        `json:"tenant_id"`
	PrincipalID   string        `json:"principal_id"`
	PrincipalType string        `json:"principal_type"` // user or service
	DisplayName   string        `json:"display_name"`
	Roles         []string      `json:"roles"`
	Scopes        []string      `json:"scopes"`
	PolicyContext PolicyContext `json:"policy_context"`
	CreatedAt     time.Time     `json:"created_at"`
	ExpiresAt     *time.Time    `json:"expires_at"`
	// Secret is told once, when the key is issued or rotated; a replay does not tell it.
	Secret string `json:"secret,omitempty"`
}

// KeyCreate asks for a key. The principal is a service with the role tenant_service unless it says otherwise.
type KeyCreate struct {
	PrincipalID   string         `json:"principal_id"`
	PrincipalType string         `json:"principal_type,omitempty"`
	DisplayName   string         `json:"display_name,omitempty"`
	Roles         []string       `json:"roles,omitempty"`
	Scopes        []string       `json:"scopes,omitzero"` // nil: all that the roles give
	PolicyContext *PolicyContext `json:"policy_context,omitempty"`
	ExpiresAt     *time.Time     `json:"expires_at,omitempty"`
}

// IssueKey makes a key in a tenant.
func (c *Client) IssueKey(ctx context.Context, tenantID string, k KeyCreate) (*Key, error) {
	return change[Key](ctx, c, http.MethodPost, "key", "/v1/admin/tenants/{id}/keys", k, tenantID)
}

// Keys lists the keys of a tenant by id, without their secrets.
func (c *Client) Keys(tenantID string) *List[Key] {
	path, err := route("/v1/admin/tenants/{id}/keys", tenantID)
	return &List[Key]{c: c, path: path, plural: "keys", err: err}
}

// RotateKey gives a key a new secret. The old one stays good for overlap, in whole seconds.
func (c *Client) RotateKey(ctx context.Context, tenantID, keyID string, overlap time.Duration) (*Key, error) {
	body := map[string]any{"overlap_seconds": int64(overlap / time.Second)}
	return change[Key](ctx, c, http.MethodPost, "key", "/v1/admin/tenants/{id}/keys/{key_id}:rotate", body, tenantID, keyID)
}

// RevokeKey makes a key worthless at once.
func (c *Client) RevokeKey(ctx context.Context, tenantID, keyID string) error {
	return c.remove(ctx, "/v1/admin/tenants/{id}/keys/{key_id}", tenantID, keyID)
}
