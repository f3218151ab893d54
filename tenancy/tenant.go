package tenancy

import "time"

// TenantStatus says whether a tenant may do anything.
type TenantStatus string

const (
	Active   TenantStatus = "active"
	Disabled TenantStatus = "disabled"
)

// Tenant is the unit of isolation: its entitlements, quotas and defaults. Lists that are nil set no further limit; empty
// ones allow nothing.
type Tenant struct {
	ID              string         `json:"tenant_id"`
	Name            string         `json:"name"`
	Status          TenantStatus   `json:"status"`
	PlanTier        string         `json:"plan_tier"` // demo, standard or enterprise
	CreatedAt       time.Time      `json:"created_at"`
	UpdatedAt       time.Time      `json:"updated_at"`
	DefaultPolicyID string         `json:"default_policy_id"`
	Entitlements    Entitlements   `json:"entitlements"`
	Quotas          Quotas         `json:"quotas"`
	Metadata        TenantMetadata `json:"metadata"`
}

// Entitlements are what a tenant may use at all.
type Entitlements struct {
	ModelTiersAllowed    []string `json:"model_tiers_allowed"`
	ModelBackendsAllowed []string `json:"model_backends_allowed"`
	ToolIDsAllowed       []string `json:"tool_ids_allowed"`
}

// Quotas are limits; a nil number is unlimited, 0 is none.
type Quotas struct {
	Runs    RunQuotas     `json:"runs"`
	Tools   ToolQuotas    `json:"tools"`
	Models  ModelQuotas   `json:"models"`
	Storage StorageQuotas `json:"storage"`
}

// RunQuotas bound how many runs a tenant has and how fast it makes them.
type RunQuotas struct {
	MaxConcurrentRuns *int64   `json:"max_concurrent_runs"`
	RunCreateQPS      *float64 `json:"run_create_qps"`
	RunCreateBurst    *int64   `json:"run_create_burst"`
}

// ToolQuotas bound tool calls.
type ToolQuotas struct {
	ToolCallsPerMinute *int64 `json:"tool_calls_per_minute"`
}

// ModelQuotas bound model use.
type ModelQuotas struct {
	TokenBudget          *TokenBudget `json:"token_budget"`
	MaxTokensPerRequest  *int64       `json:"max_tokens_per_request"`
	MaxRequestsPerMinute *int64       `json:"max_requests_per_minute"`
}

// TokenBudget is what a tenant may spend on models in one window. Windows are calendar windows in UTC.
type TokenBudget struct {
	Window     string   `json:"window"` // minute, hour, day or month
	MaxTokens  *int64   `json:"max_tokens"`
	MaxCostUSD *float64 `json:"max_cost_usd"`
}

// StorageQuotas bound what a tenant keeps.
type StorageQuotas struct {
	MaxMemoryBytes *int64 `json:"max_memory_bytes"`
}

// TenantMetadata is the operator's own note on a tenant.
type TenantMetadata struct {
	Tags           []string `json:"tags"`
	BillingAccount string   `json:"billing_account"`
}
