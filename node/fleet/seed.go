package fleet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/nexixai/agentos/agent"
	"github.com/nexixai/agentos/api/client"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/node"
)

// Roles, as access.json lists them.
const (
	roleTenantUser    = "tenant_user"
	roleTenantAdmin   = "tenant_admin"
	rolePlatformAdmin = "platform_admin"
)

// identities are the principals whose keys a deployment keeps, in the order of access.json.
func identities() []struct{ tenant, principal, role string } {
	return []struct{ tenant, principal, role string }{
		{node.DefaultTenantID, node.TenantUserID, roleTenantUser},
		{node.DefaultTenantID, node.TenantAdminID, roleTenantAdmin},
		{node.DefaultTenantID, node.PlatformAdminID, rolePlatformAdmin},
		{node.IsolationTenantID, node.IsolationUserID, roleTenantUser},
	}
}

func defaultTenant(*plan) string { return node.DefaultTenantID }

// keyFile is where the key of a role in a tenant lies. The first organisation's files carry no prefix, so that the common
// case reads well.
func (f *Fleet) keyFile(org planOrg, tenantID, role string) string {
	name := tenantID + "." + role + ".key"
	if org.Organization != f.plan.Organizations[0].Organization {
		name = org.Organization + "." + name
	}
	return f.path(keysName, name)
}

// The agent that only one organisation has, so that others send it runs.
const (
	summarizerID  = "agt_globex_summarizer_v1"
	summarizerOrg = "globex"
)

// agentsOf are the agents of an organisation's default tenant.
func agentsOf(org planOrg) []agent.Agent {
	agents := []agent.Agent{node.SampleAgent(node.DefaultTenantID)}
	if org.Organization == summarizerOrg {
		agents = append(agents, agent.Agent{
			ID: summarizerID, TenantID: node.DefaultTenantID, Name: "Summarizer", Version: "1.0.0", Status: "active", ModelRef: "tier:fast",
			Description:  "Summarises a text, for this organisation and those it is paired with. With the built-in model, which is no language model, it gives the text back.",
			Instructions: "Summarise what the user sends in one short paragraph. Keep names and numbers, and add nothing.",
		})
	}
	return agents
}

// tenants lists what access.json says of an organisation's tenants.
func (f *Fleet) tenants(org planOrg) []Tenant {
	list := []Tenant{}
	for _, i := range identities() {
		name := f.keyFile(org, i.tenant, i.role)
		if _, err := os.Stat(name); err != nil {
			continue
		}
		if len(list) == 0 || list[len(list)-1].ID != i.tenant {
			list = append(list, Tenant{ID: i.tenant})
		}
		last := &list[len(list)-1]
		last.Principals = append(last.Principals, Principal{ID: i.principal, Role: i.role, KeyFile: name})
	}
	return list
}

// seed makes sure that the sample tenants, agent and keys are there. What is there already is left as it is.
func (f *Fleet) seed(ctx context.Context, _ *Report, p *phase) error {
	total := 0
	for _, org := range f.plan.Organizations {
		total += 2 + len(identities()) + len(agentsOf(org))
	}
	p.total(total)
	if err := f.each(func(org planOrg) error {
		if err := f.seedOrg(ctx, p, org); err != nil {
			return &FailedError{Phase: p.name, Check: "seed " + org.Organization, Err: err, Log: tail(f.logFile(org.Nodes[0].StackID), 0, 8), LogFile: f.logFile(org.Nodes[0].StackID), Next: "agentos up" + f.at()}
		}
		return nil
	}); err != nil {
		return err
	}
	seeded := node.Samples()
	f.plan.Seeded = &seeded
	return f.plan.save(f.o.StateDir)
}

func (f *Fleet) seedOrg(ctx context.Context, p *phase, org planOrg) error {
	n := org.Nodes[0]
	if err := f.takePlatformKey(org); err != nil {
		return err
	}
	admin, err := f.with(n, f.keyFile(org, node.DefaultTenantID, rolePlatformAdmin))
	if err != nil {
		return err
	}
	defer admin.Close()
	for _, t := range node.SampleTenants() {
		made, err := ensureTenant(ctx, admin, t)
		if err != nil {
			return fmt.Errorf("tenant %s: %w", t.ID, err)
		}
		p.step("%s: tenant %s %s", org.Organization, t.ID, madeWord(made))
	}
	for _, i := range identities() {
		made, err := f.ensureKey(ctx, org, n, admin, i.tenant, i.principal, i.role)
		if err != nil {
			return fmt.Errorf("key of %s in %s: %w", i.principal, i.tenant, err)
		}
		p.step("%s: key of %s in %s %s", org.Organization, i.role, i.tenant, madeWord(made))
	}
	tenantAdmin, err := f.with(n, f.keyFile(org, node.DefaultTenantID, roleTenantAdmin))
	if err != nil {
		return err
	}
	defer tenantAdmin.Close()
	for _, a := range agentsOf(org) {
		made, err := ensureAgent(ctx, tenantAdmin, a)
		if err != nil {
			return fmt.Errorf("agent %s: %w", a.ID, err)
		}
		p.step("%s: agent %s %s", org.Organization, a.ID, madeWord(made))
	}
	return nil
}

func madeWord(made bool) string {
	if made {
		return "made"
	}
	return "is there"
}

// takePlatformKey moves the first key, which the node has left in its data directory, to where the others lie.
func (f *Fleet) takePlatformKey(org planOrg) error {
	if err := os.MkdirAll(f.path(keysName), 0o700); err != nil {
		return err
	}
	from := filepath.Join(f.dataDir(org.Nodes[0].StackID), node.PlatformKeyName)
	err := os.Rename(from, f.keyFile(org, node.DefaultTenantID, rolePlatformAdmin))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// ensureKey issues a key, unless there is one that the node accepts.
func (f *Fleet) ensureKey(ctx context.Context, org planOrg, n planNode, admin *client.Client, tenantID, principal, role string) (made bool, err error) {
	name := f.keyFile(org, tenantID, role)
	if c, err := f.with(n, name); err == nil {
		_, err = c.Runs(client.RunFilter{}).Page(ctx, "", 1) // which any valid key may ask for
		c.Close()
		if !fault.Is(err, fault.Unauthorized) {
			return false, err
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return false, err
	}
	if role == rolePlatformAdmin {
		return false, fmt.Errorf("%s is missing or no longer accepted; only a platform administrator's key can make another (agentos keys issue --as platform_admin)", name)
	}
	secret, err := issueKey(ctx, admin, tenantID, principal, role)
	if err != nil {
		return false, err
	}
	return true, node.WriteFile(name, []byte(secret+"\n"), 0o600)
}

func readKey(name string) (string, error) {
	raw, err := os.ReadFile(name)
	if err != nil {
		return "", fmt.Errorf("API key: %w", err)
	}
	key := strings.TrimSpace(string(raw))
	if key == "" {
		return "", fmt.Errorf("API key: %s is empty", name)
	}
	return key, nil
}
