package tenancy

import (
	"slices"

	"github.com/nexixai/agentos/internal/fault"
)

// allScopes in the contract's order.
var allScopes = [...]Scope{
	RunsCreate, RunsRead, RunsCancel, RunsForward, AgentsRead, AgentsWrite, ToolsInvoke, ToolsWrite, MemoryRead, MemoryWrite,
	ModelsInvoke, ModelsList, PolicyCheck, EventsRead, EventsIngest, PeersRead, TenantsAdmin, PlatformAdmin,
}

// ScopesOf returns every scope that one of roles gives, in the contract's order. A role that isn't known gives none.
func ScopesOf(roles []Role) []Scope {
	scopes := []Scope{}
	for _, s := range allScopes {
		if slices.ContainsFunc(roles, func(r Role) bool { return r.gives(s) }) {
			scopes = append(scopes, s)
		}
	}
	return scopes
}

func (r Role) gives(s Scope) bool {
	switch r {
	case RolePlatformAdmin:
		return true
	case RoleTenantAdmin:
		return s != PlatformAdmin
	case RoleTenantUser, RoleTenantService:
		switch s {
		case RunsCreate, RunsRead, RunsCancel, RunsForward, AgentsRead, ToolsInvoke, MemoryRead, MemoryWrite,
			ModelsInvoke, ModelsList, PolicyCheck, EventsRead, PeersRead:
			return true
		}
	}
	return false
}

func (r Role) known() bool {
	switch r {
	case RolePlatformAdmin, RoleTenantAdmin, RoleTenantUser, RoleTenantService:
		return true
	}
	return false
}

// Administers returns nil when a may administer the tenant: a platform admin any tenant, a tenant admin its own. To others
// a tenant that isn't theirs does not exist.
func (a *Auth) Administers(tenantID string) error {
	switch {
	case a == nil:
		return fault.New(fault.Unauthorized, "Nobody asked; send a credential.")
	case a.Has(PlatformAdmin):
		return nil
	case !a.Has(TenantsAdmin):
		return fault.New(fault.Forbidden, "This needs the scope %s.", TenantsAdmin).With("scope", string(TenantsAdmin))
	case a.TenantID != tenantID:
		return noTenant()
	}
	return nil
}

// platform returns nil for a platform admin.
func (a *Auth) platform() error {
	if a == nil || !a.Has(PlatformAdmin) {
		return fault.New(fault.Forbidden, "This needs the scope %s.", PlatformAdmin).With("scope", string(PlatformAdmin))
	}
	return nil
}

// classes in rising order of care.
var classes = [...]string{"public", "internal", "confidential", "restricted"}

// ClassRank returns the rank of a data classification, rising with the care it needs; ok is false for an unknown one. No
// classification ranks below all.
func ClassRank(class string) (rank int, ok bool) {
	if class == "" {
		return -1, true
	}
	rank = slices.Index(classes[:], class)
	return rank, rank >= 0
}

// Tighten returns p narrowed by want: a higher class, a region where p names none, a purpose, further consent tags. What
// would widen p is refused with fault.Forbidden, what isn't known with fault.InvalidRequest; field names the place of want.
func (p PolicyContext) Tighten(want PolicyContext, field string) (PolicyContext, error) {
	have, _ := ClassRank(p.DataClassification)
	rank, ok := ClassRank(want.DataClassification)
	if !ok {
		return p, fault.Invalid(field+".data_classification", "A data classification is public, internal, confidential or restricted.")
	}
	if rank > have {
		p.DataClassification = want.DataClassification
	} else if rank >= 0 && rank < have {
		return p, widened(field + ".data_classification")
	}
	if want.Region != "" {
		if p.Region != "" && p.Region != want.Region {
			return p, widened(field + ".region")
		}
		p.Region = want.Region
	}
	if want.Purpose != "" {
		if p.Purpose != "" && p.Purpose != want.Purpose {
			return p, widened(field + ".purpose")
		}
		p.Purpose = want.Purpose
	}
	if len(p.ConsentTags) == 0 {
		p.ConsentTags = slices.Clone(want.ConsentTags)
		return p, nil
	}
	for _, tag := range want.ConsentTags {
		if !slices.Contains(p.ConsentTags, tag) {
			return p, widened(field + ".consent_tags")
		}
	}
	if len(want.ConsentTags) > 0 {
		p.ConsentTags = slices.Clone(want.ConsentTags)
	}
	return p, nil
}

func widened(field string) error {
	return fault.New(fault.Forbidden, "The credential's policy context can be tightened, not widened.").With("field", field)
}
