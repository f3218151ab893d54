package tenancy

import "encoding/json"

// Field is a member of a request that may be left out: Set tells whether it was there, also as null.
type Field[T any] struct {
	Set   bool
	Value T
}

// Some returns a field that was sent.
func Some[T any](v T) Field[T] { return Field[T]{Set: true, Value: v} }

// UnmarshalJSON implements json.Unmarshaler.
func (f *Field[T]) UnmarshalJSON(b []byte) error {
	var v T
	if err := json.Unmarshal(b, &v); err != nil {
		return err
	}
	f.Set, f.Value = true, v
	return nil
}

// MarshalJSON implements json.Marshaler. Structs leave a field that isn't set out by the option omitzero.
func (f Field[T]) MarshalJSON() ([]byte, error) { return json.Marshal(f.Value) }

// IsZero reports whether the field was left out.
func (f Field[T]) IsZero() bool { return !f.Set }

func (f Field[T]) put(to *T) {
	if f.Set {
		*to = f.Value
	}
}

// TenantCreate is the body of a create; what is left out comes from the plan tier's defaults.
type TenantCreate struct {
	ID string `json:"tenant_id,omitempty"` // "" has one minted
	TenantUpdate
}

// TenantUpdate is any subset of what can be changed of a tenant. A list that is null sets no limit, an empty one allows
// nothing; a number that is null is unlimited, 0 is none.
type TenantUpdate struct {
	Name            Field[string]      `json:"name,omitzero"`
	PlanTier        Field[string]      `json:"plan_tier,omitzero"`
	DefaultPolicyID Field[string]      `json:"default_policy_id,omitzero"`
	Entitlements    EntitlementsUpdate `json:"entitlements,omitzero"`
	Quotas          QuotasUpdate       `json:"quotas,omitzero"`
	Metadata        MetadataUpdate     `json:"metadata,omitzero"`
}

// EntitlementsUpdate is any subset of Entitlements.
type EntitlementsUpdate struct {
	ModelTiersAllowed    Field[[]string] `json:"model_tiers_allowed,omitzero"`
	ModelBackendsAllowed Field[[]string] `json:"model_backends_allowed,omitzero"`
	ToolIDsAllowed       Field[[]string] `json:"tool_ids_allowed,omitzero"`
}

// QuotasUpdate is any subset of Quotas. A token budget is given whole.
type QuotasUpdate struct {
	Runs struct {
		MaxConcurrentRuns Field[*int64]   `json:"max_concurrent_runs,omitzero"`
		RunCreateQPS      Field[*float64] `json:"run_create_qps,omitzero"`
		RunCreateBurst    Field[*int64]   `json:"run_create_burst,omitzero"`
	} `json:"runs,omitzero"`
	Tools struct {
		ToolCallsPerMinute Field[*int64] `json:"tool_calls_per_minute,omitzero"`
	} `json:"tools,omitzero"`
	Models struct {
		TokenBudget          Field[*TokenBudget] `json:"token_budget,omitzero"`
		MaxTokensPerRequest  Field[*int64]       `json:"max_tokens_per_request,omitzero"`
		MaxRequestsPerMinute Field[*int64]       `json:"max_requests_per_minute,omitzero"`
	} `json:"models,omitzero"`
	Storage struct {
		MaxMemoryBytes Field[*int64] `json:"max_memory_bytes,omitzero"`
	} `json:"storage,omitzero"`
}

// MetadataUpdate is any subset of TenantMetadata.
type MetadataUpdate struct {
	Tags           Field[[]string] `json:"tags,omitzero"`
	BillingAccount Field[string]   `json:"billing_account,omitzero"`
}

// own reports whether u changes only what a tenant may change of itself: not what it may use, and not how much.
func (u *TenantUpdate) own() bool {
	return !u.PlanTier.Set && u.Entitlements.none() && u.Quotas == QuotasUpdate{}
}

func (u *EntitlementsUpdate) none() bool {
	return !u.ModelTiersAllowed.Set && !u.ModelBackendsAllowed.Set && !u.ToolIDsAllowed.Set
}

// apply changes t as u says. A new plan tier by itself changes no limit.
func (u *TenantUpdate) apply(t *Tenant) {
	u.Name.put(&t.Name)
	u.PlanTier.put(&t.PlanTier)
	u.DefaultPolicyID.put(&t.DefaultPolicyID)
	u.Entitlements.ModelTiersAllowed.put(&t.Entitlements.ModelTiersAllowed)
	u.Entitlements.ModelBackendsAllowed.put(&t.Entitlements.ModelBackendsAllowed)
	u.Entitlements.ToolIDsAllowed.put(&t.Entitlements.ToolIDsAllowed)
	q, to := &u.Quotas, &t.Quotas
	q.Runs.MaxConcurrentRuns.put(&to.Runs.MaxConcurrentRuns)
	q.Runs.RunCreateQPS.put(&to.Runs.RunCreateQPS)
	q.Runs.RunCreateBurst.put(&to.Runs.RunCreateBurst)
	q.Tools.ToolCallsPerMinute.put(&to.Tools.ToolCallsPerMinute)
	q.Models.TokenBudget.put(&to.Models.TokenBudget)
	q.Models.MaxTokensPerRequest.put(&to.Models.MaxTokensPerRequest)
	q.Models.MaxRequestsPerMinute.put(&to.Models.MaxRequestsPerMinute)
	q.Storage.MaxMemoryBytes.put(&to.Storage.MaxMemoryBytes)
	u.Metadata.Tags.put(&t.Metadata.Tags)
	if t.Metadata.Tags == nil { // null clears them
		t.Metadata.Tags = []string{}
	}
	u.Metadata.BillingAccount.put(&t.Metadata.BillingAccount)
}

// tenant returns the tenant that c asks for, with its plan's defaults; times and status are the leader's to set.
func (c *TenantCreate) tenant() *Tenant {
	tier := "standard"
	c.PlanTier.put(&tier)
	defaults, _ := planOf(tier) // an unknown tier is found by Validate
	t := &Tenant{
		ID: c.ID, Name: c.ID, PlanTier: tier, DefaultPolicyID: DefaultPolicy,
		Entitlements: defaults.entitlements, Quotas: defaults.quotas,
	}
	c.apply(t)
	return t
}
