package onenode_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/nexixai/agentos/tests/harness"
)

// ids returns the ids of the stored frames.
func ids(frames []harness.Frame) []string {
	var out []string
	for _, f := range frames {
		if f.HasID {
			out = append(out, f.ID)
		}
	}
	return out
}

// upto returns "from" … "to".
func upto(from, to int) []string {
	var out []string
	for i := from; i <= to; i++ {
		out = append(out, strconv.Itoa(i))
	}
	return out
}

// rest reads a stream to its end and fails the test unless the end is whole.
func rest(t *testing.T, s *harness.Stream) []harness.Frame {
	t.Helper()
	frames, err := s.Rest(soon)
	if err != nil || s.End() != harness.Whole {
		t.Errorf("stream ended %s after %d frames: %v", s.End(), len(frames), err)
	}
	return frames
}

func TestStream_Head(t *testing.T) {
	t.Parallel()
	tn := suite.Tenant(t, nil)
	id := tn.Create(t, "hello", nil)
	s := tn.Follow(t, id, "")
	frames := rest(t, s)
	if s.Retry != "1000" || len(frames) == 0 {
		t.Errorf("retry %q, %d frames", s.Retry, len(frames))
	}
	for name, want := range map[string]string{"Content-Type": "text/event-stream", "Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no", "X-Tenant-Id": tn.ID} {
		if got, _, _ := strings.Cut(s.Header.Get(name), ";"); got != want {
			t.Errorf("%s: %q, want %q", name, s.Header.Get(name), want)
		}
	}
	for _, name := range []string{"X-Request-Id", "X-Correlation-Id", "X-AgentOS-Index"} {
		if s.Header.Get(name) == "" {
			t.Errorf("no %s", name)
		}
	}
	if s.Header.Get("Content-Encoding") != "" {
		t.Errorf("compressed")
	}
	// The bytes are one line of JSON with exactly the envelope in it.
	for _, f := range frames {
		if !strings.HasPrefix(f.Data, `{"event":{`) || !strings.HasSuffix(f.Data, "}}") {
			t.Errorf("data %s", f.Data)
		}
	}
}

// A reader who has seen k events gets k+1 and the rest, once each, whatever k is and however it says so.
//
// Requirements: A1.
func TestStream_Resume(t *testing.T) {
	t.Parallel()
	tn := suite.Tenant(t, nil)
	a, events := tn.Complete(t, "/call tool.echo {}\n/call tool.echo {}\n/say done", nil)
	id, n := a.Str("run.run_id"), len(events)
	for k := range n + 3 {
		for how, s := range map[string]*harness.Stream{
			"Last-Event-ID":  tn.Follow(t, id, "", "Last-Event-ID", strconv.Itoa(k)),
			"after_sequence": tn.Follow(t, id, "after_sequence="+strconv.Itoa(k)),
			"from_sequence":  tn.Follow(t, id, "from_sequence="+strconv.Itoa(k)),
			"both":           tn.Follow(t, id, "after_sequence="+strconv.Itoa(k/2), "Last-Event-ID", strconv.Itoa(k)),
			"both, reversed": tn.Follow(t, id, "after_sequence="+strconv.Itoa(k), "Last-Event-ID", strconv.Itoa(k/2)),
		} {
			if k >= n {
				if s.Status != 204 {
					t.Errorf("%s %d of %d: status %d, want 204", how, k, n, s.Status)
				}
			} else if got := ids(rest(t, s)); !slices.Equal(got, upto(k+1, n)) {
				t.Errorf("%s %d of %d: %v", how, k, n, got)
			}
			s.Close()
		}
	}
	for _, query := range []string{"after_sequence=-1", "after_sequence=x", "after_sequence=1.5", "from_sequence=-1", "after_sequence=NaN", "after_sequence=99999999999999999999"} {
		refused(t, tn.Do(t, "GET", "/v1/runs/"+id+"/events?"+query, nil), 400, "invalid_request")
	}
}

// The same, while the run is still going on: readers break off and come back in mid-run, many at once.
//
// Requirements: A1.
func TestStream_ResumeLive(t *testing.T) {
	t.Parallel()
	tn := suite.Tenant(t, nil)
	var text strings.Builder
	for i := range 12 {
		fmt.Fprintf(&text, "/wait 20ms\n/call tool.echo {\"n\":%d}\n", i)
	}
	id := tn.Create(t, text.String()+"/say done", nil)
	const readers = 10
	journals := make([][]harness.Frame, readers)
	var wg sync.WaitGroup
	for r := range readers {
		wg.Go(func() {
			last := ""
			for range 500 {
				s, err := tn.TryFollow(id, "", "Last-Event-ID", "0"+last)
				if err != nil {
					t.Errorf("reader %d: %v", r, err)
					return
				}
				for range r + 1 { // each reader leaves after its own number of events
					f, err := s.Next(soon)
					if err != nil {
						break
					}
					if f.HasID {
						journals[r] = append(journals[r], f)
						last = f.ID
					}
				}
				s.Close()
				if k := len(journals[r]); s.Status == 204 || k > 0 && strings.Contains(journals[r][k-1].Data, `"agentos.run.completed"`) {
					return
				}
			}
		})
	}
	wg.Wait()
	events := tn.Journal(t, id)
	for r, frames := range journals {
		if got := ids(frames); !slices.Equal(got, upto(1, len(events))) {
			t.Errorf("reader %d: %v of %d", r, got, len(events))
			continue
		}
		for i, f := range frames {
			if f.Data != events[i].Raw {
				t.Errorf("reader %d, event %d: other bytes live than replayed:\n%s\n%s", r, i+1, f.Data, events[i].Raw)
			}
		}
	}
}

// Closing the viewer cancels nothing.
//
// Requirements: A1.
func TestStream_ViewerLeaves(t *testing.T) {
	t.Parallel()
	tn := suite.Tenant(t, nil)
	id := tn.Create(t, "/wait 400ms\n/call tool.echo {}\n/say done", nil)
	for range 5 {
		s := tn.Follow(t, id, "")
		if _, err := s.Next(soon); err != nil {
			t.Error(err)
		}
		s.Close()
	}
	events := tn.Journal(t, id)
	if last := events[len(events)-1]; last.Type != "agentos.run.completed" {
		t.Errorf("the run ended %s", last.Raw)
	}
	if slices.Contains(harness.Types(events), "run.cancel_requested") {
		t.Error("a viewer that left has asked for a cancel")
	}
}

// Beyond the end of a live run a reader waits; it is not told of a future event, nor refused.
func TestStream_BeyondLiveEnd(t *testing.T) {
	t.Parallel()
	tn := suite.Tenant(t, nil)
	id := tn.Create(t, "/wait 10m", nil)
	s := tn.Follow(t, id, "after_sequence=1000")
	if s.Status != 200 {
		t.Fatalf("status %d: %s", s.Status, s.Body)
	}
	tn.Want(t, 200, "POST", "/v1/runs/"+id+":cancel", nil)
	if frames := ids(rest(t, s)); len(frames) != 0 {
		t.Errorf("frames %v", frames)
	}
}

// A quiet stream says every 15 s that it lives.
func TestStream_Heartbeat(t *testing.T) {
	t.Parallel()
	tn := suite.Tenant(t, nil)
	id := tn.Create(t, "/wait 17s\n/say done", nil)
	s := tn.Follow(t, id, "")
	rest(t, s)
	if s.Comments < 1 {
		t.Errorf("no heartbeat in 17 s")
	}
}

// Deltas ride along without a place in the record, as far as the run wants them.
func TestStream_Deltas(t *testing.T) {
	t.Parallel()
	tn := suite.Tenant(t, nil)
	deltas := func(frames []harness.Frame) (text string, n int) {
		for _, f := range frames {
			if !f.HasID {
				v := harness.Decode([]byte(f.Data))
				if !harness.Has(v, "event.sequence") || harness.Has(v, "event.event_id") {
					t.Errorf("a delta: %s", f.Data)
				}
				s, _ := harness.At(v, "event.payload.text").(string)
				text, n = text+s, n+1
			}
		}
		return text, n
	}
	id := tn.Create(t, "/wait 500ms\n/tokens 20", nil)
	live := rest(t, tn.Follow(t, id, ""))
	if _, err := harness.Stored(live); err != nil {
		t.Error(err)
	}
	text, n := deltas(live)
	if n == 0 || !strings.Contains("w1 w2 w3 w4 w5 w6 w7 w8 w9 w10 w11 w12 w13 w14 w15 w16 w17 w18 w19 w20", strings.TrimSpace(text)) {
		t.Errorf("%d deltas: %q", n, text)
	}
	if _, n := deltas(rest(t, tn.Follow(t, id, ""))); n != 0 {
		t.Errorf("%d deltas in a replay", n)
	}
	id = tn.Create(t, "/wait 300ms\n/tokens 20", map[string]any{"run_options": map[string]any{"stream_events": false}})
	if _, n := deltas(rest(t, tn.Follow(t, id, ""))); n != 0 {
		t.Errorf("%d deltas in a run that wants none", n)
	}
}

// What a user writes can't forge a frame or a line.
//
// Requirements: Q3.
func TestStream_Injection(t *testing.T) {
	t.Parallel()
	tn := suite.Tenant(t, nil)
	evil := "x\r\n\r\nid: 99\nevent: agentos.event\ndata: {\"forged\":true}\n\n\u2028\u2029\x00"
	path := "/v1/agents/" + tn.Agent + "/runs"
	for _, labels := range []map[string]any{{"a\nb": "c"}, {"a": "c\r\nid: 98"}, {"a": "\x00"}} {
		refused(t, tn.Do(t, "POST", path, harness.Body("x", map[string]any{"context": map[string]any{"labels": labels}})), 400, "invalid_request")
	}
	id := tn.Create(t, evil, map[string]any{"context": map[string]any{"metadata": map[string]any{"a\nb": evil}}})
	events := tn.Journal(t, id)
	for _, e := range events {
		if e.RunID != id {
			t.Errorf("a forged event: %s", e.Raw)
		}
	}
	if len(events) < 5 {
		t.Errorf("%d events", len(events))
	}
}
