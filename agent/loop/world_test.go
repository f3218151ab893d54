package loop_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nexixai/agentos/agent"
	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/agent/loop"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/model"
	"github.com/nexixai/agentos/tenancy/quota"
)

// world is everything around the core, in one goroutine and with its own clock: a journal, a model that follows a script,
// tools that count. A test can end a worker's life at any point of it.
type world struct {
	tb     testing.TB
	now    time.Time
	plan   loop.Plan
	script []turn

	journal []event.Envelope
	appends [][]event.Type // types of each append
	ids     int
	asked   map[int]int    // by number of messages: how often the model was asked
	answers map[int]bool   // of those, which answers are in the journal
	ran     map[string]int // by call id: how often the tool ran
	booked  map[string]int // by reservation id: how often it was settled
	held    map[string]bool
	// reserved is what the store holds back for the call that is open.
	reserved *quota.Reservation
	waits    []time.Duration
	// die ends the worker's life at a point; nil lets it live.
	die func(point string) bool
	// refuse refuses an append.
	refuse func(w *world, e *loop.Effect) error
	// during is called while a model or tool is at work, and may set signals for the next input.
	during func(w *world, verb loop.Verb, in *loop.Input)
}

// turn is one answer of the scripted model.
type turn struct {
	calls []model.ToolCall
	text  string
	fails []error // before it answers
}

var errDied = errors.New("the worker died")

func newWorld(tb testing.TB, script ...turn) *world {
	w := &world{
		tb: tb, now: time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC), script: script,
		asked: map[int]int{}, answers: map[int]bool{}, ran: map[string]int{}, booked: map[string]int{}, held: map[string]bool{},
	}
	w.plan = loop.Plan{
		StackID: "stk_a", Span: "00f067aa0ba902b7", ModelRef: "tier:fast", Input: "hello", Instructions: "be brief",
		Tools: []agent.Tool{
			{ID: "tool.echo", Name: "echo", Idempotent: true},
			{ID: "tool.mail", Name: "mail"},
		},
		MayInvoke: true, MaxSteps: 30, TimeoutMS: 60_000, Deadline: w.now.Add(time.Minute),
		ToolTimeout: func(*agent.Tool) time.Duration { return 30 * time.Second },
		Repeatable:  func(t *agent.Tool, _ json.RawMessage) bool { return t.Idempotent },
		Source: loop.Source{
			ID:   func(p id.Prefix) string { w.ids++; return fmt.Sprintf("%s%06d", p, w.ids) },
			Span: func() string { w.ids++; return fmt.Sprintf("%016x", w.ids) },
			Luck: func() float64 { return 0.5 },
		},
	}
	w.append([]loop.Entry{{Type: event.RunCreated, ID: "evt_created"}})
	return w
}

func (w *world) append(entries []loop.Entry) {
	for i := range entries {
		e := &entries[i]
		payload := json.RawMessage(`{"status":"queued"}`)
		if e.Body != nil {
			payload = e.Body.Encode(nil)
		}
		if !json.Valid(payload) {
			w.tb.Fatalf("payload of %s is not JSON: %s", e.Type, payload)
		}
		v := event.Envelope{
			ID: e.ID, Sequence: uint64(len(w.journal) + 1), Time: w.now.Format(time.RFC3339Nano), Type: e.Type,
			Trace: event.Trace{SpanID: e.SpanID}, Payload: payload,
		}
		if step := e.StepID; step != "" {
			v.StepID = &step
		}
		w.journal = append(w.journal, v)
		if body, ok := e.Body.(*loop.ModelCompleted); ok && body.Status == loop.StatusOK {
			w.answers[len(w.answers)] = true
		}
	}
}

// outside appends what somebody else writes.
func (w *world) outside(t event.Type, payload string) {
	w.journal = append(w.journal, event.Envelope{
		ID: fmt.Sprintf("evt_outside%d", len(w.journal)), Sequence: uint64(len(w.journal) + 1),
		Time: w.now.Format(time.RFC3339Nano), Type: t, Payload: json.RawMessage(payload),
	})
}

func (w *world) fold(s *loop.State) {
	for i := range w.journal {
		if w.journal[i].Sequence <= s.Last() {
			continue
		}
		e, err := loop.Decode(&w.journal[i])
		if err != nil {
			w.tb.Fatal(err)
		}
		s.Fold(w.journal[i].Sequence, &e)
	}
}

func (w *world) dies(format string, args ...any) bool {
	return w.die != nil && w.die(fmt.Sprintf(format, args...))
}

// live is one worker's life under one epoch. It returns the last effect, or errDied.
func (w *world) live(epoch uint64) (loop.Effect, error) {
	plan := w.plan
	plan.Epoch = epoch
	s := loop.NewState(&plan)
	w.fold(s)
	s.Resume(w.reserved)
	in := loop.Input{Happened: loop.Began, Now: w.now}
	var request *model.ChatRequest
	for range 10_000 {
		effect := s.Step(in)
		in = loop.Input{Now: w.now}
		switch effect.Verb {
		case loop.Stop:
			return effect, nil
		case loop.Journal:
			if w.dies("before append") {
				return effect, errDied
			}
			w.take(s, &effect, &in)
			if w.dies("after append") {
				return effect, errDied
			}
		case loop.Reload:
			w.fold(s)
			in.Happened = loop.Read
		case loop.Prepare:
			request = effect.Request
			in.Happened, in.ModelRef = loop.Prepared, effect.Request.ModelRef
			in.Reservation = quota.Reservation{ID: w.plan.Source.ID(id.Reservation), Tokens: 10}
		case loop.Ask:
			w.now = w.now.Add(7 * time.Millisecond)
			in.Happened, in.Took = loop.Answered, 7*time.Millisecond
			in.Result, in.Err = w.answer(request)
			in.Now = w.now
		case loop.Call:
			w.now = w.now.Add(3 * time.Millisecond)
			w.ran[effect.Wanted.CallID]++
			in = loop.Input{Happened: loop.Returned, Now: w.now, Output: effect.Wanted.Input, Took: 3 * time.Millisecond}
		case loop.Wait:
			w.waits = append(w.waits, effect.Until.Sub(w.now))
			w.now = effect.Until
			in = loop.Input{Happened: loop.Waited, Now: w.now}
		}
		if w.during != nil {
			w.during(w, effect.Verb, &in)
		}
		if (effect.Verb == loop.Ask || effect.Verb == loop.Call) && w.dies("after effect") {
			return effect, errDied
		}
	}
	w.tb.Fatal("the run does not end")
	return loop.Effect{}, nil
}

// take is the store's side of an append.
func (w *world) take(s *loop.State, effect *loop.Effect, in *loop.Input) {
	if s.Last() != uint64(len(w.journal)) {
		in.Happened = loop.Overtaken
		return
	}
	if w.refuse != nil {
		if err := w.refuse(w, effect); err != nil {
			in.Happened, in.Err = loop.Refused, err
			return
		}
	}
	w.append(effect.Entries)
	var types []event.Type
	for i := range effect.Entries {
		types = append(types, effect.Entries[i].Type)
	}
	w.appends = append(w.appends, types)
	if effect.Reserve != nil {
		w.held[effect.Reserve.ID] = true
		reserved := *effect.Reserve
		w.reserved = &reserved
	}
	for _, settled := range effect.Settle {
		w.booked[settled.ReservationID]++
		if w.reserved != nil && w.reserved.ID == settled.ReservationID {
			w.reserved = nil
		}
	}
	in.Happened, in.Last = loop.Journaled, uint64(len(w.journal))
}

func (w *world) answer(request *model.ChatRequest) (*model.ChatResult, error) {
	turns := 0
	for _, m := range request.Messages {
		if m.Role == "assistant" {
			turns++
		}
	}
	if w.answers[turns] {
		w.tb.Errorf("the model was asked for turn %d again, whose answer is in the journal", turns)
	}
	try := w.asked[turns]
	w.asked[turns]++
	if turns >= len(w.script) {
		w.tb.Fatalf("the model was asked for turn %d of %d", turns, len(w.script))
	}
	t := w.script[turns]
	if try < len(t.fails) {
		return nil, t.fails[try]
	}
	calls := slices.Clone(t.calls)
	return &model.ChatResult{
		Message: model.Message{Role: "assistant", Content: t.text, ToolCalls: calls},
		Usage:   model.Usage{InputTokens: 5, OutputTokens: 2, TotalTokens: 7, CostNUSD: 7000}, LatencyMS: 6,
		PolicyOutcome: model.PolicyOutcome{Decision: "allowed"},
		Route:         model.RouteTaken{Backend: "builtin", Model: "echo-1", Node: "stk_a"},
	}, nil
}

// types are the journal's event types.
func (w *world) types() []event.Type {
	var out []event.Type
	for i := range w.journal {
		out = append(out, w.journal[i].Type)
	}
	return out
}

// payload decodes the n-th event of a type (from 0; negative counts from the end).
func (w *world) payload(t event.Type, n int) map[string]any {
	w.tb.Helper()
	var found []map[string]any
	for i := range w.journal {
		if w.journal[i].Type == t {
			var p map[string]any
			if err := json.Unmarshal(w.journal[i].Payload, &p); err != nil {
				w.tb.Fatal(err)
			}
			found = append(found, p)
		}
	}
	if n < 0 {
		n += len(found)
	}
	if n < 0 || n >= len(found) {
		w.tb.Fatalf("no %s number %d in %v", t, n, w.types())
	}
	return found[n]
}

// whole checks what must hold of every finished journal.
func (w *world) whole() {
	w.tb.Helper()
	open := map[string]string{} // what is open, by kind
	closeOne := func(kind, key string) {
		if got, ok := open[kind]; !ok || got != key {
			w.tb.Errorf("%s %q ends, open is %q", kind, key, got)
		}
		delete(open, kind)
	}
	begin := func(kind, key string) {
		if was, ok := open[kind]; ok {
			w.tb.Errorf("%s %q begins while %q is open", kind, key, was)
		}
		open[kind] = key
	}
	seen := map[string]bool{}
	for i := range w.journal {
		e := &w.journal[i]
		if e.Sequence != uint64(i+1) {
			w.tb.Errorf("event %d has sequence %d", i+1, e.Sequence)
		}
		if seen[e.ID] {
			w.tb.Errorf("event id %s twice", e.ID)
		}
		seen[e.ID] = true
		step := ""
		if e.StepID != nil {
			step = *e.StepID
		}
		var p struct {
			CallID string `json:"tool_call_id"`
		}
		_ = json.Unmarshal(e.Payload, &p)
		switch e.Type {
		case event.StepStarted:
			begin("step", step)
		case event.StepCompleted:
			closeOne("step", step)
		case event.ModelRequested:
			begin("model", step)
		case event.ModelCompleted:
			closeOne("model", step)
		case event.ToolCallRequested:
			begin("tool", p.CallID)
		case event.ToolCallCompleted:
			closeOne("tool", p.CallID)
		}
		if e.Type.Final() != (i == len(w.journal)-1) {
			w.tb.Errorf("event %d of %d is %s", i+1, len(w.journal), e.Type)
		}
	}
	if len(open) > 0 {
		w.tb.Errorf("left open: %v", open)
	}
	for reservation := range w.held {
		if w.booked[reservation] != 1 {
			w.tb.Errorf("reservation %s was settled %d times", reservation, w.booked[reservation])
		}
	}
	if w.tb.Failed() {
		for i := range w.journal {
			w.tb.Logf("%d %s %s", w.journal[i].Sequence, w.journal[i].Type, w.journal[i].Payload)
		}
	}
}

func call(toolID, args string) model.ToolCall {
	return model.ToolCall{ID: "call_1", ToolID: toolID, Name: toolID, Arguments: json.RawMessage(args)}
}

func unavailable() error { return fault.New(fault.Unavailable, "away") }
