package faults_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/oklog/ulid/v2"

	"github.com/nexixai/agentos/tests/harness"
)

// lie is one way in which a node could go wrong.
type lie string

const (
	honest       lie = "honest"
	forgetsRun   lie = "forgets a run"
	makesTwo     lie = "makes a second run under one key"
	rewrites     lie = "rewrites a journal"
	leavesGap    lie = "leaves a gap in a journal"
	endsTwice    lie = "ends a run twice"
	repeats      lie = "completes an effect twice"
	contradicts  lie = "has a record that contradicts the journal"
	losesMemory  lie = "loses what was put"
	losesSlot    lie = "loses a slot"
	winsSlot     lie = "wins a slot"
	keepsHolding lie = "keeps something reserved"
	overbooks    lie = "books more than was spent"
)

// liar is a node in memory, as far as the checks look at one. It's honest until the fault; then it begins to lie.
type liar struct {
	lie lie

	mu     sync.Mutex
	fault  bool
	keys   map[string]string // idempotency key → run
	runs   map[string]string // run → what it was asked
	ended  map[string]bool
	memory map[string]string
	slots  int
}

func newLiar(t *testing.T, l lie) (*liar, *harness.Tenant) {
	t.Helper()
	n := &liar{lie: l, keys: map[string]string{}, runs: map[string]string{}, ended: map[string]bool{}, memory: map[string]string{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/agents/{agent}/runs", n.create)
	mux.HandleFunc("POST /v1/runs/{run}", n.cancel)
	mux.HandleFunc("GET /v1/runs/{run}", n.run)
	mux.HandleFunc("GET /v1/runs/{run}/events", n.events)
	mux.HandleFunc("PUT /v1/memory/load/{key}", n.put)
	mux.HandleFunc("GET /v1/memory/load/{key}", n.get)
	mux.HandleFunc("GET /v1/usage", n.usage)
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	c := harness.NewClient(s.URL, "")
	t.Cleanup(c.Close)
	return n, &harness.Tenant{Client: c, ID: "tnt_a", Agent: "agt_a"}
}

// lies reports whether it's time for this lie.
func (n *liar) lies(l lie) bool { return n.fault && n.lie == l }

func reply(w http.ResponseWriter, status int, v any) {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func (n *liar) create(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var body struct{ Input struct{ Text string } }
	_ = json.NewDecoder(r.Body).Decode(&body)
	key := r.Header.Get("Idempotency-Key")
	id, known := n.keys[key]
	switch {
	case key == "", n.lies(makesTwo), n.lies(forgetsRun) && known:
		known = false
	}
	if known {
		reply(w, 200, map[string]any{"run": map[string]any{"run_id": id}})
		return
	}
	limit := slotLimit
	switch {
	case n.lies(losesSlot):
		limit--
	case n.lies(winsSlot):
		limit++
	}
	waits := strings.HasPrefix(body.Input.Text, "/wait 10m")
	if waits && n.slots >= limit {
		reply(w, 429, map[string]any{})
		return
	}
	if waits {
		n.slots++
	}
	id = "run_" + ulid.Make().String()
	n.keys[key], n.runs[id] = id, body.Input.Text
	n.ended[id] = !waits
	reply(w, 201, map[string]any{"run": map[string]any{"run_id": id}})
}

func (n *liar) cancel(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.slots--
	reply(w, 200, map[string]any{})
}

func (n *liar) run(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	defer n.mu.Unlock()
	status := "completed"
	if n.lies(contradicts) {
		status = "running"
	}
	reply(w, 200, map[string]any{"run": map[string]any{"status": status}})
}

// events writes a journal with one tool call and two tokens spent.
func (n *liar) events(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	defer n.mu.Unlock()
	id := r.PathValue("run")
	effect := "tcall_" + strings.TrimPrefix(id, "run_")
	if n.lies(repeats) {
		effect = "tcall_01J00000000000000000000003"
	}
	output := "x"
	if n.lies(rewrites) {
		output = "y"
	}
	step, final := `"stp_01J00000000000000000000001"`, fmt.Sprintf(`run.completed null {"status":"completed","output":{"type":"text","text":%q}}`, output)
	if !n.ended[id] {
		final = `run.canceled null {"status":"canceled","by":"usr_a"}`
	}
	call := fmt.Sprintf(`"tool_call_id":%q,"tool_id":"tool.echo"`, effect)
	lines := []string{
		`run.created null {"status":"queued"}`,
		`run.started null {"status":"running","stack_id":"stk_1","attempt":1}`,
		`run.step.started ` + step + ` {"step_kind":"tool","name":"tool.echo"}`,
		`model.requested ` + step + ` {"model_ref":"m","operation":"chat","requirements":{},"input_summary":{"messages":1,"has_tools":true}}`,
		`model.completed ` + step + ` {"model_ref":"m","operation":"chat","status":"ok","usage":{"input_tokens":1,"output_tokens":1,"total_tokens":2},"latency_ms":1,"policy_outcome":{"decision":"allowed","reasons":[],"redactions":[]},"route":{"backend":"b","model":"m","node":"n","fallback_used":false}}`,
		`tool.call.requested ` + step + ` {` + call + `,"input":{},"timeout_ms":1000}`,
		`tool.call.completed ` + step + ` {` + call + `,"status":"ok","output":{},"duration_ms":1,"error":null}`,
		`run.step.completed ` + step + ` {"status":"ok","duration_ms":1}`,
		final,
	}
	switch {
	case n.lies(leavesGap):
		lines = append(lines[:7], lines[8:]...)
	case n.lies(endsTwice):
		lines = append(lines, final)
	}
	for i, line := range lines {
		sequence := i + 1
		if n.lies(leavesGap) && i >= 7 {
			sequence++
		}
		part := strings.SplitN(line, " ", 3)
		fmt.Fprintf(w, "id: %d\nevent: agentos.event\ndata: {\"event\":{\"event_id\":\"evt_01J0000000000000000000%04d\",\"sequence\":%d,\"time\":\"2026-01-01T00:00:00.%03dZ\",\"type\":\"agentos.%s\",\"tenant_id\":\"tnt_a\",\"agent_id\":\"agt_a\",\"run_id\":%q,\"step_id\":%s,\"trace\":{\"traceparent\":\"00-%s-%s-01\",\"span_id\":\"%s\"},\"payload\":%s}}\n\n",
			sequence, sequence, sequence, sequence, part[0], id, part[1], strings.Repeat("ab", 16), strings.Repeat("cd", 8), strings.Repeat("cd", 8), part[2])
		w.(http.Flusher).Flush()
	}
}

func (n *liar) put(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var body struct{ Value string }
	_ = json.NewDecoder(r.Body).Decode(&body)
	n.memory[r.PathValue("key")] = body.Value
	reply(w, 200, map[string]any{})
}

func (n *liar) get(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	defer n.mu.Unlock()
	value, ok := n.memory[r.PathValue("key")]
	if !ok || n.lies(losesMemory) {
		reply(w, 404, map[string]any{})
		return
	}
	reply(w, 200, map[string]any{"value": value})
}

func (n *liar) usage(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	defer n.mu.Unlock()
	spent, reserved := 2*len(n.keys), 0
	if n.lies(keepsHolding) {
		reserved = 1
	}
	if n.lies(overbooks) {
		spent++
	}
	reply(w, 200, map[string]any{"usage": map[string]any{"budgets": []any{map[string]any{"spent": spent, "reserved": reserved}}}})
}

// The checks themselves are proven by nodes that go wrong after a fault: each of these must be found out, and an honest one
// must not be blamed.
func TestChecks_FindLies(t *testing.T) {
	for _, l := range []lie{
		honest, forgetsRun, makesTwo, rewrites, leavesGap, endsTwice, repeats, contradicts, losesMemory, losesSlot, winsSlot, keepsHolding, overbooks,
	} {
		t.Run(string(l), func(t *testing.T) {
			t.Parallel()
			n, tn := newLiar(t, l)
			load := &load{tenant: tn, texts: mixed, prefix: "lie"}
			for i := range 5 {
				load.create(t.Context(), t, 0, i)
				load.put(t.Context(), 0, i)
			}
			known := map[string]ended{}
			load.finish(t, known)
			if t.Failed() {
				t.Fatal("an honest node was blamed before the fault")
			}
			n.mu.Lock()
			n.fault = true
			n.mu.Unlock()
			tokens := int64(2 * len(known))
			err := errors.Join(load.trySettle(nil), load.tryFinish(known))
			err = errors.Join(err, once(known), budget(tn, tokens), slots(tn, slotLimit))
			switch {
			case l == honest && err != nil:
				t.Errorf("an honest node was blamed: %v", err)
			case l != honest && !errors.Is(err, errWrong):
				t.Errorf("a node that %s was not found out: %v", l, err)
			}
		})
	}
}

// What arrived at a tool is held against the journals: a call too many and a call that never came are both found.
func TestChecks_FindCalls(t *testing.T) {
	done := map[string][]string{"once": {"tcall_1"}, "again": {"tcall_2"}}
	for name, c := range map[string]struct {
		calls map[string]int
		wrong bool
	}{
		"as it should be":      {map[string]int{"/once tcall_1": 1, "/again tcall_2": 1, "/1/1/1 ": 1}, false},
		"repeated rightly":     {map[string]int{"/once tcall_1": 1, "/again tcall_2": 3}, false},
		"repeated wrongly":     {map[string]int{"/once tcall_1": 2, "/again tcall_2": 1}, true},
		"fetched twice":        {map[string]int{"/once tcall_1": 1, "/again tcall_2": 1, "/1/1/1 ": 2}, true},
		"done and never there": {map[string]int{"/once tcall_9": 1, "/again tcall_2": 1}, true},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := (&counter{calls: c.calls}).check(done); errors.Is(err, errWrong) != c.wrong {
				t.Errorf("check: %v", err)
			}
		})
	}
}
