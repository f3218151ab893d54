package tenancy

import (
	"fmt"
	"math"
	"slices"
	"unicode"
	"unicode/utf8"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
)

// Bounds of what a tenant says of itself.
const (
	maxText = 256  // bytes of a name
	maxList = 1000 // entries of a list
	maxTags = 100
)

// validate checks everything of t that a person may have chosen. prefix is what stands before a field's name in the request.
func (t *Tenant) validate(prefix string) error {
	if !id.Valid(t.ID) {
		return fault.Invalid(prefix+"tenant_id", "A tenant id has 1 to %d of the characters A-Z a-z 0-9 . _ -", id.MaxLen)
	}
	if _, ok := planOf(t.PlanTier); !ok {
		return fault.Invalid(prefix+"plan_tier", "A plan tier is demo, standard or enterprise.")
	}
	if !id.Valid(t.DefaultPolicyID) {
		return fault.Invalid(prefix+"default_policy_id", "The policy id isn't one.")
	}
	if err := text(prefix+"name", t.Name, 1); err != nil {
		return err
	}
	if err := t.Metadata.validate(prefix + "metadata."); err != nil {
		return err
	}
	if err := t.Entitlements.validate(prefix + "entitlements."); err != nil {
		return err
	}
	return t.Quotas.validate(prefix + "quotas.")
}

func (m *TenantMetadata) validate(prefix string) error {
	if len(m.Tags) > maxTags {
		return fault.Invalid(prefix+"tags", "A tenant has %d tags at most.", maxTags)
	}
	for i, tag := range m.Tags {
		if err := text(fmt.Sprintf("%stags[%d]", prefix, i), tag, 1); err != nil {
			return err
		}
	}
	return text(prefix+"billing_account", m.BillingAccount, 0)
}

func (e *Entitlements) validate(prefix string) error {
	tier := func(s string) bool { return s == "fast" || s == "balanced" || s == "premium" }
	for _, l := range [...]struct {
		name  string
		items []string
		valid func(string) bool
	}{
		{"model_tiers_allowed", e.ModelTiersAllowed, tier},
		{"model_backends_allowed", e.ModelBackendsAllowed, id.Valid},
		{"tool_ids_allowed", e.ToolIDsAllowed, id.ValidTool},
	} {
		if len(l.items) > maxList {
			return fault.Invalid(prefix+l.name, "The list has more than %d entries.", maxList)
		}
		if i := slices.IndexFunc(l.items, func(s string) bool { return !l.valid(s) }); i >= 0 {
			return fault.Invalid(fmt.Sprintf("%s%s[%d]", prefix, l.name, i), "This isn't one of what the list holds.")
		}
	}
	return nil
}

// validate checks that every limit is a number that can be counted up to.
func (q *Quotas) validate(prefix string) error {
	counts := [...]struct {
		name  string
		value *int64
	}{
		{"runs.max_concurrent_runs", q.Runs.MaxConcurrentRuns},
		{"runs.run_create_burst", q.Runs.RunCreateBurst},
		{"tools.tool_calls_per_minute", q.Tools.ToolCallsPerMinute},
		{"models.max_tokens_per_request", q.Models.MaxTokensPerRequest},
		{"models.max_requests_per_minute", q.Models.MaxRequestsPerMinute},
		{"storage.max_memory_bytes", q.Storage.MaxMemoryBytes},
	}
	for _, c := range counts {
		if c.value != nil && *c.value < 0 {
			return negative(prefix + c.name)
		}
	}
	if err := amount(prefix+"runs.run_create_qps", q.Runs.RunCreateQPS); err != nil {
		return err
	}
	b := q.Models.TokenBudget
	if b == nil {
		return nil
	}
	prefix += "models.token_budget."
	switch b.Window {
	case "minute", "hour", "day", "month":
	default:
		return fault.Invalid(prefix+"window", "A window is minute, hour, day or month.")
	}
	if b.MaxTokens != nil && *b.MaxTokens < 0 {
		return negative(prefix + "max_tokens")
	}
	return amount(prefix+"max_cost_usd", b.MaxCostUSD)
}

func amount(field string, v *float64) error {
	if v != nil && (math.IsNaN(*v) || math.IsInf(*v, 0) || *v < 0) {
		return negative(field)
	}
	return nil
}

func negative(field string) error {
	return fault.Invalid(field, "A limit is a number, 0 or more; leave it out, or send null, for no limit.")
}

func text(field, s string, least int) error {
	switch {
	case len(s) < least || len(s) > maxText:
		return fault.Invalid(field, "This text has to have %d to %d bytes.", least, maxText)
	case !utf8.ValidString(s):
		return fault.Invalid(field, "This text isn't UTF-8.")
	}
	for _, r := range s {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' {
			return fault.Invalid(field, "This text has control characters in it.")
		}
	}
	return nil
}
