package tenancy_test

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
)

func TestDirectory_CreateTenant(t *testing.T) {
	h := newHouse(t)
	var c tenancy.TenantCreate
	h.ok(json.Unmarshal([]byte(`{"tenant_id":"tnt_demo","name":"Demo","plan_tier":"demo","status":"disabled",
		"quotas":{"runs":{"max_concurrent_runs":null,"run_create_qps":2.5},"tools":null},
		"entitlements":{"tool_ids_allowed":[]},"metadata":{"tags":["x"]}}`), &c))
	got, replayed, _, err := h.dir.CreateTenant(h.ctx, h.admin, c)
	h.ok(err)
	if replayed || got.CreatedAt.IsZero() || got.CreatedAt != got.UpdatedAt {
		t.Fatalf("got %+v", got)
	}
	want := &tenancy.Tenant{
		ID: "tnt_demo", Name: "Demo", Status: tenancy.Active, PlanTier: "demo", DefaultPolicyID: "pol_default",
		CreatedAt: got.CreatedAt, UpdatedAt: got.UpdatedAt,
		Entitlements: tenancy.Entitlements{
			ModelTiersAllowed: []string{"fast", "balanced"}, ModelBackendsAllowed: []string{"builtin", "openai", "ollama"}, ToolIDsAllowed: []string{},
		},
		Quotas: tenancy.Quotas{
			Runs:  tenancy.RunQuotas{RunCreateQPS: ptr(2.5), RunCreateBurst: ptr(int64(10))},
			Tools: tenancy.ToolQuotas{ToolCallsPerMinute: ptr(int64(120))},
			Models: tenancy.ModelQuotas{
				TokenBudget:         &tenancy.TokenBudget{Window: "day", MaxTokens: ptr(int64(100_000)), MaxCostUSD: ptr(25.0)},
				MaxTokensPerRequest: ptr(int64(4096)),
			},
			Storage: tenancy.StorageQuotas{MaxMemoryBytes: ptr(int64(1 << 30))},
		},
		Metadata: tenancy.TenantMetadata{Tags: []string{"x"}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Fatal(d)
	}
	kept, _, err := h.dir.ReadTenant(h.ctx, storage.Read{}, "tnt_demo")
	h.ok(err)
	if d := cmp.Diff(want, kept); d != "" {
		t.Fatal(d)
	}
	_, err = h.tenant("tnt_demo")
	h.refused(err, fault.Conflict)
	minted, err := h.tenant("")
	h.ok(err)
	if !strings.HasPrefix(minted.ID, "tnt_") {
		t.Fatalf("minted %q", minted.ID)
	}
}

func TestDirectory_TenantValidation(t *testing.T) {
	h := newHouse(t)
	q := func(change func(*tenancy.QuotasUpdate)) tenancy.TenantUpdate {
		var u tenancy.TenantUpdate
		change(&u.Quotas)
		return u
	}
	for field, u := range map[string]tenancy.TenantUpdate{
		"quotas.runs.max_concurrent_runs":       q(func(q *tenancy.QuotasUpdate) { q.Runs.MaxConcurrentRuns = tenancy.Some(ptr(int64(-1))) }),
		"quotas.runs.run_create_qps":            q(func(q *tenancy.QuotasUpdate) { q.Runs.RunCreateQPS = tenancy.Some(ptr(math.NaN())) }),
		"quotas.runs.run_create_burst":          q(func(q *tenancy.QuotasUpdate) { q.Runs.RunCreateBurst = tenancy.Some(ptr(int64(math.MinInt64))) }),
		"quotas.tools.tool_calls_per_minute":    q(func(q *tenancy.QuotasUpdate) { q.Tools.ToolCallsPerMinute = tenancy.Some(ptr(int64(-5))) }),
		"quotas.models.max_tokens_per_request":  q(func(q *tenancy.QuotasUpdate) { q.Models.MaxTokensPerRequest = tenancy.Some(ptr(int64(-5))) }),
		"quotas.models.max_requests_per_minute": q(func(q *tenancy.QuotasUpdate) { q.Models.MaxRequestsPerMinute = tenancy.Some(ptr(int64(-5))) }),
		"quotas.storage.max_memory_bytes":       q(func(q *tenancy.QuotasUpdate) { q.Storage.MaxMemoryBytes = tenancy.Some(ptr(int64(-5))) }),
		"quotas.models.token_budget.window": q(func(q *tenancy.QuotasUpdate) {
			q.Models.TokenBudget = tenancy.Some(&tenancy.TokenBudget{Window: "year"})
		}),
		"quotas.models.token_budget.max_tokens": q(func(q *tenancy.QuotasUpdate) {
			q.Models.TokenBudget = tenancy.Some(&tenancy.TokenBudget{Window: "day", MaxTokens: ptr(int64(-1))})
		}),
		"quotas.models.token_budget.max_cost_usd": q(func(q *tenancy.QuotasUpdate) {
			q.Models.TokenBudget = tenancy.Some(&tenancy.TokenBudget{Window: "day", MaxCostUSD: ptr(math.Inf(1))})
		}),
		"plan_tier":                           {PlanTier: tenancy.Some("gold")},
		"name":                                {Name: tenancy.Some("a\r\nb")},
		"default_policy_id":                   {DefaultPolicyID: tenancy.Some("a/b")},
		"metadata.tags[1]":                    {Metadata: tenancy.MetadataUpdate{Tags: tenancy.Some([]string{"a", "\x00"})}},
		"metadata.billing_account":            {Metadata: tenancy.MetadataUpdate{BillingAccount: tenancy.Some(strings.Repeat("x", 257))}},
		"entitlements.model_tiers_allowed[0]": {Entitlements: tenancy.EntitlementsUpdate{ModelTiersAllowed: tenancy.Some([]string{"Fast"})}},
		"entitlements.tool_ids_allowed[0]":    {Entitlements: tenancy.EntitlementsUpdate{ToolIDsAllowed: tenancy.Some([]string{"tool."})}},
	} {
		t.Run(field, func(t *testing.T) {
			before := h.store.Status().Applied
			_, _, err := h.dir.UpdateTenant(h.ctx, h.admin, "tnt_b", u)
			if f := h.refused(err, fault.InvalidRequest); f.Details["field"] != "tenant_update."+field {
				t.Errorf("update: field %v", f.Details["field"])
			}
			_, _, _, err = h.dir.CreateTenant(h.ctx, h.admin, tenancy.TenantCreate{ID: "tnt_new", TenantUpdate: u})
			if f := h.refused(err, fault.InvalidRequest); f.Details["field"] != "tenant_create."+field {
				t.Errorf("create: field %v", f.Details["field"])
			}
			if h.store.Status().Applied != before {
				t.Error("a refused change changed something")
			}
		})
	}
	_, _, err := h.dir.PutQuotas(h.ctx, h.admin, "tnt_b", tenancy.Quotas{Runs: tenancy.RunQuotas{RunCreateQPS: ptr(math.Inf(-1))}})
	if f := h.refused(err, fault.InvalidRequest); f.Details["field"] != "quota_config.runs.run_create_qps" {
		t.Fatalf("field %v", f.Details["field"])
	}
	for _, id := range []string{"a/b", "..", "tnt ", "tnt_\u0430", strings.Repeat("x", 129)} {
		_, err := h.tenant(id)
		h.refused(err, fault.InvalidRequest)
	}
}

func TestDirectory_UpdateTenant(t *testing.T) {
	h := newHouse(t)
	before, _, err := h.dir.ReadTenant(h.ctx, storage.Read{}, "tnt_b")
	h.ok(err)
	u := tenancy.TenantUpdate{Name: tenancy.Some("B")}
	u.Quotas.Runs.MaxConcurrentRuns = tenancy.Some[*int64](nil)
	u.Entitlements.ToolIDsAllowed = tenancy.Some[[]string](nil)
	after, _, err := h.dir.UpdateTenant(h.ctx, h.admin, "tnt_b", u)
	h.ok(err)
	want := *before
	want.Name, want.UpdatedAt = "B", after.UpdatedAt
	want.Quotas.Runs.MaxConcurrentRuns, want.Entitlements.ToolIDsAllowed = nil, nil
	if d := cmp.Diff(&want, after); d != "" {
		t.Fatal(d)
	}
	cached, err := h.dir.Tenant(h.ctx, "tnt_b")
	h.ok(err)
	if d := cmp.Diff(after, cached); d != "" {
		t.Fatal(d)
	}
	put, _, err := h.dir.PutQuotas(h.ctx, h.admin, "tnt_b", tenancy.Quotas{})
	h.ok(err)
	if d := cmp.Diff(tenancy.Quotas{}, put.Quotas); d != "" {
		t.Fatal(d)
	}
	_, _, err = h.dir.UpdateTenant(h.ctx, h.admin, "tnt_none", u)
	h.refused(err, fault.NotFound)
	if got := h.actions("tnt_b"); !slices.Equal(got, []string{"tenant.create", "tenant.update", "tenant.quotas"}) {
		t.Fatalf("chain: %v", got)
	}
}

// Who may do what to whom: another tenant's is not there, one's own without the right is forbidden.
//
// Requirements: T2, T3.
func TestDirectory_Rights(t *testing.T) {
	h := newHouse(t)
	admin, user := h.actor("tnt_a", tenancy.RoleTenantAdmin), h.actor("tnt_a", tenancy.RoleTenantUser)
	acts := map[string]func(by tenancy.Actor, tenantID string) error{
		"rename": func(by tenancy.Actor, id string) error {
			_, _, err := h.dir.UpdateTenant(h.ctx, by, id, tenancy.TenantUpdate{Name: tenancy.Some("x")})
			return err
		},
		"issue": func(by tenancy.Actor, id string) error {
			_, _, _, err := h.dir.IssueKey(h.ctx, by, id, tenancy.KeyCreate{PrincipalID: "svc_x"})
			return err
		},
		"rotate": func(by tenancy.Actor, id string) error {
			k := h.key(h.admin, id, tenancy.KeyCreate{})
			_, _, _, err := h.dir.RotateKey(h.ctx, by, id, k.ID, 0)
			return err
		},
		"revoke": func(by tenancy.Actor, id string) error {
			k := h.key(h.admin, id, tenancy.KeyCreate{})
			_, err := h.dir.RevokeKey(h.ctx, by, id, k.ID)
			return err
		},
		"raise quotas": func(by tenancy.Actor, id string) error {
			_, _, err := h.dir.PutQuotas(h.ctx, by, id, tenancy.Quotas{})
			return err
		},
		"raise one quota": func(by tenancy.Actor, id string) error {
			u := tenancy.TenantUpdate{}
			u.Quotas.Runs.RunCreateBurst = tenancy.Some(ptr(int64(1 << 40)))
			_, _, err := h.dir.UpdateTenant(h.ctx, by, id, u)
			return err
		},
		"entitle": func(by tenancy.Actor, id string) error {
			u := tenancy.TenantUpdate{}
			u.Entitlements.ToolIDsAllowed = tenancy.Some([]string{"tool.x"})
			_, _, err := h.dir.UpdateTenant(h.ctx, by, id, u)
			return err
		},
		"enable": func(by tenancy.Actor, id string) error {
			_, _, _, err := h.dir.SetTenantStatus(h.ctx, by, id, tenancy.Active)
			return err
		},
		"create": func(by tenancy.Actor, id string) error {
			_, _, _, err := h.dir.CreateTenant(h.ctx, by, tenancy.TenantCreate{})
			return err
		},
	}
	platformOnly := []string{"raise quotas", "raise one quota", "entitle", "enable", "create"}
	for name, act := range acts {
		t.Run(name, func(t *testing.T) {
			h.ok(act(h.admin, "tnt_b"))
			h.refused(act(user, "tnt_a"), fault.Forbidden)
			if err := act(tenancy.Actor{}, "tnt_a"); err == nil {
				t.Error("nobody may")
			}
			if slices.Contains(platformOnly, name) {
				h.refused(act(admin, "tnt_a"), fault.Forbidden)
			} else {
				h.ok(act(admin, "tnt_a"))
			}
			if name == "create" {
				return
			}
			other := h.refused(act(admin, "tnt_b"), fault.NotFound)
			none := h.refused(func() error {
				_, _, err := h.dir.UpdateTenant(h.ctx, admin, "tnt_none", tenancy.TenantUpdate{})
				return err
			}(), fault.NotFound)
			if d := cmp.Diff(none.Message, other.Message); d != "" {
				t.Error(d)
			}
		})
	}
}

// A key gives nothing that its issuer hasn't got, and nobody gets at the rights of a key by rotating it.
//
// Requirements: T3.
func TestDirectory_NoEscalation(t *testing.T) {
	h := newHouse(t)
	admin := h.actor("tnt_a", tenancy.RoleTenantAdmin)
	narrow := h.key(h.admin, "tnt_a", tenancy.KeyCreate{
		Roles: []tenancy.Role{tenancy.RoleTenantAdmin}, Scopes: []tenancy.Scope{tenancy.TenantsAdmin, tenancy.RunsRead},
		PolicyContext: tenancy.PolicyContext{DataClassification: "confidential", Region: "eu"},
	})
	narrowed := tenancy.Actor{Auth: h.auth(narrow.Secret)}
	issue := func(by tenancy.Actor, c tenancy.KeyCreate) (*tenancy.IssuedKey, error) {
		c.PrincipalID = "svc_x"
		k, _, _, err := h.dir.IssueKey(h.ctx, by, "tnt_a", c)
		return k, err
	}
	platform := []tenancy.Role{tenancy.RolePlatformAdmin}
	for name, try := range map[string]struct {
		by tenancy.Actor
		c  tenancy.KeyCreate
	}{
		"platform admin":             {admin, tenancy.KeyCreate{Roles: platform}},
		"platform admin, few scopes": {admin, tenancy.KeyCreate{Roles: platform, Scopes: []tenancy.Scope{tenancy.RunsRead}}},
		"more scopes":                {narrowed, tenancy.KeyCreate{}},
		"another region":             {narrowed, tenancy.KeyCreate{Scopes: []tenancy.Scope{tenancy.RunsRead}, PolicyContext: tenancy.PolicyContext{Region: "us"}}},
		"a lower class":              {narrowed, tenancy.KeyCreate{Scopes: []tenancy.Scope{tenancy.RunsRead}, PolicyContext: tenancy.PolicyContext{DataClassification: "public"}}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := issue(try.by, try.c)
			h.refused(err, fault.Forbidden)
		})
	}
	k, err := issue(narrowed, tenancy.KeyCreate{Scopes: []tenancy.Scope{tenancy.RunsRead}})
	h.ok(err)
	if k.PolicyContext.Region != "eu" || k.PolicyContext.DataClassification != "confidential" {
		t.Fatalf("policy context got lost: %+v", k.PolicyContext)
	}
	_, err = issue(admin, tenancy.KeyCreate{Scopes: []tenancy.Scope{tenancy.AgentsWrite}}) // not the role's
	h.refused(err, fault.InvalidRequest)

	root := h.key(h.admin, "tnt_a", tenancy.KeyCreate{Roles: platform})
	_, _, _, err = h.dir.RotateKey(h.ctx, admin, "tnt_a", root.ID, 0)
	h.refused(err, fault.Forbidden)
	_, err = h.dir.RevokeKey(h.ctx, admin, "tnt_a", root.ID)
	h.refused(err, fault.Forbidden)
	h.auth(root.Secret)
}

func TestDirectory_Idempotency(t *testing.T) {
	h := newHouse(t)
	by := h.admin
	by.Idem = &tenancy.Idempotency{Operation: "POST /v1/admin/tenants/tnt_b/keys", Key: "once"}
	c := tenancy.KeyCreate{PrincipalID: "svc_x"}
	first, replayed, _, err := h.dir.IssueKey(h.ctx, by, "tnt_b", c)
	h.ok(err)
	if replayed || first.Secret == "" {
		t.Fatalf("first: replayed %v", replayed)
	}
	again, replayed, _, err := h.dir.IssueKey(h.ctx, by, "tnt_b", c)
	h.ok(err)
	if !replayed || again.Secret != "" {
		t.Fatalf("replay: replayed %v, secret of %d bytes", replayed, len(again.Secret))
	}
	if d := cmp.Diff(first.Key, again.Key); d != "" {
		t.Fatal(d)
	}
	c.PrincipalID = "svc_y"
	_, _, _, err = h.dir.IssueKey(h.ctx, by, "tnt_b", c)
	h.refused(err, fault.Conflict)
	keys, _, _, err := h.dir.ListKeys(h.ctx, storage.Read{}, "tnt_b", "", 10)
	h.ok(err)
	if len(keys) != 1 {
		t.Fatalf("%d keys", len(keys))
	}
	by.Idem = &tenancy.Idempotency{Operation: "x", Key: strings.Repeat("k", 257)}
	_, _, _, err = h.dir.IssueKey(h.ctx, by, "tnt_b", c)
	h.refused(err, fault.InvalidRequest)
}

func TestDirectory_Lists(t *testing.T) {
	h := newHouse(t)
	for _, id := range []string{"tnt_c", "tnt_d", "tnt_e"} {
		_, err := h.tenant(id)
		h.ok(err)
	}
	var ids []string
	for cursor := ""; ; {
		page, next, _, err := h.dir.ListTenants(h.ctx, storage.Read{}, cursor, 2)
		h.ok(err)
		for _, t := range page {
			ids = append(ids, t.ID)
		}
		if next == "" {
			break
		}
		cursor = next
	}
	if want := []string{"tnt_a", "tnt_b", "tnt_c", "tnt_d", "tnt_e"}; !slices.Equal(ids, want) {
		t.Fatalf("got %v", ids)
	}
	_, _, _, err := h.dir.ListTenants(h.ctx, storage.Read{}, "a/b", 2)
	h.refused(err, fault.InvalidRequest)
	h.key(h.admin, "tnt_c", tenancy.KeyCreate{})
	keys, next, _, err := h.dir.ListKeys(h.ctx, storage.Read{}, "tnt_c", "", 1)
	h.ok(err)
	if len(keys) != 1 || next != "" || keys[0].TenantID != "tnt_c" {
		t.Fatalf("got %+v, %q", keys, next)
	}
}

func TestScopesOf(t *testing.T) {
	for role, want := range map[tenancy.Role]int{
		tenancy.RolePlatformAdmin: 18, tenancy.RoleTenantAdmin: 17, tenancy.RoleTenantUser: 13, tenancy.RoleTenantService: 13, "root": 0,
	} {
		got := tenancy.ScopesOf([]tenancy.Role{role})
		if len(got) != want {
			t.Errorf("%s: %v", role, got)
		}
		if slices.Contains(got, tenancy.PlatformAdmin) != (role == tenancy.RolePlatformAdmin) {
			t.Errorf("%s: %v", role, got)
		}
	}
}

func TestPolicyContext_Tighten(t *testing.T) {
	have := tenancy.PolicyContext{DataClassification: "internal", Region: "eu", ConsentTags: []string{"a", "b"}}
	got, err := have.Tighten(tenancy.PolicyContext{DataClassification: "restricted", Purpose: "support", ConsentTags: []string{"b"}}, "policy_context")
	if err != nil {
		t.Fatal(err)
	}
	want := tenancy.PolicyContext{DataClassification: "restricted", Region: "eu", Purpose: "support", ConsentTags: []string{"b"}}
	if d := cmp.Diff(want, got); d != "" {
		t.Fatal(d)
	}
	for field, wider := range map[string]tenancy.PolicyContext{
		"data_classification": {DataClassification: "public"}, "region": {Region: "us"}, "consent_tags": {ConsentTags: []string{"c"}},
	} {
		_, err := have.Tighten(wider, "policy_context")
		if f := fault.Of(err); !fault.Is(err, fault.Forbidden) || f.Details["field"] != "policy_context."+field {
			t.Errorf("%s: %v", field, err)
		}
	}
	if _, err := have.Tighten(tenancy.PolicyContext{DataClassification: "Secret"}, "x"); !fault.Is(err, fault.InvalidRequest) {
		t.Errorf("got %v", err)
	}
}

func TestOnce(t *testing.T) {
	h := newHouse(t)
	calls := 0
	once := func(tenantID string, i *tenancy.Idempotency) (got int, replayed bool, err error) {
		err = h.run(func(tx storage.Tx) error {
			got, replayed, err = tenancy.Once(tx, tenantID, i, func() (int, error) {
				calls++
				return calls, nil
			})
			return err
		})
		return got, replayed, err
	}
	base := tenancy.Idempotency{Principal: "p", Operation: "POST /x", Key: "k", RequestHash: "1"}
	vary := func(change func(*tenancy.Idempotency)) *tenancy.Idempotency { i := base; change(&i); return &i }
	for n, step := range []struct {
		tenant   string
		i        *tenancy.Idempotency
		want     int
		replayed bool
	}{
		{"tnt_a", &base, 1, false},
		{"tnt_a", &base, 1, true},
		{"tnt_b", &base, 2, false},
		{"tnt_a", vary(func(i *tenancy.Idempotency) { i.Principal = "q" }), 3, false},
		{"tnt_a", vary(func(i *tenancy.Idempotency) { i.Operation = "POST /y" }), 4, false},
		{"tnt_a", vary(func(i *tenancy.Idempotency) { i.Key = "l" }), 5, false},
		{"tnt_a", vary(func(i *tenancy.Idempotency) { i.Principal, i.Operation = "pP", "OST /x" }), 6, false},
		{"tnt_a", nil, 7, false},
		{"tnt_a", nil, 8, false},
		{"tnt_a", &base, 1, true},
	} {
		got, replayed, err := once(step.tenant, step.i)
		if h.ok(err); got != step.want || replayed != step.replayed {
			t.Fatalf("step %d: %d, replayed %v", n, got, replayed)
		}
	}
	_, _, err := once("tnt_a", vary(func(i *tenancy.Idempotency) { i.RequestHash = "2" }))
	h.refused(err, fault.Conflict)

	failing := vary(func(i *tenancy.Idempotency) { i.Key = "fails" })
	err = h.run(func(tx storage.Tx) error {
		_, _, err := tenancy.Once(tx, "tnt_a", failing, func() (int, error) { return 0, fault.New(fault.RateLimited, "later") })
		return err
	})
	h.refused(err, fault.RateLimited)
	if _, replayed, err := once("tnt_a", failing); err != nil || replayed {
		t.Fatalf("what was refused was kept: %v, %v", replayed, err)
	}
}

func TestCommands_Tenant(t *testing.T) {
	h := newHouse(t)
	read := func() (t *tenancy.Tenant) {
		h.view(func(s storage.Snapshot) (err error) {
			t, err = h.cmds.Tenant(s, "tnt_b")
			return err
		})
		return t
	}
	first := read()
	if read() != first {
		t.Fatal("an unchanged tenant was decoded twice")
	}
	_, _, err := h.dir.UpdateTenant(h.ctx, h.admin, "tnt_b", tenancy.TenantUpdate{Name: tenancy.Some("B")})
	h.ok(err)
	if got := read(); got == first || got.Name != "B" {
		t.Fatalf("got %+v", got)
	}
	h.view(func(s storage.Snapshot) error {
		_, err := h.cmds.Tenant(s, "tnt_none")
		h.refused(err, fault.NotFound)
		return nil
	})
}
