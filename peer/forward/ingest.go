package forward

import (
	"context"
	"encoding/json"

	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/agent/run"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
)

// MaxIngest is how many events one ingest may hold.
const MaxIngest = 1000

// Ingest is the body of events:ingest beside its events.
type Ingest struct {
	SourceStackID string `json:"source_stack_id"`
	Dedupe        struct {
		Mode string `json:"mode"`
	} `json:"dedupe"`
}

// Ingested is the answer to events:ingest. Duplicates count as rejected too.
type Ingested struct {
	Accepted   int         `json:"accepted"`
	Rejected   int         `json:"rejected"`
	Duplicates int         `json:"duplicates"`
	Rejections []Rejection `json:"rejections"`
}

// Rejection is an event that was not taken.
type Rejection struct {
	EventID          string       `json:"event_id"`
	Reason           event.Reason `json:"reason"`
	ExpectedSequence uint64       `json:"expected_sequence,omitempty"`
}

func (i *Ingested) add(eventID string, v run.Verdict) {
	if v.Reason == "" {
		i.Accepted++
		return
	}
	i.Rejected++
	if v.Reason == event.Duplicate {
		i.Duplicates++
	}
	i.Rejections = append(i.Rejections, Rejection{EventID: eventID, Reason: v.Reason, ExpectedSequence: v.Expected})
}

type ingestArgs struct {
	Token       *token       `json:"token,omitempty"` // of the first part alone
	PeeringID   string       `json:"peering_id"`
	TenantID    string       `json:"tenant_id"`
	TheirTenant string       `json:"their_tenant"`
	Events      []run.Pushed `json:"events"`
}

func (c *Commands) evalIngest(tx storage.Tx, a ingestArgs) ([]run.Verdict, error) {
	if _, err := active(tx, a.PeeringID); err != nil {
		return nil, err
	}
	if a.Token != nil {
		if err := a.Token.use(tx); err != nil {
			return nil, err
		}
	}
	return c.runs.Ingest(tx, a.PeeringID, a.TenantID, a.TheirTenant, a.Events)
}

// part is how much of an ingest goes into one command, in bytes.
const part = 512 << 10

// Ingest takes events that a peer pushes of runs which it executes for this organisation. by is nil when no peer pushes:
// then nothing is that caller's to push. What can't be read at all refuses the whole.
func (e *Executor) Ingest(ctx context.Context, by *Caller, tenantID string, in Ingest, events []json.RawMessage) (*Ingested, uint64, error) {
	out := &Ingested{Rejections: []Rejection{}}
	switch {
	case len(events) == 0 || len(events) > MaxIngest:
		return nil, 0, fault.Invalid("events", "An ingest holds 1 to %d events.", MaxIngest)
	case in.Dedupe.Mode != "" && in.Dedupe.Mode != "event_id":
		return nil, 0, fault.Invalid("ingest.dedupe.mode", "Events are told apart by event_id, and by nothing else.")
	case by != nil && in.SourceStackID != by.StackID:
		return nil, 0, fault.New(fault.Forbidden, "The source is not who sends.").With("field", "ingest.source_stack_id")
	}
	pushed := make([]run.Pushed, len(events))
	ids := make([]string, len(events))
	for i, raw := range events {
		v, err := event.Scan(raw)
		if err != nil {
			return nil, 0, fault.Invalid("events", "Event %d can't be read: %v", i, err)
		}
		pushed[i], ids[i] = run.Pushed{RunID: string(v.RunID), Raw: raw}, string(v.ID)
	}
	if by == nil {
		for i := range ids {
			out.add(ids[i], run.Verdict{Reason: event.NotOwner})
		}
		return out, 0, nil
	}
	first := tokenOf(by)
	args := ingestArgs{Token: &first, PeeringID: by.Peering.ID, TenantID: tenantID, TheirTenant: tenantID}
	if grant, ok := by.Peering.Import(tenantID); ok {
		args.TheirTenant = grant.TenantID
	}
	var index uint64
	for from := 0; from < len(pushed); {
		to, size := from, 0
		for to < len(pushed) && (to == from || size+len(pushed[to].Raw) <= part) {
			size += len(pushed[to].Raw)
			to++
		}
		args.Events = pushed[from:to]
		verdicts, at, err := e.o.Commands.ingest.Do(ctx, e.o.Store, "", args)
		if err != nil {
			return nil, 0, err
		}
		for i, v := range verdicts {
			out.add(ids[from+i], v)
		}
		args.Token, index, from = nil, at, to
	}
	return out, index, nil
}
