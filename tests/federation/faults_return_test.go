package federation_test

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

// watch follows a run at a client until its journal has an event of this type, and returns the frames so far.
func watch(t *testing.T, c *harness.Client, runID, kind string) (*harness.Stream, []harness.Frame) {
	t.Helper()
	s := c.Follow(t, runID, "")
	var frames []harness.Frame
	for {
		f, err := s.Next(bound)
		if err != nil {
			t.Fatalf("%s at %s, before %s: %v", runID, c.Base, kind, err)
		}
		frames = append(frames, f)
		if strings.Contains(f.Data, `"type":"agentos.`+kind+`"`) {
			return s, frames
		}
	}
}

// rest reads a stream that was begun to its end: one whole journal.
func rest(t *testing.T, s *harness.Stream, frames []harness.Frame) []harness.Event {
	t.Helper()
	more, err := s.Rest(bound)
	if err != nil {
		t.Fatalf("after %d frames: %v", len(frames)+len(more), err)
	}
	events, err := harness.Stored(append(frames, more...))
	if err == nil {
		err = harness.CheckJournal(events)
	}
	if err != nil || s.End() != harness.Whole {
		t.Fatalf("the stream (%v): %v\n%v", s.End(), err, harness.Types(events))
	}
	return events
}

// relaying is which of acme's nodes relays a run, by its log.
func (c *couple) relaying(t *testing.T, runID string, not *harness.Node) int {
	t.Helper()
	at := -1
	if !harness.Poll(bound, 20*time.Millisecond, func() bool {
		for i, n := range c.acme.Nodes {
			if n == not {
				continue
			}
			for line := range strings.Lines(n.Output()) {
				if strings.Contains(line, "a peer has taken a run") && strings.Contains(line, runID) {
					at = i
				}
			}
		}
		return at >= 0
	}) {
		t.Fatalf("no node relays %s", runID)
	}
	return at
}

// What becomes of runs under way when either side dies, the link fails, or somebody changes their mind.
//
// Requirements: P5, P7, Q3.
func TestFaults_UnderWay(t *testing.T) {
	t.Parallel()
	c, whole := pairUp(t, 3), t // what a part launches outlives it
	ended := func(t *testing.T, id string, events []harness.Event, kind string) {
		t.Helper()
		if last := events[len(events)-1]; last.Type != "agentos.run."+kind {
			t.Errorf("%s ended with %s", id, last.Raw)
		}
		for i := range c.acme.Nodes {
			if diff := same(events, tell(t, c.at(i), id)); diff != "" {
				t.Errorf("%s at %s: %s", id, c.acme.Nodes[i].Name, diff)
			}
		}
		if diff := same(events, tell(t, c.there.Client, id)); diff != "" {
			t.Errorf("%s at globex: %s", id, diff)
		}
	}

	t.Run("the executor dies and returns", func(t *testing.T) {
		for range rounds(1, 10) {
			id := c.create(t, 0, "/wait 1500ms\n/say done")
			s, frames := watch(t, c.at(1), id, "model.requested")
			c.globex.Nodes[0].Kill(t)
			c.globex.Nodes[0].Launch(whole)
			ended(t, id, rest(t, s, frames), "completed")
		}
	})

	t.Run("the node that relays dies", func(t *testing.T) {
		for i := range rounds(2, 10) {
			id := c.create(t, i%3, "/wait 2500ms\n/say done")
			relay := c.relaying(t, id, nil)
			s, frames := watch(t, c.at((relay+1)%3), id, "run.started")
			c.acme.Nodes[relay].Kill(t)
			events := rest(t, s, frames)
			c.acme.Nodes[relay].Launch(whole)
			c.acme.Nodes[relay].AwaitReady(t)
			ended(t, id, events, "completed")
		}
	})

	t.Run("cancel", func(t *testing.T) {
		id := c.create(t, 0, "/wait 60s\n/say done")
		s, frames := watch(t, c.at(1), id, "model.requested")
		c.at(2).Want(t, 200, "POST", "/v1/runs/"+id+":cancel", map[string]any{})
		ended(t, id, rest(t, s, frames), "canceled")
	})

	t.Run("cancel with the link down", func(t *testing.T) {
		id := c.create(t, 0, "/wait 60s\n/say done")
		s, frames := watch(t, c.at(1), id, "model.requested")
		c.proxy.Cut()
		a := c.at(2).Want(t, 200, "POST", "/v1/runs/"+id+":cancel", map[string]any{})
		if a.At("run.cancel_requested_at") == nil {
			t.Errorf("the wish is not noted: %s", a.Body)
		}
		if now := await(t, c.there.Client, id, status("running")); now.At("run.cancel_requested_at") != nil {
			t.Errorf("it got through a link that is down: %s", now.Body)
		}
		c.proxy.Heal()
		ended(t, id, rest(t, s, frames), "canceled")
	})

	t.Run("canceled before it came", func(t *testing.T) {
		c.proxy.Cut()
		id := c.create(t, 0, "/wait 60s\n/say done")
		c.at(1).Want(t, 200, "POST", "/v1/runs/"+id+":cancel", map[string]any{})
		c.proxy.Heal()
		await(t, c.at(2), id, status("canceled"))
		tell(t, c.at(0), id)
		// It may have been on its way when the link came back: then the cancel has followed it.
		if there := c.there.Do(t, "GET", "/v1/runs/"+id, nil); there.Status != 404 {
			await(t, c.there.Client, id, status("canceled"))
		}
	})

	t.Run("lost after", func(t *testing.T) {
		c.lead(t, map[string]any{"lost_after_ms": 2500})
		long := c.create(t, 0, "/wait 6s\n/say done") // far longer than a peer may be silent: but it answers
		ended(t, long, tell(t, c.at(1), long), "completed")

		for name, fault := range map[string]struct{ strike, mend func() }{
			"the link is mute":       {c.proxy.Freeze, c.proxy.Thaw},
			"the link is cut":        {c.proxy.Cut, c.proxy.Heal},
			"the executor is frozen": {func() { c.globex.Nodes[0].Signal(t, syscall.SIGSTOP) }, func() { c.globex.Nodes[0].Signal(t, syscall.SIGCONT) }},
		} {
			id := c.create(t, 0, "/wait 60s\n/say done")
			s, frames := watch(t, c.at(1), id, "model.requested")
			fault.strike()
			began := time.Now()
			events := rest(t, s, frames)
			t.Logf("%s: given up after %v", name, time.Since(began).Round(10*time.Millisecond))
			fault.mend()
			run := await(t, c.at(2), id, final)
			if run.Str("run.error.code") != "dependency_unavailable" || run.At("run.error.details.peer_lost") != true || run.Str("run.error.details.peer") != "globex" {
				t.Errorf("%s: it ended as %s", name, run.Body)
			}
			if diff := same(events, tell(t, c.at(0), id)); diff != "" {
				t.Errorf("%s: %s", name, diff)
			}
			if there := await(t, c.there.Client, id, status("canceled")); there.At("run.placement.superseded") != true { // it hears that it was given up
				t.Errorf("%s: globex shows %s", name, there.Body)
			}
		}
		c.lead(t, nil)
	})
}
