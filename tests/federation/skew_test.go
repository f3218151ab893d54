package federation_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/nexixai/agentos/tests/harness"
)

func newID(kind string) string { return kind + "_" + ulid.Make().String() }

// host is acme: one node of the built binary, and a tenant whose runs go to stubs.
type host struct {
	t    *testing.T
	node *harness.Node
	root *harness.Client
	*harness.Tenant
	keys map[string]string // files with keys, by whose
}

func newHost(t *testing.T) *host {
	t.Helper()
	c := harness.NewOrganization(t, suite.Binary(t), &starter, "acme")
	h := &host{t: t, node: c.AddNode(t, "stk_acme"), keys: map[string]string{}}
	h.root = c.Admin(t, 0)
	t.Cleanup(h.root.Close)
	h.Tenant = harness.NewTenant(t, h.root, nil)
	for name, key := range map[string]string{"root": h.root.Key, "tenant": h.Key} {
		h.keys[name] = filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(h.keys[name], []byte(key), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// agentos runs a command with somebody's key.
func (h *host) agentos(who string, args ...string) harness.Outcome {
	h.t.Helper()
	return harness.Command(h.t, time.Minute, "", nil, append([]string{suite.Binary(h.t)}, append(args, "--api-url", h.node.URL(), "--key-file", h.keys[who])...)...)
}

// pair has a stub accept an invitation of acme's, and leads the runs of an agent of its own there.
func (h *host) pair(s *stub) {
	h.t.Helper()
	a := h.root.Want(h.t, 201, "POST", "/v1/federation/peerings", map[string]any{"peering": map[string]any{}})
	s.accept(a.Str("token"))
	h.Want(h.t, 201, "PUT", "/v1/federation/routes/rte_"+s.name, map[string]any{"route": map[string]any{
		"match": map[string]any{"agent_id": agentOf(s)}, "targets": []any{map[string]any{"organization": s.name, "weight": 1}},
	}})
}

func agentOf(s *stub) string { return "agt_" + s.name }

// shows waits until `peers show` prints all of want, and returns what it printed.
func (h *host) shows(s *stub, want ...string) string {
	h.t.Helper()
	var text string
	if !harness.Poll(30*time.Second, 100*time.Millisecond, func() bool {
		text = squeezed(h.agentos("root", "peers", "show", s.node).Stdout)
		return !slices.ContainsFunc(want, func(w string) bool { return !strings.Contains(text, w) })
	}) {
		h.t.Errorf("peers show %s prints no %q:\n%s", s.node, want, text)
	}
	return text
}

// squeezed is a table with one space between its cells.
func squeezed(text string) string {
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		lines[i] = strings.Join(strings.Fields(l), " ")
	}
	return strings.Join(lines, "\n")
}

// explains wants `routes explain` to print all of want.
func (h *host) explains(s *stub, want ...string) {
	h.t.Helper()
	text := squeezed(h.agentos("tenant", "routes", "explain", "--agent", agentOf(s)).Stdout)
	for _, w := range want {
		if !strings.Contains(text, w) {
			h.t.Errorf("routes explain prints no %q of %s:\n%s", w, s.name, text)
		}
	}
}

// goesThrough wants a run to go to the stub and to come back whole.
func (h *host) goesThrough(s *stub) []harness.Event {
	h.t.Helper()
	out := h.agentos("tenant", "runs", "create", "--agent", agentOf(s), "--text", "hello", "--watch")
	if out.Code != 0 || !strings.HasSuffix(out.Stdout, "\n"+s.name+": hello\n") {
		h.t.Fatalf("runs create at %s: exit code %d\n%s\n%s", s.name, out.Code, out.Stdout, out.Stderr)
	}
	list := h.Want(h.t, 200, "GET", "/v1/runs?agent_id="+agentOf(s), nil)
	runID := list.Str("runs.0.run_id")
	events := h.Journal(h.t, runID)
	if got, want := fmt.Sprint(harness.Types(events)), "[run.created run.forwarded run.started run.step.started model.requested model.completed run.step.completed run.completed]"; got != want {
		h.t.Errorf("the run at %s: %s", s.name, got)
	}
	if r := h.Want(h.t, 200, "GET", "/v1/runs/"+runID, nil); r.Str("run.output.text") != s.name+": hello" || r.Int("run.usage.total_tokens") != 7 || r.Str("run.placement.organization") != s.name {
		h.t.Errorf("the run at %s: %s", s.name, r.Body)
	}
	return events
}

// refused wants a run to be refused at once, with what is missing.
func (h *host) refused(s *stub, missing, detail string) {
	h.t.Helper()
	a := h.Do(h.t, "POST", "/v1/agents/"+agentOf(s)+"/runs", harness.Body("hello", nil))
	if err := a.CheckError(409, "unsupported_capability"); err != nil {
		h.t.Errorf("a run to %s: %v", s.name, err)
	}
	if list, _ := a.At("error.details.missing").([]any); !slices.Contains(list, any(missing)) {
		h.t.Errorf("a run to %s lacks %v, want %s", s.name, list, missing)
	}
	if raw, _ := json.Marshal(a.At("error.details.candidates")); !strings.Contains(string(raw), detail) {
		h.t.Errorf("a run to %s: candidates %s, want %q", s.name, raw, detail)
	}
	out := h.agentos("tenant", "runs", "create", "--agent", agentOf(s), "--text", "hello")
	if out.Code == 0 || !strings.Contains(out.Stderr, missing) {
		h.t.Errorf("runs create at %s: exit code %d, %s", s.name, out.Code, out.Stderr)
	}
	if n := s.forwards(); n != 0 {
		h.t.Errorf("%s was asked %d times to run something", s.name, n)
	}
}

// Peers of other versions: what they have and we know is used, what they lack is done without or is the reason that is given.
//
// Requirements: V1, P2, Q3.
func TestSkew_Versions(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	stubs := map[string]*stub{}
	for _, name := range []string{"newer", "lean", "bare", "dotted", "next", "past", "apart"} {
		stubs[name] = newStub(t, name)
		stubs[name].grant(h.ID, nil)
	}
	newer(stubs["newer"])
	lacks := func(name string, features ...string) {
		for _, f := range features {
			delete(stubs[name].caps["supports"].(map[string]any), f)
		}
	}
	lacks("lean", "events_ingest", "tool_hosting")
	lacks("bare", "origin_run_ids")
	lacks("apart", "tenant_isolation")
	stubs["dotted"].caps["supports"] = map[string]any{
		"runs.forward": true, "events.stream": true, "tenant.isolation": true, "origin.run.ids": true, "events.ingest": false,
	}
	stubs["next"].caps["contract"] = map[string]any{"min": "2.0", "max": "2.1"}
	stubs["past"].caps["contract"] = map[string]any{"min": "1.0", "max": "1.1"}
	for _, s := range stubs {
		h.pair(s)
	}

	s := stubs["newer"]
	h.shows(s, "\nreachable yes", "\nusable yes", "\nagreed contract 1.2\n", "\nspeaks contract 1.2 to 1.3\n", "\nsupports time_travel yes\n", "\nlimit max_dreams 3\n")
	h.explains(s, "goes to stk_newer\n", "stk_newer newer yes live It answers")
	for i, e := range h.goesThrough(s) {
		if mood := e.Str("mood"); i >= 2 && mood != "good" {
			t.Errorf("event %d came without a member of its payload that is not known here: %s", i+1, e.Raw)
		}
		if strings.Contains(e.Raw, `"hint"`) {
			t.Errorf("event %d has a member of its envelope that nobody knows: %s", i+1, e.Raw)
		}
	}
	for _, name := range []string{"lean", "dotted"} {
		h.shows(stubs[name], "\nusable yes", "\nagreed contract 1.2\n", "\nagreed features events_stream, origin_run_ids, runs_forward, tenant_isolation\n", "\nevents_ingest they do not support it\n")
		h.explains(stubs[name], "goes to stk_"+name+"\n")
		h.goesThrough(stubs[name])
	}
	for _, c := range []struct{ name, usable, lacks, missing, why, check, detail string }{
		{"bare", "yes", "origin_run_ids", "origin_run_ids", "they do not support it", "capabilities", "It lacks origin_run_ids (they do not support it)."},
		{"next", "no", "contract", "agreement:stk_next", "they need at least 2.0, we speak up to 1.2: upgrade this side", "agreement", "No agreement: contract (they need at least 2.0, we speak up to 1.2: upgrade this side)."},
		{"past", "no", "contract", "agreement:stk_past", "they speak up to 1.1, we need at least 1.2: they have to upgrade", "agreement", "No agreement: contract (they speak up to 1.1, we need at least 1.2: they have to upgrade)."},
		{"apart", "no", "tenant_isolation", "agreement:stk_apart", "they do not support it", "agreement", "No agreement: tenant_isolation (they do not support it)."},
	} {
		s := stubs[c.name]
		h.shows(s, "\nreachable yes", "\nusable "+c.usable, "\n"+c.lacks+" "+c.why+"\n")
		h.explains(s, "goes to nowhere\n", "stk_"+c.name+" "+c.name+" no "+c.check+" "+c.detail)
		h.refused(s, c.missing, c.detail)
	}

	// A peer that learns something is used from then on.
	s = stubs["bare"]
	s.set(func() { s.caps["supports"].(map[string]any)["origin_run_ids"] = true })
	h.shows(s, "\nagreed features events_ingest, events_stream, origin_run_ids, runs_forward, tenant_isolation\n")
	h.goesThrough(s)
	cancels(h, s)
}

// newer has a stub say and do what a later minor version may, of which this one knows nothing.
func newer(s *stub) {
	s.caps["contract"] = map[string]any{"min": "1.2", "max": "1.3", "draft": "1.4"}
	for name, v := range map[string]any{"time_travel": true, "dreams.v2": false} {
		s.caps["supports"].(map[string]any)[name] = v
	}
	s.caps["limits"].(map[string]any)["max_dreams"] = 3
	s.caps["weather"] = map[string]any{"today": []any{"sun", nil, 1.5}}
	s.caps["models"].(map[string]any)["voices"] = []any{"alto"}
	s.caps["agents"] = []any{map[string]any{"agent_id": agentOf(s), "version": "1", "skills": []any{"singing"}}}
	grant := s.caps["grants"].([]any)[0].(map[string]any)
	grant["scopes"] = append(grant["scopes"].([]any), "runs:dream")
	grant["mood"], grant["quotas"] = "good", map[string]any{"max_concurrent_runs": 5, "max_dreams": 3}
	s.caps["grants"] = []any{map[string]any{"tenant_id": "tnt_other", "local_tenant_id": "tnt_cosmic", "scopes": []any{"runs:create"}, "max_data_classification": "cosmic"}, grant}
	s.info["weather"], s.info["api_versions"] = "sun", []any{"v2", "v1"}
	s.extra = map[string]any{"Mood": []any{"good"}}
	s.edit = func(e map[string]any) {
		e["hint"] = map[string]any{"of": []any{1}}
		e["payload"].(map[string]any)["mood"] = "good"
	}
}

// cancels cancels a run that waits at a stub.
func cancels(h *host, s *stub) {
	h.t.Helper()
	runID := h.Want(h.t, 201, "POST", "/v1/agents/"+agentOf(s)+"/runs", harness.Body("hold", nil)).Str("run.run_id")
	if !harness.Poll(20*time.Second, 50*time.Millisecond, func() bool {
		return h.Want(h.t, 200, "GET", "/v1/runs/"+runID, nil).Str("run.status") == "running"
	}) {
		h.t.Fatalf("the run %s does not begin at %s", runID, s.name)
	}
	h.Want(h.t, 200, "POST", "/v1/runs/"+runID+":cancel", nil)
	types := harness.Types(h.Journal(h.t, runID))
	if got := fmt.Sprint(types[2:]); got != "[run.started run.cancel_requested run.canceled]" {
		h.t.Errorf("a run that was canceled at %s: %v", s.name, types)
	}
}

// What a peer says may be a lie, or no answer at all: then it isn't used for as long as that lasts, `peers show` says why,
// and nothing else changes.
//
// Requirements: P2, P6.
func TestSkew_Lies(t *testing.T) {
	t.Parallel()
	const info, caps = "/v1/peer/info", "/v1/peer/capabilities"
	says := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) }
	}
	of := func(change func(info map[string]any)) func(s *stub) http.HandlerFunc {
		return func(s *stub) http.HandlerFunc {
			own := map[string]any{}
			for k, v := range s.info {
				own[k] = v
			}
			change(own)
			raw, _ := json.Marshal(map[string]any{"peer": own})
			return says(string(raw))
		}
	}
	text := func(text string) func(*stub) http.HandlerFunc {
		return func(*stub) http.HandlerFunc { return says(text) }
	}
	lies := []struct {
		name, path string
		lie        func(*stub) http.HandlerFunc
		reason     string
	}{
		{"huge", caps, text(`{"capabilities":{"supports":{},"weather":"` + strings.Repeat("x", 300<<10) + `"}}`), "longer than"},
		{"endless", caps, func(*stub) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				chunk := []byte(strings.Repeat(" ", 16<<10))
				for r.Context().Err() == nil {
					if _, err := w.Write(chunk); err != nil {
						return
					}
				}
			}
		}, "longer than"},
		{"types", caps, text(`{"capabilities":{"supports":["runs_forward"]}}`), "can't be read"},
		{"numbers", caps, text(`{"capabilities":{"supports":{"runs_forward":1}}}`), "can't be read"},
		{"twice", caps, text(`{"capabilities":{"supports":{"runs_forward":false},"supports":{"runs_forward":true}}}`), "can't be read"},
		{"deep", caps, text(`{"capabilities":{"weather":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `}}`), "can't be read"},
		{"page", caps, text("<html>It works!</html>"), "can't be read"},
		{"contracts", caps, text(`{"capabilities":{"supports":{},"contract":{"min":"one","max":"99999999999999999999.0"}}}`), "can't be read"},
		{"elsewhere", caps, func(*stub) http.HandlerFunc {
			return func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, "https://127.0.0.1:1/", http.StatusFound)
			}
		}, "answers 302"},
		{"fresh", info, func(*stub) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }
		}, "answers 418"},
		{"renamed", info, of(func(i map[string]any) { i["stack_id"] = "stk_acme" }), "says that it is"},
		{"moved", info, of(func(i map[string]any) { i["cluster_id"], i["organization"] = "clu_acme", "acme" }), "answers a node of the cluster"},
	}
	h := newHost(t)
	var stubs []*stub
	for _, l := range lies {
		s := newStub(t, l.name)
		s.grant(h.ID, nil)
		h.pair(s)
		stubs = append(stubs, s)
	}
	for _, s := range stubs {
		h.shows(s, "\nreachable yes", "\nusable yes")
	}
	before, err := harness.RSS(h.node.Pid())
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range stubs {
		lie := lies[i].lie(s)
		s.set(func() { s.instead[lies[i].path] = lie })
	}
	for i, s := range stubs {
		text := h.shows(s, "\nreachable no: ", lies[i].reason)
		if len(text) > 8000 || strings.Contains(text, "xxxxxxxx") {
			t.Errorf("what %s says is shown in %d bytes", s.name, len(text))
		}
		h.explains(s, "stk_"+s.name+" "+s.name+" yes live It doesn't answer at the moment (")
	}
	s := stubs[0] // one that can be believed in all but where its cluster's doors are
	crowd := []any{}
	for i := range 5000 {
		crowd = append(crowd, fmt.Sprintf("127.0.0.1:%d", 1024+i))
	}
	s.set(func() { clear(s.instead); s.caps["members"] = crowd })
	h.shows(s, "\nreachable yes")
	if away, _ := h.root.Want(t, 200, "GET", "/v1/federation/peers", nil).At("unreachable").([]any); len(away) > len(stubs) {
		t.Errorf("the node calls at %d doors of a peer that has one", len(away))
	}
	if events := h.Journal(t, h.Create(t, "here", nil)); len(events) < 3 {
		t.Errorf("a run here: %v", harness.Types(events))
	}
	if now, err := harness.RSS(h.node.Pid()); err != nil || now > before+64<<20 {
		t.Errorf("the node takes %d MiB, and took %d before: %v", now>>20, before>>20, err)
	}
	for _, s := range stubs {
		s.set(func() { clear(s.instead) })
	}
	for _, s := range stubs {
		h.shows(s, "\nreachable yes", "\nusable yes")
		h.goesThrough(s)
	}
	if out := h.node.Output(); strings.Contains(out, "panic") {
		t.Errorf("the node panicked:\n%s", out)
	}
}
