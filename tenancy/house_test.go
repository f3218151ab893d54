package tenancy_test

import (
	"context"
	"testing"

	"go.uber.org/goleak"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/mem"
	"github.com/nexixai/agentos/tenancy"
	"github.com/nexixai/agentos/tenancy/audit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// house is a store with a directory on it, a platform admin and two tenants.
type house struct {
	testing.TB
	ctx   context.Context
	store *mem.Store
	cmds  *tenancy.Commands
	dir   *tenancy.Directory
	admin tenancy.Actor

	// do runs a function as a command.
	do storage.Call[func(storage.Tx) error, struct{}]
}

func newHouse(tb testing.TB) *house {
	tb.Helper()
	h := &house{TB: tb, ctx: tb.Context()}
	reg := storage.NewRegistry()
	h.cmds = tenancy.Define(reg)
	h.do = storage.Define(reg, "test.do", func(tx storage.Tx, f func(storage.Tx) error) (struct{}, error) {
		return struct{}{}, f(tx)
	})
	h.store = mem.New(mem.Options{Registry: reg})
	h.dir = tenancy.New(tenancy.Options{Store: h.store, Commands: h.cmds})
	h.store.Start()
	tb.Cleanup(func() {
		h.dir.Close()
		h.store.Close()
	})
	secret, hash := tenancy.NewSecret()
	created, _, err := h.dir.Bootstrap(h.ctx, tenancy.TenantCreate{ID: "tnt_a"}, tenancy.KeyCreate{PrincipalID: "svc_platform"}, hash)
	h.ok(err)
	if !created {
		tb.Fatal("bootstrap made nothing")
	}
	h.admin = tenancy.Actor{Auth: h.auth(secret), CorrelationID: "corr_test"}
	_, err = h.tenant("tnt_b")
	h.ok(err)
	return h
}

func (h *house) ok(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

func (h *house) refused(err error, code fault.Code) *fault.Error {
	h.Helper()
	if !fault.Is(err, code) {
		h.Fatalf("got %v, want %s", err, code)
	}
	return fault.Of(err)
}

func (h *house) tenant(id string) (*tenancy.Tenant, error) {
	t, _, _, err := h.dir.CreateTenant(h.ctx, h.admin, tenancy.TenantCreate{ID: id})
	return t, err
}

func (h *house) auth(secret string) *tenancy.Auth {
	h.Helper()
	a, err := h.dir.Authenticate(h.ctx, secret, tenancy.Source{IP: "192.0.2.1"})
	h.ok(err)
	return a
}

// key issues a key and returns it.
func (h *house) key(by tenancy.Actor, tenantID string, c tenancy.KeyCreate) *tenancy.IssuedKey {
	h.Helper()
	if c.PrincipalID == "" {
		c.PrincipalID = "usr_someone"
	}
	k, _, _, err := h.dir.IssueKey(h.ctx, by, tenantID, c)
	h.ok(err)
	return k
}

// actor issues a key of a role and returns who holds it.
func (h *house) actor(tenantID string, role tenancy.Role) tenancy.Actor {
	h.Helper()
	k := h.key(h.admin, tenantID, tenancy.KeyCreate{PrincipalID: "usr_" + string(role), Roles: []tenancy.Role{role}})
	return tenancy.Actor{Auth: h.auth(k.Secret), CorrelationID: "corr_test"}
}

func (h *house) run(f func(storage.Tx) error) error {
	_, _, err := h.do.Do(h.ctx, h.store, "", f)
	return err
}

func (h *house) view(f func(storage.Snapshot) error) {
	h.Helper()
	h.ok(h.store.View(h.ctx, storage.Read{}, f))
}

// actions returns what the chain of a tenant says was done.
func (h *house) actions(tenantID string) (actions []string) {
	h.Helper()
	h.view(func(s storage.Snapshot) error {
		records, _, err := audit.List(s, tenantID, audit.Filter{}, 500)
		for _, r := range records {
			actions = append(actions, r.Action)
		}
		if err != nil {
			return err
		}
		head, err := audit.ReadHead(s, tenantID)
		if err != nil {
			return err
		}
		_, err = audit.Verify(audit.Chain(s, tenantID), &head)
		return err
	})
	return actions
}

func ptr[T any](v T) *T { return &v }
