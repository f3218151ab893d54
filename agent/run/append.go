package run

import (
	"bytes"
	"encoding/json"

	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/agent/queue"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
	"github.com/nexixai/agentos/tenancy/audit"
	"github.com/nexixai/agentos/tenancy/quota"
)

// MaxPayload bounds one event's payload, in bytes: an output of 256 KiB and what stands around it.
const MaxPayload = 256<<10 + 4<<10

// maxEvents bounds one append.
const maxEvents = 64

// validate checks an append before it's sent to the writer, and brings payloads onto one line.
func (a *Append) validate() error {
	if len(a.Events) == 0 || len(a.Events) > maxEvents {
		return fault.Invalid("events", "An append has 1 to %d events.", maxEvents)
	}
	for i := range a.Events {
		d := &a.Events[i]
		last := i == len(a.Events)-1
		switch {
		case !id.Valid(d.ID) || d.StepID != "" && !id.Valid(d.StepID) || d.SpanID != "" && !id.Valid(d.SpanID):
			return fault.Invalid("events", "Event %d has a broken id.", i)
		case d.Type == event.RunCreated || d.Type == event.CancelRequested || d.Type == event.ModelDelta:
			return fault.Invalid("events", "A worker doesn't write %s.", d.Type)
		case d.Type.Final() && !last:
			return fault.Invalid("events", "Nothing follows a final event.")
		}
		if len(d.Payload) == 0 && last {
			d.Payload = a.outcome(d.Type)
		}
		if len(d.Payload) > MaxPayload {
			return fault.New(fault.PayloadTooLarge, "An event's payload has at most %d bytes.", MaxPayload).With("field", "events")
		}
		if d.Payload[0] != '{' || !json.Valid(d.Payload) {
			return fault.Invalid("events", "The payload of event %d isn't a JSON object.", i)
		}
		if !oneLine(d.Payload) {
			var b bytes.Buffer
			if err := json.Compact(&b, d.Payload); err != nil {
				return fault.Invalid("events", "The payload of event %d isn't a JSON object.", i).Because(err)
			}
			d.Payload = b.Bytes()
		}
	}
	return nil
}

// outcome is the payload of a final event that was sent without one.
func (a *Append) outcome(t event.Type) json.RawMessage {
	switch {
	case t == event.RunCompleted && a.Output != nil:
		if raw, err := json.Marshal(a.Output); err == nil {
			return event.Completed(raw)
		}
	case t == event.RunFailed && a.Error != nil:
		return event.Failed(&fault.Error{Code: fault.Code(a.Error.Code), Message: a.Error.Message, Details: a.Error.Details})
	}
	return json.RawMessage("{}")
}

func oneLine(b []byte) bool { return bytes.IndexByte(b, '\n') < 0 && bytes.IndexByte(b, '\r') < 0 }

// evalAppend adds a worker's events to its run's journal, with all that rides along.
func (c *Commands) evalAppend(tx storage.Tx, a Append) (last uint64, err error) {
	st, err := readState(tx, keys{a.TenantID, a.RunID})
	if err != nil {
		return 0, err
	}
	if a.After < st.Sequence {
		if last, err = appended(tx, &a, st); err != nil || last > 0 {
			return last, err
		}
	}
	switch {
	case st.Status.Final():
		return 0, fault.New(fault.Conflict, "The run is %s; its journal is closed.", st.Status).With("reason", "final")
	case st.Session == "" || st.Session != a.SessionID || st.Epoch != a.Epoch:
		return 0, fault.New(fault.Conflict, "The run has gone to another worker.").With("reason", "fenced")
	case st.Sequence != a.After:
		return 0, fault.New(fault.Conflict, "The journal has gone on; read it, and decide again.").With("last_sequence", st.Sequence)
	}
	before := st.Status
	for i := range a.Events {
		d := &a.Events[i]
		if d.Type == event.StepStarted && st.Summary.Steps >= st.MaxSteps {
			return 0, fault.New(fault.StepLimit, "The run took all of its %d steps; allow more with run_options.max_steps.", st.MaxSteps).With("max_steps", st.MaxSteps)
		}
		if !oneLine(d.Payload) {
			return 0, fault.Invalid("events", "A payload has to be on one line.")
		}
		if err := st.append(tx, d); err != nil {
			return 0, err
		}
	}
	if err := c.ride(tx, st, &a); err != nil {
		return 0, err
	}
	if st.Status.Final() {
		if err := finish(tx, st); err != nil {
			return 0, err
		}
	}
	st.save(tx, before)
	return st.Sequence, nil
}

// appended reports whether a's events are in the journal already, where a would have put them: the answer to it was lost,
// and it's asked again. It returns the last sequence they have, 0 when they are not there.
func appended(r storage.Reader, a *Append, st *state) (last uint64, err error) {
	last = a.After + uint64(len(a.Events))
	if last > st.Sequence {
		return 0, nil
	}
	for i := range a.Events {
		raw, err := r.Get(event.Key(a.TenantID, a.RunID, a.After+1+uint64(i)))
		if err != nil || raw == nil {
			return 0, err
		}
		v, err := event.ScanOwn(raw)
		if err != nil {
			return 0, err
		}
		if string(v.ID) != a.Events[i].ID {
			return 0, nil
		}
	}
	return last, nil
}

// ride does what is to happen if, and only if, the events are appended.
func (c *Commands) ride(tx storage.Tx, st *state, a *Append) error {
	for _, s := range a.Settle {
		if err := quota.Settle(tx, a.TenantID, s); err != nil {
			return err
		}
		if s.ReservationID == st.Reserved {
			st.Reserved = ""
		}
	}
	if !a.ToolCall && a.Reserve == nil {
		return nil
	}
	tenant, err := c.tenants.Tenant(tx, a.TenantID)
	if err != nil {
		return err
	}
	if a.ToolCall {
		if err := quota.TakeToolCall(tx, tenant); err != nil {
			return err
		}
	}
	if a.Reserve == nil {
		return nil
	}
	if err := st.forfeit(tx); err != nil {
		return err
	}
	st.Reserved = a.Reserve.ID
	return quota.Reserve(tx, tenant, *a.Reserve)
}

// forfeit books what is still held back for a model call that will not be answered any more. st is not saved.
func (st *state) forfeit(tx storage.Tx) error {
	if st.Reserved == "" {
		return nil
	}
	lost := quota.Settlement{ReservationID: st.Reserved, Lost: true}
	st.Reserved = ""
	return quota.Settle(tx, st.tenantID, lost)
}

type settleArgs struct {
	TenantID string             `json:"tenant_id"`
	Settle   []quota.Settlement `json:"settle"`
}

// evalSettle books what an attempt spent that may write its journal no more.
func evalSettle(tx storage.Tx, a settleArgs) (none struct{}, err error) {
	for _, s := range a.Settle {
		if err := quota.Settle(tx, a.TenantID, s); err != nil {
			return none, err
		}
	}
	return none, nil
}

type cancelArgs struct {
	TenantID      string `json:"tenant_id"`
	RunID         string `json:"run_id"`
	EventID       string `json:"event_id"`
	By            string `json:"by"`
	CorrelationID string `json:"correlation_id"`
	// Peer is the trust domain at whose wish it is, "" for our own.
	Peer string `json:"peer,omitempty"`
	// Idem is the request's idempotency key, or nil.
	Idem *tenancy.Idempotency `json:"idem,omitempty"`
}

// evalCancel cancels once for each idempotency key. It returns the event id of the cancel that was done under it: another
// one than the asker's is a replay.
func evalCancel(tx storage.Tx, a cancelArgs) (eventID string, err error) {
	eventID, _, err = tenancy.Once(tx, a.TenantID, a.Idem, func() (string, error) {
		return a.EventID, endOnWish(tx, a)
	})
	return eventID, err
}

// endOnWish ends a run that nobody works on yet, and asks the worker of any other to end it. Asking again is harmless.
func endOnWish(tx storage.Tx, a cancelArgs) error {
	st, err := readState(tx, keys{a.TenantID, a.RunID})
	if err != nil {
		return err
	}
	if st.Status.Final() {
		again, err := endedBy(tx, st, a.EventID) // the same cancel, asked again
		if err != nil || again || st.hidden() {  // whoever asks is shown no end yet, so there is none to tell them of
			return err
		}
		return fault.New(fault.Conflict, "The run is %s already; there is nothing to cancel.", st.Status).With("status", string(st.Status))
	}
	if st.CancelMS != 0 {
		return nil
	}
	st.CancelBy = a.By
	if st.Remote.out() {
		err = st.recall(tx, &a)
	} else if st.Session == "" {
		err = st.end(tx, &event.Draft{ID: a.EventID, Type: event.RunCanceled, Payload: event.Canceled(a.By)})
	} else if err = st.append(tx, &event.Draft{ID: a.EventID, Type: event.CancelRequested, Payload: event.CancelAsked(a.By)}); err == nil {
		queue.Cancel(tx, st.lease())
		st.save(tx, st.Status)
	}
	if err != nil {
		return err
	}
	_, err = audit.Append(tx, audit.Record{
		TenantID: a.TenantID, Principal: a.By, Action: "run.cancel", Resource: "run/" + a.RunID, Outcome: "ok", CorrelationID: a.CorrelationID, Peer: a.Peer,
	})
	return err
}

// endedBy reports whether the run's final event is the one with this id.
func endedBy(r storage.Reader, st *state, eventID string) (bool, error) {
	raw, err := r.Get(event.Key(st.tenantID, st.runID, st.Sequence))
	if err != nil || raw == nil {
		return false, err
	}
	v, err := event.ScanOwn(raw)
	return string(v.ID) == eventID, err
}
