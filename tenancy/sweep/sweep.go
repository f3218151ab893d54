// Package sweep is the leader's duty that ends what has an end: kept answers of commands, idempotency records, replaced
// secrets, and reservations that nobody settled. It sleeps until the first of them falls due, or until something is
// written that falls due sooner; it polls nothing.
//
// Room: who/quota. It imports tenancy and its children, storage and internal/….
package sweep

import (
	"context"
	"math"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
	"github.com/nexixai/agentos/tenancy/quota"
)

const (
	// piece is how many things of each kind one command ends: few enough not to hold up the writer.
	piece = 200
	// rest is the least time between two sweeps, so that they come in groups.
	rest = time.Second
	// longest is how far ahead the timer is set at most.
	longest = time.Hour
)

// Commands are the changes that this package makes to the store.
type Commands struct {
	sweep storage.Call[struct{}, outcome]
}

// outcome is what one sweep did and when the next has something to do.
type outcome struct {
	Ended int       `json:"ended"`
	More  bool      `json:"more"`
	Next  time.Time `json:"next"` // zero: nothing falls due
}

// Define adds the package's command to reg.
func Define(reg *storage.Registry) *Commands {
	return &Commands{sweep: storage.Define(reg, "tenancy.sweep", evalSweep)}
}

func evalSweep(tx storage.Tx, _ struct{}) (out outcome, err error) {
	for _, end := range []func(storage.Tx, int) (int, error){storage.SweepAnswers, tenancy.Sweep, quota.Expire} {
		n, err := end(tx, piece)
		if err != nil {
			return out, err
		}
		out.Ended += n
		out.More = out.More || n >= piece
	}
	for _, next := range []func(storage.Reader) (time.Time, bool, error){storage.NextAnswer, tenancy.NextDue} {
		t, ok, err := next(tx)
		if err != nil {
			return out, err
		}
		if ok && (out.Next.IsZero() || t.Before(out.Next)) {
			out.Next = t
		}
	}
	return out, nil
}

// Options says how to make a Sweeper. Store and Commands are needed.
type Options struct {
	Store    storage.Store
	Commands *Commands
	Logger   *zap.Logger
}

// Sweeper does the duty while its node leads.
type Sweeper struct {
	store storage.Store
	cmds  *Commands
	log   *zap.Logger

	armed    atomic.Int64 // Unix second at which the timer goes off; 0 while there's no need to wake anybody
	earliest atomic.Int64 // what was written since the last sweep began falls due at this second or later
	sooner   chan struct{}
	stops    []func()
}

var _ storage.Watcher = (*Sweeper)(nil)

// New returns a Sweeper and registers its duty with the store, which must not have been started.
func New(o Options) *Sweeper {
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	s := &Sweeper{store: o.Store, cmds: o.Commands, log: o.Logger, sooner: make(chan struct{}, 1)}
	for _, prefix := range []string{storage.AnswerKeys, tenancy.DuePrefix} {
		s.stops = append(s.stops, o.Store.Watch(prefix, s))
	}
	o.Store.Lead(s.lead)
	return s
}

// Close ends the watching. The duty itself ends with its office, or with the store.
func (s *Sweeper) Close() {
	for _, stop := range s.stops {
		stop()
	}
}

// Applied implements storage.Watcher: it wakes the duty when something falls due before its timer.
func (s *Sweeper) Applied(_ uint64, changes []storage.Change) {
	first := never
	for _, c := range changes {
		if c.Value != nil {
			first = min(first, second(c.Key))
		}
	}
	for {
		old := s.earliest.Load()
		if first >= old || s.earliest.CompareAndSwap(old, first) {
			break
		}
	}
	if first < s.armed.Load() {
		s.wake()
	}
}

// Jumped implements storage.Watcher.
func (s *Sweeper) Jumped(uint64) { s.wake() }

func (s *Sweeper) wake() {
	s.armed.Store(0)
	select {
	case s.sooner <- struct{}{}:
	default:
	}
}

const never = int64(math.MaxInt64)

// second reads the Unix second out of a key of either index: the twelve digits before the third slash or the second.
func second(key string) int64 {
	rest := key
	for range 3 {
		part, after, ok := strings.Cut(rest, "/")
		if n, err := strconv.ParseInt(part, 10, 64); len(part) == 12 && err == nil {
			return n
		}
		if !ok {
			break
		}
		rest = after
	}
	return 0 // of an unknown form: look
}

// lead sweeps until ctx ends.
func (s *Sweeper) lead(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	defer s.armed.Store(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-s.sooner:
		}
		wait := s.once(ctx)
		timer.Reset(wait)
	}
}

// once sweeps what is due and returns how long to sleep. What is written while it looks is noted in earliest, or, once the
// timer is armed, wakes the duty: nothing is missed, and writes don't keep it awake.
func (s *Sweeper) once(ctx context.Context) time.Duration {
	s.earliest.Store(never)
	for {
		out, _, err := s.cmds.sweep.Do(ctx, s.store, "", struct{}{})
		if err != nil {
			if ctx.Err() == nil {
				s.log.Warn("sweep failed; it will be tried again", zap.Error(err))
			}
			return rest
		}
		if out.More {
			continue
		}
		now := time.Now()
		wait := longest
		if !out.Next.IsZero() {
			wait = out.Next.Sub(now)
		}
		at := now.Add(min(max(wait, rest), longest))
		s.armed.Store(at.Unix())
		if first := s.earliest.Load(); first < at.Unix() {
			at = time.Unix(first, 0)
		}
		return max(at.Sub(now), rest)
	}
}
