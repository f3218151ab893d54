package run

import (
	"context"
	"time"

	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/agent/queue"
	"github.com/nexixai/agentos/storage"
)

// A run is judged at its origin: how it ended is what stands in the journal there. So an executor shows the end that a run of
// others has here to nobody but its origin, until the origin has told which event ended the run there. If it's the same one the
// run ended so; if it's another one, or none was told in the run's time, what was done here is superseded.

// hidden reports whether the run has an end that is not shown yet.
func (st *state) hidden() bool { return st.Remote&veiled != 0 && st.Status.Final() }

// before is what is shown of a hidden run: its journal without the final event.
func (st *state) before() Progress {
	p := st.Progress
	if p.Status == Canceled && p.CancelMS == p.CompletedMS {
		p.CancelMS = 0 // perhaps nobody asked before: the end alone would tell of it
	}
	p.Status, p.CompletedMS = Running, 0
	if p.StartedMS == 0 {
		p.Status = Queued
	}
	p.Sequence--
	return p
}

// shown is the status under which the run is listed.
func (st *state) shown() Status {
	if st.hidden() {
		return st.before().Status
	}
	return st.Status
}

// veil hides the end that a new run of others will have. st is not saved.
func (st *state) veil(tx storage.Tx) {
	st.Remote |= veiled
	tx.Set(event.VeilKey(st.tenantID, st.runID), []byte("final"))
}

// unveil shows the run's end, now or when it comes. It saves st.
func (st *state) unveil(tx storage.Tx) {
	before := st.shown()
	st.Remote &^= veiled
	tx.Delete(event.VeilKey(st.tenantID, st.runID))
	if st.Status.Final() {
		st.watch(tx, 0)
	}
	st.save(tx, before)
}

// unheardAt is when to look, a grace later, whether the origin has told of the end of a run that has just ended; 0 for never.
func (st *state) unheardAt() int64 {
	if !st.hidden() {
		return 0
	}
	return max(st.DeadlineMS, st.CompletedMS)
}

// unheard shows the end of a run of which the origin has not told in time: it was given up there, as far as can be known here.
// Before that it returns when to look again.
func (st *state) unheard(tx storage.Tx, graceMS int64) (late int64, err error) {
	if late = st.unheardAt() + graceMS; tx.Now().UnixMilli() < late {
		st.watch(tx, late)
		st.save(tx, st.shown())
		return late, nil
	}
	in, err := readInbound(tx, st.keys)
	if err != nil {
		return 0, err
	}
	st.unveil(tx)
	in.Superseded = true
	return 0, in.save(tx, st.keys)
}

// Conclusion is how a run of others ended at its origin, told by who forwarded it.
type Conclusion struct {
	Origin   Origin `json:"origin"`
	TenantID string `json:"tenant_id"` // the local one
	RunID    string `json:"run_id"`
	// Sequence and FinalID are those of the event that ended the run there.
	Sequence uint64 `json:"sequence"`
	FinalID  string `json:"final_id"`
	// Stop says that a run which still goes on here is to be canceled, in the name of By, with the event EventID if at once.
	Stop          bool   `json:"stop"`
	By            string `json:"by"`
	EventID       string `json:"event_id"`
	CorrelationID string `json:"correlation_id"`
}

// Concluded is what there is here of a run whose origin has told its end.
type Concluded struct {
	RunID string `json:"run_id"`
	// Status and CompletedAt are those that the run has here; null for one that never came.
	Status      *Status    `json:"status"`
	CompletedAt *time.Time `json:"completed_at"`
	// Superseded says that it has not ended here as it did there.
	Superseded bool `json:"superseded"`
}

// Conclude takes in how a run of others ended at its origin. It's part of a command that has proven who tells. What ended
// otherwise there is superseded here, and one that has not come will be refused. The same again changes nothing.
func (c *Commands) Conclude(tx storage.Tx, a Conclusion) (Concluded, error) {
	done := Concluded{RunID: a.RunID, Superseded: true}
	key := a.Origin.knownKey(a.RunID)
	k, err := readKnown(tx, key)
	if err != nil {
		return done, err
	}
	if k == nil || k.TenantID == "" {
		if k != nil && k.Canceled {
			return done, nil
		}
		return done, (&known{Canceled: true}).save(tx, key)
	}
	at := keys{a.TenantID, a.RunID}
	st, in, err := concludable(tx, at, k, &a)
	if err != nil {
		return done, err
	}
	if done.Superseded, err = st.endedOtherwise(tx, &a); err != nil {
		return done, err
	}
	if st.Remote&veiled != 0 {
		st.unveil(tx)
	}
	if in.Superseded != done.Superseded {
		in.Superseded = done.Superseded
		if err := in.save(tx, at); err != nil {
			return done, err
		}
	}
	if a.Stop && !st.Status.Final() {
		wish := cancelArgs{TenantID: a.TenantID, RunID: a.RunID, EventID: a.EventID, By: a.By, CorrelationID: a.CorrelationID, Peer: a.Origin.TrustDomain}
		if err := endOnWish(tx, wish); err != nil {
			return done, err
		}
		if st, err = readState(tx, at); err != nil {
			return done, err
		}
	}
	done.Status, done.CompletedAt = &st.Status, timeOrNil(st.CompletedMS)
	return done, nil
}

// concludable reads a run whose end is told, if it's for who tells it to do so.
func concludable(r storage.Reader, at keys, k *known, a *Conclusion) (*state, *inbound, error) {
	if k.TenantID != a.TenantID {
		return nil, nil, errNoRun()
	}
	st, err := readState(r, at)
	if err != nil {
		return nil, nil, err
	}
	in, err := readInbound(r, at)
	if err == nil && in.PeeringID != a.Origin.PeeringID {
		err = errNoRun()
	}
	return st, in, err
}

// endedOtherwise reports whether the run has not ended here with the event that ended it at its origin.
func (st *state) endedOtherwise(r storage.Reader, a *Conclusion) (bool, error) {
	if !st.Status.Final() || st.Sequence != a.Sequence {
		return true, nil
	}
	same, err := endedBy(r, st, a.FinalID)
	return !same, err
}

// keepRelay leaves the run to its relay, which is to tell who worked on it how it ended. st is not saved.
func (st *state) keepRelay(tx storage.Tx) error {
	if st.Session != "" {
		return nil
	}
	return st.relayIn(tx, "", "")
}

// relet gives the relay of a run that ends without its doing a new lease, by which it hears of the end. st is not saved.
func (st *state) relet(tx storage.Tx) error {
	if !st.Remote.owes() || st.Session == "" {
		return nil
	}
	former := st.Session
	if _, err := queue.Release(tx, st.lease()); err != nil {
		return err
	}
	st.Session = ""
	return st.relayIn(tx, former, "")
}

type toldArgs struct {
	Lease
	Late *LateResult `json:"late_result"`
}

// evalTold ends the relay of a run whose executor has been told of the end, and notes what that one had made of it meanwhile.
func evalTold(tx storage.Tx, a toldArgs) (none struct{}, err error) {
	st, err := readState(tx, keys{a.TenantID, a.RunID})
	if err != nil || !st.Status.Final() || !st.Remote.owes() {
		return none, err
	}
	st, f, err := st.relayed(tx, a.Lease)
	if err != nil {
		return none, err
	}
	if f.Lost && a.Late != nil {
		f.Late = a.Late
		if err := f.save(tx, st.keys); err != nil {
			return none, err
		}
	}
	if _, err := queue.Release(tx, st.lease()); err != nil {
		return none, err
	}
	st.Session = ""
	st.Remote &^= owing
	st.save(tx, st.shown())
	return none, nil
}

// Told notes that the executor of a run has been told how it ended, or can't be; late is what it had made of it, if it had been
// given up as lost and had come to an end all the same.
func (s *Service) Told(ctx context.Context, l Lease, late *LateResult) error {
	_, _, err := s.commands.told.Do(ctx, s.store, "", toldArgs{Lease: l, Late: late})
	return err
}
