package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/tenancy"
)

// seed completes a first start: the platform's first administrator in every mode, the samples in demo and dev. It is done
// once in the life of a data directory; a start that was cut short is completed by the next one, since each part is
// harmless twice. What an operator deletes later is not made again.
func (n *Node) seed(ctx context.Context) error {
	if n.dir.id.Seeded {
		return nil
	}
	hash, err := n.platformKey()
	if err != nil {
		return fmt.Errorf("first key: %w", err)
	}
	home := tenancy.TenantCreate{ID: PlatformTenantID}
	home.Name, home.PlanTier = tenancy.Some("Platform"), tenancy.Some("standard")
	samples := n.o.Mode != Prod
	tenants := SampleTenants()
	if samples {
		home = tenants[0]
	}
	admin := tenancy.KeyCreate{PrincipalID: PlatformAdminID, PrincipalType: tenancy.User}
	if _, _, err := n.w.directory.Bootstrap(ctx, home, admin, hash); err != nil {
		return fmt.Errorf("first administrator: %w", err)
	}
	if samples {
		for _, t := range tenants {
			if _, _, err := n.w.directory.EnsureTenant(ctx, t); err != nil {
				return fmt.Errorf("tenant %s: %w", t.ID, err)
			}
		}
		if _, _, err := n.w.catalog.EnsureAgent(ctx, seeder(), SampleAgent(DefaultTenantID)); err != nil {
			return fmt.Errorf("agent %s: %w", SampleAgentID, err)
		}
	}
	n.dir.id.Seeded = true
	if err := n.dir.save(); err != nil {
		return err
	}
	n.log.Info("seeded", zap.Bool("samples", samples), zap.String("home_tenant_id", home.ID))
	return nil
}

// seeder is who the sample agent is made by, for the audit.
func seeder() tenancy.Actor {
	return tenancy.Actor{
		Auth: &tenancy.Auth{
			TenantID: DefaultTenantID, HomeTenantID: DefaultTenantID,
			Principal: tenancy.Principal{ID: PlatformAdminID, Type: tenancy.User},
			Roles:     []tenancy.Role{tenancy.RolePlatformAdmin}, Scopes: tenancy.ScopesOf([]tenancy.Role{tenancy.RolePlatformAdmin}),
		},
		CorrelationID: id.New(id.Correlation),
	}
}

// platformKey makes the first key and writes it to its file, before the store hears of it: a key whose file was lost on
// the way would lock everybody out. It returns the key's hash.
func (n *Node) platformKey() (hash string, err error) {
	name := filepath.Join(n.dir.path, PlatformKeyName)
	raw, err := os.ReadFile(name)
	if err == nil {
		return tenancy.HashSecret(strings.TrimSpace(string(raw))), nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	secret, hash := tenancy.NewSecret()
	return hash, WriteFile(name, []byte(secret+"\n"), 0o600)
}
