package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/nexixai/agentos/agent"
	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/agent/loop"
	"github.com/nexixai/agentos/agent/memory"
	"github.com/nexixai/agentos/agent/queue"
	"github.com/nexixai/agentos/agent/run"
	"github.com/nexixai/agentos/agent/tool"
	"github.com/nexixai/agentos/api"
	"github.com/nexixai/agentos/api/openai"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/model"
	"github.com/nexixai/agentos/model/meter"
	"github.com/nexixai/agentos/model/policy"
	"github.com/nexixai/agentos/model/provider/builtin"
	"github.com/nexixai/agentos/model/route"
	"github.com/nexixai/agentos/peer/cluster"
	"github.com/nexixai/agentos/peer/contact"
	"github.com/nexixai/agentos/peer/forward"
	"github.com/nexixai/agentos/peer/pairing"
	"github.com/nexixai/agentos/peer/placement"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/peer/trust/trusttest"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/mem"
	"github.com/nexixai/agentos/storage/replica"
	"github.com/nexixai/agentos/tenancy"
	"github.com/nexixai/agentos/tenancy/audit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// heartbeat is the node's.
const heartbeat = 15 * time.Second

// world is a whole node on a store in memory, with the door before it and two tenants in it, tnt_a and tnt_b.
type world struct {
	t        testing.TB
	store    *mem.Store
	tenants  *tenancy.Directory
	runs     *run.Service
	memory   *memory.Store
	catalog  *agent.Catalog
	sets     *policy.Rulesets
	cut      storage.Call[cutArgs, struct{}]
	peerings *pairing.Service
	routes   *placement.Routes
	others   *others
	door     *api.Server
	org      trusttest.Org
	// federation is where the federation door is to be found, if it's open.
	federation string

	mu      sync.Mutex
	seen    []api.Observation
	refused []audit.Record
}

// cutArgs removes events of a run, as retention does.
type cutArgs struct {
	TenantID, RunID string
	Before          uint64
}

// Refused implements the door's Denials.
func (w *world) Refused(r audit.Record) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refused = append(w.refused, r)
}

func (w *world) observe(o api.Observation) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = append(w.seen, o)
}

// nobody is a cluster that always says yes.
type nobody struct{}

func (nobody) RotateGossip(context.Context, tenancy.Actor) error { return nil }

func (nobody) Backup(context.Context, tenancy.Actor) (*replica.Backup, error) {
	return &replica.Backup{ReadCloser: io.NopCloser(strings.NewReader("all")), Index: 1, Size: 3}, nil
}

func (nobody) Describe(context.Context) *cluster.Description {
	return &cluster.Description{ClusterID: "clu_a"}
}

func (nobody) CreateToken(context.Context, tenancy.Actor, time.Duration, int) (*cluster.Token, bool, uint64, error) {
	return &cluster.Token{ID: "tok_a"}, false, 1, nil
}

func (nobody) Transfer(context.Context, tenancy.Actor, string) (bool, uint64, error) {
	return false, 1, nil
}

func (nobody) SetState(context.Context, tenancy.Actor, string, registry.MemberState) (*registry.Member, bool, uint64, error) {
	return &registry.Member{}, false, 1, nil
}

func (nobody) Allow(string) error { return nil }

func (nobody) Join(context.Context, string, string, []byte) (*cluster.JoinAnswer, error) {
	return &cluster.JoinAnswer{ClusterID: "clu_a"}, nil
}

// others are the nodes around, and how they stand to acme.
type others struct {
	mu   sync.Mutex
	list []placement.Peer
}

func (o *others) Nodes() []placement.Node {
	return []placement.Node{{StackID: "stk_a", Region: "local"}}
}

func (o *others) Peers() (list []registry.Peer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range o.list {
		list = append(list, o.list[i].Peer)
	}
	return list
}

func (o *others) ByID(peeringID string) (registry.Peering, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range o.list {
		if o.list[i].PeeringID == peeringID {
			return *o.list[i].Peering, true
		}
	}
	return registry.Peering{}, false
}

// acquaintances are a book with one peer.
type acquaintances struct{}

func (acquaintances) All() []registry.Peer {
	return []registry.Peer{{
		Info: registry.Info{StackID: "stk_a", Organization: "globex"}, Source: registry.FromPeering, State: registry.PeerAdmitted, PeeringID: "prg_a",
		Capabilities: &registry.Capabilities{
			Grants: []registry.Grant{{TenantID: "tnt_b", LocalTenantID: "tnt_x"}}, Agents: []registry.AgentOffered{{ID: "agt_theirs"}},
		},
	}}
}

func (acquaintances) Unreachable() []contact.Unreachable { return nil }

func (acquaintances) Ping(context.Context, string) (*contact.Pong, error) {
	return &contact.Pong{}, nil
}

// noFetch refuses to leave the house.
type noFetch struct{}

func (noFetch) Do(*http.Request) (*http.Response, error) {
	return nil, fault.New(fault.Forbidden, "The address is not public.")
}

// newWorld wires a node of acme. change may alter the door's options.
func newWorld(t testing.TB, change func(*api.Options)) *world {
	t.Helper()
	return newWorldOf(t, "acme", change)
}

// newWorldOf wires a node of an organisation.
func newWorldOf(t testing.TB, organization string, change func(*api.Options)) *world {
	t.Helper()
	reg := storage.NewRegistry()
	tenantCommands, agentCommands, memoryCommands, queueCommands := tenancy.Define(reg), agent.Define(reg), memory.Define(reg), queue.Define(reg)
	modelCommands, policyCommands, meterCommands := model.Define(reg), policy.Define(reg), meter.Define(reg)
	memberCommands, peeringCommands := registry.Define(reg), registry.DefinePeerings(reg)
	runCommands, routeCommands := run.Define(reg, tenantCommands, agentCommands), placement.Define(reg)
	forwardCommands := forward.Define(reg, runCommands)
	w := &world{t: t, org: trusttest.New(t, organization+".test"), federation: "127.0.0.1:8421"}
	w.cut = storage.Define(reg, "test.cut", func(tx storage.Tx, a cutArgs) (none struct{}, err error) {
		tx.DeleteRange(storage.Range{From: event.Key(a.TenantID, a.RunID, 0), To: event.Key(a.TenantID, a.RunID, a.Before)})
		return none, nil
	})
	w.store = mem.New(mem.Options{Registry: reg})
	record := registry.Cluster{ID: "clu_" + organization, Organization: organization, TrustDomain: w.org.CA.TrustDomain(), CA: w.org.CA.CertificatePEM()}
	w.peerings = pairing.New(pairing.Options{
		Store: w.store, Commands: peeringCommands, Denials: w, Cluster: func() registry.Cluster { return record },
		Addresses: func() []string { return []string{w.federation} },
	})
	w.tenants = tenancy.New(tenancy.Options{Store: w.store, Commands: tenantCommands})
	w.memory = memory.New(memory.Options{Store: w.store, Commands: memoryCommands})
	w.sets = policy.NewRulesets(w.store, policyCommands)
	tariff, err := meter.New(meter.Options{})
	w.must(err)
	prices := meter.NewPrices(meter.PricesOptions{Store: w.store, Commands: meterCommands, Meter: tariff})
	gateway, err := model.New(model.Options{
		Providers: []model.Provider{builtin.New()}, Policy: policy.New(policy.Options{Lookup: w.sets.Lookup}), Routes: route.New(route.Options{}),
		Meter: tariff, Budget: model.NewLedger(w.store, modelCommands), NodeID: "stk_a",
	})
	w.must(err)
	tools := tool.New(tool.Options{Kinds: map[string]tool.Kind{
		tool.KindBuiltin: tool.NewBuiltin(tool.MemoryKV(w.memory), noFetch{}), tool.KindHTTP: tool.NewWebhook(noFetch{}),
	}})
	w.catalog = agent.New(agent.Options{Store: w.store, Commands: agentCommands, Builtins: tool.Builtins(), CheckTool: tools.Check})
	w.routes, w.others = placement.NewRoutes(placement.RoutesOptions{Store: w.store, Commands: routeCommands}), new(others)
	placer := placement.New(placement.Options{
		Routes: w.routes, Agents: w.catalog, Nodes: w.others, Peers: w.others, Peerings: w.others, StackID: "stk_a", Organization: "acme",
	})
	hub := event.New(event.Options{Store: w.store, Heartbeat: heartbeat})
	sessions := queue.New(queue.Options{Store: w.store, Commands: queueCommands, StackID: "stk_a", Region: "local", Workers: 16})
	w.runs = run.New(run.Options{
		Store: w.store, Commands: runCommands, QueueCommands: queueCommands, StackID: "stk_a", Organization: "acme", Region: "local", Session: sessions, Policy: gateway, Placer: placer,
	})
	runtime := loop.New(loop.Options{
		StackID: "stk_a", Runs: w.runs, Leases: sessions, Agents: w.catalog, Tenants: w.tenants, Gateway: gateway, Tools: tools, Deltas: hub.Delta,
	})
	o := api.Options{
		Executor: forward.NewExecutor(forward.ExecutorOptions{Store: w.store, Commands: forwardCommands, Runs: w.runs, ClusterID: record.ID}),
		Store:    w.store, Tenants: w.tenants, Runs: w.runs, Events: hub, Catalog: w.catalog, Memory: w.memory, Models: gateway, Rulesets: w.sets, Prices: prices,
		Cluster: nobody{}, Peers: acquaintances{}, Peerings: w.peerings, Routes: w.routes, Placement: placer, OpenAI: openai.Dialect{}, Denials: w, Observe: w.observe,
		About: api.About{Version: "1.0", StackID: "stk_a", Organization: "acme", MaxConcurrentRuns: 16, Capabilities: map[string]bool{"events_stream": true}},
	}
	if change != nil {
		change(&o)
	}
	w.door, err = api.New(o)
	w.must(err)
	w.store.Start()
	runtime.Start()
	sessions.Start()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		w.door.Drain(ctx)
		runtime.Close()
		sessions.Close()
		w.runs.Close()
		prices.Close()
		gateway.Close()
		hub.Close()
		w.routes.Close()
		w.store.Close()
		w.tenants.Close()
	})
	_, _, err = memberCommands.Init.Do(t.Context(), w.store, "", record)
	w.must(err)
	w.furnish()
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// furnish makes two tenants, and in tnt_a one object of each kind.
func (w *world) furnish() {
	w.t.Helper()
	for _, tenantID := range []string{"tnt_a", "tnt_b"} {
		var create tenancy.TenantCreate
		w.must(json.Unmarshal(fmt.Appendf(nil, `{"tenant_id":%q,"name":"n","plan_tier":"enterprise","quotas":{}}`, tenantID), &create))
		_, _, err := w.tenants.EnsureTenant(w.t.Context(), create)
		w.must(err)
	}
	by := actor("tnt_a")
	_, _, _, err := w.catalog.PutAgent(w.t.Context(), by, agent.Agent{ID: "agt_a", Name: "a", ModelRef: "tier:fast", ToolIDs: []string{"tool.echo"}})
	w.must(err)
	_, _, _, err = w.catalog.PutTool(w.t.Context(), by, agent.Tool{ID: "tool.mine", Kind: "http", Config: json.RawMessage(`{"url":"https://example.com/hook"}`)})
	w.must(err)
	_, _, _, err = w.memory.Put(w.t.Context(), by, memory.Write{Namespace: "notes", Key: "k", Value: json.RawMessage(`"a note"`)})
	w.must(err)
	_, _, _, err = w.sets.Put(w.t.Context(), by, policy.Ruleset{ID: "pol_a"})
	w.must(err)
	_, _, _, err = w.routes.Put(w.t.Context(), by, placement.Route{ID: "rte_a", Match: placement.Match{AgentID: "agt_far"}, Targets: []placement.Target{{Organization: "globex"}}})
	w.must(err)
	_, _, _, err = w.peerings.Invite(w.t.Context(), by, pairing.Wish{PeeringID: "prg_a"})
	w.must(err)
}

func actor(tenantID string) tenancy.Actor {
	roles := []tenancy.Role{tenancy.RolePlatformAdmin}
	return tenancy.Actor{Auth: &tenancy.Auth{
		TenantID: tenantID, HomeTenantID: tenantID, Principal: tenancy.Principal{ID: "usr_root", Type: tenancy.User}, Roles: roles, Scopes: tenancy.ScopesOf(roles),
	}, CorrelationID: "corr_test"}
}

// key issues a key in a tenant. No scopes means all that the role gives.
func (w *world) key(tenantID string, role tenancy.Role, scopes ...tenancy.Scope) (secret, keyID string) {
	w.t.Helper()
	k, _, _, err := w.tenants.IssueKey(w.t.Context(), actor(tenantID), tenantID, tenancy.KeyCreate{
		PrincipalID: "usr_" + string(role), PrincipalType: tenancy.User, Roles: []tenancy.Role{role}, Scopes: scopes,
	})
	w.must(err)
	return k.Secret, k.ID
}

// create makes a run of tnt_a.
func (w *world) create(text string) string {
	w.t.Helper()
	r, _, _, err := w.runs.Create(w.t.Context(), actor("tnt_a"), "agt_a", run.Request{
		Input: run.Input{Type: "text", Text: text}, Options: run.RunOptions{StreamEvents: true},
	}, run.Meta{Traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", CorrelationID: "corr_test"})
	w.must(err)
	return r.ID
}

// answer is what the door said.
type answer struct {
	*http.Response
	raw  []byte
	body map[string]any
}

func (a *answer) code() string {
	e, _ := a.body["error"].(map[string]any)
	code, _ := e["code"].(string)
	return code
}

func (a *answer) field() any {
	e, _ := a.body["error"].(map[string]any)
	details, _ := e["details"].(map[string]any)
	return details["field"]
}

// request is one to be sent; the zero value of what isn't needed.
type request struct {
	method, path, key, body string
	header                  http.Header
	reader                  io.Reader // instead of body, of unknown length
}

// do asks the door without a network between, and checks what must be true of every answer.
func (w *world) do(q request) *answer {
	w.t.Helper()
	body := q.reader
	if body == nil {
		body = strings.NewReader(q.body)
	}
	r := httptest.NewRequest(q.method, q.path, body)
	r.ContentLength = int64(len(q.body))
	if q.reader != nil {
		r.ContentLength = -1
	}
	r.Header.Set("Content-Type", "application/json")
	for name, values := range q.header {
		r.Header[name] = values
	}
	if q.key != "" {
		r.Header.Set("Authorization", "Bearer "+q.key)
	}
	rec := httptest.NewRecorder()
	w.door.Handler().ServeHTTP(rec, r)
	return w.check(q, rec.Result())
}

// check reads an answer and what the contract says of all of them.
func (w *world) check(q request, resp *http.Response) *answer {
	w.t.Helper()
	a := &answer{Response: resp}
	var err error
	if a.raw, err = io.ReadAll(resp.Body); err != nil {
		w.t.Errorf("%s %s: %v", q.method, q.path, err)
	}
	for _, name := range []string{"X-Request-Id", "X-Correlation-Id", "X-Agentos-Index"} {
		if resp.Header.Get(name) == "" {
			w.t.Errorf("%s %s: %d without %s", q.method, q.path, resp.StatusCode, name)
		}
	}
	kind := resp.Header.Get("Content-Type")
	if !strings.HasSuffix(kind, "json") || len(a.raw) == 0 {
		return a
	}
	d := json.NewDecoder(bytes.NewReader(a.raw))
	d.UseNumber()
	if err := d.Decode(&a.body); err != nil {
		w.t.Errorf("%s %s: %v in %s", q.method, q.path, err, a.raw)
	}
	if a.body["correlation_id"] != resp.Header.Get("X-Correlation-Id") {
		w.t.Errorf("%s %s: correlation_id %v, header %q", q.method, q.path, a.body["correlation_id"], resp.Header.Get("X-Correlation-Id"))
	}
	if tenantID := resp.Header.Get("X-Tenant-Id"); tenantID != "" && a.body["tenant_id"] != tenantID {
		w.t.Errorf("%s %s: tenant_id %v, header %q", q.method, q.path, a.body["tenant_id"], tenantID)
	}
	if resp.StatusCode >= 400 && kind == "application/json" {
		e, _ := a.body["error"].(map[string]any)
		message, _ := e["message"].(string)
		_, details := e["details"].(map[string]any)
		_, retryable := e["retryable"].(bool)
		if a.code() == "" || message == "" || !details || !retryable {
			w.t.Errorf("%s %s: %d with the error %s", q.method, q.path, resp.StatusCode, a.raw)
		}
	}
	return a
}

// refuse asks and wants an error.
func (w *world) refuse(status int, code string, q request) *answer {
	w.t.Helper()
	a := w.do(q)
	if a.StatusCode != status || a.code() != code {
		w.t.Errorf("%s %s: %d %s, want %d %s", q.method, q.path, a.StatusCode, a.raw, status, code)
	}
	return a
}

// want asks and wants success with this status.
func (w *world) want(status int, q request) *answer {
	w.t.Helper()
	a := w.do(q)
	if a.StatusCode != status {
		w.t.Errorf("%s %s: %d %s, want %d", q.method, q.path, a.StatusCode, a.raw, status)
	}
	return a
}
