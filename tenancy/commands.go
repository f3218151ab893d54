package tenancy

import (
	"bytes"
	"sync"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
)

// Commands are the changes that this room makes to the store.
type Commands struct {
	createTenant storage.Call[createTenant, done[*Tenant]]
	updateTenant storage.Call[updateTenant, *Tenant]
	putQuotas    storage.Call[putQuotas, *Tenant]
	setStatus    storage.Call[setStatus, done[*Tenant]]
	issueKey     storage.Call[issueKey, done[Key]]
	rotateKey    storage.Call[rotateKey, done[Key]]
	revokeKey    storage.Call[revokeKey, struct{}]
	bootstrap    storage.Call[Seed, bool]
	ensureTenant storage.Call[ensureTenant, bool]
	ensureKey    storage.Call[ensureKey, bool]

	mu   sync.Mutex
	memo map[string]memo
}

// Define adds the room's commands to reg.
func Define(reg *storage.Registry) *Commands {
	return &Commands{
		createTenant: storage.Define(reg, "tenancy.tenant.create", evalCreateTenant),
		updateTenant: storage.Define(reg, "tenancy.tenant.update", evalUpdateTenant),
		putQuotas:    storage.Define(reg, "tenancy.tenant.quotas", evalPutQuotas),
		setStatus:    storage.Define(reg, "tenancy.tenant.status", evalSetStatus),
		issueKey:     storage.Define(reg, "tenancy.key.issue", evalIssueKey),
		rotateKey:    storage.Define(reg, "tenancy.key.rotate", evalRotateKey),
		revokeKey:    storage.Define(reg, "tenancy.key.revoke", evalRevokeKey),
		bootstrap:    storage.Define(reg, "tenancy.bootstrap", evalBootstrap),
		ensureTenant: storage.Define(reg, "tenancy.tenant.ensure", evalEnsureTenant),
		ensureKey:    storage.Define(reg, "tenancy.key.ensure", evalEnsureKey),
		memo:         make(map[string]memo),
	}
}

// memo is a tenant as it was decoded from raw.
type memo struct {
	raw    []byte
	tenant *Tenant
}

// maxMemo bounds how many decoded tenants are remembered.
const maxMemo = 10_000

// Tenant is GetTenant for hot paths: it decodes the record only when it has changed since the last call, whatever state r
// shows. The tenant is shared, and never to be changed.
func (c *Commands) Tenant(r storage.Reader, tenantID string) (*Tenant, error) {
	raw, err := r.Get(tenantKeys + tenantID)
	if err != nil {
		return nil, err
	}
	if raw == nil {
		return nil, noTenant()
	}
	c.mu.Lock()
	m, ok := c.memo[tenantID]
	c.mu.Unlock()
	if ok && bytes.Equal(m.raw, raw) {
		return m.tenant, nil
	}
	t, err := decodeTenant(raw)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.memo) >= maxMemo {
		clear(c.memo)
	}
	c.memo[tenantID] = memo{raw: bytes.Clone(raw), tenant: t}
	return t, nil
}

// actor is who caused a command, for the record.
type actor struct {
	TenantID      string       `json:"tenant_id"` // the scope of Idem
	Principal     string       `json:"principal"`
	CorrelationID string       `json:"correlation_id"`
	Idem          *Idempotency `json:"idem,omitempty"`
}

// done is the answer of a command that may have been done before.
type done[T any] struct {
	Value    T    `json:"value"`
	Replayed bool `json:"replayed"`
}

func (a *actor) record(tx storage.Tx, tenantID, action, resource string, details map[string]any) error {
	_, err := AppendAudit(tx, AuditRecord{
		TenantID: tenantID, Principal: a.Principal, Action: action, Resource: resource, Outcome: "ok",
		CorrelationID: a.CorrelationID, Details: details,
	})
	return err
}

// once does a request under its idempotency key.
func once[T any](tx storage.Tx, a *actor, do func() (T, error)) (done[T], error) {
	v, replayed, err := Once(tx, a.TenantID, a.Idem, do)
	return done[T]{Value: v, Replayed: replayed}, err
}

type createTenant struct {
	By     actor   `json:"by"`
	Tenant *Tenant `json:"tenant"`
}

func evalCreateTenant(tx storage.Tx, c createTenant) (done[*Tenant], error) {
	return once(tx, &c.By, func() (*Tenant, error) { return addTenant(tx, &c.By, *c.Tenant) })
}

func addTenant(tx storage.Tx, by *actor, t Tenant) (*Tenant, error) {
	if raw, err := tx.Get(tenantKeys + t.ID); err != nil {
		return nil, err
	} else if raw != nil {
		return nil, fault.New(fault.Conflict, "There is a tenant of this id already; choose another, or change that one.").With("field", "tenant_create.tenant_id")
	}
	t.Status, t.CreatedAt, t.UpdatedAt = Active, tx.Now(), tx.Now()
	if t.Metadata.Tags == nil {
		t.Metadata.Tags = []string{}
	}
	if err := putTenant(tx, &t); err != nil {
		return nil, err
	}
	return &t, by.record(tx, t.ID, "tenant.create", "tenant/"+t.ID, map[string]any{"plan_tier": t.PlanTier})
}

type updateTenant struct {
	By       actor        `json:"by"`
	TenantID string       `json:"tenant_id"`
	Update   TenantUpdate `json:"update"`
}

func evalUpdateTenant(tx storage.Tx, c updateTenant) (*Tenant, error) {
	return changeTenant(tx, &c.By, c.TenantID, "tenant.update", func(t *Tenant) error {
		c.Update.apply(t)
		return t.validate("tenant_update.")
	})
}

type putQuotas struct {
	By       actor  `json:"by"`
	TenantID string `json:"tenant_id"`
	Quotas   Quotas `json:"quotas"`
}

func evalPutQuotas(tx storage.Tx, c putQuotas) (*Tenant, error) {
	return changeTenant(tx, &c.By, c.TenantID, "tenant.quotas", func(t *Tenant) error {
		t.Quotas = c.Quotas
		return nil
	})
}

type setStatus struct {
	By       actor        `json:"by"`
	TenantID string       `json:"tenant_id"`
	Status   TenantStatus `json:"status"`
}

func evalSetStatus(tx storage.Tx, c setStatus) (done[*Tenant], error) {
	action := "tenant.enable"
	if c.Status == Disabled {
		action = "tenant.disable"
	}
	return once(tx, &c.By, func() (*Tenant, error) {
		return changeTenant(tx, &c.By, c.TenantID, action, func(t *Tenant) error {
			t.Status = c.Status
			return nil
		})
	})
}

func changeTenant(tx storage.Tx, by *actor, tenantID, action string, change func(*Tenant) error) (*Tenant, error) {
	t, err := GetTenant(tx, tenantID)
	if err != nil {
		return nil, err
	}
	if err := change(t); err != nil {
		return nil, err
	}
	t.UpdatedAt = tx.Now()
	if err := putTenant(tx, t); err != nil {
		return nil, err
	}
	return t, by.record(tx, tenantID, action, "tenant/"+tenantID, nil)
}

type issueKey struct {
	By   actor  `json:"by"`
	Key  Key    `json:"key"`
	Hash string `json:"hash"`
}

func evalIssueKey(tx storage.Tx, c issueKey) (done[Key], error) {
	return once(tx, &c.By, func() (Key, error) {
		if _, err := GetTenant(tx, c.Key.TenantID); err != nil {
			return Key{}, err
		}
		return addKey(tx, &c.By, c.Key, c.Hash)
	})
}

func addKey(tx storage.Tx, by *actor, key Key, hash string) (Key, error) {
	key.CreatedAt = tx.Now()
	if key.ExpiresAt != nil && !key.ExpiresAt.After(key.CreatedAt) {
		return Key{}, fault.Invalid("expires_at", "The key would have expired before it was issued.")
	}
	k := keyRecord{Key: key, Secrets: []secretRecord{{Hash: hash}}}
	if err := k.write(tx); err != nil {
		return Key{}, err
	}
	return key, by.record(tx, key.TenantID, "key.issue", "key/"+key.ID, map[string]any{
		"principal_id": key.PrincipalID, "roles": key.Roles, "scopes": key.Scopes,
	})
}

type rotateKey struct {
	By       actor  `json:"by"`
	TenantID string `json:"tenant_id"`
	KeyID    string `json:"key_id"`
	Hash     string `json:"hash"`
	Overlap  int64  `json:"overlap"` // nanoseconds
	// Scopes are the asker's.
	Scopes []Scope `json:"scopes"`
}
