package tenancy

import "slices"

// Scope is one right, by the contract's name.
type Scope string

// The scopes of the contract.
const (
	RunsCreate    Scope = "runs:create"
	RunsRead      Scope = "runs:read"
	RunsCancel    Scope = "runs:cancel"
	RunsForward   Scope = "runs:forward"
	AgentsRead    Scope = "agents:read"
	AgentsWrite   Scope = "agents:write"
	ToolsInvoke   Scope = "tools:invoke"
	ToolsWrite    Scope = "tools:write"
	MemoryRead    Scope = "memory:read"
	MemoryWrite   Scope = "memory:write"
	ModelsInvoke  Scope = "models:invoke"
	ModelsList    Scope = "models:list"
	PolicyCheck   Scope = "policy:check"
	EventsRead    Scope = "events:read"
	EventsIngest  Scope = "events:ingest"
	PeersRead     Scope = "peers:read"
	TenantsAdmin  Scope = "tenants:admin"
	PlatformAdmin Scope = "platform:admin"
)

// Role is a named set of scopes.
type Role string

// The roles of the contract.
const (
	RolePlatformAdmin Role = "platform_admin"
	RoleTenantAdmin   Role = "tenant_admin"
	RoleTenantUser    Role = "tenant_user"
	RoleTenantService Role = "tenant_service"
)

// PrincipalType tells people from programs.
type PrincipalType string

const (
	User    PrincipalType = "user"
	Service PrincipalType = "service"
)

// Principal is who asks.
type Principal struct {
	ID          string        `json:"principal_id"`
	Type        PrincipalType `json:"principal_type"`
	DisplayName string        `json:"display_name,omitempty"`
}

// PolicyContext travels with a request and narrows where its data may go.
type PolicyContext struct {
	DataClassification string   `json:"data_classification,omitempty"` // public < internal < confidential < restricted
	Region             string   `json:"region,omitempty"`
	Purpose            string   `json:"purpose,omitempty"`
	ConsentTags        []string `json:"consent_tags,omitempty"`
}

// SessionInfo says through what a principal came in.
type SessionInfo struct {
	ID        string `json:"session_id,omitempty"`
	IP        string `json:"ip,omitempty"`
	UserAgent string `json:"user_agent,omitempty"`
}

// Auth is the verified identity of one request. It is made by Directory.Authenticate alone (or from a verified peer
// token); nothing a request says of itself gets in.
type Auth struct {
	TenantID      string        `json:"tenant_id"`
	Principal     Principal     `json:"principal"`
	Scopes        []Scope       `json:"scopes"`
	Roles         []Role        `json:"roles,omitempty"`
	Session       *SessionInfo  `json:"session,omitempty"`
	PolicyContext PolicyContext `json:"policy_context"`
	// KeyID names the API key that proved the identity, for audit; "" for other credentials.
	KeyID string `json:"-"`
	// HomeTenantID is the principal's own tenant; it differs from TenantID when a platform admin acts for another.
	HomeTenantID string `json:"-"`
}

// Has reports whether a holds scope s.
func (a *Auth) Has(s Scope) bool { return slices.Contains(a.Scopes, s) }

// HasRole reports whether a holds role r.
func (a *Auth) HasRole(r Role) bool { return slices.Contains(a.Roles, r) }
