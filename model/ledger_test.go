package model_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/model"
	"github.com/nexixai/agentos/model/modeltest"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/mem"
	"github.com/nexixai/agentos/tenancy"
	"github.com/nexixai/agentos/tenancy/quota"
)

// house is a store with tenants, and a gateway whose direct calls are booked there.
type house struct {
	store  *mem.Store
	g      *model.Gateway
	tenant *tenancy.Tenant
}

func MustHouse(tb testing.TB, q tenancy.ModelQuotas) *house {
	tb.Helper()
	reg := storage.NewRegistry()
	directory := tenancy.Define(reg)
	commands := model.Define(reg)
	s := mem.New(mem.Options{Registry: reg})
	s.Start()
	tb.Cleanup(s.Close)
	d := tenancy.New(tenancy.Options{Store: s, Commands: directory})
	tb.Cleanup(d.Close)
	admin := tenancy.Actor{Auth: &tenancy.Auth{
		TenantID: "tnt_root", HomeTenantID: "tnt_root", Principal: tenancy.Principal{ID: "usr_admin", Type: tenancy.User},
		Roles: []tenancy.Role{tenancy.RolePlatformAdmin}, Scopes: tenancy.ScopesOf([]tenancy.Role{tenancy.RolePlatformAdmin}),
	}}
	t, _, _, err := d.CreateTenant(context.Background(), admin, tenancy.TenantCreate{ID: "tnt_books", TenantUpdate: tenancy.TenantUpdate{Name: tenancy.Some("books"), PlanTier: tenancy.Some("enterprise")}})
	if err != nil {
		tb.Fatal(err)
	}
	t, _, err = d.PutQuotas(context.Background(), admin, t.ID, tenancy.Quotas{Models: q})
	if err != nil {
		tb.Fatal(err)
	}
	return &house{store: s, tenant: t, g: modeltest.MustGateway(tb, model.Options{Budget: model.NewLedger(s, commands)})}
}

func (h *house) caller() model.Caller {
	c := modeltest.Caller()
	c.Tenant = h.tenant
	return c
}

// tokens returns what the tenant's token budget says.
func (h *house) tokens(tb testing.TB) (spent, reserved int64) {
	tb.Helper()
	err := h.store.View(context.Background(), storage.Read{}, func(r storage.Snapshot) error {
		budgets, err := quota.Budgets(r, h.tenant, time.Now())
		for _, b := range budgets {
			if b.Unit == "tokens" {
				spent, reserved = int64(b.Spent), int64(b.Reserved)
			}
		}
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return spent, reserved
}

func limit(n int64) *int64 { return &n }

func (h *house) want(t *testing.T, when string, spent int64) {
	t.Helper()
	if got, reserved := h.tokens(t); got != spent || reserved != 0 {
		t.Errorf("%s: %d tokens are spent and %d reserved, want %d and none", when, got, reserved, spent)
	}
}

// However many calls come at once, no more is spent than there is; what is answered is what is booked.
//
// Requirements: B6.
func TestLedger_Budget(t *testing.T) {
	t.Parallel()
	h := MustHouse(t, tenancy.ModelQuotas{TokenBudget: &tenancy.TokenBudget{Window: "day", MaxTokens: limit(50)}})
	type outcome struct {
		tokens int64
		err    error
	}
	done := make(chan outcome)
	for range 40 {
		go func() {
			req := modeltest.Say("/tokens 8")
			req.RequestID = "" // each is a call of its own
			got, err := h.g.Chat(context.Background(), h.caller(), req, nil)
			o := outcome{err: err}
			if err == nil {
				o.tokens = got.Usage.TotalTokens
			}
			done <- o
		}()
	}
	answered := int64(0)
	for range 40 {
		o := <-done
		if o.err != nil && !fault.Is(o.err, fault.QuotaExceeded) {
			t.Error(o.err)
		}
		answered += o.tokens
	}
	if answered == 0 || answered > 50 {
		t.Errorf("%d tokens were answered out of 50", answered)
	}
	h.want(t, "after all", answered)
}

// The same request under the same id is billed once, at once or one after the other; another one under that id, another
// principal's, or one without an id, is not the same.
//
// Requirements: B5.
func TestLedger_BilledOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := MustHouse(t, tenancy.ModelQuotas{TokenBudget: &tenancy.TokenBudget{Window: "month", MaxTokens: limit(1000)}})
		ask := func(requestID, text, principal string) {
			t.Helper()
			c := h.caller()
			auth := *c.Auth
			auth.Principal.ID = principal
			c.Auth = &auth
			req := modeltest.Say(text)
			req.RequestID = requestID
			if _, err := h.g.Chat(t.Context(), c, req, nil); err != nil {
				t.Error(err)
			}
		}
		done := make(chan struct{})
		for range 5 {
			go func() { ask("req_1", "/wait 1s\n/tokens 5", "svc_a"); done <- struct{}{} }()
		}
		for range 5 {
			<-done
		}
		h.want(t, "five at once", 9)
		ask("req_1", "/wait 1s\n/tokens 5", "svc_a")
		h.want(t, "and once more", 9)
		ask("req_1", "/tokens 5", "svc_a")
		h.want(t, "another text", 9+7)
		ask("req_1", "/tokens 5", "svc_b")
		h.want(t, "another principal", 9+14)
		ask("", "/tokens 5", "svc_a")
		ask("", "/tokens 5", "svc_a")
		h.want(t, "without an id", 9+28)
		time.Sleep(model.BilledOnce + time.Second) // of the bubble's clock
		ask("req_1", "/tokens 5", "svc_b")
		h.want(t, "after ten minutes", 9+35)
		if _, err := h.g.Embed(t.Context(), h.caller(), &model.EmbedRequest{RequestID: "req_e", Texts: []string{"a b c"}}); err != nil {
			t.Error(err)
		}
		if _, err := h.g.Embed(t.Context(), h.caller(), &model.EmbedRequest{RequestID: "req_e", Texts: []string{"a b c"}}); err != nil {
			t.Error(err)
		}
		h.want(t, "embeddings", 9+38)
		kept := 0
		err := h.store.View(t.Context(), storage.Read{}, func(r storage.Snapshot) error {
			return r.Scan(storage.Prefix("tenant/"+h.tenant.ID+"/billed/"), func(string, []byte) bool { kept++; return true })
		})
		if err != nil || kept > 2*3 {
			t.Errorf("%d records are kept of what was billed long ago, %v", kept, err)
		}
	})
}

// A call that fails costs nothing, and the same request afterwards is billed.
func TestLedger_Failure(t *testing.T) {
	t.Parallel()
	h := MustHouse(t, tenancy.ModelQuotas{TokenBudget: &tenancy.TokenBudget{Window: "day", MaxTokens: limit(100)}})
	for range 2 {
		if _, err := h.g.Chat(t.Context(), h.caller(), modeltest.Say("/error timeout"), nil); !fault.Is(err, fault.Timeout) {
			t.Fatal(err)
		}
	}
	h.want(t, "after failures", 0)
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	_, _ = h.g.Chat(ctx, h.caller(), modeltest.Say("/tokens 50"), func(model.Delta) error {
		if n++; n == 4 {
			cancel()
		}
		return nil
	})
	cancel()
	if spent, reserved := h.tokens(t); spent < 2+4 || spent > 2+6 || reserved != 0 {
		t.Errorf("a caller that left after 4 tokens: %d spent, %d reserved", spent, reserved)
	}
}

func TestLedger_RequestsPerMinute(t *testing.T) {
	t.Parallel()
	h := MustHouse(t, tenancy.ModelQuotas{MaxRequestsPerMinute: limit(3)})
	for i := range 5 {
		_, err := h.g.Chat(t.Context(), h.caller(), modeltest.Say("x"), nil)
		if (err != nil) != (i >= 3) || err != nil && (!fault.Is(err, fault.RateLimited) || fault.Of(err).RetryAfter <= 0) {
			t.Errorf("call %d: %v", i+1, err)
		}
	}
}
