package model

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/tenancy"
	"github.com/nexixai/agentos/tenancy/quota"
)

// DefaultTimeout is how long one call of a model may take, all its attempts together.
const DefaultTimeout = 15 * time.Minute

// DefaultModelRef is what a call gets that names no model.
const DefaultModelRef = "tier:fast"

// settleGrace is how much longer than its call a reservation lives, so that the settlement of the last moment meets it.
const settleGrace = time.Minute

// Caller is on whose behalf a model is called.
type Caller struct {
	Auth   *tenancy.Auth
	Tenant *tenancy.Tenant
	// AgentID and RunID are set for calls that a run makes.
	AgentID, RunID string
	// PolicyID overrides the tenant's default policy; "" keeps it.
	PolicyID string
}

func (c Caller) policyID() string {
	if c.PolicyID != "" {
		return c.PolicyID
	}
	return c.Tenant.DefaultPolicyID
}

// ChatResult is a governed answer.
type ChatResult struct {
	Message       Message
	FinishReason  string
	Usage         Usage
	LatencyMS     int64
	PolicyOutcome PolicyOutcome
	Route         RouteTaken
	// Settlement books what was spent; whoever holds the reservation commits it. It is set also beside an error: without
	// usage it gives the reservation back.
	Settlement quota.Settlement
}

// EmbedResult is a governed answer with vectors.
type EmbedResult struct {
	Vectors    [][]float32
	Usage      Usage
	LatencyMS  int64
	Route      RouteTaken
	Settlement quota.Settlement
	PolicyOutcome
}

// Call is a chat call that has passed policy and routing, and whose reservation is known but not yet made. The loop of a
// run journals the reservation with its own event; direct calls go through Gateway.Chat, which commits it by itself.
type Call interface {
	// Reservation is what has to be held back before Do.
	Reservation() quota.Reservation
	// ModelRef is the request's, with the default filled in.
	ModelRef() string
	// Do asks the backends in the route's order and returns the governed answer. sink may be nil. Do is called once. The
	// result is never nil: beside an error it holds the settlement, the attempts, and what had come.
	Do(ctx context.Context, sink func(Delta) error) (*ChatResult, error)
}

// Options says how to make a Gateway. Policy, Routes and Meter are needed; without a Budget only Prepare can be used.
type Options struct {
	// Providers are the backends, in the order in which a bare model id is looked for.
	Providers []Provider
	Policy    Policy
	Routes    Router
	Meter     Meter
	Budget    Budget
	// NodeID is the stack_id shown as route.node.
	NodeID string
	// Timeout bounds one call with all its attempts; 0 means DefaultTimeout.
	Timeout time.Duration
	// CatalogTTL is how long a backend's list of models is believed; 0 means a minute.
	CatalogTTL time.Duration
	Logger     *zap.Logger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Gateway is the one way to a model. It is safe for concurrent use.
type Gateway struct {
	o       Options
	log     *zap.Logger
	now     func() time.Time
	catalog *catalog
}

// New returns a Gateway over o.Providers.
func New(o Options) (*Gateway, error) {
	switch {
	case o.Policy == nil:
		return nil, errors.New("model: Options.Policy is missing")
	case o.Routes == nil:
		return nil, errors.New("model: Options.Routes is missing")
	case o.Meter == nil:
		return nil, errors.New("model: Options.Meter is missing")
	}
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	if o.CatalogTTL <= 0 {
		o.CatalogTTL = time.Minute
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	c, err := newCatalog(o.Providers, o.CatalogTTL, o.Now)
	if err != nil {
		return nil, err
	}
	return &Gateway{o: o, log: o.Logger, now: o.Now, catalog: c}, nil
}

// Prepare takes a call through policy and routing and computes what has to be reserved for it. It changes nothing.
func (g *Gateway) Prepare(ctx context.Context, caller Caller, req *ChatRequest) (Call, error) {
	c, err := g.prepare(ctx, caller, req)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Chat is Prepare, reserve, Do and settle in one, for callers that keep no journal.
func (g *Gateway) Chat(ctx context.Context, caller Caller, req *ChatRequest, sink func(Delta) error) (*ChatResult, error) {
	c, err := g.prepare(ctx, caller, req)
	if err != nil {
		return nil, err
	}
	billing := billingID(caller, OpChat, req.RequestID, req)
	free, err := g.reserveDirect(ctx, caller, billing, c.reservation)
	if err != nil {
		return nil, err
	}
	result, err := c.Do(ctx, sink)
	if !free {
		g.settle(ctx, caller, billing, result.Settlement)
	}
	return result, err
}

// reserveDirect holds back what a direct call needs. When the caller leaves before the answer, what may have been reserved
// is given back.
func (g *Gateway) reserveDirect(ctx context.Context, caller Caller, billing string, r quota.Reservation) (bool, error) {
	free, err := g.o.Budget.Reserve(ctx, caller.Tenant.ID, billing, r)
	if err != nil && ctx.Err() != nil {
		g.settle(ctx, caller, "", quota.Settlement{ReservationID: r.ID})
	}
	return free, err
}

// settle ends a reservation whatever became of the caller. When it can't, the reservation expires by itself and counts as
// spent in full.
func (g *Gateway) settle(ctx context.Context, caller Caller, billing string, s quota.Settlement) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleGrace/2)
	defer cancel()
	if err := g.o.Budget.Settle(ctx, caller.Tenant.ID, billing, s); err != nil {
		g.log.Warn("settlement of a model call failed; its reservation will expire as spent",
			zap.String("tenant_id", caller.Tenant.ID), zap.String("reservation_id", s.ReservationID), zap.Error(err))
	}
}

// billingID is what makes two calls one for the books: the same principal sent the same request under the same id. It is
// empty when the caller chose no id. The request is part of it, so that an id can't be reused to get other answers free.
func billingID(caller Caller, operation, requestID string, req any) string {
	if requestID == "" {
		return ""
	}
	h := sha256.New()
	enc := json.NewEncoder(h)
	for _, part := range []any{caller.Auth.Principal.ID, operation, requestID, req} {
		if err := enc.Encode(part); err != nil {
			return ""
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// Models returns the models that t may use.
func (g *Gateway) Models(_ context.Context, t *tenancy.Tenant) ([]Info, error) {
	return g.o.Routes.Visible(t, g.catalog.all()), nil
}

// Check applies a ruleset to one text and calls nothing. ruleset "" is the caller's own.
func (g *Gateway) Check(ctx context.Context, caller Caller, text, ruleset string) (PolicyOutcome, string, error) {
	if ruleset == "" {
		ruleset = caller.policyID()
	}
	rules, err := g.o.Policy.Rules(ctx, caller.Tenant.ID, ruleset)
	if err != nil {
		return PolicyOutcome{}, "", err
	}
	texts, outcome, err := rules.Texts([]string{text}, "content.text")
	if fault.Is(err, fault.PolicyBlocked) {
		return outcome, "", nil // a blocked text is an answer here, no failure
	}
	if err != nil {
		return PolicyOutcome{}, "", err
	}
	return outcome, texts[0], nil
}

// Health asks every backend at once and returns what each said; nil is healthy.
func (g *Gateway) Health(ctx context.Context) map[string]error { return g.catalog.health(ctx) }

// Close stops what the gateway does on its own (looking which models there are) and waits for it.
func (g *Gateway) Close() { g.catalog.close() }

// newReservation returns an empty reservation that goes into the caller's books if it expires.
func (g *Gateway) newReservation(ctx context.Context, caller Caller, candidates []Info) quota.Reservation {
	now := g.now()
	end := now.Add(g.o.Timeout)
	if deadline, ok := ctx.Deadline(); ok && deadline.Before(end) && deadline.After(now) {
		end = deadline
	}
	r := quota.Reservation{
		ID: id.New(id.Reservation), Expires: end.Add(settleGrace).UTC(),
		PrincipalID: caller.Auth.Principal.ID, AgentID: caller.AgentID,
	}
	if len(candidates) > 0 {
		r.Model = candidates[0].ID
	}
	return r
}
