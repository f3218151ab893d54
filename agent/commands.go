package agent

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
	"github.com/nexixai/agentos/tenancy/audit"
)

// Commands are the changes that the catalog makes to the store.
type Commands struct {
	putAgent    storage.Call[putAgent, put[Agent]]
	deleteAgent storage.Call[remove, struct{}]
	putTool     storage.Call[putTool, put[Tool]]
	deleteTool  storage.Call[remove, struct{}]

	mu   sync.Mutex
	memo map[string]memo
}

// Define adds the room's commands to reg.
func Define(reg *storage.Registry) *Commands {
	return &Commands{
		putAgent:    storage.Define(reg, "agent.put", evalPutAgent),
		deleteAgent: storage.Define(reg, "agent.delete", evalDeleteAgent),
		putTool:     storage.Define(reg, "tool.put", evalPutTool),
		deleteTool:  storage.Define(reg, "tool.delete", evalDeleteTool),
		memo:        make(map[string]memo),
	}
}

func agentKey(tenantID, agentID string) string { return tenancy.Place(tenantID, "agents", agentID) }
func toolKey(tenantID, toolID string) string   { return tenancy.Place(tenantID, "tools", toolID) }

// nameKey holds the id of the tool that models know by a name.
func nameKey(tenantID, name string) string { return tenancy.Place(tenantID, "tool-names", name) }

// memo is an agent as it was decoded from raw.
type memo struct {
	raw   []byte
	agent *Agent
}

const maxMemo = 10_000

// Agent reads one agent, inside a command or a view, or answers fault.NotFound. It decodes the record only when it has
// changed since the last call. The agent is shared, and never to be changed.
func (c *Commands) Agent(r storage.Reader, tenantID, agentID string) (*Agent, error) {
	key := agentKey(tenantID, agentID)
	raw, err := r.Get(key)
	if err != nil {
		return nil, fmt.Errorf("agent: read agent: %w", err)
	}
	if raw == nil {
		return nil, noAgent()
	}
	c.mu.Lock()
	m, ok := c.memo[key]
	c.mu.Unlock()
	if ok && bytes.Equal(m.raw, raw) {
		return m.agent, nil
	}
	a := new(Agent)
	if err := json.Unmarshal(raw, a); err != nil {
		return nil, fmt.Errorf("agent: decode agent: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.memo) >= maxMemo {
		clear(c.memo)
	}
	c.memo[key] = memo{raw: bytes.Clone(raw), agent: a}
	return a, nil
}

func noAgent() error {
	return fault.New(fault.NotFound, "There is no such agent; see GET /v1/agents for those there are.")
}
func noTool() error { return fault.New(fault.NotFound, "There is no such tool.") }

// put is the answer to putting something.
type put[T any] struct {
	Value   T    `json:"value"`
	Created bool `json:"created"`
}

// act is who changes something.
type act struct {
	TenantID      string `json:"tenant_id"`
	Principal     string `json:"principal"`
	CorrelationID string `json:"correlation_id"`
}

func (a *act) record(tx storage.Tx, action, resource string) error {
	_, err := audit.Append(tx, audit.Record{
		TenantID: a.TenantID, Principal: a.Principal, Action: action, Resource: resource, Outcome: "ok", CorrelationID: a.CorrelationID,
	})
	return err
}

type putAgent struct {
	By    act   `json:"by"`
	Agent Agent `json:"agent"`
	// Absent puts the agent only where there is none.
	Absent bool `json:"absent,omitempty"`
}

func evalPutAgent(tx storage.Tx, c putAgent) (put[Agent], error) {
	a := c.Agent
	var former Agent
	there, err := load(tx, agentKey(a.TenantID, a.ID), &former)
	if err != nil || there && c.Absent {
		return put[Agent]{Value: former}, err
	}
	a.CreatedAt, a.UpdatedAt = tx.Now(), tx.Now()
	if there {
		a.CreatedAt = former.CreatedAt
	}
	if err := store(tx, agentKey(a.TenantID, a.ID), &a); err != nil {
		return put[Agent]{}, err
	}
	return put[Agent]{Value: a, Created: !there}, c.By.record(tx, "agent.put", "agent/"+a.ID)
}

type remove struct {
	By act    `json:"by"`
	ID string `json:"id"`
}

func evalDeleteAgent(tx storage.Tx, c remove) (none struct{}, err error) {
	key := agentKey(c.By.TenantID, c.ID)
	if raw, err := tx.Get(key); err != nil || raw == nil {
		return none, or(err, noAgent())
	}
	tx.Delete(key)
	return none, c.By.record(tx, "agent.delete", "agent/"+c.ID)
}

type putTool struct {
	By   act  `json:"by"`
	Tool Tool `json:"tool"`
}

func evalPutTool(tx storage.Tx, c putTool) (put[Tool], error) {
	t := c.Tool
	holder, err := tx.Get(nameKey(t.TenantID, t.Name))
	if err != nil {
		return put[Tool]{}, err
	}
	if holder != nil && string(holder) != t.ID {
		return put[Tool]{}, sameName(t.Name, string(holder))
	}
	there := holder != nil
	if err := store(tx, toolKey(t.TenantID, t.ID), &t); err != nil {
		return put[Tool]{}, err
	}
	tx.Set(nameKey(t.TenantID, t.Name), []byte(t.ID))
	return put[Tool]{Value: t, Created: !there}, c.By.record(tx, "tool.put", "tool/"+t.ID)
}

// sameName refuses a tool that a model could not tell from another.
func sameName(name, holder string) error {
	return fault.New(fault.Conflict, "Models would know this tool by the name %s, which is that of %s; choose another id.", name, holder).With("field", "tool_id")
}

func evalDeleteTool(tx storage.Tx, c remove) (none struct{}, err error) {
	key := toolKey(c.By.TenantID, c.ID)
	if raw, err := tx.Get(key); err != nil || raw == nil {
		return none, or(err, noTool())
	}
	tx.Delete(key)
	tx.Delete(nameKey(c.By.TenantID, ToolName(c.ID)))
	return none, c.By.record(tx, "tool.delete", "tool/"+c.ID)
}

func or(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

func load(r storage.Reader, key string, into any) (there bool, err error) {
	raw, err := r.Get(key)
	if err != nil || raw == nil {
		return false, err
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return false, fmt.Errorf("agent: decode %s: %w", key, err)
	}
	return true, nil
}

func store(tx storage.Tx, key string, value any) error {
	raw, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("agent: encode %s: %w", key, err)
	}
	tx.Set(key, raw)
	return nil
}
