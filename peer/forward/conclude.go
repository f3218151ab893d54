package forward

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/agent/run"
)

// How long a peer is told of the end of a run: between two tries, and in all.
const (
	concludePause = time.Minute
	concludeFor   = 7 * 24 * time.Hour
)

// conclude tells who was asked to work on the run how it has ended here, until that is known there or can't be.
func (r *relay) conclude() error {
	it, target := r.it, r.it.Target()
	body, err := json.Marshal(map[string]Final{"final": {Sequence: it.Last, EventID: it.LastID}})
	if err != nil {
		return fmt.Errorf("forward: encode: %w", err)
	}
	for tries := 0; time.Since(it.CompletedAt) < concludeFor; tries++ {
		news := r.f.news()
		if err := r.valid(); err != nil {
			return err
		}
		if peer, ok := r.f.node(&target, tries); ok {
			answer, err := r.f.timely(r.ctx, it, &peer, http.MethodPost, runPath+it.RunID+":conclude", body)
			var no *refusal
			switch {
			case err == nil:
				return r.told(late(it, answer))
			case errors.As(err, &no) && (no.status == http.StatusNotFound || no.status == http.StatusMethodNotAllowed):
				return r.told(nil) // neither this run, nor perhaps what is told, is known there
			}
			r.log().Info("a peer has not heard yet how a run ended", zap.String("peer_stack_id", peer.StackID), zap.Error(err))
			news = nil // it answers, and not as it should: no change of the peers to wait for
		}
		if err := r.rest(news, min(firstPause<<min(tries, 12), concludePause)); err != nil {
			return err
		}
	}
	return r.told(nil)
}

// rest waits for a change of the peers, a signal, or about as long as it's told.
func (r *relay) rest(news <-chan struct{}, d time.Duration) error {
	t := time.NewTimer(d/2 + rand.N(d))
	defer t.Stop()
	select {
	case <-news:
	case <-t.C:
	case <-r.wake:
	case <-r.ctx.Done():
		return errDone
	}
	return nil
}

// late is what a peer that was given up as lost has made of the run, if it has come to an end.
func late(it *run.Forward, answer []byte) *run.LateResult {
	var body struct {
		Concluded run.Concluded `json:"concluded"`
	}
	if !it.Lost || json.Unmarshal(answer, &body) != nil {
		return nil
	}
	c := &body.Concluded
	if !c.Superseded || c.Status == nil || !c.Status.Final() || c.CompletedAt == nil {
		return nil
	}
	return &run.LateResult{Status: *c.Status, CompletedAt: c.CompletedAt.UTC(), RemoteRunID: it.RunID}
}

// told notes that the peer knows, or never will.
func (r *relay) told(late *run.LateResult) error {
	if late != nil {
		r.log().Info("a peer that was given up had ended its run", zap.String("organization", r.it.Target().Organization), zap.String("status", string(late.Status)))
	}
	if err := r.patiently(func() error { return r.f.o.Runs.Told(r.ctx, r.lease, late) }); err != nil {
		return err
	}
	return errDone
}
