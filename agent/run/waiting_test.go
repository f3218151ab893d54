package run_test

import (
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

// waits is what a run's record says it waits for, alone and in the list.
func (w *world) waits(t *testing.T, runID string) *run.Waiting {
	t.Helper()
	one := w.get(t.Context(), t, runID).Waiting
	list, _, _, err := w.runs.List(t.Context(), storage.Read{}, tenantID, run.Filter{}, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range list {
		if r.ID == runID && (r.Waiting == nil) != (one == nil) {
			t.Errorf("alone it waits for %+v, in the list for %+v", one, r.Waiting)
		}
	}
	return one
}

// TestRun_waitsForWorker: a run that no node has taken says so, and which region it is bound to.
func TestRun_waitsForWorker(t *testing.T) {
	w := mustWorld(t, tenancy.Quotas{})
	w.mustSession(t, stackID, 1)
	first := w.mustCreate(t, text("takes the only worker"))
	if got := w.waits(t, first.ID); got != nil {
		t.Errorf("a run that was taken waits for %+v", got)
	}
	second := w.mustCreate(t, text("waits"))
	if got := w.waits(t, second.ID); got == nil || *got != (run.Waiting{For: run.ForWorker}) {
		t.Errorf("waits for %+v", got)
	}
	bound := text("waits elsewhere")
	bound.PolicyContext = &tenancy.PolicyContext{Region: "euw1"}
	by := actor(tenantID)
	away := queue.Session{ID: id.New(id.Session), StackID: "stk_away", Region: "euw1", Workers: 1, TTL: time.Minute}
	if err := w.queue.Open(t.Context(), w.store, away); err != nil {
		t.Fatal(err)
	}
	w.waits(t, second.ID) // a node that may take any run takes it
	w.mustCreate(t, bound)
	third := w.mustCreate(t, bound)
	if got := w.waits(t, third.ID); got == nil || *got != (run.Waiting{For: run.ForWorker, Region: "euw1"}) {
		t.Errorf("bound to a region it waits for %+v", got)
	}
	if _, _, _, err := w.runs.Cancel(t.Context(), by, second.ID); err != nil {
		t.Fatal(err)
	}
	if got := w.waits(t, second.ID); got != nil {
		t.Errorf("a run that has ended waits for %+v", got)
	}
}

// TestService_NoteWait: a worker's word of what its run waits for stands until the journal goes on or the run changes hands,
// and only the holder of the lease can give it.
func TestService_NoteWait(t *testing.T) {
	w := mustWorld(t, tenancy.Quotas{})
	lease := w.mustLease(t, text("hi"))
	until := time.Now().Add(time.Minute).UTC().Truncate(time.Millisecond)
	wait := run.Wait{Lease: lease, After: 1, For: run.ForQuota, Limit: "tool_calls_per_minute", Until: until}
	note := func(change func(*run.Wait)) error {
		one := wait
		if change != nil {
			change(&one)
		}
		return w.runs.NoteWait(t.Context(), one)
	}
	for name, change := range map[string]func(*run.Wait){
		"an older lease":  func(one *run.Wait) { one.Epoch-- },
		"another session": func(one *run.Wait) { one.SessionID = "ses_other" },
	} {
		if err := note(change); !fault.Is(err, fault.Conflict) {
			t.Errorf("the word of %s: %v", name, err)
		}
	}
	if err := note(func(one *run.Wait) { one.After++ }); err != nil || w.waits(t, lease.RunID) != nil {
		t.Errorf("a word about another place of the journal: %v", err)
	}
	if err := note(nil); err != nil {
		t.Fatal(err)
	}
	got := w.waits(t, lease.RunID)
	if got == nil || got.For != run.ForQuota || got.Limit != wait.Limit || got.Until == nil || !got.Until.Equal(until) {
		t.Fatalf("waits for %+v", got)
	}
	if err := note(func(one *run.Wait) { one.Until = time.Now().Add(-time.Second) }); err != nil {
		t.Fatal(err)
	}
	if got := w.waits(t, lease.RunID); got == nil || got.Until != nil {
		t.Errorf("when it's time to try again: %+v", got)
	}
	w.mustAppend(t, lease, 1, draft(event.RunStarted, `{"status":"running","stack_id":"stk_one","attempt":1}`))
	if got := w.waits(t, lease.RunID); got != nil {
		t.Errorf("after the journal went on it waits for %+v", got)
	}
	if err := note(func(one *run.Wait) { one.After = 2 }); err != nil || w.waits(t, lease.RunID) == nil {
		t.Fatalf("a second wait: %v", err)
	}
	if err := w.runs.HandBack(t.Context(), lease); err != nil {
		t.Fatal(err)
	}
	if got := w.waits(t, lease.RunID); got != nil && got.For == run.ForQuota {
		t.Errorf("after it changed hands it waits for %+v", got)
	}
}

// TestRun_waitsForPeer: a run that another organisation is to work on waits for it until it has begun there.
func TestRun_waitsForPeer(t *testing.T) {
	w, s := mustAway(t, globex)
	node := w.mustOpen(t, stackID, 2)
	waitFor(t, func() bool { return node.ID() != "" })
	made, _, _, err := s.Create(t.Context(), actor(tenantID), "agt_only_there", text("hi"), meta)
	if err != nil {
		t.Fatal(err)
	}
	if got := w.waits(t, made.ID); got == nil || *got != (run.Waiting{For: run.ForPeer, Peer: "globex"}) {
		t.Errorf("waits for %+v", got)
	}
	l := mustNext(t, node.Relays())
	if err := s.Offer(t.Context(), l, 0, "", "evt_offer"); err != nil {
		t.Fatal(err)
	}
	f := mustForward(t, s, l)
	events := told(f, f.Last, draft(event.RunStarted, `{"status":"running","stack_id":"stk_g1","attempt":1}`))
	if _, err := s.Relay(t.Context(), run.Relay{Lease: l, Attempt: f.Attempt, After: f.Last, Events: events}); err != nil {
		t.Fatal(err)
	}
	if got := w.waits(t, made.ID); got != nil {
		t.Errorf("begun there it waits for %+v", got)
	}
}
