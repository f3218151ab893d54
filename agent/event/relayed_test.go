package event_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nexixai/agentos/agent/event"
)

var relayHead = event.Head{TenantID: "tnt_demo", AgentID: "agt_a", RunID: "run_1", Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}

func envelope(sequence uint64, t event.Type, payload string) []byte {
	d := event.Draft{ID: "evt_1", Type: t, StepID: "stp_1", Payload: []byte(payload)}
	return event.AppendEnvelope(nil, &relayHead, &d, sequence, time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC))
}

func TestCheckRelayed(t *testing.T) {
	good := envelope(3, event.RunStarted, `{"status":"running", "x": [1, 2]}`)
	_, kept, err := event.CheckRelayed(good, &relayHead, 2, relayHead.TenantID)
	if err != nil || !bytes.Equal(kept, good) {
		t.Fatalf("what AppendEnvelope made is kept as\n%s, %v, not as\n%s", kept, err, good)
	}
	bare := bytes.TrimSuffix(bytes.TrimPrefix(good, []byte(`{"event":`)), []byte("}"))
	if _, kept, err = event.CheckRelayed(bare, &relayHead, 2, relayHead.TenantID); err != nil || !bytes.Equal(kept, good) {
		t.Errorf("a bare envelope is kept as %s, %v", kept, err)
	}
	more := bytes.Replace(bare, []byte(`"payload":`), []byte(`"news":{"a":1},"payload":`), 1)
	if _, kept, err = event.CheckRelayed(more, &relayHead, 2, relayHead.TenantID); err != nil || !bytes.Equal(kept, good) {
		t.Errorf("an unknown member is kept: %s, %v", kept, err)
	}
	if _, kept, err = event.CheckRelayed(good, &relayHead, 2, "tnt_ours"); err != nil || !bytes.Equal(kept, bytes.Replace(good, []byte("tnt_demo"), []byte("tnt_ours"), 1)) {
		t.Errorf("as another tenant's it is kept as %s, %v", kept, err)
	}
	replace := func(old, with string) []byte { return []byte(strings.Replace(string(good), old, with, 1)) }
	for name, c := range map[string]struct {
		raw   []byte
		after uint64
		want  event.Reason
	}{
		"another tenant":     {replace("tnt_demo", "tnt_else"), 2, event.WrongTenant},
		"another run":        {replace(`"run_1"`, `"run_2"`), 2, event.NotOwner},
		"another agent":      {replace("agt_a", "agt_b"), 2, event.NotOwner},
		"repeated":           {good, 3, event.Duplicate},
		"skipped":            {good, 1, event.Gap},
		"forged created":     {envelope(3, event.RunCreated, `{}`), 2, event.TypeNotAllowed},
		"a type not known":   {replace("agentos.run.started", "agentos.run.bribed"), 2, event.TypeNotAllowed},
		"a delta":            {envelope(3, event.ModelDelta, `{}`), 2, event.TypeNotAllowed},
		"two lines":          {replace(`"x"`, "\n\"x\""), 2, event.Malformed},
		"odd spelling":       {replace(`"run_id"`, `"Run_Id"`), 2, event.Malformed},
		"twice":              {replace(`"run_id"`, `"tenant_id":"tnt_demo","run_id"`), 2, event.Malformed},
		"no time":            {replace("2026-01-02T03:04:05.006Z", "soon"), 2, event.Malformed},
		"an escaped id":      {replace("evt_1", `evt\u005f1`), 2, event.Malformed},
		"an id out of shape": {replace("evt_1", "evt 1"), 2, event.Malformed},
		"too long":           {envelope(3, event.RunStarted, `{"x":"`+strings.Repeat("y", event.MaxEnvelope)+`"}`), 2, event.Malformed},
		"no JSON":            {good[:len(good)-1], 2, event.Malformed},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := event.CheckRelayed(c.raw, &relayHead, c.after, relayHead.TenantID)
			var r *event.Rejection
			if !errors.As(err, &r) || r.Reason != c.want {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

func FuzzCheckRelayed(f *testing.F) {
	f.Add(envelope(3, event.RunStarted, `{"status":"running"}`))
	f.Add([]byte(`{"event_id":"e","sequence":3}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		_, kept, err := event.CheckRelayed(raw, &relayHead, 2, relayHead.TenantID)
		if err != nil {
			return
		}
		v, again, err := event.CheckRelayed(kept, &relayHead, 2, relayHead.TenantID)
		if err != nil || !bytes.Equal(again, kept) {
			t.Fatalf("what was kept is not kept again: %v\n%s\n%s", err, kept, again)
		}
		if string(v.TenantID) != relayHead.TenantID || string(v.RunID) != relayHead.RunID || v.Sequence != 3 {
			t.Fatalf("kept %s", kept)
		}
	})
}
