package node

import (
	"encoding/json"
	"os"
	"path/filepath"

	"github.com/nexixai/agentos/agent"
	"github.com/nexixai/agentos/tenancy"
)

// What a first start makes in the modes demo and dev.
const (
	DefaultTenantID   = "tnt_demo"
	IsolationTenantID = "tnt_isolation"
	// PlatformTenantID is the home of the platform administrator in prod, where there is no sample tenant.
	PlatformTenantID = "tnt_platform"

	PlatformAdminID = "usr_platform_admin"
	TenantAdminID   = "usr_tnt_demo_admin"
	TenantUserID    = "usr_tnt_demo_user"
	IsolationUserID = "usr_tnt_isolation_user"

	SampleAgentID = "agt_sample_echo_v1"
)

// Seeded says what a deployment was seeded with.
type Seeded struct {
	DefaultTenantID          string   `json:"default_tenant_id"`
	PlatformAdminPrincipalID string   `json:"platform_admin_principal_id"`
	TenantAdminPrincipalID   string   `json:"tenant_admin_principal_id"`
	SampleAgentIDs           []string `json:"sample_agent_ids"`
	SampleToolIDs            []string `json:"sample_tool_ids"`
}

// Samples returns what the modes demo and dev are seeded with.
func Samples() Seeded {
	return Seeded{
		DefaultTenantID: DefaultTenantID, PlatformAdminPrincipalID: PlatformAdminID, TenantAdminPrincipalID: TenantAdminID,
		SampleAgentIDs: []string{SampleAgentID}, SampleToolIDs: []string{"tool.echo"},
	}
}

// SampleTenants returns the tenants of a first look: one to work in, and one that may spend nothing, with which it is
// tried whether tenants are kept apart.
func SampleTenants() []tenancy.TenantCreate {
	demo := tenancy.TenantCreate{ID: DefaultTenantID}
	demo.Name, demo.PlanTier = tenancy.Some("Demo"), tenancy.Some("demo")
	apart := tenancy.TenantCreate{ID: IsolationTenantID}
	apart.Name, apart.PlanTier = tenancy.Some("Isolation"), tenancy.Some("demo")
	apart.Quotas.Models.TokenBudget = tenancy.Some(&tenancy.TokenBudget{Window: "day", MaxTokens: new(int64), MaxCostUSD: new(float64)})
	return []tenancy.TenantCreate{demo, apart}
}

// SampleAgent returns the agent that a first look is had with.
func SampleAgent(tenantID string) agent.Agent {
	return agent.Agent{
		ID: SampleAgentID, TenantID: tenantID, Name: "Echo", Version: "1.0.0", Status: "active", ModelRef: "tier:fast",
		Description:  "Answers with what it was told, and calls the built-in tools when a line says so.",
		Instructions: "Repeat what the user says. Use a tool when asked to.",
		ToolIDs:      []string{"tool.echo", "tool.http.fetch", "tool.kv.get", "tool.kv.put"},
	}
}

// AwaitsJoin reports whether a data directory belongs to a node that set out to join a cluster and has not been let in.
func AwaitsJoin(dataDir string) bool {
	_, err := os.Stat(filepath.Join(dataDir, trustName, nodeCertName))
	if err == nil {
		return false
	}
	raw, err := os.ReadFile(filepath.Join(dataDir, identityName))
	var who identity
	return err == nil && json.Unmarshal(raw, &who) == nil && who.Joined
}

// HoldsNode reports whether a data directory has been made into a node's, so that it is started without --init.
func HoldsNode(dataDir string) bool {
	_, err := os.Stat(filepath.Join(dataDir, identityName))
	return err == nil
}
