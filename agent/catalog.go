package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
)

// Options says how to make a Catalog.
type Options struct {
	Store    storage.Store
	Commands *Commands
	// Builtins are the tools that every tenant has.
	Builtins []Tool
	// CheckTool, when set, refuses a definition that could not be called (fault.InvalidRequest, details.field).
	CheckTool func(*Tool) error
}

// Catalog keeps the agents and tools of all tenants. It's safe for concurrent use.
type Catalog struct {
	store    storage.Store
	commands *Commands
	builtins []Tool // by id
	check    func(*Tool) error
}

// New returns a Catalog.
func New(o Options) *Catalog {
	c := &Catalog{store: o.Store, commands: o.Commands, builtins: slices.Clone(o.Builtins), check: o.CheckTool}
	for i := range c.builtins {
		c.builtins[i].Kind, c.builtins[i].Name = builtin, ToolName(c.builtins[i].ID)
	}
	slices.SortFunc(c.builtins, func(a, b Tool) int { return strings.Compare(a.ID, b.ID) })
	return c
}

// GetAgent returns one agent, or fault.NotFound.
func (c *Catalog) GetAgent(ctx context.Context, r storage.Read, tenantID, agentID string) (*Agent, uint64, error) {
	var a *Agent
	var index uint64
	err := storage.Find(ctx, c.store, r, func(s storage.Snapshot) (err error) {
		index = s.Index()
		if !id.Valid(agentID) {
			return noAgent()
		}
		a, err = c.commands.Agent(s, tenantID, agentID)
		return err
	})
	if err != nil {
		return nil, index, err
	}
	copied := *a
	return &copied, index, nil
}

// Agent returns an agent and those of its tools that exist, for a worker. Both are shared and never changed.
func (c *Catalog) Agent(ctx context.Context, tenantID, agentID string) (*Agent, []Tool, error) {
	var a *Agent
	var tools []Tool
	err := storage.Find(ctx, c.store, storage.Read{}, func(s storage.Snapshot) (err error) {
		if a, err = c.commands.Agent(s, tenantID, agentID); err != nil {
			return err
		}
		tools = make([]Tool, 0, len(a.ToolIDs))
		for _, toolID := range a.ToolIDs {
			t, err := c.tool(s, tenantID, toolID)
			switch {
			case err == nil:
				tools = append(tools, *t)
			case !fault.Is(err, fault.NotFound):
				return err
			}
		}
		return nil
	})
	return a, tools, err
}

// ListAgents returns a tenant's agents by id, beginning after cursor; next is "" at the end.
func (c *Catalog) ListAgents(ctx context.Context, r storage.Read, tenantID, cursor string, limit int) (list []Agent, next string, index uint64, err error) {
	list = []Agent{}
	next, index, err = c.page(ctx, r, page{tenantID: tenantID, part: "agents", cursor: cursor, limit: limit}, func(_ string, raw []byte) error {
		var a Agent
		if err := json.Unmarshal(raw, &a); err != nil {
			return fmt.Errorf("agent: decode agent: %w", err)
		}
		list = append(list, a)
		return nil
	})
	return list, next, index, err
}

// PutAgent makes an agent, or replaces the one of its id; created tells which.
func (c *Catalog) PutAgent(ctx context.Context, by tenancy.Actor, a Agent) (_ *Agent, created bool, index uint64, err error) {
	who, err := actOf(by, a.TenantID)
	if err != nil {
		return nil, false, 0, err
	}
	a.TenantID = who.TenantID
	if err := a.normalize(); err != nil {
		return nil, false, 0, err
	}
	done, index, err := c.commands.putAgent.Do(ctx, c.store, id.New(id.Command), putAgent{By: who, Agent: a})
	if err != nil {
		return nil, false, index, err
	}
	return &done.Value, done.Created, index, nil
}

// EnsureAgent makes an agent where there is none of its id, and leaves one that is there as it is.
func (c *Catalog) EnsureAgent(ctx context.Context, by tenancy.Actor, a Agent) (created bool, index uint64, err error) {
	who, err := actOf(by, a.TenantID)
	if err != nil {
		return false, 0, err
	}
	a.TenantID = who.TenantID
	if err := a.normalize(); err != nil {
		return false, 0, err
	}
	done, index, err := c.commands.putAgent.Do(ctx, c.store, id.New(id.Command), putAgent{By: who, Agent: a, Absent: true})
	return done.Created, index, err
}

// DeleteAgent removes an agent, or answers fault.NotFound. Its runs go on being there; those that still wait will fail.
func (c *Catalog) DeleteAgent(ctx context.Context, by tenancy.Actor, agentID string) (index uint64, err error) {
	who, err := actOf(by, "")
	if err != nil {
		return 0, err
	}
	if !id.Valid(agentID) {
		return 0, noAgent()
	}
	_, index, err = c.commands.deleteAgent.Do(ctx, c.store, id.New(id.Command), remove{By: who, ID: agentID})
	return index, err
}

// GetTool returns one tool, builtin or the tenant's own, or fault.NotFound.
func (c *Catalog) GetTool(ctx context.Context, r storage.Read, tenantID, toolID string) (*Tool, uint64, error) {
	var t *Tool
	var index uint64
	err := storage.Find(ctx, c.store, r, func(s storage.Snapshot) (err error) {
		index = s.Index()
		t, err = c.tool(s, tenantID, toolID)
		return err
	})
	return t, index, err
}

func (c *Catalog) tool(r storage.Reader, tenantID, toolID string) (*Tool, error) {
	if t := c.builtin(toolID); t != nil {
		own := *t
		own.TenantID = tenantID
		return &own, nil
	}
	t := new(Tool)
	if !id.Valid(toolID) {
		return nil, noTool()
	}
	there, err := load(r, toolKey(tenantID, toolID), t)
	if err == nil && !there {
		err = noTool()
	}
	if err != nil {
		return nil, err
	}
	return t, nil
}

func (c *Catalog) builtin(toolID string) *Tool {
	i, ok := slices.BinarySearchFunc(c.builtins, toolID, func(t Tool, id string) int { return strings.Compare(t.ID, id) })
	if !ok {
		return nil
	}
	return &c.builtins[i]
}

// ListTools returns the builtin tools and the tenant's own by id, beginning after cursor; next is "" at the end.
func (c *Catalog) ListTools(ctx context.Context, r storage.Read, tenantID, cursor string, limit int) (list []Tool, next string, index uint64, err error) {
	if limit, err = PageLimit(limit); err != nil {
		return nil, "", 0, err
	}
	after := ""
	if cursor != "" {
		if after, err = Position(cursor, tenantID, "tools", ""); err != nil {
			return nil, "", 0, err
		}
	}
	list = []Tool{}
	for _, t := range c.builtins {
		if t.ID > after {
			t.TenantID = tenantID
			list = append(list, t)
		}
	}
	_, index, err = c.page(ctx, r, page{tenantID: tenantID, part: "tools", cursor: cursor, limit: limit, extra: 1}, func(_ string, raw []byte) error {
		var t Tool
		if err := json.Unmarshal(raw, &t); err != nil {
			return fmt.Errorf("agent: decode tool: %w", err)
		}
		list = append(list, t)
		return nil
	})
	slices.SortFunc(list, func(a, b Tool) int { return strings.Compare(a.ID, b.ID) })
	if len(list) > limit {
		list = list[:limit]
		next = Cursor(tenantID, "tools", "", list[limit-1].ID)
	}
	return list, next, index, err
}

// PutTool makes a tool, or replaces the one of its id; created tells which. A builtin's id, and an id that models could not
// tell from another's, are refused.
func (c *Catalog) PutTool(ctx context.Context, by tenancy.Actor, t Tool) (_ *Tool, created bool, index uint64, err error) {
	who, err := actOf(by, t.TenantID)
	if err != nil {
		return nil, false, 0, err
	}
	t.TenantID = who.TenantID
	if c.builtin(t.ID) != nil {
		return nil, false, 0, readOnly(t.ID)
	}
	if err := t.normalize(); err != nil {
		return nil, false, 0, err
	}
	for i := range c.builtins {
		if c.builtins[i].Name == t.Name {
			return nil, false, 0, sameName(t.Name, c.builtins[i].ID)
		}
	}
	if c.check != nil {
		if err := c.check(&t); err != nil {
			return nil, false, 0, err
		}
	}
	done, index, err := c.commands.putTool.Do(ctx, c.store, id.New(id.Command), putTool{By: who, Tool: t})
	if err != nil {
		return nil, false, index, err
	}
	return &done.Value, done.Created, index, nil
}

// DeleteTool removes one of the tenant's own tools, or answers fault.NotFound.
func (c *Catalog) DeleteTool(ctx context.Context, by tenancy.Actor, toolID string) (index uint64, err error) {
	who, err := actOf(by, "")
	if err != nil {
		return 0, err
	}
	switch {
	case c.builtin(toolID) != nil:
		return 0, readOnly(toolID)
	case !id.Valid(toolID):
		return 0, noTool()
	}
	_, index, err = c.commands.deleteTool.Do(ctx, c.store, id.New(id.Command), remove{By: who, ID: toolID})
	return index, err
}

func readOnly(toolID string) error {
	return fault.New(fault.Conflict, "%s is builtin and can't be changed; put a tool under another id.", toolID).With("field", "tool_id")
}

// actOf is who changes a definition. sent is the tenant that the definition itself names, if any.
func actOf(by tenancy.Actor, sent string) (act, error) {
	if sent != "" && sent != by.Auth.TenantID {
		return act{}, fault.New(fault.Forbidden, "The body names another tenant than the credential; leave tenant_id out.").With("field", "tenant_id")
	}
	return act{TenantID: by.Auth.TenantID, Principal: by.Auth.Principal.ID, CorrelationID: by.CorrelationID}, nil
}

// page is one page of a list that lies under tenant/{tenant}/{part}/.
type page struct {
	tenantID, part, cursor string
	limit, extra           int
}

func (c *Catalog) page(ctx context.Context, r storage.Read, p page, add func(id string, raw []byte) error) (next string, index uint64, err error) {
	limit, err := PageLimit(p.limit)
	if err != nil {
		return "", 0, err
	}
	limit += p.extra
	prefix := tenancy.Place(p.tenantID, p.part, "")
	span := storage.Prefix(prefix)
	if p.cursor != "" {
		after, err := Position(p.cursor, p.tenantID, p.part, "")
		if err != nil {
			return "", 0, err
		}
		span.From = prefix + after + "\x00"
	}
	err = c.store.View(ctx, r, func(s storage.Snapshot) error {
		index = s.Index()
		n, last := 0, ""
		var failed error
		err := s.Scan(span, func(key string, raw []byte) bool {
			if n == limit {
				next = Cursor(p.tenantID, p.part, "", last)
				return false
			}
			n, last = n+1, strings.Clone(key[len(prefix):])
			failed = add(last, raw)
			return failed == nil
		})
		return or(failed, err)
	})
	return next, index, err
}
