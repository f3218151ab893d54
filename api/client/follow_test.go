package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nexixai/agentos/api/client"
	"github.com/nexixai/agentos/internal/fault"
)

const runID = "run_01J0000000000000000000000A"

// stored is the frame of one event of the run.
func stored(sequence int, kind string) string {
	return fmt.Sprintf("id: %d\nevent: agentos.event\ndata: %s\n\n", sequence, envelope(sequence, kind))
}

func envelope(sequence int, kind string) string {
	return fmt.Sprintf(`{"event":{"event_id":"evt_%d","sequence":%d,"time":"2026-01-31T12:00:00.000Z","type":"agentos.%s","tenant_id":"tnt_demo","agent_id":"agt_x","run_id":%q,"step_id":null,"trace":{"traceparent":"","span_id":""},"payload":{"n": 1.0,"s":"\u003c"}}}`,
		sequence, sequence, kind, runID)
}

const (
	hint  = "retry: 1000\n\n"
	beat  = ": heartbeat\n\n"
	piece = `event: agentos.event` + "\n" + `data: {"event":{"event_id":null,"sequence":null,"type":"agentos.model.delta","run_id":"` + runID + `","payload":{"text":"wo"}}}` + "\n\n"
)

func gap(from, to int) string {
	return fmt.Sprintf("event: agentos.gap\ndata: {\"gap\":{\"run_id\":%q,\"from_sequence\":%d,\"to_sequence\":%d,\"reason\":\"retention\"}}\n\n", runID, from, to)
}

// connection is what one connection of a stream does.
type connection struct {
	status int    // 0: 200; -1: there is none
	text   string // what comes
	kind   string // content type, "" for a stream's
	stays  bool   // then nothing more comes, and it stays open
	cut    bool   // then it breaks; otherwise it ends in good order
	lives  time.Duration
}

// streams answers with these connections, one after another, the last one again and again, and notes Last-Event-ID.
func streams(asked *[]string, conns ...connection) wire {
	return func(r *http.Request) (*http.Response, error) {
		c := conns[min(len(*asked), len(conns)-1)]
		*asked = append(*asked, r.Header.Get("Last-Event-ID"))
		switch c.status {
		case -1:
			return nil, errors.New("connection refused")
		case 0:
		case 429, 503:
			return reply(c.status, refusal("dependency_unavailable"), "Retry-After", c.text), nil
		default:
			return reply(c.status, refusal(c.text)), nil
		}
		kind := c.kind
		if kind == "" {
			kind = "text/event-stream"
		}
		in, out := io.Pipe()
		go func() {
			_, _ = io.WriteString(out, c.text)
			if c.stays {
				<-r.Context().Done()
				out.CloseWithError(r.Context().Err())
				return
			}
			if c.lives > 0 {
				for end := time.Now().Add(c.lives); time.Now().Before(end); time.Sleep(15 * time.Second) {
					_, _ = io.WriteString(out, beat)
				}
			}
			if c.cut {
				out.CloseWithError(io.ErrUnexpectedEOF)
				return
			}
			out.Close()
		}()
		return replyWith(200, in, "Content-Type", kind), nil
	}
}

// heard is what a reader got: sequences, "d" for a delta, "from-to" for a gap.
func heard(f client.Frame) string {
	switch {
	case f.Gap != nil:
		return fmt.Sprintf("%d-%d", f.Gap.From, f.Gap.To)
	case f.Delta():
		return "d"
	}
	return fmt.Sprint(f.Event.Sequence)
}

func TestClient_Follow(t *testing.T) {
	whole := hint + stored(1, "run.created") + stored(2, "run.started") + stored(3, "run.completed")
	for name, c := range map[string]struct {
		after uint64
		conns []connection
		want  string // what was heard
		asked string // Last-Event-ID of each connection
		err   error
		says  string
		most  time.Duration
	}{
		"whole":            {conns: []connection{{text: whole}}, want: "1 2 3", asked: "-"},
		"failed":           {conns: []connection{{text: stored(1, "run.created") + stored(2, "run.failed")}}, want: "1 2", asked: "-"},
		"canceled":         {conns: []connection{{text: stored(1, "run.created") + stored(2, "run.canceled")}}, want: "1 2", asked: "-"},
		"stays open":       {conns: []connection{{text: whole, stays: true}}, want: "1 2 3", asked: "-"},
		"something after":  {conns: []connection{{text: whole + stored(4, "run.started")}}, want: "1 2 3", asked: "-"},
		"from the middle":  {after: 2, conns: []connection{{text: stored(3, "run.completed")}}, want: "3", asked: "2"},
		"at the end":       {after: 3, conns: []connection{{status: 204}}, want: "", asked: "3"},
		"a delta":          {conns: []connection{{text: stored(1, "run.created") + piece + piece + stored(2, "run.completed")}}, want: "1 d d 2", asked: "-"},
		"a gap":            {conns: []connection{{text: gap(1, 4) + stored(5, "run.completed")}}, want: "1-4 5", asked: "-"},
		"a gap, known":     {after: 5, conns: []connection{{text: gap(1, 4) + stored(6, "run.completed")}}, want: "6", asked: "5"},
		"other frames":     {conns: []connection{{text: "event: agentos.later\ndata: x\n\n" + "data: y\n\n" + whole}}, want: "1 2 3", asked: "-"},
		"CR LF":            {conns: []connection{{text: strings.ReplaceAll(whole, "\n", "\r\n")}}, want: "1 2 3", asked: "-"},
		"ends early":       {conns: []connection{{text: hint + stored(1, "run.created")}, {text: stored(2, "run.completed")}}, want: "1 2", asked: "- 1", most: 2 * time.Second},
		"breaks":           {conns: []connection{{text: stored(1, "run.created"), cut: true}, {text: stored(2, "run.completed")}}, want: "1 2", asked: "- 1", most: 2 * time.Second},
		"breaks in a line": {conns: []connection{{text: stored(1, "run.created") + stored(2, "run.completed")[:40], cut: true}, {text: stored(2, "run.completed")}}, want: "1 2", asked: "- 1", most: 2 * time.Second},
		"ends in a frame":  {conns: []connection{{text: whole[:len(whole)-1]}, {text: stored(3, "run.completed")}}, want: "1 2 3", asked: "- 2", most: 2 * time.Second},
		"comes twice":      {conns: []connection{{text: stored(1, "run.created"), cut: true}, {text: whole}}, want: "1 2 3", asked: "- 1", most: 2 * time.Second},
		"the end was seen": {conns: []connection{{text: stored(1, "run.created"), cut: true}, {status: 204}}, want: "1", asked: "- 1", most: 2 * time.Second},
		"a hole":           {conns: []connection{{text: stored(1, "run.created") + stored(3, "run.completed")}, {text: stored(2, "run.started") + stored(3, "run.completed")}}, want: "1 2 3", asked: "- 1", most: 2 * time.Second},
		"a hole, always":   {conns: []connection{{text: stored(1, "run.created")}, {text: stored(3, "run.completed")}}, want: "1", err: client.ErrCut, says: "event 3 came after event 1", most: 40 * time.Second},
		"a gap too far":    {conns: []connection{{text: stored(1, "run.created")}, {text: gap(3, 4)}}, want: "1", err: client.ErrCut, says: "a gap from 3 came after event 1", most: 40 * time.Second},
		"the node restarts": {
			conns: []connection{{text: stored(1, "run.created"), cut: true}, {status: -1}, {status: 503, text: "2"}, {status: -1}, {text: stored(2, "run.completed")}},
			want:  "1 2", asked: "- 1 1 1 1", most: 10 * time.Second,
		},
		"the node stays away": {conns: []connection{{text: stored(1, "run.created"), cut: true}, {status: -1}}, want: "1", err: client.ErrCut, says: "connection refused", most: 40 * time.Second},
		"the node never was":  {conns: []connection{{status: -1}}, want: "", err: client.ErrCut, says: "connection refused", most: 40 * time.Second},
		"quiet for an hour, then a break": {
			conns: []connection{{text: stored(1, "run.created"), lives: time.Hour, cut: true}, {status: -1}, {status: -1}, {text: stored(2, "run.completed")}},
			want:  "1 2", asked: "- 1 1 1", most: time.Hour + 10*time.Second,
		},
		"dead without a sign": {conns: []connection{{text: stored(1, "run.created"), stays: true}, {text: stored(2, "run.completed")}}, want: "1 2", asked: "- 1", most: 50 * time.Second},
		"only a hello":        {conns: []connection{{text: hint}}, want: "", err: client.ErrCut, says: "the connection ended", most: 40 * time.Second},
		"no such run":         {conns: []connection{{status: 404, text: "not_found"}}, want: "", asked: "-", says: "not_found"},
		"revoked on the way":  {conns: []connection{{text: stored(1, "run.created"), cut: true}, {status: 401, text: "unauthorized"}}, want: "1", asked: "- 1", says: "unauthorized", most: 2 * time.Second},
		"another run's":       {conns: []connection{{text: strings.ReplaceAll(whole, runID, "run_other")}}, want: "", asked: "-", says: `an event is of run "run_other"`},
		"another's gap":       {conns: []connection{{text: strings.ReplaceAll(gap(1, 2), runID, "run_other")}}, want: "", asked: "-", says: `a gap is in run "run_other"`},
		"an id that lies":     {conns: []connection{{text: strings.Replace(whole, "id: 1\n", "id: 2\n", 1)}}, want: "", asked: "-", says: `the frame with id "2" holds the event with sequence 1`},
		"no id":               {conns: []connection{{text: strings.Replace(whole, "id: 1\n", "", 1)}}, want: "", asked: "-", says: "holds the event with sequence 1"},
		"an id on a delta":    {conns: []connection{{text: "id: 1\n" + piece}}, want: "", asked: "-", says: "with sequence 0"},
		"no event":            {conns: []connection{{text: "event: agentos.event\ndata: {\"run\":{}}\n\n"}}, want: "", asked: "-", says: "a frame is no event"},
		"no JSON":             {conns: []connection{{text: "id: 1\nevent: agentos.event\ndata: <html>\n\n"}}, want: "", asked: "-", says: "a frame is no event: <html>"},
		"a gap backwards":     {conns: []connection{{text: gap(4, 1)}}, want: "", asked: "-", says: "a frame is no gap"},
		"a novel":             {conns: []connection{{text: "data: " + strings.Repeat("x", 3<<20) + "\n\n"}}, want: "", asked: "-", says: "longer than"},
		"a page":              {conns: []connection{{kind: "text/html; charset=utf-8", text: "<html>"}}, want: "", err: client.ErrCut, says: "no event stream", most: 40 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				var asked, got []string
				cl := mustClient(t, client.Options{}, streams(&asked, c.conns...))
				var last error
				for f, err := range cl.Follow(t.Context(), runID, c.after) {
					if last = err; err != nil {
						continue // and no more follow, or the next one would clear it
					}
					got = append(got, heard(f))
				}
				if heard := strings.Join(got, " "); heard != c.want {
					t.Errorf("heard %q, want %q", heard, c.want)
				}
				if c.says == "" && last != nil || c.says != "" && (last == nil || !strings.Contains(last.Error(), c.says)) || c.err != nil && !errors.Is(last, c.err) {
					t.Errorf("error %v, want %q", last, c.says)
				}
				for i := range asked {
					if asked[i] == "" {
						asked[i] = "-"
					}
				}
				if c.asked != "" && strings.Join(asked, " ") != c.asked {
					t.Errorf("asked after %q, want %q", asked, c.asked)
				}
				if took := time.Since(began); took > c.most {
					t.Errorf("it took %v, more than %v", took, c.most)
				}
			})
		})
	}
}

// TestClient_Follow_verbatim: what is handed out are the bytes that came, and they stay the reader's.
func TestClient_Follow_verbatim(t *testing.T) {
	var asked []string
	c := mustClient(t, client.Options{}, streams(&asked, connection{text: stored(1, "run.created") + stored(2, "run.completed")}))
	var data []string
	var kept []client.Frame
	for f, err := range c.Follow(t.Context(), runID, 0) {
		if err != nil {
			t.Fatal(err)
		}
		kept = append(kept, f)
	}
	for _, f := range kept {
		data = append(data, string(f.Data))
	}
	if diff := cmp.Diff([]string{envelope(1, "run.created"), envelope(2, "run.completed")}, data); diff != "" {
		t.Error(diff)
	}
	if e := kept[0].Event; e.ID != "evt_1" || e.AgentID != "agt_x" || e.Final() || string(e.Payload) != `{"n": 1.0,"s":"\u003c"}` || !kept[1].Event.Final() {
		t.Errorf("%+v", e)
	}
}

// TestClient_Follow_leaves: a reader that goes takes its connection with it; goleak sees what stays.
func TestClient_Follow_leaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked []string
		c := mustClient(t, client.Options{Patience: -1}, streams(&asked, connection{text: stored(1, "run.created"), stays: true}))
		for range c.Follow(t.Context(), runID, 0) {
			break
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		enough := errors.New("enough")
		time.AfterFunc(time.Minute, func() { cancel(enough) })
		var last error
		for _, err := range c.Follow(ctx, runID, 0) {
			last = err
		}
		if !errors.Is(last, enough) {
			t.Errorf("after the context's end: %v", last)
		}
	})
}

func TestClient_ChatStream(t *testing.T) {
	chunk := func(text string) string {
		return `data: {"id":"c","choices":[{"index":0,"delta":{"content":"` + text + `"},"finish_reason":null}],"usage":null}` + "\n\n"
	}
	last := `data: {"id":"c","choices":[],"usage":{"total_tokens":3},"route":{"backend":"builtin","model":"echo-1"},"policy_outcome":{"decision":"allowed"}}` + "\n\n"
	for name, c := range map[string]struct {
		text string
		want string
		code fault.Code
		err  error
	}{
		"whole":         {chunk("a") + chunk("b") + last + "data: [DONE]\n\n", "ab", "", nil},
		"cut":           {chunk("a"), "a", "", client.ErrCut},
		"cut in a line": {chunk("a") + "data: {", "a", "", client.ErrCut},
		"refused":       {chunk("a") + "data: " + refusal("dependency_unavailable") + "\n\n", "a", fault.Unavailable, nil},
	} {
		var sent map[string]any
		cl := mustClient(t, client.Options{}, func(r *http.Request) (*http.Response, error) {
			_ = json.NewDecoder(r.Body).Decode(&sent)
			return reply(200, c.text, "Content-Type", "text/event-stream"), nil
		})
		got, total := "", int64(0)
		var end error
		for p, err := range cl.ChatStream(t.Context(), client.ChatRequest{Model: "tier:fast", Messages: []client.Message{{Role: "user", Content: "hi"}}}) {
			if end = err; err != nil {
				continue
			}
			for _, choice := range p.Choices {
				got += choice.Delta.Content
			}
			if p.Usage != nil {
				total = p.Usage.TotalTokens
			}
		}
		if got != c.want || c.err != nil && !errors.Is(end, c.err) || c.code != "" && !fault.Is(end, c.code) || c.err == nil && c.code == "" && (end != nil || total != 3) {
			t.Errorf("%s: %q, %d tokens, %v", name, got, total, end)
		}
		if sent["stream"] != true || sent["model"] != "tier:fast" {
			t.Errorf("%s: sent %v", name, sent)
		}
	}
}

// FuzzClient_Follow: whatever a stranger streams, a reader sees sequences without a hole or a repetition, and no end but a
// final event or an error.
func FuzzClient_Follow(f *testing.F) {
	f.Add([]byte(hint + stored(1, "run.created") + piece + stored(2, "run.completed")))
	f.Add([]byte(gap(1, 2) + stored(3, "run.failed")))
	f.Add([]byte(stored(1, "run.created") + stored(3, "run.completed")))
	f.Add([]byte("id: 18446744073709551615\nevent: agentos.event\ndata: " + strings.Replace(envelope(1, "run.created"), `"sequence":1`, `"sequence":18446744073709551615`, 1) + "\n\n"))
	f.Add([]byte(gap(0, -1)))
	f.Fuzz(func(t *testing.T, text []byte) {
		first := true
		c := mustClient(t, client.Options{Retries: -1, Patience: time.Nanosecond}, func(*http.Request) (*http.Response, error) {
			if !first {
				return reply(404, refusal("not_found")), nil
			}
			first = false
			return reply(200, string(text), "Content-Type", "text/event-stream"), nil
		})
		last, final := uint64(0), false
		var end error
		for fr, err := range c.Follow(t.Context(), runID, 0) {
			if end = err; err != nil {
				continue
			}
			switch {
			case final:
				t.Error("something came after the final event")
			case (fr.Event == nil) == (fr.Gap == nil) || !json.Valid(fr.Data):
				t.Errorf("a frame is neither or both: %+v", fr)
			case fr.Gap != nil:
				if fr.Gap.From > last+1 || fr.Gap.To <= last {
					t.Errorf("gap %+v after %d", fr.Gap, last)
				}
				last = fr.Gap.To
			case !fr.Delta():
				if fr.Event.Sequence != last+1 {
					t.Errorf("event %d after %d", fr.Event.Sequence, last)
				}
				last, final = fr.Event.Sequence, fr.Event.Final()
			}
		}
		if final != (end == nil) {
			t.Errorf("final %v, error %v", final, end)
		}
	})
}
