package loop_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nexixai/agentos/agent"
	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/agent/loop"
	"github.com/nexixai/agentos/agent/queue"
	"github.com/nexixai/agentos/agent/run"
	"github.com/nexixai/agentos/agent/tool"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/model"
	"github.com/nexixai/agentos/tenancy"
	"github.com/nexixai/agentos/tenancy/quota"
)

const tenantID = "tnt_a"

// house is the store of runs, the sessions, Stack B, the tools and the registry, each as small as it can be.
type house struct {
	tb testing.TB

	mu     sync.Mutex
	runs   map[string]*record
	leases chan queue.Lease
	signal func(tenantID, runID string)
	valid  error
	// refuse refuses an append when it returns an error.
	refuse func(a *run.Append) error
	// model answers; nil echoes.
	model func(ctx context.Context, req *model.ChatRequest, sink func(model.Delta) error) (*model.ChatResult, error)
	// tool is called for tool.slow.
	tool func(ctx context.Context, in *tool.Invocation) (json.RawMessage, error)

	handedBack chan run.Lease
	deltas     []event.Delta
	booked     []string // settled outside a journal
	appends    atomic.Int64
	scopes     []tenancy.Scope
	bare       bool // keep no journals
}

type record struct {
	work    run.Work
	epoch   uint64
	journal []event.Envelope
	settled map[string]int
	held    map[string]bool
	final   chan struct{}
	err     *run.Error
	output  *run.Output
}

func newHouse(tb testing.TB) *house {
	return &house{
		tb: tb, runs: map[string]*record{}, leases: make(chan queue.Lease, 1024), handedBack: make(chan run.Lease, 16),
		scopes: []tenancy.Scope{tenancy.ToolsInvoke},
	}
}

func (h *house) options() loop.Options {
	set := tool.New(tool.Options{Kinds: map[string]tool.Kind{
		tool.KindBuiltin: tool.NewBuiltin(nil, nil), "slow": (*slow)(h),
	}})
	return loop.Options{
		StackID: "stk_a", Runs: h, Leases: h, Agents: h, Tenants: h, Gateway: h, Tools: set, Workers: 4,
		Deltas: func(d event.Delta) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.deltas = append(h.deltas, d)
		},
	}
}

// start runs a Runtime until the test ends.
func (h *house) start(t *testing.T, change func(*loop.Options)) *loop.Runtime {
	o := h.options()
	if change != nil {
		change(&o)
	}
	r := loop.New(o)
	r.Start()
	t.Cleanup(r.Close)
	return r
}

// create makes a run and leases it.
func (h *house) create(text string, options run.RunOptions) *record {
	if options.TimeoutMS == 0 {
		options.TimeoutMS = 60_000
	}
	if options.MaxSteps == 0 {
		options.MaxSteps = 30
	}
	now := time.Now()
	rec := &record{
		work: run.Work{
			Lease: run.Lease{TenantID: tenantID, RunID: id.New(id.Run), SessionID: "ses_a"}, AgentID: "agt_a",
			Auth:        tenancy.Auth{TenantID: tenantID, Principal: tenancy.Principal{ID: "usr_a"}, Scopes: h.scopes},
			Request:     run.Request{Input: run.Input{Type: "text", Text: text}, Options: options},
			Traceparent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", CorrelationID: "corr_a",
			CreatedAt: now, Deadline: now.Add(time.Duration(options.TimeoutMS) * time.Millisecond),
		},
		settled: map[string]int{}, held: map[string]bool{}, final: make(chan struct{}),
	}
	h.mu.Lock()
	h.runs[rec.work.RunID] = rec
	rec.add(event.Draft{ID: id.New(id.Event), Type: event.RunCreated, Payload: json.RawMessage(`{"status":"queued"}`)})
	h.mu.Unlock()
	h.lease(rec)
	return rec
}

// lease gives the run to the node, at the next epoch.
func (h *house) lease(rec *record) {
	h.mu.Lock()
	rec.epoch++
	l := rec.work.Lease
	l.Epoch = rec.epoch
	h.mu.Unlock()
	h.leases <- l
	if l.Epoch > 1 {
		h.signal(l.TenantID, l.RunID)
	}
}

func (h *house) cancel(rec *record) {
	h.mu.Lock()
	rec.add(event.Draft{ID: id.New(id.Event), Type: event.CancelRequested, Payload: json.RawMessage(`{"by":"usr_b"}`)})
	h.mu.Unlock()
	h.signal(tenantID, rec.work.RunID)
}

func (r *record) add(d event.Draft) {
	var step *string
	if d.StepID != "" {
		step = &d.StepID
	}
	r.journal = append(r.journal, event.Envelope{
		ID: d.ID, Sequence: uint64(len(r.journal) + 1), Time: time.Now().UTC().Format("2006-01-02T15:04:05.000Z"), Type: d.Type,
		TenantID: tenantID, AgentID: "agt_a", RunID: r.work.RunID, StepID: step,
		Trace: event.Trace{Traceparent: r.work.Traceparent, SpanID: d.SpanID}, Payload: d.Payload,
	})
}

func (h *house) Append(_ context.Context, a run.Append) (uint64, error) {
	h.appends.Add(1)
	h.mu.Lock()
	defer h.mu.Unlock()
	rec := h.runs[a.RunID]
	if h.refuse != nil {
		if err := h.refuse(&a); err != nil {
			return 0, err
		}
	}
	last := uint64(len(rec.journal))
	switch {
	case a.Epoch != rec.epoch:
		return 0, fault.New(fault.Conflict, "fenced").With("reason", "fenced")
	case last > 0 && rec.journal[last-1].Type.Final():
		return 0, fault.New(fault.Conflict, "over").With("reason", "fenced")
	case a.After != last:
		return 0, fault.New(fault.Conflict, "the journal has gone on").With("last_sequence", last)
	}
	if a.Reserve != nil {
		rec.held[a.Reserve.ID] = true
		reserved := *a.Reserve
		rec.work.Reserved = &reserved
	}
	for _, s := range a.Settle {
		rec.settled[s.ReservationID]++
		if rec.work.Reserved != nil && rec.work.Reserved.ID == s.ReservationID {
			rec.work.Reserved = nil
		}
	}
	for _, d := range a.Events {
		if !h.bare && (!json.Valid(d.Payload) || strings.ContainsAny(string(d.Payload), "\r\n")) {
			h.tb.Errorf("payload of %s is not one line of JSON: %q", d.Type, d.Payload)
		}
		rec.add(d)
	}
	if a.Events[len(a.Events)-1].Type.Final() {
		rec.output, rec.err = a.Output, a.Error
		close(rec.final)
	}
	return uint64(len(rec.journal)), nil
}

func (h *house) Load(_ context.Context, l run.Lease) (*run.Work, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	rec := h.runs[l.RunID]
	if rec.epoch != l.Epoch {
		return nil, fault.New(fault.Conflict, "fenced").With("reason", "fenced")
	}
	work := rec.work
	work.Epoch = l.Epoch
	work.Journal = append([]event.Envelope(nil), rec.journal...)
	return &work, nil
}

func (h *house) HandBack(_ context.Context, leases ...run.Lease) error {
	for _, l := range leases {
		h.handedBack <- l
	}
	return nil
}

func (h *house) Settle(_ context.Context, _ string, settle ...quota.Settlement) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range settle {
		h.booked = append(h.booked, s.ReservationID)
	}
	return nil
}

func (h *house) Leases() <-chan queue.Lease { return h.leases }

func (h *house) Subscribe(signal func(tenantID, runID string)) (stop func()) {
	h.signal = signal
	return func() {}
}

func (h *house) Valid(l queue.Lease) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.runs[l.RunID].epoch != l.Epoch {
		return fault.New(fault.Conflict, "fenced")
	}
	return h.valid
}

func (h *house) Agent(_ context.Context, _, agentID string) (*agent.Agent, []agent.Tool, error) {
	if agentID != "agt_a" {
		return nil, nil, fault.New(fault.NotFound, "There is no such agent.")
	}
	tools := append(tool.Builtins(), agent.Tool{ID: "tool.slow", Name: "slow", Kind: "slow"})
	return &agent.Agent{ID: agentID, TenantID: tenantID, ModelRef: "tier:fast"}, tools, nil
}

func (h *house) Tenant(_ context.Context, tenantID string) (*tenancy.Tenant, error) {
	return &tenancy.Tenant{ID: tenantID, Status: tenancy.Active}, nil
}

func (h *house) Prepare(_ context.Context, caller model.Caller, req *model.ChatRequest) (model.Call, error) {
	if caller.RunID == "" || caller.Tenant == nil || caller.Auth.Principal.ID != "usr_a" {
		h.tb.Errorf("caller %+v", caller)
	}
	return &prepared{h: h, req: req, reservation: quota.Reservation{ID: id.New(id.Reservation), Tokens: 10}}, nil
}

type prepared struct {
	h           *house
	req         *model.ChatRequest
	reservation quota.Reservation
}

func (p *prepared) Reservation() quota.Reservation { return p.reservation }
func (p *prepared) ModelRef() string               { return p.req.ModelRef }

func (p *prepared) Do(ctx context.Context, sink func(model.Delta) error) (*model.ChatResult, error) {
	answer := p.h.model
	if answer == nil {
		answer = echo
	}
	result, err := answer(ctx, p.req, sink)
	if result == nil {
		result = &model.ChatResult{}
	}
	result.Settlement.ReservationID = p.reservation.ID
	return result, err
}

// echo is the builtin backend in a few lines: /call lines first, then the last tool's output, or the text itself.
func echo(_ context.Context, req *model.ChatRequest, sink func(model.Delta) error) (*model.ChatResult, error) {
	var lines []string
	turns, last := 0, ""
	for _, m := range req.Messages {
		switch m.Role {
		case "user":
			lines = strings.Split(m.Content, "\n")
		case "assistant":
			turns++
		case "tool":
			last = m.Content
		}
	}
	out := &model.ChatResult{Message: model.Message{Role: "assistant"}, PolicyOutcome: model.PolicyOutcome{Decision: "allowed"}}
	if turns < len(lines) && strings.HasPrefix(lines[turns], "/call ") {
		parts := strings.SplitN(lines[turns], " ", 3)
		c := model.ToolCall{ID: "call_x", Name: parts[1], Arguments: json.RawMessage(parts[2])}
		for _, t := range req.Tools {
			if t.ID == parts[1] {
				c.ToolID, c.Name = t.ID, t.Name
			}
		}
		out.Message.ToolCalls = []model.ToolCall{c}
		return out, nil
	}
	out.Message.Content = "echo: " + lines[len(lines)-1]
	if last != "" {
		out.Message.Content = last
	}
	if sink != nil {
		for word := range strings.FieldsSeq(out.Message.Content) {
			if err := sink(model.Delta{Text: word}); err != nil {
				return out, err
			}
		}
	}
	return out, nil
}

// slow is a kind of tool that a test holds in its hands.
type slow house

func (s *slow) Invoke(ctx context.Context, in *tool.Invocation) (json.RawMessage, error) {
	return s.tool(ctx, in)
}
func (s *slow) Check(*agent.Tool) error                      { return nil }
func (s *slow) Repeatable(*agent.Tool, json.RawMessage) bool { return false }

// types are the journal's event types, as text.
func (h *house) types(rec *record) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []string
	for _, e := range rec.journal {
		out = append(out, strings.TrimPrefix(strings.TrimPrefix(string(e.Type), "agentos."), "run."))
	}
	return strings.Join(out, " ")
}

// payload is the last event of a type.
func (h *house) payload(rec *record, t event.Type) map[string]any {
	h.tb.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := len(rec.journal) - 1; i >= 0; i-- {
		if rec.journal[i].Type == t {
			var p map[string]any
			if err := json.Unmarshal(rec.journal[i].Payload, &p); err != nil {
				h.tb.Fatal(err)
			}
			return p
		}
	}
	h.tb.Fatalf("no %s", t)
	return nil
}

// balanced checks that what was reserved was settled, once.
func (h *house) balanced(rec *record) {
	h.tb.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if fmt.Sprint(len(rec.held)) != fmt.Sprint(len(rec.settled)) {
		h.tb.Errorf("reserved %v, settled %v", rec.held, rec.settled)
	}
	for reservation, n := range rec.settled {
		if n != 1 || !rec.held[reservation] {
			h.tb.Errorf("reservation %s settled %d times", reservation, n)
		}
	}
}
