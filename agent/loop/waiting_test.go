package loop_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nexixai/agentos/agent/loop"
	"github.com/nexixai/agentos/agent/run"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/model"
)

// wall is where workers write what their runs wait for.
type wall struct {
	mu    sync.Mutex
	notes []run.Wait
	stuck bool // a note is not taken before it's too late
}

func (w *wall) NoteWait(ctx context.Context, one run.Wait) error {
	if w.stuck {
		<-ctx.Done()
		return ctx.Err()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.notes = append(w.notes, one)
	return nil
}

// limitedFor refuses tool calls with the given Retry-Afters, one after another.
func limitedFor(after ...time.Duration) func(a *run.Append) error {
	return func(a *run.Append) error {
		if !a.ToolCall || len(after) == 0 {
			return nil
		}
		next := after[0]
		after = after[1:]
		return fault.New(fault.RateLimited, "slow down").With("limit", "tool_calls_per_minute").After(next)
	}
}

// TestRuntime_tellsWaits: what takes long is told, with the limit and the time; what doesn't costs no write.
func TestRuntime_tellsWaits(t *testing.T) {
	const short, long = 400 * time.Millisecond, 5 * time.Second
	for name, c := range map[string]struct {
		after []time.Duration
		want  []time.Duration // from the run's beginning to the end of what was told
	}{
		"a short wait":              {after: []time.Duration{short}},
		"a long wait":               {after: []time.Duration{long}, want: []time.Duration{long}},
		"two long waits":            {after: []time.Duration{long, long}, want: []time.Duration{long, 2 * long}},
		"many short ones are long":  {after: []time.Duration{short, short, short, short, short}, want: []time.Duration{3 * short}},
		"a short one after a long ": {after: []time.Duration{long, short}, want: []time.Duration{long}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, notes := newHouse(t), &wall{}
				h.refuse = limitedFor(c.after...)
				h.start(t, func(o *loop.Options) { o.Waits = notes })
				began := time.Now()
				rec := h.create("/call tool.echo {}\n/say ok", run.RunOptions{})
				<-rec.final
				if rec.err != nil {
					t.Fatalf("%+v", rec.err)
				}
				if len(notes.notes) != len(c.want) {
					t.Fatalf("told %+v, want %d", notes.notes, len(c.want))
				}
				for i, one := range notes.notes {
					if got := one.Until.Sub(began).Round(time.Millisecond); got != c.want[i] {
						t.Errorf("until %v, want %v", got, c.want[i])
					}
					// created, started, the model's step and its end
					if one.For != run.ForQuota || one.Limit != "tool_calls_per_minute" || one.After != 6 || one.RunID != rec.work.RunID || one.Epoch != 1 {
						t.Errorf("told %+v", one)
					}
				}
			})
		})
	}
}

// TestRuntime_tellsModelWaits: a backend that is to be asked again later is told too.
func TestRuntime_tellsModelWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, notes := newHouse(t), &wall{}
		failed := false
		h.model = func(context.Context, *model.ChatRequest, func(model.Delta) error) (*model.ChatResult, error) {
			if !failed {
				failed = true
				return nil, fault.New(fault.RateLimited, "overloaded").After(7 * time.Second)
			}
			return &model.ChatResult{Message: model.Message{Role: "assistant", Content: "ok"}}, nil
		}
		h.start(t, func(o *loop.Options) { o.Waits = notes })
		began := time.Now()
		rec := h.create("hi", run.RunOptions{})
		<-rec.final
		if len(notes.notes) != 1 || notes.notes[0].For != run.ForModel || notes.notes[0].Limit != "" || notes.notes[0].Until.Sub(began) < 7*time.Second {
			t.Errorf("told %+v", notes.notes)
		}
	})
}

// TestRuntime_tellsWaitsInVain: where nobody takes the word, the run goes on in time all the same.
func TestRuntime_tellsWaitsInVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.refuse = limitedFor(5 * time.Second)
		h.start(t, func(o *loop.Options) { o.Waits = &wall{stuck: true} })
		began := time.Now()
		rec := h.create("/call tool.echo {}\n/say ok", run.RunOptions{})
		<-rec.final
		if took := time.Since(began); rec.err != nil || took != 5*time.Second {
			t.Errorf("took %v: %+v", took, rec.err)
		}
	})
}
