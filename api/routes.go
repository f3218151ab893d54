package api

import (
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/tenancy"
)

// table is every endpoint this node serves.
func (s *Server) table() []Route {
	open := func(method, path string, serve func(*call) error) Route {
		return Route{Method: method, Template: path, Open: true, serve: serve}
	}
	at := func(method, path string, scope tenancy.Scope, serve func(*call) error) Route {
		return Route{Method: method, Template: path, Scope: scope, serve: serve}
	}
	admin := func(method, path string, serve func(*call) error) Route {
		return Route{Method: method, Template: path, Scope: tenancy.TenantsAdmin, Admin: true, serve: serve}
	}
	platform := func(method, path string, serve func(*call) error) Route {
		return Route{Method: method, Template: path, Scope: tenancy.PlatformAdmin, Admin: true, serve: serve}
	}
	large := func(r Route, openAI bool) Route {
		r.MaxBody, r.OpenAI = modelBody, openAI
		return r
	}

	return []Route{
		open("GET", "/healthz", (*call).healthz),
		open("GET", "/readyz", (*call).readyz),
		open("GET", "/v1/health", health("stack-a")),
		open("GET", "/stack-b/v1/health", health("stack-b")),
		open("GET", "/v1/federation/health", health("federation")),
		open("GET", "/openapi/{name}.yaml", (*call).readPage),
		open("GET", "/docs/", (*call).readPage),

		at("POST", "/v1/agents/{agent_id}/runs", tenancy.RunsCreate, (*call).createRun),
		at("GET", "/v1/runs", tenancy.RunsRead, (*call).listRuns),
		at("GET", "/v1/runs/{run_id}", tenancy.RunsRead, (*call).getRun),
		at("POST", "/v1/runs/{run_id}:cancel", tenancy.RunsCancel, (*call).cancelRun),
		at("GET", "/v1/runs/{run_id}/events", tenancy.RunsRead, (*call).runEvents),
		at("GET", "/v1/runs/{run_id}/receipt", tenancy.RunsRead, (*call).runReceipt),

		at("GET", "/v1/agents", tenancy.AgentsRead, (*call).listAgents),
		at("GET", "/v1/agents/{agent_id}", tenancy.AgentsRead, (*call).getAgent),
		at("PUT", "/v1/agents/{agent_id}", tenancy.AgentsWrite, (*call).putAgent),
		at("DELETE", "/v1/agents/{agent_id}", tenancy.AgentsWrite, (*call).deleteAgent),
		at("GET", "/v1/tools", tenancy.AgentsRead, (*call).listTools),
		at("GET", "/v1/tools/{tool_id}", tenancy.AgentsRead, (*call).getTool),
		at("PUT", "/v1/tools/{tool_id}", tenancy.ToolsWrite, (*call).putTool),
		at("DELETE", "/v1/tools/{tool_id}", tenancy.ToolsWrite, (*call).deleteTool),

		at("GET", "/v1/memory/{ns}/{key}", tenancy.MemoryRead, (*call).getMemory),
		at("PUT", "/v1/memory/{ns}/{key}", tenancy.MemoryWrite, (*call).putMemory),
		at("DELETE", "/v1/memory/{ns}/{key}", tenancy.MemoryWrite, (*call).deleteMemory),
		at("POST", "/v1/memory/{ns}:search", tenancy.MemoryRead, (*call).searchMemory),

		large(at("POST", "/v1/chat/completions", tenancy.ModelsInvoke, (*call).chatCompletions), true),
		large(at("POST", "/v1/embeddings", tenancy.ModelsInvoke, (*call).embeddings), true),
		{Method: "GET", Template: "/v1/models", Scope: tenancy.ModelsList, OpenAI: true, serve: (*call).listModels},
		{Method: "GET", Template: "/v1/models/{model_id}", Scope: tenancy.ModelsList, OpenAI: true, serve: (*call).getModel},
		large(at("POST", "/v1/models:invoke", tenancy.ModelsInvoke, (*call).invokeModel), false),
		large(at("POST", "/v1/models:explain", tenancy.ModelsInvoke, (*call).explainModel), false),
		at("POST", "/v1/policy/check", tenancy.PolicyCheck, (*call).checkPolicy),
		at("POST", "/v1/policy:check", tenancy.PolicyCheck, (*call).checkPolicy),
		at("GET", "/v1/policy/rulesets", tenancy.TenantsAdmin, (*call).listRulesets),
		at("GET", "/v1/policy/rulesets/{policy_id}", tenancy.TenantsAdmin, (*call).getRuleset),
		at("PUT", "/v1/policy/rulesets/{policy_id}", tenancy.TenantsAdmin, (*call).putRuleset),
		at("DELETE", "/v1/policy/rulesets/{policy_id}", tenancy.TenantsAdmin, (*call).deleteRuleset),
		at("GET", "/v1/usage", tenancy.TenantsAdmin, (*call).usage),

		at("GET", "/v1/peer/info", tenancy.PeersRead, (*call).peerInfo),
		at("GET", "/v1/federation/peer", tenancy.PeersRead, (*call).peerInfo),
		at("GET", "/v1/peer/capabilities", tenancy.PeersRead, (*call).peerCapabilities),
		at("GET", "/v1/federation/peer/capabilities", tenancy.PeersRead, (*call).peerCapabilities),

		at("POST", "/v1/federation/runs:forward", tenancy.RunsForward, (*call).forwardRun),
		{Method: "POST", Template: "/v1/federation/events:ingest", Scope: tenancy.EventsIngest, MaxBody: ingestBody, serve: (*call).ingestEvents},
		at("GET", "/v1/federation/runs/{run_id}", tenancy.RunsRead, (*call).getRun),
		at("GET", "/v1/federation/runs/{run_id}/events", tenancy.EventsRead, (*call).runEvents),
		at("POST", "/v1/federation/runs/{run_id}:cancel", tenancy.RunsCancel, (*call).cancelRun),

		at("GET", "/v1/federation/peers", tenancy.PeersRead, (*call).listPeers),
		at("GET", "/v1/federation/peers/{stack_id}", tenancy.PeersRead, (*call).getPeer),
		at("POST", "/v1/federation/peers/{stack_id}:ping", tenancy.PeersRead, (*call).pingPeer),

		at("POST", "/v1/federation/peerings", tenancy.PlatformAdmin, (*call).createPeering),
		at("GET", "/v1/federation/peerings", tenancy.PlatformAdmin, (*call).listPeerings),
		at("GET", "/v1/federation/peerings/{peering_id}", tenancy.PlatformAdmin, (*call).getPeering),
		at("DELETE", "/v1/federation/peerings/{peering_id}", tenancy.PlatformAdmin, setPeering(registry.PeeringRevoked)),
		at("POST", "/v1/federation/peerings/{peering_id}:suspend", tenancy.PlatformAdmin, setPeering(registry.PeeringSuspended)),
		at("POST", "/v1/federation/peerings/{peering_id}:resume", tenancy.PlatformAdmin, setPeering(registry.PeeringActive)),
		at("PUT", "/v1/federation/peerings/{peering_id}/exports", tenancy.PlatformAdmin, (*call).putExports),

		at("GET", "/v1/federation/routes", tenancy.TenantsAdmin, (*call).listRoutes),
		at("GET", "/v1/federation/routes/{route_id}", tenancy.TenantsAdmin, (*call).getRoute),
		at("PUT", "/v1/federation/routes/{route_id}", tenancy.TenantsAdmin, (*call).putRoute),
		at("DELETE", "/v1/federation/routes/{route_id}", tenancy.TenantsAdmin, (*call).deleteRoute),
		at("POST", "/v1/federation/routes:explain", tenancy.TenantsAdmin, (*call).explainRoute),

		platform("POST", "/v1/admin/tenants", (*call).createTenant),
		platform("GET", "/v1/admin/tenants", (*call).listTenants),
		admin("GET", "/v1/admin/tenants/{id}", (*call).getTenant),
		admin("PATCH", "/v1/admin/tenants/{id}", (*call).updateTenant),
		admin("POST", "/v1/admin/tenants/{id}:enable", func(c *call) error { return c.setTenantStatus(tenancy.Active) }),
		admin("POST", "/v1/admin/tenants/{id}:disable", func(c *call) error { return c.setTenantStatus(tenancy.Disabled) }),
		admin("GET", "/v1/admin/tenants/{id}/quotas", (*call).getQuotas),
		admin("PUT", "/v1/admin/tenants/{id}/quotas", (*call).putQuotas),
		admin("POST", "/v1/admin/tenants/{id}/keys", (*call).issueKey),
		admin("GET", "/v1/admin/tenants/{id}/keys", (*call).listKeys),
		admin("POST", "/v1/admin/tenants/{id}/keys/{key_id}:rotate", (*call).rotateKey),
		admin("DELETE", "/v1/admin/tenants/{id}/keys/{key_id}", (*call).revokeKey),
		admin("GET", "/v1/admin/audit", (*call).listAudit),
		platform("POST", "/v1/admin/backup", (*call).backup),
		platform("GET", "/v1/admin/cluster", (*call).getCluster),
		platform("POST", "/v1/admin/cluster:transfer-leader", (*call).transferLeader),
		platform("POST", "/v1/admin/cluster:rotate-gossip-key", (*call).rotateGossip),
		platform("POST", "/v1/admin/cluster/members/{stack_id}:drain", setMember(registry.Draining)),
		platform("POST", "/v1/admin/cluster/members/{stack_id}:undrain", setMember(registry.Active)),
		platform("DELETE", "/v1/admin/cluster/members/{stack_id}", setMember(registry.Removed)),
		platform("POST", "/v1/admin/cluster/join-tokens", (*call).createJoinToken),
		admin("GET", "/v1/admin/backends", (*call).backends),
		admin("GET", "/v1/admin/prices", (*call).getPrices),
		platform("PUT", "/v1/admin/prices", (*call).putPrices),
	}
}
