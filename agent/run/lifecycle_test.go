package run_test

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/agent/run"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
	"github.com/nexixai/agentos/tenancy/quota"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func started() event.Draft { return draft(event.RunStarted, `{"status":"running"}`) }

func (w *world) mustAppend(tb testing.TB, l run.Lease, after uint64, events ...event.Draft) uint64 {
	tb.Helper()
	last, err := w.runs.Append(tb.Context(), run.Append{Lease: l, After: after, Events: events})
	if err != nil {
		tb.Fatal(err)
	}
	return last
}

func TestService_Append(t *testing.T) {
	w := mustWorld(t, tenancy.Quotas{Tools: tenancy.ToolQuotas{ToolCallsPerMinute: count(1)}, Models: tenancy.ModelQuotas{
		TokenBudget: &tenancy.TokenBudget{Window: "day", MaxTokens: count(100)},
	}})
	l := w.mustLease(t, text("hello"))
	w.mustAppend(t, l, 1, started())
	hash := w.store.Status().Hash
	refused := func(name string, a run.Append, code fault.Code) *fault.Error {
		t.Helper()
		_, err := w.runs.Append(t.Context(), a)
		if !fault.Is(err, code) {
			t.Errorf("%s: got %v, want %s", name, err, code)
		}
		if w.store.Status().Hash != hash {
			t.Errorf("%s: the refusal has changed the store", name)
		}
		return fault.Of(err)
	}
	step := draft(event.StepStarted, `{}`)
	long := draft(event.StepStarted, `{"x":"`+strings.Repeat("x", run.MaxPayload)+`"}`)
	for name, c := range map[string]struct {
		events []event.Draft
		code   fault.Code
	}{
		"nothing":                 {nil, fault.InvalidRequest},
		"broken id":               {[]event.Draft{{ID: "a b", Type: event.StepStarted, Payload: json.RawMessage(`{}`)}}, fault.InvalidRequest},
		"not an object":           {[]event.Draft{draft(event.StepStarted, `[]`)}, fault.InvalidRequest},
		"not JSON":                {[]event.Draft{draft(event.StepStarted, `{`)}, fault.InvalidRequest},
		"too long":                {[]event.Draft{long}, fault.PayloadTooLarge},
		"another created":         {[]event.Draft{draft(event.RunCreated, `{}`)}, fault.InvalidRequest},
		"a cancel":                {[]event.Draft{draft(event.CancelRequested, `{}`)}, fault.InvalidRequest},
		"a delta":                 {[]event.Draft{draft(event.ModelDelta, `{}`)}, fault.InvalidRequest},
		"something after the end": {[]event.Draft{draft(event.RunCompleted, `{}`), step}, fault.InvalidRequest},
		"unknown type":            {[]event.Draft{draft("agentos.other", `{}`)}, fault.InvalidRequest},
		"usage that isn't":        {[]event.Draft{draft(event.ModelCompleted, `{"usage":{"input_tokens":-5}}`)}, fault.InvalidRequest},
	} {
		refused(name, run.Append{Lease: l, After: 2, Events: c.events}, c.code)
	}
	other := l
	other.SessionID = "ses_other"
	if e := refused("another's lease", run.Append{Lease: other, After: 2, Events: []event.Draft{step}}, fault.Conflict); e.Details["last_sequence"] != nil {
		t.Error("a fenced writer is told where to go on")
	}
	if e := refused("behind", run.Append{Lease: l, After: 1, Events: []event.Draft{step}}, fault.Conflict); e.Details["last_sequence"] != uint64(2) {
		t.Errorf("details %v", e.Details)
	}
	refused("ahead", run.Append{Lease: l, After: 3, Events: []event.Draft{step}}, fault.Conflict)
	elsewhere := l
	elsewhere.TenantID = "tnt_other"
	refused("another tenant's", run.Append{Lease: elsewhere, After: 2, Events: []event.Draft{step}}, fault.NotFound)

	t.Run("what rides along is refused with it", func(t *testing.T) {
		reserve := func(tokens int64) *quota.Reservation {
			return &quota.Reservation{ID: id.New(id.Reservation), Tokens: tokens, Expires: time.Now().Add(time.Hour)}
		}
		refused("over the budget", run.Append{Lease: l, After: 2, Events: []event.Draft{draft(event.ModelRequested, `{}`)}, Reserve: reserve(101)}, fault.QuotaExceeded)
		last, err := w.runs.Append(t.Context(), run.Append{Lease: l, After: 2, Events: []event.Draft{draft(event.ToolCallRequested, `{}`)}, ToolCall: true})
		if err != nil || last != 3 {
			t.Fatal(last, err)
		}
		hash = w.store.Status().Hash
		refused("one tool call too many", run.Append{Lease: l, After: 3, Events: []event.Draft{draft(event.ToolCallRequested, `{}`)}, ToolCall: true}, fault.RateLimited)
		held := reserve(60)
		if _, err := w.runs.Append(t.Context(), run.Append{Lease: l, After: 3, Events: []event.Draft{draft(event.ModelRequested, `{}`)}, Reserve: held}); err != nil {
			t.Fatal(err)
		}
		hash = w.store.Status().Hash
		refused("more than is left", run.Append{Lease: l, After: 4, Events: []event.Draft{draft(event.ModelRequested, `{}`)}, Reserve: reserve(60)}, fault.QuotaExceeded)
		_, err = w.runs.Append(t.Context(), run.Append{
			Lease: l, After: 4, Events: []event.Draft{draft(event.ModelCompleted, `{}`)}, Settle: []quota.Settlement{{ReservationID: held.ID}},
		})
		if err != nil {
			t.Fatal(err)
		}
		second := reserve(60)
		if _, err := w.runs.Append(t.Context(), run.Append{Lease: l, After: 5, Events: []event.Draft{draft(event.ModelRequested, `{}`)}, Reserve: second}); err != nil {
			t.Errorf("what was released can't be reserved: %v", err)
		}
		// An attempt that has lost its lease still settles what it spent.
		if err := w.runs.Settle(t.Context(), tenantID, quota.Settlement{ReservationID: second.ID}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.runs.Append(t.Context(), run.Append{Lease: l, After: 6, Events: []event.Draft{draft(event.ModelRequested, `{}`)}, Reserve: reserve(60)}); err != nil {
			t.Errorf("what was settled aside is still held: %v", err)
		}
	})
	t.Run("onto one line", func(t *testing.T) {
		w.mustAppend(t, l, 7, draft(event.StepStarted, "{\n  \"name\": \"a\\nb\"\r\n}"))
		c, err := w.hub.Follow(t.Context(), storage.Read{}, tenantID, l.RunID, 7)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		b, err := c.Next(t.Context())
		if err != nil || !strings.Contains(string(b.Frames), `"payload":{"name":"a\nb"}}}`+"\n\n") {
			t.Errorf("frame %q, %v", b.Frames, err)
		}
	})
	t.Run("the outcome makes the payload", func(t *testing.T) {
		last, err := w.runs.Append(t.Context(), run.Append{
			Lease: l, After: 8, Events: []event.Draft{{ID: id.New(id.Event), Type: event.RunCompleted}}, Output: &run.Output{Type: "text", Text: "done"},
		})
		if err != nil || last != 9 {
			t.Fatal(last, err)
		}
		if r := w.get(t.Context(), t, l.RunID); r.Output == nil || r.Output.Text != "done" || r.Error != nil {
			t.Errorf("run %+v", r)
		}
		if _, err := w.runs.Append(t.Context(), run.Append{Lease: l, After: 9, Events: []event.Draft{step}}); !fault.Is(err, fault.Conflict) {
			t.Errorf("after the end: %v", err)
		}
		if _, err := w.runs.Load(t.Context(), l); !fault.Is(err, fault.Conflict) {
			t.Errorf("load after the end: %v", err)
		}
	})
}

func TestService_Append_StepLimit(t *testing.T) {
	w := mustWorld(t, tenancy.Quotas{})
	req := text("hello")
	req.Options.MaxSteps = 2
	l := w.mustLease(t, req)
	last := w.mustAppend(t, l, 1, started(), draft(event.StepStarted, `{}`), draft(event.StepStarted, `{}`))
	_, err := w.runs.Append(t.Context(), run.Append{Lease: l, After: last, Events: []event.Draft{draft(event.StepStarted, `{}`)}})
	if !fault.Is(err, fault.StepLimit) {
		t.Errorf("got %v", err)
	}
}

func TestService_Cancel(t *testing.T) {
	w := mustWorld(t, tenancy.Quotas{Runs: tenancy.RunQuotas{MaxConcurrentRuns: count(5)}})
	t.Run("one that waits ends at once", func(t *testing.T) {
		r := w.mustCreate(t, text("hello"))
		got, _, _, err := w.runs.Cancel(t.Context(), actor(tenantID), r.ID)
		if err != nil || got.Status != run.Canceled || got.CancelRequestedAt == nil || got.CompletedAt == nil {
			t.Errorf("got %+v, %v", got, err)
		}
		if _, _, _, err := w.runs.Cancel(t.Context(), actor(tenantID), r.ID); !fault.Is(err, fault.Conflict) {
			t.Errorf("again: %v", err)
		}
	})
	t.Run("an idempotency key makes it once", func(t *testing.T) {
		r, other := w.mustCreate(t, text("hello")), w.mustCreate(t, text("hello"))
		by := func(runID string) tenancy.Actor {
			a := actor(tenantID)
			a.Idem = &tenancy.Idempotency{Operation: "POST /v1/runs/" + runID + ":cancel", Key: "k"}
			return a
		}
		for again := range 3 {
			got, replayed, _, err := w.runs.Cancel(t.Context(), by(r.ID), r.ID)
			if err != nil || got.Status != run.Canceled || replayed != (again > 0) {
				t.Errorf("%d times before: %+v, replayed %v, %v", again, got, replayed, err)
			}
		}
		if got, replayed, _, err := w.runs.Cancel(t.Context(), by(other.ID), other.ID); err != nil || replayed || got.ID != other.ID {
			t.Errorf("the key of another run's cancel: replayed %v, %v", replayed, err)
		}
	})
	t.Run("one that's worked on is asked to end", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := mustWorld(t, tenancy.Quotas{})
			sessions := w.mustOpen(t, "stk_two", 1)
			synctest.Wait()
			w.session.id, w.session.free = sessions.ID(), 1
			told := make(chan string, 10)
			defer sessions.Subscribe(func(_, runID string) { told <- runID })()
			r := w.mustCreate(t, text("hello"))
			l := <-sessions.Leases()
			w.mustAppend(t, l, 1, started())
			for range 2 {
				got, _, _, err := w.runs.Cancel(t.Context(), actor(tenantID), r.ID)
				if err != nil || got.Status != run.Running || got.CancelRequestedAt == nil {
					t.Fatalf("got %+v, %v", got, err)
				}
			}
			if runID := <-told; runID != r.ID {
				t.Errorf("the worker of %s was told", runID)
			}
			_, err := w.runs.Append(t.Context(), run.Append{Lease: l, After: 2, Events: []event.Draft{draft(event.RunCompleted, `{}`)}})
			if !fault.Is(err, fault.Conflict) || fault.Of(err).Details["last_sequence"] != uint64(3) {
				t.Fatalf("a worker that did not know: %v", err)
			}
			work, err := w.runs.Load(t.Context(), l)
			if err != nil || len(work.Journal) != 3 || work.Journal[2].Type != event.CancelRequested || string(work.Journal[2].Payload) != `{"by":"usr_one"}` {
				t.Fatalf("journal %+v, %v", work, err)
			}
			w.mustAppend(t, l, 3, draft(event.RunCanceled, `{"by":"usr_one"}`))
			if got := w.get(t.Context(), t, r.ID); got.Status != run.Canceled {
				t.Errorf("status %s", got.Status)
			}
		})
	})
	t.Run("not another's", func(t *testing.T) {
		mustTenant(t, w, "tnt_other", tenancy.Quotas{})
		r := w.mustCreate(t, text("hello"))
		for _, runID := range []string{r.ID, "run_x", "a/b"} {
			by := actor("tnt_other")
			if _, _, _, err := w.runs.Cancel(t.Context(), by, runID); !fault.Is(err, fault.NotFound) {
				t.Errorf("%s: %v", runID, err)
			}
			if _, _, err := w.runs.Get(t.Context(), storage.Read{}, "tnt_other", runID); !fault.Is(err, fault.NotFound) {
				t.Errorf("%s: %v", runID, err)
			}
		}
		by := actor(tenantID)
		by.Auth.Scopes = []tenancy.Scope{tenancy.RunsRead}
		if _, _, _, err := w.runs.Cancel(t.Context(), by, r.ID); !fault.Is(err, fault.Forbidden) {
			t.Errorf("without the scope: %v", err)
		}
	})
}

// A run ends when its time is over: at once when nobody works on it, after a grace when its worker did not end it.
//
// Requirements: A1.
func TestKeeper_Deadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := mustWorld(t, tenancy.Quotas{})
		w.store.Start()
		req := text("hello")
		req.Options.TimeoutMS = 60_000
		waits := w.mustCreate(t, req)
		synctest.Wait() // the duty waits for the first deadline when an earlier one comes up
		req.Options.TimeoutMS = 2000
		soon := w.mustCreate(t, req)

		time.Sleep(1999 * time.Millisecond)
		synctest.Wait()
		if got := w.get(t.Context(), t, soon.ID); got.Status != run.Queued {
			t.Errorf("before its deadline the run is %s", got.Status)
		}
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		got := w.get(t.Context(), t, soon.ID)
		if got.Status != run.Failed || got.Error == nil || got.Error.Code != string(fault.Timeout) || !got.Error.Retryable || got.Error.Message == "" {
			t.Errorf("at its deadline the run is %s, %+v", got.Status, got.Error)
		}
		time.Sleep(57 * time.Second)
		synctest.Wait()
		if got := w.get(t.Context(), t, waits.ID); got.Status != run.Queued {
			t.Errorf("before its deadline the other run is %s", got.Status)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if got := w.get(t.Context(), t, waits.ID); got.Status != run.Failed {
			t.Errorf("the run that waited is %s", got.Status)
		}
	})
}

// The worker has the first word at the deadline; when it says nothing, the leader does.
func TestKeeper_Grace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := mustWorld(t, tenancy.Quotas{})
		w.store.Start()
		sessions := w.mustOpen(t, stackID, 1)
		synctest.Wait()
		req := text("hello")
		req.Options.TimeoutMS = 1000
		r := w.mustCreate(t, req)
		lost := make(chan string, 10)
		defer sessions.Subscribe(func(_, runID string) { lost <- runID })()
		l := <-sessions.Leases()
		w.mustAppend(t, l, 1, started())
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if got := w.get(t.Context(), t, r.ID); got.Status != run.Running {
			t.Fatalf("within the grace the run is %s", got.Status)
		}
		time.Sleep(7 * time.Second)
		synctest.Wait()
		if got := w.get(t.Context(), t, r.ID); got.Status != run.Failed || got.Error.Code != string(fault.Timeout) {
			t.Errorf("after the grace the run is %s, %+v", got.Status, got.Error)
		}
		if runID := <-lost; runID != r.ID || sessions.Valid(l) == nil {
			t.Error("the worker was not told, or its lease still stands")
		}
	})
}

// When a node falls silent its runs go on at another, within the TTL, under a new epoch, from where they stood.
//
// Requirements: N6.
func TestKeeper_Takeover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := mustWorld(t, tenancy.Quotas{})
		w.store.Start()
		w.session.id, w.session.free = w.mustSession(t, "stk_dies", 10), 1 // its TTL is a minute, and nobody renews it
		var old []run.Lease
		for range 3 {
			r := w.mustCreate(t, text("hello"))
			old = append(old, run.Lease{TenantID: tenantID, RunID: r.ID, SessionID: w.session.id, Epoch: 1})
			w.mustAppend(t, old[len(old)-1], 1, started(), draft(event.StepStarted, `{}`))
		}
		if _, _, _, err := w.runs.Cancel(t.Context(), actor(tenantID), old[2].RunID); err != nil {
			t.Fatal(err)
		}
		sessions := w.mustOpen(t, "stk_lives", 10)
		began := time.Now()
		seen := map[string]bool{}
		for range 2 {
			l := <-sessions.Leases()
			seen[l.RunID] = true
			if l.Epoch != 2 {
				t.Errorf("epoch %d", l.Epoch)
			}
			work, err := w.runs.Load(t.Context(), l)
			if err != nil || len(work.Journal) != 3 {
				t.Fatalf("%+v, %v", work, err)
			}
			w.mustAppend(t, l, 3, started(), draft(event.RunCompleted, `{}`))
			if got := w.get(t.Context(), t, l.RunID); got.Placement.StackID != "stk_lives" {
				t.Errorf("placed at %s", got.Placement.StackID)
			}
		}
		if took := time.Since(began); took > time.Minute+time.Second {
			t.Errorf("taken over after %v", took)
		}
		if !seen[old[0].RunID] || !seen[old[1].RunID] {
			t.Errorf("taken over: %v", seen)
		}
		for _, l := range old {
			if _, err := w.runs.Append(t.Context(), run.Append{Lease: l, After: 3, Events: []event.Draft{draft(event.StepCompleted, `{}`)}}); !fault.Is(err, fault.Conflict) {
				t.Errorf("the dead node wrote: %v", err)
			}
		}
		synctest.Wait()
		if got := w.get(t.Context(), t, old[2].RunID); got.Status != run.Canceled {
			t.Errorf("the run that was to be canceled is %s", got.Status)
		}
	})
}

// A node that's started again goes on at once with what it had, and with what has waited meanwhile.
func TestKeeper_Restart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := mustWorld(t, tenancy.Quotas{})
		w.store.Start()
		had := w.mustLeaseOf(t, 1, text("had"))
		w.mustAppend(t, had, 1, started())
		waited := w.mustCreate(t, text("waited"))
		began := time.Now()
		sessions := w.mustOpen(t, stackID, 1) // another process, the same stack id
		first := <-sessions.Leases()
		if first.RunID != had.RunID || first.Epoch != 2 {
			t.Errorf("first comes %+v, want %s again", first, had.RunID)
		}
		w.mustAppend(t, first, 2, started(), draft(event.RunCompleted, `{}`))
		if second := <-sessions.Leases(); second.RunID != waited.ID {
			t.Errorf("then comes %s, want %s", second.RunID, waited.ID)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

// A run that takes down every node it's given to is given up, and says so.
func TestKeeper_CrashLoop(t *testing.T) {
	w := mustWorld(t, tenancy.Quotas{})
	r := w.mustCreate(t, text("hello"))
	for n := 1; ; n++ {
		session := w.mustSession(t, stackID, 1)
		if err := w.runs.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		l := run.Lease{TenantID: tenantID, RunID: r.ID, SessionID: session, Epoch: uint64(n)}
		got := w.get(t.Context(), t, r.ID)
		if got.Status.Final() {
			if n != run.MaxBarren+3 || got.Status != run.Failed || got.Error.Code != string(fault.Internal) {
				t.Errorf("ended at lease %d as %s, %+v", n, got.Status, got.Error)
			}
			return
		}
		if n == 2 { // what gets something done is no crash loop: the count begins anew
			w.mustAppend(t, l, 2, started(), draft(event.StepStarted, `{}`), draft(event.StepCompleted, `{}`))
			continue
		}
		work, err := w.runs.Load(t.Context(), l)
		if err != nil {
			t.Fatalf("lease %d: %v", n, err)
		}
		w.mustAppend(t, l, uint64(len(work.Journal)), started())
	}
}

// The worker that a run's end leaves free gets the next run in the same command.
func TestService_NextRunWithTheLastOnesEnd(t *testing.T) {
	w := mustWorld(t, tenancy.Quotas{})
	first := w.mustLeaseOf(t, 1, text("first"))
	low := text("low")
	low.Options.Priority = "low"
	w.mustCreate(t, low)
	second := w.mustCreate(t, text("second"))
	index := w.store.Status().Applied
	w.mustAppend(t, first, 1, started(), draft(event.RunCompleted, `{}`))
	if after := w.store.Status().Applied; after != index+1 {
		t.Errorf("it took %d entries", after-index)
	}
	next := run.Lease{TenantID: tenantID, RunID: second.ID, SessionID: first.SessionID, Epoch: 1}
	if _, err := w.runs.Load(t.Context(), next); err != nil {
		t.Errorf("the second run isn't leased: %v", err)
	}
	if err := w.runs.HandBack(t.Context(), next, first); err != nil {
		t.Fatal(err)
	}
	next.Epoch = 2
	if _, err := w.runs.Load(t.Context(), next); err != nil {
		t.Errorf("handed back, it should be the next again: %v", err)
	}
}

// A page has an end in bytes too, and the next one goes on where it ended.
func TestService_List_bytes(t *testing.T) {
	w := mustWorld(t, tenancy.Quotas{})
	const runs = 30
	for range runs {
		l := w.mustLease(t, text("hello"))
		w.mustAppend(t, l, 1, started(), draft(event.RunCompleted, `{"status":"completed","output":{"type":"text","text":"`+strings.Repeat("x", 200<<10)+`"}}`))
		w.ahead.Add(int64(time.Millisecond))
	}
	seen, cursor, pages := map[string]bool{}, "", 0
	for {
		list, next, _, err := w.runs.List(t.Context(), storage.Read{}, tenantID, run.Filter{}, cursor, 500)
		if err != nil {
			t.Fatal(err)
		}
		bytes := 0
		for _, r := range list {
			seen[r.ID] = true
			bytes += len(r.Output.Text)
		}
		if bytes > 5<<20 {
			t.Errorf("a page of %d bytes", bytes)
		}
		if pages++; next == "" {
			break
		}
		cursor = next
	}
	if len(seen) != runs || pages != 2 {
		t.Errorf("%d of %d runs on %d pages", len(seen), runs, pages)
	}
}

func TestService_List(t *testing.T) {
	w := mustWorld(t, tenancy.Quotas{})
	mustTenant(t, w, "tnt_other", tenancy.Quotas{})
	var ids []string // oldest first
	for i := range 12 {
		req := text("hello")
		req.Context.Labels = map[string]string{"team": []string{"blue", "red"}[i%2], "all": "x"}
		r := w.mustCreate(t, req)
		ids = append(ids, r.ID)
		w.ahead.Add(int64(time.Millisecond))
		if i%3 == 0 {
			if _, _, _, err := w.runs.Cancel(t.Context(), actor(tenantID), r.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
	pick := func(fits func(i int) bool) (want []string) {
		for i := len(ids) - 1; i >= 0; i-- {
			if fits(i) {
				want = append(want, ids[i])
			}
		}
		return want
	}
	for name, c := range map[string]struct {
		filter run.Filter
		want   []string
	}{
		"all":          {run.Filter{}, pick(func(int) bool { return true })},
		"agent":        {run.Filter{AgentID: agentID}, pick(func(int) bool { return true })},
		"other agent":  {run.Filter{AgentID: "agt_x"}, nil},
		"status":       {run.Filter{Status: run.Canceled}, pick(func(i int) bool { return i%3 == 0 })},
		"label":        {run.Filter{Labels: map[string]string{"team": "blue"}}, pick(func(i int) bool { return i%2 == 0 })},
		"wrong value":  {run.Filter{Labels: map[string]string{"team": "green"}}, nil},
		"two labels":   {run.Filter{Labels: map[string]string{"team": "red", "all": "x"}}, pick(func(i int) bool { return i%2 == 1 })},
		"all of these": {run.Filter{AgentID: agentID, Status: run.Queued, Labels: map[string]string{"team": "red"}}, pick(func(i int) bool { return i%2 == 1 && i%3 != 0 })},
	} {
		for _, limit := range []int{1, 3, 500} {
			var got []string
			cursor := ""
			for {
				list, next, _, err := w.runs.List(t.Context(), storage.Read{}, tenantID, c.filter, cursor, limit)
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				for _, r := range list {
					got = append(got, r.ID)
					if r.Input != nil {
						t.Errorf("%s: a list holds an input", name)
					}
				}
				if len(list) > limit {
					t.Errorf("%s: %d entries on a page of %d", name, len(list), limit)
				}
				if cursor = next; next == "" {
					break
				}
			}
			if strings.Join(got, " ") != strings.Join(c.want, " ") {
				t.Errorf("%s by %d: got %v, want %v", name, limit, got, c.want)
			}
		}
	}
	if list, _, _, err := w.runs.List(t.Context(), storage.Read{}, "tnt_other", run.Filter{}, "", 0); err != nil || len(list) != 0 {
		t.Errorf("another tenant sees %d runs, %v", len(list), err)
	}
	_, cursor, _, err := w.runs.List(t.Context(), storage.Read{}, tenantID, run.Filter{}, "", 2)
	if err != nil || cursor == "" {
		t.Fatal(cursor, err)
	}
	for name, bad := range map[string]func() error{
		"another filter": func() error {
			_, _, _, err := w.runs.List(t.Context(), storage.Read{}, tenantID, run.Filter{Status: run.Queued}, cursor, 2)
			return err
		},
		"another tenant": func() error {
			_, _, _, err := w.runs.List(t.Context(), storage.Read{}, "tnt_other", run.Filter{}, cursor, 2)
			return err
		},
		"made up": func() error {
			_, _, _, err := w.runs.List(t.Context(), storage.Read{}, tenantID, run.Filter{}, "zzz", 2)
			return err
		},
		"limit": func() error {
			_, _, _, err := w.runs.List(t.Context(), storage.Read{}, tenantID, run.Filter{}, "", 501)
			return err
		},
		"status": func() error {
			_, _, _, err := w.runs.List(t.Context(), storage.Read{}, tenantID, run.Filter{Status: "done"}, "", 2)
			return err
		},
	} {
		if err := bad(); !fault.Is(err, fault.InvalidRequest) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
