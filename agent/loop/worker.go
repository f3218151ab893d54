package loop

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/agent/run"
	"github.com/nexixai/agentos/agent/tool"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/model"
	"github.com/nexixai/agentos/tenancy"
)

// grace is how long after a run's deadline its worker still tries to record the end.
const grace = 30 * time.Second

// worker runs one run under one lease.
type worker struct {
	r      *Runtime
	lease  run.Lease
	work   *run.Work
	tenant *tenancy.Tenant
	state  *State
	caller model.Caller
	call   model.Call // prepared, to be asked

	pause    pause
	signaled atomic.Bool // the lease was lost, or the journal holds a cancel that has not been read

	mu    sync.Mutex
	ctx   context.Context // of the running effect: ends at the deadline, and when cut off
	cut   context.CancelCauseFunc
	ended context.CancelFunc
}

// errGone says that the run is no longer this worker's.
var errGone = errors.New("loop: the lease is another's")

// work runs one leased run to its end, or to where this node has to let go of it.
func (r *Runtime) work(lease run.Lease) {
	w := &worker{r: r, lease: lease}
	w.renew(time.Time{})
	defer w.release()
	if !r.enter(w) {
		return
	}
	defer r.exit(w)
	effect, err := w.guard(w.begin)
	if err == nil {
		_, err = w.guard(func() (Effect, error) { return w.loop(effect) })
	}
	switch {
	case err == nil || r.ctx.Err() != nil:
	case errors.Is(err, errGone):
		w.book()
	default:
		w.log().Warn("gave up a run for now", zap.Error(err))
		if err := w.end(Effect{HandBack: true}); err != nil {
			w.log().Warn("run not handed back", zap.Error(err))
		}
	}
}

// brief bounds what a worker still does for a run that it lets go of.
const brief = 5 * time.Second

// book settles what was spent and could not be journaled, because the run is another's now.
func (w *worker) book() {
	if w.state == nil || len(w.state.settle) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(w.r.ctx, brief)
	defer cancel()
	if err := w.r.o.Runs.Settle(ctx, w.lease.TenantID, w.state.settle...); err != nil {
		w.log().Warn("spending of a lost lease not booked; its reservation is booked whole when it expires", zap.Error(err))
	}
}

// signal cuts the running effect off, so that the worker looks at its lease and its journal.
func (w *worker) signal() {
	w.signaled.Store(true)
	w.interrupt(errSignaled)
}

// valid returns errGone when the lease may be another's.
func (w *worker) valid() error {
	if w.r.o.Leases.Valid(w.lease) != nil {
		return errGone
	}
	return nil
}

// guard turns a panic into the end of the run, as far as the run can still be ended.
func (w *worker) guard(do func() (Effect, error)) (effect Effect, err error) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		w.log().Error("worker panicked", zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
		effect, err = w.fail()
	}()
	return do()
}

// fail ends the run after a panic: with everything open closed, or, when the state itself is what panics, barely.
func (w *worker) fail() (effect Effect, err error) {
	defer func() {
		if p := recover(); p != nil {
			w.log().Error("worker panicked again", zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
			effect, err = Effect{Verb: Stop}, errors.New("loop: panicked twice")
		}
	}()
	if w.state == nil {
		return Effect{}, errors.New("loop: panicked before the run was loaded")
	}
	return w.loop(w.state.Step(w.input(Input{Happened: Broke, Err: errors.New("panic")})))
}

// renew gives the worker a context that has not been cut off.
func (w *worker) renew(deadline time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cut != nil {
		w.ended()
		w.cut(nil)
	}
	ctx, cut := context.WithCancelCause(w.r.ctx)
	w.ctx, w.cut, w.ended = ctx, cut, func() {}
	if !deadline.IsZero() {
		w.ctx, w.ended = context.WithDeadline(ctx, deadline)
	}
	if w.signaled.Load() { // while there was nothing to cut off
		cut(errSignaled)
	}
}

func (w *worker) release() {
	w.ended()
	w.cut(nil)
}

func (w *worker) interrupt(cause error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut(cause)
}

func (w *worker) log() *zap.Logger {
	l := w.r.log.With(zap.String("tenant_id", w.lease.TenantID), zap.String("run_id", w.lease.RunID), zap.Uint64("epoch", w.lease.Epoch))
	if w.work != nil {
		l = l.With(zap.String("correlation_id", w.work.CorrelationID))
	}
	return l
}

// input adds to in what every Input has.
func (w *worker) input(in Input) Input {
	in.Now = time.Now()
	in.Signaled = w.signaled.Load()
	in.Expired = errors.Is(w.ctx.Err(), context.DeadlineExceeded)
	in.Leaving = w.r.taking.Err() != nil
	return in
}

// begin loads the run and says what to do first.
func (w *worker) begin() (Effect, error) {
	err := w.patiently(func() error {
		work, err := w.r.o.Runs.Load(w.r.ctx, w.lease)
		w.work = work
		return err
	})
	if err != nil {
		return Effect{}, err
	}
	w.renew(w.work.Deadline)
	plan, planErr := w.plan()
	if planErr != nil && transient(planErr) {
		return Effect{}, planErr
	}
	w.state = NewState(plan)
	if err := w.fold(); err != nil {
		planErr = err
	}
	w.state.Resume(w.work.Reserved)
	if planErr != nil {
		w.log().Warn("run can't be run", zap.Error(planErr))
		return w.state.Step(w.input(Input{Happened: Broke, Err: planErr})), nil
	}
	return w.state.Step(w.input(Input{Happened: Began})), nil
}

// plan gathers what the run is to be. On an error the plan is enough to end the run.
func (w *worker) plan() (*Plan, error) {
	work, tools := w.work, w.r.o.Tools
	p := &Plan{
		StackID: w.r.o.StackID, Epoch: w.lease.Epoch, Span: event.SpanOf(work.Traceparent),
		Input: work.Request.Input.Text, MaxSteps: work.Request.Options.MaxSteps,
		TimeoutMS: work.Request.Options.TimeoutMS, Deadline: work.Deadline,
		MayInvoke:   work.Auth.Has(tenancy.ToolsInvoke),
		ToolTimeout: tools.Timeout, Repeatable: tools.Repeatable, Source: w.r.src,
	}
	err := w.patiently(func() error {
		tenant, err := w.r.o.Tenants.Tenant(w.r.ctx, work.TenantID)
		if err != nil {
			return err
		}
		a, defined, err := w.r.o.Agents.Agent(w.r.ctx, work.TenantID, work.AgentID)
		if err != nil {
			return err
		}
		w.tenant = tenant
		w.caller = model.Caller{Auth: &work.Auth, Tenant: tenant, AgentID: work.AgentID, RunID: work.RunID, PolicyID: a.PolicyID}
		p.ModelRef, p.Instructions = a.ModelRef, a.Instructions
		p.Tools = tool.Allowed(defined, tenant.Entitlements.ToolIDsAllowed, work.Request.Tooling.Allowlist, work.Request.Tooling.Denymap)
		return nil
	})
	return p, err
}

// fold folds what the journal has beyond what the state has seen.
func (w *worker) fold() error {
	for i := range w.work.Journal {
		envelope := &w.work.Journal[i]
		if envelope.Sequence <= w.state.Last() {
			continue
		}
		entry, err := Decode(envelope)
		if err != nil {
			return err
		}
		w.state.Fold(envelope.Sequence, &entry)
	}
	w.work.Journal = nil
	return nil
}

// loop does what the core says until it says stop.
func (w *worker) loop(effect Effect) (Effect, error) {
	for {
		var in Input
		var err error
		switch effect.Verb {
		case Stop:
			return effect, w.end(effect)
		case Journal:
			in, err = w.journal(&effect)
		case Reload:
			in, err = w.reload()
		case Prepare:
			in = w.prepare(effect.Request)
		case Ask:
			in, err = w.ask()
		case Call:
			in, err = w.invoke(&effect)
		case Wait:
			w.wait(&effect)
			in.Happened = Waited
		}
		if err != nil {
			return effect, err
		}
		if w.signaled.Load() {
			if err := w.valid(); err != nil {
				return effect, err
			}
		}
		effect = w.state.Step(w.input(in))
	}
}

func (w *worker) end(effect Effect) error {
	if !effect.HandBack {
		return nil
	}
	ctx, cancel := context.WithTimeout(w.r.ctx, brief)
	defer cancel()
	return w.r.o.Runs.HandBack(ctx, w.lease)
}

// journal appends, for as long as the store is only unavailable and the lease holds.
func (w *worker) journal(effect *Effect) (Input, error) {
	a := run.Append{
		Lease: w.lease, After: w.state.Last(), Events: drafts(effect.Entries),
		Reserve: effect.Reserve, Settle: effect.Settle, ToolCall: effect.ToolCall,
		Output: effect.Output, Error: effect.Error,
	}
	var last uint64
	err := w.patiently(func() (err error) {
		last, err = w.r.o.Runs.Append(w.r.ctx, a)
		return err
	})
	switch {
	case err == nil:
		w.observe(effect.Entries)
		return Input{Happened: Journaled, Last: last}, nil
	case errors.Is(err, errGone) || transient(err):
		return Input{}, err
	case fault.Is(err, fault.Conflict):
		return Input{Happened: Overtaken}, nil
	}
	if final := effect.Entries[len(effect.Entries)-1]; final.Type.Final() {
		w.log().Error("the end of a run was refused", zap.Error(err))
	}
	return Input{Happened: Refused, Err: err}, nil
}

// drafts encodes entries, all payloads into one piece of memory.
func drafts(entries []Entry) []event.Draft {
	out := make([]event.Draft, len(entries))
	size := 64
	for i := range entries {
		size += 320
		switch body := entries[i].Body.(type) {
		case *ModelCompleted:
			if body.Output != nil {
				size += len(body.Output.Message.Content) + 384*len(body.Output.ToolCalls)
			}
		case *ToolCompleted:
			size += len(body.Output)
		case *ToolRequested:
			size += len(body.Input)
		case *Completed:
			size += len(body.Output.Text)
		}
	}
	b := make([]byte, 0, size)
	for i := range entries {
		e := &entries[i]
		start := len(b)
		b = e.Body.Encode(b)
		out[i] = event.Draft{ID: e.ID, Type: e.Type, StepID: e.StepID, SpanID: e.SpanID, Payload: b[start:len(b):len(b)]}
	}
	return out
}

// transient reports whether the same may succeed a moment later, through nobody's doing here.
func transient(err error) bool {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	coded, ok := errors.AsType[*fault.Error](err)
	return ok && (coded.Code == fault.Unavailable || coded.Code == fault.Timeout)
}

// patiently does do again while the store is only unavailable, the lease holds, and the run's time isn't long over. A
// lease that is gone is errGone.
func (w *worker) patiently(do func() error) error {
	pause := 50 * time.Millisecond
	for {
		err := do()
		switch {
		case err == nil:
			return nil
		case gone(err):
			return errGone
		case !transient(err) || w.r.ctx.Err() != nil:
			return err
		case w.valid() != nil:
			return errGone
		case w.work != nil && time.Now().After(w.work.Deadline.Add(grace)):
			return err
		}
		timer := time.NewTimer(pause/2 + rand.N(pause))
		select {
		case <-timer.C:
		case <-w.r.ctx.Done():
			timer.Stop()
			return err
		}
		pause = min(2*pause, 2*time.Second)
	}
}

// gone reports whether err says that the run is another's now, or is no more.
func gone(err error) bool {
	coded, ok := errors.AsType[*fault.Error](err)
	if !ok || coded.Code != fault.Conflict {
		return false
	}
	_, overtaken := coded.Details["last_sequence"]
	return !overtaken
}

// reload reads what others have written to the journal.
func (w *worker) reload() (Input, error) {
	w.signaled.Store(false)
	w.renew(w.work.Deadline)
	err := w.patiently(func() error {
		work, err := w.r.o.Runs.Load(w.r.ctx, w.lease)
		if err == nil {
			w.work.Journal = work.Journal
		}
		return err
	})
	if err != nil {
		return Input{}, err
	}
	if err := w.fold(); err != nil {
		return Input{Happened: Broke, Err: err}, nil
	}
	return Input{Happened: Read}, nil
}

func (w *worker) prepare(request *model.ChatRequest) Input {
	call, err := w.r.o.Gateway.Prepare(w.ctx, w.caller, request)
	if err != nil {
		return Input{Happened: Prepared, Err: err, Interrupted: w.ctx.Err() != nil}
	}
	w.call = call
	return Input{Happened: Prepared, ModelRef: call.ModelRef(), Reservation: call.Reservation()}
}

func (w *worker) ask() (Input, error) {
	if err := w.valid(); err != nil {
		return Input{}, err
	}
	call := w.call
	w.call = nil
	began := time.Now()
	result, err := call.Do(w.ctx, w.sink(call.ModelRef()))
	return Input{
		Happened: Answered, Result: result, Err: err, Took: time.Since(began),
		Interrupted: err != nil && w.ctx.Err() != nil,
	}, nil
}

// sink passes pieces of an answer on, when the run is to be streamed.
func (w *worker) sink(ref string) func(model.Delta) error {
	deltas := w.r.o.Deltas
	if deltas == nil || !w.work.Request.Options.StreamEvents {
		return nil
	}
	d := event.Delta{
		TenantID: w.work.TenantID, AgentID: w.work.AgentID, RunID: w.work.RunID,
		StepID: w.state.step.id, SpanID: w.state.step.span, Traceparent: w.work.Traceparent, ModelRef: ref,
	}
	return func(piece model.Delta) error {
		if piece.Text != "" {
			d.Text = piece.Text
			deltas(d)
		}
		return nil
	}
}

func (w *worker) invoke(effect *Effect) (Input, error) {
	if err := w.valid(); err != nil {
		return Input{}, err
	}
	began := time.Now()
	output, truncated, err := w.r.o.Tools.Invoke(w.ctx, tool.Invocation{
		Auth: &w.work.Auth, Tenant: w.tenant, RunID: w.work.RunID, Tool: effect.Tool, EffectID: effect.Wanted.CallID,
		CorrelationID: w.work.CorrelationID, Traceparent: w.work.Traceparent, Input: effect.Wanted.Input,
		Timeout: time.Duration(effect.Wanted.TimeoutMS) * time.Millisecond,
	})
	return Input{
		Happened: Returned, Output: output, Truncated: truncated, Err: err, Took: time.Since(began),
		Interrupted: err != nil && w.ctx.Err() != nil,
	}, nil
}

// observe counts what is in the journal for good.
func (w *worker) observe(entries []Entry) {
	o := w.r.o.Observer
	if o == nil {
		return
	}
	for i := range entries {
		switch body := entries[i].Body.(type) {
		case *StepCompleted:
			o.Step(w.kind(entries, i), body.Status, time.Duration(body.DurationMS)*time.Millisecond)
		case *ToolCompleted:
			o.ToolCall(body.ToolID, body.Status, time.Duration(body.DurationMS)*time.Millisecond)
		case *Completed:
			o.Run(run.Completed, time.Since(w.work.CreatedAt))
		case *Failed:
			o.Run(run.Failed, time.Since(w.work.CreatedAt))
		case *Canceled:
			o.Run(run.Canceled, time.Since(w.work.CreatedAt))
		}
	}
}

// kind is the kind of the step that entries[i] completes: what was completed just before it says so.
func (w *worker) kind(entries []Entry, i int) string {
	if i > 0 && entries[i-1].Type == event.ToolCallCompleted {
		return "tool"
	}
	return "model"
}
