package forward

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/agent/run"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/sse"
	"github.com/nexixai/agentos/peer/registry"
)

// What a relay takes of a stream before it appends.
const (
	groupEvents = 64
	groupBytes  = 512 << 10
)

// silence is how long a stream may be without any byte before it's taken for dead: executors send a heartbeat every 15 s.
const silence = 40 * time.Second

// follow reads what the executor tells, from where the journal ends, until the run has ended or the stream has.
func (r *relay) follow() error {
	news := r.f.news()
	target := r.it.Target()
	if r.lost() {
		return r.giveUp(nil)
	}
	peer, ok := r.f.node(&target, r.tries)
	if !ok {
		r.tries++
		return r.pauseFollowing(news, longPause)
	}
	if err := r.valid(); err != nil {
		return err
	}
	err := r.stream(&peer)
	var no *refusal
	var bad *event.Rejection
	switch {
	case err == nil:
	case errors.Is(err, errDone) || r.ctx.Err() != nil:
		return errDone
	case errors.As(err, &bad):
		return r.giveUp(r.disbelieve(bad))
	case errors.As(err, &no) && (no.status == http.StatusNotFound || no.status == http.StatusConflict):
		return r.giveUp(r.forgotten(no))
	default:
		r.log().Info("a peer's stream has broken off", zap.String("peer_stack_id", peer.StackID), zap.Uint64("last_sequence", r.it.Last), zap.Error(err))
	}
	r.tries++
	return r.pauseFollowing(nil, r.backoff(longPause))
}

// pauseFollowing waits, and hears of a cancel meanwhile.
func (r *relay) pauseFollowing(news <-chan struct{}, d time.Duration) error {
	if left := time.Duration(r.it.Target().LostAfterMS)*time.Millisecond - time.Since(r.heard); r.it.Target().LostAfterMS > 0 {
		d = max(min(d, left), time.Millisecond)
	}
	wait(r.ctx, news, d)
	if r.ctx.Err() != nil {
		return errDone
	}
	select {
	case <-r.wake:
		return r.look()
	default:
		return r.valid()
	}
}

// look reads the run anew while it's followed, for a cancel, and for whether it's still this relay's.
func (r *relay) look() error {
	return r.patiently(func() error {
		now, err := r.f.o.Runs.LoadForward(r.ctx, r.lease)
		if err == nil && now.Ended {
			return errDone
		}
		if err == nil && now.Canceled && !r.carrying {
			r.carry(now)
		}
		return err
	})
}

func (r *relay) disbelieve(bad *event.Rejection) *fault.Error {
	t := r.it.Target()
	e := fault.New(fault.Unavailable, "%s sent an event that can't be part of the run (%s: %s); the run was ended here after event %d.", t.Organization, bad.Reason, clip(bad.Detail), r.it.Last)
	return e.With("service", "peer").With("peer", t.Organization).With("reason", string(bad.Reason)).With("last_sequence", r.it.Last)
}

func (r *relay) forgotten(no *refusal) *fault.Error {
	t := r.it.Target()
	e := fault.New(fault.Unavailable, "%s took the run and does not know it any more as it was told here (%s); it was ended after event %d.", t.Organization, no.code, r.it.Last)
	return e.With("service", "peer").With("peer", t.Organization).With("peer_lost", true).With("last_sequence", r.it.Last)
}

// told is one frame of a stream, or its end.
type told struct {
	data  []byte
	delta bool
	gap   bool
	err   error
}

// stream follows one stream until it ends. nil says that it did without the run's end.
func (r *relay) stream(peer *registry.Peer) error {
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	response, err := r.open(ctx, peer)
	if err != nil {
		return err
	}
	var reading sync.WaitGroup
	defer func() { // whoever reads is woken by either, and waited for
		cancel()
		_ = response.Body.Close()
		reading.Wait()
	}()
	if response.StatusCode == http.StatusNoContent {
		return nil // it says that we have the final event: the store knows better
	}
	if response.StatusCode != http.StatusOK {
		raw, _ := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
		return refusalOf(response.StatusCode, raw)
	}
	body := &listening{r: response.Body}
	body.at.Store(time.Now().UnixNano())
	frames := make(chan told, groupEvents)
	reading.Go(func() { read(ctx, body, frames) })
	watch := time.NewTicker(r.watchEvery())
	defer watch.Stop()
	probed := make(chan bool, 1)
	for probing := false; ; {
		select {
		case <-ctx.Done():
			return errDone
		case <-r.wake:
			if err := r.look(); err != nil {
				return err
			}
		case <-watch.C:
			r.hear(body.last())
			if quiet := time.Since(body.last()); r.lost() || quiet > silence {
				return fmt.Errorf("forward: not a byte for %v", quiet.Round(time.Millisecond))
			}
			if err := r.valid(); err != nil {
				return err
			}
			if !probing && r.doubtful() {
				probing = true
				it := r.it
				r.f.relays.Go(func() { probed <- r.f.probe(ctx, it, peer) })
			}
		case alive := <-probed:
			if probing = false; alive {
				r.hear(time.Now())
			}
		case first := <-frames:
			if err := r.take(first, frames); err != nil {
				r.hear(body.last())
				return err
			}
		}
	}
}

// hear notes a sign of life.
func (r *relay) hear(at time.Time) {
	if at.After(r.heard) {
		r.heard = at
	}
}

// doubtful reports whether the peer should be asked for a sign of life: heartbeats come seldom enough for a route that bears
// less silence than lies between two of them.
func (r *relay) doubtful() bool {
	after := time.Duration(r.it.Target().LostAfterMS) * time.Millisecond
	return after > 0 && time.Since(r.heard) > after/3
}

// probe asks the peer about a run, beside its stream, and reports whether it answered that it has it.
func (f *Forwarder) probe(ctx context.Context, it *run.Forward, peer *registry.Peer) bool {
	_, err := f.timely(ctx, it, peer, http.MethodGet, runPath+it.RunID, nil)
	return err == nil
}

// watchEvery is how often a stream is looked at for silence.
func (r *relay) watchEvery() time.Duration {
	if after := r.it.Target().LostAfterMS; after > 0 {
		return max(min(time.Duration(after)*time.Millisecond/4, time.Second), 10*time.Millisecond)
	}
	return time.Second
}

func (r *relay) open(ctx context.Context, peer *registry.Peer) (*http.Response, error) {
	q := url.Values{"after_sequence": {strconv.FormatUint(r.it.Last, 10)}, "after_event_id": {r.it.LastID}}
	c := r.f.to(r.it, peer, http.MethodGet, EventsPath(r.lease.RunID)+"?"+q.Encode(), nil)
	c.Header = http.Header{"Accept": {"text/event-stream"}}
	return r.f.o.Wire.Do(ctx, c)
}

// listening notes when a byte came last.
type listening struct {
	r  io.Reader
	at atomic.Int64 // Unix nanoseconds
}

func (l *listening) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if n > 0 {
		l.at.Store(time.Now().UnixNano())
	}
	return n, err
}

func (l *listening) last() time.Time { return time.Unix(0, l.at.Load()) }

// read hands on the frames of a stream, and then its end, until ctx has ended.
func read(ctx context.Context, body io.Reader, out chan<- told) {
	frames := sse.NewReader(body, event.MaxEnvelope+1<<10)
	for {
		f, err := frames.Next()
		one := told{err: err}
		if err == nil {
			one = told{data: bytes.Clone(f.Data), delta: !f.HasID, gap: f.Event == "agentos.gap"}
		}
		select {
		case out <- one:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// partTime bounds how long an executor has to end its stream after the run's final event.
const partTime = time.Second

// leave waits for the end of a stream that has told all: only then does its connection serve the next call.
func leave(ctx context.Context, frames <-chan told) {
	ctx, cancel := context.WithTimeout(ctx, partTime)
	defer cancel()
	for {
		select {
		case one := <-frames:
			if one.err != nil {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// take appends first and all that has gathered behind it.
func (r *relay) take(first told, frames <-chan told) error {
	it := r.it
	theirs := it.Head()
	theirs.TenantID = it.Target().TenantID
	a := run.Relay{Lease: r.lease, Attempt: it.Attempt, After: it.Last}
	last, lastID, size := it.Last, it.LastID, 0
	var final event.Type
	var end error
	for one, more := first, true; more; {
		switch {
		case one.err != nil:
			end = one.err
		case one.gap:
			end = &event.Rejection{Reason: event.Gap, Detail: "it no longer has all of the run's events"}
		case one.delta:
			r.delta(&theirs, one.data)
		default:
			v, kept, err := event.CheckRelayed(one.data, &theirs, last, it.TenantID)
			switch {
			case err != nil:
				end = err
			case final != "":
				end = &event.Rejection{Reason: event.AfterFinal, Detail: "an event came after the final one"}
			default:
				a.Events = append(a.Events, kept)
				last, lastID = v.Sequence, string(v.ID)
				if size += len(kept); v.Final() {
					final = event.Type(v.Type)
				}
			}
		}
		if end != nil || len(a.Events) == groupEvents || size >= groupBytes {
			break
		}
		select {
		case one = <-frames:
		default:
			more = false
		}
	}
	if len(a.Events) > 0 {
		if err := r.relay(a); err != nil {
			return err
		}
		it.Last, it.LastID, r.tries, r.heard = last, lastID, 0, time.Now()
	}
	if final != "" {
		r.f.ended(it, final)
		if end == nil {
			leave(r.ctx, frames)
		}
		return errDone
	}
	if errors.Is(end, sse.ErrTooLong) {
		end = &event.Rejection{Reason: event.Malformed, Detail: "a frame is longer than any event may be"}
	}
	return end
}

// relay appends to the origin's journal. A refusal of the events themselves is a *event.Rejection.
func (r *relay) relay(a run.Relay) error {
	err := r.patiently(func() error {
		if err := r.valid(); err != nil {
			return err
		}
		_, err := r.f.o.Runs.Relay(r.ctx, a)
		return err
	})
	if fault.Is(err, fault.InvalidRequest) {
		return &event.Rejection{Reason: event.TypeNotAllowed, Detail: fault.Of(err).Message}
	}
	if fault.Is(err, fault.Conflict) { // the journal has gone on without this relay; begin anew from where it is
		return errors.Join(err, r.load())
	}
	return err
}

// delta passes on a piece of an answer. Pieces are not part of the journal: one that isn't what it should be is dropped.
func (r *relay) delta(theirs *event.Head, data []byte) {
	if r.f.o.Deltas == nil || len(data) > 64<<10 {
		return
	}
	var frame struct {
		Event struct {
			Type     event.Type  `json:"type"`
			TenantID string      `json:"tenant_id"`
			RunID    string      `json:"run_id"`
			StepID   string      `json:"step_id"`
			Trace    event.Trace `json:"trace"`
			Payload  struct {
				ModelRef string `json:"model_ref"`
				Text     string `json:"text"`
			} `json:"payload"`
		} `json:"event"`
	}
	e := &frame.Event
	if json.Unmarshal(data, &frame) != nil || e.Type != event.ModelDelta || e.TenantID != theirs.TenantID || e.RunID != theirs.RunID {
		return
	}
	r.f.o.Deltas(event.Delta{
		TenantID: r.it.TenantID, AgentID: r.it.AgentID, RunID: r.it.RunID, StepID: clip(e.StepID), SpanID: clip(e.Trace.SpanID),
		Traceparent: r.it.Traceparent, ModelRef: clip(e.Payload.ModelRef), Text: e.Payload.Text,
	})
}
