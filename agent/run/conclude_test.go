package run_test

import (
	"slices"
	"testing"
	"time"

	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/agent/queue"
	"github.com/nexixai/agentos/agent/run"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
)

// judged is an executor whose runs' origin tells how they ended there.
type judged struct {
	*takeWorld
	conclude storage.Call[run.Conclusion, run.Concluded]
	node     *queue.Sessions
}

func mustJudged(t *testing.T, quotas tenancy.Quotas) *judged {
	t.Helper()
	w := &judged{takeWorld: mustTake(t, quotas)}
	w.conclude = storage.Define(w.reg, "test.conclude", w.commands.Conclude)
	w.node = w.mustOpen(t, stackID, 10)
	waitFor(t, func() bool { return w.node.ID() != "" })
	return w
}

// mustTakeOn takes a run whose origin will tell, and begins it.
func (w *judged) mustTakeOn(t *testing.T, runID string) run.Lease {
	t.Helper()
	a := arrival(runID, 1)
	a.FinalAck = true
	if taken, err := w.arrive(t, a); err != nil || taken.Refused != nil {
		t.Fatalf("taken %+v, %v", taken, err)
	}
	l := mustNext(t, w.node.Leases())
	w.mustAppend(t, l, 2, draft(event.RunStarted, `{"status":"running","stack_id":"stk_one","attempt":1}`))
	return l
}

func (w *judged) mustAppend(t *testing.T, l run.Lease, after uint64, d event.Draft) string {
	t.Helper()
	if _, err := w.s.Append(t.Context(), run.Append{Lease: l, After: after, Events: []event.Draft{d}}); err != nil {
		t.Fatal(err)
	}
	return d.ID
}

// mustEnd completes a run that was begun, and returns its final event's id.
func (w *judged) mustEnd(t *testing.T, l run.Lease) string {
	t.Helper()
	return w.mustAppend(t, l, 3, draft(event.RunCompleted, `{"status":"completed","output":{"type":"text","text":"done"}}`))
}

func (w *judged) mustTell(t *testing.T, runID string, sequence uint64, finalID string, stop bool) run.Concluded {
	t.Helper()
	done, _, err := w.conclude.Do(t.Context(), w.store, "", run.Conclusion{
		Origin: acme, TenantID: tenantID, RunID: runID, Sequence: sequence, FinalID: finalID, Stop: stop, By: "usr_one@acme.example", EventID: id.New(id.Event),
	})
	if err != nil {
		t.Fatal(err)
	}
	return done
}

// listed are the runs with a status.
func (w *judged) listed(t *testing.T, s run.Status) (ids []string) {
	t.Helper()
	list, _, _, err := w.s.List(t.Context(), storage.Read{}, tenantID, run.Filter{Status: s}, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	for i := range list {
		if list[i].Status != s {
			t.Errorf("%s is listed as %s and shown as %s", list[i].ID, s, list[i].Status)
		}
		ids = append(ids, list[i].ID)
	}
	return ids
}

// A run of others that has ended goes on for all but its origin, until the origin says that it has it; its slot does not.
func TestConclude(t *testing.T) {
	one := int64(1)
	w := mustJudged(t, tenancy.Quotas{Runs: tenancy.RunQuotas{MaxConcurrentRuns: &one}})
	l := w.mustTakeOn(t, "run_1")
	final := w.mustEnd(t, l)
	got := w.get(t.Context(), t, "run_1")
	if got.Status != run.Running || got.CompletedAt != nil || got.Output != nil || got.Placement.Superseded {
		t.Errorf("before its origin has it, it's shown as %+v", got)
	}
	if r, c := w.listed(t, run.Running), w.listed(t, run.Completed); len(r) != 1 || len(c) != 0 {
		t.Errorf("running are %v, completed %v", r, c)
	}
	whole, _, err := w.s.GetWhole(t.Context(), storage.Read{}, tenantID, "run_1")
	if err != nil || whole.Status != run.Completed || whole.Output == nil || whole.Output.Text != "done" {
		t.Errorf("its origin is shown %+v, %v", whole, err)
	}
	if got, _, _, err := w.s.Cancel(t.Context(), actor(tenantID), "run_1"); err != nil || got.Status != run.Running {
		t.Errorf("a cancel tells of the end: %+v, %v", got, err)
	}
	w.mustCreate(t, text("the slot is free")) // or it's refused
	for range 2 {
		done := w.mustTell(t, "run_1", 4, final, true)
		if done.Superseded || done.Status == nil || *done.Status != run.Completed || done.CompletedAt == nil {
			t.Errorf("told of the end, it answers %+v", done)
		}
	}
	if got = w.get(t.Context(), t, "run_1"); got.Status != run.Completed || got.CompletedAt == nil || got.Output.Text != "done" || got.Placement.Superseded {
		t.Errorf("afterwards it's shown as %+v", got)
	}
	if r, c := w.listed(t, run.Running), w.listed(t, run.Completed); slices.Contains(r, "run_1") || len(c) != 1 {
		t.Errorf("running are %v, completed %v", r, c)
	}
	if _, _, _, err := w.s.Cancel(t.Context(), actor(tenantID), "run_1"); !fault.Is(err, fault.Conflict) {
		t.Errorf("a cancel after the end: %v", err)
	}
	hot, err := hotOf(t, w.world, "run_1")
	if err != nil || hot.WatchMS != 0 {
		t.Errorf("it's still among the deadlines: %+v, %v", hot, err)
	}
}

func hotOf(t *testing.T, w *world, runID string) (hot run.Hot, err error) {
	t.Helper()
	err = w.store.View(t.Context(), storage.Read{}, func(r storage.Snapshot) (err error) {
		hot, err = run.HotOf(r, tenantID, runID)
		return err
	})
	return hot, err
}

// What ended in the queue, canceled by nobody who is here, is shown waiting.
func TestConclude_Queued(t *testing.T) {
	w := mustTake(t, tenancy.Quotas{})
	a := arrival("run_1", 1)
	a.FinalAck = true
	if _, err := w.arrive(t, a); err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.stop.Do(t.Context(), w.store, "", cancelInbound{acme, "run_1", id.New(id.Event)}); err != nil {
		t.Fatal(err)
	}
	if got := w.get(t.Context(), t, "run_1"); got.Status != run.Queued || got.CancelRequestedAt != nil || got.CompletedAt != nil {
		t.Errorf("it's shown as %+v", got)
	}
}

// An end that the origin does not tell of within the run's time and a grace is superseded; what it says after all is believed.
func TestConclude_Silence(t *testing.T) {
	w := mustJudged(t, tenancy.Quotas{})
	final := w.mustEnd(t, w.mustTakeOn(t, "run_1"))
	for _, ahead := range []time.Duration{time.Minute - 2*time.Second, time.Minute + 10*time.Second} { // its deadline is in a minute, the grace 15 s
		w.ahead.Store(int64(ahead))
		if err := w.s.Overrun(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := w.get(t.Context(), t, "run_1"); got.Status != run.Running {
			t.Errorf("after %v it's shown as %s", ahead, got.Status)
		}
	}
	w.ahead.Store(int64(time.Minute + 16*time.Second))
	if err := w.s.Overrun(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := w.get(t.Context(), t, "run_1"); got.Status != run.Completed || !got.Placement.Superseded || got.Placement.ForwardedFrom != "acme" {
		t.Errorf("after its time it's shown as %+v", got)
	}
	if c := w.listed(t, run.Completed); len(c) != 1 {
		t.Errorf("completed are %v", c)
	}
	if done := w.mustTell(t, "run_1", 4, final, true); done.Superseded {
		t.Errorf("told late, it answers %+v", done)
	}
	if got := w.get(t.Context(), t, "run_1"); got.Status != run.Completed || got.Placement.Superseded {
		t.Errorf("its origin has it after all, and it's shown as %+v", got)
	}
}

// What ended otherwise at the origin is superseded here: what has ended is shown so, what goes on is stopped, and what has not
// come is refused.
func TestConclude_Otherwise(t *testing.T) {
	w := mustJudged(t, tenancy.Quotas{})
	w.mustEnd(t, w.mustTakeOn(t, "run_1"))
	for range 2 {
		if done := w.mustTell(t, "run_1", 4, "evt_other", true); !done.Superseded || *done.Status != run.Completed {
			t.Errorf("it answers %+v", done)
		}
	}
	if got := w.get(t.Context(), t, "run_1"); got.Status != run.Completed || !got.Placement.Superseded || got.Output.Text != "done" {
		t.Errorf("it's shown as %+v", got)
	}
	for name, stop := range map[string]bool{"run_2": true, "run_3": false} {
		l := w.mustTakeOn(t, name)
		done := w.mustTell(t, name, 3, "evt_other", stop)
		if !done.Superseded || *done.Status != run.Running || done.CompletedAt != nil {
			t.Errorf("%s answers %+v", name, done)
		}
		got := w.get(t.Context(), t, name)
		if (got.CancelRequestedAt != nil) != stop || !got.Placement.Superseded {
			t.Errorf("%s is shown as %+v", name, got)
		}
		if !stop {
			w.mustEnd(t, l)
			if got = w.get(t.Context(), t, name); got.Status != run.Completed || !got.Placement.Superseded {
				t.Errorf("%s is shown as %+v", name, got)
			}
		}
	}
	if done := w.mustTell(t, "run_4", 3, "evt_other", true); !done.Superseded || done.Status != nil {
		t.Errorf("one that never came answers %+v", done)
	}
	if _, err := w.arrive(t, arrival("run_4", 1)); !refusedAs(err, "canceled") {
		t.Errorf("it comes late: %v", err)
	}
	stranger := run.Conclusion{Origin: acme, TenantID: tenantID, RunID: "run_3", Sequence: 4, FinalID: "evt_x"}
	stranger.Origin.PeeringID = "prg_other"
	if _, _, err := w.conclude.Do(t.Context(), w.store, "", stranger); !fault.Is(err, fault.NotFound) {
		t.Errorf("told by another peering: %v", err)
	}
}

// The relay of a run whose executor is to be told of the end keeps its lease, from node to node, until that has been done.
func TestTold(t *testing.T) {
	tells := globex
	tells.FinalAck = true
	for _, lost := range []bool{false, true} {
		w, s := mustAway(t, tells)
		first := w.mustOpen(t, stackID, 1)
		waitFor(t, func() bool { return first.ID() != "" })
		made, _, _, err := s.Create(t.Context(), actor(tenantID), "agt_only_there", text("hi"), meta)
		if err != nil {
			t.Fatal(err)
		}
		l := mustNext(t, first.Relays())
		if err := s.Offer(t.Context(), l, 0, "", id.New(id.Event)); err != nil {
			t.Fatal(err)
		}
		f := mustForward(t, s, l)
		if f.Ended || !f.Target().FinalAck {
			t.Errorf("loaded %+v", f)
		}
		if lost {
			err = s.GiveUp(t.Context(), l, 1, nil)
		} else {
			events := told(f, 2, draft(event.RunStarted, `{"status":"running"}`), draft(event.RunCompleted, `{"status":"completed","output":{"type":"text","text":"x"}}`))
			_, err = s.Relay(t.Context(), run.Relay{Lease: l, Attempt: 1, After: 2, Events: events})
		}
		if err != nil {
			t.Fatal(err)
		}
		ended := w.get(t.Context(), t, made.ID)
		if f = mustForward(t, s, l); !f.Ended || f.Lost != lost || f.Last == 0 || f.LastID == "" || !f.CompletedAt.Equal(*ended.CompletedAt) {
			t.Errorf("after the end it's %+v", f)
		}
		if err := s.GiveUp(t.Context(), l, f.Attempt, nil); !refusedAs(err, "final") {
			t.Errorf("given up after its end: %v", err)
		}
		second := w.mustOpen(t, "stk_two", 1)
		waitFor(t, func() bool { return second.ID() != "" })
		if err := s.HandBack(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		l2 := mustNext(t, second.Relays())
		late := &run.LateResult{Status: run.Completed, CompletedAt: time.Unix(1, 0).UTC(), RemoteRunID: made.ID}
		if err := s.Told(t.Context(), l, late); !refusedAs(err, "fenced") {
			t.Errorf("told under the former lease: %v", err)
		}
		for range 2 {
			if err := s.Told(t.Context(), l2, late); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.LoadForward(t.Context(), l2); !refusedAs(err, "final") {
			t.Errorf("loaded after all is done: %v", err)
		}
		got := w.get(t.Context(), t, made.ID)
		if want := lost; (got.Placement.LateResult != nil) != want || got.Status != ended.Status {
			t.Errorf("lost=%v: it's shown as %+v", lost, got)
		}
		if lost && *got.Placement.LateResult != *late {
			t.Errorf("what came late is %+v", got.Placement.LateResult)
		}
		waitFor(t, func() bool { return second.Held() == 0 })
	}
}

// Nobody is told who was surely not asked, and an end that comes while no node relays is told by the next one.
func TestTold_Whom(t *testing.T) {
	tells := globex
	tells.FinalAck = true
	w, s := mustAway(t, tells, initech)
	node := w.mustOpen(t, stackID, 1)
	waitFor(t, func() bool { return node.ID() != "" })
	create := func() (string, run.Lease) {
		made, _, _, err := s.Create(t.Context(), actor(tenantID), "agt_only_there", text("hi"), meta)
		if err != nil {
			t.Fatal(err)
		}
		l := mustNext(t, node.Relays())
		if err := s.Offer(t.Context(), l, 0, "", id.New(id.Event)); err != nil {
			t.Fatal(err)
		}
		return made.ID, l
	}
	refused, l := create()
	if err := s.Withdraw(t.Context(), l, 1, run.Refusal{Organization: "globex", Code: fault.RateLimited}); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := s.Cancel(t.Context(), actor(tenantID), refused); err != nil {
		t.Fatal(err)
	}
	if _, err := s.LoadForward(t.Context(), l); !refusedAs(err, "final") {
		t.Errorf("nobody has it, and it's to be told: %v", err)
	}
	_, l = create()
	w.ahead.Store(int64(time.Hour))
	if err := s.Overrun(t.Context()); err != nil {
		t.Fatal(err)
	}
	if again := mustNext(t, node.Relays()); again.RunID != l.RunID || again.Epoch <= l.Epoch || !mustForward(t, s, again).Ended {
		t.Errorf("ended by its time, it's leased as %+v after %+v", again, l)
	}
}
