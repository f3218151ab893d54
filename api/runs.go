package api

import (
	"net/http"
	"strings"

	"github.com/nexixai/agentos/agent/run"
	"github.com/nexixai/agentos/internal/fault"
)

func (c *call) createRun() error {
	agentID, err := c.ident("agent_id")
	if err != nil {
		return err
	}
	var req run.Request
	if err := c.body(&req); err != nil {
		return err
	}
	switch {
	case c.key != "" && req.IdempotencyKey != "" && c.key != req.IdempotencyKey:
		return fault.Invalid("idempotency_key", "The header's Idempotency-Key and the body's idempotency_key differ.")
	case c.key != "":
		req.IdempotencyKey = c.key
	}
	by := c.actor()
	by.Idem = nil // the run keeps its own key, for as long as it lives
	if req.Options.DryRun {
		dry, err := c.s.o.Runs.DryRun(c.ctx(), by, agentID, req)
		if err != nil {
			return err
		}
		return c.reply(http.StatusOK, member{"dry_run", dry})
	}
	r, replayed, index, err := c.s.o.Runs.Create(c.ctx(), by, agentID, req, run.Meta{Traceparent: c.traceparent, CorrelationID: c.correlationID})
	if err != nil {
		return err
	}
	c.index = index
	return c.reply(c.posted(replayed), member{"run", r})
}

func (c *call) getRun() error {
	runID, err := c.ident("run_id")
	if err != nil {
		return err
	}
	read, err := c.read()
	if err != nil {
		return err
	}
	get := c.s.o.Runs.Get
	if c.peer != nil { // it's the peer that has forwarded the run
		get = c.s.o.Runs.GetWhole
	}
	r, index, err := get(c.ctx(), read, c.auth.TenantID, runID)
	if err != nil {
		return err
	}
	c.index = index
	return c.reply(http.StatusOK, member{"run", r})
}

func (c *call) listRuns() error {
	read, err := c.read()
	if err != nil {
		return err
	}
	cursor, limit, err := c.page()
	if err != nil {
		return err
	}
	f := run.Filter{AgentID: c.query.Get("agent_id"), Status: run.Status(c.query.Get("status"))}
	switch f.Status {
	case "", run.Queued, run.Running, run.Completed, run.Failed, run.Canceled:
	default:
		return fault.Invalid("status", "status is queued, running, completed, failed or canceled.")
	}
	for _, pair := range c.query["label"] {
		key, value, ok := strings.Cut(pair, ":")
		if !ok || key == "" {
			return fault.Invalid("label", "label is key:value.")
		}
		if f.Labels == nil {
			f.Labels = make(map[string]string)
		}
		if former, twice := f.Labels[key]; twice && former != value {
			return fault.Invalid("label", "The label %q is asked to have two values; no run has.", key)
		}
		f.Labels[key] = value
	}
	runs, next, index, err := c.s.o.Runs.List(c.ctx(), read, c.auth.TenantID, f, cursor, limit)
	if err != nil {
		return err
	}
	c.index = index
	return list(c, "runs", runs, next)
}

func (c *call) cancelRun() error {
	runID, err := c.ident("run_id")
	if err != nil {
		return err
	}
	r, replayed, index, err := c.s.o.Runs.Cancel(c.ctx(), c.actor(), runID)
	if err != nil {
		return err
	}
	if c.index = index; replayed {
		c.posted(true)
	}
	return c.reply(http.StatusOK, member{"run", r})
}

// runReceipt answers for runs that were forwarded; a run of this node has none.
func (c *call) runReceipt() error {
	if _, err := c.ident("run_id"); err != nil {
		return err
	}
	read, err := c.read()
	if err != nil {
		return err
	}
	if _, _, err := c.s.o.Runs.Get(c.ctx(), read, c.auth.TenantID, c.param("run_id")); err != nil {
		return err
	}
	return fault.New(fault.NotFound, "This run ran here; only forwarded runs end in a receipt.")
}
