package api

import (
	"context"
	"time"

	"github.com/nexixai/agentos/agent"
	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/agent/memory"
	"github.com/nexixai/agentos/agent/run"
	"github.com/nexixai/agentos/model"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
)

// Tenants is who asks, and the admin of it.
type Tenants interface {
	Authenticate(ctx context.Context, secret string, src tenancy.Source) (*tenancy.Auth, error)
	ActFor(auth *tenancy.Auth, tenantID string) (*tenancy.Auth, error)
	Tenant(ctx context.Context, tenantID string) (*tenancy.Tenant, error)
	ReadTenant(ctx context.Context, r storage.Read, tenantID string) (*tenancy.Tenant, uint64, error)
	ListTenants(ctx context.Context, r storage.Read, cursor string, limit int) ([]tenancy.Tenant, string, uint64, error)
	CreateTenant(ctx context.Context, by tenancy.Actor, c tenancy.TenantCreate) (*tenancy.Tenant, bool, uint64, error)
	UpdateTenant(ctx context.Context, by tenancy.Actor, tenantID string, u tenancy.TenantUpdate) (*tenancy.Tenant, uint64, error)
	PutQuotas(ctx context.Context, by tenancy.Actor, tenantID string, q tenancy.Quotas) (*tenancy.Tenant, uint64, error)
	SetTenantStatus(ctx context.Context, by tenancy.Actor, tenantID string, s tenancy.TenantStatus) (*tenancy.Tenant, bool, uint64, error)
	IssueKey(ctx context.Context, by tenancy.Actor, tenantID string, c tenancy.KeyCreate) (*tenancy.IssuedKey, bool, uint64, error)
	RotateKey(ctx context.Context, by tenancy.Actor, tenantID, keyID string, overlap time.Duration) (*tenancy.IssuedKey, bool, uint64, error)
	RevokeKey(ctx context.Context, by tenancy.Actor, tenantID, keyID string) (uint64, error)
	ListKeys(ctx context.Context, r storage.Read, tenantID, cursor string, limit int) ([]tenancy.Key, string, uint64, error)
}

// Runs makes and reads runs.
type Runs interface {
	Create(ctx context.Context, by tenancy.Actor, agentID string, req run.Request, meta run.Meta) (*run.Run, bool, uint64, error)
	DryRun(ctx context.Context, by tenancy.Actor, agentID string, req run.Request) (*run.DryRun, error)
	Get(ctx context.Context, r storage.Read, tenantID, runID string) (*run.Run, uint64, error)
	// GetWhole is Get for the peer that has forwarded the run: it's shown its end at once.
	GetWhole(ctx context.Context, r storage.Read, tenantID, runID string) (*run.Run, uint64, error)
	List(ctx context.Context, r storage.Read, tenantID string, f run.Filter, cursor string, limit int) ([]run.Run, string, uint64, error)
	Cancel(ctx context.Context, by tenancy.Actor, runID string) (*run.Run, bool, uint64, error)
}

// Events follows a run's journal.
type Events interface {
	Follow(ctx context.Context, r storage.Read, tenantID, runID string, after uint64) (*event.Cursor, error)
	// FollowWhole is Follow for the peer that has forwarded the run: it's shown the final event at once.
	FollowWhole(ctx context.Context, r storage.Read, tenantID, runID string, after uint64) (*event.Cursor, error)
}

// Catalog keeps agents and tools.
type Catalog interface {
	GetAgent(ctx context.Context, r storage.Read, tenantID, agentID string) (*agent.Agent, uint64, error)
	ListAgents(ctx context.Context, r storage.Read, tenantID, cursor string, limit int) ([]agent.Agent, string, uint64, error)
	PutAgent(ctx context.Context, by tenancy.Actor, a agent.Agent) (*agent.Agent, bool, uint64, error)
	DeleteAgent(ctx context.Context, by tenancy.Actor, agentID string) (uint64, error)
	GetTool(ctx context.Context, r storage.Read, tenantID, toolID string) (*agent.Tool, uint64, error)
	ListTools(ctx context.Context, r storage.Read, tenantID, cursor string, limit int) ([]agent.Tool, string, uint64, error)
	PutTool(ctx context.Context, by tenancy.Actor, t agent.Tool) (*agent.Tool, bool, uint64, error)
	DeleteTool(ctx context.Context, by tenancy.Actor, toolID string) (uint64, error)
}

// Memory keeps what agents remember.
type Memory interface {
	Get(ctx context.Context, r storage.Read, tenantID, namespace, key string) (*memory.Item, uint64, error)
	Put(ctx context.Context, by tenancy.Actor, w memory.Write) (*memory.Item, bool, uint64, error)
	Delete(ctx context.Context, by tenancy.Actor, namespace, key string) (uint64, error)
	Search(ctx context.Context, r storage.Read, by *tenancy.Auth, namespace string, q memory.Query) ([]memory.Result, uint64, error)
}

// Models is the gateway.
type Models interface {
	Chat(ctx context.Context, caller model.Caller, req *model.ChatRequest, sink func(model.Delta) error) (*model.ChatResult, error)
	Embed(ctx context.Context, caller model.Caller, req *model.EmbedRequest) (*model.EmbedResult, error)
	Models(ctx context.Context, t *tenancy.Tenant) ([]model.Info, error)
	Check(ctx context.Context, caller model.Caller, text, ruleset string) (model.PolicyOutcome, string, error)
	Explain(ctx context.Context, caller model.Caller, req *model.ChatRequest) (*model.Explanation, error)
	ExplainEmbed(ctx context.Context, caller model.Caller, req *model.EmbedRequest) (*model.Explanation, error)
	Health(ctx context.Context) map[string]error
}

var (
	_ Tenants = (*tenancy.Directory)(nil)
	_ Runs    = (*run.Service)(nil)
	_ Events  = (*event.Hub)(nil)
	_ Catalog = (*agent.Catalog)(nil)
	_ Memory  = (*memory.Store)(nil)
	_ Models  = (*model.Gateway)(nil)
)
