package run

import (
	"fmt"

	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/agent/internal/field"
	"github.com/nexixai/agentos/agent/queue"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
)

// state is the part of a run that changes: what its journal has come to, who may write it, and the little that every
// append needs to know of the record.
type state struct {
	keys
	Progress

	Epoch   uint64 // rises with each lease
	Session string // who may write, or ""
	StackID string // the node of the last lease, or ""
	Place   string // where it waits in the queue, or ""
	// CancelBy is who asked for the cancel that is pending.
	CancelBy string
	// Reserved names the reservation of the model call that is open, or "".
	Reserved string
	// Barren counts leases since an effect was last completed: attempts that came to nothing.
	Barren int
	// WatchMS is where the run stands among the deadlines.
	WatchMS int64
	// Remote says whether, and how, the run crosses organisations.
	Remote remote

	// Copied from the record.
	AgentID     string
	Traceparent string
	Region      string
	Priority    queue.Priority
	CreatedMS   int64
	DeadlineMS  int64
	MaxSteps    int
	Weight      int

	entry string // see made
}

// remote is how a run crosses organisations: not at all, to another one, from another one, or through this one.
type remote uint8

const (
	outward remote = 1 << iota // another organisation works on it
	inward                     // it came from another organisation
	veiled                     // its end is not shown here before its origin has it (conclude.go)
	owing                      // who was asked to work on it is to be told how it ended (conclude.go)
)

func (r remote) out() bool { return r&outward != 0 }
func (r remote) in() bool  { return r&inward != 0 }

// owes reports whether somebody has been asked who is to be told how the run ended.
func (r remote) owes() bool { return r&owing != 0 }

var statuses = [...]Status{"", Queued, Running, Completed, Failed, Canceled}

func statusNumber(s Status) uint64 {
	for i := range statuses {
		if statuses[i] == s {
			return uint64(i)
		}
	}
	return 0
}

func (st *state) encode() []byte {
	b := field.Uint(make([]byte, 0, 320), statusNumber(st.Status))
	b = field.Uint(b, st.Sequence)
	b = field.Uint(b, st.Epoch)
	for _, s := range [...]string{st.Session, st.StackID, st.Place, st.CancelBy, st.Reserved, st.AgentID, st.Traceparent, st.Region} {
		b = field.String(b, s)
	}
	for _, n := range [...]int64{
		int64(st.Summary.Steps), int64(st.Summary.ToolCalls), int64(st.Summary.ModelCalls),
		st.InputTokens, st.OutputTokens, st.TotalTokens, st.CostNUSD,
		st.StartedMS, st.CompletedMS, st.CancelMS, int64(st.Barren),
		st.WatchMS, int64(st.Priority), st.CreatedMS, st.DeadlineMS, int64(st.MaxSteps), int64(st.Weight),
	} {
		b = field.Int(b, n)
	}
	return field.Uint(b, uint64(st.Remote))
}

func decodeState(k keys, raw []byte) (*state, error) {
	in := field.Read(raw)
	st := &state{keys: k}
	if n := in.Uint(); n < uint64(len(statuses)) {
		st.Status = statuses[n]
	}
	st.Sequence, st.Epoch = in.Uint(), in.Uint()
	for _, s := range [...]*string{&st.Session, &st.StackID, &st.Place, &st.CancelBy, &st.Reserved, &st.AgentID, &st.Traceparent, &st.Region} {
		*s = in.String()
	}
	st.Summary = Summary{Steps: int(in.Int()), ToolCalls: int(in.Int()), ModelCalls: int(in.Int())}
	for _, n := range [...]*int64{&st.InputTokens, &st.OutputTokens, &st.TotalTokens, &st.CostNUSD, &st.StartedMS, &st.CompletedMS, &st.CancelMS} {
		*n = in.Int()
	}
	st.Barren, st.WatchMS, st.Priority = int(in.Int()), in.Int(), queue.Priority(in.Int())
	st.CreatedMS, st.DeadlineMS, st.MaxSteps, st.Weight = in.Int(), in.Int(), int(in.Int()), int(in.Int())
	st.Remote = remote(in.Uint())
	if err := in.Err(); err != nil || st.Status == "" {
		return nil, fmt.Errorf("run: state of %s is broken: %w", k.runID, err)
	}
	return st, nil
}

func errNoRun() error { return fault.New(fault.NotFound, "There is no such run.") }

// readState reads a run's state, or answers fault.NotFound.
func readState(r storage.Reader, k keys) (*state, error) {
	raw, err := r.Get(k.state())
	if err != nil {
		return nil, fmt.Errorf("run: read state: %w", err)
	}
	if raw == nil {
		return nil, errNoRun()
	}
	return decodeState(k, raw)
}

func (st *state) lease() Lease {
	return Lease{TenantID: st.tenantID, RunID: st.runID, SessionID: st.Session, Epoch: st.Epoch, Relay: st.Remote.out()}
}

// made is the run's place in every list.
func (st *state) made() string {
	if st.entry == "" {
		b := appendMS(make([]byte, 0, 14+len(st.runID)), st.CreatedMS)
		st.entry = string(append(append(b, '/'), st.runID...))
	}
	return st.entry
}

func (st *state) head() event.Head {
	return event.Head{TenantID: st.tenantID, AgentID: st.AgentID, RunID: st.runID, Traceparent: st.Traceparent}
}

func (st *state) item() queue.Item {
	return queue.Item{TenantID: st.tenantID, RunID: st.runID, Priority: st.Priority, Region: st.Region, CreatedMS: st.CreatedMS}
}

// append adds one event to the journal and takes it in. Moving the run among the lists by status is the caller's (save).
func (st *state) append(tx storage.Tx, d *event.Draft) error {
	at := tx.Now()
	if err := st.Next(d.Type, d.Payload, at); err != nil {
		return fault.Invalid("events", "%s", err.Error())
	}
	switch d.Type {
	case event.StepCompleted, event.ToolCallCompleted, event.ModelCompleted:
		st.Barren = 0
	}
	head := st.head()
	b := make([]byte, 0, 512+len(d.Payload))
	tx.Set(event.Key(st.tenantID, st.runID, st.Sequence), event.AppendEnvelope(b, &head, d, st.Sequence, at))
	return nil
}

// save writes the state, and moves the run from the list of status before to that of its status now, as it is shown.
func (st *state) save(tx storage.Tx, before Status) {
	if now := st.shown(); before != now {
		entry := st.made()
		if before != "" {
			tx.Delete(statusPrefix(st.tenantID, before) + entry)
		}
		tx.Set(statusPrefix(st.tenantID, now)+entry, nil)
	}
	tx.Set(st.state(), st.encode())
}

// watch puts the run among the deadlines at ms, taking it away from where it stood; 0 takes it away for good.
func (st *state) watch(tx storage.Tx, ms int64) {
	if st.WatchMS == ms {
		return
	}
	if st.WatchMS != 0 {
		tx.Delete(deadlineKey(st.WatchMS, st.tenantID, st.runID))
	}
	if ms != 0 {
		tx.Set(deadlineKey(ms, st.tenantID, st.runID), nil)
	}
	st.WatchMS = ms
}
