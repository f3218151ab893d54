package run_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/agent/run"
)

// The whole table of a run's life, written out a second time: q, r are queued and running, C, F, X completed, failed and
// canceled, and '-' is what may not come.
func TestTransition(t *testing.T) {
	statuses := []run.Status{"", run.Queued, run.Running, run.Completed, run.Failed, run.Canceled}
	letters := map[byte]run.Status{'q': run.Queued, 'r': run.Running, 'C': run.Completed, 'F': run.Failed, 'X': run.Canceled}
	table := map[event.Type]string{ // of each status in turn
		event.RunCreated:        "q-----",
		event.RunStarted:        "-rr---",
		event.StepStarted:       "--r---",
		event.StepCompleted:     "--r---",
		event.ToolCallRequested: "--r---",
		event.ToolCallCompleted: "--r---",
		event.ModelRequested:    "--r---",
		event.ModelDelta:        "------",
		event.ModelCompleted:    "--r---",
		event.RunForwarded:      "-qr---",
		event.CancelRequested:   "-qr---",
		event.RunCompleted:      "--C---",
		event.RunFailed:         "-FF---",
		event.RunCanceled:       "-XX---",
		"agentos.other":         "------",
	}
	for typ, row := range table {
		for i, s := range statuses {
			got, ok := run.Transition(s, typ)
			want, wantOK := letters[row[i]]
			if ok != wantOK || ok && got != want {
				t.Errorf("%s when %q: got %q, %v; want %q, %v", typ, s, got, ok, want, wantOK)
			}
		}
	}
}

func TestProgress_Next(t *testing.T) {
	at := time.UnixMilli(1000)
	var p run.Progress
	for i, e := range []struct {
		typ     event.Type
		payload string
	}{
		{event.RunCreated, `{}`},
		{event.CancelRequested, `{}`},
		{event.RunStarted, `{}`},
		{event.RunStarted, `{}`}, // another attempt does not move the start
		{event.StepStarted, `{}`},
		{event.ModelRequested, `{}`},
		{event.ModelCompleted, `{"usage":{"input_tokens":1,"output_tokens":2,"total_tokens":3,"cost_usd":1.000000001}}`},
		{event.ModelCompleted, `{"output":{"usage":{"input_tokens":99}},"usage":null}`},
		{event.ToolCallRequested, `{}`},
		{event.RunCanceled, `{}`},
	} {
		if err := p.Next(e.typ, []byte(e.payload), at.Add(time.Duration(i)*time.Millisecond)); err != nil {
			t.Fatal(err)
		}
	}
	want := run.Progress{
		Status: run.Canceled, Sequence: 10, Summary: run.Summary{Steps: 1, ToolCalls: 1, ModelCalls: 1},
		InputTokens: 1, OutputTokens: 2, TotalTokens: 3, CostNUSD: 1_000_000_001,
		CancelMS: 1001, StartedMS: 1002, CompletedMS: 1009,
	}
	if p != want {
		t.Errorf("got %+v, want %+v", p, want)
	}
	if err := p.Next(event.RunCompleted, nil, at); err == nil || p != want {
		t.Error("something followed the end")
	}
	for _, bad := range []string{
		`{"usage":{"input_tokens":-1}}`, `{"usage":{"input_tokens":1.5}}`, `{"usage":{"input_tokens":99999999999999999999}}`,
		`{"usage":{"cost_usd":-1}}`, `{"usage":{"cost_usd":1e9}}`, `{"usage":{"cost_usd":0.0000000001}}`, `{"usage":{"cost_usd":"1"}}`, `{"usage":`,
	} {
		p := run.Progress{Status: run.Running, Sequence: 2}
		if err := p.Next(event.ModelCompleted, []byte(bad), at); err == nil {
			t.Errorf("%s was taken as %+v", bad, p)
		}
	}
}

func TestNanoUSD(t *testing.T) {
	for s, want := range map[string]int64{
		"0": 0, "1": 1e9, "0.5": 5e8, "0.000000001": 1, "12.34": 12_340_000_000, "null": 0, "1000000": 1e15,
		"": -1, ".": 0, "1.2.3": -1, "1000001": -1, "-1": -1, "NaN": -1, strings.Repeat("9", 40): -1,
	} {
		got, err := run.NanoUSD(s)
		if want < 0 {
			if err == nil {
				t.Errorf("%q was read as %d", s, got)
			}
			continue
		}
		if err != nil || got != want {
			t.Errorf("%q: got %d, %v, want %d", s, got, err, want)
		}
	}
}

// FuzzNext feeds what a worker sent to the fold: it may refuse, and must neither panic nor count below zero.
func FuzzNext(f *testing.F) {
	f.Add([]byte(`{"usage":{"input_tokens":1,"cost_usd":0.1}}`))
	f.Add([]byte(`{"usage":{"usage":{}},"usage":{"total_tokens":5}}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		p := run.Progress{Status: run.Running, Sequence: 2}
		if err := p.Next(event.ModelCompleted, payload, time.Unix(0, 0)); err != nil {
			if p.Sequence != 2 {
				t.Error("a refused event was counted")
			}
			return
		}
		if p.InputTokens < 0 || p.OutputTokens < 0 || p.TotalTokens < 0 || p.CostNUSD < 0 {
			t.Errorf("negative: %+v", p)
		}
	})
}
