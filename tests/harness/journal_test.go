package harness_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/nexixai/agentos/tests/harness"
)

// sound returns the frames of a sound journal with one model call and one tool call.
func sound() []harness.Frame {
	step := `"stp_01J00000000000000000000001"`
	tool := `"stp_01J00000000000000000000002"`
	call := `"tool_call_id":"tcall_01J00000000000000000000003","tool_id":"tool.echo"`
	lines := []struct{ typ, step, payload string }{
		{"run.created", "null", `{"status":"queued"}`},
		{"run.started", "null", `{"status":"running","stack_id":"stk_1","attempt":1}`},
		{"run.step.started", step, `{"step_kind":"model","name":"m"}`},
		{"model.requested", step, `{"model_ref":"tier:fast","operation":"chat","requirements":{},"input_summary":{"messages":1,"has_tools":true}}`},
		{"model.completed", step, `{"model_ref":"tier:fast","operation":"chat","status":"ok","usage":{"input_tokens":1,"output_tokens":1,"total_tokens":2},"latency_ms":1,"policy_outcome":{"decision":"allowed","reasons":[],"redactions":[]},"route":{"backend":"builtin","model":"echo-1","node":"n","fallback_used":false}}`},
		{"run.step.completed", step, `{"status":"ok","duration_ms":1}`},
		{"run.step.started", tool, `{"step_kind":"tool","name":"tool.echo"}`},
		{"tool.call.requested", tool, `{` + call + `,"input":{},"timeout_ms":1000}`},
		{"tool.call.completed", tool, `{` + call + `,"status":"ok","output":{},"duration_ms":1,"error":null}`},
		{"run.step.completed", tool, `{"status":"ok","duration_ms":1}`},
		{"run.completed", "null", `{"status":"completed","output":{"type":"text","text":"x"}}`},
	}
	var frames []harness.Frame
	for i, l := range lines {
		n := i + 1
		frames = append(frames, harness.Frame{
			ID: fmt.Sprint(n), HasID: true, Event: "agentos.event",
			Data: fmt.Sprintf(`{"event":{"event_id":"evt_01J000000000000000000000%02d","sequence":%d,"time":"2026-01-01T00:00:00.%03dZ","type":"agentos.%s","tenant_id":"t","agent_id":"a","run_id":"r","step_id":%s,"trace":{"traceparent":"00-%s-%s-01","span_id":"%s"},"payload":%s}}`,
				n, n, n, l.typ, l.step, strings.Repeat("ab", 16), strings.Repeat("cd", 8), strings.Repeat("cd", 8), l.payload),
		})
	}
	return frames
}

func check(frames []harness.Frame) error {
	events, err := harness.Stored(frames)
	if err != nil {
		return err
	}
	return harness.CheckJournal(events)
}

// The checker is proven by journals that it must refuse: each is a mistake that a node could make.
func TestCheckJournal_Mistakes(t *testing.T) {
	if err := check(sound()); err != nil {
		t.Fatalf("a sound journal is refused: %v", err)
	}
	replace := func(i int, from, to string) func([]harness.Frame) []harness.Frame {
		return func(f []harness.Frame) []harness.Frame {
			f[i].Data = strings.Replace(f[i].Data, from, to, 1)
			return f
		}
	}
	for name, spoil := range map[string]func([]harness.Frame) []harness.Frame{
		"a gap":                func(f []harness.Frame) []harness.Frame { return append(f[:4:4], f[5:]...) },
		"a twin":               func(f []harness.Frame) []harness.Frame { return append(f[:5:5], f[4:]...) },
		"no final event":       func(f []harness.Frame) []harness.Frame { return f[:len(f)-1] },
		"a second final event": replace(5, "run.step.completed", "run.completed"),
		"an event id twice":    replace(3, "00000004\",\"seq", "00000003\",\"seq"),
		"id beside sequence":   func(f []harness.Frame) []harness.Frame { f[2].ID = "7"; return f },
		"effect completed twice": func(f []harness.Frame) []harness.Frame {
			f[9].Data = strings.Replace(f[8].Data, `"sequence":9`, `"sequence":10`, 1)
			f[9].Data = strings.Replace(f[9].Data, `00000009","seq`, `00000010","seq`, 1)
			return f
		},
		"effect begun twice": func(f []harness.Frame) []harness.Frame {
			f[8].Data = strings.Replace(f[7].Data, `"sequence":8`, `"sequence":9`, 1)
			f[8].Data = strings.Replace(f[8].Data, `00000008","seq`, `00000009","seq`, 1)
			return f
		},
		"payload member gone":   replace(4, `"latency_ms":1,`, ``),
		"enumeration broken":    replace(8, `"status":"ok"`, `"status":"fine"`),
		"unknown type":          replace(3, "model.requested", "model.wondered"),
		"another run's event":   replace(6, `"run_id":"r"`, `"run_id":"q"`),
		"time runs backwards":   replace(6, "00:00:00.007", "00:00:00.001"),
		"time with an offset":   replace(6, `00:00:00.007Z`, `00:00:00.007+01:00`),
		"not created first":     replace(0, "run.created", "run.cancel_requested"),
		"step left open":        replace(9, "stp_01J00000000000000000000002", "stp_01J00000000000000000000009"),
		"delta in the record":   replace(4, "model.completed", "model.delta"),
		"another trace":         replace(4, "00-abab", "00-abac"),
		"other event name":      func(f []harness.Frame) []harness.Frame { f[3].Event = "message"; return f },
		"journal without event": func([]harness.Frame) []harness.Frame { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			if check(spoil(sound())) == nil {
				t.Error("the checker did not notice")
			}
		})
	}
}
