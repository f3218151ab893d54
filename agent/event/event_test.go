package event_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/internal/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var at = time.Date(2026, 3, 4, 5, 6, 7, 89_000_000, time.FixedZone("CET", 3600))

var head = event.Head{
	TenantID: "tnt_demo", AgentID: "agt_echo", RunID: "run_1",
	Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
}

// The envelope is a wire format: clients, peers and stored journals all depend on these very bytes.
func TestAppendEnvelope(t *testing.T) {
	t.Run("with a step", func(t *testing.T) {
		d := event.Draft{ID: "evt_1", Type: event.StepStarted, StepID: "stp_1", SpanID: "00f067aa0ba902b7", Payload: json.RawMessage(`{"step_kind":"model"}`)}
		got := string(event.AppendEnvelope(nil, &head, &d, 7, at))
		want := `{"event":{"event_id":"evt_1","sequence":7,"time":"2026-03-04T04:06:07.089Z","type":"agentos.run.step.started",` +
			`"tenant_id":"tnt_demo","agent_id":"agt_echo","run_id":"run_1","step_id":"stp_1",` +
			`"trace":{"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","span_id":"00f067aa0ba902b7"},` +
			`"payload":{"step_kind":"model"}}}`
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("without", func(t *testing.T) {
		d := event.Draft{ID: "evt_2", Type: event.RunCreated}
		got := event.AppendEnvelope(nil, &head, &d, 1, at)
		var decoded struct{ Event event.Envelope }
		if err := json.Unmarshal(got, &decoded); err != nil {
			t.Fatal(err)
		}
		e := decoded.Event
		if e.StepID != nil || e.Trace.SpanID != "b7ad6b7169203331" || string(e.Payload) != "{}" {
			t.Errorf("envelope = %+v", e)
		}
	})
}

// Texts come from models and strangers: whatever they hold, the event stays valid JSON on one line.
func TestAppendString(t *testing.T) {
	for _, s := range []string{"", "plain", "a\"b\\c", "line\nbreak\r\ttab", "\x00\x1f", "grüße €", "bad \xff\xfe utf8", "\u2028", "</script>"} {
		b := event.AppendString(nil, s)
		var back string
		if err := json.Unmarshal(b, &back); err != nil {
			t.Errorf("%q: %v", s, err)
		}
		if want := strings.ToValidUTF8(s, "\uFFFD"); len(want) == len(s) && back != want {
			t.Errorf("%q came back as %q", s, back)
		}
		if bytes.ContainsAny(b, "\n\r") {
			t.Errorf("%q takes more than one line", s)
		}
	}
}

func TestScan(t *testing.T) {
	d := event.Draft{ID: "evt_1", Type: event.RunCompleted, StepID: "stp_1", Payload: json.RawMessage(`{"output":{"text":"}\"{"}}`)}
	stored := event.AppendEnvelope(nil, &head, &d, 12, at)
	t.Run("reads what was written", func(t *testing.T) {
		v, err := event.Scan(stored)
		if err != nil {
			t.Fatal(err)
		}
		var want struct{ Event event.Envelope }
		if err := json.Unmarshal(stored, &want); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want.Event, v.Envelope()); diff != "" {
			t.Error(diff)
		}
		if !v.Final() {
			t.Error("a completed run is not final")
		}
	})
	bare := strings.TrimSuffix(strings.TrimPrefix(string(stored), `{"event":`), "}")
	t.Run("bare", func(t *testing.T) {
		if _, err := event.Scan([]byte(bare)); err != nil {
			t.Error(err)
		}
	})
	for name, broken := range map[string]string{
		"empty":            ``,
		"not an object":    `[]`,
		"cut":              bare[:len(bare)-1],
		"two lines":        strings.Replace(bare, ",", ",\n", 1),
		"sequence twice":   strings.Replace(bare, `"sequence":12`, `"sequence":12,"sequence":13`, 1),
		"odd spelling":     strings.Replace(bare, `"sequence":12`, `"sequence":12,"Sequence":13`, 1),
		"escaped name":     strings.Replace(bare, `"sequence":12`, `"sequence":12,"\u0073equence":13`, 1),
		"wrapped twice":    strings.Replace(string(stored), `{"event":`, `{"event":{},"event":`, 1),
		"negative":         strings.Replace(bare, `"sequence":12`, `"sequence":-12`, 1),
		"zero":             strings.Replace(bare, `"sequence":12`, `"sequence":0`, 1),
		"fraction":         strings.Replace(bare, `"sequence":12`, `"sequence":12.0`, 1),
		"exponent":         strings.Replace(bare, `"sequence":12`, `"sequence":1e2`, 1),
		"too large":        strings.Replace(bare, `"sequence":12`, `"sequence":99999999999999999999`, 1),
		"null sequence":    strings.Replace(bare, `"sequence":12`, `"sequence":null`, 1),
		"tenant a number":  strings.Replace(bare, `"tnt_demo"`, `7`, 1),
		"tenant escaped":   strings.Replace(bare, `"tnt_demo"`, `"tnt\u005fdemo"`, 1),
		"no tenant":        strings.Replace(bare, `"tenant_id"`, `"tenant"`, 1),
		"payload a string": strings.Replace(bare, `{"output":{"text":"}\"{"}}`, `"x"`, 1),
		"not UTF-8":        strings.Replace(bare, "agt_echo", "agt_\xff", 1),
		"too deep":         strings.Replace(bare, `{"text":"}\"{"}`, strings.Repeat("[", 80)+strings.Repeat("]", 80), 1),
		"too long":         strings.Replace(bare, "}\\\"{", strings.Repeat("x", event.MaxEnvelope), 1),
	} {
		t.Run(name, func(t *testing.T) {
			if v, err := event.Scan([]byte(broken)); err == nil {
				t.Errorf("accepted as %+v", v.Envelope())
			}
		})
	}
}

// FuzzScan holds the scanner against encoding/json: what it accepts has to mean the same to both.
func FuzzScan(f *testing.F) {
	d := event.Draft{ID: "evt_1", Type: event.RunFailed, StepID: "stp_1", Payload: event.Failed(fault.New(fault.Timeout, "late").With("a", []int{1}))}
	f.Add(event.AppendEnvelope(nil, &head, &d, 3, at))
	f.Add([]byte(`{"event_id":"e","sequence":1,"time":"t","type":"x","tenant_id":"t","agent_id":"a","run_id":"r","step_id":null,"trace":null,"payload":{}}`))
	f.Add([]byte(`{"event":{"event_id":"e" , "sequence" : 1}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = event.ScanOwn(b) // must not run away
		v, err := event.Scan(b)
		if err != nil {
			return
		}
		got := v.Envelope()
		var wrapped struct {
			Event json.RawMessage `json:"event"`
		}
		inner := b
		if json.Unmarshal(b, &wrapped) == nil && len(wrapped.Event) > 0 && wrapped.Event[0] == '{' && bytes.HasPrefix(bytes.TrimSpace(b)[1:], []byte(`"event"`)) {
			inner = wrapped.Event
		}
		var want event.Envelope
		if err := json.Unmarshal(inner, &want); err != nil {
			t.Fatalf("accepted what isn't an envelope: %v", err)
		}
		if got.ID != want.ID || got.Sequence != want.Sequence || got.Type != want.Type || got.TenantID != want.TenantID ||
			got.RunID != want.RunID || got.AgentID != want.AgentID || got.Trace != want.Trace {
			t.Fatalf("scanned %+v, json says %+v", got, want)
		}
	})
}

func TestPayloads(t *testing.T) {
	for name, c := range map[string]struct{ got, want string }{
		"created":  {string(event.Created()), `{"status":"queued"}`},
		"asked":    {string(event.CancelAsked(`a"b`)), `{"by":"a\"b"}`},
		"canceled": {string(event.Canceled("usr_1")), `{"status":"canceled","by":"usr_1"}`},
		"failed": {
			string(event.Failed(fault.New(fault.Timeout, "late").With("timeout_ms", 5))),
			`{"status":"failed","error":{"code":"timeout","message":"late","retryable":true,"details":{"timeout_ms":5}}}`,
		},
		"failed without details": {
			string(event.Failed(fault.New(fault.StepLimit, "far"))),
			`{"status":"failed","error":{"code":"step_limit","message":"far","retryable":false,"details":{}}}`,
		},
		"completed": {string(event.Completed(json.RawMessage(`{"type":"text"}`))), `{"status":"completed","output":{"type":"text"}}`},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %s, want %s", name, c.got, c.want)
		}
	}
}

func BenchmarkAppendEnvelope(b *testing.B) {
	d := event.Draft{ID: "evt_01ARZ3NDEKTSV4RRFFQ69G5FAV", Type: event.ModelCompleted, StepID: "stp_01ARZ3NDEKTSV4RRFFQ69G5FAV", Payload: bytes.Repeat([]byte("x"), 300)}
	buf := make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		buf = event.AppendEnvelope(buf[:0], &head, &d, 12, at)
	}
}

func BenchmarkScanOwn(b *testing.B) {
	d := event.Draft{ID: "evt_01ARZ3NDEKTSV4RRFFQ69G5FAV", Type: event.ModelCompleted, Payload: []byte(`{"text":"` + strings.Repeat("x", 300) + `"}`)}
	stored := event.AppendEnvelope(nil, &head, &d, 12, at)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := event.ScanOwn(stored); err != nil {
			b.Fatal(err)
		}
	}
}
