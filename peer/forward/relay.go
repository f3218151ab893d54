package forward

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/agent/run"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/peer/registry"
)

// Pauses between tries.
const (
	firstPause = 50 * time.Millisecond
	longPause  = 2 * time.Second
	// refusedPause is the longest before a peer is asked again that has refused the run for now.
	refusedPause = 10 * time.Second
)

// relay is the life of one run that goes elsewhere, as far as this node holds it.
type relay struct {
	f     *Forwarder
	lease run.Lease
	ctx   context.Context
	end   context.CancelFunc
	wake  chan struct{} // capacity 1: look at the run

	it    *run.Forward // as it was loaded last
	asked int          // requests that were sent under its attempt, as far as this node can know
	heard time.Time    // when the peer gave its last sign of life
	tries int          // since then
	// carrying is set when a cancel is on its way to the executor.
	carrying bool
}

// errDone ends a relay: its run has ended, or is another node's.
var errDone = errors.New("forward: nothing left to do")

func newRelay(f *Forwarder, l run.Lease) *relay {
	r := &relay{f: f, lease: l, wake: make(chan struct{}, 1)}
	r.ctx, r.end = context.WithCancel(f.ctx)
	return r
}

func (r *relay) key() string { return r.lease.TenantID + "/" + r.lease.RunID }

func (r *relay) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *relay) log() *zap.Logger {
	return r.f.log.With(zap.String("tenant_id", r.lease.TenantID), zap.String("run_id", r.lease.RunID), zap.Uint64("epoch", r.lease.Epoch))
}

// work takes the run from phase to phase until there is nothing left to do for it here.
func (r *relay) work() {
	err := r.load()
	if err == nil && r.it.Phase != run.Held && !r.it.Unsent {
		r.asked = 1 // another node may have sent it, and died before it knew more
	}
	r.heard = time.Now()
	for err == nil && !r.it.Ended {
		switch r.it.Phase {
		case run.Held:
			err = r.offer()
		case run.Offered:
			err = r.ask()
		default:
			err = r.follow()
		}
	}
	if errors.Is(err, errDone) && r.ctx.Err() == nil && r.it != nil && r.it.Target().FinalAck {
		err = r.load() // it may be done because the run has ended
	}
	if err == nil && r.it.Ended {
		err = r.conclude()
	}
	if err != nil && !errors.Is(err, errDone) && r.ctx.Err() == nil {
		r.log().Error("a relay has ended without its run", zap.Error(err))
	}
}

// load reads the run, and begins to carry a cancel over when one was asked for.
func (r *relay) load() error {
	err := r.patiently(func() (err error) {
		r.it, err = r.f.o.Runs.LoadForward(r.ctx, r.lease)
		return err
	})
	if err == nil && r.it.Canceled && !r.it.Ended && r.it.Phase != run.Held && !r.carrying {
		r.carry(r.it)
	}
	return err
}

// carry begins to carry a cancel over.
func (r *relay) carry(it *run.Forward) {
	r.carrying = true
	r.f.relays.Go(func() { r.carryCancel(it) })
}

// valid returns errDone when the lease may be another's.
func (r *relay) valid() error {
	if r.f.o.Leases.Valid(r.lease) != nil {
		return errDone
	}
	return nil
}

// patiently asks the store again while it's only unavailable and the lease holds. A run that has ended, or is another's, is
// errDone; an error that says how far the journal has gone is returned.
func (r *relay) patiently(do func() error) error {
	for pause := firstPause; ; pause = min(2*pause, longPause) {
		err := do()
		var coded *fault.Error
		switch {
		case err == nil:
			return nil
		case r.ctx.Err() != nil:
			return errDone
		case errors.As(err, &coded) && coded.Code == fault.Conflict:
			if reason := coded.Details["reason"]; reason == "final" || reason == "fenced" {
				return errDone
			}
			return err
		case errors.As(err, &coded) && coded.Code == fault.NotFound:
			return errDone
		case coded == nil || coded.Code != fault.Unavailable && coded.Code != fault.Timeout:
			return err
		}
		if err := r.valid(); err != nil {
			return err
		}
		wait(r.ctx, nil, pause)
	}
}

// wait waits for news, or about as long as it's told, but not when ctx has ended.
func wait(ctx context.Context, news <-chan struct{}, d time.Duration) {
	t := time.NewTimer(d/2 + rand.N(d))
	defer t.Stop()
	select {
	case <-news:
	case <-t.C:
	case <-ctx.Done():
	}
}

// idle waits for a change of the peers, a signal, or d.
func (r *relay) idle(news <-chan struct{}, d time.Duration) error {
	t := time.NewTimer(d/2 + rand.N(d))
	defer t.Stop()
	select {
	case <-news:
	case <-t.C:
	case <-r.wake:
		return r.load()
	case <-r.ctx.Done():
		return errDone
	}
	return nil
}

// offer chooses who is asked, and notes that in the store before a byte is sent.
func (r *relay) offer() error {
	news := r.f.news()
	target, peer, ok := r.choose()
	if !ok {
		r.tries++
		return r.idle(news, longPause)
	}
	if err := r.valid(); err != nil {
		return err
	}
	offerID := id.New(id.Event)
	err := r.patiently(func() error { return r.f.o.Runs.Offer(r.ctx, r.lease, target, peer.StackID, offerID) })
	if err != nil {
		return err
	}
	r.asked, r.heard = 0, time.Now()
	return r.load()
}

// choose finds the next target with a node that can be asked, from the one whose turn it is.
func (r *relay) choose() (target int, peer registry.Peer, ok bool) {
	for i := range r.it.Targets {
		target = (r.it.Next + i) % len(r.it.Targets)
		if peer, ok = r.f.node(&r.it.Targets[target], r.tries); ok {
			return target, peer, true
		}
	}
	return 0, registry.Peer{}, false
}

// node finds a node of the target's cluster that answers: the one that the target names if it takes runs, else another that
// does, and after tries that failed the others in turn.
func (f *Forwarder) node(t *run.Target, tries int) (registry.Peer, bool) {
	var fit, busy []registry.Peer
	for _, p := range f.o.Peers.Peers() {
		if p.PeeringID != t.PeeringID || !p.Reachable || p.State != registry.PeerAdmitted {
			continue
		}
		if !p.Ready {
			busy = append(busy, p)
			continue
		}
		if p.StackID == t.StackID && len(fit) > 0 {
			p, fit[0] = fit[0], p
		}
		fit = append(fit, p)
	}
	if fit = append(fit, busy...); len(fit) == 0 {
		return registry.Peer{}, false
	}
	return fit[tries%len(fit)], true
}

// lost reports whether the peer has been silent for as long as the route bears.
func (r *relay) lost() bool {
	after := time.Duration(r.it.Target().LostAfterMS) * time.Millisecond
	return after > 0 && time.Since(r.heard) > after
}

// giveUp ends the run: its peer is lost (failure nil), or not to be believed.
func (r *relay) giveUp(failure *fault.Error) error {
	t := r.it.Target()
	outcome := "lost"
	if failure != nil {
		outcome = "disbelieved"
		r.log().Error("gave a peer up", zap.String("organization", t.Organization), zap.String("peer_stack_id", t.StackID), zap.Error(failure))
	} else {
		r.log().Warn("a peer is lost", zap.String("organization", t.Organization), zap.Duration("silent", time.Since(r.heard)))
	}
	err := r.patiently(func() error { return r.f.o.Runs.GiveUp(r.ctx, r.lease, r.it.Attempt, failure) })
	if err != nil {
		return err
	}
	r.f.observe(t.Organization, outcome, r.it.CreatedAt)
	return errDone
}
