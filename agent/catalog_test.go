package agent_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/nexixai/agentos/agent"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/mem"
	"github.com/nexixai/agentos/tenancy"
	"github.com/nexixai/agentos/tenancy/audit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newCatalog(tb testing.TB) (*agent.Catalog, *mem.Store) {
	reg := storage.NewRegistry()
	commands := agent.Define(reg)
	store := mem.New(mem.Options{Registry: reg})
	tb.Cleanup(store.Close)
	return agent.New(agent.Options{
		Store: store, Commands: commands,
		Builtins: []agent.Tool{{ID: "tool.kv.put"}, {ID: "tool.echo", InputSchema: json.RawMessage(`{}`)}},
		CheckTool: func(t *agent.Tool) error {
			if t.Kind == "mcp" {
				return fault.Invalid("tool.kind", "none here")
			}
			return nil
		},
	}), store
}

func by(tenant string) tenancy.Actor {
	return tenancy.Actor{Auth: &tenancy.Auth{TenantID: tenant, Principal: tenancy.Principal{ID: "usr_one"}}, CorrelationID: "corr_test"}
}

func TestCatalog_Agents(t *testing.T) {
	c, store := newCatalog(t)
	put, created, index, err := c.PutAgent(t.Context(), by("tnt_a"), agent.Agent{ID: "agt_1", Instructions: "be brief", ToolIDs: []string{"tool.echo", "tool.gone"}})
	if err != nil || !created || index == 0 {
		t.Fatal(put, created, index, err)
	}
	if put.Status != agent.Active || put.ModelRef != agent.DefaultModelRef || put.Name != "agt_1" || put.TenantID != "tnt_a" || put.CreatedAt.IsZero() {
		t.Errorf("defaults: %+v", put)
	}
	again, created, _, err := c.PutAgent(t.Context(), by("tnt_a"), agent.Agent{ID: "agt_1", Name: "One", ToolIDs: put.ToolIDs})
	if err != nil || created || !again.CreatedAt.Equal(put.CreatedAt) || again.Instructions != "" {
		t.Errorf("replaced: %+v, created %v, %v", again, created, err)
	}
	got, _, err := c.GetAgent(t.Context(), storage.Read{}, "tnt_a", "agt_1")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(again, got); diff != "" {
		t.Error(diff)
	}
	got.Name = "changed by its reader"
	if got, _, _ := c.GetAgent(t.Context(), storage.Read{}, "tnt_a", "agt_1"); got.Name != "One" {
		t.Error("a reader changed what others read")
	}
	if _, tools, err := c.Agent(t.Context(), "tnt_a", "agt_1"); err != nil || len(tools) != 1 || tools[0].ID != "tool.echo" {
		t.Errorf("tools %+v, %v", tools, err)
	}
	if made, _, err := c.EnsureAgent(t.Context(), by("tnt_a"), agent.Agent{ID: "agt_1", Name: "Seed"}); err != nil || made {
		t.Errorf("ensured over an agent: %v, %v", made, err)
	}
	if got, _, _ := c.GetAgent(t.Context(), storage.Read{}, "tnt_a", "agt_1"); got.Name != "One" {
		t.Error("seeding changed an agent")
	}
	for _, tenant := range []string{"tnt_b", "tnt_a/agents/agt_1", ""} {
		if _, _, err := c.GetAgent(t.Context(), storage.Read{}, tenant, "agt_1"); !fault.Is(err, fault.NotFound) {
			t.Errorf("tenant %q: %v", tenant, err)
		}
	}
	if _, err := c.DeleteAgent(t.Context(), by("tnt_b"), "agt_1"); !fault.Is(err, fault.NotFound) {
		t.Errorf("deleted by another tenant: %v", err)
	}
	if _, err := c.DeleteAgent(t.Context(), by("tnt_a"), "agt_1"); err != nil {
		t.Error(err)
	}
	if _, err := c.DeleteAgent(t.Context(), by("tnt_a"), "agt_1"); !fault.Is(err, fault.NotFound) {
		t.Errorf("deleted twice: %v", err)
	}
	_ = store.View(t.Context(), storage.Read{}, func(s storage.Snapshot) error {
		records, _, err := audit.List(s, "tnt_a", audit.Filter{}, 10)
		var actions []string
		for _, r := range records {
			actions = append(actions, r.Action+" "+r.Resource)
		}
		want := []string{"agent.put agent/agt_1", "agent.put agent/agt_1", "agent.delete agent/agt_1"}
		if diff := cmp.Diff(want, actions); diff != "" || err != nil {
			t.Errorf("audit: %s %v", diff, err)
		}
		return nil
	})
}

func TestCatalog_PutAgent_Refuses(t *testing.T) {
	c, store := newCatalog(t)
	for name, x := range map[string]struct {
		agent agent.Agent
		field string
	}{
		"no id":           {agent.Agent{}, "agent_id"},
		"odd id":          {agent.Agent{ID: "a/b"}, "agent_id"},
		"status":          {agent.Agent{ID: "a", Status: "on"}, "agent.status"},
		"tier":            {agent.Agent{ID: "a", ModelRef: "tier:best"}, "agent.model_ref"},
		"model with gap":  {agent.Agent{ID: "a", ModelRef: "a b"}, "agent.model_ref"},
		"tool id":         {agent.Agent{ID: "a", ToolIDs: []string{"echo"}}, "agent.tool_ids"},
		"tool twice":      {agent.Agent{ID: "a", ToolIDs: []string{"tool.echo", "tool.echo"}}, "agent.tool_ids"},
		"long":            {agent.Agent{ID: "a", Instructions: strings.Repeat("x", 70<<10)}, "agent.instructions"},
		"not UTF-8":       {agent.Agent{ID: "a", Description: "\xff"}, "agent.description"},
		"policy":          {agent.Agent{ID: "a", PolicyID: "a b"}, "agent.policy_id"},
		"defaults":        {agent.Agent{ID: "a", RunDefaults: json.RawMessage(`[]`)}, "agent.run_defaults"},
		"default steps":   {agent.Agent{ID: "a", RunDefaults: json.RawMessage(`{"max_steps":0}`)}, "agent.run_defaults.max_steps"},
		"default timeout": {agent.Agent{ID: "a", RunDefaults: json.RawMessage(`{"timeout_ms":-1}`)}, "agent.run_defaults.timeout_ms"},
		"default rank":    {agent.Agent{ID: "a", RunDefaults: json.RawMessage(`{"priority":"top"}`)}, "agent.run_defaults.priority"},
	} {
		_, _, _, err := c.PutAgent(t.Context(), by("tnt_a"), x.agent)
		if field := fault.Of(err).Details["field"]; !fault.Is(err, fault.InvalidRequest) || field != x.field {
			t.Errorf("%s: %v, field %v, want %s", name, err, field, x.field)
		}
	}
	if _, _, _, err := c.PutAgent(t.Context(), by("tnt_a"), agent.Agent{ID: "a", TenantID: "tnt_b"}); !fault.Is(err, fault.Forbidden) {
		t.Errorf("another tenant's: %v", err)
	}
	if n := store.Status().Applied; n != 0 {
		t.Errorf("refusals made %d changes", n)
	}
}

func TestCatalog_Tools(t *testing.T) {
	c, _ := newCatalog(t)
	mine := agent.Tool{ID: "tool.crm.lookup", Kind: "http", Description: "looks up", InputSchema: json.RawMessage(`{"type":"object"}`)}
	put, created, _, err := c.PutTool(t.Context(), by("tnt_a"), mine)
	if err != nil || !created || put.Name != "crm_lookup" {
		t.Fatal(put, created, err)
	}
	if _, created, _, err := c.PutTool(t.Context(), by("tnt_a"), mine); err != nil || created {
		t.Errorf("put again: created %v, %v", created, err)
	}
	for name, x := range map[string]struct {
		tool agent.Tool
		code fault.Code
	}{
		"builtin":           {agent.Tool{ID: "tool.echo", Kind: "http"}, fault.Conflict},
		"a builtin's name":  {agent.Tool{ID: "tool.kv_put", Kind: "http"}, fault.Conflict},
		"another's name":    {agent.Tool{ID: "tool.crm_lookup", Kind: "http"}, fault.Conflict},
		"kind":              {agent.Tool{ID: "tool.x", Kind: "builtin"}, fault.InvalidRequest},
		"id":                {agent.Tool{ID: "x", Kind: "http"}, fault.InvalidRequest},
		"long name":         {agent.Tool{ID: "tool." + strings.Repeat("x", 65), Kind: "http"}, fault.InvalidRequest},
		"schema":            {agent.Tool{ID: "tool.x", Kind: "http", InputSchema: json.RawMessage(`[]`)}, fault.InvalidRequest},
		"config":            {agent.Tool{ID: "tool.x", Kind: "http", Config: json.RawMessage(`"a"`)}, fault.InvalidRequest},
		"refused by a kind": {agent.Tool{ID: "tool.x", Kind: "mcp"}, fault.InvalidRequest},
	} {
		if _, _, _, err := c.PutTool(t.Context(), by("tnt_a"), x.tool); !fault.Is(err, x.code) {
			t.Errorf("%s: %v, want %s", name, err, x.code)
		}
	}
	if got, _, err := c.GetTool(t.Context(), storage.Read{}, "tnt_b", "tool.echo"); err != nil || got.TenantID != "tnt_b" || got.Kind != "builtin" {
		t.Errorf("builtin of another tenant: %+v, %v", got, err)
	}
	if _, _, err := c.GetTool(t.Context(), storage.Read{}, "tnt_b", mine.ID); !fault.Is(err, fault.NotFound) {
		t.Errorf("another's tool: %v", err)
	}
	if _, err := c.DeleteTool(t.Context(), by("tnt_a"), "tool.echo"); !fault.Is(err, fault.Conflict) {
		t.Errorf("deleted a builtin: %v", err)
	}
	if _, err := c.DeleteTool(t.Context(), by("tnt_a"), mine.ID); err != nil {
		t.Error(err)
	}
	if _, _, _, err := c.PutTool(t.Context(), by("tnt_a"), agent.Tool{ID: "tool.crm_lookup", Kind: "http"}); err != nil {
		t.Errorf("the name of a deleted tool stays taken: %v", err)
	}
}

func TestCatalog_Lists(t *testing.T) {
	c, _ := newCatalog(t)
	for i := range 7 {
		if _, _, _, err := c.PutAgent(t.Context(), by("tnt_a"), agent.Agent{ID: fmt.Sprint("agt_", i)}); err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := c.PutTool(t.Context(), by("tnt_a"), agent.Tool{ID: fmt.Sprint("tool.j", i), Kind: "http"}); err != nil {
			t.Fatal(err)
		}
	}
	for _, limit := range []int{1, 2, 3, 9, 500} {
		var agents, tools []string
		cursor := ""
		for {
			list, next, _, err := c.ListAgents(t.Context(), storage.Read{}, "tnt_a", cursor, limit)
			if err != nil || len(list) > limit {
				t.Fatal(len(list), err)
			}
			for _, a := range list {
				agents = append(agents, a.ID)
			}
			if cursor = next; next == "" {
				break
			}
		}
		for {
			list, next, _, err := c.ListTools(t.Context(), storage.Read{}, "tnt_a", cursor, limit)
			if err != nil || len(list) > limit {
				t.Fatal(len(list), err)
			}
			for _, a := range list {
				tools = append(tools, a.ID)
			}
			if cursor = next; next == "" {
				break
			}
		}
		if got := strings.Join(agents, " "); got != "agt_0 agt_1 agt_2 agt_3 agt_4 agt_5 agt_6" {
			t.Errorf("by %d: %s", limit, got)
		}
		if got := strings.Join(tools, " "); got != "tool.echo tool.j0 tool.j1 tool.j2 tool.j3 tool.j4 tool.j5 tool.j6 tool.kv.put" {
			t.Errorf("by %d: %s", limit, got)
		}
	}
	_, cursor, _, err := c.ListAgents(t.Context(), storage.Read{}, "tnt_a", "", 2)
	if err != nil {
		t.Fatal(err)
	}
	for name, do := range map[string]func() error{
		"another tenant's": func() error {
			_, _, _, err := c.ListAgents(t.Context(), storage.Read{}, "tnt_b", cursor, 2)
			return err
		},
		"another list's": func() error {
			_, _, _, err := c.ListTools(t.Context(), storage.Read{}, "tnt_a", cursor, 2)
			return err
		},
		"made up": func() error {
			_, _, _, err := c.ListAgents(t.Context(), storage.Read{}, "tnt_a", "agt_1", 2)
			return err
		},
	} {
		if err := do(); !fault.Is(err, fault.InvalidRequest) || fault.Of(err).Details["field"] != "cursor" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzPosition(f *testing.F) {
	f.Add(agent.Cursor("tnt_a", "agents", "", "agt_1"))
	f.Add("zzzz")
	f.Fuzz(func(t *testing.T, cursor string) {
		at, err := agent.Position(cursor, "tnt_a", "agents", "")
		if err == nil && agent.Cursor("tnt_a", "agents", "", at) != cursor {
			t.Errorf("%q was read as %q, which is another cursor", cursor, at)
		}
	})
}
