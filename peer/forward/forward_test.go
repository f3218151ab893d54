package forward_test

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/agent/run"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/peer/forward"
	"github.com/nexixai/agentos/storage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestForwarder_OneRun(t *testing.T) {
	p := newPair(t, away{})
	p.execute(t, (*worker).finish)
	p.node(t, "stk_acme_1")
	r := p.create(t, "k")
	got := p.ended(t, r.ID)
	if got.Status != run.Completed || got.Output.Text != "done" || got.Placement.Organization != "globex" || got.Placement.RouteID != "rte_1" {
		t.Errorf("ended as %+v", got)
	}
	ours, theirs := p.acme.journal(t, r.ID), p.globex.journal(t, r.ID)
	if !slices.Equal(ours, theirs) || len(ours) != 4 {
		t.Errorf("the journals differ:\n%s\n%s", strings.Join(ours, "\n"), strings.Join(theirs, "\n"))
	}
	if again := p.create(t, "k"); again.ID != r.ID {
		t.Errorf("the same key made %s and %s", r.ID, again.ID)
	}
}

// TestForwarder_OfferedAtOnce: a run that its own node can send is sent without another command; when the peer can't be reached
// after all, it's surely not been taken, and is offered anew.
func TestForwarder_OfferedAtOnce(t *testing.T) {
	p := newPair(t, away{live: true})
	p.execute(t, (*worker).finish)
	p.node(t, "stk_acme_1")
	until(t, func() bool { return p.acme.asked.ID() != "" })
	if got := p.ended(t, p.create(t, "").ID); got.Status != run.Completed || p.runs.offers.Load() != 0 {
		t.Errorf("ended as %s: %+v, after %d offers", got.Status, got.Error, p.runs.offers.Load())
	}
	var tried atomic.Int64
	p.wire.before = func(forward.Call) error {
		if tried.Add(1) == 1 {
			return errUnsent
		}
		return nil
	}
	r := p.create(t, "")
	if got := p.ended(t, r.ID); got.Status != run.Completed || p.runs.offers.Load() != 1 {
		t.Errorf("ended as %s: %+v, after %d offers", got.Status, got.Error, p.runs.offers.Load())
	}
	if ours, theirs := p.acme.journal(t, r.ID), p.globex.journal(t, r.ID); !slices.Equal(ours, theirs) || len(ours) != 5 {
		t.Errorf("the journals differ:\n%s\n%s", strings.Join(ours, "\n"), strings.Join(theirs, "\n"))
	}
}

// TestForwarder_WholeStream: a stream is read to its end also when the final event has come, so that its connection can serve
// the next call.
func TestForwarder_WholeStream(t *testing.T) {
	p := newPair(t, away{})
	p.execute(t, (*worker).finish)
	p.wire.gate, p.wire.bodies = make(chan struct{}), make(chan *watched, 1)
	p.node(t, "stk_acme_1")
	r := p.create(t, "")
	body := <-p.wire.bodies
	p.ended(t, r.ID)
	close(p.wire.gate)
	<-body.closed
	if !body.whole.Load() {
		t.Error("the stream was left before its end")
	}
}

// TestForwarder_LostAnswers loses the answers to forwards, and lets the nodes that relay go: one run for each key all the same,
// whether it's offered as it's made or later.
//
// Requirements: P5.
func TestForwarder_LostAnswers(t *testing.T) {
	for _, live := range []bool{false, true} {
		t.Run(fmt.Sprint("live=", live), func(t *testing.T) { loseAnswers(t, away{live: live}) })
	}
}

func loseAnswers(t *testing.T, a away) {
	p := newPair(t, a)
	p.execute(t, (*worker).finish)
	var seen sync.Map
	p.wire.after = func(c forward.Call) error {
		_, rest, ok := strings.Cut(string(c.Body), `"run_id":"`)
		if !ok {
			return nil
		}
		runID, _, _ := strings.Cut(rest, `"`)
		if _, again := seen.LoadOrStore(runID, true); again {
			return nil
		}
		return errLost
	}
	stop := p.node(t, "stk_acme_1")
	var runs []*run.Run
	for i := range 60 {
		runs = append(runs, p.create(t, fmt.Sprint("key-", i)))
		if i%20 == 10 {
			stop()
			stop = p.node(t, fmt.Sprint("stk_acme_", i))
		}
	}
	for _, r := range runs {
		if got := p.ended(t, r.ID); got.Status != run.Completed {
			t.Fatalf("%s ended as %s: %+v", r.ID, got.Status, got.Error)
		}
		if ours, theirs := p.acme.journal(t, r.ID), p.globex.journal(t, r.ID); !slices.Equal(ours, theirs) {
			t.Errorf("the journals of %s differ:\n%s\n%s", r.ID, strings.Join(ours, "\n"), strings.Join(theirs, "\n"))
		}
	}
	list, _, _, err := p.globex.runs.List(t.Context(), storage.Read{}, tenantID, run.Filter{}, "", 500)
	if err != nil || len(list) != len(runs) {
		t.Errorf("%d runs there, of %d keys here; %v", len(list), len(runs), err)
	}
}

// TestForwarder_Unreachable holds a run while the peer is away, and sends it when it answers.
//
// Requirements: P5.
func TestForwarder_Unreachable(t *testing.T) {
	p := newPair(t, away{})
	p.execute(t, (*worker).finish)
	p.peers.set(false)
	p.node(t, "stk_acme_1")
	r := p.create(t, "")
	var refused atomic.Int64
	p.wire.before = func(forward.Call) error {
		if refused.Add(1) < 3 {
			return errUnsent
		}
		return nil
	}
	if got := p.acme.get(t, r.ID); got.Status != run.Queued {
		t.Errorf("while the peer is away it is %s", got.Status)
	}
	p.peers.set(true)
	if got := p.ended(t, r.ID); got.Status != run.Completed {
		t.Errorf("ended as %s: %+v", got.Status, got.Error)
	}
}

// Requirements: P5.
func TestForwarder_Refused(t *testing.T) {
	p := newPair(t, away{})
	p.node(t, "stk_acme_1")
	if _, err := p.globex.catalog.DeleteAgent(t.Context(), actor(), agentID); err != nil {
		t.Fatal(err)
	}
	got := p.ended(t, p.create(t, "").ID)
	if got.Status != run.Failed || got.Error.Code != string(fault.NotFound) || got.Error.Details["peer"] != "globex" {
		t.Errorf("ended as %s: %+v", got.Status, got.Error)
	}
}

// TestForwarder_Broken breaks the streams at any byte: the journal comes whole all the same.
//
// Requirements: P7.
func TestForwarder_Broken(t *testing.T) {
	p := newPair(t, away{})
	p.execute(t, func(w *worker) {
		w.add(event.RunStarted, `{"status":"running"}`)
		for range 20 {
			w.add(event.StepStarted, `{"step_kind":"model","name":"x"}`)
			w.add(event.StepCompleted, `{"status":"ok","duration_ms":1}`)
		}
		w.add(event.RunCompleted, `{"status":"completed","output":{"type":"text","text":"done"}}`)
	})
	p.wire.cut = true
	p.node(t, "stk_acme_1")
	for range 5 {
		r := p.create(t, "")
		if got := p.ended(t, r.ID); got.Status != run.Completed {
			t.Fatalf("ended as %s: %+v", got.Status, got.Error)
		}
		if ours, theirs := p.acme.journal(t, r.ID), p.globex.journal(t, r.ID); !slices.Equal(ours, theirs) || len(ours) != 44 {
			t.Errorf("the journals differ: %d and %d events", len(ours), len(theirs))
		}
	}
}

// Requirements: P5.
func TestForwarder_Cancel(t *testing.T) {
	p := newPair(t, away{})
	p.execute(t, func(w *worker) {
		w.add(event.RunStarted, `{"status":"running"}`)
		until(t, func() bool {
			work, err := w.c.runs.Load(t.Context(), w.lease)
			return err != nil || work.Journal[len(work.Journal)-1].Type == event.CancelRequested
		})
		w.add(event.RunCanceled, `{"status":"canceled","by":"usr_one@acme.example"}`)
	})
	var away atomic.Bool
	p.wire.before = func(c forward.Call) error {
		if away.Load() && strings.Contains(c.Path, ":cancel") {
			return errLost
		}
		return nil
	}
	p.node(t, "stk_acme_1")
	r := p.create(t, "")
	until(t, func() bool { return p.acme.get(t, r.ID).Status == run.Running })
	away.Store(true)
	if _, _, _, err := p.acme.runs.Cancel(t.Context(), actor(), r.ID); err != nil {
		t.Fatal(err)
	}
	if got := p.acme.get(t, r.ID); got.Status != run.Running || got.CancelRequestedAt == nil {
		t.Errorf("with the link down: %s, %v", got.Status, got.CancelRequestedAt)
	}
	away.Store(false)
	if got := p.ended(t, r.ID); got.Status != run.Canceled {
		t.Errorf("ended as %s", got.Status)
	}
}

// TestForwarder_Lost gives a silent peer up after the time that the route bears.
//
// Requirements: P5.
func TestForwarder_Lost(t *testing.T) {
	p := newPair(t, away{lostAfterMS: 200})
	var silent atomic.Bool
	p.wire.before = func(forward.Call) error {
		if silent.Load() {
			return errLost
		}
		return nil
	}
	p.execute(t, func(w *worker) { w.add(event.RunStarted, `{"status":"running"}`) })
	p.node(t, "stk_acme_1")
	r := p.create(t, "")
	until(t, func() bool { return p.acme.get(t, r.ID).Status == run.Running })
	select { // a peer that sends heartbeats is not lost, however long it takes
	case <-time.After(500 * time.Millisecond):
	case <-t.Context().Done():
	}
	if got := p.acme.get(t, r.ID); got.Status != run.Running {
		t.Fatalf("taken from a peer that answers: %+v", got.Error)
	}
	silent.Store(true)
	p.wire.drop()
	if got := p.ended(t, r.ID); got.Error == nil || got.Error.Code != string(fault.Unavailable) || got.Error.Details["peer_lost"] != true {
		t.Errorf("ended as %s: %+v", got.Status, got.Error)
	}
}

// TestForwarder_Quiet follows a stream that says nothing for longer than the route bears: a peer that answers beside it isn't
// lost, one that doesn't is.
func TestForwarder_Quiet(t *testing.T) {
	p := newPair(t, away{lostAfterMS: 200})
	mute, speak := io.Pipe()
	t.Cleanup(func() { _ = speak.Close() })
	p.wire.frames = func(uint64) io.Reader { return mute }
	var silent atomic.Bool
	p.wire.before = func(forward.Call) error {
		if silent.Load() {
			return errLost
		}
		return nil
	}
	p.node(t, "stk_acme_1")
	r := p.create(t, "")
	began := time.Now()
	until(t, func() bool { return p.wire.looks.Load() >= 5 && time.Since(began) > 600*time.Millisecond })
	if got := p.acme.get(t, r.ID); got.Status.Final() {
		t.Fatalf("taken from a peer that answers: %+v", got.Error)
	}
	silent.Store(true)
	if got := p.ended(t, r.ID); got.Error == nil || got.Error.Details["peer_lost"] != true {
		t.Errorf("ended as %s: %+v", got.Status, got.Error)
	}
}

// stuck is a stream that says nothing, and takes its time to end when it's closed.
type stuck struct {
	closed chan struct{}
	reads  atomic.Int64 // that have not returned
}

func (s *stuck) Read([]byte) (int, error) {
	s.reads.Add(1)
	defer s.reads.Add(-1)
	<-s.closed
	<-time.After(50 * time.Millisecond)
	return 0, io.ErrUnexpectedEOF
}

func (s *stuck) Close() error {
	close(s.closed)
	return nil
}

// TestForwarder_CloseWaits: a forwarder that is closed has no reader left at any stream.
func TestForwarder_CloseWaits(t *testing.T) {
	p := newPair(t, away{})
	body := &stuck{closed: make(chan struct{})}
	p.wire.frames = func(uint64) io.Reader { return body }
	stop := p.node(t, "stk_acme_1")
	p.create(t, "")
	until(t, func() bool { return body.reads.Load() == 1 })
	stop()
	if n := body.reads.Load(); n != 0 {
		t.Errorf("%d reads go on", n)
	}
}

// TestForwarder_Hostile is told what can't be part of the run.
//
// Requirements: P6.
func TestForwarder_Hostile(t *testing.T) {
	frame := func(sequence uint64, kind event.Type, change ...string) string {
		head := event.Head{TenantID: tenantID, AgentID: agentID, RunID: "RUN", Traceparent: traceparent}
		d := event.Draft{ID: fmt.Sprint("evt_", sequence), Type: kind, Payload: []byte(`{"status":"completed","output":{"type":"text","text":"x"}}`)}
		data := string(event.AppendEnvelope(nil, &head, &d, sequence, time.Now()))
		return fmt.Sprintf("id: %d\nevent: agentos.event\ndata: %s\n\n", sequence, strings.NewReplacer(change...).Replace(data))
	}
	for name, c := range map[string]struct {
		frames string
		last   int
	}{
		"another tenant": {frame(3, event.RunStarted, tenantID, "tnt_else"), 2},
		"another run":    {frame(3, event.RunStarted, "RUN", "run_else"), 2},
		"repeated":       {frame(3, event.RunStarted) + frame(3, event.RunStarted), 3},
		"skipped":        {frame(4, event.RunStarted), 2},
		"forged type":    {frame(3, event.RunCreated), 2},
		"after the end":  {frame(3, event.RunStarted) + frame(4, event.StepCompleted) + frame(5, event.RunCreated), 4},
		"10 MB":          {"id: 3\ndata: " + strings.Repeat("x", 10<<20) + "\n\n", 2},
		"a gap":          {"event: agentos.gap\nid: 3\ndata: {}\n\n", 2},
		"not JSON":       {"id: 3\ndata: {\n\n", 2},
		"out of order":   {frame(3, event.RunCompleted), 2},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, away{})
			var runID atomic.Value
			p.wire.frames = func(after uint64) io.Reader {
				if after > 2 {
					return strings.NewReader("")
				}
				return strings.NewReader(strings.ReplaceAll(c.frames, "RUN", runID.Load().(string)))
			}
			r := p.create(t, "")
			other := p.create(t, "other")
			runID.Store(r.ID)
			p.node(t, "stk_acme_1")
			got := p.ended(t, r.ID)
			if got.Status != run.Failed || got.Error.Code != string(fault.Unavailable) || got.Error.Details["peer"] != "globex" {
				t.Errorf("ended as %s: %+v", got.Status, got.Error)
			}
			if n := len(p.acme.journal(t, r.ID)); n != c.last+1 {
				t.Errorf("%d events are kept, not %d and the end", n, c.last)
			}
			if o := p.acme.get(t, other.ID); o.TenantID != tenantID {
				t.Errorf("the other run is %+v", o)
			}
		})
	}
}
