package onenode_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

// The whole life of the smallest run: what the record says is what the journal says.
//
// Requirements: A1, A2.
func TestRun_Echo(t *testing.T) {
	t.Parallel()
	tn := suite.Tenant(t, nil)
	created := tn.Want(t, 201, "POST", "/v1/agents/"+tn.Agent+"/runs", harness.Body("hello", map[string]any{
		"context": map[string]any{"labels": map[string]any{"team": "blue"}},
	}))
	id := created.Str("run.run_id")
	if got := created.Str("run.status"); got != "queued" && got != "running" {
		t.Errorf("status %q at create", got)
	}
	events := tn.Journal(t, id)
	want := []string{"run.created", "run.started", "run.step.started", "model.requested", "model.completed", "run.step.completed", "run.completed"}
	if got := harness.Types(events); !slices.Equal(got, want) {
		t.Errorf("journal %v, want %v", got, want)
	}
	a := tn.Want(t, 200, "GET", "/v1/runs/"+id, nil)
	last := events[len(events)-1]
	for path, want := range map[string]string{
		"run.status": "completed", "run.output.type": "text", "run.output.text": "echo: hello", "run.input.text": "hello",
		"run.labels.team": "blue", "run.agent_id": tn.Agent, "run.tenant_id": tn.ID, "run.events_url": "/v1/runs/" + id + "/events",
		"run.run_options.priority": "normal", "tenant_id": tn.ID,
	} {
		if got := a.Str(path); got != want {
			t.Errorf("%s = %q, want %q", path, got, want)
		}
	}
	for path, want := range map[string]string{"run.completed_at": last.Time, "run.created_at": events[0].Time} {
		if got, err := time.Parse(time.RFC3339Nano, a.Str(path)); err != nil || got.Format(time.RFC3339Nano) != reformat(want) {
			t.Errorf("%s = %q, the journal says %q (%v)", path, a.Str(path), want, err)
		}
	}
	for path, want := range map[string]int64{
		"run.summary.steps_total": 1, "run.summary.tool_calls_total": 0, "run.summary.model_calls_total": 1,
		"run.run_options.timeout_ms": 180000, "run.run_options.max_steps": 30,
	} {
		if got := a.Int(path); got != want {
			t.Errorf("%s = %d, want %d", path, got, want)
		}
	}
	for _, path := range []string{"run.error", "run.cancel_requested_at"} {
		if v := a.At(path); v != nil || !harness.Has(a.At(""), path) {
			t.Errorf("%s must be there as null, is %v", path, v)
		}
	}
	if got, want := a.At("run.output.text"), harness.At(last.Payload, "output.text"); got != want {
		t.Errorf("output %v in the record, %v in the journal", got, want)
	}
	checkUsage(t, a, events)
}

func reformat(s string) string {
	t, _ := time.Parse(time.RFC3339Nano, s)
	return t.Format(time.RFC3339Nano)
}

// checkUsage compares the record's usage with the sum over the journal's model calls.
func checkUsage(t *testing.T, run harness.Answer, events []harness.Event) {
	t.Helper()
	sum := map[string]int64{}
	for _, e := range events {
		if e.Type == "agentos.model.completed" {
			for _, name := range []string{"input_tokens", "output_tokens", "total_tokens"} {
				n, _ := harness.At(e.Payload, "usage."+name).(json.Number)
				v, err := n.Int64()
				if err != nil {
					t.Errorf("usage.%s: %v", name, err)
				}
				sum[name] += v
			}
		}
	}
	for name, want := range sum {
		if got := run.Int("run.usage." + name); got != want {
			t.Errorf("usage.%s = %d, the journal's sum is %d", name, got, want)
		}
	}
	if sum["total_tokens"] <= 0 || sum["total_tokens"] != sum["input_tokens"]+sum["output_tokens"] {
		t.Errorf("usage %v", sum)
	}
	cost, _ := run.At("run.usage.cost_usd").(json.Number)
	got, err := cost.Float64()
	if want := float64(sum["total_tokens"]) * 1e-6; err != nil || got < want*0.999 || got > want*1.001 {
		t.Errorf("cost_usd %v, want %v (%v)", cost, want, err)
	}
	if _, decimals, _ := strings.Cut(cost.String(), "."); len(decimals) > 9 || strings.ContainsAny(cost.String(), "eE") {
		t.Errorf("cost_usd %v has more than nine decimals", cost)
	}
}

// Requirements: A2, A4.
func TestRun_Tools(t *testing.T) {
	t.Parallel()
	tn := suite.Tenant(t, nil)
	a, events := tn.Complete(t, "/call tool.kv.put {\"key\":\"colour\",\"value\":{\"r\":[1,2]}}\n/call tool.kv.get {\"key\":\"colour\"}\n/call tool.echo {\"x\":[1,\"zwei\",null]}", nil)
	if got := a.Str("run.status"); got != "completed" {
		t.Fatalf("status %q: %s", got, a.Body)
	}
	var outputs []string
	for _, e := range events {
		if e.Type == "agentos.tool.call.completed" {
			text, _ := json.Marshal(harness.At(e.Payload, "output"))
			outputs = append(outputs, fmt.Sprintf("%s %s %s", e.Str("tool_id"), e.Str("status"), text))
		}
	}
	want := []string{
		`tool.kv.put ok {"ok":true}`,
		`tool.kv.get ok {"value":{"r":[1,2]}}`,
		`tool.echo ok {"x":[1,"zwei",null]}`,
	}
	if !slices.Equal(outputs, want) {
		t.Errorf("tool outputs\n%q, want\n%q", outputs, want)
	}
	// After the last directive the answer is the last tool output.
	var text any
	if err := json.Unmarshal([]byte(a.Str("run.output.text")), &text); err != nil {
		t.Errorf("output %q: %v", a.Str("run.output.text"), err)
	} else if again, _ := json.Marshal(text); string(again) != `{"x":[1,"zwei",null]}` {
		t.Errorf("output %s", again)
	}
	if tools, models := a.Int("run.summary.tool_calls_total"), a.Int("run.summary.model_calls_total"); tools != 3 || models != 4 {
		t.Errorf("summary: %d tool calls, %d model calls; want 3 and 4", tools, models)
	}
	started := 0
	for _, e := range events {
		if e.Type == "agentos.run.step.started" {
			started++
		}
	}
	if got := a.Int("run.summary.steps_total"); got != int64(started) {
		t.Errorf("steps_total %d, the journal has %d step.started", got, started)
	}
	checkUsage(t, a, events)
	// What a tool has put is memory of the tenant, in the namespace kv.
	if got := tn.Want(t, 200, "GET", "/v1/memory/kv/colour", nil); harness.At(harness.Decode(got.Body), "memory.value.r.1") != json.Number("2") &&
		harness.At(harness.Decode(got.Body), "value.r.1") != json.Number("2") {
		t.Errorf("memory kv/colour: %s", got.Body)
	}
}

// A tool that the request denies is not called, whatever the model asks for.
//
// Requirements: A4.
func TestRun_ToolDenied(t *testing.T) {
	t.Parallel()
	tn := suite.Tenant(t, nil)
	for name, tooling := range map[string]map[string]any{
		"denymap":         {"tool_denymap": []string{"tool.echo"}},
		"empty allowlist": {"tool_allowlist": []string{}},
		"other allowlist": {"tool_allowlist": []string{"tool.kv.get"}},
	} {
		for _, tool := range []string{"tool.echo", "TOOL.ECHO", "echo", "tool.http.fetch"} {
			_, events := tn.Complete(t, "/call "+tool+" {\"canary\":1}\n/say done", map[string]any{"tooling": tooling})
			for _, e := range events {
				if e.Type == "agentos.tool.call.completed" && e.Str("status") != "denied" {
					t.Errorf("%s: %s was called: %s", name, tool, e.Raw)
				}
			}
		}
	}
	_, events := tn.Complete(t, "/call tool.echo {\"canary\":1}", map[string]any{"tooling": map[string]any{"tool_allowlist": []string{"tool.echo"}}})
	if !slices.Contains(harness.Types(events), "tool.call.completed") || !strings.Contains(events[len(events)-1].Raw, "canary") {
		t.Errorf("the allowed twin did not run: %v", harness.Types(events))
	}
}

// Requirements: A1.
func TestRun_Cancel(t *testing.T) {
	t.Parallel()
	tn := suite.Tenant(t, nil)
	id := tn.Create(t, "/wait 10m\n/say never", nil)
	awaitEvent(t, tn.Client, id, "model.requested")
	begun := time.Now()
	a := tn.Want(t, 200, "POST", "/v1/runs/"+id+":cancel", nil)
	if a.Str("run.cancel_requested_at") == "" {
		t.Errorf("no cancel_requested_at: %s", a.Body)
	}
	events := tn.Journal(t, id)
	if took := time.Since(begun); took > soon {
		t.Errorf("canceled after %v", took)
	}
	types := harness.Types(events)
	at := slices.Index(types, "run.cancel_requested")
	if at < 0 || types[len(types)-1] != "run.canceled" {
		t.Fatalf("journal %v", types)
	}
	if by := events[at].Str("by"); by == "" || by != events[len(events)-1].Str("by") {
		t.Errorf("by %q, then %q", by, events[len(events)-1].Str("by"))
	}
	if n := len(slices.DeleteFunc(types, func(s string) bool { return s != "run.cancel_requested" })); n != 1 {
		t.Errorf("%d cancel_requested", n)
	}
	refused(t, tn.Do(t, "POST", "/v1/runs/"+id+":cancel", nil), 409, "conflict")
	if got := tn.Want(t, 200, "GET", "/v1/runs/"+id, nil); got.Str("run.status") != "canceled" || got.Str("run.completed_at") == "" {
		t.Errorf("run %s", got.Body)
	}
	done, _ := tn.Complete(t, "hi", nil)
	refused(t, tn.Do(t, "POST", "/v1/runs/"+done.Str("run.run_id")+":cancel", nil), 409, "conflict")
	// %3A is ':' in a path.
	id = tn.Create(t, "/wait 10m", nil)
	tn.Want(t, 200, "POST", "/v1/runs/"+id+"%3Acancel", nil)
	tn.Journal(t, id)
}

// A cancel and a completion meet at random moments: one of them wins, and the record and the journal agree which.
//
// Requirements: A1, Q3.
func TestRun_CancelRace(t *testing.T) {
	t.Parallel()
	tn := suite.Tenant(t, nil)
	for i := range 25 {
		id := tn.Create(t, fmt.Sprintf("/wait %dms\n/call tool.echo {}\n/say done", i), nil)
		timer := time.NewTimer(time.Duration(i) * time.Millisecond)
		<-timer.C
		a := tn.Do(t, "POST", "/v1/runs/"+id+":cancel", nil)
		if a.Status != 200 && a.Status != 409 {
			t.Errorf("cancel: %d %s", a.Status, a.Body)
		}
		events := tn.Journal(t, id)
		final := strings.TrimPrefix(events[len(events)-1].Type, "agentos.run.")
		if got := tn.Want(t, 200, "GET", "/v1/runs/"+id, nil).Str("run.status"); got != final {
			t.Errorf("record says %s, the journal %s", got, final)
		}
		if a.Status == 409 && final != "completed" {
			t.Errorf("cancel was refused as final, and the run ended %s", final)
		}
	}
}

// Requirements: A1.
func TestRun_Limits(t *testing.T) {
	t.Parallel()
	tn := suite.Tenant(t, nil)
	failed := func(text string, options map[string]any) (string, []harness.Event) {
		t.Helper()
		a, events := tn.Complete(t, text, map[string]any{"run_options": options})
		if a.Str("run.status") != "failed" || a.Str("run.error.code") != events[len(events)-1].Str("error.code") {
			t.Errorf("%q: %s", text, a.Body)
		}
		return a.Str("run.error.code"), events
	}
	begun := time.Now()
	if code, _ := failed("/wait 10m", map[string]any{"timeout_ms": 700}); code != "timeout" {
		t.Errorf("timeout_ms: %s", code)
	}
	if took := time.Since(begun); took < 600*time.Millisecond || took > soon {
		t.Errorf("a timeout of 700 ms took %v", took)
	}
	code, events := failed(strings.Repeat("/call tool.echo {}\n", 10), map[string]any{"max_steps": 4})
	if code != "step_limit" {
		t.Errorf("max_steps: %s", code)
	}
	steps := 0
	for _, e := range events {
		if e.Type == "agentos.run.step.started" {
			steps++
		}
	}
	if steps > 4 {
		t.Errorf("%d steps against a limit of 4", steps)
	}
	if code, _ := failed("/error policy_blocked", nil); code != "policy_blocked" {
		t.Errorf("/error policy_blocked: %s", code)
	}
}

// What a run puts out is cut at 256 KiB in the event, and says so.
func TestRun_LongOutput(t *testing.T) {
	t.Parallel()
	tn := suite.Tenant(t, nil)
	a, events := tn.Complete(t, "/tokens 60000", nil)
	if a.Str("run.status") != "completed" {
		t.Fatalf("run %s", a.Body[:min(len(a.Body), 2000)])
	}
	last := events[len(events)-1]
	if len(last.Raw) > 300<<10 {
		t.Errorf("the final event has %d bytes", len(last.Raw))
	}
	if !strings.Contains(last.Raw, `"truncated":true`) {
		t.Errorf("a cut output does not say so: %s", last.Raw[max(0, len(last.Raw)-300):])
	}
	if !strings.HasPrefix(last.Str("output.text"), "w1 w2 w3 ") {
		t.Errorf("output begins %q", last.Str("output.text")[:20])
	}
}

// Requirements: A1.
func TestRun_List(t *testing.T) {
	t.Parallel()
	tn := suite.Tenant(t, nil)
	var ids []string
	for i := range 7 {
		a, _ := tn.Complete(t, "x", map[string]any{"context": map[string]any{"labels": map[string]any{"n": fmt.Sprint(i % 2), "all": "yes"}}})
		ids = append(ids, a.Str("run.run_id"))
	}
	slices.Reverse(ids) // newest first
	list := func(query string) (got []string) {
		t.Helper()
		cursor := ""
		for range 20 {
			a := tn.Want(t, 200, "GET", "/v1/runs?"+query+cursor, nil)
			runs, _ := a.At("runs").([]any)
			for i := range runs {
				got = append(got, a.Str(fmt.Sprintf("runs.%d.run_id", i)))
				if harness.Has(runs[i], "input") {
					t.Errorf("a list shows the input of a run")
				}
			}
			if !harness.Has(a.At(""), "next_cursor") {
				t.Errorf("no next_cursor: %s", a.Body)
			}
			next := a.Str("next_cursor")
			if next == "" {
				return got
			}
			cursor = "&cursor=" + next
		}
		t.Fatal("the list does not end")
		return nil
	}
	if got := list(""); !slices.Equal(got, ids) {
		t.Errorf("all: %v, want %v", got, ids)
	}
	if got := list("limit=2"); !slices.Equal(got, ids) {
		t.Errorf("by twos: %v, want %v", got, ids)
	}
	if got := list("label=n:1&label=all:yes&limit=2"); !slices.Equal(got, []string{ids[1], ids[3], ids[5]}) {
		t.Errorf("by labels: %v of %v", got, ids)
	}
	if got := list("status=failed"); len(got) != 0 {
		t.Errorf("failed: %v", got)
	}
	if got := list("status=completed&agent_id=" + tn.Agent); !slices.Equal(got, ids) {
		t.Errorf("completed: %v", got)
	}
	cursor := tn.Want(t, 200, "GET", "/v1/runs?limit=2", nil).Str("next_cursor")
	for _, query := range []string{"limit=0", "limit=501", "limit=-1", "limit=NaN", "limit=x", "cursor=zzz", "cursor=" + cursor + "&status=failed", "status=sleeping", "label=nocolon"} {
		refused(t, tn.Do(t, "GET", "/v1/runs?"+query, nil), 400, "invalid_request")
	}
	other := suite.Tenant(t, nil)
	refused(t, other.Do(t, "GET", "/v1/runs?cursor="+cursor, nil), 400, "invalid_request")
}

// Requirements: A1.
func TestRun_DryRun(t *testing.T) {
	t.Parallel()
	tn := suite.Tenant(t, nil)
	a := tn.Want(t, 200, "POST", "/v1/agents/"+tn.Agent+"/runs", harness.Body("hello", map[string]any{"run_options": map[string]any{"dry_run": true}}))
	for _, path := range []string{"dry_run.decision", "dry_run.candidates", "dry_run.policy_outcome", "dry_run.quotas"} {
		if !harness.Has(a.At(""), path) {
			t.Errorf("no %s: %s", path, a.Body)
		}
	}
	if runs, _ := tn.Want(t, 200, "GET", "/v1/runs", nil).At("runs").([]any); len(runs) != 0 {
		t.Errorf("a dry run made %d runs", len(runs))
	}
}
