package forward

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/agent/run"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/peer/trust"
	"github.com/nexixai/agentos/tenancy"
)

// askTime bounds one call that is no stream, and maxAnswer its answer, in bytes.
const (
	askTime   = 10 * time.Second
	maxAnswer = 1 << 20
)

// refusal is a peer's answer that is an error.
type refusal struct {
	code    fault.Code
	message string
	status  int
	// attempt is up to which attempt the refusal is on record there; 0 when it isn't.
	attempt uint64
}

// Error implements error.
func (e *refusal) Error() string {
	return fmt.Sprintf("the peer answered %d %s: %s", e.status, e.code, e.message)
}

// ask sends the run until it's known to have been taken, or surely has not been.
func (r *relay) ask() error {
	news := r.f.news()
	target := r.it.Target()
	peer, ok := r.f.node(&target, r.tries)
	switch {
	case r.lost():
		return r.giveUp(nil)
	case !ok:
		return r.unreached(news)
	}
	if r.it.Canceled && r.asked == 0 { // nobody has it, and nobody shall
		return r.withdraw(&peer, fault.Conflict, "It was canceled before it was sent.", true)
	}
	if err := r.valid(); err != nil {
		return err
	}
	body, err := r.request(&peer)
	if err != nil {
		return err
	}
	began := time.Now()
	answer, err := r.f.timely(r.ctx, r.it, &peer, http.MethodPost, forwardPath, body)
	var no *refusal
	switch {
	case err == nil:
		r.heard, r.tries = time.Now(), 0
		return r.accepted(&peer, answer)
	case r.ctx.Err() != nil:
		return errDone
	case errors.As(err, &no):
		r.asked++
		if r.asked == 1 || no.attempt >= r.it.Attempt {
			r.f.observe(target.Organization, "refused", began)
			return r.withdraw(&peer, no.code, no.message, !no.code.Retryable() && no.code != fault.Unauthorized) // a peering may come back
		}
	case r.f.o.Wire.Unsent(err) && r.asked == 0:
		r.f.observe(target.Organization, "unreachable", began)
		return r.withdraw(&peer, fault.Unavailable, fmt.Sprintf("TCP %s could not be reached.", peer.Address), false)
	case !r.f.o.Wire.Unsent(err):
		r.asked++
	}
	r.log().Info("a peer's answer to a run is outstanding", zap.String("peer_stack_id", peer.StackID), zap.String("address", peer.Address), zap.Error(err))
	r.tries++
	return r.idle(nil, r.backoff(longPause))
}

// unreached waits for a node of the peer's to answer again; what was surely never sent can go to another.
func (r *relay) unreached(news <-chan struct{}) error {
	if r.asked == 0 {
		t := r.it.Target()
		return r.withdraw(&registry.Peer{Info: registry.Info{StackID: t.StackID}}, fault.Unavailable, "None of its nodes can be reached.", false)
	}
	r.tries++
	return r.idle(news, longPause)
}

// backoff grows, up to most, with the tries that came to nothing.
func (r *relay) backoff(most time.Duration) time.Duration {
	return min(firstPause<<min(r.tries, 10), most)
}

func (r *relay) withdraw(peer *registry.Peer, code fault.Code, message string, permanent bool) error {
	why := run.Refusal{Organization: r.it.Target().Organization, StackID: peer.StackID, Code: code, Message: message, Permanent: permanent}
	r.log().Info("a run was not taken", zap.String("organization", why.Organization), zap.String("peer_stack_id", why.StackID),
		zap.String("code", string(code)), zap.String("reason", message))
	err := r.patiently(func() error { return r.f.o.Runs.Withdraw(r.ctx, r.lease, r.it.Attempt, why) })
	if err != nil {
		return err
	}
	r.tries++
	if err := r.idle(nil, r.backoff(refusedPause)); err != nil {
		return err
	}
	return r.load()
}

// accepted takes the answer in and goes on to follow the run.
func (r *relay) accepted(peer *registry.Peer, answer []byte) error {
	var body struct {
		Forwarded Forwarded `json:"forwarded"`
	}
	if err := json.Unmarshal(answer, &body); err != nil || body.Forwarded.RunID != r.lease.RunID {
		return r.giveUp(fault.New(fault.Unavailable, "%s answered with another run than it was asked for.", r.it.Target().Organization).
			With("service", "peer").With("peer", r.it.Target().Organization))
	}
	r.f.observe(r.it.Target().Organization, "accepted", r.it.CreatedAt)
	r.log().Info("a peer has taken a run", zap.String("organization", r.it.Target().Organization), zap.String("peer_stack_id", peer.StackID))
	r.it.Phase = run.Accepted // the store learns it with the first event that comes back
	return nil
}

// request is the body with which the run is sent to a node.
func (r *relay) request(peer *registry.Peer) ([]byte, error) {
	it := r.it
	wanted, err := json.Marshal(RunRequest{
		AgentID: it.AgentID, Input: it.Request.Input, Context: it.Request.Context, Tooling: it.Request.Tooling, Options: it.Given,
		IdempotencyKey: it.Request.IdempotencyKey,
	})
	if err != nil {
		return nil, fmt.Errorf("forward: encode: %w", err)
	}
	journal := make([]json.RawMessage, len(it.Prefix))
	for i := range it.Prefix {
		journal[i] = it.Prefix[i]
	}
	body := map[string]Request{"forward": {
		Selector: run.Selector{StackID: peer.StackID}, Run: wanted, Traceparent: it.Traceparent,
		Origin: &Sender{
			ClusterID: r.f.o.ClusterID, StackID: r.f.o.StackID, TenantID: it.TenantID, RunID: it.RunID, Attempt: it.Attempt,
			RemainingMS: time.Until(it.Deadline).Milliseconds(), CorrelationID: it.CorrelationID, FinalAck: it.Target().FinalAck, Journal: journal,
		},
	}}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	if err := e.Encode(body); err != nil {
		return nil, fmt.Errorf("forward: encode: %w", err)
	}
	return out.Bytes(), nil
}

// call makes one call for a run's principal and returns the body of its answer. An error of the peer's is a *refusal.
func (f *Forwarder) call(ctx context.Context, it *run.Forward, peer *registry.Peer, method, path string, body []byte) ([]byte, error) {
	response, err := f.o.Wire.Do(ctx, f.to(it, peer, method, path, body))
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	if response.StatusCode/100 != 2 {
		return nil, refusalOf(response.StatusCode, raw)
	}
	return raw, nil
}

// timely is call within askTime.
func (f *Forwarder) timely(ctx context.Context, it *run.Forward, peer *registry.Peer, method, path string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	return f.call(ctx, it, peer, method, path, body)
}

func (f *Forwarder) to(it *run.Forward, peer *registry.Peer, method, path string, body []byte) Call {
	return Call{
		PeeringID: peer.PeeringID, StackID: peer.StackID, Address: peer.Address, Method: method, Path: path, Body: body, Claims: f.claims(it),
	}
}

// The rights that go with a run: those by which this node sees to it, whoever asked for it, and what the run itself may do,
// as far as its principal may.
var (
	seeing = [...]tenancy.Scope{tenancy.RunsCreate, tenancy.RunsRead, tenancy.RunsCancel}
	doing  = [...]tenancy.Scope{tenancy.ToolsInvoke, tenancy.ModelsInvoke, tenancy.MemoryRead, tenancy.MemoryWrite}
)

// claims are what the calls for a run say of it.
func (f *Forwarder) claims(it *run.Forward) trust.ForwardClaims {
	target := it.Target()
	scopes := slices.Clone(seeing[:])
	for _, s := range doing {
		if it.Auth.Has(s) {
			scopes = append(scopes, s)
		}
	}
	c := trust.ForwardClaims{
		Subject: it.Auth.Principal.ID, Audience: target.ClusterID, TenantID: target.TenantID, Scopes: scopes,
		PolicyContext: it.Auth.PolicyContext, Hops: it.Hops,
	}
	for _, hop := range it.Via { // who signs adds itself
		c.Actors = append(c.Actors, trust.ForwardActor{Node: hop.Node, ClusterID: hop.ClusterID})
	}
	return c
}

// refusalOf reads an answer that is an error. What can't be read is told by its status.
func refusalOf(status int, raw []byte) *refusal {
	var body struct {
		Error struct {
			Code    fault.Code `json:"code"`
			Message string     `json:"message"`
			Details struct {
				Attempt uint64 `json:"refused_attempt"`
			} `json:"details"`
		} `json:"error"`
	}
	e := &refusal{status: status, code: fault.Unavailable, message: "the answer was HTTP status " + strconv.Itoa(status)}
	if json.Unmarshal(raw, &body) == nil && body.Error.Code.Known() {
		e.code, e.message, e.attempt = body.Error.Code, clip(body.Error.Message), body.Error.Details.Attempt
	}
	return e
}

// clip bounds what a stranger's message takes of ours.
func clip(s string) string {
	const most = 512
	if len(s) > most {
		s = s[:most] + "…"
	}
	return s
}

// carryCancel carries a cancel to the executor until it has been heard there, or the relay has ended.
func (r *relay) carryCancel(it *run.Forward) {
	path := runPath + it.RunID + ":cancel?attempt=" + strconv.FormatUint(it.Attempt, 10)
	target := it.Target()
	pause := firstPause
	for tries := 0; r.ctx.Err() == nil; tries++ {
		news := r.f.news()
		peer, ok := r.f.node(&target, tries)
		if ok && r.valid() == nil {
			_, err := r.f.timely(r.ctx, it, &peer, http.MethodPost, path, nil)
			if err == nil {
				r.log().Info("a peer has heard of a cancel", zap.String("organization", target.Organization), zap.String("peer_stack_id", peer.StackID))
				return
			}
			r.log().Info("a cancel is outstanding", zap.String("peer_stack_id", peer.StackID), zap.Error(err))
			news = nil // it answers, and not as it should: no change of the peers to wait for
		}
		wait(r.ctx, news, pause)
		pause = min(2*pause, longPause)
	}
}
