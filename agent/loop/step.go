package loop

import (
	"time"

	"github.com/nexixai/agentos/agent"
	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/agent/run"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/model"
	"github.com/nexixai/agentos/tenancy/quota"
)

// Verb is what the shell is to do.
type Verb uint8

// The verbs of an Effect.
const (
	// Stop ends the work on this run: it's final, or it's to be handed back.
	Stop Verb = iota
	// Journal appends Effect.Entries, all or nothing.
	Journal
	// Reload reads the journal beyond State.Last and folds what's there.
	Reload
	// Prepare takes Effect.Request through policy and routing, and calls nobody yet.
	Prepare
	// Ask asks the model that was prepared.
	Ask
	// Call calls Effect.Tool.
	Call
	// Wait waits until Effect.Until.
	Wait
)

// Effect is one thing for the shell to do.
type Effect struct {
	Verb Verb
	// Entries are to be appended, those that have happened first. They're valid until the next Step.
	Entries  []Entry
	Reserve  *quota.Reservation
	Settle   []quota.Settlement
	ToolCall bool
	Output   *run.Output
	Error    *run.Error
	// Request is what to ask the model, for Prepare.
	Request *model.ChatRequest
	// Tool and Wanted are what to call, for Call.
	Tool   *agent.Tool
	Wanted *ToolRequested
	// Until is the end of a Wait, For and Limit what is waited for.
	Until time.Time
	For   run.WaitsFor
	Limit string
	// HandBack is set by a Stop that leaves the run unfinished.
	HandBack bool
}

// Happened says what an Input tells of.
type Happened uint8

// What can have happened.
const (
	// Began: the journal has been folded, and work begins.
	Began Happened = iota
	// Journaled: Entries are in the journal, whose last sequence is Input.Last.
	Journaled
	// Refused: the append was refused with Input.Err, and nothing of it happened.
	Refused
	// Overtaken: the append came too late, for the journal has gone on.
	Overtaken
	// Read: the journal's new events have been folded.
	Read
	// Prepared: Input.ModelRef and Input.Reservation are known, or Input.Err says why not.
	Prepared
	// Answered: the model gave Input.Result, Input.Err, or both.
	Answered
	// Returned: the tool gave Input.Output or Input.Err.
	Returned
	// Waited: the wait is over, or was cut short.
	Waited
	// Broke: the worker can't go on with the run, for Input.Err.
	Broke
)

// Input is what has happened since the last Effect.
type Input struct {
	Happened Happened
	Now      time.Time
	Last     uint64
	Err      error

	ModelRef    string
	Reservation quota.Reservation
	Result      *model.ChatResult
	Output      []byte
	Truncated   bool
	Took        time.Duration
	// Interrupted is set when the effect was cut off by the worker's own side: a cancel, the deadline, or a drain.
	Interrupted bool

	// Signals, each of which stays in force once given (Signaled ends with the next Read).
	Signaled bool // somebody wrote to the journal: read it
	Expired  bool // the deadline has passed
	Leaving  bool // hand the run back at the next boundary
}

// Step takes what has happened and returns what to do next. It's pure but for s and the plan's Source.
func (s *State) Step(in Input) Effect {
	s.overtaken = s.overtaken || in.Signaled
	s.expired = s.expired || in.Expired
	s.leaving = s.leaving || in.Leaving
	switch in.Happened {
	case Journaled:
		if effect, ok := s.journaled(in.Last); ok {
			return effect
		}
	case Refused:
		s.refused(in)
	case Overtaken:
		s.forgo()
		s.overtaken = true
	case Read:
		s.overtaken = false
	case Prepared:
		if in.Err == nil {
			return s.ask(in)
		}
		s.modelRefused(in, s.ref)
	case Answered:
		s.answered(in)
	case Returned:
		s.returned(in)
	case Broke:
		s.forgo()
		s.fatal = failureOf(in.Err)
	}
	return s.decide(in.Now)
}

// decide says what to do from where the run stands.
func (s *State) decide(now time.Time) Effect {
	for {
		switch {
		case s.final:
			return Effect{Verb: Stop}
		case s.overtaken:
			return Effect{Verb: Reload}
		case s.cancel != nil:
			return s.finish(now, event.RunCanceled, &Canceled{By: s.cancel.By}, nil)
		case s.expired || !now.Before(s.plan.Deadline):
			return s.fail(now, timedOut(s.plan.TimeoutMS))
		case s.fatal != nil:
			return s.fail(now, s.fatal)
		case s.leaving:
			if len(s.facts) > 0 {
				return s.journal(Effect{})
			}
			return Effect{Verb: Stop, HandBack: true}
		case len(s.facts) >= maxFacts:
			return s.journal(Effect{})
		case s.attempt < s.plan.Epoch:
			s.fact(Entry{
				Type: event.RunStarted, ID: s.plan.Source.ID(id.Event), At: now, SpanID: s.plan.Span,
				Body: &Started{StackID: s.plan.StackID, Attempt: s.plan.Epoch},
			})
		case s.inherited && s.asked != nil:
			s.inherited = false
			s.abandonModel(now)
		case s.inherited && s.called != nil:
			if t := s.allowed(s.called.ToolID); t != nil && s.plan.Repeatable(t, s.called.Input) {
				s.next = Call
				return s.journal(Effect{})
			}
			s.inherited = false
			s.toolDone(now, StatusError, &ToolCompleted{Error: unknownOutcome("It was not repeated, because the tool isn't declared idempotent.")})
		case now.Before(s.notUntil):
			if len(s.facts) > 0 {
				return s.journal(Effect{})
			}
			return Effect{Verb: Wait, Until: s.notUntil, For: s.waits, Limit: s.limit}
		case s.answer != nil:
			return s.finish(now, event.RunCompleted, &Completed{Output: s.answer}, nil)
		case s.step.id == "" && s.plan.MaxSteps > 0 && s.steps >= s.plan.MaxSteps:
			s.fatal = stepLimit(s.plan.MaxSteps)
		case len(s.wishes) > 0:
			if effect, ok := s.callTool(now, &s.wishes[0]); ok {
				return effect
			}
		default:
			return s.prepare()
		}
	}
}

// journal returns the append of what has happened and of s.intent.
func (s *State) journal(e Effect) Effect {
	e.Verb = Journal
	e.Entries = append(s.facts[:len(s.facts):len(s.facts)], s.intent...)
	e.Settle = s.settle
	return e
}

func (s *State) journaled(last uint64) (Effect, bool) {
	s.last = last
	s.facts, s.settle = s.facts[:0], nil
	for i := range s.intent {
		s.fold(&s.intent[i])
	}
	s.intent = nil
	verb := s.next
	s.next = Stop
	switch verb {
	case Ask:
		return Effect{Verb: Ask}, true
	case Call:
		s.inherited = false
		return Effect{Verb: Call, Tool: s.allowed(s.called.ToolID), Wanted: s.called}, true
	}
	return Effect{}, false
}

// forgo drops what was only intended.
func (s *State) forgo() { s.intent, s.next = nil, Stop }

// finish closes what is open and ends the run.
func (s *State) finish(now time.Time, t event.Type, body Body, failure *Failure) Effect {
	if s.called != nil {
		s.toolDone(now, StatusError, &ToolCompleted{Error: unknownOutcome("The run ended before it was known.")})
	}
	if s.asked != nil {
		s.fact(s.entry(now, event.ModelCompleted, s.lostAnswer()))
	}
	if s.step.id != "" {
		s.closeStep(now, StatusError)
	}
	s.intent = []Entry{s.entry(now, t, body)}
	e := Effect{}
	switch t {
	case event.RunCompleted:
		e.Output = s.answer
	case event.RunFailed:
		e.Error = &run.Error{Code: string(failure.Code), Message: failure.Message, Retryable: failure.Retryable, Details: failure.Details}
	}
	return s.journal(e)
}

func (s *State) fail(now time.Time, failure *Failure) Effect {
	return s.finish(now, event.RunFailed, &Failed{Error: failure}, failure)
}

func (s *State) closeStep(now time.Time, status string) {
	took := max(now.Sub(s.step.since), 0)
	s.fact(s.entry(now, event.StepCompleted, &StepCompleted{Status: status, DurationMS: took.Milliseconds()}))
}

// refused handles an append that the store did not take.
func (s *State) refused(in Input) {
	intent, verb := s.intent, s.next
	s.forgo()
	err := fault.Of(in.Err)
	switch {
	case err.Code == fault.PayloadTooLarge && len(s.facts) > 0 && len(intent) > 0:
		s.notUntil = in.Now.Add(time.Nanosecond) // what happened goes first, alone
	case verb == Stop || len(intent) == 0:
		// The journal takes neither what happened nor an end: try the barest end once more.
		if s.fatal != nil && len(s.facts) == 0 {
			s.final = true
			return
		}
		s.facts, s.step, s.asked, s.called = nil, openStep{}, nil, nil
		s.fatal = failureOf(fault.New(fault.Internal, "append refused").Because(in.Err))
	case err.Code == fault.RateLimited && in.Now.Add(patience(err)).Before(s.plan.Deadline):
		s.notUntil = in.Now.Add(patience(err))
		s.waits = run.ForQuota
		s.limit, _ = err.Details["limit"].(string)
	case verb == Ask:
		s.modelRefused(in, s.ref)
	case verb == Call:
		for i := range intent {
			s.fact(intent[i])
		}
		s.toolDone(in.Now, statusOf(in.Err), &ToolCompleted{Error: failureOf(in.Err)})
	}
}

// patience is how long a refused append waits before it's tried again.
func patience(err *fault.Error) time.Duration {
	if err.RetryAfter <= 0 {
		return time.Second
	}
	return err.RetryAfter
}

func timedOut(timeoutMS int64) *Failure {
	return failureOf(fault.New(fault.Timeout, "The run did not end within its %d ms; give it more time with run_options.timeout_ms.", timeoutMS).With("timeout_ms", timeoutMS))
}

func stepLimit(maxSteps int) *Failure {
	return failureOf(fault.New(fault.StepLimit, "The run took all of its %d steps without an answer; allow more with run_options.max_steps.", maxSteps).With("max_steps", maxSteps))
}

func lostWorker() *Failure {
	return failureOf(fault.New(fault.Unavailable, "The node that had asked the model stopped before the answer was recorded.").With("service", "worker"))
}

func unknownOutcome(why string) *Failure {
	return failureOf(fault.New(fault.Unavailable, "The call was begun, and its outcome is unknown: it may have had its effect. %s", why).With("outcome", "unknown"))
}
