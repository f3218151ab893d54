package run

import (
	"errors"

	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
)

// Pushed is an event that the executor of a run has pushed, as it came.
type Pushed struct {
	RunID string `json:"run_id"`
	Raw   []byte `json:"raw"`
}

// Verdict is what became of a pushed event: taken (Reason ""), or why not.
type Verdict struct {
	Reason event.Reason `json:"reason,omitempty"`
	// Expected is the sequence that would have been taken, of a gap.
	Expected uint64 `json:"expected,omitempty"`
}

// Ingest takes events that an organisation pushes into the journals of runs that it executes for tenantID. It's part of a
// command that has proven who pushes: peeringID, which knows the tenant as theirTenant. The same events again are duplicates.
func (c *Commands) Ingest(tx storage.Tx, peeringID, tenantID, theirTenant string, events []Pushed) ([]Verdict, error) {
	in := ingest{tx: tx, peeringID: peeringID, tenantID: tenantID, theirTenant: theirTenant, at: make(map[string]*ingested)}
	out := make([]Verdict, len(events))
	for i := range events {
		v, err := in.one(&events[i])
		if err != nil {
			return nil, err
		}
		out[i] = v
	}
	return out, in.save()
}

type ingest struct {
	tx                               storage.Tx
	peeringID, tenantID, theirTenant string
	at                               map[string]*ingested
}

// ingested is a run that events were pushed for; nil st: it's not the pusher's.
type ingested struct {
	st      *state
	away    *away
	before  Status
	touched bool
}

// run finds the run, if the pusher executes it.
func (in *ingest) run(runID string) (*ingested, error) {
	if r := in.at[runID]; r != nil {
		return r, nil
	}
	r := new(ingested)
	in.at[runID] = r
	st, err := readState(in.tx, keys{in.tenantID, runID})
	if fault.Is(err, fault.NotFound) || err == nil && !st.Remote.out() {
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	a, err := readAway(in.tx, st.keys)
	if err == nil && a.Phase != Held && a.target().PeeringID == in.peeringID {
		r.st, r.away, r.before = st, a, st.Status
	}
	return r, err
}

func (in *ingest) one(p *Pushed) (Verdict, error) {
	r, err := in.run(p.RunID)
	if err != nil {
		return Verdict{}, err
	}
	if r.st == nil {
		return Verdict{Reason: event.NotOwner}, nil
	}
	st := r.st
	head := st.head()
	after := st.Sequence
	v, err := event.Scan(p.Raw)
	if err == nil && v.Sequence <= st.Sequence {
		after = v.Sequence - 1 // it may be one that is here already
	}
	if head.TenantID = in.theirTenant; string(v.TenantID) == in.tenantID {
		head.TenantID = in.tenantID // a pusher may write the tenant as it's called here
	}
	v, kept, err := event.CheckRelayed(p.Raw, &head, after, in.tenantID)
	var no *event.Rejection
	switch {
	case errors.As(err, &no) && no.Reason == event.Gap && st.Status.Final():
		return Verdict{Reason: event.AfterFinal}, nil
	case errors.As(err, &no):
		verdict := Verdict{Reason: no.Reason}
		if no.Reason == event.Gap {
			verdict.Expected = st.Sequence + 1
		}
		return verdict, nil
	case v.Sequence <= st.Sequence:
		return in.again(r, v.Sequence, kept)
	case st.Status.Final():
		return Verdict{Reason: event.AfterFinal}, nil
	}
	if err := st.take(in.tx, kept); err != nil {
		return Verdict{Reason: event.TypeNotAllowed}, nil //nolint:nilerr // the verdict is the answer
	}
	r.touched, r.away.Phase, r.away.Pushed = true, Accepted, v.Sequence
	return Verdict{}, nil
}

// again judges an event that the journal has already.
func (in *ingest) again(r *ingested, sequence uint64, kept []byte) (Verdict, error) {
	have, err := in.tx.Get(event.Key(in.tenantID, r.st.runID, sequence))
	switch {
	case err != nil:
		return Verdict{}, err
	case string(have) != string(kept):
		return Verdict{Reason: event.BodyChanged}, nil
	case sequence <= r.away.Pushed:
		return Verdict{Reason: event.Duplicate}, nil
	}
	r.touched, r.away.Pushed = true, sequence // relayed before, and pushed for the first time
	return Verdict{}, nil
}

func (in *ingest) save() error {
	for _, r := range in.at {
		if !r.touched {
			continue
		}
		if err := r.away.save(in.tx, r.st.keys); err != nil {
			return err
		}
		if r.st.Status.Final() && !r.before.Final() {
			if err := r.st.relet(in.tx); err != nil {
				return err
			}
			if err := finish(in.tx, r.st); err != nil {
				return err
			}
		}
		r.st.save(in.tx, r.before)
	}
	return nil
}
