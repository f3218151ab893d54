package federation_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

// Who knows final_ack is told how a run ended, until it has heard, also by a node that was killed meanwhile; who doesn't is not.
//
// Requirements: P5, Q3.
func TestSkew_FinalAck(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	knows, plain := newStub(t, "knows"), newStub(t, "plain")
	knows.caps["supports"].(map[string]any)["final_ack"] = true
	for _, s := range []*stub{knows, plain} {
		s.grant(h.ID, nil)
		h.pair(s)
	}
	h.shows(knows, "\nagreed features events_ingest, events_stream, final_ack, origin_run_ids, runs_forward, tenant_isolation\n")
	h.shows(plain, "\nusable yes", "\nfinal_ack they do not support it\n")
	run := func(s *stub) (id, end string) {
		t.Helper()
		h.goesThrough(s)
		id = h.Want(t, 200, "GET", "/v1/runs?agent_id="+agentOf(s), nil).Str("runs.0.run_id")
		last := finalOf(h.Journal(t, id))
		return id, fmt.Sprint(*last.Sequence, " ", last.ID)
	}
	hears := func(id, end string, before int) {
		t.Helper()
		if !harness.Poll(bound, 20*time.Millisecond, func() bool { _, heard, _ := knows.end(id); return heard > before }) {
			told, heard, _ := knows.end(id)
			t.Fatalf("it was told %d times, %v, and has heard %d", len(told), told, heard)
		}
		for _, one := range first(knows.end(id)) {
			if one != end {
				t.Errorf("it was told of %s, and the end is %s", one, end)
			}
		}
	}
	id, end := run(knows)
	hears(id, end, 0)
	if _, _, said := knows.end(id); !said {
		t.Error("the forward did not say that the end will be told")
	}

	knows.set(func() { knows.deaf = true })
	id, end = run(knows)
	if !harness.Poll(bound, 20*time.Millisecond, func() bool { return len(first(knows.end(id))) > 1 }) {
		t.Fatal("it's not told again")
	}
	h.node.Kill(t)
	h.node.Launch(t)
	h.node.AwaitReady(t)
	told := len(first(knows.end(id)))
	if !harness.Poll(bound, 20*time.Millisecond, func() bool { return len(first(knows.end(id))) > told }) {
		t.Fatal("it's not told any more after a kill")
	}
	knows.set(func() { knows.deaf = false })
	hears(id, end, 0)

	id, _ = run(plain)
	again, _ := run(knows) // and by now the first would have been told as well
	hears(again, first(knows.end(again))[0], 0)
	if told, _, said := plain.end(id); len(told) != 0 || said {
		t.Errorf("who knows nothing of it was told %v; said %v", told, said)
	}
	for _, one := range []string{id, again} {
		if a := h.Want(t, 200, "GET", "/v1/runs/"+one, nil); a.At("run.placement.late_result") != nil {
			t.Errorf("%s: %s", one, a.Body)
		}
	}
}

func first(told []string, _ int, _ bool) []string { return told }

// An executor shows the end at once of a run whose origin will not tell, and no later than the run's time and a grace of one
// whose origin said it would and doesn't.
func TestSkew_FinalAckUnsaid(t *testing.T) {
	t.Parallel()
	c := pairUp(t, 1)
	f := forge(t, c.acme, c.globex)
	f.tenant, f.origin, f.agent = c.there.ID, c.here.ID, c.there.Agent
	send := func(finalAck any, remainingMS int) string {
		t.Helper()
		id := newRun()
		body := f.forwarded(id, "/say done")
		origin := body["forward"].(map[string]any)["origin"].(map[string]any)
		if origin["remaining_ms"] = remainingMS; finalAck != nil {
			origin["final_ack"] = finalAck
		}
		if a, err := f.call("POST", "/v1/federation/runs:forward", f.token(), body, "corr_send"); err != nil || a.Status != 200 {
			t.Fatalf("forward: %v %d %s", err, a.Status, a.Body)
		}
		if !harness.Poll(bound, 20*time.Millisecond, func() bool {
			a, err := f.call("GET", "/v1/federation/runs/"+id, f.token(), nil, "corr_look")
			return err == nil && final(a)
		}) {
			t.Fatalf("%s does not end", id)
		}
		return id
	}
	say := func(id string, body any, status int) harness.Answer {
		t.Helper()
		a, err := f.call("POST", "/v1/federation/runs/"+id+":conclude", f.token(), body, "corr_say")
		if err != nil || a.Status != status {
			t.Fatalf("conclude: %v %d %s", err, a.Status, a.Body)
		}
		return a
	}
	for _, unsaid := range []any{nil, false} {
		id := send(unsaid, 60_000)
		if a := c.there.Want(t, 200, "GET", "/v1/runs/"+id, nil); a.Str("run.status") != "completed" || a.At("run.placement.superseded") != nil {
			t.Errorf("final_ack %v: %s", unsaid, a.Body)
		}
	}
	id := send(true, 60_000)
	if a := c.there.Want(t, 200, "GET", "/v1/runs/"+id, nil); a.Str("run.status") == "completed" {
		t.Errorf("before its origin has told: %s", a.Body)
	}
	for _, bad := range []any{map[string]any{}, map[string]any{"final": map[string]any{"sequence": 0, "event_id": "evt_x"}}, map[string]any{"final": map[string]any{"sequence": 3, "event_id": "a b"}}} {
		if a := say(id, bad, 400); a.Str("error.code") != "invalid_request" {
			t.Errorf("%v: %s", bad, a.Body)
		}
	}
	if a := say(id, map[string]any{"final": map[string]any{"sequence": 2, "event_id": "evt_else"}}, 200); a.At("concluded.superseded") != true || a.Str("concluded.status") != "completed" {
		t.Errorf("told of another end: %s", a.Body)
	}
	if a := c.there.Want(t, 200, "GET", "/v1/runs/"+id, nil); a.Str("run.status") != "completed" || a.At("run.placement.superseded") != true {
		t.Errorf("it's shown as %s", a.Body)
	}
	never := newRun()
	if a := say(never, map[string]any{"final": map[string]any{"sequence": 2, "event_id": "evt_else"}}, 200); a.At("concluded.superseded") != true || a.Str("concluded.status") != "" {
		t.Errorf("one that never came: %s", a.Body)
	}
	late := f.forwarded(never, "/say done")
	if a, err := f.call("POST", "/v1/federation/runs:forward", f.token(), late, "corr_late"); err != nil || a.Status != 409 {
		t.Errorf("it comes late: %v %d %s", err, a.Status, a.Body)
	}
	for range rounds(0, 1) { // it takes the grace of 15 s
		id := send(true, 2_000)
		await(t, c.there.Client, id, status("completed"))
		if a := c.there.Want(t, 200, "GET", "/v1/runs/"+id, nil); a.At("run.placement.superseded") != true {
			t.Errorf("its origin says nothing, and it's shown as %s", a.Body)
		}
		tell(t, c.there.Client, id)
	}
}
