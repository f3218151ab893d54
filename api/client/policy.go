package client

import (
	"context"
	"net/http"
	"time"
)

// PolicyOutcome is what policy did to a text.
type PolicyOutcome struct {
	Decision   string      `json:"decision"` // allowed, blocked or redacted
	Reasons    []string    `json:"reasons"`
	Redactions []Redaction `json:"redactions"`
}

// Redaction is one replaced span; Start and End are byte offsets in the text before.
type Redaction struct {
	Type        string `json:"type"`
	Path        string `json:"path"`
	Start       int    `json:"start"`
	End         int    `json:"end"`
	Replacement string `json:"replacement"`
}

// PolicyResult is the answer to a policy check.
type PolicyResult struct {
	RequestID string `json:"request_id"`
	PolicyOutcome
}

// CheckPolicy applies a ruleset to a text and calls nothing. ruleset "" is the tenant's own.
func (c *Client) CheckPolicy(ctx context.Context, text, ruleset string) (*PolicyResult, error) {
	check := map[string]any{"content": map[string]string{"type": "text", "text": text}}
	if ruleset != "" {
		check["ruleset"] = ruleset
	}
	return change[PolicyResult](ctx, c, http.MethodPost, "policy_result", "/v1/policy/check", map[string]any{"policy_check": check})
}

// Ruleset is policy as data. Its tenant and its times are the node's to say.
type Ruleset struct {
	ID       string `json:"policy_id,omitempty"`
	TenantID string `json:"tenant_id,omitempty"`
	// Redact lists the types of data that are replaced; nil and empty both replace none.
	Redact []string `json:"redact"`
	// Custom lists further expressions that are replaced, Deny expressions that block a call.
	Custom []Expression `json:"custom,omitempty"`
	Deny   []Expression `json:"deny,omitempty"`
	Limits struct {
		MaxInputTokens  int64 `json:"max_input_tokens,omitempty"`
		MaxOutputTokens int64 `json:"max_output_tokens,omitempty"`
	} `json:"limits,omitzero"`
	// The ruleset that every tenant has was made by nobody, and has no times.
	CreatedAt *time.Time `json:"created_at,omitempty"`
	UpdatedAt *time.Time `json:"updated_at,omitempty"`
}

// Expression is a named expression in RE2's syntax.
type Expression struct {
	Name      string `json:"name"`
	Pattern   string `json:"pattern"`
	Direction string `json:"direction,omitempty"` // in, out or both; both when left out
}

// GetRuleset returns one ruleset.
func (c *Client) GetRuleset(ctx context.Context, policyID string) (*Ruleset, error) {
	return get[Ruleset](ctx, c, "ruleset", "/v1/policy/rulesets/{policy_id}", policyID)
}

// Rulesets lists the tenant's rulesets by id.
func (c *Client) Rulesets() *List[Ruleset] {
	return &List[Ruleset]{c: c, path: "/v1/policy/rulesets", plural: "rulesets"}
}

// PutRuleset makes a ruleset, or replaces the one of this id.
func (c *Client) PutRuleset(ctx context.Context, policyID string, r Ruleset) (*Ruleset, error) {
	if r.Redact == nil {
		r.Redact = []string{}
	}
	return change[Ruleset](ctx, c, http.MethodPut, "ruleset", "/v1/policy/rulesets/{policy_id}", map[string]any{"ruleset": r}, policyID)
}

// DeleteRuleset removes a ruleset.
func (c *Client) DeleteRuleset(ctx context.Context, policyID string) error {
	return c.remove(ctx, "/v1/policy/rulesets/{policy_id}", policyID)
}

// Prices are what models cost.
type Prices struct {
	AsOf   *time.Time       `json:"as_of,omitempty"` // nil: now
	Models map[string]Price `json:"models"`
	// Default is the price of a model that isn't listed; it can't be zero.
	Default *Price `json:"default,omitempty"`
}

// Price is what a million tokens of a model cost, in US dollars.
type Price struct {
	Input       float64  `json:"input_usd_per_million"`
	CachedInput *float64 `json:"cached_input_usd_per_million,omitempty"` // nil: as Input
	Output      float64  `json:"output_usd_per_million"`
}

// GetPrices returns the price list.
func (c *Client) GetPrices(ctx context.Context) (*Prices, error) {
	return get[Prices](ctx, c, "prices", "/v1/admin/prices")
}

// PutPrices replaces the price list of the whole cluster; a platform admin may.
func (c *Client) PutPrices(ctx context.Context, p Prices) (*Prices, error) {
	return change[Prices](ctx, c, http.MethodPut, "prices", "/v1/admin/prices", map[string]any{"prices": p})
}
