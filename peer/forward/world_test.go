package forward_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nexixai/agentos/agent"
	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/agent/queue"
	"github.com/nexixai/agentos/agent/run"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/peer/forward"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/peer/trust"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/mem"
	"github.com/nexixai/agentos/tenancy"
)

const (
	tenantID = "tnt_demo"
	agentID  = "agt_there"
)

// cell is one organisation's cluster on a store in memory, without workers.
type cell struct {
	name     string
	store    *mem.Store
	tenants  *tenancy.Directory
	catalog  *agent.Catalog
	runs     *run.Service
	hub      *event.Hub
	queue    *queue.Commands
	executor *forward.Executor
	put      storage.Call[[2]string, struct{}]
	asked    asked
}

// counted counts the offers that took a command of their own.
type counted struct {
	*run.Service
	offers atomic.Int64
}

func (c *counted) Offer(ctx context.Context, l run.Lease, target int, stackID, offerID string) error {
	c.offers.Add(1)
	return c.Service.Offer(ctx, l, target, stackID, offerID)
}

// asked is the session of the node that is asked for runs; none until one is set.
type asked struct {
	at atomic.Pointer[queue.Sessions]
}

func (a *asked) ID() string {
	if s := a.at.Load(); s != nil {
		return s.ID()
	}
	return ""
}
func (*asked) Free() int { return 0 }

// away sends every run to globex; live says that it answers, finalAck that it's told how runs end.
type away struct {
	lostAfterMS    int64
	live, finalAck bool
}

func (a away) Place(context.Context, run.Placing, bool) (*run.Placed, error) {
	return &run.Placed{RouteID: "rte_1", Live: a.live, Targets: []run.Target{{
		PeeringID: "prg_1", Organization: "globex", ClusterID: "clu_globex", StackID: "stk_globex_1", TenantID: tenantID, LostAfterMS: a.lostAfterMS, FinalAck: a.finalAck,
	}}}, nil
}

func newCell(t *testing.T, name string, placer run.Placer) *cell {
	t.Helper()
	reg := storage.NewRegistry()
	c := &cell{name: name}
	tenantCommands, agentCommands := tenancy.Define(reg), agent.Define(reg)
	c.queue = queue.Define(reg)
	runCommands := run.Define(reg, tenantCommands, agentCommands)
	commands := forward.Define(reg, runCommands)
	c.put = storage.Define(reg, "test.put", func(tx storage.Tx, kv [2]string) (struct{}, error) {
		tx.Set(kv[0], []byte(kv[1]))
		return struct{}{}, nil
	})
	c.store = mem.New(mem.Options{Registry: reg})
	c.tenants = tenancy.New(tenancy.Options{Store: c.store, Commands: tenantCommands})
	c.catalog = agent.New(agent.Options{Store: c.store, Commands: agentCommands})
	c.hub = event.New(event.Options{Store: c.store, Heartbeat: 20 * time.Millisecond})
	c.runs = run.New(run.Options{
		Store: c.store, Commands: runCommands, QueueCommands: c.queue, StackID: "stk_" + name + "_1", Organization: name, Region: "r1",
		Session: &c.asked, Placer: placer, Grace: time.Second,
	})
	c.executor = forward.NewExecutor(forward.ExecutorOptions{Store: c.store, Commands: commands, Runs: c.runs, ClusterID: "clu_" + name})
	t.Cleanup(func() {
		c.store.Close()
		c.runs.Close()
		c.hub.Close()
		c.tenants.Close()
	})
	raw := json.RawMessage(`{"tenant_id":"` + tenantID + `","name":"demo","plan_tier":"enterprise"}`)
	var create tenancy.TenantCreate
	if err := json.Unmarshal(raw, &create); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.tenants.EnsureTenant(t.Context(), create); err != nil {
		t.Fatal(err)
	}
	c.keep(t, &acmePeering)
	c.store.Start()
	return c
}

// keep puts a peering into the cell's store.
func (c *cell) keep(t *testing.T, p *registry.Peering) {
	t.Helper()
	raw, err := json.Marshal(p)
	if err == nil {
		_, _, err = c.put.Do(t.Context(), c.store, "", [2]string{"peerings/records/" + p.ID, string(raw)})
	}
	if err != nil {
		t.Fatal(err)
	}
}

var acmePeering = registry.Peering{
	ID: "prg_acme", Organization: "acme", TrustDomain: "acme.example", ClusterID: "clu_acme", State: registry.PeeringActive,
	Exports: []registry.Grant{{TenantID: tenantID, LocalTenantID: tenantID, Scopes: []tenancy.Scope{tenancy.RunsCreate, tenancy.RunsRead, tenancy.RunsCancel}}},
}

func actor() tenancy.Actor {
	return tenancy.Actor{Auth: &tenancy.Auth{
		TenantID: tenantID, Principal: tenancy.Principal{ID: "usr_one", Type: tenancy.User},
		Scopes: tenancy.ScopesOf([]tenancy.Role{tenancy.RoleTenantAdmin}),
	}, CorrelationID: "corr_1"}
}

const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// pair is acme, whose runs go to globex, and globex, which has the agent.
type pair struct {
	acme, globex *cell
	runs         *counted // acme's
	wire         *wire
	peers        *peers
}

func newPair(t *testing.T, a away) *pair {
	t.Helper()
	p := &pair{acme: newCell(t, "acme", a), globex: newCell(t, "globex", nil), peers: new(peers)}
	if _, _, _, err := p.globex.catalog.PutAgent(t.Context(), actor(), agent.Agent{ID: agentID}); err != nil {
		t.Fatal(err)
	}
	p.runs = &counted{Service: p.acme.runs}
	p.wire = &wire{to: p.globex}
	p.peers.set(true)
	return p
}

// node is a node of acme's that relays.
func (p *pair) node(t *testing.T, name string) (stop func()) {
	t.Helper()
	began := time.Now()
	sessions := queue.New(queue.Options{
		Store: p.acme.store, Commands: p.acme.queue, StackID: name, Region: "r1", Workers: 1, TTL: time.Second, Boot: func() time.Duration { return time.Since(began) },
	})
	f := forward.New(forward.Options{
		Runs: p.runs, Leases: sessions, Peers: p.peers, Wire: p.wire, ClusterID: "clu_acme", StackID: "stk_acme_1", Deltas: p.acme.hub.Delta,
	})
	p.acme.asked.at.Store(sessions)
	sessions.Start()
	f.Start()
	stop = sync.OnceFunc(func() { f.Close(); sessions.Close() })
	t.Cleanup(stop)
	return stop
}

// execute is globex's worker: it begins every run that it is leased, and does with it what work says.
func (p *pair) execute(t *testing.T, work func(w *worker)) {
	t.Helper()
	began := time.Now()
	sessions := queue.New(queue.Options{
		Store: p.globex.store, Commands: p.globex.queue, StackID: "stk_globex_1", Region: "r1", Workers: 100, Boot: func() time.Duration { return time.Since(began) },
	})
	sessions.Start()
	var all sync.WaitGroup
	all.Go(func() {
		for l := range sessions.Leases() {
			all.Go(func() { work(&worker{t: t, c: p.globex, lease: l}) })
		}
	})
	t.Cleanup(func() { sessions.Close(); all.Wait() })
}

// worker writes one run's journal.
type worker struct {
	t     *testing.T
	c     *cell
	lease run.Lease
	last  uint64
}

// add appends an event; it reports whether that was still possible.
func (w *worker) add(kind event.Type, payload string) bool {
	if w.last == 0 {
		work, err := w.c.runs.Load(context.Background(), w.lease)
		if err != nil {
			return false
		}
		w.last = uint64(len(work.Journal))
	}
	a := run.Append{Lease: w.lease, After: w.last, Events: []event.Draft{{ID: id.New(id.Event), Type: kind, Payload: json.RawMessage(payload)}}}
	last, err := w.c.runs.Append(context.Background(), a)
	var f *fault.Error
	if errors.As(err, &f) && f.Details["last_sequence"] != nil {
		w.last = 0
		return w.add(kind, payload)
	}
	w.last = last
	return err == nil
}

func (w *worker) finish() {
	if w.add(event.RunStarted, `{"status":"running","stack_id":"stk_globex_1","attempt":1}`) {
		w.add(event.RunCompleted, `{"status":"completed","output":{"type":"text","text":"done"}}`)
	}
}

// peers knows globex's two nodes.
type peers struct {
	mu   sync.Mutex
	list []registry.Peer
	ears []func()
}

func (p *peers) Peers() []registry.Peer {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.list
}

func (p *peers) Listen(heard func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ears = append(p.ears, heard)
}

func (p *peers) set(reachable bool) {
	p.mu.Lock()
	p.list = nil
	for _, n := range []string{"1", "2"} {
		p.list = append(p.list, registry.Peer{
			Info: registry.Info{StackID: "stk_globex_" + n}, PeeringID: "prg_1", State: registry.PeerAdmitted, Reachable: reachable, Ready: true, Address: "globex-" + n + ":1",
		})
	}
	ears := p.ears
	p.mu.Unlock()
	for _, heard := range ears {
		heard()
	}
}

// wire carries calls straight to globex's executor, and breaks what spoil says.
type wire struct {
	to *cell
	// before may refuse a call before it is heard, after may lose its answer.
	before, after func(c forward.Call) error
	posts, looks  atomic.Int64
	// instead, when set, may answer a call itself.
	instead func(c forward.Call) *http.Response
	// frames, when set, stands for the body of a stream.
	frames func(after uint64) io.Reader
	// cut breaks streams off at any byte.
	cut bool
	// gate, when set, keeps streams from ending until it's closed; each is then handed to bodies.
	gate   chan struct{}
	bodies chan *watched

	mu   sync.Mutex
	open []*io.PipeWriter
}

// watched notes how a body was left: at its end, or before.
type watched struct {
	io.ReadCloser
	whole  atomic.Bool
	closed chan struct{}
}

func (b *watched) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		b.whole.Store(true)
	}
	return n, err
}

func (b *watched) Close() error {
	close(b.closed)
	return b.ReadCloser.Close()
}

// drop breaks all streams off.
func (w *wire) drop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, in := range w.open {
		_ = in.CloseWithError(io.ErrUnexpectedEOF)
	}
}

var (
	errUnsent = errors.New("connection refused")
	errLost   = errors.New("the answer was lost")
)

func (w *wire) Unsent(err error) bool { return errors.Is(err, errUnsent) }

func (w *wire) Do(ctx context.Context, c forward.Call) (*http.Response, error) {
	if w.before != nil {
		if err := w.before(c); err != nil {
			return nil, err
		}
	}
	var response *http.Response
	if w.instead != nil {
		response = w.instead(c)
	}
	if response == nil {
		response = w.hear(ctx, c)
	}
	if w.after != nil {
		if err := w.after(c); err != nil {
			_ = response.Body.Close()
			return nil, err
		}
	}
	return response, nil
}

func (w *wire) hear(ctx context.Context, c forward.Call) *http.Response {
	claims := c.Claims
	claims.Actors = append(claims.Actors, trust.ForwardActor{Node: "spiffe://acme.example/node/stk_acme_1", ClusterID: "clu_acme"})
	claims.ID, claims.ExpiresAt = id.New(id.Request), time.Now().Add(time.Minute) // as whoever signs does
	by := &forward.Caller{Peering: acmePeering, StackID: "stk_acme_1", Claims: &claims, Auth: &tenancy.Auth{
		TenantID: tenantID, Principal: tenancy.Principal{ID: claims.Subject + "@acme.example", Type: tenancy.Service}, Scopes: claims.Scopes,
	}}
	path, query, _ := strings.Cut(c.Path, "?")
	switch {
	case path == "/v1/federation/runs:forward":
		w.posts.Add(1)
		return w.accept(ctx, by, c.Body)
	case strings.HasSuffix(path, ":conclude"):
		var body struct {
			Final forward.Final `json:"final"`
		}
		if err := json.Unmarshal(c.Body, &body); err != nil {
			return answer(nil, fault.Invalid("body", "%v", err))
		}
		done, _, err := w.to.executor.Conclude(ctx, by, strings.TrimSuffix(path[len("/v1/federation/runs/"):], ":conclude"), body.Final, "corr_2")
		return answer(map[string]any{"concluded": done}, err)
	case strings.HasSuffix(path, ":cancel"):
		_, err := w.to.executor.Cancel(ctx, by, strings.TrimSuffix(path[len("/v1/federation/runs/"):], ":cancel"), "corr_2")
		return answer(map[string]any{}, err)
	}
	runID, isStream := strings.CutSuffix(path[len("/v1/federation/runs/"):], "/events")
	if !isStream {
		w.looks.Add(1)
		return answer(map[string]any{}, w.to.executor.Owns(ctx, storage.Read{}, by, runID, nil))
	}
	return w.stream(ctx, by, runID, query)
}

func (w *wire) accept(ctx context.Context, by *forward.Caller, body []byte) *http.Response {
	var wrapped struct {
		Forward forward.Request `json:"forward"`
	}
	var r forward.RunRequest
	var create run.Request
	err := json.Unmarshal(body, &wrapped)
	for _, into := range []any{&r, &create} {
		if err == nil {
			err = json.Unmarshal(wrapped.Forward.Run, into)
		}
	}
	if err != nil {
		return answer(nil, fault.Invalid("body", "%v", err))
	}
	done, _, _, err := w.to.executor.Accept(ctx, by, &wrapped.Forward, &r, create, run.Meta{Traceparent: wrapped.Forward.Traceparent, CorrelationID: "corr_2"})
	return answer(map[string]any{"forwarded": done}, err)
}

func (w *wire) stream(ctx context.Context, by *forward.Caller, runID, query string) *http.Response {
	if err := w.to.executor.Owns(ctx, storage.Read{}, by, runID, nil); err != nil {
		return answer(nil, err)
	}
	var after uint64
	for part := range strings.SplitSeq(query, "&") {
		if v, ok := strings.CutPrefix(part, "after_sequence="); ok {
			after, _ = strconv.ParseUint(v, 10, 64)
		}
	}
	if w.frames != nil {
		told := w.frames(after)
		body, ok := told.(io.ReadCloser) // closing it has to end a read that waits, as it does on a connection
		if !ok {
			body = io.NopCloser(told)
		}
		return &http.Response{StatusCode: http.StatusOK, Body: body}
	}
	cursor, err := w.to.hub.FollowWhole(ctx, storage.Read{}, tenantID, runID, after)
	if err != nil {
		return answer(nil, err)
	}
	out, in := io.Pipe()
	w.mu.Lock()
	w.open = append(w.open, in)
	w.mu.Unlock()
	go func() {
		defer cursor.Close()
		for {
			b, err := cursor.Next(ctx)
			if err == nil {
				_, err = in.Write(b.Frames)
			}
			if err == nil && b.Final && w.gate != nil {
				<-w.gate
			}
			if err != nil || b.Final {
				_ = in.CloseWithError(err)
				return
			}
		}
	}()
	if w.gate != nil {
		body := &watched{ReadCloser: out, closed: make(chan struct{})}
		w.bodies <- body
		return &http.Response{StatusCode: http.StatusOK, Body: body}
	}
	if w.cut {
		return &http.Response{StatusCode: http.StatusOK, Body: &cutBody{ReadCloser: out, left: rand.N(4000)}}
	}
	return &http.Response{StatusCode: http.StatusOK, Body: out}
}

// cutBody ends, without a word, after so many bytes.
type cutBody struct {
	io.ReadCloser
	left int
}

func (c *cutBody) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := c.ReadCloser.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

func answer(v any, err error) *http.Response {
	status, body := http.StatusOK, v
	if err != nil {
		f := fault.Of(err)
		status = map[fault.Code]int{fault.NotFound: 404, fault.Conflict: 409, fault.Forbidden: 403, fault.Unauthorized: 401, fault.RateLimited: 429, fault.InvalidRequest: 400}[f.Code]
		if status == 0 {
			status = 500
		}
		body = map[string]any{"error": map[string]any{"code": f.Code, "message": f.Message, "details": f.Details}}
	}
	raw, _ := json.Marshal(body)
	return &http.Response{StatusCode: status, Body: io.NopCloser(strings.NewReader(string(raw)))}
}

func (p *pair) create(t *testing.T, key string) *run.Run {
	t.Helper()
	r, _, _, err := p.acme.runs.Create(t.Context(), actor(), agentID, run.Request{Input: run.Input{Type: "text", Text: "hi"}, IdempotencyKey: key},
		run.Meta{Traceparent: traceparent, CorrelationID: "corr_1"})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (c *cell) get(t *testing.T, runID string) *run.Run {
	t.Helper()
	r, _, err := c.runs.Get(t.Context(), storage.Read{}, tenantID, runID)
	if err != nil {
		t.Fatalf("%s: %v", c.name, err)
	}
	return r
}

// ended waits for the end of a run at acme.
func (p *pair) ended(t *testing.T, runID string) *run.Run {
	t.Helper()
	var r *run.Run
	until(t, func() bool { r = p.acme.get(t, runID); return r.Status.Final() })
	return r
}

func until(t *testing.T, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatal("it did not come to be")
		}
		select {
		case <-t.Context().Done():
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// journal are the stored envelopes of a run.
func (c *cell) journal(t *testing.T, runID string) []string {
	t.Helper()
	var out []string
	err := c.store.View(t.Context(), storage.Read{}, func(s storage.Snapshot) error {
		return s.Scan(storage.Prefix(event.JournalPrefix(tenantID, runID)), func(_ string, v []byte) bool {
			out = append(out, string(v))
			return true
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
