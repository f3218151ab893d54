package loop_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nexixai/agentos/agent"
	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/agent/loop"
	"github.com/nexixai/agentos/agent/memory"
	"github.com/nexixai/agentos/agent/queue"
	"github.com/nexixai/agentos/agent/run"
	"github.com/nexixai/agentos/agent/tool"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/model"
	"github.com/nexixai/agentos/model/meter"
	"github.com/nexixai/agentos/model/policy"
	"github.com/nexixai/agentos/model/provider/builtin"
	"github.com/nexixai/agentos/model/route"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/mem"
	"github.com/nexixai/agentos/tenancy"
)

// node is Stack A as it's wired, on a store in memory.
type node struct {
	store   *mem.Store
	runs    *run.Service
	hub     *event.Hub
	memory  *memory.Store
	queue   *queue.Commands
	gateway *model.Gateway
	tools   *tool.Set
	catalog *agent.Catalog
	tenants *tenancy.Directory
}

const agentID = "agt_sample_echo_v1"

// noFetch refuses to leave the house.
type noFetch struct{}

func (noFetch) Do(*http.Request) (*http.Response, error) {
	return nil, fault.New(fault.Forbidden, "The address is not public.")
}

func newNode(tb testing.TB, quotas string) *node {
	tb.Helper()
	reg := storage.NewRegistry()
	tenantCommands, agentCommands := tenancy.Define(reg), agent.Define(reg)
	n := &node{queue: queue.Define(reg)}
	runCommands, memoryCommands := run.Define(reg, tenantCommands, agentCommands), memory.Define(reg)
	n.store = mem.New(mem.Options{Registry: reg})
	n.tenants = tenancy.New(tenancy.Options{Store: n.store, Commands: tenantCommands})
	n.memory = memory.New(memory.Options{Store: n.store, Commands: memoryCommands})
	n.tools = tool.New(tool.Options{Kinds: map[string]tool.Kind{
		tool.KindBuiltin: tool.NewBuiltin(tool.MemoryKV(n.memory), noFetch{}),
	}})
	n.catalog = agent.New(agent.Options{Store: n.store, Commands: agentCommands, Builtins: tool.Builtins(), CheckTool: n.tools.Check})
	n.hub = event.New(event.Options{Store: n.store})
	n.runs = run.New(run.Options{
		Store: n.store, Commands: runCommands, QueueCommands: n.queue,
		StackID: "stk_a", Organization: "acme", Region: "usw2",
	})
	m, err := meter.New(meter.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	n.gateway, err = model.New(model.Options{
		Providers: []model.Provider{builtin.New()}, Policy: policy.New(policy.Options{}), Routes: route.New(route.Options{}), Meter: m, NodeID: "stk_a",
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		n.store.Close()
		n.runs.Close()
		n.hub.Close()
		n.tenants.Close()
	})
	n.store.Start()
	var create tenancy.TenantCreate
	if err := json.Unmarshal(fmt.Appendf(nil, `{"tenant_id":%q,"name":"a","plan_tier":"enterprise","quotas":%s}`, tenantID, quotas), &create); err != nil {
		tb.Fatal(err)
	}
	if _, _, err := n.tenants.EnsureTenant(tb.Context(), create); err != nil {
		tb.Fatal(err)
	}
	var toolIDs []string
	for _, t := range tool.Builtins() {
		toolIDs = append(toolIDs, t.ID)
	}
	a := agent.Agent{ID: agentID, Name: "echo", ModelRef: "tier:fast", ToolIDs: toolIDs}
	if _, _, _, err := n.catalog.PutAgent(tb.Context(), n.actor(), a); err != nil {
		tb.Fatal(err)
	}
	return n
}

func (n *node) actor() tenancy.Actor {
	return tenancy.Actor{Auth: &tenancy.Auth{
		TenantID: tenantID, Principal: tenancy.Principal{ID: "usr_a", Type: tenancy.User},
		Scopes: tenancy.ScopesOf([]tenancy.Role{tenancy.RoleTenantAdmin}), Roles: []tenancy.Role{tenancy.RoleTenantAdmin},
	}, CorrelationID: "corr_a"}
}

// work starts a session and a runtime under a stack id, and returns how to end them: kill leaves everything as it lies.
func (n *node) work(tb testing.TB, stackID string, change func(*loop.Options)) (r *loop.Runtime, stop func()) {
	sessions := queue.New(queue.Options{Store: n.store, Commands: n.queue, StackID: stackID, Region: "usw2", Workers: 64})
	o := loop.Options{
		StackID: stackID, Runs: n.runs, Leases: sessions, Agents: n.catalog, Tenants: n.tenants, Gateway: n.gateway,
		Tools: n.tools, Deltas: n.hub.Delta,
	}
	if change != nil {
		change(&o)
	}
	r = loop.New(o)
	r.Start()
	sessions.Start()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			r.Close()
			sessions.Close()
		})
	}
	tb.Cleanup(stop)
	return r, stop
}

func (n *node) create(tb testing.TB, text string, options run.RunOptions) *run.Run {
	tb.Helper()
	if options.MaxSteps == 0 {
		options.MaxSteps = 30
	}
	if options.TimeoutMS == 0 {
		options.TimeoutMS = 60_000
	}
	options.Priority = "normal"
	r, _, _, err := n.runs.Create(tb.Context(), n.actor(), agentID, run.Request{Input: run.Input{Type: "text", Text: text}, Options: options},
		run.Meta{Traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", CorrelationID: "corr_a"})
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// follow reads a run's events until its end and returns their types, and the run.
func (n *node) follow(tb testing.TB, runID string) (string, *run.Run) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 30*time.Second)
	defer cancel()
	cursor, err := n.hub.Follow(ctx, storage.Read{}, tenantID, runID, 0)
	if err != nil {
		tb.Fatal(err)
	}
	defer cursor.Close()
	var types []string
	for final := false; !final; {
		batch, err := cursor.Next(ctx)
		if err != nil {
			tb.Fatalf("after %v: %v", types, err)
		}
		final = batch.Final
		for line := range strings.SplitSeq(string(batch.Frames), "\n") {
			data, ok := strings.CutPrefix(line, "data: ")
			if !ok || strings.HasPrefix(data, `{"event":{"sequence":null`) { // a delta
				continue
			}
			view, err := event.Scan([]byte(data)) // as another cluster would read it
			if err != nil {
				tb.Errorf("an event that other clusters refuse: %v\n%s", err, data)
			}
			types = append(types, strings.TrimPrefix(strings.TrimPrefix(string(view.Type), "agentos."), "run."))
		}
	}
	r, _, err := n.runs.Get(tb.Context(), storage.Read{}, tenantID, runID)
	if err != nil {
		tb.Fatal(err)
	}
	return strings.Join(types, " "), r
}

// TestRuntime_real drives the loop through the rooms it's made for.
func TestRuntime_real(t *testing.T) {
	n := newNode(t, `{}`)
	n.work(t, "stk_a", nil)
	const modelTurn, toolTurn = "step.started model.requested model.completed step.completed", "step.started tool.call.requested tool.call.completed step.completed"

	t.Run("model, tool, model", func(t *testing.T) {
		types, r := n.follow(t, n.create(t, `/call tool.echo {"a":1}`, run.RunOptions{StreamEvents: true}).ID)
		if want := "created started " + modelTurn + " " + toolTurn + " " + modelTurn + " completed"; types != want {
			t.Errorf("journal\n%s\nwant\n%s", types, want)
		}
		if r.Status != run.Completed || r.Output == nil || r.Output.Text != `{"a":1}` || r.Summary != (run.Summary{Steps: 3, ToolCalls: 1, ModelCalls: 2}) {
			t.Errorf("run %+v output %+v", r, r.Output)
		}
		if r.Usage.TotalTokens == 0 || r.Usage.CostUSD == 0 {
			t.Errorf("usage %+v", r.Usage)
		}
	})
	t.Run("what one run keeps another reads", func(t *testing.T) {
		n.follow(t, n.create(t, `/call tool.kv.put {"key":"k","value":[1,2]}`, run.RunOptions{}).ID)
		_, r := n.follow(t, n.create(t, `/call tool.kv.get {"key":"k"}`, run.RunOptions{}).ID)
		if r.Output == nil || r.Output.Text != `{"value":[1,2]}` {
			t.Errorf("output %+v", r.Output)
		}
	})
	t.Run("a tool that fails, and one that isn't there", func(t *testing.T) {
		types, r := n.follow(t, n.create(t, "/call tool.http.fetch {\"url\":\"http://10.0.0.1/\"}\n/call tool.nothing {}\n/say went on", run.RunOptions{}).ID)
		if r.Status != run.Completed || r.Output.Text != "went on" || strings.Count(types, "tool.call.completed") != 2 {
			t.Errorf("%s %+v", types, r.Output)
		}
	})
	t.Run("errors end runs with their codes", func(t *testing.T) {
		for input, code := range map[string]string{"/error policy_blocked": "policy_blocked", "/error invalid_request": "invalid_request"} {
			_, r := n.follow(t, n.create(t, input, run.RunOptions{}).ID)
			if r.Status != run.Failed || r.Error.Code != code {
				t.Errorf("%s: %+v", input, r.Error)
			}
		}
		_, r := n.follow(t, n.create(t, "/call tool.echo {}\n/call tool.echo {}", run.RunOptions{MaxSteps: 2}).ID)
		if r.Status != run.Failed || r.Error.Code != "step_limit" || r.Summary.Steps != 2 {
			t.Errorf("step limit: %+v %+v", r.Error, r.Summary)
		}
		_, r = n.follow(t, n.create(t, "/wait 1m", run.RunOptions{TimeoutMS: 300}).ID)
		if r.Status != run.Failed || r.Error.Code != "timeout" || r.CompletedAt.Sub(r.CreatedAt) > 2*time.Second {
			t.Errorf("deadline: %+v after %v", r.Error, r.CompletedAt.Sub(r.CreatedAt))
		}
	})
	t.Run("a cancel is prompt", func(t *testing.T) {
		r := n.create(t, "/wait 1m", run.RunOptions{})
		n.await(t, r.ID, event.ModelRequested)
		if _, _, _, err := n.runs.Cancel(t.Context(), n.actor(), r.ID); err != nil {
			t.Fatal(err)
		}
		types, r := n.follow(t, r.ID)
		if r.Status != run.Canceled || r.CompletedAt.Sub(*r.CancelRequestedAt) > time.Second {
			t.Errorf("%s, %v after it was asked", r.Status, r.CompletedAt.Sub(*r.CancelRequestedAt))
		}
		if !strings.HasSuffix(types, "model.requested cancel_requested model.completed step.completed canceled") {
			t.Error(types)
		}
	})
	t.Run("long output", func(t *testing.T) {
		_, r := n.follow(t, n.create(t, "/tokens 60000", run.RunOptions{}).ID)
		if r.Status != run.Completed || !r.Output.Truncated {
			t.Errorf("%s %+v", r.Status, r.Error)
		}
	})
}

// await waits until a run's journal has an event of a type.
func (n *node) await(tb testing.TB, runID string, t event.Type) {
	tb.Helper()
	cursor, err := n.hub.Follow(tb.Context(), storage.Read{}, tenantID, runID, 0)
	if err != nil {
		tb.Fatal(err)
	}
	defer cursor.Close()
	for {
		batch, err := cursor.Next(tb.Context())
		if err != nil {
			tb.Fatal(err)
		}
		if strings.Contains(string(batch.Frames), string(t)) {
			return
		}
	}
}

// TestRuntime_handover: a node that drains, and one that dies, leave runs that another ends.
//
// Requirements: N6.
func TestRuntime_handover(t *testing.T) {
	for _, how := range []string{"drain", "death"} {
		t.Run(how, func(t *testing.T) {
			n := newNode(t, `{}`)
			first, stop := n.work(t, "stk_a", nil)
			r := n.create(t, "/call tool.echo {\"a\":1}\n/wait 2s\n/say done", run.RunOptions{})
			n.await(t, r.ID, event.ToolCallCompleted)
			n.work(t, "stk_b", nil)
			if how == "drain" {
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				if err := first.Drain(ctx); err != nil {
					t.Fatal(err)
				}
			}
			stop()
			types, done := n.follow(t, r.ID)
			if done.Status != run.Completed || done.Output.Text != "done" {
				t.Errorf("%s %+v", done.Status, done.Error)
			}
			if strings.Count(types, "tool.call.requested") != 1 || strings.Count(types, " started") != 2 {
				t.Error(types)
			}
		})
	}
}

// TestRuntime_budget: runs never spend more than the tenant's budget, and what is refused is refused with the contract's code.
//
// Requirements: B6.
func TestRuntime_budget(t *testing.T) {
	n := newNode(t, `{"models":{"token_budget":{"window":"day","max_tokens":200}}}`)
	n.work(t, "stk_a", nil)
	var ids []string
	for range 40 {
		ids = append(ids, n.create(t, "one two three four five six seven eight", run.RunOptions{}).ID)
	}
	spent, refused := int64(0), 0
	for _, runID := range ids {
		_, r := n.follow(t, runID)
		spent += r.Usage.TotalTokens
		switch {
		case r.Status == run.Completed:
		case r.Error.Code == "quota_exceeded":
			refused++
		default:
			t.Errorf("%+v", r.Error)
		}
	}
	if spent > 200 || refused == 0 || spent == 0 {
		t.Errorf("spent %d of 200, %d refused", spent, refused)
	}
}

// TestRuntime_toolRate: runs wait for the tenant's tool rate, and fail nothing.
//
// Requirements: T4.
func TestRuntime_toolRate(t *testing.T) {
	n := newNode(t, `{"tools":{"tool_calls_per_minute":1}}`)
	n.work(t, "stk_a", nil)
	r := n.create(t, "/call tool.echo {}\n/call tool.echo {}\n/say on", run.RunOptions{TimeoutMS: 5000})
	_, done := n.follow(t, r.ID)
	if done.Status != run.Completed || done.Output.Text != "on" {
		t.Errorf("%s %+v", done.Status, done.Error)
	}
}

// BenchmarkRuntime_real measures three-step runs through everything but disk and wire.
func BenchmarkRuntime_real(b *testing.B) {
	n := newNode(b, `{}`)
	n.work(b, "stk_a", nil)
	b.ReportAllocs()
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			n.follow(b, n.create(b, `/call tool.echo {"a":1}`, run.RunOptions{}).ID)
		}
	})
}
