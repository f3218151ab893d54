package run_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/agent/run"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/tenancy"
)

// away sends every run to the same targets.
type away []run.Target

func (a away) Place(context.Context, run.Placing, bool) (*run.Placed, error) {
	return &run.Placed{Targets: a, RouteID: "rte_one"}, nil
}

var (
	globex  = run.Target{PeeringID: "prg_1", Organization: "globex", ClusterID: "clu_g", StackID: "stk_g1", TenantID: "tnt_demo"}
	initech = run.Target{PeeringID: "prg_2", Organization: "initech", ClusterID: "clu_i", StackID: "stk_i1", TenantID: "tnt_demo"}
)

// mustAway makes a world whose runs go to targets, and a service that makes them.
func mustAway(t *testing.T, targets ...run.Target) (*world, *run.Service) {
	t.Helper()
	w := mustWorld(t, tenancy.Quotas{}, func(o *run.Options) { o.Placer, o.Grace = away(targets), time.Second })
	return w, w.runs
}

func mustNext(t *testing.T, leases <-chan run.Lease) run.Lease {
	t.Helper()
	select {
	case l := <-leases:
		return l
	case <-time.After(10 * time.Second):
		t.Fatal("no lease came")
		return run.Lease{}
	}
}

func mustForward(t *testing.T, s *run.Service, l run.Lease) *run.Forward {
	t.Helper()
	f, err := s.LoadForward(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// told are envelopes as an executor tells them, from sequence after+1 on.
func told(f *run.Forward, after uint64, drafts ...event.Draft) [][]byte {
	var out [][]byte
	head := f.Head()
	for i := range drafts {
		out = append(out, event.AppendEnvelope(nil, &head, &drafts[i], after+uint64(i)+1, time.Now()))
	}
	return out
}

func refusedAs(err error, reason string) bool {
	var f *fault.Error
	return errors.As(err, &f) && f.Code == fault.Conflict && f.Details["reason"] == reason
}

// Requirements: P5.
func TestForward_WholeLife(t *testing.T) {
	w, s := mustAway(t, globex)
	node := w.mustOpen(t, stackID, 2)
	waitFor(t, func() bool { return node.ID() != "" })
	made, _, _, err := s.Create(t.Context(), actor(tenantID), "agt_only_there", text("hi"), meta)
	if err != nil {
		t.Fatal(err)
	}
	if made.Placement.Organization != "globex" || made.Placement.RouteID != "rte_one" || made.Status != run.Queued {
		t.Errorf("placed %+v, %s", made.Placement, made.Status)
	}
	l := mustNext(t, node.Relays())
	if node.Free() != 2 {
		t.Errorf("a relay takes a worker: %d of 2 free", node.Free())
	}
	f := mustForward(t, s, l)
	if f.Phase != run.Held || f.Last != 1 || len(f.Prefix) != 0 || f.Target() != globex {
		t.Fatalf("loaded %+v", f)
	}
	offer := id.New(id.Event)
	for range 2 { // asked twice, the first answer being lost
		if err := s.Offer(t.Context(), l, 0, "stk_g2", offer); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Offer(t.Context(), l, 0, "", id.New(id.Event)); !refusedAs(err, "phase") {
		t.Errorf("a second offer: %v", err)
	}
	f = mustForward(t, s, l)
	if f.Phase != run.Offered || f.Attempt != 1 || f.Last != 2 || len(f.Prefix) != 2 || f.Target().StackID != "stk_g2" || f.LastID != offer {
		t.Fatalf("offered %+v", f)
	}
	started := told(f, 2, draft(event.RunStarted, `{"status":"running","stack_id":"stk_g2","attempt":1}`))
	for range 2 {
		last, err := s.Relay(t.Context(), run.Relay{Lease: l, Attempt: 1, After: 2, Events: started})
		if err != nil || last != 3 {
			t.Fatalf("relayed to %d, %v", last, err)
		}
	}
	if err := s.Withdraw(t.Context(), l, 1, run.Refusal{}); !refusedAs(err, "phase") {
		t.Errorf("withdrawn after it was taken: %v", err)
	}
	if _, err := s.Relay(t.Context(), run.Relay{Lease: l, Attempt: 2, After: 3, Events: told(f, 3, draft(event.StepStarted, `{}`))}); !refusedAs(err, "phase") {
		t.Errorf("another attempt's events: %v", err)
	}
	final := told(f, 3, draft(event.RunCompleted, `{"status":"completed","output":{"type":"text","text":"done"}}`))
	for range 2 {
		last, err := s.Relay(t.Context(), run.Relay{Lease: l, Attempt: 1, After: 3, Events: final})
		if err != nil || last != 4 {
			t.Fatalf("relayed to %d, %v", last, err)
		}
	}
	got := w.get(t.Context(), t, made.ID)
	if got.Status != run.Completed || got.Output.Text != "done" || got.Placement.StackID != "stk_g2" {
		t.Errorf("ended as %+v", got)
	}
	waitFor(t, func() bool { return node.Held() == 0 })
	if _, err := s.Relay(t.Context(), run.Relay{Lease: l, Attempt: 1, After: 4, Events: told(f, 4, draft(event.StepStarted, `{}`))}); !refusedAs(err, "final") {
		t.Errorf("after the end: %v", err)
	}
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for range 1000 {
		if ok() {
			return
		}
		select {
		case <-t.Context().Done():
		case <-time.After(5 * time.Millisecond):
		}
	}
	t.Fatal("it did not come to be")
}

func TestForward_Refused(t *testing.T) {
	w, s := mustAway(t, globex, initech)
	node := w.mustOpen(t, stackID, 2)
	waitFor(t, func() bool { return node.ID() != "" })
	made, _, _, err := s.Create(t.Context(), actor(tenantID), agentID, text("hi"), meta)
	if err != nil {
		t.Fatal(err)
	}
	l := mustNext(t, node.Relays())
	refuse := func(attempt uint64, target int, permanent bool) {
		t.Helper()
		if err := s.Offer(t.Context(), l, target, "", id.New(id.Event)); err != nil {
			t.Fatal(err)
		}
		why := run.Refusal{Organization: fmt.Sprint(target), Code: fault.Forbidden, Message: "no", Permanent: permanent}
		for range 2 {
			if err := s.Withdraw(t.Context(), l, attempt, why); err != nil && !refusedAs(err, "final") {
				t.Fatal(err)
			}
		}
	}
	refuse(1, 0, true)
	if f := mustForward(t, s, l); f.Phase != run.Held || f.Next != 1 || f.Attempt != 1 {
		t.Fatalf("after one refusal %+v", f)
	}
	refuse(2, 1, false)
	if f := mustForward(t, s, l); f.Next != 1 || f.Attempt != 2 {
		t.Fatalf("the target that refused for good is asked again: %+v", f)
	}
	before := mustForward(t, s, l).Last
	for attempt := uint64(3); attempt < 300; attempt++ { // the journal does not grow by what is no news
		refuse(attempt, 1, false)
	}
	if last := mustForward(t, s, l).Last; last != before {
		t.Errorf("the journal has grown from %d to %d events", before, last)
	}
	refuse(300, 1, true)
	got := w.get(t.Context(), t, made.ID)
	if got.Status != run.Failed || got.Error.Code != string(fault.Forbidden) || got.Error.Details["refusals"] == nil {
		t.Errorf("ended as %s, %+v", got.Status, got.Error)
	}
}

func TestForward_Cancel(t *testing.T) {
	w, s := mustAway(t, globex)
	node := w.mustOpen(t, stackID, 2)
	waitFor(t, func() bool { return node.ID() != "" })
	create := func() (*run.Run, run.Lease) {
		r, _, _, err := s.Create(t.Context(), actor(tenantID), agentID, text("hi"), meta)
		if err != nil {
			t.Fatal(err)
		}
		return r, mustNext(t, node.Relays())
	}
	held, l := create()
	if r, _, _, err := s.Cancel(t.Context(), actor(tenantID), held.ID); err != nil || r.Status != run.Canceled {
		t.Fatalf("a held run's cancel: %+v, %v", r, err)
	}
	if err := s.Offer(t.Context(), l, 0, "", id.New(id.Event)); !refusedAs(err, "final") {
		t.Errorf("offered after its cancel: %v", err)
	}
	offered, l := create()
	if err := s.Offer(t.Context(), l, 0, "", id.New(id.Event)); err != nil {
		t.Fatal(err)
	}
	told := make(chan string, 1)
	defer node.Subscribe(func(_, runID string) { told <- runID })()
	r, _, _, err := s.Cancel(t.Context(), actor(tenantID), offered.ID)
	if err != nil || r.Status != run.Queued || r.CancelRequestedAt == nil {
		t.Fatalf("an offered run's cancel: %+v, %v", r, err)
	}
	if got := <-told; got != offered.ID {
		t.Errorf("its relay was told of %s", got)
	}
	f := mustForward(t, s, l)
	if !f.Canceled || f.CanceledBy != "usr_one" || f.Last != 2 {
		t.Errorf("after the cancel %+v", f)
	}
	if err := s.Withdraw(t.Context(), l, 1, run.Refusal{}); err != nil {
		t.Fatal(err)
	}
	if got := w.get(t.Context(), t, offered.ID); got.Status != run.Canceled {
		t.Errorf("canceled while it was offered, and not taken: %s", got.Status)
	}
}

func TestForward_NodeDies(t *testing.T) {
	w, s := mustAway(t, globex)
	first := w.mustOpen(t, "stk_first", 1)
	waitFor(t, func() bool { return first.ID() != "" })
	if _, _, _, err := s.Create(t.Context(), actor(tenantID), agentID, text("hi"), meta); err != nil {
		t.Fatal(err)
	}
	old := mustNext(t, first.Relays())
	w.store.Start()
	first.Close() // nobody is there to take it
	second := w.mustOpen(t, "stk_second", 1)
	l := mustNext(t, second.Relays())
	if l.RunID != old.RunID || l.Epoch <= old.Epoch || !l.Relay {
		t.Fatalf("%+v after %+v", l, old)
	}
	if err := s.Offer(t.Context(), old, 0, "", id.New(id.Event)); !refusedAs(err, "fenced") {
		t.Errorf("the former holder's offer: %v", err)
	}
	if err := s.Offer(t.Context(), l, 0, "", id.New(id.Event)); err != nil {
		t.Error(err)
	}
}

// live sends every run to the same targets, the first of which answers.
type live []run.Target

func (a live) Place(context.Context, run.Placing, bool) (*run.Placed, error) {
	return &run.Placed{Targets: a, Live: true, RouteID: "rte_one"}, nil
}

// A run whose node can send it at once is made and offered in one command; only the lease that it was made for knows that
// nobody has sent it.
func TestForward_OfferedAtOnce(t *testing.T) {
	w := mustWorld(t, tenancy.Quotas{}, func(o *run.Options) { o.Placer, o.Grace = live{globex, initech}, time.Second })
	s, node := w.runs, w.mustOpen(t, "stk_first", 2)
	waitFor(t, func() bool { return node.ID() != "" })
	create := func(session string) (*run.Run, run.Lease) {
		t.Helper()
		w.session.id = session
		r, _, _, err := s.Create(t.Context(), actor(tenantID), agentID, text("hi"), meta)
		if err != nil {
			t.Fatal(err)
		}
		return r, mustNext(t, node.Relays())
	}
	for _, session := range []string{"", "ses_gone"} {
		if _, l := create(session); mustForward(t, s, l).Phase != run.Held {
			t.Errorf("asked by the session %q it is %+v", session, mustForward(t, s, l))
		}
	}
	_, l := create(node.ID())
	f := mustForward(t, s, l)
	if f.Phase != run.Offered || f.Attempt != 1 || f.Last != 2 || len(f.Prefix) != 2 || f.Target() != globex || !f.Unsent {
		t.Fatalf("made %+v", f)
	}
	if v, err := event.ScanOwn(f.Prefix[1]); err != nil || event.Type(v.Type) != event.RunForwarded || string(v.ID) != f.LastID {
		t.Errorf("the journal's second event is %s, %v", f.Prefix[1], err)
	}
	why := run.Refusal{Organization: "globex", Code: fault.Unavailable}
	if err := s.Withdraw(t.Context(), l, 1, why); err != nil {
		t.Fatal(err)
	}
	if f := mustForward(t, s, l); f.Phase != run.Held || f.Target() != initech || f.Unsent {
		t.Errorf("withdrawn %+v", f)
	}
	if err := s.Offer(t.Context(), l, 1, "", id.New(id.Event)); err != nil {
		t.Fatal(err)
	}
	if f := mustForward(t, s, l); f.Phase != run.Offered || f.Attempt != 2 || f.Unsent {
		t.Errorf("offered again %+v", f)
	}
	canceled, l2 := create(node.ID())
	if r, _, _, err := s.Cancel(t.Context(), actor(tenantID), canceled.ID); err != nil || r.Status != run.Queued || r.CancelRequestedAt == nil {
		t.Errorf("its cancel may come too late, and is %+v, %v", r, err)
	}
	if err := s.Withdraw(t.Context(), l2, 1, why); err != nil {
		t.Fatal(err)
	}
	if got := w.get(t.Context(), t, canceled.ID); got.Status != run.Canceled {
		t.Errorf("canceled before it was sent: %s", got.Status)
	}
	r, l := create(node.ID())
	w.store.Start()
	node.Close()
	second := w.mustOpen(t, "stk_second", 1)
	for {
		if now := mustNext(t, second.Relays()); now.RunID == r.ID {
			if f := mustForward(t, s, now); f.Phase != run.Offered || f.Attempt != 1 || f.Unsent || now.Epoch <= l.Epoch {
				t.Errorf("after the node that made it had gone %+v", f)
			}
			return
		}
	}
}

// here keeps every run in this cluster, at the node that it names.
type here string

func (h here) Place(context.Context, run.Placing, bool) (*run.Placed, error) {
	return &run.Placed{Local: true, StackID: string(h)}, nil
}

func TestCreate_AtANode(t *testing.T) {
	w := mustWorld(t, tenancy.Quotas{}, func(o *run.Options) { o.Placer = here("stk_second") })
	first, second := w.mustOpen(t, "stk_first", 5), w.mustOpen(t, "stk_second", 2)
	waitFor(t, func() bool { return first.ID() != "" && second.ID() != "" })
	for i, want := range []string{"stk_second", "stk_second", "stk_first"} { // the last finds no worker free there
		if r := w.mustCreate(t, text("hi")); r.Placement.StackID != want {
			t.Errorf("run %d is at %s, not %s", i, r.Placement.StackID, want)
		}
	}
}

// Requirements: P5.
func TestForward_Deadline(t *testing.T) {
	w, s := mustAway(t, globex)
	node := w.mustOpen(t, stackID, 2)
	waitFor(t, func() bool { return node.ID() != "" })
	w.store.Start()
	req := text("hi")
	req.Options.TimeoutMS = 50
	held, _, _, err := s.Create(t.Context(), actor(tenantID), agentID, req, meta)
	if err != nil {
		t.Fatal(err)
	}
	mustNext(t, node.Relays())
	waitFor(t, func() bool { return w.get(t.Context(), t, held.ID).Status == run.Failed })
	if e := w.get(t.Context(), t, held.ID).Error; e.Code != string(fault.Unavailable) || e.Details["peer"] != "globex" || e.Details["peer_lost"] != nil {
		t.Errorf("nobody took it: %+v", e)
	}
	req.Options.TimeoutMS = 2_000
	lost, _, _, err := s.Create(t.Context(), actor(tenantID), agentID, req, meta)
	if err != nil {
		t.Fatal(err)
	}
	l := mustNext(t, node.Relays())
	if err := s.Offer(t.Context(), l, 0, "", id.New(id.Event)); err != nil {
		t.Fatal(err)
	}
	f := mustForward(t, s, l)
	waitFor(t, func() bool { return w.get(t.Context(), t, lost.ID).Status == run.Failed })
	got := w.get(t.Context(), t, lost.ID)
	if got.Error.Code != string(fault.Unavailable) || got.Error.Details["peer_lost"] != true {
		t.Errorf("it was lost: %+v", got.Error)
	}
	if _, err := s.Relay(t.Context(), run.Relay{Lease: l, Attempt: 1, After: 2, Events: told(f, 2, draft(event.RunStarted, `{}`))}); !refusedAs(err, "final") {
		t.Errorf("what comes late: %v", err)
	}
}

// TestRelay_Unreadable: an end that nobody could read is not taken.
func TestRelay_Unreadable(t *testing.T) {
	w, s := mustAway(t, globex)
	node := w.mustOpen(t, stackID, 2)
	waitFor(t, func() bool { return node.ID() != "" })
	made, _, _, err := s.Create(t.Context(), actor(tenantID), agentID, text("hi"), meta)
	if err != nil {
		t.Fatal(err)
	}
	l := mustNext(t, node.Relays())
	if err := s.Offer(t.Context(), l, 0, "", id.New(id.Event)); err != nil {
		t.Fatal(err)
	}
	f := mustForward(t, s, l)
	a := run.Relay{Lease: l, Attempt: f.Attempt, After: f.Last, Events: told(f, f.Last, draft(event.RunStarted, `{}`))}
	if a.After, err = s.Relay(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	for kind, payloads := range map[event.Type][]string{
		event.RunCompleted: {`{"output":"str"}`, `{"output":{"type":5,"text":{}}}`, `{}`},
		event.RunFailed:    {`{"error":"x"}`, `{"error":{"code":"zz","message":7}}`, `{"error":{"code":"zz"}}`, `{}`},
	} {
		for _, payload := range payloads {
			a.Events = told(f, a.After, draft(kind, payload))
			if _, err := s.Relay(t.Context(), a); !fault.Is(err, fault.InvalidRequest) {
				t.Errorf("%s %s: %v", kind, payload, err)
			}
		}
	}
	if got := w.get(t.Context(), t, made.ID); got.Status != run.Running {
		t.Errorf("the run is %s", got.Status)
	}
}
