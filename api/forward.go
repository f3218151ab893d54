package api

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/nexixai/agentos/agent/run"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/internal/strictjson"
	"github.com/nexixai/agentos/peer/forward"
	"github.com/nexixai/agentos/storage"
)

// Executor takes runs that other organisations forward.
type Executor interface {
	Accept(ctx context.Context, by *forward.Caller, req *forward.Request, r *forward.RunRequest, create run.Request, meta run.Meta) (*forward.Forwarded, bool, uint64, error)
	Cancel(ctx context.Context, by *forward.Caller, runID, correlationID string) (index uint64, err error)
	Conclude(ctx context.Context, by *forward.Caller, runID string, end forward.Final, correlationID string) (run.Concluded, uint64, error)
	// Ingest takes events that a peer pushes; by is nil for a principal of this organisation.
	Ingest(ctx context.Context, by *forward.Caller, tenantID string, in forward.Ingest, events []json.RawMessage) (*forward.Ingested, uint64, error)
	// Owns returns nil when the run is one that by forwarded; at, when it isn't nil, is the last event that by has of it.
	Owns(ctx context.Context, r storage.Read, by *forward.Caller, runID string, at *forward.Place) error
}

var _ Executor = (*forward.Executor)(nil)

// forwardBody is the body of runs:forward.
type forwardBody struct {
	Forward *struct {
		forward.Request
		Auth *claimed `json:"auth"`
	} `json:"forward"`
}

// readForward reads the body of runs:forward: what is to be forwarded, and the run in it.
func (c *call) readForward() (*forward.Request, *forward.RunRequest, run.Request, error) {
	var none run.Request
	var body forwardBody
	if err := c.body(&body); err != nil {
		return nil, nil, none, err
	}
	f := body.Forward
	if f == nil {
		return nil, nil, none, fault.Invalid("forward", "The body is {\"forward\":{…}}.")
	}
	if err := c.agrees(f.Auth); err != nil && c.peer == nil {
		return nil, nil, none, err
	}
	if raw := bytes.TrimSpace(f.Run); len(raw) == 0 || raw[0] != '{' {
		return nil, nil, none, fault.Invalid("forward.run_request", "The run that is to be forwarded is missing.")
	}
	var r forward.RunRequest
	var create run.Request
	for _, into := range []any{&r, &create} {
		if err := strictjson.Decode(f.Run, into); err != nil {
			return nil, nil, none, strictjson.Within("forward.run_request", err)
		}
	}
	if r.AgentID == "" {
		return nil, nil, none, fault.Invalid("forward.run_request.agent_id", "The agent is missing.")
	}
	if !id.Valid(r.AgentID) {
		return nil, nil, none, fault.Invalid("forward.run_request.agent_id", "agent_id is 1 to %d of [A-Za-z0-9._-].", id.MaxLen)
	}
	if f.Traceparent != "" && c.r.Header.Get("traceparent") == "" {
		c.traceparent = nextTraceparent(f.Traceparent)
	}
	return &f.Request, &r, create, nil
}

// forwardRun makes a run where the caller wishes it to go.
func (c *call) forwardRun() error {
	req, r, create, err := c.readForward()
	if err != nil {
		return err
	}
	switch {
	case c.key != "" && create.IdempotencyKey != "" && c.key != create.IdempotencyKey:
		return fault.Invalid("forward.run_request.idempotency_key", "The header's Idempotency-Key and the body's idempotency_key differ.")
	case create.Options.DryRun:
		return errDryRun()
	case c.key != "":
		create.IdempotencyKey = c.key
	}
	by := c.actor()
	by.Idem = nil
	meta := run.Meta{Traceparent: c.traceparent, CorrelationID: c.correlationID, Selector: &req.Selector}
	made, replayed, index, err := c.s.o.Runs.Create(c.ctx(), by, r.AgentID, create, meta)
	if err != nil {
		return withinRun(err)
	}
	c.index = index
	if replayed {
		c.posted(true)
	}
	return c.reply(http.StatusOK, member{"forwarded", forward.Forwarded{
		TenantID: made.TenantID, RunID: made.ID, EventsURL: forward.EventsPath(made.ID), RemoteStackID: made.Placement.StackID,
		RemoteRunID: made.ID, RemoteEventsURL: forward.EventsPath(made.ID), Status: made.Status,
	}})
}

// withinRun names a field of the run that is to be forwarded as it stands in the body.
func withinRun(err error) error {
	switch field, _ := fault.Of(err).Details["field"].(string); {
	case !fault.Is(err, fault.InvalidRequest), field == "", strings.HasPrefix(field, "forward."):
		return err
	case strings.HasPrefix(field, "target_selector"):
		return within("forward", err)
	}
	return within("forward.run_request", err)
}

func errDryRun() error {
	return fault.Invalid("forward.run_request.run_options.dry_run", "Ask POST /v1/federation/routes:explain where a run would go.")
}

// sender is the peer that asks, as the wire's room knows it.
func (c *call) sender() *forward.Caller {
	return &forward.Caller{Peering: c.peer.peering, StackID: c.peer.id.Name, Auth: c.auth, Claims: c.peer.claims}
}

// acceptRun takes a run that a peer forwards.
func (c *call) acceptRun() error {
	req, r, create, err := c.readForward()
	if err != nil {
		return err
	}
	if create.Options.DryRun {
		return errDryRun()
	}
	if o := req.Origin; o != nil && !c.chosen && wellFormed(o.CorrelationID) {
		c.correlationID = o.CorrelationID
	}
	meta := run.Meta{Traceparent: c.traceparent, CorrelationID: c.correlationID}
	done, replayed, index, err := c.s.o.Executor.Accept(c.ctx(), c.sender(), req, r, create, meta)
	if err != nil {
		return withinRun(err)
	}
	if c.index = index; replayed {
		c.posted(true)
	}
	return c.reply(http.StatusOK, member{"forwarded", done})
}

// owned checks that the run is one that the asking peer has forwarded. at names the last event that it has, if it says so.
func (c *call) owned(at *forward.Place) error {
	runID, err := c.ident("run_id")
	if err != nil {
		return err
	}
	read, err := c.read()
	if err != nil {
		return err
	}
	return c.s.o.Executor.Owns(c.ctx(), read, c.sender(), runID, at)
}

// forwardedRun shows a peer a run that it has forwarded.
func (c *call) forwardedRun() error {
	if err := c.owned(nil); err != nil {
		return err
	}
	return c.getRun()
}

// forwardedEvents streams to a peer the journal of a run that it has forwarded.
func (c *call) forwardedEvents() error {
	after, err := c.resumeAt()
	if err != nil {
		return err
	}
	if err := c.owned(&forward.Place{Sequence: after, EventID: c.query.Get("after_event_id")}); err != nil {
		return err
	}
	return c.runEvents()
}

// cancelForwarded cancels a run at the wish of the peer that has forwarded it, or will.
func (c *call) cancelForwarded() error {
	runID, err := c.ident("run_id")
	if err != nil {
		return err
	}
	index, err := c.s.o.Executor.Cancel(c.ctx(), c.sender(), runID, c.correlationID)
	if err != nil {
		return err
	}
	c.index = index
	return c.reply(http.StatusOK, member{"cancel", json.RawMessage(`{"heard":true}`)})
}

// concludeForwarded takes in how a run has ended at the peer that has forwarded it.
func (c *call) concludeForwarded() error {
	runID, err := c.ident("run_id")
	if err != nil {
		return err
	}
	var body struct {
		Final *forward.Final `json:"final"`
	}
	if err := c.body(&body); err != nil {
		return err
	}
	if body.Final == nil {
		return fault.Invalid("final", "The body is {\"final\":{\"sequence\":…,\"event_id\":…}}.")
	}
	done, index, err := c.s.o.Executor.Conclude(c.ctx(), c.sender(), runID, *body.Final, c.correlationID)
	if err != nil {
		return err
	}
	c.index = index
	return c.reply(http.StatusOK, member{"concluded", done})
}

// ingestBody bounds events:ingest.
const ingestBody = 4 << 20

// ingestEvents takes events that a peer pushes of runs which it executes. On the API's own door nobody executes anything.
func (c *call) ingestEvents() error {
	var body struct {
		Events []json.RawMessage `json:"events"`
		Ingest forward.Ingest    `json:"ingest"`
	}
	if err := c.body(&body); err != nil {
		return err
	}
	var by *forward.Caller
	if c.peer != nil {
		by = c.sender()
	}
	done, index, err := c.s.o.Executor.Ingest(c.ctx(), by, c.auth.TenantID, body.Ingest, body.Events)
	if err != nil {
		return err
	}
	c.index = index
	return c.reply(http.StatusOK, member{"accepted", done.Accepted}, member{"rejected", done.Rejected}, member{"duplicates", done.Duplicates}, member{"rejections", done.Rejections})
}
