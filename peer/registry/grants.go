package registry

import (
	"fmt"
	"slices"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/tenancy"
)

// Bounds of what one side grants the other.
const (
	maxGrants      = 1000
	maxGrantAgents = 1000
)

// grantable are the scopes that can be given to another organisation: those of use, and none that administers or defines
// what others use.
var grantable = [...]tenancy.Scope{
	tenancy.RunsCreate, tenancy.RunsRead, tenancy.RunsCancel, tenancy.RunsForward, tenancy.AgentsRead, tenancy.ToolsInvoke, tenancy.MemoryRead,
	tenancy.MemoryWrite, tenancy.ModelsInvoke, tenancy.ModelsList, tenancy.PolicyCheck, tenancy.EventsRead, tenancy.EventsIngest, tenancy.PeersRead,
}

// ValidExports checks grants that an operator gives.
func ValidExports(grants []Grant) error {
	if err := validGrants("exports", grants); err != nil {
		return err
	}
	for i := range grants {
		for _, s := range grants[i].Scopes {
			if !slices.Contains(grantable[:], s) {
				return fault.Invalid(grantField("exports", i, "scopes"), "The scope %.64q can't be given to another organisation; these can: %v.", s, grantable)
			}
		}
	}
	return nil
}

// validGrants checks the form of grants, whoever says them. Scopes that aren't known here are kept: what another version
// grants does no harm.
func validGrants(field string, grants []Grant) error {
	if len(grants) > maxGrants {
		return fault.Invalid(field, "There are at most %d grants in a peering.", maxGrants)
	}
	seen := make(map[[2]string]bool, len(grants))
	for i := range grants {
		g := &grants[i]
		if err := g.validate(field, i); err != nil {
			return err
		}
		// Within exports their tenant finds the grant, within imports ours does.
		key := [2]string{g.TenantID}
		if field == "imports" {
			key = [2]string{g.LocalTenantID, g.TenantID}
		}
		if seen[key] {
			return fault.Invalid(grantField(field, i, "tenant_id"), "There are two grants for the tenant %s.", g.TenantID)
		}
		seen[key] = true
	}
	return nil
}

// Understood leaves out of the grants that a peer tells those that can't be kept here, such as one up to a class of data of
// which only a later version knows: what isn't understood isn't granted. The others hold.
func Understood(grants []Grant) []Grant {
	if grants == nil {
		return nil
	}
	kept, seen := []Grant{}, make(map[[2]string]bool)
	for i := range grants {
		g := &grants[i]
		if key := [2]string{g.TenantID, g.LocalTenantID}; len(kept) < maxGrants && !seen[key] && g.validate("grants", i) == nil {
			kept, seen[key] = append(kept, *g), true
		}
	}
	return kept
}

func (g *Grant) validate(field string, i int) error {
	at := func(name string) string { return grantField(field, i, name) }
	switch {
	case !id.Valid(g.TenantID):
		return fault.Invalid(at("tenant_id"), "A tenant id is 1 to %d of [A-Za-z0-9._-].", id.MaxLen)
	case !id.Valid(g.LocalTenantID):
		return fault.Invalid(at("local_tenant_id"), "A tenant id is 1 to %d of [A-Za-z0-9._-].", id.MaxLen)
	case g.Scopes == nil:
		return fault.Invalid(at("scopes"), "A grant names its scopes; an empty list gives none.")
	case len(g.Scopes) > 64:
		return fault.Invalid(at("scopes"), "A grant has at most 64 scopes.")
	case len(g.Agents) > maxGrantAgents:
		return fault.Invalid(at("agents"), "A grant names at most %d agents.", maxGrantAgents)
	case g.Quotas != nil && g.Quotas.MaxConcurrentRuns != nil && *g.Quotas.MaxConcurrentRuns < 0:
		return fault.Invalid(at("quotas.max_concurrent_runs"), "A quota is 0 or more; leave it out for no limit.")
	}
	if slices.ContainsFunc(g.Scopes, func(s tenancy.Scope) bool { return s == "" || len(s) > 64 }) {
		return fault.Invalid(at("scopes"), "A scope has 1 to 64 bytes.")
	}
	if slices.ContainsFunc(g.Agents, func(a string) bool { return !id.Valid(a) }) {
		return fault.Invalid(at("agents"), "An agent id is 1 to %d of [A-Za-z0-9._-].", id.MaxLen)
	}
	if _, ok := tenancy.ClassRank(g.MaxDataClassification); !ok {
		return fault.Invalid(at("max_data_classification"), "A data classification is public, internal, confidential or restricted.")
	}
	return nil
}

func grantField(list string, i int, name string) string {
	return fmt.Sprintf("%s[%d].%s", list, i, name)
}
