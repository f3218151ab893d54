package api

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/nexixai/agentos/agent"
	"github.com/nexixai/agentos/agent/memory"
	"github.com/nexixai/agentos/agent/tool"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/storage"
)

// getOne answers one object of the tenant by its id in the path.
func getOne[T any](c *call, noun, param string, get func(context.Context, storage.Read, string, string) (*T, uint64, error)) error {
	name, err := c.ident(param)
	if err != nil {
		return err
	}
	read, err := c.read()
	if err != nil {
		return err
	}
	v, index, err := get(c.ctx(), read, c.auth.TenantID, name)
	if err != nil {
		return err
	}
	c.index = index
	return c.reply(http.StatusOK, member{noun, v})
}

// listSome answers one page of the tenant's objects.
func listSome[T any](c *call, plural string, get func(context.Context, storage.Read, string, string, int) ([]T, string, uint64, error)) error {
	read, err := c.read()
	if err != nil {
		return err
	}
	cursor, limit, err := c.page()
	if err != nil {
		return err
	}
	items, next, index, err := get(c.ctx(), read, c.auth.TenantID, cursor, limit)
	if err != nil {
		return err
	}
	c.index = index
	return list(c, plural, items, next)
}

func (c *call) getTool() error {
	return getOne(c, "tool", "tool_id", func(ctx context.Context, r storage.Read, tenantID, toolID string) (*agent.Tool, uint64, error) {
		t, index, err := c.s.o.Catalog.GetTool(ctx, r, tenantID, toolID)
		if err == nil {
			t.Config = tool.Redact(t.Config)
		}
		return t, index, err
	})
}

func (c *call) listTools() error {
	return listSome(c, "tools", func(ctx context.Context, r storage.Read, tenantID, cursor string, limit int) ([]agent.Tool, string, uint64, error) {
		tools, next, index, err := c.s.o.Catalog.ListTools(ctx, r, tenantID, cursor, limit)
		for i := range tools {
			tools[i].Config = tool.Redact(tools[i].Config)
		}
		return tools, next, index, err
	})
}

func (c *call) putAgent() error {
	name, err := c.ident("agent_id")
	if err != nil {
		return err
	}
	var body struct {
		Agent *agent.Agent `json:"agent"`
	}
	if err := c.body(&body); err != nil {
		return err
	}
	if body.Agent == nil {
		return fault.Invalid("agent", "The body is {\"agent\": {…}}.")
	}
	if err := c.ownTenant("agent.tenant_id", body.Agent.TenantID); err != nil {
		return err
	}
	if body.Agent.ID != "" && body.Agent.ID != name {
		return fault.Invalid("agent.agent_id", "agent.agent_id is not the id in the path.")
	}
	body.Agent.ID, body.Agent.TenantID = name, c.auth.TenantID
	a, isNew, index, err := c.s.o.Catalog.PutAgent(c.ctx(), c.actor(), *body.Agent)
	if err != nil {
		return err
	}
	c.index = index
	return c.reply(created(isNew), member{"agent", a})
}

func (c *call) deleteAgent() error {
	name, err := c.ident("agent_id")
	if err != nil {
		return err
	}
	if c.index, err = c.s.o.Catalog.DeleteAgent(c.ctx(), c.actor(), name); err != nil {
		return err
	}
	return c.noContent()
}

func (c *call) putTool() error {
	name := c.param("tool_id")
	if !id.ValidTool(name) {
		return fault.Invalid("tool_id", "A tool id is 'tool.' and a dotted name.")
	}
	var body struct {
		Tool *agent.Tool `json:"tool"`
	}
	if err := c.body(&body); err != nil {
		return err
	}
	if body.Tool == nil {
		return fault.Invalid("tool", "The body is {\"tool\": {…}}.")
	}
	if err := c.ownTenant("tool.tenant_id", body.Tool.TenantID); err != nil {
		return err
	}
	if body.Tool.ID != "" && body.Tool.ID != name {
		return fault.Invalid("tool.tool_id", "tool.tool_id is not the id in the path.")
	}
	body.Tool.ID, body.Tool.TenantID = name, c.auth.TenantID
	t, isNew, index, err := c.s.o.Catalog.PutTool(c.ctx(), c.actor(), *body.Tool)
	if err != nil {
		return err
	}
	c.index, t.Config = index, tool.Redact(t.Config)
	return c.reply(created(isNew), member{"tool", t})
}

func (c *call) deleteTool() error {
	name, err := c.ident("tool_id")
	if err != nil {
		return err
	}
	if c.index, err = c.s.o.Catalog.DeleteTool(c.ctx(), c.actor(), name); err != nil {
		return err
	}
	return c.noContent()
}

func (c *call) getMemory() error {
	read, err := c.read()
	if err != nil {
		return err
	}
	item, index, err := c.s.o.Memory.Get(c.ctx(), read, c.auth.TenantID, c.param("ns"), c.param("key"))
	if err != nil {
		return err
	}
	c.index = index
	return c.reply(http.StatusOK, member{"memory", item})
}

func (c *call) putMemory() error {
	var body struct {
		Value    json.RawMessage `json:"value"`
		Metadata json.RawMessage `json:"metadata"`
	}
	if err := c.body(&body); err != nil {
		return err
	}
	if body.Value == nil {
		return fault.Invalid("value", "value is missing.")
	}
	item, isNew, index, err := c.s.o.Memory.Put(c.ctx(), c.actor(), memory.Write{
		Namespace: c.param("ns"), Key: c.param("key"), Value: body.Value, Metadata: body.Metadata,
	})
	if err != nil {
		return err
	}
	c.index = index
	return c.reply(created(isNew), member{"memory", item})
}

func (c *call) deleteMemory() (err error) {
	if c.index, err = c.s.o.Memory.Delete(c.ctx(), c.actor(), c.param("ns"), c.param("key")); err != nil {
		return err
	}
	return c.noContent()
}

func (c *call) searchMemory() error {
	read, err := c.read()
	if err != nil {
		return err
	}
	var q memory.Query
	if err := c.body(&q); err != nil {
		return err
	}
	results, index, err := c.s.o.Memory.Search(c.ctx(), read, c.auth, c.param("ns"), q)
	if err != nil {
		return err
	}
	c.index = index
	if results == nil {
		results = []memory.Result{}
	}
	return c.reply(http.StatusOK, member{"results", results})
}
