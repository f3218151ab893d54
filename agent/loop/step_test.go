package loop_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/agent/loop"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/model"
)

// TestState_Step_appends pins the sequence of events, and that a run of model, tool, model costs four appends: each more
// is a round of consensus for every run.
func TestState_Step_appends(t *testing.T) {
	w := newWorld(t, turn{calls: []model.ToolCall{call("tool.echo", `{"a":1}`)}}, turn{text: "done"})
	if _, err := w.live(1); err != nil {
		t.Fatal(err)
	}
	w.whole()
	want := [][]event.Type{
		{event.RunStarted, event.StepStarted, event.ModelRequested},
		{event.ModelCompleted, event.StepCompleted, event.StepStarted, event.ToolCallRequested},
		{event.ToolCallCompleted, event.StepCompleted, event.StepStarted, event.ModelRequested},
		{event.ModelCompleted, event.StepCompleted, event.RunCompleted},
	}
	if diff := cmp.Diff(want, w.appends); diff != "" {
		t.Error(diff)
	}
	if got := w.payload(event.RunCompleted, 0)["output"]; !cmp.Equal(got, map[string]any{"type": "text", "text": "done"}) {
		t.Errorf("output = %v", got)
	}
	if p := w.payload(event.RunStarted, 0); p["stack_id"] != "stk_a" || p["attempt"] != 1.0 || p["status"] != "running" {
		t.Errorf("run.started = %v", p)
	}
	p := w.payload(event.ToolCallCompleted, 0)
	if p["status"] != "ok" || p["duration_ms"] != 3.0 || p["error"] != nil || !cmp.Equal(p["output"], map[string]any{"a": 1.0}) {
		t.Errorf("tool.call.completed = %v", p)
	}
	if !strings.HasPrefix(p["tool_call_id"].(string), "tcall_") {
		t.Errorf("tool_call_id = %v", p["tool_call_id"])
	}
	p = w.payload(event.ModelCompleted, 0)
	if p["latency_ms"] != 6.0 || p["route"].(map[string]any)["backend"] != "builtin" || p["usage"].(map[string]any)["total_tokens"] != 7.0 {
		t.Errorf("model.completed = %v", p)
	}
	if got := p["usage"].(map[string]any)["cost_usd"]; got != 0.000007 {
		t.Errorf("cost_usd = %v", got)
	}
	for reservation := range w.held {
		if w.booked[reservation] != 1 {
			t.Errorf("reservation %s settled %d times", reservation, w.booked[reservation])
		}
	}
	if len(w.held) != 2 {
		t.Errorf("%d reservations, want 2", len(w.held))
	}
}

// TestState_Step_dies ends the worker at every point of a run, once, and lets the next one go on: the journal must become
// whole, no finished effect may be repeated, and a tool that isn't idempotent never runs twice.
//
// Requirements: A2.
func TestState_Step_dies(t *testing.T) {
	script := []turn{
		{calls: []model.ToolCall{call("tool.echo", `{"n":1}`), call("tool.mail", `{"to":"x"}`), call("tool.forbidden", `{}`)}},
		{fails: []error{unavailable()}, calls: []model.ToolCall{call("tool.echo", `{"n":2}`)}},
		{text: "done"},
	}
	points := 0
	count := newWorld(t, script...)
	count.die = func(string) bool { points++; return false }
	if _, err := count.live(1); err != nil {
		t.Fatal(err)
	}
	for at := range points {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			w := newWorld(t, script...)
			n := -1
			w.die = func(string) bool { n++; return n == at }
			if _, err := w.live(1); err != errDied {
				t.Fatalf("lived through point %d", at)
			}
			if _, err := w.live(2); err != nil {
				t.Fatal(err)
			}
			w.whole()
			w.once()
			if got := w.types()[len(w.journal)-1]; got != event.RunCompleted {
				t.Errorf("ended with %s", got)
			}
		})
	}
}

// once checks that no effect was repeated that must not be.
func (w *world) once() {
	for i := range w.journal {
		if w.journal[i].Type != event.ToolCallRequested {
			continue
		}
		e, err := loop.Decode(&w.journal[i])
		if err != nil {
			w.tb.Fatal(err)
		}
		wanted := e.Body.(*loop.ToolRequested)
		if ran := w.ran[wanted.CallID]; wanted.ToolID == "tool.mail" && ran > 1 || wanted.ToolID == "tool.forbidden" && ran > 0 {
			w.tb.Errorf("%s ran %d times", wanted.ToolID, ran)
		}
	}
}

// TestState_Step_property: whatever the script and wherever workers die, again and again, the journal becomes whole.
//
// Requirements: A2.
func TestState_Step_property(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t, drawScript(rt)...)
		w.plan.MaxSteps = rapid.IntRange(1, 12).Draw(rt, "max_steps")
		chance := rapid.IntRange(0, 30).Draw(rt, "deaths in 100")
		cancelAt := rapid.IntRange(0, 40).Draw(rt, "cancel at")
		n := 0
		w.die = func(string) bool {
			n++
			if n == cancelAt && !w.finished() {
				w.outside(event.CancelRequested, `{"by":"usr_a"}`)
			}
			return rapid.IntRange(1, 100).Draw(rt, "die") <= chance
		}
		for epoch := uint64(1); ; epoch++ {
			if epoch == 60 {
				w.die = nil
			}
			effect, err := w.live(epoch)
			if err == nil {
				if effect.HandBack {
					rt.Fatal("handed back by nobody's wish")
				}
				break
			}
		}
		w.whole()
		w.once()
		steps := 0
		canceled := slices.Contains(w.types(), event.CancelRequested)
		for _, e := range w.types() {
			if e == event.StepStarted {
				steps++
			}
		}
		if steps > w.plan.MaxSteps {
			rt.Errorf("%d steps, %d allowed", steps, w.plan.MaxSteps)
		}
		if last := w.types()[len(w.journal)-1]; canceled && last != event.RunCanceled {
			rt.Errorf("a cancel was requested, and the run ended with %s", last)
		}
		if t.Failed() {
			rt.Fatal("broken")
		}
	})
}

func (w *world) finished() bool { return w.types()[len(w.journal)-1].Final() }

func drawScript(rt *rapid.T) []turn {
	var script []turn
	for range rapid.IntRange(0, 4).Draw(rt, "turns") {
		var calls []model.ToolCall
		for range rapid.IntRange(1, 3).Draw(rt, "calls") {
			toolID := rapid.SampledFrom([]string{"tool.echo", "tool.mail", "tool.forbidden"}).Draw(rt, "tool")
			args := rapid.SampledFrom([]string{`{}`, `{"x":"ü\n"}`, `not json`, ``}).Draw(rt, "args")
			calls = append(calls, call(toolID, args))
		}
		script = append(script, turn{calls: calls, fails: drawFails(rt)})
	}
	return append(script, turn{text: rapid.String().Draw(rt, "text"), fails: drawFails(rt)})
}

func drawFails(rt *rapid.T) []error {
	var fails []error
	for range rapid.IntRange(0, 3).Draw(rt, "fails") {
		fails = append(fails, unavailable())
	}
	return fails
}

// TestState_Step_ends covers how a run ends other than well.
func TestState_Step_ends(t *testing.T) {
	limited := fault.New(fault.RateLimited, "slow down").After(5 * time.Second)
	for _, c := range []struct {
		name   string
		script []turn
		set    func(w *world)
		final  event.Type
		code   string
		check  func(t *testing.T, w *world)
	}{
		{
			name: "a refusal by policy ends the run at once", script: []turn{{fails: []error{fault.New(fault.PolicyBlocked, "no").With("reasons", []string{"pii"})}}},
			final: event.RunFailed, code: "policy_blocked",
			check: func(t *testing.T, w *world) {
				outcome := w.payload(event.ModelCompleted, 0)["policy_outcome"]
				want := map[string]any{"decision": "blocked", "reasons": []any{"pii"}, "redactions": []any{}}
				if diff := cmp.Diff(any(want), outcome); diff != "" {
					t.Error(diff)
				}
				if len(w.waits) > 0 || w.asked[0] != 1 {
					t.Error("tried again what can't succeed")
				}
			},
		},
		{
			name: "a failing model is asked three times", script: []turn{{fails: []error{unavailable(), unavailable(), unavailable(), unavailable()}}},
			final: event.RunFailed, code: "dependency_unavailable",
			check: func(t *testing.T, w *world) {
				if w.asked[0] != 3 || !slices.Equal(w.waits, []time.Duration{200 * time.Millisecond, 400 * time.Millisecond}) {
					t.Errorf("asked %d times, waits %v", w.asked[0], w.waits)
				}
			},
		},
		{
			name: "Retry-After is a floor", script: []turn{{fails: []error{limited}, text: "ok"}},
			final: event.RunCompleted,
			check: func(t *testing.T, w *world) {
				if !slices.Equal(w.waits, []time.Duration{5 * time.Second}) {
					t.Errorf("waits %v", w.waits)
				}
			},
		},
		{
			name: "a Retry-After beyond the deadline is not waited for", script: []turn{{fails: []error{fault.New(fault.RateLimited, "later").After(time.Hour)}}},
			final: event.RunFailed, code: "rate_limited",
			check: func(t *testing.T, w *world) {
				if len(w.waits) > 0 {
					t.Errorf("waits %v", w.waits)
				}
			},
		},
		{
			name: "steps are limited", script: []turn{{calls: []model.ToolCall{call("tool.echo", "{}"), call("tool.echo", "{}")}}, {text: "never"}},
			set: func(w *world) { w.plan.MaxSteps = 2 }, final: event.RunFailed, code: "step_limit",
		},
		{
			name: "an exhausted budget ends the run and reserves nothing", script: []turn{{text: "never"}},
			set: func(w *world) {
				w.refuse = func(_ *world, e *loop.Effect) error {
					if e.Reserve != nil {
						return fault.New(fault.QuotaExceeded, "spent").With("limit", 1)
					}
					return nil
				}
			},
			final: event.RunFailed, code: "quota_exceeded",
			check: func(t *testing.T, w *world) {
				if len(w.asked) > 0 || len(w.booked) > 0 {
					t.Errorf("asked %v, booked %v", w.asked, w.booked)
				}
			},
		},
		{
			name:   "a tool rate is waited for, and what happened before is kept meanwhile",
			script: []turn{{calls: []model.ToolCall{call("tool.echo", "{}")}}, {text: "ok"}},
			set: func(w *world) {
				tries := 0
				w.refuse = func(_ *world, e *loop.Effect) error {
					if tries++; e.ToolCall && tries < 6 {
						return limited
					}
					return nil
				}
			},
			final: event.RunCompleted,
			check: func(t *testing.T, w *world) {
				if len(w.waits) == 0 || w.waits[0] != 5*time.Second {
					t.Errorf("waits %v", w.waits)
				}
				if !slices.Equal(w.appends[1], []event.Type{event.ModelCompleted, event.StepCompleted}) {
					t.Errorf("second append %v", w.appends[1])
				}
			},
		},
		{
			name:   "a tool rate beyond the deadline is the model's to hear",
			script: []turn{{calls: []model.ToolCall{call("tool.echo", "{}")}}, {text: "ok"}},
			set: func(w *world) {
				w.refuse = func(_ *world, e *loop.Effect) error {
					if e.ToolCall {
						return fault.New(fault.RateLimited, "much later").After(time.Hour)
					}
					return nil
				}
			},
			final: event.RunCompleted,
			check: func(t *testing.T, w *world) {
				if p := w.payload(event.ToolCallCompleted, 0); p["status"] != "error" || p["error"].(map[string]any)["code"] != "rate_limited" {
					t.Error(p)
				}
				if len(w.ran) > 0 {
					t.Error("the tool ran")
				}
			},
		},
		{
			name: "without the scope every tool is denied", script: []turn{{calls: []model.ToolCall{call("tool.echo", "{}")}}, {text: "ok"}},
			set: func(w *world) { w.plan.MayInvoke = false }, final: event.RunCompleted,
			check: func(t *testing.T, w *world) {
				if p := w.payload(event.ToolCallCompleted, 0); p["status"] != "denied" || p["error"].(map[string]any)["code"] != "forbidden" || p["output"] != nil {
					t.Error(p)
				}
				if len(w.ran) > 0 {
					t.Error("the tool ran")
				}
			},
		},
		{
			name: "the deadline cuts an answer off", script: []turn{{fails: []error{unavailable()}}},
			set: func(w *world) {
				w.during = func(w *world, verb loop.Verb, in *loop.Input) {
					if verb == loop.Ask {
						w.now = w.plan.Deadline
						in.Now, in.Expired, in.Interrupted = w.now, true, true
					}
				}
			},
			final: event.RunFailed, code: "timeout",
			check: func(t *testing.T, w *world) {
				if got := w.payload(event.RunFailed, 0)["error"].(map[string]any)["details"].(map[string]any)["timeout_ms"]; got != 60000.0 {
					t.Errorf("timeout_ms = %v", got)
				}
			},
		},
		{
			name: "a cancel during a model call", script: []turn{{fails: []error{unavailable()}}},
			set:   cancelDuring(loop.Ask),
			final: event.RunCanceled,
			check: func(t *testing.T, w *world) {
				if by := w.payload(event.RunCanceled, 0)["by"]; by != "usr_a" {
					t.Errorf("by = %v", by)
				}
			},
		},
		{
			name: "a cancel during a tool call", script: []turn{{calls: []model.ToolCall{call("tool.mail", "{}")}}},
			set: cancelDuring(loop.Call), final: event.RunCanceled,
		},
		{
			name: "an end that the journal refuses is tried barely", script: []turn{{text: "ok"}},
			set: func(w *world) {
				w.refuse = func(_ *world, e *loop.Effect) error {
					if e.Output != nil {
						return fault.New(fault.Internal, "command panicked")
					}
					return nil
				}
			},
			final: event.RunFailed, code: "internal_error",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, c.script...)
			if c.set != nil {
				c.set(w)
			}
			if _, err := w.live(1); err != nil {
				t.Fatal(err)
			}
			if c.code != "internal_error" { // the bare end leaves open what it could not record
				w.whole()
			}
			if got := w.types()[len(w.journal)-1]; got != c.final {
				t.Fatalf("ended with %s, want %s", got, c.final)
			}
			if c.final == event.RunFailed {
				if got := w.payload(event.RunFailed, 0)["error"].(map[string]any)["code"]; got != c.code {
					t.Errorf("code %v, want %s", got, c.code)
				}
			}
			if c.check != nil {
				c.check(t, w)
			}
		})
	}
}

func cancelDuring(verb loop.Verb) func(*world) {
	return func(w *world) {
		w.during = func(w *world, v loop.Verb, in *loop.Input) {
			if v == verb && !slices.Contains(w.types(), event.CancelRequested) {
				w.outside(event.CancelRequested, `{"by":"usr_a"}`)
				in.Signaled, in.Interrupted, in.Err = true, true, fmt.Errorf("cut off")
			}
		}
	}
}

// TestState_Step_unknown: after a lost worker, what may have had its effect is repeated only when that's harmless.
func TestState_Step_unknown(t *testing.T) {
	for toolID, want := range map[string]struct {
		ran    int
		status string
	}{"tool.echo": {2, "ok"}, "tool.mail": {1, "error"}} {
		w := newWorld(t, turn{calls: []model.ToolCall{call(toolID, `{}`)}}, turn{text: "done"})
		effects := 0
		w.die = func(point string) bool {
			if point == "after effect" {
				effects++
			}
			return point == "after effect" && effects == 2
		}
		if _, err := w.live(1); err != errDied {
			t.Fatal("did not die")
		}
		if _, err := w.live(2); err != nil {
			t.Fatal(err)
		}
		w.whole()
		p := w.payload(event.ToolCallCompleted, 0)
		if got := w.ran[p["tool_call_id"].(string)]; got != want.ran || p["status"] != want.status {
			t.Errorf("%s ran %d times with status %v, want %v", toolID, got, p["status"], want)
		}
		if toolID == "tool.mail" && p["error"].(map[string]any)["details"].(map[string]any)["outcome"] != "unknown" {
			t.Errorf("error = %v", p["error"])
		}
		if p := w.payload(event.RunStarted, 1); p["attempt"] != 2.0 {
			t.Errorf("second attempt = %v", p)
		}
	}
}

// TestState_Step_drain: a worker that is to leave finishes its step, records it, and begins nothing.
func TestState_Step_drain(t *testing.T) {
	w := newWorld(t, turn{calls: []model.ToolCall{call("tool.echo", `{}`)}}, turn{text: "done"})
	w.during = func(_ *world, verb loop.Verb, in *loop.Input) { in.Leaving = verb == loop.Ask }
	effect, err := w.live(1)
	if err != nil || !effect.HandBack {
		t.Fatalf("effect %+v, err %v", effect, err)
	}
	if want := []event.Type{event.ModelCompleted, event.StepCompleted}; !cmp.Equal(w.appends[1], want) {
		t.Errorf("last append %v", w.appends[1])
	}
	w.during = nil
	if _, err := w.live(2); err != nil {
		t.Fatal(err)
	}
	w.whole()
	if w.asked[0] != 1 {
		t.Errorf("first turn asked %d times", w.asked[0])
	}
}

// TestState_Step_bounds: outputs of any size and shape stay within what a journal takes, and tools are found by id or name.
func TestState_Step_bounds(t *testing.T) {
	t.Run("long text", func(t *testing.T) {
		w := newWorld(t, turn{text: strings.Repeat("\x01é\"", loop.MaxOutput)})
		if _, err := w.live(1); err != nil {
			t.Fatal(err)
		}
		w.whole()
		completed := w.journal[len(w.journal)-1]
		if n := len(completed.Payload); n > loop.MaxOutput+256 || n < loop.MaxOutput-256 {
			t.Errorf("run.completed has %d bytes", n)
		}
		if w.payload(event.ModelCompleted, 0)["truncated"] != true || w.payload(event.RunCompleted, 0)["output"].(map[string]any)["truncated"] != true {
			t.Error("not marked as truncated")
		}
	})
	t.Run("long arguments", func(t *testing.T) {
		long := `{"x":"` + strings.Repeat("a", loop.MaxOutput) + `"}`
		w := newWorld(t, turn{calls: []model.ToolCall{call("tool.echo", long), call("tool.echo", `{"ok":1}`)}}, turn{text: "done"})
		if _, err := w.live(1); err != nil {
			t.Fatal(err)
		}
		w.whole()
		if w.payload(event.ToolCallCompleted, 0)["status"] != "error" || w.payload(event.ToolCallCompleted, 1)["status"] != "ok" {
			t.Error("the long call must fail and the short one run")
		}
	})
	t.Run("names", func(t *testing.T) {
		byName := model.ToolCall{Name: "echo"}
		byID := model.ToolCall{Name: "tool.echo"}
		unknown := model.ToolCall{Name: "rm -rf"}
		hidden := model.ToolCall{Name: "http.fetch"}
		w := newWorld(t, turn{calls: []model.ToolCall{byName, byID, unknown, hidden}}, turn{text: "done"})
		if _, err := w.live(1); err != nil {
			t.Fatal(err)
		}
		w.whole()
		for i, want := range []struct{ toolID, status string }{
			{"tool.echo", "ok"}, {"tool.echo", "ok"}, {"tool.unknown", "denied"}, {"tool.http.fetch", "denied"},
		} {
			if p := w.payload(event.ToolCallCompleted, i); p["tool_id"] != want.toolID || p["status"] != want.status {
				t.Errorf("call %d: %v %v, want %v", i, p["tool_id"], p["status"], want)
			}
		}
	})
}
