package loop_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/nexixai/agentos/agent"
	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/agent/loop"
	"github.com/nexixai/agentos/agent/run"
	"github.com/nexixai/agentos/agent/tool"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/model"
	"github.com/nexixai/agentos/tenancy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRuntime_run(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.start(t, nil)
		rec := h.create("/call tool.echo {\"a\":1}\nhello", run.RunOptions{StreamEvents: true})
		<-rec.final
		const want = "created started step.started model.requested model.completed step.completed step.started tool.call.requested " +
			"tool.call.completed step.completed step.started model.requested model.completed step.completed completed"
		if got := h.types(rec); got != want {
			t.Errorf("journal\n%s\nwant\n%s", got, want)
		}
		if h.appends.Load() != 4 {
			t.Errorf("%d appends", h.appends.Load())
		}
		if rec.output == nil || rec.output.Text != `{"a":1}` {
			t.Errorf("output %+v", rec.output)
		}
		h.balanced(rec)
		if len(h.deltas) != 1 || h.deltas[0].Text != `{"a":1}` || h.deltas[0].StepID == "" || h.deltas[0].RunID != rec.work.RunID {
			t.Errorf("deltas %+v", h.deltas)
		}
	})
}

// TestRuntime_cancel: a cancel reaches the effect that is running, and what was spent is settled.
func TestRuntime_cancel(t *testing.T) {
	for name, input := range map[string]string{"model": "hello", "tool": "/call tool.slow {}"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHouse(t)
				begun := make(chan struct{})
				hang := func(ctx context.Context) error {
					close(begun)
					<-ctx.Done()
					return ctx.Err()
				}
				h.tool = func(ctx context.Context, _ *tool.Invocation) (json.RawMessage, error) { return nil, hang(ctx) }
				if name == "model" {
					h.model = func(ctx context.Context, _ *model.ChatRequest, _ func(model.Delta) error) (*model.ChatResult, error) {
						return nil, hang(ctx)
					}
				}
				h.start(t, nil)
				rec := h.create(input, run.RunOptions{})
				<-begun
				began := time.Now()
				h.cancel(rec)
				<-rec.final
				if took := time.Since(began); took > 0 {
					t.Errorf("took %v", took)
				}
				if by := h.payload(rec, event.RunCanceled)["by"]; by != "usr_b" {
					t.Errorf("by %v", by)
				}
				h.balanced(rec)
			})
		})
	}
}

func TestRuntime_deadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.tool = func(ctx context.Context, _ *tool.Invocation) (json.RawMessage, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		h.start(t, nil)
		rec := h.create("/call tool.slow {}", run.RunOptions{TimeoutMS: 1500})
		<-rec.final
		if took := time.Since(rec.work.CreatedAt); took != 1500*time.Millisecond {
			t.Errorf("took %v", took)
		}
		if rec.err == nil || rec.err.Code != "timeout" || rec.err.Details["timeout_ms"] != int64(1500) {
			t.Errorf("error %+v", rec.err)
		}
		if p := h.payload(rec, event.ToolCallCompleted); p["status"] != "timeout" {
			t.Errorf("tool.call.completed %v", p)
		}
		h.balanced(rec)
	})
}

// TestRuntime_toolTimeout: a tool that is too slow is the model's to hear about, and the run goes on.
//
// Requirements: A2.
func TestRuntime_toolTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.tool = func(ctx context.Context, _ *tool.Invocation) (json.RawMessage, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		h.start(t, nil)
		rec := h.create("/call tool.slow {}", run.RunOptions{TimeoutMS: 180_000})
		<-rec.final
		if p := h.payload(rec, event.ToolCallCompleted); p["status"] != "timeout" || p["duration_ms"] != 30_000.0 {
			t.Errorf("tool.call.completed %v", p)
		}
		if rec.output == nil || !strings.Contains(rec.output.Text, `"code":"timeout"`) {
			t.Errorf("the model did not hear of it: %+v", rec.output)
		}
	})
}

// TestRuntime_fenced: a worker whose lease is gone begins no effect and appends nothing more.
//
// Requirements: N6.
func TestRuntime_fenced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		begun, cause := make(chan struct{}), make(chan error, 1)
		calls := 0
		h.tool = func(ctx context.Context, _ *tool.Invocation) (json.RawMessage, error) {
			if calls++; calls > 1 {
				return json.RawMessage(`"again"`), nil
			}
			close(begun)
			<-ctx.Done()
			cause <- context.Cause(ctx)
			return nil, ctx.Err()
		}
		h.start(t, nil)
		rec := h.create("/call tool.slow {}\n/call tool.slow {}", run.RunOptions{})
		<-begun
		h.lease(rec)
		if err := <-cause; err == nil {
			t.Error("the tool was not cut off")
		}
		<-rec.final
		if got := h.payload(rec, event.RunStarted)["attempt"]; got != 2.0 {
			t.Errorf("attempt %v", got)
		}
		if n := strings.Count(h.types(rec), "tool.call.completed"); n != 2 || calls != 2 {
			t.Errorf("%d calls recorded, %d made: %s", n, calls, h.types(rec))
		}
	})
}

// TestRuntime_invalid: the lease is asked for right before an effect, not only when it was taken.
func TestRuntime_invalid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		asked := false
		h.model = func(context.Context, *model.ChatRequest, func(model.Delta) error) (*model.ChatResult, error) {
			asked = true
			return nil, errors.New("never")
		}
		h.valid = fault.New(fault.Unavailable, "lapsed")
		r := h.start(t, nil)
		h.create("hello", run.RunOptions{})
		synctest.Wait()
		if asked || r.Active() != 0 {
			t.Error("the model was asked under a lease that can't be trusted")
		}
	})
}

// TestRuntime_overtaken: a cancel that enters the journal between two appends is found by the next one.
func TestRuntime_overtaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		var rec *record
		h.tool = func(context.Context, *tool.Invocation) (json.RawMessage, error) {
			h.mu.Lock()
			defer h.mu.Unlock()
			rec.add(event.Draft{ID: "evt_x", Type: event.CancelRequested, Payload: json.RawMessage(`{"by":"usr_b"}`)})
			return json.RawMessage(`1`), nil
		}
		h.mu.Lock()
		h.refuse = func(*run.Append) error { return nil }
		h.mu.Unlock()
		ready := make(chan struct{})
		h.model = func(ctx context.Context, req *model.ChatRequest, sink func(model.Delta) error) (*model.ChatResult, error) {
			<-ready
			return echo(ctx, req, sink)
		}
		h.start(t, nil)
		rec = h.create("/call tool.slow {}", run.RunOptions{})
		close(ready)
		<-rec.final
		const want = "cancel_requested tool.call.completed step.completed canceled"
		if got := h.types(rec); !strings.HasSuffix(got, want) {
			t.Errorf("journal %s, want at its end %s", got, want)
		}
		if p := h.payload(rec, event.ToolCallCompleted); p["status"] != "ok" {
			t.Errorf("what had happened was not kept: %v", p)
		}
	})
}

// TestRuntime_unavailable: a store without a leader delays a run and fails nothing.
func TestRuntime_unavailable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		away := 0
		h.refuse = func(*run.Append) error {
			if away++; away%3 != 0 {
				return fault.New(fault.Unavailable, "no leader").With("service", "quorum")
			}
			return nil
		}
		h.start(t, nil)
		rec := h.create("/call tool.echo {}", run.RunOptions{})
		<-rec.final
		if rec.output == nil || h.appends.Load() != 12 {
			t.Errorf("output %v, %d appends", rec.output, h.appends.Load())
		}
	})
}

// TestRuntime_panic: what panics ends its own run alone.
func TestRuntime_panic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.model = func(ctx context.Context, req *model.ChatRequest, sink func(model.Delta) error) (*model.ChatResult, error) {
			if strings.Contains(req.Messages[0].Content, "boom") {
				panic("boom")
			}
			return echo(ctx, req, sink)
		}
		h.tool = func(context.Context, *tool.Invocation) (json.RawMessage, error) { panic("bang") }
		h.start(t, func(o *loop.Options) { o.Workers = 1 })
		bad, toolBad, good := h.create("boom", run.RunOptions{}), h.create("/call tool.slow {}", run.RunOptions{}), h.create("fine", run.RunOptions{})
		<-bad.final
		<-toolBad.final
		<-good.final
		if bad.err == nil || bad.err.Code != "internal_error" || strings.Contains(fmt.Sprint(*bad.err), "boom") {
			t.Errorf("error %+v", bad.err)
		}
		if !strings.HasSuffix(h.types(bad), "model.completed step.completed failed") {
			t.Errorf("journal %s", h.types(bad))
		}
		if p := h.payload(toolBad, event.ToolCallCompleted); p["status"] != "error" || strings.Contains(fmt.Sprint(p), "bang") {
			t.Errorf("tool.call.completed %v", p)
		}
		if good.output == nil || good.output.Text != "echo: fine" {
			t.Errorf("output %+v", good.output)
		}
	})
}

// TestRuntime_missing: a run whose agent has gone fails with a reason instead of staying queued.
func TestRuntime_missing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.start(t, func(o *loop.Options) { o.Agents = noAgents{} })
		rec := h.create("hello", run.RunOptions{})
		<-rec.final
		if rec.err == nil || rec.err.Code != "not_found" {
			t.Errorf("error %+v", rec.err)
		}
	})
}

type noAgents struct{ loop.Agents }

func (noAgents) Agent(context.Context, string, string) (*agent.Agent, []agent.Tool, error) {
	return nil, nil, fault.New(fault.NotFound, "There is no such agent.")
}

func TestRuntime_scope(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.scopes = []tenancy.Scope{tenancy.RunsCreate}
		h.start(t, nil)
		rec := h.create("/call tool.echo {\"x\":1}", run.RunOptions{})
		<-rec.final
		if p := h.payload(rec, event.ToolCallCompleted); p["status"] != "denied" {
			t.Errorf("tool.call.completed %v", p)
		}
	})
}

// TestRuntime_Drain: a drain lets steps end, hands back the rest, and takes nothing new; when its time is over it cuts.
//
// Requirements: N5.
func TestRuntime_Drain(t *testing.T) {
	t.Run("at a boundary", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHouse(t)
			begun, release := make(chan struct{}), make(chan struct{})
			h.tool = func(context.Context, *tool.Invocation) (json.RawMessage, error) {
				close(begun)
				<-release
				return json.RawMessage(`1`), nil
			}
			r := h.start(t, nil)
			rec := h.create("/call tool.slow {}", run.RunOptions{})
			<-begun
			drained := make(chan error, 1)
			go func() { drained <- r.Drain(t.Context()) }()
			synctest.Wait()
			close(release)
			if err := <-drained; err != nil {
				t.Fatal(err)
			}
			if l := <-h.handedBack; l.RunID != rec.work.RunID {
				t.Errorf("handed back %+v", l)
			}
			if got := h.types(rec); !strings.HasSuffix(got, "tool.call.completed step.completed") {
				t.Errorf("journal %s", got)
			}
			h.create("late", run.RunOptions{})
			synctest.Wait()
			if r.Active() != 0 || len(h.leases) != 1 {
				t.Error("took a lease while leaving")
			}
		})
	})
	t.Run("out of time", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := newHouse(t)
			begun := make(chan struct{})
			h.model = func(ctx context.Context, _ *model.ChatRequest, _ func(model.Delta) error) (*model.ChatResult, error) {
				close(begun)
				<-ctx.Done()
				return nil, ctx.Err()
			}
			r := h.start(t, nil)
			rec := h.create("hello", run.RunOptions{})
			<-begun
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if err := r.Drain(ctx); err != nil {
				t.Fatal(err)
			}
			<-h.handedBack
			h.balanced(rec)
			h.model = nil
			h.start(t, nil)
			h.lease(rec)
			<-rec.final
			if rec.output == nil || rec.output.Text != "echo: hello" {
				t.Errorf("output %+v, journal %s", rec.output, h.types(rec))
			}
		})
	})
}

// TestRuntime_load runs many runs on few workers at once.
func TestRuntime_load(t *testing.T) {
	h := newHouse(t)
	h.start(t, nil)
	var recs []*record
	for i := range 200 {
		recs = append(recs, h.create(fmt.Sprintf("/call tool.echo {\"n\":%d}", i), run.RunOptions{}))
	}
	for i, rec := range recs {
		<-rec.final
		if want := fmt.Sprintf(`{"n":%d}`, i); rec.output == nil || rec.output.Text != want {
			t.Fatalf("run %d: output %+v, want %s", i, rec.output, want)
		}
		h.balanced(rec)
	}
}

// BenchmarkRuntime measures the shell and the core for a run of three steps, with a store and a model that cost little.
func BenchmarkRuntime(b *testing.B) {
	h := newHouse(b)
	h.bare = true
	o := h.options()
	o.Deltas = nil
	r := loop.New(o)
	r.Start()
	defer r.Close()
	b.ReportAllocs()
	var left atomic.Int64
	for b.Loop() {
		left.Add(1)
		rec := h.create("/call tool.echo {\"a\":1}", run.RunOptions{})
		<-rec.final
	}
}
