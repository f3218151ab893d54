package federation_test

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

// impostor stands at globex's address with globex's own certificate, takes every run, and tells of each what its text asks
// for.
type impostor struct {
	info, capabilities json.RawMessage
	tell               map[string]func(s *sent) []string // frames by the text of the run

	mu   sync.Mutex
	runs map[string]*sent
}

// sent is a run that the impostor was sent.
type sent struct {
	text, tenant, agent, run string // tenant as the executor calls it
	last                     int    // of the journal that came with it
}

func (s *sent) event(sequence int, kind string, payload map[string]any) map[string]any {
	return envelope(sequence, kind, s.tenant, s.agent, s.run, payload)
}

func frame(e map[string]any) string {
	raw, _ := json.Marshal(e)
	return fmt.Sprintf("id: %v\nevent: agentos.event\ndata: %s\n\n", harness.At(e, "event.sequence"), raw)
}

func (i *impostor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	runID, isStream := strings.CutSuffix(strings.TrimPrefix(r.URL.Path, "/v1/federation/runs/"), "/events")
	switch {
	case r.URL.Path == "/v1/peer/info":
		_, _ = w.Write(i.info)
	case r.URL.Path == "/v1/peer/capabilities":
		_, _ = w.Write(i.capabilities)
	case r.URL.Path == "/v1/federation/runs:forward":
		i.take(w, r)
	case isStream && r.Method == "GET":
		i.mu.Lock()
		s := i.runs[runID]
		i.mu.Unlock()
		if s == nil {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		for _, f := range i.tell[s.text](s) {
			if _, err := io.WriteString(w, f); err != nil {
				return
			}
			w.(http.Flusher).Flush()
		}
		<-r.Context().Done()
	default:
		_, _ = io.WriteString(w, `{"status":"ok"}`)
	}
}

func (i *impostor) take(w http.ResponseWriter, r *http.Request) {
	raw, err := io.ReadAll(r.Body)
	body := harness.Decode(raw)
	str := func(path string) string { s, _ := harness.At(body, path).(string); return s }
	// Whom it would act for stands in the token, which the impostor has no reason to check.
	_, claims, _ := strings.Cut(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), ".")
	claims, _, _ = strings.Cut(claims, ".")
	tenant, _ := harness.At(decodePart(claims), "tenant_id").(string)
	journal, _ := harness.At(body, "forward.origin.journal").([]any)
	s := &sent{text: str("forward.run_request.input.text"), tenant: tenant, agent: str("forward.run_request.agent_id"), run: str("forward.origin.run_id"), last: len(journal)}
	if err != nil || i.tell[s.text] == nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	i.mu.Lock()
	i.runs[s.run] = s
	i.mu.Unlock()
	_ = json.NewEncoder(w).Encode(map[string]any{"forwarded": map[string]any{"tenant_id": s.tenant, "run_id": s.run, "remote_run_id": s.run, "status": "running"}})
}

// An executor with globex's own certificate takes runs and tells what can't be: each ends with a clear error, and nothing
// else changes.
//
// Requirements: P6, P7, Q3.
func TestAttacks_HostileExecutor(t *testing.T) {
	t.Parallel()
	c := pairUp(t, 1)
	f := forge(t, c.acme, c.globex)
	began := map[string]any{"status": "running", "stack_id": "stk_globex_1", "attempt": 1}
	done := map[string]any{"status": "completed", "output": map[string]any{"type": "text", "text": "done"}}
	local := c.here.Create(t, "/say mine", nil) // acme's own run, which is none of globex's business
	before := c.here.Journal(t, local)

	i := &impostor{runs: make(map[string]*sent)}
	for path, into := range map[string]*json.RawMessage{"/v1/peer/info": &i.info, "/v1/peer/capabilities": &i.capabilities} {
		a, err := f.call("GET", path, "", nil, "corr_look")
		if err != nil || a.Status != 200 {
			t.Fatalf("%s: %v %d %s", path, err, a.Status, a.Body)
		}
		*into = bytes.Clone(a.Body)
	}
	kept := map[string]int{} // how many of the executor's events may be kept
	i.tell = map[string]func(*sent) []string{}
	add := func(name string, keeps int, tell func(s *sent) []string) { i.tell[name], kept[name] = tell, keeps }
	one := func(name string, keeps int, events func(s *sent) []map[string]any) {
		add(name, keeps, func(s *sent) (frames []string) {
			for _, e := range events(s) {
				frames = append(frames, frame(e))
			}
			return frames
		})
	}
	one("another tenant", 0, func(s *sent) []map[string]any {
		return []map[string]any{envelope(s.last+1, "run.started", "tnt_demo", s.agent, s.run, began)}
	})
	one("the origin's tenant", 0, func(s *sent) []map[string]any {
		return []map[string]any{envelope(s.last+1, "run.started", c.here.ID, s.agent, s.run, began)}
	})
	one("another run", 0, func(s *sent) []map[string]any {
		return []map[string]any{envelope(s.last+1, "run.started", s.tenant, s.agent, local, began)}
	})
	one("a repeated sequence", 1, func(s *sent) []map[string]any {
		return []map[string]any{s.event(s.last+1, "run.started", began), s.event(s.last+1, "run.started", began)}
	})
	one("a skipped sequence", 0, func(s *sent) []map[string]any { return []map[string]any{s.event(s.last+2, "run.started", began)} })
	one("an event from the beginning", 0, func(s *sent) []map[string]any {
		return []map[string]any{s.event(1, "run.created", map[string]any{"status": "queued"})}
	})
	one("a forged type", 0, func(s *sent) []map[string]any {
		return []map[string]any{s.event(s.last+1, "run.created", map[string]any{"status": "queued"})}
	})
	one("a made-up type", 0, func(s *sent) []map[string]any { return []map[string]any{s.event(s.last+1, "run.promoted", began)} })
	one("an end without a beginning", 0, func(s *sent) []map[string]any { return []map[string]any{s.event(s.last+1, "run.completed", done)} })
	add("10 MB", 0, func(s *sent) []string {
		return []string{fmt.Sprintf("id: %d\nevent: agentos.event\ndata: %s\n\n", s.last+1, strings.Repeat("x", 10<<20))}
	})
	add("10 MB without an end", 0, func(*sent) []string { return []string{"data: " + strings.Repeat("x", 10<<20)} })
	add("no JSON", 0, func(s *sent) []string {
		return []string{fmt.Sprintf("id: %d\nevent: agentos.event\ndata: {\"event\":\n\n", s.last+1)}
	})
	// After the end nothing counts, be it in the same breath: the run has ended as it was told.
	one("after the end", 2, func(s *sent) []map[string]any {
		return []map[string]any{s.event(s.last+1, "run.started", began), s.event(s.last+2, "run.completed", done), s.event(s.last+3, "run.failed", map[string]any{"status": "failed"})}
	})

	cert := c.globex.Nodes[0].Certificate(t)
	c.globex.Nodes[0].Kill(t)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{*cert}, MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert, NextProtos: []string{"http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: i, ReadHeaderTimeout: bound}
	served := make(chan struct{})
	go func() { _ = server.Serve(ln); close(served) }()
	t.Cleanup(func() { _ = server.Close(); <-served })
	c.proxy.To(ln.Addr().(*net.TCPAddr).String())

	runs := make(map[string]string)
	for name := range i.tell {
		runs[name] = c.create(t, 0, name)
	}
	for name, id := range runs {
		events, err := c.at(0).TryJournal(id, bound)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		a := await(t, c.at(0), id, final)
		told := len(events) - 2 // without the end of acme's own
		for len(events) > 1 && events[1].Type == "agentos.run.forwarded" {
			events, told = append(events[:1:1], events[2:]...), told-1
		}
		if name == "after the end" {
			told++
			if s := a.Str("run.status"); s != "completed" && s != "failed" {
				t.Errorf("%s: %s", name, a.Body)
			}
		} else if a.Str("run.error.code") != "dependency_unavailable" || a.Str("run.error.details.peer") != "globex" || a.Str("run.error.details.reason") == "" {
			t.Errorf("%s: it ended as %s", name, a.Body)
		}
		if told != kept[name] {
			t.Errorf("%s: %d of the executor's events are kept, want %d: %v", name, told, kept[name], harness.Types(events))
		}
		for n, e := range events {
			if e.TenantID != c.here.ID || e.RunID != id || e.Final() != (n == len(events)-1) {
				t.Errorf("%s: event %d: %s", name, n+1, e.Raw)
			}
		}
		t.Logf("%s: %s", name, a.Str("run.error.message"))
	}
	if diff := same(before, c.here.Journal(t, local)); diff != "" {
		t.Errorf("acme's own run has changed: %s", diff)
	}
	if found := runsOf(t, c.here.Client); len(found) != len(runs)+1 {
		t.Errorf("acme has %d runs, want %d", len(found), len(runs)+1)
	}
	if rss, err := harness.PeakRSS(c.acme.Nodes[0].Pid()); err != nil || rss > 512<<20 {
		t.Errorf("acme's node took %d MiB: %v", rss>>20, err)
	}
}

// Events that are pushed are checked as those that are followed: what isn't globex's to tell is refused one by one.
//
// Requirements: P6, P7, Q3.
func TestAttacks_Ingest(t *testing.T) {
	t.Parallel()
	c := pairUp(t, 1)
	c.acme.Admin(t, 0).Want(t, 200, "PUT", "/v1/federation/peerings/"+c.peering+"/exports", map[string]any{"exports": []any{
		map[string]any{"tenant_id": c.there.ID, "local_tenant_id": c.here.ID, "scopes": []string{"events:ingest", "runs:create"}},
	}})
	f := forge(t, c.globex, c.acme)
	f.tenant, f.origin, f.agent = c.here.ID, c.there.ID, c.here.Agent
	local := c.here.Create(t, "/wait 60s", nil)
	away := c.create(t, 0, "/wait 60s")
	_, frames := watch(t, c.at(0), away, "model.requested")
	events, err := harness.Stored(frames)
	if err != nil {
		t.Fatal(err)
	}
	n := len(events)
	done := map[string]any{"status": "completed", "output": map[string]any{"type": "text", "text": "forged"}}
	for name, x := range map[string]struct {
		event  map[string]any
		reason string
	}{
		"a run of acme's own":     {envelope(5, "run.completed", c.here.ID, c.here.Agent, local, done), "not_owner"},
		"a run that is not there": {envelope(1, "run.started", c.here.ID, c.here.Agent, newRun(), done), "not_owner"},
		"another tenant":          {envelope(n+1, "run.completed", "tnt_demo", c.there.Agent, away, done), "wrong_tenant"},
		"a gap":                   {envelope(n+5, "run.completed", c.here.ID, c.there.Agent, away, done), "gap"},
		"a changed event":         {envelope(n, "model.requested", c.here.ID, c.there.Agent, away, done), "body_changed"},
		"a forged type":           {envelope(n+1, "run.created", c.here.ID, c.there.Agent, away, done), "type_not_allowed"},
	} {
		a, err := f.call("POST", "/v1/federation/events:ingest", f.token(), map[string]any{
			"events": []any{x.event}, "ingest": map[string]any{"source_stack_id": f.stack, "dedupe": map[string]any{"mode": "event_id"}},
		}, "corr_ingest")
		if err != nil || a.Status != 200 || a.Int("accepted") != 0 || a.Int("rejected") != 1 || a.Str("rejections.0.reason") != x.reason {
			t.Errorf("%s: %v %d %s, want %s", name, err, a.Status, a.Body, x.reason)
		}
	}
	for name, x := range map[string]struct {
		source string
		token  string
	}{"another source": {"stk_else", f.token()}, "a token that may not": {f.stack, f.token(set("scope", "runs:read"))}} {
		a, err := f.call("POST", "/v1/federation/events:ingest", x.token, map[string]any{
			"events": []any{envelope(n+1, "run.completed", c.here.ID, c.there.Agent, away, done)}, "ingest": map[string]any{"source_stack_id": x.source},
		}, "corr_ingest")
		if err == nil {
			err = a.CheckError(403, "forbidden")
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, id := range []string{local, away} {
		if a := c.here.Want(t, 200, "GET", "/v1/runs/"+id, nil); final(a) {
			t.Errorf("it has ended by forged events: %s", a.Body)
		}
	}
	c.here.Want(t, 200, "POST", "/v1/runs/"+away+":cancel", nil)
	await(t, c.here.Client, away, status("canceled"))

	// A route that leads back: globex's tenant sends the same agent's runs to acme, from where they come. They go round once at
	// most, and end with the reason.
	c.there.Want(t, 201, "PUT", "/v1/federation/routes/rte_back", map[string]any{"route": map[string]any{
		"match": map[string]any{"agent_id": c.there.Agent}, "targets": []any{map[string]any{"organization": "acme"}},
	}})
	there := len(runsOf(t, c.there.Client))
	began := time.Now()
	id := c.create(t, 0, "/say round")
	a := await(t, c.here.Client, id, final)
	t.Logf("round and round: ended after %v as %s %v", time.Since(began).Round(time.Millisecond), a.Str("run.status"), a.At("run.error"))
	if said := fmt.Sprint(a.At("run.error")); strings.Contains(said, "clu_") || strings.Contains(said, c.there.ID) {
		t.Errorf("the refusal tells of globex's routes: %s", said)
	}
	if a.Str("run.status") != "failed" || len(runsOf(t, c.there.Client)) != there {
		t.Errorf("a run that would go round: %s", a.Body)
	}
}
