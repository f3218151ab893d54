package onenode_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/nexixai/agentos/tests/harness"
)

// A tenant's own ruleset governs its calls and its runs from the moment it's put, and nobody else's.
//
// Requirements: B4.
func TestPolicy_Rulesets(t *testing.T) {
	t.Parallel()
	tn, other := suite.Tenant(t, nil), suite.Tenant(t, nil)
	const path = "/v1/policy/rulesets/pol_own"
	put := func(status int, set map[string]any) harness.Answer {
		t.Helper()
		return tn.Want(t, status, "PUT", path, map[string]any{"ruleset": set})
	}
	check := func(c *harness.Tenant, text, ruleset string) harness.Answer {
		return c.Do(t, "POST", "/v1/policy/check", map[string]any{"policy_check": map[string]any{"content": map[string]any{"type": "text", "text": text}, "ruleset": ruleset}})
	}
	a := put(201, map[string]any{"redact": []string{"email"}, "deny": []any{map[string]any{"name": "codeword", "pattern": "(?i)swordfish", "direction": "in"}}})
	if a.Str("ruleset.policy_id") != "pol_own" || a.Str("ruleset.tenant_id") != tn.ID || a.Str("ruleset.created_at") == "" {
		t.Errorf("put: %s", a.Body)
	}
	put(200, map[string]any{
		"redact": []string{"email"}, "custom": []any{map[string]any{"name": "case", "pattern": `case-\d{4}`}},
		"deny": []any{map[string]any{"name": "codeword", "pattern": "(?i)swordfish", "direction": "in"}},
	})
	if got := check(tn, "about case-1234", "pol_own"); got.Str("policy_result.decision") != "redacted" || got.Str("policy_result.redactions.0.type") != "custom:case" {
		t.Errorf("check: %s", got.Body)
	}
	if got := check(tn, "Swordfish", "pol_own"); got.Status != 200 || got.Str("policy_result.decision") != "blocked" {
		t.Errorf("check: %d %s", got.Status, got.Body)
	}
	refused(t, check(other, "x", "pol_own"), 404, "not_found")
	refused(t, other.Do(t, "GET", path, nil), 404, "not_found")
	refused(t, other.Do(t, "DELETE", path, nil), 404, "not_found")
	refused(t, tn.Issue(t, "svc_a", []string{"tenant_service"}, nil).Do(t, "GET", path, nil), 403, "forbidden")

	// As the tenant's default it governs every call.
	tn.Want(t, 200, "PATCH", "/v1/admin/tenants/"+tn.ID, map[string]any{"tenant_update": map[string]any{"default_policy_id": "pol_own"}})
	chat := tn.Want(t, 200, "POST", "/v1/chat/completions", chatBody("case-1234 of bob@example.com at 10.1.2.3", nil))
	if got := chat.Str("choices.0.message.content"); got != "echo: [REDACTED:custom:case] of [REDACTED:email] at 10.1.2.3" {
		t.Errorf("chat: %q", got)
	}
	refused(t, tn.Do(t, "POST", "/v1/chat/completions", chatBody("swordfish", nil)), 403, "policy_blocked")
	refused(t, tn.Do(t, "POST", "/v1/chat/completions", chatBody("swordfish", map[string]any{"stream": true})), 403, "policy_blocked")
	if ended, _ := tn.Complete(t, "case-5678", nil); ended.Str("run.output.text") != "echo: [REDACTED:custom:case]" {
		t.Errorf("run: %s", ended.Body)
	}
	events := tn.Journal(t, tn.Create(t, "swordfish", nil))
	if last := events[len(events)-1]; last.Type != "agentos.run.failed" || last.Str("error.code") != "policy_blocked" {
		t.Errorf("a run under a policy that blocks ends with %s %s", last.Type, last.Str("error.code"))
	}
	if ended, _ := other.Complete(t, "swordfish case-5678", nil); ended.Str("run.output.text") != "echo: swordfish case-5678" {
		t.Errorf("another tenant's run: %s", ended.Body)
	}

	refused(t, tn.Do(t, "DELETE", path, nil), 409, "conflict")
	tn.Want(t, 200, "PATCH", "/v1/admin/tenants/"+tn.ID, map[string]any{"tenant_update": map[string]any{"default_policy_id": "pol_default"}})
	tn.Want(t, 204, "DELETE", path, nil)
	refused(t, tn.Do(t, "GET", path, nil), 404, "not_found")
	refused(t, tn.Do(t, "PUT", "/v1/policy/rulesets/pol_default", map[string]any{"ruleset": map[string]any{}}), 409, "conflict")
	if list := tn.Want(t, 200, "GET", "/v1/policy/rulesets", nil); list.Str("rulesets.0.policy_id") != "pol_default" || harness.Has(list.At(""), "rulesets.1") {
		t.Errorf("list: %s", list.Body)
	}
	for field, set := range map[string]string{
		"ruleset.redact[0]":         `{"redact":["mood"]}`,
		"ruleset.custom[0].pattern": `{"custom":[{"name":"a","pattern":"(a+)+b"}]}`,
		"ruleset.deny[0].name":      `{"deny":[{"name":"a b","pattern":"x"}]}`,
		"ruleset.redact":            `{"redact":"email"}`,
		"ruleset.limits":            `{"limits":{"max_input_tokens":-1}}`,
	} {
		a := tn.Do(t, "PUT", path, `{"ruleset":`+set+`}`)
		refused(t, a, 400, "invalid_request")
		if got := a.Str("error.details.field"); got != field {
			t.Errorf("%s: field %q", set, got)
		}
	}
}

// The operator's price list holds from the moment it's put, and after a crash. It has a node for itself: prices are the
// same for everybody.
//
// Requirements: B5.
func TestPrices(t *testing.T) {
	t.Parallel()
	d := harness.Up(t, suite.Binary(t))
	tn := harness.NewTenant(t, d.Admin(t), nil)
	cost := func() json.Number {
		a := tn.Want(t, 200, "POST", "/v1/models:invoke", `{"request":{"operation":"chat","model_ref":"builtin/echo-1","input":{"messages":[{"role":"user","content":"a b"}]}}}`)
		n, _ := a.At("response.usage.cost_usd").(json.Number)
		return n
	}
	if got := cost(); got != "0.000005" { // 2 + 3 tokens at 0.000001
		t.Errorf("cost %s", got)
	}
	list := tn.Want(t, 200, "GET", "/v1/admin/prices", nil)
	if list.Str("prices.as_of") == "" || !harness.Has(list.At(""), "prices.default.output_usd_per_million") || !strings.Contains(string(list.Body), "openai/gpt-4o") {
		t.Errorf("prices: %s", list.Body)
	}
	const prices = `{"prices":{"as_of":"2026-03-01T00:00:00Z","models":{"builtin/echo-1":{"input_usd_per_million":10,"output_usd_per_million":100}},"default":{"input_usd_per_million":1,"output_usd_per_million":1}}}`
	refused(t, tn.Do(t, "PUT", "/v1/admin/prices", prices), 403, "forbidden")
	for field, body := range map[string]string{
		"prices":         `{}`,
		"prices.default": `{"prices":{"models":{}}}`,
		"prices.models.a/b.input_usd_per_million": `{"prices":{"default":{"input_usd_per_million":1,"output_usd_per_million":1},"models":{"a/b":{"input_usd_per_million":-1}}}}`,
		"prices.default.output_usd_per_million":   `{"prices":{"default":{"input_usd_per_million":1,"output_usd_per_million":1e300}}}`,
		"prices.models.output_usd_per_million":    `{"prices":{"default":{"input_usd_per_million":1,"output_usd_per_million":1},"models":{"a/b":{"output_usd_per_million":"1"}}}}`,
	} {
		a := tn.Root.Do(t, "PUT", "/v1/admin/prices", body)
		refused(t, a, 400, "invalid_request")
		if got := a.Str("error.details.field"); got != field {
			t.Errorf("%s: field %q", body, got)
		}
	}
	if got := cost(); got != "0.000005" {
		t.Errorf("after refused lists: cost %s", got)
	}
	tn.Root.Want(t, 200, "PUT", "/v1/admin/prices", prices)
	if got := cost(); got != "0.00032" { // 2 at 0.00001 + 3 at 0.0001
		t.Errorf("after a new list: cost %s", got)
	}
	d.Kill(t)
	d.Up(t)
	if got := cost(); got != "0.00032" {
		t.Errorf("after a crash: cost %s", got)
	}
}
