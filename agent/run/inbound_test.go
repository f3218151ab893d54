package run_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/agent/run"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
)

// take is the command around Take, as the room of the wire has it.
type takeWorld struct {
	*world
	s    *run.Service
	take storage.Call[run.Inbound, run.Taken]
	stop storage.Call[cancelInbound, struct{}]
}

type cancelInbound struct {
	Origin run.Origin
	RunID  string
	Event  string
}

func mustTake(t *testing.T, quotas tenancy.Quotas) *takeWorld {
	t.Helper()
	w := &takeWorld{world: mustWorld(t, quotas)}
	w.take = storage.Define(w.reg, "test.take", w.commands.Take)
	w.stop = storage.Define(w.reg, "test.cancel", func(tx storage.Tx, c cancelInbound) (none struct{}, err error) {
		return none, w.commands.CancelInbound(tx, c.Origin, tenantID, c.RunID, c.Event, "usr_one@acme.example", "corr_1")
	})
	w.s = w.runs
	return w
}

var acme = run.Origin{PeeringID: "prg_a", Organization: "acme", TrustDomain: "acme.example", ClusterID: "clu_a", StackID: "stk_a1", TenantID: "tnt_theirs"}

func arrival(runID string, attempt uint64) *run.Arrival {
	head := event.Head{TenantID: acme.TenantID, AgentID: agentID, RunID: runID, Traceparent: traceparent}
	var journal []json.RawMessage
	for i, d := range []event.Draft{
		{ID: "evt_" + runID + "_1", Type: event.RunCreated, Payload: event.Created()},
		{ID: "evt_" + runID + "_2", Type: event.RunForwarded, Payload: json.RawMessage(`{"stack_id":"stk_one"}`)},
	} {
		journal = append(journal, event.AppendEnvelope(nil, &head, &d, uint64(i)+1, time.Now()))
	}
	by := actor(tenantID)
	by.Auth.Principal.ID = "usr_one@acme.example"
	return &run.Arrival{
		Origin: acme, Attempt: attempt, RunID: runID, AgentID: agentID, By: by, Request: text("hi"), IdempotencyKey: "key-" + runID,
		Journal: journal, RemainingMS: 60_000, Meta: meta,
	}
}

func (w *takeWorld) arrive(t *testing.T, a *run.Arrival) (run.Taken, error) {
	t.Helper()
	in, err := w.s.PrepareInbound(t.Context(), a)
	if err != nil {
		return run.Taken{}, err
	}
	taken, _, err := w.take.Do(t.Context(), w.store, "", *in)
	return taken, err
}

// nowhere has no place for any run, and much to say of it.
type nowhere struct{}

func (nowhere) Place(context.Context, run.Placing, bool) (*run.Placed, error) {
	return nil, fault.New(fault.UnsupportedCapability, "Missing: grant:tnt_secret.").With("candidates", []string{"stk_secret"})
}

// A run of others that goes nowhere is refused without a word of where our own could go.
func TestPrepareInbound_Nowhere(t *testing.T) {
	w := mustWorld(t, tenancy.Quotas{}, func(o *run.Options) { o.Placer = nowhere{} })
	_, err := w.runs.PrepareInbound(t.Context(), arrival("run_1", 1))
	if f := fault.Of(err); f.Code != fault.UnsupportedCapability || len(f.Details) != 0 || strings.Contains(f.Message, "secret") {
		t.Errorf("refused with %+v", f)
	}
}

// Requirements: P6.
func TestTake(t *testing.T) {
	w := mustTake(t, tenancy.Quotas{})
	taken, err := w.arrive(t, arrival("run_1", 1))
	if err != nil || taken.Refused != nil || taken.Replayed || taken.RunID != "run_1" {
		t.Fatalf("taken %+v, %v", taken, err)
	}
	got := w.get(t.Context(), t, "run_1")
	if got.Status != run.Queued || got.Placement.ForwardedFrom != "acme" || got.TenantID != tenantID || got.Deadline.Sub(got.CreatedAt) > time.Minute {
		t.Errorf("here it is %+v", got)
	}
	for attempt := uint64(1); attempt <= 3; attempt++ {
		if taken, err := w.arrive(t, arrival("run_1", attempt)); err != nil || !taken.Replayed {
			t.Errorf("attempt %d again: %+v, %v", attempt, taken, err)
		}
	}
	other := arrival("run_1", 4)
	other.Request = text("something else")
	if _, err := w.arrive(t, other); !fault.Is(err, fault.Conflict) {
		t.Errorf("another request under its id: %v", err)
	}
	other = arrival("run_1", 4)
	other.Origin.ClusterID = "clu_other"
	if taken, err := w.arrive(t, other); err != nil || taken.Refused == nil || taken.Refused.Error.Code != string(fault.Conflict) {
		t.Errorf("its id from another cluster: %+v, %v", taken, err)
	}
	own := w.mustCreate(t, text("ours"))
	if taken, err := w.arrive(t, arrival(own.ID, 1)); err != nil || taken.Refused == nil {
		t.Errorf("the id of our own run: %+v, %v", taken, err)
	}
	if o, ok, err := w.s.From(t.Context(), storage.Read{}, tenantID, "run_1"); err != nil || !ok || o != acme {
		t.Errorf("it's from %+v, %v, %v", o, ok, err)
	}
}

func TestTake_Refusal(t *testing.T) {
	one := int64(1)
	w := mustTake(t, tenancy.Quotas{Runs: tenancy.RunQuotas{MaxConcurrentRuns: &one}})
	if _, err := w.arrive(t, arrival("run_1", 1)); err != nil {
		t.Fatal(err)
	}
	taken, err := w.arrive(t, arrival("run_2", 1))
	if err != nil || taken.Refused == nil || taken.Refused.Attempt != 1 || taken.Refused.Error.Code != string(fault.RateLimited) {
		t.Fatalf("over the limit: %+v, %v", taken, err)
	}
	if _, _, _, err := w.s.Cancel(t.Context(), actor(tenantID), "run_1"); err != nil {
		t.Fatal(err)
	}
	if taken, err = w.arrive(t, arrival("run_2", 1)); err != nil || taken.Refused == nil {
		t.Errorf("the attempt that was refused comes late, and is taken: %+v, %v", taken, err)
	}
	if taken, err = w.arrive(t, arrival("run_2", 2)); err != nil || taken.Refused != nil {
		t.Errorf("the next attempt: %+v, %v", taken, err)
	}
}

func TestTake_CanceledBefore(t *testing.T) {
	w := mustTake(t, tenancy.Quotas{})
	stop := func(runID string) error {
		_, _, err := w.stop.Do(t.Context(), w.store, "", cancelInbound{acme, runID, id.New(id.Event)})
		return err
	}
	if err := stop("run_1"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.arrive(t, arrival("run_1", 1)); !refusedAs(err, "canceled") {
		t.Errorf("it was canceled before it came: %v", err)
	}
	if _, err := w.arrive(t, arrival("run_2", 1)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := stop("run_2"); err != nil {
			t.Fatal(err)
		}
	}
	if got := w.get(t.Context(), t, "run_2"); got.Status != run.Canceled {
		t.Errorf("canceled by its origin: %s", got.Status)
	}
}

// TestTake_Forgets lets go of refusals after a week, a few with each new one.
func TestTake_Forgets(t *testing.T) {
	w := mustTake(t, tenancy.Quotas{})
	stop := func(runID string) {
		t.Helper()
		if _, _, err := w.stop.Do(t.Context(), w.store, "", cancelInbound{acme, runID, id.New(id.Event)}); err != nil {
			t.Fatal(err)
		}
	}
	notes := func() (n int) {
		err := w.store.View(t.Context(), storage.Read{}, func(s storage.Snapshot) error {
			return s.Scan(storage.Range{From: "inbound-due/", To: "inbound0"}, func(string, []byte) bool { n++; return true })
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	stop("run_1")
	stop("run_2")
	w.ahead.Store(int64(6 * 24 * time.Hour))
	stop("run_3")
	if n := notes(); n != 6 {
		t.Errorf("%d rows of three notes within the week", n)
	}
	w.ahead.Store(int64(8 * 24 * time.Hour))
	stop("run_4")
	if n := notes(); n != 4 {
		t.Errorf("%d rows are left of two notes", n)
	}
	if _, err := w.arrive(t, arrival("run_3", 1)); !refusedAs(err, "canceled") {
		t.Errorf("a note of two days ago: %v", err)
	}
}

// TestTake_NoteBound: a peer that cancels what never comes fills no store.
func TestTake_NoteBound(t *testing.T) {
	w := mustTake(t, tenancy.Quotas{})
	stop := func(runID string) error {
		_, _, err := w.stop.Do(t.Context(), w.store, "", cancelInbound{acme, runID, id.New(id.Event)})
		return err
	}
	refused := 0
	for i := range 10_010 {
		if err := stop(fmt.Sprint("run_", i)); err != nil {
			if refused++; !fault.Is(err, fault.RateLimited) {
				t.Fatal(err)
			}
		}
	}
	if refused != 10 {
		t.Errorf("%d of 10,010 were refused", refused)
	}
	if err := stop("run_0"); err != nil { // noted already
		t.Error(err)
	}
	if _, err := w.arrive(t, arrival("run_new", 1)); err != nil {
		t.Errorf("a run that comes: %v", err)
	}
}

// Requirements: P6.
func TestTake_GrantBound(t *testing.T) {
	w := mustTake(t, tenancy.Quotas{})
	two := int64(2)
	bounded := func(runID string) run.Taken {
		a := arrival(runID, 1)
		a.MaxRuns = &two
		taken, err := w.arrive(t, a)
		if err != nil {
			t.Fatal(err)
		}
		return taken
	}
	if bounded("run_1").Refused != nil || bounded("run_2").Refused != nil {
		t.Fatal("refused within the grant's bound")
	}
	if r := bounded("run_3").Refused; r == nil || r.Error.Details["limit"] != "grant.max_concurrent_runs" {
		t.Fatalf("beyond the grant's bound: %+v", r)
	}
	if _, _, _, err := w.s.Cancel(t.Context(), actor(tenantID), "run_1"); err != nil {
		t.Fatal(err)
	}
	if r := bounded("run_4").Refused; r != nil {
		t.Errorf("one has ended, and its place isn't free: %+v", r)
	}
}

func TestTake_BadJournal(t *testing.T) {
	w := mustTake(t, tenancy.Quotas{})
	for name, spoil := range map[string]func(a *run.Arrival){
		"none":           func(a *run.Arrival) { a.Journal = nil },
		"another tenant": func(a *run.Arrival) { a.Origin.TenantID = "tnt_x" },
		"gap":            func(a *run.Arrival) { a.Journal = a.Journal[1:] },
		"garbage":        func(a *run.Arrival) { a.Journal[0] = json.RawMessage(`{}`) },
		"another run":    func(a *run.Arrival) { a.RunID = "run_2" },
	} {
		t.Run(name, func(t *testing.T) {
			a := arrival("run_1", 1)
			spoil(a)
			if _, err := w.arrive(t, a); !fault.Is(err, fault.InvalidRequest) {
				t.Errorf("got %v", err)
			}
		})
	}
}
