package forward_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/agent/run"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/peer/forward"
	"github.com/nexixai/agentos/storage"
)

// isConclude reports whether a call tells of a run's end.
func isConclude(c forward.Call) bool { return strings.HasSuffix(c.Path, ":conclude") }

// whole is what an executor's origin is shown of a run.
func (c *cell) whole(t *testing.T, runID string) *run.Run {
	t.Helper()
	r, _, err := c.runs.GetWhole(t.Context(), storage.Read{}, tenantID, runID)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestForwarder_Conclude: the executor shows the end of a run when the origin has said that it has it, and not before: with the
// words lost on the way, and by whichever node relays then.
func TestForwarder_Conclude(t *testing.T) {
	p := newPair(t, away{finalAck: true})
	p.execute(t, (*worker).finish)
	var mute atomic.Bool
	var tried atomic.Int64
	mute.Store(true)
	p.wire.before = func(c forward.Call) error {
		if !isConclude(c) {
			return nil
		}
		if c.Method != http.MethodPost {
			t.Errorf("it's told by a %s", c.Method)
		}
		if tried.Add(1); mute.Load() {
			return errLost
		}
		return nil
	}
	p.wire.after = func(c forward.Call) error {
		if isConclude(c) && tried.Load()%2 == 0 {
			return errLost // it's heard, and the answer is lost
		}
		return nil
	}
	stop := p.node(t, "stk_acme_1")
	var runs []*run.Run
	for i := range 5 {
		runs = append(runs, p.create(t, fmt.Sprint("key-", i)))
	}
	for _, r := range runs {
		if got := p.ended(t, r.ID); got.Status != run.Completed {
			t.Fatalf("ended as %s: %+v", got.Status, got.Error)
		}
		if there := p.globex.get(t, r.ID); there.Status != run.Running {
			t.Errorf("there it's shown as %s before the origin has said a word", there.Status)
		}
		if there := p.globex.whole(t, r.ID); there.Status != run.Completed {
			t.Errorf("there it's %s for the origin", there.Status)
		}
	}
	until(t, func() bool { return tried.Load() > 0 })
	stop()
	mute.Store(false)
	stop = p.node(t, "stk_acme_2")
	for _, r := range runs {
		until(t, func() bool { return p.globex.get(t, r.ID).Status == run.Completed })
		if got := p.globex.get(t, r.ID); got.Placement.Superseded {
			t.Errorf("there it's superseded")
		}
		if got := p.acme.get(t, r.ID); got.Placement.LateResult != nil {
			t.Errorf("here it came late: %+v", got.Placement.LateResult)
		}
	}
	sessions := p.acme.asked.at.Load()
	until(t, func() bool { return sessions.Held() == 0 }) // all is done, and no relay is left
	stop()
}

// TestForwarder_LateResult: what a lost peer has finished meanwhile doesn't count, and is shown at both ends.
func TestForwarder_LateResult(t *testing.T) {
	p := newPair(t, away{lostAfterMS: 200, finalAck: true})
	var silent atomic.Bool
	p.wire.before = func(forward.Call) error {
		if silent.Load() {
			return errLost
		}
		return nil
	}
	goOn := make(chan struct{})
	p.execute(t, func(w *worker) {
		w.add(event.RunStarted, `{"status":"running"}`)
		<-goOn
		w.add(event.RunCompleted, `{"status":"completed","output":{"type":"text","text":"too late"}}`)
	})
	p.node(t, "stk_acme_1")
	r := p.create(t, "")
	until(t, func() bool { return p.acme.get(t, r.ID).Status == run.Running })
	silent.Store(true)
	p.wire.drop()
	given := p.ended(t, r.ID)
	if given.Error == nil || given.Error.Details["peer_lost"] != true || given.Placement.LateResult != nil {
		t.Errorf("given up as %+v", given)
	}
	close(goOn)
	until(t, func() bool { return p.globex.whole(t, r.ID).Status == run.Completed })
	if there := p.globex.get(t, r.ID); there.Status != run.Running || there.Placement.Superseded {
		t.Errorf("there it's shown as %+v before the link is back", there)
	}
	silent.Store(false)
	p.peers.set(true) // and it's heard that the peer answers
	until(t, func() bool { return p.acme.get(t, r.ID).Placement.LateResult != nil })
	here, there := p.acme.get(t, r.ID), p.globex.get(t, r.ID)
	if late := here.Placement.LateResult; late.Status != run.Completed || !late.CompletedAt.Equal(*there.CompletedAt) || late.RemoteRunID != r.ID {
		t.Errorf("what came late is %+v", late)
	}
	if here.Status != run.Failed || here.Error.Code != string(fault.Unavailable) || here.Output != nil {
		t.Errorf("here it has become %+v", here)
	}
	if there.Status != run.Completed || !there.Placement.Superseded || there.Output.Text != "too late" {
		t.Errorf("there it's shown as %+v", there)
	}
	if n := len(p.acme.journal(t, r.ID)); n != 4 { // created, forwarded, started, failed
		t.Errorf("the journal here has %d events", n)
	}
}

// TestForwarder_ConcludeUnknown: a peer that knows neither the run nor the call is not told for ever.
func TestForwarder_ConcludeUnknown(t *testing.T) {
	for _, status := range []int{http.StatusNotFound, http.StatusMethodNotAllowed} {
		p := newPair(t, away{finalAck: true})
		p.execute(t, (*worker).finish)
		p.wire.instead = func(c forward.Call) *http.Response {
			if !isConclude(c) {
				return nil
			}
			return &http.Response{StatusCode: status, Body: http.NoBody}
		}
		stop := p.node(t, "stk_acme_1")
		p.ended(t, p.create(t, "").ID)
		sessions := p.acme.asked.at.Load()
		until(t, func() bool { return sessions.Held() == 0 })
		stop()
	}
}
