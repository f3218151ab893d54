package model

import (
	"context"
	"errors"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/tenancy/quota"
)

// errOutOfTime is the cause of a call's context when the gateway's own bound ended it.
var errOutOfTime = errors.New("model: the call took longer than a call may take")

// Do implements Call.
func (c *chatCall) Do(ctx context.Context, sink func(Delta) error) (*ChatResult, error) {
	began := c.g.now()
	callCtx, cancel := context.WithTimeoutCause(ctx, c.g.o.Timeout, errOutOfTime)
	defer cancel()
	result := &ChatResult{
		PolicyOutcome: c.in,
		Route:         RouteTaken{Node: c.g.o.NodeID},
		Settlement:    quota.Settlement{ReservationID: c.reservation.ID},
	}
	var err error
	for i, m := range c.candidates {
		result.Route.Backend, result.Route.Model, result.Route.FallbackUsed = m.Backend, m.Model, i > 0
		var t *try
		t, err = c.attempt(ctx, callCtx, m, sink)
		if err == nil || t.spent() {
			err = c.finish(t, m, sink, result, err)
			break
		}
		result.Route.Attempts = append(result.Route.Attempts, Attempt{Backend: m.Backend, Model: m.Model, Code: string(fault.CodeOf(err))})
		if callCtx.Err() != nil || t.sinkErr != nil || !mayFallBack(err) {
			break
		}
	}
	result.LatencyMS = c.g.now().Sub(began).Milliseconds()
	return result, explainEnd(ctx, callCtx, err)
}

// try is one attempt at one backend and what came of it.
type try struct {
	resp    *ChatResponse
	filter  Filter
	text    strings.Builder // as the backend sent it
	calls   []ToolCall
	begun   bool // output has come
	sinkErr error
}

func (t *try) spent() bool { return t.begun || t.resp != nil }

// attempt asks one backend once and reports to the router how it went.
func (c *chatCall) attempt(ctx, callCtx context.Context, m candidate, sink func(Delta) error) (*try, error) {
	t := &try{}
	e := c.g.catalog.byName[m.Backend]
	if !e.inProcess {
		if err := c.g.o.Routes.Begin(m.Backend); err != nil {
			return t, err
		}
	}
	var own func(Delta) error
	if sink != nil {
		t.filter = c.rules.Stream()
		own = func(d Delta) error { return t.push(d, sink) }
	}
	began := c.g.now()
	resp, err := e.provider.Chat(callCtx, m.Model, c.bounded(m), own)
	if resp != nil && (err == nil || resp.Message.Content != "" || len(resp.Message.ToolCalls) > 0) {
		t.resp = resp
	}
	if err == nil && resp == nil {
		err = fault.New(fault.Internal, "The backend gave no answer.")
	}
	if !e.inProcess {
		left := ctx.Err() != nil || t.sinkErr != nil
		c.g.o.Routes.End(m.Backend, m.Model, Report{Err: err, Left: left, Latency: c.g.now().Sub(began)})
	}
	if err != nil {
		c.g.log.Debug("attempt at a model backend failed", zap.String("tenant_id", c.caller.Tenant.ID), zap.String("run_id", c.caller.RunID),
			zap.String("backend", m.Backend), zap.String("model", m.Model), zap.String("code", string(fault.CodeOf(err))), zap.Error(err))
	}
	return t, err
}

// bounded is the request as the backend gets it: with the bound of the answer that the limits leave.
func (c *chatCall) bounded(m candidate) *ChatRequest {
	if m.maxOutput == 0 || m.maxOutput == m.MaxOutputTokens || (c.req.MaxOutputTokens != nil && *c.req.MaxOutputTokens <= m.maxOutput) {
		return c.req
	}
	copied := *c.req
	copied.MaxOutputTokens = &m.maxOutput
	return &copied
}

func (t *try) push(d Delta, sink func(Delta) error) error {
	t.begun = true
	t.text.WriteString(d.Text)
	if d.ToolCall != nil {
		t.addCall(d.ToolCall)
	}
	return t.filter.Push(d, func(d Delta) error {
		t.sinkErr = sink(d)
		return t.sinkErr
	})
}

func (t *try) addCall(d *ToolCallDelta) {
	for len(t.calls) <= d.Index && len(t.calls) < maxToolCalls {
		t.calls = append(t.calls, ToolCall{})
	}
	if d.Index < 0 || d.Index >= len(t.calls) {
		return
	}
	call := &t.calls[d.Index]
	if d.ID != "" {
		call.ID = d.ID
	}
	if d.Name != "" {
		call.Name = d.Name
	}
	call.Arguments = append(call.Arguments, d.Arguments...)
}

// maxToolCalls bounds the tool calls of one answer.
const maxToolCalls = 128

// finish takes an answer, whole or broken off, through policy and meter into result. failure is why it broke off.
func (c *chatCall) finish(t *try, m candidate, sink func(Delta) error, result *ChatResult, failure error) error {
	if t.resp == nil {
		t.resp = &ChatResponse{Message: Message{Role: "assistant", Content: t.text.String(), ToolCalls: t.calls}}
	}
	result.Usage, result.Settlement = c.g.booked(c.caller, m.Info, OpChat, c.usage(m, t.resp), c.reservation.ID)
	message, outcome, err := c.rules.Answer(t.resp.Message)
	result.PolicyOutcome = merge(result.PolicyOutcome, outcome)
	if err != nil {
		return err
	}
	if failure == nil {
		c.name(message.ToolCalls)
	} else {
		message.ToolCalls = nil // half a call is none
	}
	result.Message, result.FinishReason = message, t.resp.FinishReason
	if t.filter != nil && t.sinkErr == nil {
		err = t.filter.Close(failure == nil, sink)
	}
	if failure != nil {
		return failure
	}
	return err
}

// usage returns what the backend says was spent, or else what the node counts.
func (c *chatCall) usage(m candidate, resp *ChatResponse) Usage {
	if resp.Usage != nil {
		return *resp.Usage
	}
	output, exact := c.g.o.Meter.CountMessage(m.Backend, m.Model, &resp.Message)
	return Usage{InputTokens: m.input, OutputTokens: output, Estimated: !exact || !m.exact}
}

// booked prices u and makes its settlement.
func (g *Gateway) booked(caller Caller, m Info, op string, u Usage, reservationID string) (Usage, quota.Settlement) {
	u.TotalTokens = satAdd(u.InputTokens, u.OutputTokens)
	nusd, known := g.o.Meter.Cost(m.Backend, m.Model, u)
	u.CostNUSD = nusd
	u.Estimated = u.Estimated || !known
	return u, quota.Settlement{ReservationID: reservationID, Usage: &quota.Usage{
		PrincipalID: caller.Auth.Principal.ID, AgentID: caller.AgentID, RunID: caller.RunID,
		Model: m.Backend + "/" + m.Model, Operation: op, Requests: 1,
		InputTokens: u.InputTokens, OutputTokens: u.OutputTokens, CostNUSD: u.CostNUSD, Estimated: u.Estimated,
	}}
}

// name finds the tools that an answer's calls mean. A call of what wasn't offered keeps no tool id, so nobody can run it.
func (c *chatCall) name(calls []ToolCall) {
	for i := range calls {
		calls[i].ToolID = ""
		for _, tool := range c.req.Tools {
			if tool.Name == calls[i].Name {
				calls[i].ToolID = tool.ID
				break
			}
		}
	}
}

// mayFallBack reports whether another backend may do better: the failure is one of this backend, not of the request.
func mayFallBack(err error) bool {
	code := fault.CodeOf(err)
	return code.Retryable() || code == fault.NotFound
}

// explainEnd turns the end of a context into the error that fits: the caller's own end stays what it is.
func explainEnd(ctx, callCtx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil && !fault.Is(err, fault.PolicyBlocked):
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return fault.New(fault.Timeout, "The model did not answer before the caller's deadline.").Because(ctx.Err())
		}
		return ctx.Err()
	case callCtx.Err() != nil && errors.Is(context.Cause(callCtx), errOutOfTime):
		return fault.New(fault.Timeout, "The model did not answer within the time a call may take; ask for a shorter answer, or again.").Because(errOutOfTime)
	}
	return err
}

// merge joins what policy did on the way in and on the way out.
func merge(in, out PolicyOutcome) PolicyOutcome {
	if len(out.Redactions) == 0 && out.Decision == Allowed {
		return in
	}
	if len(in.Redactions) == 0 && in.Decision == Allowed {
		return out
	}
	both := PolicyOutcome{Decision: in.Decision, Reasons: append([]string{}, in.Reasons...), Redactions: append([]Redaction{}, in.Redactions...)}
	if out.Decision == Blocked || both.Decision == Allowed {
		both.Decision = out.Decision
	}
	for _, r := range out.Reasons {
		if !slices.Contains(both.Reasons, r) {
			both.Reasons = append(both.Reasons, r)
		}
	}
	both.Redactions = append(both.Redactions, out.Redactions...)
	return both
}
