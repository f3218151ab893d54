package loop

import (
	"bytes"
	"encoding/json"
	"slices"
	"time"

	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/agent/tool"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/model"
	"github.com/nexixai/agentos/tenancy/quota"
)

// Bounds of the pause before a model is asked again.
const (
	firstPause = 200 * time.Millisecond
	maxPause   = 10 * time.Second
)

// prepare asks for the next model turn.
func (s *State) prepare() Effect {
	s.ref = s.plan.ModelRef
	request := &model.ChatRequest{
		RequestID: s.plan.Source.ID(id.Request),
		ModelRef:  s.plan.ModelRef,
		Messages:  slices.Clone(s.messages),
	}
	if s.plan.MayInvoke && len(s.plan.Tools) > 0 {
		request.Tools = make([]model.Tool, len(s.plan.Tools))
		for i := range s.plan.Tools {
			t := &s.plan.Tools[i]
			request.Tools[i] = model.Tool{ID: t.ID, Name: tool.NameOf(t), Description: t.Description, InputSchema: t.InputSchema}
		}
	}
	return Effect{Verb: Prepare, Request: request}
}

// ask announces the call that was prepared.
func (s *State) ask(in Input) Effect {
	s.ref, s.reservation = in.ModelRef, in.Reservation
	s.intent, s.next = s.modelStep(in.Now, in.ModelRef), Ask
	e := Effect{}
	if in.Reservation.ID != "" {
		e.Reserve = &s.reservation
	}
	return s.journal(e)
}

// modelStep is the announcement of a model call: in a new step, or again in the open one.
func (s *State) modelStep(now time.Time, ref string) []Entry {
	entries := make([]Entry, 0, 2)
	step := s.step
	if step.id == "" {
		step = openStep{id: s.plan.Source.ID(id.Step), span: s.plan.Source.Span()}
		entries = append(entries, Entry{
			Type: event.StepStarted, ID: s.plan.Source.ID(id.Event), StepID: step.id, SpanID: step.span, At: now,
			Body: &StepStarted{Kind: "model", Name: ref},
		})
	}
	return append(entries, Entry{
		Type: event.ModelRequested, ID: s.plan.Source.ID(id.Event), StepID: step.id, SpanID: step.span, At: now,
		Body: &ModelRequested{ModelRef: ref, InputSummary: InputSummary{
			Messages: len(s.messages), HasTools: s.plan.MayInvoke && len(s.plan.Tools) > 0,
		}},
	})
}

// modelRefused records a model call that was refused before it was made: by policy, a budget, or for want of a route.
func (s *State) modelRefused(in Input, ref string) {
	for _, e := range s.modelStep(in.Now, ref) {
		s.fact(e)
	}
	s.reservation = quota.Reservation{} // it was never made
	s.answered(in)
}

// answered records what a model said, or that it failed, and whether it's asked again.
func (s *State) answered(in Input) {
	body := &ModelCompleted{ModelRef: s.asked.ModelRef, Status: StatusOK, LatencyMS: in.Took.Milliseconds()}
	if r := in.Result; r != nil {
		body.Usage, body.PolicyOutcome, body.Route = r.Usage, r.PolicyOutcome, r.Route
		if r.LatencyMS > 0 {
			body.LatencyMS = r.LatencyMS
		}
	}
	switch {
	case in.Result != nil && in.Result.Settlement.ReservationID != "":
		s.settle = append(s.settle, in.Result.Settlement)
	case s.reservation.ID != "":
		s.settle = append(s.settle, quota.Settlement{ReservationID: s.reservation.ID})
	}
	s.reservation = quota.Reservation{}
	if in.Err == nil {
		body.Output, body.Truncated = s.output(&in.Result.Message)
	} else {
		s.blame(body, in)
	}
	s.fact(s.entry(in.Now, event.ModelCompleted, body))
	if body.RetryInMS == nil {
		s.closeStep(in.Now, body.Status)
	}
}

// blame fills in why a model call failed, and when it's tried again.
func (s *State) blame(body *ModelCompleted, in Input) {
	err := fault.Of(in.Err)
	body.Status, body.Error = StatusError, failureOf(err)
	if err.Code == fault.PolicyBlocked && body.PolicyOutcome.Decision == "" {
		body.PolicyOutcome.Decision = "blocked"
		if reasons, ok := err.Details["reasons"].([]string); ok {
			body.PolicyOutcome.Reasons = reasons
		}
	}
	at := func(d time.Duration) *int64 {
		ms := d.Milliseconds()
		return &ms
	}
	switch {
	case in.Interrupted && s.expired:
		body.Error = timedOut(s.plan.TimeoutMS)
	case in.Interrupted && s.overtaken:
		body.Error = failureOf(fault.New(fault.Conflict, "The call was stopped, because the run is to be canceled."))
		body.RetryInMS = at(0)
	case in.Interrupted:
		body.Error, body.Lost, body.RetryInMS = lostWorker(), true, at(0)
	case !err.Code.Retryable() || s.failures+1 >= maxAttempts:
	default:
		if pause := s.pause(err.RetryAfter); in.Now.Add(pause).Before(s.plan.Deadline) {
			body.RetryInMS = at(pause)
		}
	}
}

// pause is how long to wait before the next try: doubling, with jitter, and never less than the backend asked for.
func (s *State) pause(floor time.Duration) time.Duration {
	base := min(firstPause<<s.failures, maxPause)
	jittered := base/2 + time.Duration(s.plan.Source.Luck()*float64(base))
	return max(jittered, floor).Round(time.Millisecond)
}

// lostAnswer is the answer of a model to somebody who is gone. What the call spent is unknown, so all that was held back for
// it is booked, here and in the tenant's books.
func (s *State) lostAnswer() *ModelCompleted {
	body := &ModelCompleted{ModelRef: s.asked.ModelRef, Status: StatusError, Error: lostWorker(), Lost: true}
	if r := s.reservation; r.ID != "" {
		body.Usage = model.Usage{OutputTokens: r.Tokens, TotalTokens: r.Tokens, CostNUSD: r.CostNUSD, Estimated: true}
		s.settle = append(s.settle, quota.Settlement{ReservationID: r.ID, Lost: true})
	}
	s.reservation = quota.Reservation{}
	return body
}

// abandonModel gives up a model call of a lost worker.
func (s *State) abandonModel(now time.Time) {
	body := s.lostAnswer()
	if s.lost+1 < maxLost {
		body.RetryInMS = new(int64)
	}
	s.fact(s.entry(now, event.ModelCompleted, body))
	if body.RetryInMS == nil {
		s.closeStep(now, StatusError)
	}
}

// output makes an answer fit for the journal: bounded, its tool calls resolved and given their ids.
func (s *State) output(m *model.Message) (*ModelOutput, bool) {
	text, truncated := tool.CutText(m.Content, MaxOutput)
	out := &ModelOutput{Message: OutputMessage{Role: "assistant", Content: text}}
	room := MaxOutput - tool.EncodedLen(text)
	for i := range m.ToolCalls {
		const overhead = 256 // ids, names and punctuation
		wanted := &m.ToolCalls[i]
		if room -= overhead; room < 0 {
			return out, true
		}
		w := Wish{CallID: s.plan.Source.ID(id.ToolCall), Name: boundName(wanted.Name), Arguments: wanted.Arguments}
		w.ToolID = s.resolve(wanted)
		w.Arguments, w.Unfit = arguments(wanted.Arguments, room)
		room -= len(w.Arguments)
		out.ToolCalls = append(out.ToolCalls, w)
	}
	return out, truncated
}

// arguments returns raw on one line when it's JSON of at most room bytes, else an empty object and the reason.
func arguments(raw json.RawMessage, room int) (json.RawMessage, string) {
	raw = bytes.TrimSpace(raw)
	switch {
	case len(raw) == 0:
		return json.RawMessage("{}"), ""
	case len(raw) > room:
		return json.RawMessage("{}"), "The arguments are longer than a run's journal takes."
	case !json.Valid(raw):
		return json.RawMessage("{}"), "The arguments are not JSON."
	}
	line, shallow := tool.Line(raw)
	if !shallow {
		return json.RawMessage("{}"), "The arguments are nested too deep."
	}
	return line, ""
}

func boundName(name string) string {
	head, _ := tool.CutText(name, 130)
	return head
}

// resolve finds which tool a model means. What it names need not have been offered, nor exist.
func (s *State) resolve(c *model.ToolCall) string {
	for i := range s.plan.Tools {
		t := &s.plan.Tools[i]
		if t.ID == c.ToolID || c.ToolID == "" && (t.ID == c.Name || tool.NameOf(t) == c.Name) {
			return t.ID
		}
	}
	for _, guess := range []string{c.ToolID, c.Name, "tool." + c.Name} {
		if id.ValidTool(guess) {
			return guess
		}
	}
	return "tool.unknown"
}

// callTool announces the next tool call, or records that it's refused.
func (s *State) callTool(now time.Time, w *Wish) (Effect, bool) {
	step := openStep{id: s.plan.Source.ID(id.Step), span: s.plan.Source.Span()}
	timeout := s.plan.Deadline.Sub(now)
	t := s.allowed(w.ToolID)
	if t != nil {
		timeout = min(timeout, s.plan.ToolTimeout(t))
	}
	announce := []Entry{{
		Type: event.StepStarted, ID: s.plan.Source.ID(id.Event), StepID: step.id, SpanID: step.span, At: now,
		Body: &StepStarted{Kind: "tool", Name: w.ToolID},
	}, {
		Type: event.ToolCallRequested, ID: s.plan.Source.ID(id.Event), StepID: step.id, SpanID: step.span, At: now,
		Body: &ToolRequested{CallID: w.CallID, ToolID: w.ToolID, Input: w.Arguments, TimeoutMS: max(timeout.Milliseconds(), 1)},
	}}
	if refusal := s.refusal(w); refusal != nil {
		for i := range announce {
			s.fact(announce[i])
		}
		s.toolDone(now, statusOf(refusal), &ToolCompleted{Error: failureOf(refusal)})
		return Effect{}, false
	}
	s.intent, s.next = announce, Call
	return s.journal(Effect{ToolCall: true}), true
}

// refusal says why a call isn't made, or nil.
func (s *State) refusal(w *Wish) error {
	switch {
	case !s.plan.MayInvoke:
		return fault.New(fault.Forbidden, "The run's principal may call no tools: it lacks the scope tools:invoke.")
	case s.allowed(w.ToolID) == nil:
		return fault.New(fault.Forbidden, "The run may not call %s; go on without it.", w.ToolID)
	case w.Unfit != "":
		return fault.Invalid("arguments", "%s", w.Unfit)
	}
	return nil
}

// returned records what a tool gave.
func (s *State) returned(in Input) {
	body := &ToolCompleted{Output: in.Output, Truncated: in.Truncated, DurationMS: in.Took.Milliseconds()}
	if in.Err == nil {
		s.toolDone(in.Now, StatusOK, body)
		return
	}
	body.Output, body.Truncated, body.Error = nil, false, failureOf(in.Err)
	status := statusOf(in.Err)
	switch {
	case in.Interrupted && s.expired:
		status, body.Error = StatusTimeout, timedOut(s.plan.TimeoutMS)
	case in.Interrupted && s.overtaken:
		status, body.Error = StatusError, failureOf(fault.New(fault.Conflict, "The call was stopped, because the run is to be canceled; it may have had its effect.").With("outcome", "unknown"))
	case in.Interrupted && s.leaving:
		return // whoever goes on with the run decides from the open call
	}
	s.toolDone(in.Now, status, body)
}

// toolDone records the end of the open tool call and of its step.
func (s *State) toolDone(now time.Time, status string, body *ToolCompleted) {
	body.CallID, body.ToolID, body.Status = s.called.CallID, s.called.ToolID, status
	s.fact(s.entry(now, event.ToolCallCompleted, body))
	if status == StatusOK {
		s.closeStep(now, StatusOK)
	} else {
		s.closeStep(now, StatusError)
	}
}

func statusOf(err error) string {
	switch fault.CodeOf(err) {
	case fault.Forbidden, fault.PolicyBlocked:
		return StatusDenied
	case fault.Timeout:
		return StatusTimeout
	}
	return StatusError
}
