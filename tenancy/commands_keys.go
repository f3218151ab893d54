package tenancy

import (
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
)

func evalRotateKey(tx storage.Tx, c rotateKey) (done[Key], error) {
	return once(tx, &c.By, func() (Key, error) {
		now := tx.Now()
		k, err := readKey(tx, c.TenantID, c.KeyID)
		if err != nil {
			return Key{}, err
		}
		if err := k.guard(c.Scopes); err != nil {
			return Key{}, err
		}
		if k.ExpiresAt != nil && !k.ExpiresAt.After(now) {
			return Key{}, fault.New(fault.Conflict, "The key has expired; issue a new one.")
		}
		until := now.Add(time.Duration(c.Overlap))
		for i := range k.Secrets {
			s := &k.Secrets[i]
			if s.Until != nil && s.Until.Before(until) {
				continue
			}
			if s.Until != nil {
				tx.Delete(DueKey(dueSecret, *s.Until, k.TenantID, k.ID))
			}
			s.Until = &until
		}
		k.drop(tx, func(s secretRecord) bool { return s.ended(now) })
		for _, s := range k.Secrets {
			tx.Set(DueKey(dueSecret, *s.Until, k.TenantID, k.ID), nil)
		}
		k.Secrets = append(k.Secrets, secretRecord{Hash: c.Hash})
		if len(k.Secrets) > maxSecrets {
			return Key{}, fault.New(fault.Conflict, "The key has %d secrets that still live; wait until one has ended, or rotate without an overlap.", len(k.Secrets)-1)
		}
		if err := k.write(tx); err != nil {
			return Key{}, err
		}
		return k.Key, c.By.record(tx, c.TenantID, "key.rotate", "key/"+c.KeyID, nil)
	})
}

// maxSecrets bounds how many secrets of one key live at once.
const maxSecrets = 10

// guard refuses to touch a key that gives more than the asker has: who could rotate it would hold its rights.
func (k *keyRecord) guard(scopes []Scope) error {
	asker := Auth{Scopes: scopes}
	for _, s := range k.Scopes {
		if !asker.Has(s) {
			return fault.New(fault.Forbidden, "The key gives the scope %s, which the asker hasn't got.", s).With("scope", string(s))
		}
	}
	return nil
}

type revokeKey struct {
	By       actor   `json:"by"`
	TenantID string  `json:"tenant_id"`
	KeyID    string  `json:"key_id"`
	Scopes   []Scope `json:"scopes"`
}

func evalRevokeKey(tx storage.Tx, c revokeKey) (struct{}, error) {
	k, err := readKey(tx, c.TenantID, c.KeyID)
	if err != nil {
		return struct{}{}, err
	}
	if err := k.guard(c.Scopes); err != nil {
		return struct{}{}, err
	}
	k.drop(tx, func(secretRecord) bool { return true })
	tx.Delete(keyPlace(c.TenantID, c.KeyID))
	return struct{}{}, c.By.record(tx, c.TenantID, "key.revoke", "key/"+c.KeyID, map[string]any{"principal_id": k.PrincipalID})
}

// NodePrincipal is who does what a node does by itself, such as seeding.
const NodePrincipal = "svc_agentos"

// bootstrapKey marks that the platform has had its first admin.
const bootstrapKey = platformChain + "bootstrap"

// Seed is the platform's first admin: a tenant that is its home (made unless it's there), and its key.
type Seed struct {
	Tenant *Tenant `json:"tenant"`
	Key    Key     `json:"key"`
	Hash   string  `json:"hash"`
}

func evalBootstrap(tx storage.Tx, s Seed) (bool, error) {
	if raw, err := tx.Get(bootstrapKey); err != nil || raw != nil {
		return false, err
	}
	by := &actor{Principal: NodePrincipal}
	if _, err := GetTenant(tx, s.Tenant.ID); fault.Is(err, fault.NotFound) {
		if _, err := addTenant(tx, by, *s.Tenant); err != nil {
			return false, err
		}
	} else if err != nil {
		return false, err
	}
	if _, err := addKey(tx, by, s.Key, s.Hash); err != nil {
		return false, err
	}
	tx.Set(bootstrapKey, []byte(s.Key.ID))
	return true, by.record(tx, "", "platform.bootstrap", "key/"+s.Key.ID, map[string]any{"principal_id": s.Key.PrincipalID})
}

type ensureTenant struct {
	Tenant *Tenant `json:"tenant"`
}

func evalEnsureTenant(tx storage.Tx, c ensureTenant) (bool, error) {
	if raw, err := tx.Get(tenantKeys + c.Tenant.ID); err != nil || raw != nil {
		return false, err
	}
	_, err := addTenant(tx, &actor{Principal: NodePrincipal}, *c.Tenant)
	return err == nil, err
}

type ensureKey struct {
	Key  Key    `json:"key"`
	Hash string `json:"hash"`
}

func evalEnsureKey(tx storage.Tx, c ensureKey) (bool, error) {
	if raw, err := tx.Get(hashKeys + c.Hash); err != nil || raw != nil {
		return false, err
	}
	if _, err := GetTenant(tx, c.Key.TenantID); err != nil {
		return false, err
	}
	_, err := addKey(tx, &actor{Principal: NodePrincipal}, c.Key, c.Hash)
	return err == nil, err
}
