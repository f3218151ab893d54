package model

import (
	"context"
	"math"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/tenancy/quota"
)

// unboundedOutput is what is held back for an answer that nothing bounds.
const unboundedOutput = 4096

// chatCall is a call between Prepare and Do.
type chatCall struct {
	g           *Gateway
	caller      Caller
	req         *ChatRequest // after policy
	rules       Rules
	in          PolicyOutcome
	decision    Decision
	candidates  []candidate
	reservation quota.Reservation
}

// candidate is a model of the route, with what the call may be at most there.
type candidate struct {
	Info
	input     int64
	exact     bool  // input is counted, not estimated
	maxOutput int64 // the smallest bound on the answer, 0 when there is none
	reserve   int64 // output tokens to hold back
}

func (m candidate) most() Usage {
	return Usage{InputTokens: m.input, OutputTokens: m.reserve, TotalTokens: satAdd(m.input, m.reserve)}
}

var _ Call = (*chatCall)(nil)

// Reservation implements Call.
func (c *chatCall) Reservation() quota.Reservation { return c.reservation }

// ModelRef implements Call.
func (c *chatCall) ModelRef() string { return c.req.ModelRef }

func (g *Gateway) prepare(ctx context.Context, caller Caller, asked *ChatRequest) (*chatCall, error) {
	if err := validate(asked); err != nil {
		return nil, err
	}
	rules, err := g.o.Policy.Rules(ctx, caller.Tenant.ID, caller.policyID())
	if err != nil {
		return nil, err
	}
	req, outcome, err := rules.Request(asked)
	if err != nil {
		return nil, err
	}
	c := g.newCall(caller, req, rules, outcome)
	if err := c.route(false); err != nil {
		return nil, err
	}
	return c, c.reserve(ctx)
}

func (g *Gateway) newCall(caller Caller, req *ChatRequest, rules Rules, outcome PolicyOutcome) *chatCall {
	if req.ModelRef == "" || req.RequestID == "" {
		copied := *req
		if copied.ModelRef == "" {
			copied.ModelRef = DefaultModelRef
		}
		if copied.RequestID == "" {
			copied.RequestID = id.New(id.Request)
		}
		req = &copied
	}
	return &chatCall{g: g, caller: caller, req: req, rules: rules, in: outcome}
}

func (c *chatCall) route(explain bool) (err error) {
	q := c.g.query(c.caller, OpChat, c.req.ModelRef)
	q.Explain, q.Requirements = explain, c.req.Requirements
	c.decision, err = c.g.decide(q, func(m Info) (Usage, error) {
		most, err := c.bound(m)
		return most.most(), err
	})
	return err
}

func (g *Gateway) query(caller Caller, op, ref string) RouteQuery {
	return RouteQuery{ModelRef: ref, Operation: op, Tenant: caller.Tenant, Backends: g.catalog.all()}
}

func (g *Gateway) decide(q RouteQuery, bound func(Info) (Usage, error)) (Decision, error) {
	if q.Requirements.MaxCostUSD > 0 {
		q.Cost = func(m Info) int64 {
			u, err := bound(m)
			if err != nil {
				return math.MaxInt64
			}
			nusd, _ := g.o.Meter.Cost(m.Backend, m.Model, u)
			return nusd
		}
	}
	return g.o.Routes.Decide(q)
}

// reserve computes what to hold back: enough for whichever candidate answers, and sets the bound of the answer.
func (c *chatCall) reserve(ctx context.Context) error {
	c.reservation = c.g.newReservation(ctx, c.caller, c.decision.Candidates)
	var refused error
	for _, m := range c.decision.Candidates {
		bounded, err := c.bound(m)
		if err != nil {
			refused = err
			continue
		}
		c.candidates = append(c.candidates, bounded)
		nusd, _ := c.g.o.Meter.Cost(m.Backend, m.Model, bounded.most())
		c.reservation.Tokens = max(c.reservation.Tokens, bounded.most().TotalTokens)
		c.reservation.CostNUSD = max(c.reservation.CostNUSD, nusd)
	}
	if len(c.candidates) == 0 {
		return refused
	}
	return nil
}

// bound returns what the call can be at most at m, or refuses a call that is over a limit already.
func (c *chatCall) bound(m Info) (candidate, error) {
	b := candidate{Info: m}
	b.input, b.exact = c.g.o.Meter.CountRequest(m.Backend, m.Model, c.req)
	if limit := c.rules.Limits().MaxInput; limit > 0 && b.input > limit {
		return b, fault.New(fault.PolicyBlocked, "The policy allows %d input tokens a call and this one has %d; send less.", limit, b.input).
			With("reasons", []string{"max_input_tokens"})
	}
	var err error
	if b.maxOutput, err = c.maxOutput(m, b.input); err != nil {
		return b, err
	}
	if b.reserve = b.maxOutput; b.reserve == 0 {
		b.reserve = unboundedOutput
	}
	if p, ok := c.g.catalog.byName[m.Backend].provider.(Bounded); ok {
		b.reserve = min(b.reserve, p.MaxOutput(m.Model, c.req))
	}
	return b, nil
}

// maxOutput returns the smallest of the bounds on the answer's tokens, 0 when nothing bounds it.
func (c *chatCall) maxOutput(m Info, input int64) (int64, error) {
	output := int64(0)
	least := func(bound int64) {
		if bound > 0 && (output == 0 || bound < output) {
			output = bound
		}
	}
	least(m.MaxOutputTokens)
	least(c.rules.Limits().MaxOutput)
	if asked := c.req.MaxOutputTokens; asked != nil {
		least(*asked)
	}
	if limit := c.caller.Tenant.Quotas.Models.MaxTokensPerRequest; limit != nil {
		if err := overRequest(c.caller.Tenant.ID, *limit, input, c.req.MaxOutputTokens); err != nil {
			return 0, err
		}
		least(*limit - input)
	}
	return output, nil
}

// overRequest refuses a call whose input leaves no room for an answer, or that asks for more than a request may have.
func overRequest(tenantID string, limit, input int64, asked *int64) error {
	used := input
	if asked != nil && *asked > limit {
		used = satAdd(input, *asked)
	}
	if used < limit {
		return nil
	}
	return fault.New(fault.QuotaExceeded, "One request may have %d tokens, input and answer together, and this one asks for %d; send less, or have max_tokens_per_request raised.", limit, max(used, input+1)).
		With("tenant_id", tenantID).With("limit", limit).With("used", used).With("reserved", int64(0)).
		With("window", "request").With("resets_at", nil).With("quota", "max_tokens_per_request")
}

func validate(req *ChatRequest) error {
	if len(req.Messages) == 0 {
		return fault.Invalid("messages", "A chat needs at least one message.")
	}
	for i := range req.Messages {
		switch req.Messages[i].Role {
		case "system", "user", "assistant", "tool":
		default:
			return fault.Invalid("messages", "Message %d has the role %q; use system, user, assistant or tool.", i, req.Messages[i].Role)
		}
	}
	if err := CheckGeneration(req.Temperature, req.TopP, req.MaxOutputTokens); err != nil {
		return err
	}
	if err := validateTools(req); err != nil {
		return err
	}
	return req.Requirements.validate()
}

// CheckGeneration refuses settings of an answer that no model could follow; nil leaves one to the model.
func CheckGeneration(temperature, topP *float64, maxOutputTokens *int64) error {
	switch {
	case maxOutputTokens != nil && *maxOutputTokens < 1:
		return fault.Invalid("max_output_tokens", "max_output_tokens must be at least 1; leave it out for the model's own bound.")
	case temperature != nil && !(*temperature >= 0 && *temperature <= 2):
		return fault.Invalid("temperature", "temperature is a number from 0 to 2.")
	case topP != nil && !(*topP >= 0 && *topP <= 1):
		return fault.Invalid("top_p", "top_p is a number from 0 to 1.")
	}
	return nil
}

// validateTools refuses tools that a model couldn't tell apart, and a choice of what isn't offered.
func validateTools(req *ChatRequest) error {
	names := make(map[string]bool, len(req.Tools))
	for i := range req.Tools {
		name := req.Tools[i].Name
		if name == "" || names[name] {
			return fault.Invalid("tools", "Tool %d has no name, or another one's; models know tools by their names.", i)
		}
		names[name] = true
	}
	switch choice := req.ToolChoice; {
	case choice == "", choice == "auto", choice == "none", names[choice]:
	case choice == "required" && len(names) > 0:
	default:
		return fault.Invalid("tool_choice", "tool_choice is auto, none, required, or the name of one of the tools.")
	}
	return nil
}

func (r *Requirements) validate() error {
	switch {
	case r.MaxLatencyMS < 0:
		return fault.Invalid("requirements.max_latency_ms", "max_latency_ms can't be negative; leave it out for no bound.")
	case !(r.MaxCostUSD >= 0) || math.IsInf(r.MaxCostUSD, 1):
		return fault.Invalid("requirements.max_cost_usd", "max_cost_usd is a number, 0 or above; leave it out for no bound.")
	case r.MinContextTokens < 0:
		return fault.Invalid("requirements.min_context_tokens", "min_context_tokens can't be negative; leave it out for no bound.")
	}
	return nil
}

func satAdd(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}
