package policy_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/model/policy"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/mem"
	"github.com/nexixai/agentos/tenancy"
)

// house is a store with two tenants and their rulesets.
type house struct {
	sets      *policy.Rulesets
	engine    *policy.Engine
	directory *tenancy.Directory
}

func newHouse(tb testing.TB) *house {
	tb.Helper()
	reg := storage.NewRegistry()
	tenants, commands := tenancy.Define(reg), policy.Define(reg)
	store := mem.New(mem.Options{Registry: reg})
	h := &house{sets: policy.NewRulesets(store, commands), directory: tenancy.New(tenancy.Options{Store: store, Commands: tenants})}
	h.engine = policy.New(policy.Options{Lookup: h.sets.Lookup})
	tb.Cleanup(func() {
		store.Close()
		h.directory.Close()
	})
	store.Start()
	for _, tenantID := range []string{"tnt_a", "tnt_b"} {
		if _, _, err := h.directory.EnsureTenant(tb.Context(), tenancy.TenantCreate{ID: tenantID}); err != nil {
			tb.Fatal(err)
		}
	}
	return h
}

func by(tenantID string) tenancy.Actor {
	roles := []tenancy.Role{tenancy.RoleTenantAdmin}
	return tenancy.Actor{Auth: &tenancy.Auth{TenantID: tenantID, Principal: tenancy.Principal{ID: "usr_a"}, Roles: roles, Scopes: tenancy.ScopesOf(roles)}}
}

func (h *house) mustPut(tb testing.TB, set policy.Ruleset) (created bool) {
	tb.Helper()
	_, created, _, err := h.sets.Put(tb.Context(), by("tnt_a"), set)
	if err != nil {
		tb.Fatal(err)
	}
	return created
}

// redacted is what a tenant's policy makes of a text.
func (h *house) redacted(tb testing.TB, tenantID, policyID, text string) (string, error) {
	tb.Helper()
	rules, err := h.engine.Rules(tb.Context(), tenantID, policyID)
	if err != nil {
		return "", err
	}
	out, _, err := rules.Texts([]string{text}, "x")
	if err != nil {
		return "", err
	}
	return out[0], nil
}

// A ruleset holds from the moment it was put, for its tenant alone; once it's gone, calls under it are refused.
//
// Requirements: B4.
func TestRulesets(t *testing.T) {
	h := newHouse(t)
	const text = "case 1234 of bob@example.com"
	set := policy.Ruleset{ID: "pol_own", Redact: []string{"email"}}
	if !h.mustPut(t, set) {
		t.Error("a new ruleset was there before")
	}
	if got, err := h.redacted(t, "tnt_a", "pol_own", text); err != nil || got != "case 1234 of [REDACTED:email]" {
		t.Errorf("got %q, %v", got, err)
	}
	set.Redact, set.Custom = nil, []policy.Expression{{Name: "case", Pattern: `\b\d{4}\b`}}
	if h.mustPut(t, set) {
		t.Error("a replaced ruleset is new")
	}
	if got, err := h.redacted(t, "tnt_a", "pol_own", text); err != nil || got != "case [REDACTED:custom:case] of bob@example.com" {
		t.Errorf("after it was replaced: %q, %v", got, err)
	}
	if _, err := h.redacted(t, "tnt_b", "pol_own", text); !fault.Is(err, fault.NotFound) {
		t.Errorf("another tenant has it: %v", err)
	}
	if _, _, err := h.sets.Get(t.Context(), storage.Read{}, "tnt_b", "pol_own"); !fault.Is(err, fault.NotFound) {
		t.Errorf("another tenant reads it: %v", err)
	}
	if _, err := h.sets.Delete(t.Context(), by("tnt_b"), "pol_own"); !fault.Is(err, fault.NotFound) {
		t.Errorf("another tenant deletes it: %v", err)
	}
	if _, err := h.sets.Delete(t.Context(), by("tnt_a"), "pol_own"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.redacted(t, "tnt_a", "pol_own", text); !fault.Is(err, fault.NotFound) {
		t.Errorf("a call under a policy that is gone: %v", err)
	}
}

func TestRulesets_Refuses(t *testing.T) {
	h := newHouse(t)
	for field, set := range map[string]policy.Ruleset{
		"ruleset.policy_id":         {ID: "a/b"},
		"ruleset.redact[0]":         {ID: "pol_x", Redact: []string{"mood"}},
		"ruleset.custom[0].pattern": {ID: "pol_x", Custom: []policy.Expression{{Name: "a", Pattern: `\d+`}}},
		"ruleset.deny[0].direction": {ID: "pol_x", Deny: []policy.Expression{{Name: "a", Pattern: `x`, Direction: "up"}}},
		"ruleset.redact":            {ID: "pol_x", Redact: make([]string, 100)},
	} {
		_, _, _, err := h.sets.Put(t.Context(), by("tnt_a"), set)
		if !fault.Is(err, fault.InvalidRequest) || fault.Of(err).Details["field"] != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	if _, _, _, err := h.sets.Put(t.Context(), by("tnt_a"), policy.Default()); !fault.Is(err, fault.Conflict) {
		t.Errorf("the default was changed: %v", err)
	}
	if _, err := h.sets.Delete(t.Context(), by("tnt_a"), policy.DefaultID); !fault.Is(err, fault.Conflict) {
		t.Errorf("the default was deleted: %v", err)
	}
	// What a tenant's calls go by unless told otherwise can't be pulled from under them.
	h.mustPut(t, policy.Ruleset{ID: "pol_own"})
	var u tenancy.TenantUpdate
	if err := json.Unmarshal([]byte(`{"default_policy_id":"pol_own"}`), &u); err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.directory.UpdateTenant(t.Context(), by("tnt_a"), "tnt_a", u); err != nil {
		t.Fatal(err)
	}
	if _, err := h.sets.Delete(t.Context(), by("tnt_a"), "pol_own"); !fault.Is(err, fault.Conflict) {
		t.Errorf("the tenant's default policy was deleted: %v", err)
	}
}

// Pages of any size hold each ruleset once, the default in its place; and there is an end to how many there may be.
func TestRulesets_List(t *testing.T) {
	h := newHouse(t)
	want := policy.MaxRulesets + 1
	for i := range policy.MaxRulesets {
		h.mustPut(t, policy.Ruleset{ID: fmt.Sprintf("po%c_%03d", 'k'+i%3, i)}) // before and after pol_default
	}
	if _, _, _, err := h.sets.Put(t.Context(), by("tnt_a"), policy.Ruleset{ID: "pol_more"}); !fault.Is(err, fault.Conflict) {
		t.Errorf("one more: %v", err)
	}
	for _, limit := range []int{1, 7, want - 1, want, want + 1} {
		seen, after := map[string]bool{}, ""
		for range want + 1 {
			list, next, _, err := h.sets.List(t.Context(), storage.Read{}, "tnt_a", after, limit)
			if err != nil || len(list) > limit {
				t.Fatalf("%d at once: %v", len(list), err)
			}
			for _, s := range list {
				if seen[s.ID] || s.ID <= after {
					t.Errorf("limit %d: %s after %s", limit, s.ID, after)
				}
				seen[s.ID] = true
			}
			if after = next; next == "" {
				break
			}
		}
		if len(seen) != want || !seen[policy.DefaultID] {
			t.Errorf("limit %d: %d rulesets, want %d", limit, len(seen), want)
		}
	}
}
