package federation_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

// ear listens at a stream, and hands on what it says as it comes.
func ear(t *testing.T, s *harness.Stream) <-chan harness.Frame {
	t.Helper()
	frames := make(chan harness.Frame, 100)
	go func() {
		defer close(frames)
		for {
			f, err := s.Next(2 * bound)
			if err != nil {
				return
			}
			frames <- f
		}
	}()
	t.Cleanup(func() {
		s.Close()
		for range frames {
		}
	})
	return frames
}

// heard takes what has come of frames until one is of this type; it fails when they end before.
func heard(t *testing.T, frames <-chan harness.Frame, kind string) (all []harness.Frame) {
	t.Helper()
	late := time.After(bound)
	for {
		select {
		case f, ok := <-frames:
			if !ok {
				t.Fatalf("the stream ended before %s", kind)
			}
			all = append(all, f)
			if isType(f, kind) {
				return all
			}
		case <-late:
			t.Fatalf("%s has not come", kind)
		}
	}
}

func isType(f harness.Frame, kind string) bool {
	return strings.Contains(f.Data, `"type":"agentos.`+kind+`"`)
}

// finalOf is the final event of a journal.
func finalOf(events []harness.Event) harness.Event { return events[len(events)-1] }

// An executor shows the end of a run that acme has forwarded to nobody but acme, until acme has said that it has it: with the
// link cut before, with globex killed in between, and after acme's return from the dead.
//
// Requirements: P5, Q3.
func TestFaults_HeardLast(t *testing.T) {
	t.Parallel()
	c, whole := pairUp(t, 1), t
	acme := forge(t, c.acme, c.globex) // asks globex as acme's node does, past the proxy
	acme.tenant = c.there.ID
	toOrigin := func(t *testing.T, id string) harness.Answer {
		t.Helper()
		a, err := acme.call("GET", "/v1/federation/runs/"+id, acme.token(), nil, "corr_origin")
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	hidden := func(t *testing.T, id string) {
		t.Helper()
		a := c.there.Want(t, 200, "GET", "/v1/runs/"+id, nil)
		if a.Str("run.status") != "running" || a.At("run.completed_at") != nil || a.At("run.output") != nil {
			t.Errorf("globex shows what acme has not got: %s", a.Body)
		}
		if a = c.there.Want(t, 200, "GET", "/v1/federation/runs/"+id, nil); a.Str("run.status") != "running" {
			t.Errorf("globex shows what acme has not got: %s", a.Body)
		}
		for status, want := range map[string]bool{"running": true, "completed": false} {
			a = c.there.Want(t, 200, "GET", "/v1/runs?limit=500&status="+status, nil)
			if strings.Contains(string(a.Body), id) != want {
				t.Errorf("in the list of %s runs: %v", status, !want)
			}
		}
		a = c.there.Want(t, 200, "POST", "/v1/runs/"+id+":cancel", nil)
		if a.Str("run.status") != "running" {
			t.Errorf("a cancel is answered by %s", a.Body)
		}
	}
	for name, strike := range map[string]func(t *testing.T, id string){
		"nobody dies": func(*testing.T, string) {},
		"the executor dies": func(*testing.T, string) {
			c.globex.Nodes[0].Kill(whole)
			c.globex.Nodes[0].Launch(whole)
			c.globex.Nodes[0].AwaitReady(whole)
		},
		"the origin dies": func(*testing.T, string) { c.acme.Nodes[0].Kill(whole); c.acme.Nodes[0].Launch(whole) },
		"both die, and wait": func(*testing.T, string) {
			c.acme.Nodes[0].Kill(whole)
			c.globex.Nodes[0].Kill(whole)
			c.globex.Nodes[0].Launch(whole)
			c.globex.Nodes[0].AwaitReady(whole)
			c.acme.Nodes[0].Launch(whole)
		},
	} {
		t.Run(name, func(t *testing.T) {
			id := c.create(t, 0, "/wait 700ms\n/say done")
			s, _ := watch(t, c.at(0), id, "model.requested")
			s.Close()
			there := ear(t, c.there.Follow(t, id, ""))
			c.proxy.Cut()
			defer c.proxy.Heal()
			if !harness.Poll(bound, 20*time.Millisecond, func() bool { return final(toOrigin(t, id)) }) {
				t.Fatal("it does not end at globex")
			}
			hidden(t, id)
			heard(t, there, "run.step.completed") // the last but one
			strike(t, id)
			hidden(t, id)
			again := ear(t, c.there.Follow(t, id, ""))
			heard(t, again, "run.step.completed")
			for _, frames := range []<-chan harness.Frame{there, again} {
				select {
				case f := <-frames:
					if f.Data != "" {
						t.Errorf("globex tells what acme has not got: %s", f.Data)
					}
				case <-time.After(300 * time.Millisecond): // long enough for what was on its way
				}
			}
			c.proxy.Heal()
			await(t, c.at(0), id, status("completed"))
			heard(t, again, "run.completed")
			if _, more := <-again; more {
				t.Error("something came after the end")
			}
			await(t, c.there.Client, id, status("completed"))
			here, at := tell(t, c.at(0), id), tell(t, c.there.Client, id)
			if diff := same(here, at); diff != "" || finalOf(here).Type != "agentos.run.completed" {
				t.Errorf("%s", diff)
			}
			if a := c.there.Want(t, 200, "GET", "/v1/runs/"+id, nil); a.At("run.placement.superseded") != nil || a.Str("run.output.text") != "done" {
				t.Errorf("in the end globex shows %s", a.Body)
			}
		})
	}
}

// What a peer finishes after it was given up does not count: it's shown as late at acme, as superseded at globex.
//
// Requirements: P5, Q3.
func TestFaults_LateResult(t *testing.T) {
	t.Parallel()
	c := pairUp(t, 1)
	c.lead(t, map[string]any{"lost_after_ms": 1500})
	id := c.create(t, 0, "/wait 3s\n/say too late")
	unfinished := c.create(t, 0, "/wait 120s\n/say never")
	for _, one := range []string{id, unfinished} {
		s, _ := watch(t, c.at(0), one, "model.requested")
		s.Close()
	}
	there := ear(t, c.there.Follow(t, id, ""))
	c.proxy.Cut()
	for _, one := range []string{id, unfinished} {
		if a := await(t, c.at(0), one, status("failed")); a.At("run.error.details.peer_lost") != true {
			t.Errorf("given up as %s", a.Body)
		}
	}
	given := tell(t, c.at(0), id)
	heard(t, there, "run.step.completed")
	if a := c.there.Want(t, 200, "GET", "/v1/runs/"+id, nil); a.Str("run.status") != "running" {
		t.Errorf("before it has heard of acme, globex shows %s", a.Body)
	}
	c.proxy.Heal()
	a := await(t, c.at(0), id, func(a harness.Answer) bool { return a.At("run.placement.late_result") != nil })
	g := await(t, c.there.Client, id, status("completed"))
	if a.Str("run.status") != "failed" || a.Str("run.placement.late_result.status") != "completed" || a.Str("run.placement.late_result.remote_run_id") != id ||
		a.Str("run.placement.late_result.completed_at") != g.Str("run.completed_at") {
		t.Errorf("acme shows %s", a.Body)
	}
	if g.At("run.placement.superseded") != true || g.Str("run.output.text") != "too late" {
		t.Errorf("globex shows %s", g.Body)
	}
	heard(t, there, "run.completed")
	if _, more := <-there; more {
		t.Error("something came after the end")
	}
	if diff := same(given, tell(t, c.at(0), id)); diff != "" {
		t.Errorf("what came late has changed the journal: %s", diff)
	}
	// What had not come to an end is stopped.
	await(t, c.there.Client, unfinished, status("canceled"))
	if g := c.there.Want(t, 200, "GET", "/v1/runs/"+unfinished, nil); g.At("run.placement.superseded") != true {
		t.Errorf("globex shows %s", g.Body)
	}
	if a := c.at(0).Want(t, 200, "GET", "/v1/runs/"+unfinished, nil); a.Str("run.status") != "failed" || a.At("run.placement.late_result") != nil {
		t.Errorf("acme shows %s", a.Body)
	}
}
