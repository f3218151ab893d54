package model

import (
	"context"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/tenancy/quota"
)

// Explanation says what a call would do: what policy makes of it, which models are tried in which order and why, and what
// would be held back.
type Explanation struct {
	Decision      Decision      `json:"decision"`
	PolicyOutcome PolicyOutcome `json:"policy_outcome"`
	Reservation   struct {
		Tokens  int64   `json:"tokens"`
		CostUSD float64 `json:"cost_usd"`
	} `json:"reservation"`
}

// Explain takes a call through every stage that changes nothing, and calls no backend. A call that policy blocks, or that
// no model fits, is explained, not refused; only a model_ref that names nothing the tenant may use is fault.NotFound.
func (g *Gateway) Explain(ctx context.Context, caller Caller, asked *ChatRequest) (*Explanation, error) {
	if err := validate(asked); err != nil {
		return nil, err
	}
	rules, err := g.o.Policy.Rules(ctx, caller.Tenant.ID, caller.policyID())
	if err != nil {
		return nil, err
	}
	req, outcome, blocked := rules.Request(asked)
	if blocked != nil && !fault.Is(blocked, fault.PolicyBlocked) {
		return nil, blocked
	}
	e := &Explanation{PolicyOutcome: outcome}
	c := g.newCall(caller, req, rules, outcome)
	err = c.route(true)
	e.Decision = c.decision
	switch {
	case fault.Is(err, fault.NotFound):
		return nil, err
	case err != nil || blocked != nil:
		return e, nil
	}
	if err := c.reserve(ctx); err != nil {
		return nil, err
	}
	e.hold(c.reservation)
	return e, nil
}

// ExplainEmbed is Explain for embeddings.
func (g *Gateway) ExplainEmbed(ctx context.Context, caller Caller, asked *EmbedRequest) (*Explanation, error) {
	c, err := g.prepareEmbed(ctx, caller, asked, true)
	e := &Explanation{Decision: c.decision, PolicyOutcome: c.outcome}
	switch {
	case err == nil:
		e.hold(c.reserve)
	case !fault.Is(err, fault.PolicyBlocked) && !fault.Is(err, fault.UnsupportedCapability):
		return nil, err
	}
	return e, nil
}

func (e *Explanation) hold(r quota.Reservation) {
	e.Reservation.Tokens, e.Reservation.CostUSD = r.Tokens, quota.USD(r.CostNUSD)
}
