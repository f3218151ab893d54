package loop

import (
	"encoding/json"
	"math/rand/v2"
	"time"

	"github.com/nexixai/agentos/agent"
	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/agent/run"
	"github.com/nexixai/agentos/agent/tool"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/model"
	"github.com/nexixai/agentos/tenancy/quota"
)

// Limits of a run's pieces.
const (
	// MaxOutput is the most that one model answer or tool output takes in a journal, in bytes of JSON.
	MaxOutput = tool.MaxOutput
	// maxAttempts is how often a model is asked in one step before its error ends the run.
	maxAttempts = 3
	// maxLost is how many workers may be lost over one model call before the call itself is suspected.
	maxLost = 5
	// maxFacts is how many events are gathered before they are journaled: an append takes 64.
	maxFacts = 32
)

// Plan is what does not change while an attempt at a run lasts.
type Plan struct {
	StackID string
	Epoch   uint64
	// Span is the span of the run itself, for events outside any step.
	Span         string
	ModelRef     string
	Instructions string
	Input        string
	// Tools are those the run may call; all others are denied.
	Tools []agent.Tool
	// MayInvoke is false when the run's principal may call no tool at all.
	MayInvoke bool
	MaxSteps  int
	TimeoutMS int64
	Deadline  time.Time
	// ToolTimeout bounds one call of a tool.
	ToolTimeout func(*agent.Tool) time.Duration
	// Repeatable reports whether a call whose outcome is unknown may be made again.
	Repeatable func(*agent.Tool, json.RawMessage) bool
	Source     Source
}

// Source is where the core's identifiers and luck come from, so that the core itself is pure.
type Source struct {
	ID   func(id.Prefix) string
	Span func() string
	// Luck returns a number in [0, 1), for jitter.
	Luck func() float64
}

// NewSource returns the Source of real runs.
func NewSource() Source {
	return Source{ID: id.New, Span: newSpan, Luck: rand.Float64}
}

// newSpan mints a span id (W3C Trace Context: 8 bytes, not all zero). It need not be secret, only distinct.
func newSpan() string {
	n := rand.Uint64() | 1
	var b [16]byte
	for i := range b {
		b[i] = hexDigits[n>>60]
		n <<= 4
	}
	return string(b[:])
}

// State is where a run stands, computed from its journal alone, and what the present worker has not yet put there. It
// belongs to one goroutine.
type State struct {
	plan *Plan

	// From the journal.
	last     uint64 // sequence of the last event
	attempt  uint64 // of the last run.started
	steps    int
	step     openStep
	asked    *ModelRequested // a model was asked and has not answered
	called   *ToolRequested  // a tool was called and has not returned
	failures int             // answers that were errors, in the open step
	lost     int             // workers lost, in the open step
	notUntil time.Time       // nothing new is begun before
	waits    run.WaitsFor    // why not
	limit    string          // of a quota
	messages []model.Message
	wishes   []Wish // tool calls the model asked for, not yet done
	answer   *run.Output
	fatal    *Failure
	cancel   *CancelRequested
	final    bool

	// Of this worker.
	inherited   bool // asked or called is another worker's
	expired     bool // the deadline has passed, whatever the clock says
	overtaken   bool // the journal has events that this worker has not seen
	leaving     bool // the worker is to stop at the next boundary
	facts       []Entry
	settle      []quota.Settlement
	intent      []Entry
	next        Verb // what the intent announces
	reservation quota.Reservation
	ref         string // the model reference that was prepared
}

type openStep struct {
	id, span, kind string
	since          time.Time
}

// NewState returns the state of a run with an empty journal.
func NewState(p *Plan) *State {
	s := &State{plan: p, messages: make([]model.Message, 0, 8)}
	if p.Instructions != "" {
		s.messages = append(s.messages, model.Message{Role: "system", Content: p.Instructions})
	}
	s.messages = append(s.messages, model.Message{Role: "user", Content: p.Input})
	return s
}

// Fold adds the journal's next event, which has the given sequence.
func (s *State) Fold(sequence uint64, e *Entry) {
	s.last = sequence
	s.fold(e)
}

// Resume tells s that the journal has been read to its end, and that what is open there was begun by another worker, who
// left reserved held back; nil is nothing.
func (s *State) Resume(reserved *quota.Reservation) {
	s.inherited = s.asked != nil || s.called != nil
	if s.asked != nil && reserved != nil {
		s.reservation = *reserved
	}
}

// Last is the sequence of the last event of the journal that s has seen.
func (s *State) Last() uint64 { return s.last }

func (s *State) fold(e *Entry) {
	switch body := e.Body.(type) {
	case *Started:
		s.attempt = body.Attempt
	case *StepStarted:
		s.steps++
		s.step = openStep{id: e.StepID, span: e.SpanID, kind: body.Kind, since: e.At}
		s.failures, s.lost = 0, 0
	case *StepCompleted:
		s.step = openStep{}
	case *ModelRequested:
		s.asked = body
	case *ModelCompleted:
		s.foldAnswer(e.At, body)
	case *ToolRequested:
		s.called = body
	case *ToolCompleted:
		s.foldOutput(body)
	case *CancelRequested:
		s.cancel = body
	}
	if e.Type.Final() {
		s.final = true
	}
}

func (s *State) foldAnswer(at time.Time, body *ModelCompleted) {
	s.asked = nil
	if body.Status != StatusOK || body.Output == nil {
		switch {
		case body.RetryInMS == nil:
			s.fatal = body.Error
		case body.Lost:
			s.lost++
		default:
			s.failures++
			s.notUntil = at.Add(time.Duration(*body.RetryInMS) * time.Millisecond)
			s.waits, s.limit = run.ForModel, ""
		}
		return
	}
	said := model.Message{Role: "assistant", Content: body.Output.Message.Content}
	for _, w := range body.Output.ToolCalls {
		said.ToolCalls = append(said.ToolCalls, model.ToolCall{ID: w.CallID, ToolID: w.ToolID, Name: w.Name, Arguments: w.Arguments})
	}
	s.messages = append(s.messages, said)
	s.wishes = body.Output.ToolCalls
	if len(s.wishes) == 0 {
		s.answer = &run.Output{Type: "text", Text: said.Content, Truncated: body.Truncated}
	}
}

func (s *State) foldOutput(body *ToolCompleted) {
	s.called = nil
	answer := model.Message{Role: "tool", ToolCallID: body.CallID, Content: string(body.Output)}
	if body.Error != nil {
		b := appendFailure([]byte{'{'}, "error", body.Error)
		answer.Content = string(append(b, '}'))
	}
	if len(s.wishes) > 0 && s.wishes[0].CallID == body.CallID {
		answer.Name = s.wishes[0].Name
		s.wishes = s.wishes[1:]
	}
	s.messages = append(s.messages, answer)
}

// fact records what has happened: it stands from now on, and is journaled with the next append whatever else is.
func (s *State) fact(e Entry) {
	s.facts = append(s.facts, e)
	s.fold(&e)
}

// entry makes an event of the open step, or of the run when no step is open.
func (s *State) entry(now time.Time, t event.Type, body Body) Entry {
	e := Entry{Type: t, ID: s.plan.Source.ID(id.Event), At: now, Body: body, StepID: s.step.id, SpanID: s.step.span}
	if e.StepID == "" {
		e.SpanID = s.plan.Span
	}
	return e
}

// tool returns the tool with that id among those the run may call.
func (s *State) allowed(toolID string) *agent.Tool {
	if !s.plan.MayInvoke {
		return nil
	}
	for i := range s.plan.Tools {
		if s.plan.Tools[i].ID == toolID {
			return &s.plan.Tools[i]
		}
	}
	return nil
}
