package loop

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/agent"
	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/agent/queue"
	"github.com/nexixai/agentos/agent/run"
	"github.com/nexixai/agentos/agent/tool"
	"github.com/nexixai/agentos/model"
	"github.com/nexixai/agentos/tenancy"
	"github.com/nexixai/agentos/tenancy/quota"
)

// Runs is the store of runs, as a worker uses it.
type Runs interface {
	// Append adds to a journal. fault.Conflict with details.last_sequence says that the journal has gone on, without it
	// that the lease is no longer the writer's.
	Append(ctx context.Context, a run.Append) (last uint64, err error)
	// Load reads what a worker needs from the local copy; fault.Conflict when the lease is no longer the reader's.
	Load(ctx context.Context, l run.Lease) (*run.Work, error)
	// HandBack ends leases whose runs are unfinished, so that they go on elsewhere.
	HandBack(ctx context.Context, leases ...run.Lease) error
	// Settle books what was spent by an attempt that may write its journal no more.
	Settle(ctx context.Context, tenantID string, settle ...quota.Settlement) error
}

var _ Runs = (*run.Service)(nil)

// Leases says which runs are this node's to run.
type Leases interface {
	// Leases delivers each lease of this node's session once. It's closed when there will be no more.
	Leases() <-chan queue.Lease
	// Subscribe calls signal when a cancel of a leased run stands in the local copy of its journal, and when a lease was
	// lost, until stop is called. signal returns at once.
	Subscribe(signal func(tenantID, runID string)) (stop func())
	// Valid returns an error when l may be another's by now. It's asked right before each effect.
	Valid(l queue.Lease) error
}

var _ Leases = (*queue.Sessions)(nil)

// Waits takes note of what runs wait for.
type Waits interface {
	// NoteWait lets everybody know; it costs a write.
	NoteWait(ctx context.Context, w run.Wait) error
}

var _ Waits = (*run.Service)(nil)

// Agents finds what a run is to be.
type Agents interface {
	// Agent returns an agent and those of its tools that exist. Both are shared and never changed.
	Agent(ctx context.Context, tenantID, agentID string) (*agent.Agent, []agent.Tool, error)
}

var _ Agents = (*agent.Catalog)(nil)

// Tenants finds tenants.
type Tenants interface {
	// Tenant returns a tenant, which is shared and never changed.
	Tenant(ctx context.Context, tenantID string) (*tenancy.Tenant, error)
}

var _ Tenants = (*tenancy.Directory)(nil)

// Gateway is Stack B, as the loop uses it.
type Gateway interface {
	Prepare(ctx context.Context, caller model.Caller, req *model.ChatRequest) (model.Call, error)
}

var _ Gateway = (*model.Gateway)(nil)

// Tools calls tools.
type Tools interface {
	Invoke(ctx context.Context, in tool.Invocation) (output json.RawMessage, truncated bool, err error)
	Repeatable(t *agent.Tool, input json.RawMessage) bool
	Timeout(t *agent.Tool) time.Duration
}

var _ Tools = (*tool.Set)(nil)

// Observer counts. Its methods are called by workers, and return fast.
type Observer interface {
	// Step tells of a completed step: its kind (model, tool) and status (ok, error).
	Step(kind, status string, took time.Duration)
	// ToolCall tells of a completed tool call and its status (ok, error, timeout, denied).
	ToolCall(toolID, status string, took time.Duration)
	// Run tells of a run that this node has ended, and how long after its creation.
	Run(status run.Status, took time.Duration)
}

// DefaultWorkers is how many runs a node runs at once unless told otherwise.
const DefaultWorkers = queue.DefaultWorkers

// Options says how to make a Runtime.
type Options struct {
	StackID string
	Runs    Runs
	Leases  Leases
	Agents  Agents
	Tenants Tenants
	Gateway Gateway
	Tools   Tools
	// Waits may be nil: then nobody learns what a run waits for.
	Waits Waits
	// Deltas passes on pieces of answers to whoever follows the run; nil drops them.
	Deltas func(event.Delta)
	// Workers is how many runs are run at once; 0 means DefaultWorkers.
	Workers int
	// Observer may be nil.
	Observer Observer
	// Logger may be nil.
	Logger *zap.Logger
}

// Runtime runs the runs that are leased to this node, each by one of a fixed number of workers.
type Runtime struct {
	o   Options
	log *zap.Logger
	src Source

	ctx    context.Context // of everything; ended by Close
	cancel context.CancelCauseFunc
	taking context.Context // of waiting for leases; ended by Drain and Close
	leave  context.CancelFunc

	workers sync.WaitGroup

	mu      sync.Mutex
	running map[runKey]*worker
	stop    func() // of the signals
}

type runKey struct{ tenantID, runID string }

// Why an effect was cut off.
var (
	errClosed   = errors.New("loop: closed")
	errLeaving  = errors.New("loop: the node is leaving")
	errSignaled = errors.New("loop: a cancel was requested, or the lease was lost")
)

// New returns a Runtime; Start sets it to work.
func New(o Options) *Runtime {
	if o.Workers <= 0 {
		o.Workers = DefaultWorkers
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	r := &Runtime{o: o, log: o.Logger, src: NewSource(), running: make(map[runKey]*worker)}
	r.ctx, r.cancel = context.WithCancelCause(context.Background())
	r.taking, r.leave = context.WithCancel(r.ctx)
	return r
}

// Start begins to take leases. It is called once.
func (r *Runtime) Start() {
	r.stop = r.o.Leases.Subscribe(r.signal)
	leases := r.o.Leases.Leases()
	for range r.o.Workers {
		r.workers.Go(func() { r.take(leases) })
	}
}

// take works on one lease after another.
func (r *Runtime) take(leases <-chan queue.Lease) {
	for r.taking.Err() == nil {
		select {
		case <-r.taking.Done():
		case lease, ok := <-leases:
			if !ok {
				return
			}
			r.work(lease)
		}
	}
}

// Active is how many runs are being worked on.
func (r *Runtime) Active() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.running)
}

// drainGrace is how long Drain waits for steps that it has cut off to be recorded.
const drainGrace = 5 * time.Second

// Drain takes no more leases, lets each run come to the end of its step, and hands back what is unfinished. When ctx ends
// first, steps are cut off, and Drain returns once that is recorded, or the store could not record it for 5 s.
func (r *Runtime) Drain(ctx context.Context) error {
	r.leave()
	done := make(chan struct{})
	go func() {
		r.workers.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	r.mu.Lock()
	for _, w := range r.running {
		w.interrupt(errLeaving)
	}
	r.mu.Unlock()
	patience := time.NewTimer(drainGrace)
	defer patience.Stop()
	select {
	case <-done:
		return nil
	case <-patience.C:
		r.cancel(errClosed)
		<-done
		return ctx.Err()
	}
}

// Close ends everything at once and waits for it. What Drain has not handed back goes on elsewhere when the session ends.
func (r *Runtime) Close() {
	r.cancel(errClosed)
	r.leave()
	r.workers.Wait()
	if r.stop != nil {
		r.stop()
	}
}

// signal makes the run's worker look at its lease and its journal.
func (r *Runtime) signal(tenantID, runID string) {
	r.mu.Lock()
	w := r.running[runKey{tenantID, runID}]
	r.mu.Unlock()
	if w != nil {
		w.signal()
	}
}

// enter makes w the worker of its run; false when a worker with this lease, or a newer one, is at it already.
func (r *Runtime) enter(w *worker) bool {
	key := runKey{w.lease.TenantID, w.lease.RunID}
	r.mu.Lock()
	older := r.running[key]
	if older != nil && older.lease.Epoch >= w.lease.Epoch {
		r.mu.Unlock()
		return false
	}
	r.running[key] = w
	r.mu.Unlock()
	if older != nil {
		older.signal()
	}
	return true
}

func (r *Runtime) exit(w *worker) {
	key := runKey{w.lease.TenantID, w.lease.RunID}
	r.mu.Lock()
	if r.running[key] == w {
		delete(r.running, key)
	}
	r.mu.Unlock()
}
