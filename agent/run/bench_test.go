package run_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/agent/run"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
	"github.com/nexixai/agentos/tenancy/quota"
)

// capture is a store that keeps the command it's given instead of doing it, so that a benchmark can time the evaluation
// alone.
type capture struct {
	storage.Store
	last storage.Command
}

var errCaptured = errors.New("captured")

func (c *capture) Do(_ context.Context, cmd storage.Command) (any, uint64, error) {
	c.last = cmd
	return nil, 0, errCaptured
}

// limits are quotas that are all there, so that each is counted, and that no benchmark meets.
func limits() tenancy.Quotas {
	many, rate, usd := int64(1<<40), 1e9, 1e6
	return tenancy.Quotas{
		Runs:   tenancy.RunQuotas{MaxConcurrentRuns: &many, RunCreateQPS: &rate, RunCreateBurst: &many},
		Tools:  tenancy.ToolQuotas{ToolCallsPerMinute: &many},
		Models: tenancy.ModelQuotas{TokenBudget: &tenancy.TokenBudget{Window: "day", MaxTokens: &many, MaxCostUSD: &usd}},
	}
}

// BenchmarkEvaluate times what the writer does for each command of a run, without the engine around it: 64 commands are one
// group, as when as many callers ask at once.
func BenchmarkEvaluate(b *testing.B) {
	b.Run("create", func(b *testing.B) {
		w := mustWorld(b, limits())
		c := &capture{Store: w.store}
		service := run.New(run.Options{Store: c, Commands: w.commands, QueueCommands: w.queue, StackID: stackID})
		defer service.Close()
		benchmark(b, w, func(n int) storage.Command {
			req := text("summarize the quarterly report")
			req.IdempotencyKey = fmt.Sprint(n)
			req.Context.Labels = map[string]string{"team": "blue"}
			if _, _, _, err := service.Create(b.Context(), actor(tenantID), agentID, req, meta); !errors.Is(err, errCaptured) {
				b.Fatal(err)
			}
			return c.last
		})
	})
	started := draft(event.RunStarted, `{"status":"running","stack_id":"stk_one","attempt":1}`)
	b.Run("append", func(b *testing.B) {
		w := mustWorld(b, limits())
		lease := w.mustLease(b, text("hello"))
		benchmark(b, w, func(n int) storage.Command {
			d := started
			d.ID = id.New(id.Event)
			return storage.Command{Kind: "run.append", Args: run.Append{Lease: lease, After: uint64(n) + 1, Events: []event.Draft{d}}}
		})
	})
	b.Run("model-turn", func(b *testing.B) {
		w := mustWorld(b, limits())
		lease := w.mustLease(b, text("hello"))
		if _, err := w.runs.Append(b.Context(), run.Append{Lease: lease, After: 1, Events: []event.Draft{started}}); err != nil {
			b.Fatal(err)
		}
		reserved := ""
		benchmark(b, w, func(n int) storage.Command {
			a := run.Append{Lease: lease, After: 2 + uint64(n)}
			if n%2 == 0 {
				reserved = id.New(id.Reservation)
				a.Events = []event.Draft{draft(event.ModelRequested, `{"model_ref":"tier:fast","operation":"chat","input_summary":{"messages":2,"has_tools":true}}`)}
				a.Reserve = &quota.Reservation{ID: reserved, Tokens: 100, CostNUSD: 100_000, Expires: time.Now().Add(time.Minute)}
			} else {
				a.Events = []event.Draft{draft(event.ModelCompleted, `{"model_ref":"tier:fast","operation":"chat","status":"ok","usage":{"input_tokens":12,"output_tokens":30,"total_tokens":42,"cost_usd":0.000042},"latency_ms":3,"output":{"type":"chat","message":{"role":"assistant","content":"echo: hello"},"tool_calls":[]},"error":null}`)}
				a.Settle = []quota.Settlement{{ReservationID: reserved, Usage: &quota.Usage{
					PrincipalID: "usr_one", AgentID: agentID, RunID: lease.RunID, Model: "builtin/echo-1", Operation: "chat",
					Requests: 1, InputTokens: 12, OutputTokens: 30, CostNUSD: 42_000,
				}}}
			}
			return storage.Command{Kind: "run.append", Args: a}
		})
	})
	b.Run("whole-run", func(b *testing.B) { // create, start, complete
		w := mustWorld(b, limits())
		w.session.id, w.session.free = w.mustSession(b, stackID, 1000), 1
		c := &capture{Store: w.store}
		service := run.New(run.Options{Store: c, Commands: w.commands, QueueCommands: w.queue, StackID: stackID, Session: w.session})
		defer service.Close()
		runID := ""
		benchmark(b, w, func(n int) storage.Command {
			if n%3 == 0 {
				if _, _, _, err := service.Create(b.Context(), actor(tenantID), agentID, text("hello"), meta); !errors.Is(err, errCaptured) {
					b.Fatal(err)
				}
				runID = run.CreatedID(c.last.Args)
				return c.last
			}
			a := run.Append{Lease: run.Lease{TenantID: tenantID, RunID: runID, SessionID: w.session.id, Epoch: 1}, After: uint64(n % 3)}
			d := draft(event.RunStarted, `{"status":"running","stack_id":"stk_one","attempt":1}`)
			if n%3 == 2 {
				d = draft(event.RunCompleted, `{"status":"completed","output":{"type":"text","text":"echo: hello"}}`)
			}
			a.Events = []event.Draft{d}
			return storage.Command{Kind: "run.append", Args: a}
		})
	})
}

// benchmark evaluates b.N commands in groups.
func benchmark(b *testing.B, w *world, next func(n int) storage.Command) {
	const size = 63
	b.ResetTimer()
	w.writing = 0
	for n := 0; n < b.N; n += size {
		b.StopTimer()
		cmds := make([]storage.Command, 0, size)
		for i := n; i < min(n+size, b.N); i++ {
			cmds = append(cmds, next(i))
		}
		b.StartTimer()
		if _, _, err := w.group.Do(b.Context(), w.store, "", cmds); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(w.writing.Nanoseconds())/float64(b.N), "eval-ns/op") // without the store in memory
}
