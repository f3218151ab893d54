package forward

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/agent/queue"
	"github.com/nexixai/agentos/agent/run"
	"github.com/nexixai/agentos/internal/fault"
)

// Runs is the store of runs, as a relay uses it.
type Runs interface {
	LoadForward(ctx context.Context, l run.Lease) (*run.Forward, error)
	Offer(ctx context.Context, l run.Lease, target int, stackID, offerID string) error
	Withdraw(ctx context.Context, l run.Lease, attempt uint64, why run.Refusal) error
	Relay(ctx context.Context, r run.Relay) (last uint64, err error)
	GiveUp(ctx context.Context, l run.Lease, attempt uint64, failure *fault.Error) error
	Told(ctx context.Context, l run.Lease, late *run.LateResult) error
	HandBack(ctx context.Context, leases ...run.Lease) error
}

var _ Runs = (*run.Service)(nil)

// Leases says which relays are this node's.
type Leases interface {
	// Relays delivers each relay that is leased to this node once. It's closed when there will be no more.
	Relays() <-chan queue.Lease
	// Subscribe calls signal when a cancel was requested of a leased run, and when a lease was lost, until stop is called.
	Subscribe(signal func(tenantID, runID string)) (stop func())
	// Valid returns an error when l may be another's by now.
	Valid(l queue.Lease) error
}

var _ Leases = (*queue.Sessions)(nil)

// Observer counts. Its methods return fast.
type Observer interface {
	// Forwarded tells of a run's way to a peer: accepted, refused, unreachable or lost; and how long that took.
	Forwarded(organization, outcome string, took time.Duration)
	// Run tells of a run whose end this node has relayed, and how long after its creation.
	Run(status run.Status, took time.Duration)
}

// Options says how to make a Forwarder.
type Options struct {
	Runs   Runs
	Leases Leases
	Peers  Peers
	Wire   Wire
	// ClusterID and StackID are this node's.
	ClusterID, StackID string
	// Deltas passes on pieces of answers to whoever follows the run here; nil drops them.
	Deltas func(event.Delta)
	// Observer may be nil.
	Observer Observer
	Logger   *zap.Logger
}

// Forwarder works on the relays that are leased to this node.
type Forwarder struct {
	o   Options
	log *zap.Logger

	ctx    context.Context
	cancel context.CancelFunc
	stop   func() // of the signals
	relays sync.WaitGroup
	taking sync.WaitGroup

	mu      sync.Mutex
	at      map[string]*relay // by tenant/run
	changed chan struct{}     // closed when the peers have changed
}

// New returns a Forwarder; Start sets it to work.
func New(o Options) *Forwarder {
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	f := &Forwarder{o: o, log: o.Logger, at: make(map[string]*relay), changed: make(chan struct{})}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	return f
}

// Start begins to take relays. It is called once.
func (f *Forwarder) Start() {
	f.stop = f.o.Leases.Subscribe(f.signal)
	f.o.Peers.Listen(func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		close(f.changed)
		f.changed = make(chan struct{})
	})
	f.taking.Go(f.take)
}

func (f *Forwarder) take() {
	leases := f.o.Leases.Relays()
	for {
		select {
		case <-f.ctx.Done():
			return
		case l, ok := <-leases:
			if !ok {
				return
			}
			r := f.enter(l)
			f.relays.Go(func() {
				defer f.exit(r)
				r.work()
			})
		}
	}
}

// Active is how many relays this node holds.
func (f *Forwarder) Active() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.at)
}

// handBackTime bounds how long Close waits for the store.
const handBackTime = 5 * time.Second

// Close ends every relay at once, hands them back, and waits. The runs go on at other nodes, or here after the next start.
func (f *Forwarder) Close() {
	if f.stop == nil {
		f.cancel()
		return
	}
	f.mu.Lock()
	leases := make([]run.Lease, 0, len(f.at))
	for _, r := range f.at {
		leases = append(leases, r.lease)
	}
	f.mu.Unlock()
	f.cancel()
	f.stop()
	f.taking.Wait()
	f.relays.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), handBackTime)
	defer cancel()
	if err := f.o.Runs.HandBack(ctx, leases...); err != nil {
		f.log.Warn("relays not handed back; others take them when the session has ended", zap.Int("relays", len(leases)), zap.Error(err))
	}
}

func (f *Forwarder) enter(l run.Lease) *relay {
	r := newRelay(f, l)
	f.mu.Lock()
	former := f.at[r.key()]
	f.at[r.key()] = r
	f.mu.Unlock()
	if former != nil {
		former.end()
	}
	return r
}

func (f *Forwarder) exit(r *relay) {
	r.end()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.at[r.key()] == r {
		delete(f.at, r.key())
	}
}

// signal makes a relay look at its lease and its run.
func (f *Forwarder) signal(tenantID, runID string) {
	f.mu.Lock()
	r := f.at[tenantID+"/"+runID]
	f.mu.Unlock()
	if r != nil {
		r.signal()
	}
}

// news is closed at the next change of the peers.
func (f *Forwarder) news() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

func (f *Forwarder) observe(organization, outcome string, since time.Time) {
	if f.o.Observer != nil {
		f.o.Observer.Forwarded(organization, outcome, time.Since(since))
	}
}

// ended counts a run whose end was relayed.
func (f *Forwarder) ended(it *run.Forward, final event.Type) {
	f.observe(it.Target().Organization, "ended", it.CreatedAt)
	if f.o.Observer != nil {
		status := map[event.Type]run.Status{event.RunCompleted: run.Completed, event.RunFailed: run.Failed, event.RunCanceled: run.Canceled}[final]
		f.o.Observer.Run(status, time.Since(it.CreatedAt))
	}
}
