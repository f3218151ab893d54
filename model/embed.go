package model

import (
	"cmp"
	"context"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/tenancy/quota"
)

// MaxEmbedTexts bounds the texts of one embedding call.
const MaxEmbedTexts = 2048

// embedCall is an embedding call that has passed policy and routing.
type embedCall struct {
	req      EmbedRequest // after policy
	outcome  PolicyOutcome
	decision Decision
	reserve  quota.Reservation
}

// Embed takes texts through the same stages as Chat.
func (g *Gateway) Embed(ctx context.Context, caller Caller, asked *EmbedRequest) (*EmbedResult, error) {
	c, err := g.prepareEmbed(ctx, caller, asked, false)
	if err != nil {
		return nil, err
	}
	billing := billingID(caller, OpEmbed, asked.RequestID, asked)
	free, err := g.reserveDirect(ctx, caller, billing, c.reserve)
	if err != nil {
		return nil, err
	}
	result, err := g.embed(ctx, caller, &c.req, c.decision.Candidates, c.reserve.ID)
	result.PolicyOutcome = c.outcome
	if !free {
		g.settle(ctx, caller, billing, result.Settlement)
	}
	return result, err
}

// prepareEmbed takes a call through policy and routing, and computes what has to be held back. It changes nothing. When
// no model fits, what was considered is returned beside the error.
func (g *Gateway) prepareEmbed(ctx context.Context, caller Caller, asked *EmbedRequest, explain bool) (*embedCall, error) {
	c := &embedCall{req: *asked}
	if err := c.req.validate(); err != nil {
		return c, err
	}
	rules, err := g.o.Policy.Rules(ctx, caller.Tenant.ID, caller.policyID())
	if err != nil {
		return c, err
	}
	var blocked error
	c.req.Texts, c.outcome, blocked = rules.Texts(asked.Texts, "input.texts")
	if blocked != nil && !(explain && fault.Is(blocked, fault.PolicyBlocked)) {
		return c, blocked
	}
	if c.req.ModelRef == "" {
		c.req.ModelRef = DefaultModelRef
	}
	usage := func(m Info) (Usage, error) {
		tokens, _ := g.o.Meter.CountTexts(m.Backend, m.Model, c.req.Texts)
		return Usage{InputTokens: tokens, TotalTokens: tokens}, nil
	}
	q := g.query(caller, OpEmbed, c.req.ModelRef)
	q.Explain, q.Requirements = explain, c.req.Requirements
	if c.decision, err = g.decide(q, usage); err != nil || blocked != nil {
		return c, cmp.Or(err, blocked)
	}
	c.reserve = g.newReservation(ctx, caller, c.decision.Candidates)
	for _, m := range c.decision.Candidates {
		u, _ := usage(m)
		if limit := caller.Tenant.Quotas.Models.MaxTokensPerRequest; limit != nil && u.InputTokens > *limit {
			return c, overRequest(caller.Tenant.ID, *limit, u.InputTokens, nil)
		}
		nusd, _ := g.o.Meter.Cost(m.Backend, m.Model, u)
		c.reserve.Tokens, c.reserve.CostNUSD = max(c.reserve.Tokens, u.InputTokens), max(c.reserve.CostNUSD, nusd)
	}
	return c, nil
}

func (r *EmbedRequest) validate() error {
	if len(r.Texts) == 0 || len(r.Texts) > MaxEmbedTexts {
		return fault.Invalid("input", "Send between 1 and %d texts; these are %d.", MaxEmbedTexts, len(r.Texts))
	}
	return r.Requirements.validate()
}

// embed asks the candidates in order. The result is never nil.
func (g *Gateway) embed(ctx context.Context, caller Caller, req *EmbedRequest, candidates []Info, reservationID string) (*EmbedResult, error) {
	began := g.now()
	callCtx, cancel := context.WithTimeoutCause(ctx, g.o.Timeout, errOutOfTime)
	defer cancel()
	result := &EmbedResult{Route: RouteTaken{Node: g.o.NodeID}, Settlement: quota.Settlement{ReservationID: reservationID}}
	var err error
	for i, m := range candidates {
		result.Route.Backend, result.Route.Model, result.Route.FallbackUsed = m.Backend, m.Model, i > 0
		var resp *EmbedResponse
		if resp, err = g.embedAt(ctx, callCtx, m, req); err == nil {
			usage := Usage{}
			if resp.Usage != nil {
				usage = *resp.Usage
			} else {
				tokens, exact := g.o.Meter.CountTexts(m.Backend, m.Model, req.Texts)
				usage = Usage{InputTokens: tokens, Estimated: !exact}
			}
			result.Vectors = resp.Vectors
			result.Usage, result.Settlement = g.booked(caller, m, OpEmbed, usage, reservationID)
			break
		}
		result.Route.Attempts = append(result.Route.Attempts, Attempt{Backend: m.Backend, Model: m.Model, Code: string(fault.CodeOf(err))})
		if callCtx.Err() != nil || !mayFallBack(err) {
			break
		}
	}
	result.LatencyMS = g.now().Sub(began).Milliseconds()
	return result, explainEnd(ctx, callCtx, err)
}

func (g *Gateway) embedAt(ctx, callCtx context.Context, m Info, req *EmbedRequest) (*EmbedResponse, error) {
	e := g.catalog.byName[m.Backend]
	if !e.inProcess {
		if err := g.o.Routes.Begin(m.Backend); err != nil {
			return nil, err
		}
	}
	began := g.now()
	resp, err := e.provider.Embed(callCtx, m.Model, req)
	if err == nil && (resp == nil || len(resp.Vectors) != len(req.Texts)) {
		err = fault.New(fault.Unavailable, "The backend %q did not give one vector for each text.", m.Backend).With("service", m.Backend)
	}
	if !e.inProcess {
		g.o.Routes.End(m.Backend, m.Model, Report{Err: err, Left: ctx.Err() != nil, Latency: g.now().Sub(began)})
	}
	if err != nil {
		return nil, err
	}
	return resp, nil
}
