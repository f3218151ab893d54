package tenancy

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/storage"
)

// SecretPrefix begins every API key.
const SecretPrefix = "aos_"

const (
	secretBytes = 32
	// maxOverlap is how long a secret may live on after it was replaced.
	maxOverlap = 30 * 24 * time.Hour
	// dueSecret is the kind of a replaced secret's end.
	dueSecret = "secret"
)

// Key is an API key: a credential of one principal of one tenant. Its secret is shown once, and kept as a hash only.
type Key struct {
	ID            string        `json:"key_id"`
	TenantID      string        `json:"tenant_id"`
	PrincipalID   string        `json:"principal_id"`
	PrincipalType PrincipalType `json:"principal_type"`
	DisplayName   string        `json:"display_name,omitempty"`
	Roles         []Role        `json:"roles"`
	Scopes        []Scope       `json:"scopes"`
	PolicyContext PolicyContext `json:"policy_context"`
	CreatedAt     time.Time     `json:"created_at"`
	ExpiresAt     *time.Time    `json:"expires_at"`
}

// IssuedKey is a key with its secret, the one time it's known; Secret is "" in a replay.
type IssuedKey struct {
	Key
	Secret string `json:"secret,omitempty"`
}

// KeyCreate asks for a key.
type KeyCreate struct {
	PrincipalID   string        `json:"principal_id"`
	PrincipalType PrincipalType `json:"principal_type,omitempty"` // default service
	DisplayName   string        `json:"display_name,omitempty"`
	Roles         []Role        `json:"roles,omitempty"`  // default tenant_service
	Scopes        []Scope       `json:"scopes,omitempty"` // nil: all that the roles give
	PolicyContext PolicyContext `json:"policy_context"`
	ExpiresAt     *time.Time    `json:"expires_at,omitempty"`
}

// NewSecret makes a secret of 256 random bits, and its hash.
func NewSecret() (secret, hash string) {
	var raw [secretBytes]byte
	_, _ = rand.Read(raw[:]) // never fails: it ends the process instead
	secret = SecretPrefix + base64.RawURLEncoding.EncodeToString(raw[:])
	return secret, HashSecret(secret)
}

// HashSecret returns what is kept of a secret: SHA-256, in hex. A secret holds 256 random bits, so a slow hash would add
// nothing.
func HashSecret(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// secretRecord is one secret of a key; a replaced one lives until Until.
type secretRecord struct {
	Hash  string     `json:"hash"`
	Until *time.Time `json:"until,omitempty"`
}

// keyRecord is a key as its tenant holds it: tenant/{t}/keys/{key_id}.
type keyRecord struct {
	Key
	Secrets []secretRecord `json:"secrets"` // the newest last
}

// credential is what a secret stands for: key/{hash}. It repeats the key, so that one look, or one watched change, says all.
type credential struct {
	Key
	Until *time.Time `json:"until,omitempty"`
}

// key makes the key that c asks for, but for its time, which is the leader's.
func (c *KeyCreate) key(tenantID, keyID string) (Key, error) {
	k := Key{
		ID: keyID, TenantID: tenantID, PrincipalID: c.PrincipalID, PrincipalType: c.PrincipalType, DisplayName: c.DisplayName,
		Roles: slices.Clone(c.Roles),
	}
	if c.ExpiresAt != nil {
		k.ExpiresAt = new(c.ExpiresAt.UTC())
	}
	if k.PrincipalType == "" {
		k.PrincipalType = Service
	}
	if k.Roles == nil {
		k.Roles = []Role{RoleTenantService}
	}
	if !id.Valid(k.PrincipalID) {
		return k, fault.Invalid("principal_id", "A principal id has 1 to %d of the characters A-Z a-z 0-9 . _ -", id.MaxLen)
	}
	if k.PrincipalType != User && k.PrincipalType != Service {
		return k, fault.Invalid("principal_type", "A principal type is user or service.")
	}
	if err := text("display_name", k.DisplayName, 0); err != nil {
		return k, err
	}
	if len(k.Roles) == 0 || len(k.Roles) > 4 || slices.ContainsFunc(k.Roles, func(r Role) bool { return !r.known() }) {
		return k, fault.Invalid("roles", "A role is platform_admin, tenant_admin, tenant_user or tenant_service; a key has at least one.")
	}
	given := ScopesOf(k.Roles)
	k.Scopes = given
	if c.Scopes != nil {
		if i := slices.IndexFunc(c.Scopes, func(s Scope) bool { return !slices.Contains(given, s) }); i >= 0 {
			return k, fault.Invalid(fmt.Sprintf("scopes[%d]", i), "The key's roles don't give this scope; scopes can only narrow them.")
		}
		k.Scopes = slices.DeleteFunc(given, func(s Scope) bool { return !slices.Contains(c.Scopes, s) })
	}
	var err error
	k.PolicyContext, err = PolicyContext{}.Tighten(c.PolicyContext, "policy_context")
	if err != nil {
		return k, err
	}
	return k, validContext(&k.PolicyContext)
}

func validContext(p *PolicyContext) error {
	if len(p.ConsentTags) > maxTags {
		return fault.Invalid("policy_context.consent_tags", "A policy context has %d consent tags at most.", maxTags)
	}
	if err := text("policy_context.region", p.Region, 0); err != nil {
		return err
	}
	if err := text("policy_context.purpose", p.Purpose, 0); err != nil {
		return err
	}
	for i, tag := range p.ConsentTags {
		if err := text(fmt.Sprintf("policy_context.consent_tags[%d]", i), tag, 1); err != nil {
			return err
		}
	}
	return nil
}

// withinRightsOf checks that a key gives nothing that its issuer hasn't got: no scope, and no wider policy context.
func (k *Key) withinRightsOf(issuer *Auth) error {
	for _, s := range k.Scopes {
		if !issuer.Has(s) {
			return fault.New(fault.Forbidden, "A key can't give the scope %s, which its issuer hasn't got.", s).With("scope", string(s))
		}
	}
	for _, r := range k.Roles {
		if r == RolePlatformAdmin && !issuer.HasRole(RolePlatformAdmin) {
			return fault.New(fault.Forbidden, "Only a platform admin can issue a platform admin's key.")
		}
	}
	var err error
	k.PolicyContext, err = issuer.PolicyContext.Tighten(k.PolicyContext, "policy_context")
	return err
}

func readKey(r storage.Reader, tenantID, keyID string) (*keyRecord, error) {
	raw, err := r.Get(keyPlace(tenantID, keyID))
	if err != nil {
		return nil, fmt.Errorf("tenancy: read key: %w", err)
	}
	if raw == nil {
		return nil, fault.New(fault.NotFound, "There is no such key.")
	}
	k := new(keyRecord)
	if err := json.Unmarshal(raw, k); err != nil {
		return nil, fmt.Errorf("tenancy: decode key: %w", err)
	}
	return k, nil
}

// write stores k, and what each of its secrets stands for.
func (k *keyRecord) write(tx storage.Tx) error {
	raw, err := json.Marshal(k)
	if err != nil {
		return fmt.Errorf("tenancy: encode key: %w", err)
	}
	tx.Set(keyPlace(k.TenantID, k.ID), raw)
	for _, s := range k.Secrets {
		raw, err := json.Marshal(credential{Key: k.Key, Until: s.Until})
		if err != nil {
			return fmt.Errorf("tenancy: encode key: %w", err)
		}
		tx.Set(hashKeys+s.Hash, raw)
	}
	return nil
}

// drop takes secrets of k away: all, or those that have ended.
func (k *keyRecord) drop(tx storage.Tx, gone func(secretRecord) bool) {
	k.Secrets = slices.DeleteFunc(k.Secrets, func(s secretRecord) bool {
		if !gone(s) {
			return false
		}
		tx.Delete(hashKeys + s.Hash)
		if s.Until != nil {
			tx.Delete(DueKey(dueSecret, *s.Until, k.TenantID, k.ID))
		}
		return true
	})
}

func (s secretRecord) ended(now time.Time) bool { return s.Until != nil && !now.Before(*s.Until) }

// sweepSecrets removes replaced secrets that have ended, of at most limit keys, and returns how many.
func sweepSecrets(tx storage.Tx, limit int) (int, error) {
	due, err := Due(tx, dueSecret, limit)
	if err != nil {
		return 0, err
	}
	for _, d := range due {
		tx.Delete(d.Key)
		k, err := readKey(tx, d.TenantID, d.What)
		if fault.Is(err, fault.NotFound) {
			continue
		}
		if err != nil {
			return 0, err
		}
		k.drop(tx, func(s secretRecord) bool { return s.ended(tx.Now()) })
		if err := k.write(tx); err != nil {
			return 0, err
		}
	}
	return len(due), nil
}
