package harness

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Event is one decoded event of a journal.
type Event struct {
	ID       string         `json:"event_id"`
	Sequence *int64         `json:"sequence"`
	Time     string         `json:"time"`
	Type     string         `json:"type"`
	TenantID string         `json:"tenant_id"`
	AgentID  string         `json:"agent_id"`
	RunID    string         `json:"run_id"`
	StepID   *string        `json:"step_id"`
	Trace    Trace          `json:"trace"`
	Payload  map[string]any `json:"payload"`
	Raw      string         `json:"-"`
}

// Trace is the trace of an event.
type Trace struct {
	Traceparent string `json:"traceparent"`
	SpanID      string `json:"span_id"`
}

// Str returns the string at a path of the payload.
func (e Event) Str(path string) string {
	s, _ := At(e.Payload, path).(string)
	return s
}

// Final reports whether e ends its run.
func (e Event) Final() bool {
	switch e.Type {
	case "agentos.run.completed", "agentos.run.failed", "agentos.run.canceled":
		return true
	}
	return false
}

// Stored decodes the stored events among frames (those with an id) and reports what is wrong with a frame as such: an id
// that is not the sequence, another event name, a delta that claims a place.
func Stored(frames []Frame) ([]Event, error) {
	var events []Event
	for i, f := range frames {
		if f.Event != "agentos.event" {
			return nil, fmt.Errorf("frame %d: event %q", i, f.Event)
		}
		var w struct {
			Event Event `json:"event"`
		}
		d := json.NewDecoder(strings.NewReader(f.Data))
		d.UseNumber()
		if err := d.Decode(&w); err != nil {
			return nil, fmt.Errorf("frame %d: %w: %s", i, err, tail(f.Data, 300))
		}
		e := w.Event
		e.Raw = f.Data
		if e.Type == "agentos.model.delta" {
			if f.HasID || e.Sequence != nil || e.ID != "" {
				return nil, fmt.Errorf("frame %d: a delta with an id or a sequence: %s", i, f.Data)
			}
			continue
		}
		if !f.HasID || e.Sequence == nil || f.ID != strconv.FormatInt(*e.Sequence, 10) {
			return nil, fmt.Errorf("frame %d: id %q beside event %s", i, f.ID, tail(f.Data, 300))
		}
		events = append(events, e)
	}
	return events, nil
}

var (
	idPattern          = regexp.MustCompile(`^[a-z]+_[0-9A-HJKMNP-TV-Z]{26}$`)
	timePattern        = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$`)
	traceparentPattern = regexp.MustCompile(`^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$`)
	spanPattern        = regexp.MustCompile(`^[0-9a-f]{16}$`)
)

// CheckJournal reports everything that is wrong with a finished run's whole journal: sequences 1..n, event ids once each,
// one final event and nothing after it, each payload by its type, each request answered once, each effect begun once.
func CheckJournal(events []Event) error {
	if len(events) == 0 {
		return errors.New("an empty journal")
	}
	var errs []error
	bad := func(i int, format string, args ...any) {
		errs = append(errs, fmt.Errorf("event %d (%s): %s", i+1, events[i].Type, fmt.Sprintf(format, args...)))
	}
	seen := make(map[string]bool, len(events))
	first := events[0]
	for i, e := range events {
		if e.Sequence == nil || *e.Sequence != int64(i+1) {
			bad(i, "sequence %v", e.Sequence)
		}
		if !strings.HasPrefix(e.ID, "evt_") || !idPattern.MatchString(e.ID) || seen[e.ID] {
			bad(i, "event_id %q, seen before: %v", e.ID, seen[e.ID])
		}
		seen[e.ID] = true
		if e.RunID != first.RunID || e.TenantID != first.TenantID || e.AgentID != first.AgentID || e.RunID == "" || e.TenantID == "" || e.AgentID == "" {
			bad(i, "run %q tenant %q agent %q", e.RunID, e.TenantID, e.AgentID)
		}
		if !timePattern.MatchString(e.Time) {
			bad(i, "time %q", e.Time)
		} else if i > 0 && parseTime(e.Time).Before(parseTime(events[i-1].Time)) {
			bad(i, "time %s before that of the event before it, %s", e.Time, events[i-1].Time)
		}
		if !traceparentPattern.MatchString(e.Trace.Traceparent) || !spanPattern.MatchString(e.Trace.SpanID) {
			bad(i, "trace %+v", e.Trace)
		}
		if e.Trace.Traceparent[:min(35, len(e.Trace.Traceparent))] != first.Trace.Traceparent[:min(35, len(first.Trace.Traceparent))] {
			bad(i, "trace id differs from the first event's")
		}
		if strings.ContainsAny(e.Raw, "\r\n") {
			bad(i, "more than one line")
		}
		if err := checkPayload(e); err != nil {
			bad(i, "%v", err)
		}
		if e.Final() != (i == len(events)-1) {
			bad(i, "final=%v at %d of %d", e.Final(), i+1, len(events))
		}
	}
	if first.Type != "agentos.run.created" {
		bad(0, "the first event is another than run.created")
	}
	errs = append(errs, checkPairs(events)...)
	return errors.Join(errs...)
}

func parseTime(s string) time.Time {
	t, _ := time.Parse(time.RFC3339Nano, s)
	return t
}

// members lists, for each type, the members its payload must have.
func members(typ string) ([]string, bool) {
	m, ok := map[string][]string{
		"agentos.run.created":          {"status"},
		"agentos.run.started":          {"status", "stack_id", "attempt"},
		"agentos.run.step.started":     {"step_kind", "name"},
		"agentos.run.step.completed":   {"status", "duration_ms"},
		"agentos.tool.call.requested":  {"tool_call_id", "tool_id", "input", "timeout_ms"},
		"agentos.tool.call.completed":  {"tool_call_id", "tool_id", "status", "output", "duration_ms", "error"},
		"agentos.model.requested":      {"model_ref", "operation", "requirements", "input_summary.messages", "input_summary.has_tools"},
		"agentos.model.completed":      {"model_ref", "operation", "status", "usage.input_tokens", "usage.output_tokens", "usage.total_tokens", "latency_ms", "policy_outcome.decision", "policy_outcome.reasons", "policy_outcome.redactions", "route.backend", "route.model", "route.node", "route.fallback_used"},
		"agentos.run.forwarded":        {"stack_id", "organization", "route_id", "remote_run_id"},
		"agentos.run.cancel_requested": {"by"},
		"agentos.run.completed":        {"status", "output"},
		"agentos.run.failed":           {"status", "error.code", "error.message", "error.retryable"},
		"agentos.run.canceled":         {"status", "by"},
	}[typ]
	return m, ok
}

func checkPayload(e Event) error {
	names, ok := members(e.Type)
	if !ok {
		return fmt.Errorf("type %q is not of the contract", e.Type)
	}
	for _, name := range names {
		if group, _, _ := strings.Cut(name, "."); e.Type == "agentos.model.completed" && e.Str("status") != "ok" && (group == "route" || group == "policy_outcome") {
			name = group // a call that was never made has neither, and says null
		}
		if !Has(e.Payload, name) {
			return fmt.Errorf("payload without %s: %s", name, tail(e.Raw, 400))
		}
	}
	among := func(path string, allowed ...string) error {
		if v := e.Str(path); !slices.Contains(allowed, v) {
			return fmt.Errorf("payload %s %q is not one of %v", path, v, allowed)
		}
		return nil
	}
	stepped := func() error {
		if e.StepID == nil || !idPattern.MatchString(*e.StepID) {
			return fmt.Errorf("step_id %v", e.StepID)
		}
		return nil
	}
	switch e.Type {
	case "agentos.run.created":
		return among("status", "queued")
	case "agentos.run.started":
		return among("status", "running")
	case "agentos.run.step.started":
		return errors.Join(among("step_kind", "plan", "model", "tool"), stepped())
	case "agentos.run.step.completed":
		return errors.Join(among("status", "ok", "error"), stepped())
	case "agentos.tool.call.requested":
		return stepped()
	case "agentos.tool.call.completed":
		return errors.Join(among("status", "ok", "error", "timeout", "denied"), stepped())
	case "agentos.model.requested", "agentos.model.completed":
		return errors.Join(among("operation", "chat", "embed"), stepped())
	case "agentos.run.completed":
		return among("status", "completed")
	case "agentos.run.failed":
		return among("status", "failed")
	case "agentos.run.canceled":
		return among("status", "canceled")
	}
	return nil
}

// checkPairs checks that steps and tool calls open and close once each, and that a completed run left none open.
func checkPairs(events []Event) []error {
	var errs []error
	steps, calls := map[string]int{}, map[string]int{} // 1 open, 2 closed
	for i, e := range events {
		open, shut, id, what := false, false, "", ""
		m := steps
		switch e.Type {
		case "agentos.run.step.started":
			open, id, what = true, deref(e.StepID), "step"
		case "agentos.run.step.completed":
			shut, id, what = true, deref(e.StepID), "step"
		case "agentos.tool.call.requested":
			open, id, what, m = true, e.Str("tool_call_id"), "tool call", calls
		case "agentos.tool.call.completed":
			shut, id, what, m = true, e.Str("tool_call_id"), "tool call", calls
			if e.Str("status") == "denied" && m[id] == 0 {
				open = true // a denied call may never have been asked of the tool
			}
		default:
			continue
		}
		if open {
			if m[id] != 0 {
				errs = append(errs, fmt.Errorf("event %d: %s %s begins a second time", i+1, what, id))
			}
			m[id] = 1
		}
		if shut {
			if m[id] != 1 {
				errs = append(errs, fmt.Errorf("event %d: %s %s completed in state %d", i+1, what, id, m[id]))
			}
			m[id] = 2
		}
	}
	if events[len(events)-1].Type == "agentos.run.completed" {
		for id, state := range steps {
			if state != 2 {
				errs = append(errs, fmt.Errorf("step %s is open at the end of a completed run", id))
			}
		}
		for id, state := range calls {
			if state != 2 {
				errs = append(errs, fmt.Errorf("tool call %s is open at the end of a completed run", id))
			}
		}
	}
	return errs
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// Types returns the types of events without their prefix, in order.
func Types(events []Event) []string {
	out := make([]string, len(events))
	for i, e := range events {
		out[i] = strings.TrimPrefix(e.Type, "agentos.")
	}
	return out
}
