package model

import (
	"context"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/tenancy/quota"
)

// MaxEmbedTexts bounds the texts of one embedding call.
const MaxEmbedTexts = 2048

// Embed takes texts through the same stages as Chat.
func (g *Gateway) Embed(ctx context.Context, caller Caller, asked *EmbedRequest) (*EmbedResult, error) {
	if len(asked.Texts) == 0 || len(asked.Texts) > MaxEmbedTexts {
		return nil, fault.Invalid("input", "Send between 1 and %d texts; these are %d.", MaxEmbedTexts, len(asked.Texts))
	}
	rules, err := g.o.Policy.Rules(ctx, caller.Tenant.ID, caller.policyID())
	if err != nil {
		return nil, err
	}
	texts, outcome, err := rules.Texts(asked.Texts, "input.texts")
	if err != nil {
		return nil, err
	}
	req := *asked
	req.Texts = texts
	if req.ModelRef == "" {
		req.ModelRef = DefaultModelRef
	}
	decision, err := g.decide(g.query(caller, OpEmbed, req.ModelRef), nil)
	if err != nil {
		return nil, err
	}
	r := g.newReservation(ctx, caller, decision.Candidates)
	for _, m := range decision.Candidates {
		tokens, _ := g.o.Meter.CountTexts(m.Backend, m.Model, texts)
		if limit := caller.Tenant.Quotas.Models.MaxTokensPerRequest; limit != nil && tokens > *limit {
			return nil, overRequest(caller.Tenant.ID, *limit, tokens, nil)
		}
		nusd, _ := g.o.Meter.Cost(m.Backend, m.Model, Usage{InputTokens: tokens, TotalTokens: tokens})
		r.Tokens, r.CostNUSD = max(r.Tokens, tokens), max(r.CostNUSD, nusd)
	}
	billing := billingID(caller, OpEmbed, asked.RequestID, asked)
	free, err := g.reserveDirect(ctx, caller, billing, r)
	if err != nil {
		return nil, err
	}
	result, err := g.embed(ctx, caller, &req, decision.Candidates, r.ID)
	result.PolicyOutcome = outcome
	if !free {
		g.settle(ctx, caller, billing, result.Settlement)
	}
	return result, err
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
