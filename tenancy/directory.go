package tenancy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/mirror"
)

// maxCredential is the longest secret that is looked at, in bytes.
const maxCredential = 256

// Options says how to make a Directory. Store and Commands are needed.
type Options struct {
	Store    storage.Store
	Commands *Commands
	Logger   *zap.Logger
	// Now is the clock by which keys expire; nil means time.Now.
	Now func() time.Time
}

// Directory knows tenants and keys. It holds them in memory, fed by the store's watch; what memory doesn't know is looked
// up once, linearizably, before anybody is told that it doesn't exist. It is safe for concurrent use.
type Directory struct {
	store storage.Store
	cmds  *Commands
	log   *zap.Logger
	now   func() time.Time

	memory *mirror.Mirror[*tables]
	looks  looks
	failed failures

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// New returns a Directory, which must be closed. The store need not have been started yet.
func New(o Options) *Directory {
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	ctx, cancel := context.WithCancel(context.Background())
	d := &Directory{store: o.Store, cmds: o.Commands, log: o.Logger, now: o.Now, ctx: ctx, cancel: cancel, memory: follow(o.Store, o.Logger)}
	d.failed.now = o.Now
	return d
}

// Close ends the directory's work and waits for it.
func (d *Directory) Close() {
	d.looks.mu.Lock() // no look begins after this
	d.cancel()
	d.looks.mu.Unlock()
	d.memory.Close()
	d.wg.Wait()
}

// Source is where a request comes from.
type Source struct {
	IP        string // without a port
	UserAgent string
}

// Authenticate returns who holds secret. The answer is shared between requests and read-only; it carries no session.
// fault.Unauthorized: the secret isn't known, has expired or was revoked. fault.Forbidden: its tenant is disabled.
// fault.RateLimited: too many credentials from src have failed; a secret that is good passes whatever else came from there.
// fault.Unavailable: it isn't known here, and the store can't be asked.
func (d *Directory) Authenticate(ctx context.Context, secret string, src Source) (*Auth, error) {
	if len(secret) > maxCredential {
		if wait := d.failed.wait(src.IP, ""); wait > 0 {
			return nil, tooMany(wait)
		}
		return nil, d.refuse(src, "")
	}
	var buf [maxCredential]byte
	sum := sha256.Sum256(buf[:copy(buf[:], secret)])
	known, all := d.memory.Now()
	e := known.entry(sum)
	if e == nil {
		// While memory doesn't hold all there is, a good credential may be among the unknown ones.
		if wait := d.failed.wait(src.IP, ""); wait > 0 && all {
			return nil, tooMany(wait)
		}
		var err error
		if e, err = d.lookEntry(ctx, sum); err != nil {
			return nil, err
		}
		if e == nil {
			return nil, d.refuse(src, "")
		}
	}
	if !e.ends.IsZero() && !d.now().Before(e.ends) {
		if wait := d.failed.wait(src.IP, e.auth.KeyID); wait > 0 {
			return nil, tooMany(wait)
		}
		return nil, d.refuse(src, e.auth.KeyID)
	}
	known, _ = d.memory.Now()
	t := known.tenant(e.auth.TenantID)
	if t == nil {
		var err error
		if t, err = d.Tenant(ctx, e.auth.TenantID); err != nil {
			return nil, err
		}
	}
	// A platform admin keeps its rights while its home is disabled: who else could enable it?
	if t.Status == Disabled && !e.auth.Has(PlatformAdmin) {
		return nil, fault.New(fault.Forbidden, "The tenant is disabled; ask the platform's operator.")
	}
	return e.auth, nil
}

func (d *Directory) refuse(src Source, keyID string) error {
	d.failed.add(src.IP, keyID)
	return fault.New(fault.Unauthorized, "The credential isn't valid; send an API key that is, as a bearer token or in X-API-Key.")
}

func tooMany(wait time.Duration) error {
	return fault.New(fault.RateLimited, "Too many invalid credentials have come from here; try again later.").After(wait)
}

// entry is a credential as it's held in memory.
type entry struct {
	auth *Auth
	ends time.Time // zero: never
}

func newEntry(raw []byte) (*entry, error) {
	var c credential
	if err := json.Unmarshal(raw, &c); err != nil {
		return nil, fmt.Errorf("tenancy: decode credential: %w", err)
	}
	e := &entry{auth: &Auth{
		TenantID: c.TenantID, HomeTenantID: c.TenantID, KeyID: c.ID,
		Principal: Principal{ID: c.PrincipalID, Type: c.PrincipalType, DisplayName: c.DisplayName},
		Scopes:    c.Scopes, Roles: c.Roles, PolicyContext: c.PolicyContext,
	}}
	for _, end := range []*time.Time{c.ExpiresAt, c.Until} {
		if end != nil && (e.ends.IsZero() || end.Before(e.ends)) {
			e.ends = *end
		}
	}
	return e, nil
}

func (d *Directory) lookEntry(ctx context.Context, sum [sha256.Size]byte) (*entry, error) {
	raw, err := d.look(ctx, hashKeys+hex.EncodeToString(sum[:]))
	if err != nil || raw == nil {
		return nil, err
	}
	return newEntry(raw)
}

// Tenant returns a tenant, shared and read-only, or fault.NotFound.
func (d *Directory) Tenant(ctx context.Context, tenantID string) (*Tenant, error) {
	known, _ := d.memory.Now()
	if t := known.tenant(tenantID); t != nil {
		return t, nil
	}
	raw, err := d.look(ctx, tenantKeys+tenantID)
	if err != nil {
		return nil, err
	}
	if raw == nil {
		return nil, noTenant()
	}
	return decodeTenant(raw)
}

// ActFor returns auth as it acts for tenantID, the value of X-Tenant-Id: auth itself when that is its tenant or "". Only a
// service principal with the role platform_admin may act for another tenant; to others it's fault.Forbidden, whether there
// is such a tenant or not.
func (d *Directory) ActFor(auth *Auth, tenantID string) (*Auth, error) {
	if tenantID == "" || tenantID == auth.TenantID {
		return auth, nil
	}
	if auth.Principal.Type != Service || !auth.HasRole(RolePlatformAdmin) || !auth.Has(PlatformAdmin) {
		return nil, fault.New(fault.Forbidden, "X-Tenant-Id names another tenant than the credential's; leave it out.").With("field", "X-Tenant-Id")
	}
	ctx, cancel := context.WithTimeout(d.ctx, lookTimeout)
	defer cancel()
	if _, err := d.Tenant(ctx, tenantID); err != nil {
		return nil, err
	}
	acting := *auth
	acting.TenantID = tenantID
	return &acting, nil
}
