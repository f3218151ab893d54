package tenancy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/storage"
)

// Actor is who asks for a change, and under which idempotency key.
type Actor struct {
	Auth          *Auth
	CorrelationID string
	// Idem is the request's idempotency key, or nil. What it leaves empty of Principal and RequestHash is filled in.
	Idem *Idempotency
}

// act turns by into what a command is told. request is what is hashed: the request as it was decoded and defaulted, without
// what was minted for it.
func (by Actor) act(request ...any) (actor, error) {
	a := actor{TenantID: by.Auth.TenantID, Principal: by.Auth.Principal.ID, CorrelationID: by.CorrelationID}
	if by.Idem == nil {
		return a, nil
	}
	i := *by.Idem
	if i.Key == "" || len(i.Key) > MaxIdempotencyKey {
		return a, fault.Invalid("idempotency_key", "An idempotency key has 1 to %d bytes.", MaxIdempotencyKey)
	}
	if i.Principal == "" {
		i.Principal = a.Principal
	}
	if i.RequestHash == "" {
		raw, err := json.Marshal(request)
		if err != nil {
			return a, fmt.Errorf("tenancy: hash request: %w", err)
		}
		sum := sha256.Sum256(raw)
		i.RequestHash = hex.EncodeToString(sum[:])
	}
	a.Idem = &i
	return a, nil
}

// CreateTenant makes a tenant; only a platform admin may. fault.Conflict: its id is taken.
func (d *Directory) CreateTenant(ctx context.Context, by Actor, c TenantCreate) (t *Tenant, replayed bool, index uint64, err error) {
	if err := by.Auth.platform(); err != nil {
		return nil, false, 0, err
	}
	a, err := by.act("tenant.create", c)
	if err != nil {
		return nil, false, 0, err
	}
	if t, err = newTenant(c); err != nil {
		return nil, false, 0, err
	}
	r, index, err := d.cmds.createTenant.Do(ctx, d.store, id.New(id.Command), createTenant{By: a, Tenant: t})
	return r.Value, r.Replayed, index, err
}

func newTenant(c TenantCreate) (*Tenant, error) {
	if c.ID == "" {
		c.ID = id.New(id.Tenant)
	}
	t := c.tenant()
	return t, t.validate("tenant_create.")
}

// UpdateTenant changes what u holds of a tenant. A tenant's own admin may change its name, its default policy and its
// metadata; what the tenant may use, and how much, is the platform admin's to say.
func (d *Directory) UpdateTenant(ctx context.Context, by Actor, tenantID string, u TenantUpdate) (*Tenant, uint64, error) {
	if err := by.Auth.Administers(tenantID); err != nil {
		return nil, 0, err
	}
	if !u.own() {
		if err := by.Auth.platform(); err != nil {
			return nil, 0, err
		}
	}
	a, err := by.act("tenant.update", tenantID, u)
	if err != nil {
		return nil, 0, err
	}
	return d.cmds.updateTenant.Do(ctx, d.store, id.New(id.Command), updateTenant{By: a, TenantID: tenantID, Update: u})
}

// PutQuotas replaces the quotas of a tenant; only a platform admin may.
func (d *Directory) PutQuotas(ctx context.Context, by Actor, tenantID string, q Quotas) (*Tenant, uint64, error) {
	if err := by.Auth.Administers(tenantID); err != nil {
		return nil, 0, err
	}
	if err := by.Auth.platform(); err != nil {
		return nil, 0, err
	}
	if err := q.validate("quota_config."); err != nil {
		return nil, 0, err
	}
	a, err := by.act("tenant.quotas", tenantID, q)
	if err != nil {
		return nil, 0, err
	}
	return d.cmds.putQuotas.Do(ctx, d.store, id.New(id.Command), putQuotas{By: a, TenantID: tenantID, Quotas: q})
}

// SetTenantStatus enables or disables a tenant; only a platform admin may. Its keys are refused from then on, at every node.
func (d *Directory) SetTenantStatus(ctx context.Context, by Actor, tenantID string, s TenantStatus) (t *Tenant, replayed bool, index uint64, err error) {
	if err := by.Auth.Administers(tenantID); err != nil {
		return nil, false, 0, err
	}
	if err := by.Auth.platform(); err != nil {
		return nil, false, 0, err
	}
	if s != Active && s != Disabled {
		return nil, false, 0, fault.Invalid("status", "A tenant is active or disabled.")
	}
	a, err := by.act("tenant.status", tenantID, s)
	if err != nil {
		return nil, false, 0, err
	}
	r, index, err := d.cmds.setStatus.Do(ctx, d.store, id.New(id.Command), setStatus{By: a, TenantID: tenantID, Status: s})
	return r.Value, r.Replayed, index, err
}

// IssueKey makes a key in a tenant. It gives nothing that its issuer hasn't got. In a replay the secret is "".
func (d *Directory) IssueKey(ctx context.Context, by Actor, tenantID string, c KeyCreate) (k *IssuedKey, replayed bool, index uint64, err error) {
	if err := by.Auth.Administers(tenantID); err != nil {
		return nil, false, 0, err
	}
	key, err := c.key(tenantID, id.New(id.Key))
	if err == nil {
		err = key.withinRightsOf(by.Auth)
	}
	if err != nil {
		return nil, false, 0, err
	}
	asked := key
	asked.ID = ""
	a, err := by.act("key.issue", asked)
	if err != nil {
		return nil, false, 0, err
	}
	secret, hash := NewSecret()
	r, index, err := d.cmds.issueKey.Do(ctx, d.store, id.New(id.Command), issueKey{By: a, Key: key, Hash: hash})
	return issued(r, secret), r.Replayed, index, err
}

func issued(r done[Key], secret string) *IssuedKey {
	if r.Replayed {
		secret = ""
	}
	return &IssuedKey{Key: r.Value, Secret: secret}
}

// RotateKey gives a key a new secret. The one it had lives on for overlap, and no longer than 30 days.
func (d *Directory) RotateKey(ctx context.Context, by Actor, tenantID, keyID string, overlap time.Duration) (k *IssuedKey, replayed bool, index uint64, err error) {
	if err := by.Auth.Administers(tenantID); err != nil {
		return nil, false, 0, err
	}
	if overlap < 0 || overlap > maxOverlap {
		return nil, false, 0, fault.Invalid("overlap_seconds", "The old secret can live on for 0 seconds to 30 days.")
	}
	a, err := by.act("key.rotate", tenantID, keyID, overlap)
	if err != nil {
		return nil, false, 0, err
	}
	secret, hash := NewSecret()
	r, index, err := d.cmds.rotateKey.Do(ctx, d.store, id.New(id.Command), rotateKey{
		By: a, TenantID: tenantID, KeyID: keyID, Hash: hash, Overlap: int64(overlap), Scopes: by.Auth.Scopes,
	})
	return issued(r, secret), r.Replayed, index, err
}

// RevokeKey ends a key and all its secrets.
func (d *Directory) RevokeKey(ctx context.Context, by Actor, tenantID, keyID string) (uint64, error) {
	if err := by.Auth.Administers(tenantID); err != nil {
		return 0, err
	}
	a, err := by.act("key.revoke", tenantID, keyID)
	if err != nil {
		return 0, err
	}
	_, index, err := d.cmds.revokeKey.Do(ctx, d.store, id.New(id.Command), revokeKey{
		By: a, TenantID: tenantID, KeyID: keyID, Scopes: by.Auth.Scopes,
	})
	return index, err
}

// ReadTenant reads a tenant as r demands, not from memory.
func (d *Directory) ReadTenant(ctx context.Context, r storage.Read, tenantID string) (t *Tenant, index uint64, err error) {
	err = storage.Find(ctx, d.store, r, func(s storage.Snapshot) error {
		index = s.Index()
		t, err = GetTenant(s, tenantID)
		return err
	})
	return t, index, err
}

// ListTenants returns tenants by id, after cursor, at most limit; next is "" at the end. It's the door's to ask whether the
// caller is a platform admin.
func (d *Directory) ListTenants(ctx context.Context, r storage.Read, cursor string, limit int) (list []Tenant, next string, index uint64, err error) {
	list = []Tenant{}
	next, index, err = d.list(ctx, r, tenantKeys, cursor, limit, func(raw []byte) error {
		t, err := decodeTenant(raw)
		if err == nil {
			list = append(list, *t)
		}
		return err
	})
	return list, next, index, err
}

// ListKeys returns the keys of a tenant by id, after cursor, at most limit, without anything of their secrets; next is "" at
// the end.
func (d *Directory) ListKeys(ctx context.Context, r storage.Read, tenantID, cursor string, limit int) (list []Key, next string, index uint64, err error) {
	list = []Key{}
	next, index, err = d.list(ctx, r, keyPlace(tenantID, ""), cursor, limit, func(raw []byte) error {
		var k keyRecord
		err := json.Unmarshal(raw, &k)
		list = append(list, k.Key)
		return err
	})
	return list, next, index, err
}

// list reads one page of what lies under prefix. A cursor is the last name of the page before.
func (d *Directory) list(ctx context.Context, r storage.Read, prefix, cursor string, limit int, add func([]byte) error) (next string, index uint64, err error) {
	if limit <= 0 {
		limit = 50
	}
	span := storage.Prefix(prefix)
	if cursor != "" {
		if !id.Valid(cursor) {
			return "", 0, fault.Invalid("cursor", "The cursor isn't one of this list; begin anew without it.")
		}
		span.From = prefix + cursor + "\x00"
	}
	err = d.store.View(ctx, r, func(s storage.Snapshot) error {
		index = s.Index()
		n, last := 0, ""
		var failed error
		err := s.Scan(span, func(key string, raw []byte) bool {
			if n == limit {
				next = last
				return false
			}
			n, last = n+1, strings.Clone(key[len(prefix):])
			failed = add(raw)
			return failed == nil
		})
		if err == nil {
			err = failed
		}
		return err
	})
	return next, index, err
}

// Bootstrap makes the platform's first admin in one step: the tenant that is its home, unless it's there, and a platform
// admin's key of which only the hash is told. It is done once in a platform's life; created is false ever after.
func (d *Directory) Bootstrap(ctx context.Context, home TenantCreate, c KeyCreate, hash string) (created bool, index uint64, err error) {
	c.Roles = []Role{RolePlatformAdmin}
	t, err := newTenant(home)
	if err != nil {
		return false, 0, err
	}
	key, err := c.key(t.ID, id.New(id.Key))
	if err != nil {
		return false, 0, err
	}
	return d.cmds.bootstrap.Do(ctx, d.store, "", Seed{Tenant: t, Key: key, Hash: hash})
}

// EnsureTenant makes a tenant unless there is one of its id, which is left as it is. Nodes seed with it; it asks for no
// rights, and leaves no record when there was nothing to do.
func (d *Directory) EnsureTenant(ctx context.Context, c TenantCreate) (created bool, index uint64, err error) {
	t, err := newTenant(c)
	if err != nil {
		return false, 0, err
	}
	return d.cmds.ensureTenant.Do(ctx, d.store, "", ensureTenant{Tenant: t})
}

// EnsureKey makes a key with the secret of the given hash unless that secret is known. Nodes seed with it, as EnsureTenant.
func (d *Directory) EnsureKey(ctx context.Context, tenantID string, c KeyCreate, hash string) (created bool, index uint64, err error) {
	key, err := c.key(tenantID, id.New(id.Key))
	if err != nil {
		return false, 0, err
	}
	return d.cmds.ensureKey.Do(ctx, d.store, "", ensureKey{Key: key, Hash: hash})
}
