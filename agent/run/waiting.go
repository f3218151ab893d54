package run

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
)

// WaitsFor says what kind of thing a run waits for.
type WaitsFor string

const (
	// ForWorker: all nodes that may run it are busy, or there is none.
	ForWorker WaitsFor = "worker"
	// ForQuota: its next step would pass a limit of the tenant that frees itself in time.
	ForQuota WaitsFor = "quota"
	// ForModel: the model's backend failed or is overloaded, and is asked again.
	ForModel WaitsFor = "model"
	// ForPeer: another organisation is to work on it, and has not begun.
	ForPeer WaitsFor = "peer"
)

// Waiting is what a run that hasn't ended waits for before it goes on. What a step that is under way waits for (a model's
// answer, a tool's) is no waiting in this sense; the journal tells it.
type Waiting struct {
	For WaitsFor `json:"for"`
	// Limit names the quota, such as tool_calls_per_minute.
	Limit string `json:"limit,omitempty"`
	// Region is the only one whose nodes may take it, of a run that waits for a worker.
	Region string `json:"region,omitempty"`
	// Peer is the organisation; where the forwarding stands is in the placement.
	Peer string `json:"peer,omitempty"`
	// Until is when it's tried again, if that is known and hasn't come yet.
	Until *time.Time `json:"until,omitempty"`
}

// Wait is a worker's word of what its run waits for.
type Wait struct {
	Lease
	// After is the journal's last sequence. The word holds until the journal goes on, or the run changes hands.
	After uint64
	For   WaitsFor
	Limit string
	Until time.Time
}

// noted is a Wait as it's kept. Nobody deletes it when the wait is over: it's of a state that is past then.
type noted struct {
	Epoch   uint64   `json:"epoch"`
	After   uint64   `json:"after"`
	For     WaitsFor `json:"for"`
	Limit   string   `json:"limit,omitempty"`
	UntilMS int64    `json:"until_ms"`
}

type waitArgs struct {
	Lease Lease `json:"lease"`
	Noted noted `json:"noted"`
}

// NoteWait lets every node tell what a leased run waits for. It costs a write, so it's for waits that take long. fault.Conflict:
// the lease is another's.
func (s *Service) NoteWait(ctx context.Context, w Wait) error {
	_, _, err := s.commands.wait.Do(ctx, s.store, "", waitArgs{Lease: w.Lease, Noted: noted{
		Epoch: w.Epoch, After: w.After, For: w.For, Limit: w.Limit, UntilMS: w.Until.UnixMilli(),
	}})
	return err
}

func evalWait(tx storage.Tx, a waitArgs) (none struct{}, err error) {
	st, err := readState(tx, keys{a.Lease.TenantID, a.Lease.RunID})
	if err != nil {
		return none, err
	}
	if st.Status.Final() || st.Session == "" || st.Session != a.Lease.SessionID || st.Epoch != a.Lease.Epoch {
		return none, fault.New(fault.Conflict, "The run has gone to another worker, or has ended.").With("reason", "fenced")
	}
	if st.Sequence != a.Noted.After {
		return none, nil // somebody asked for a cancel: there is something to do
	}
	raw, err := json.Marshal(a.Noted)
	if err != nil {
		return none, fmt.Errorf("run: encode wait: %w", err)
	}
	tx.Set(st.waiting(), raw)
	return none, nil
}

// waitsFor tells what the run, which hasn't ended, waits for, or nil.
func (st *state) waitsFor(r storage.Reader, p *Placement) (*Waiting, error) {
	switch {
	case st.Remote.out():
		if st.StartedMS != 0 {
			return nil, nil
		}
		return &Waiting{For: ForPeer, Peer: p.Organization}, nil
	case st.Place != "":
		return &Waiting{For: ForWorker, Region: st.Region}, nil
	}
	raw, err := r.Get(st.waiting())
	if err != nil || raw == nil {
		return nil, err
	}
	var n noted
	if err := json.Unmarshal(raw, &n); err != nil {
		return nil, fmt.Errorf("run: wait of %s is broken: %w", st.runID, err)
	}
	if n.Epoch != st.Epoch || n.After != st.Sequence {
		return nil, nil
	}
	w := &Waiting{For: n.For, Limit: n.Limit}
	if until := timeOf(n.UntilMS); time.Now().Before(until) {
		w.Until = &until
	}
	return w, nil
}
