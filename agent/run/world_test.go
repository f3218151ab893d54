package run_test

import (
	"context"
	"encoding/json"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nexixai/agentos/agent"
	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/agent/queue"
	"github.com/nexixai/agentos/agent/run"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/mem"
	"github.com/nexixai/agentos/tenancy"
)

const (
	tenantID = "tnt_demo"
	agentID  = "agt_echo"
	stackID  = "stk_one"
)

// world is a node's store side on a store in memory.
type world struct {
	reg      *storage.Registry
	store    *mem.Store
	tenants  *tenancy.Directory
	catalog  *agent.Catalog
	runs     *run.Service
	hub      *event.Hub
	queue    *queue.Commands
	commands *run.Commands
	session  *fakeSession
	ahead    atomic.Int64 // of the store's clock, against the true time
	// group does many commands as one group, as an engine's writer does.
	group   storage.Call[[]storage.Command, struct{}]
	writing time.Duration // spent in group
}

// fakeSession is a session whose node does nothing by itself.
type fakeSession struct {
	id   string
	free int
}

func (f *fakeSession) ID() string { return f.id }
func (f *fakeSession) Free() int  { return f.free }

// mustWorld makes a world with one tenant (quotas as given) and one agent. The store's duties don't run until Start.
func mustWorld(tb testing.TB, quotas tenancy.Quotas, change ...func(*run.Options)) *world {
	tb.Helper()
	w := &world{reg: storage.NewRegistry(), session: &fakeSession{}}
	tenantCommands := tenancy.Define(w.reg)
	agentCommands := agent.Define(w.reg)
	w.queue = queue.Define(w.reg)
	w.commands = run.Define(w.reg, tenantCommands, agentCommands)
	w.group = storage.Define(w.reg, "test.group", func(tx storage.Tx, cmds []storage.Command) (none struct{}, err error) {
		began := time.Now()
		defer func() { w.writing += time.Since(began) }()
		for _, cmd := range cmds {
			if _, err := w.reg.Evaluate(tx.(*storage.Group), cmd); err != nil {
				return none, err
			}
		}
		return none, nil
	})
	w.store = mem.New(mem.Options{Registry: w.reg, Now: func() time.Time { return time.Now().Add(time.Duration(w.ahead.Load())) }})
	w.tenants = tenancy.New(tenancy.Options{Store: w.store, Commands: tenantCommands})
	w.catalog = agent.New(agent.Options{Store: w.store, Commands: agentCommands})
	w.hub = event.New(event.Options{Store: w.store})
	o := run.Options{
		Store: w.store, Commands: w.commands, QueueCommands: w.queue,
		StackID: stackID, Organization: "acme", Region: "usw2", Session: w.session,
	}
	for _, f := range change {
		f(&o)
	}
	w.runs = run.New(o)
	tb.Cleanup(func() {
		w.store.Close()
		w.runs.Close()
		w.hub.Close()
		w.tenants.Close()
	})
	mustTenant(tb, w, tenantID, quotas)
	if _, _, _, err := w.catalog.PutAgent(tb.Context(), actor(tenantID), agent.Agent{ID: agentID}); err != nil {
		tb.Fatal(err)
	}
	return w
}

func mustTenant(tb testing.TB, w *world, id string, quotas tenancy.Quotas) {
	tb.Helper()
	raw, err := json.Marshal(map[string]any{"tenant_id": id, "name": id, "plan_tier": "enterprise", "quotas": quotas})
	if err != nil {
		tb.Fatal(err)
	}
	var create tenancy.TenantCreate
	if err := json.Unmarshal(raw, &create); err != nil {
		tb.Fatal(err)
	}
	if _, _, err := w.tenants.EnsureTenant(tb.Context(), create); err != nil {
		tb.Fatal(err)
	}
}

func actor(tenant string) tenancy.Actor {
	return tenancy.Actor{Auth: &tenancy.Auth{
		TenantID:  tenant,
		Principal: tenancy.Principal{ID: "usr_one", Type: tenancy.User},
		Scopes:    tenancy.ScopesOf([]tenancy.Role{tenancy.RoleTenantAdmin}),
		Roles:     []tenancy.Role{tenancy.RoleTenantAdmin},
	}, CorrelationID: "corr_test"}
}

func text(s string) run.Request { return run.Request{Input: run.Input{Type: "text", Text: s}} }

const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

var meta = run.Meta{Traceparent: traceparent, CorrelationID: "corr_test"}

func (w *world) mustCreate(tb testing.TB, req run.Request) *run.Run {
	tb.Helper()
	r, _, _, err := w.runs.Create(tb.Context(), actor(tenantID), agentID, req, meta)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// mustOpen opens a session with so many workers at once, as a node would.
func (w *world) mustOpen(tb testing.TB, stack string, workers int) *queue.Sessions {
	tb.Helper()
	start := time.Now()
	s := queue.New(queue.Options{
		Store: w.store, Commands: w.queue, StackID: stack, Region: "usw2", Workers: workers,
		Boot: func() time.Duration { return time.Since(start) },
	})
	s.Start()
	tb.Cleanup(s.Close)
	return s
}

func draft(t event.Type, payload string) event.Draft {
	return event.Draft{ID: id.New(id.Event), Type: t, StepID: id.New(id.Step), Payload: json.RawMessage(payload)}
}

func (w *world) get(ctx context.Context, tb testing.TB, runID string) *run.Run {
	tb.Helper()
	r, _, err := w.runs.Get(ctx, storage.Read{}, tenantID, runID)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// mustSession opens a session in the store that nobody keeps, and returns its id.
func (w *world) mustSession(tb testing.TB, stack string, workers int) string {
	tb.Helper()
	session := id.New(id.Session)
	err := w.queue.Open(tb.Context(), w.store, queue.Session{ID: session, StackID: stack, Region: "usw2", Workers: workers, TTL: time.Minute})
	if err != nil {
		tb.Fatal(err)
	}
	return session
}

// mustLease makes a run that's leased to a session nobody keeps.
func (w *world) mustLease(tb testing.TB, req run.Request) run.Lease {
	tb.Helper()
	return w.mustLeaseOf(tb, 1000, req)
}

func (w *world) mustLeaseOf(tb testing.TB, workers int, req run.Request) run.Lease {
	tb.Helper()
	w.session.id, w.session.free = w.mustSession(tb, stackID, workers), 1
	r := w.mustCreate(tb, req)
	return run.Lease{TenantID: tenantID, RunID: r.ID, SessionID: w.session.id, Epoch: 1}
}
