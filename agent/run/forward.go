package run

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/agent/queue"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
)

// Phase is where the forwarding of a run stands at its origin.
type Phase string

const (
	// Held: no byte of the run has been sent to anybody who could have taken it.
	Held Phase = "held"
	// Offered: it was sent, or is about to be, and may have been taken. From here on the origin writes nothing into the
	// journal by itself, until the run comes back to Held.
	Offered Phase = "offered"
	// Accepted: the other side has taken it.
	Accepted Phase = "accepted"
)

// away is where a run goes that another organisation works on. It lies beside the run's record.
type away struct {
	Phase   Phase    `json:"phase"`
	Targets []Target `json:"targets"` // best first
	Next    int      `json:"next"`    // of Targets, the one that has it, or is asked next
	RouteID string   `json:"route_id"`
	// Attempt is the fence between the two stores: it rises with each offer, and when the origin gives a peer up.
	Attempt uint64 `json:"attempt"`
	// Mark is how long the journal was when the run was offered; OfferID tells the same offer, asked again.
	Mark    uint64 `json:"mark,omitempty"`
	OfferID string `json:"offer_id,omitempty"`
	// Born is the epoch of the lease for which the run was offered as it was made, 0 when it wasn't: whoever works under that
	// lease knows that nobody has sent the run before.
	Born uint64 `json:"born,omitempty"`
	// Told is whom the journal's last run.forwarded names.
	Told string `json:"told,omitempty"`
	// Pushed is up to which event the executor has pushed the journal by itself.
	Pushed uint64 `json:"pushed,omitempty"`
	// Given are the options that the request gave: the others are the executor's to choose.
	Given given `json:"given"`
	// Hops is how many more organisations the run may cross, Via those that it came through.
	Hops int   `json:"hops"`
	Via  []Hop `json:"via,omitempty"`
	// Refusals are the last refusal of each target, by its number.
	Refusals map[int]Refusal `json:"refusals,omitempty"`
	Last     *Refusal        `json:"last,omitempty"`
	// Lost is set when the run was given up because nothing was heard of who has it, and Late is what that one had by then.
	Lost bool        `json:"lost,omitempty"`
	Late *LateResult `json:"late_result,omitempty"`
}

// Hop is a node that passed a run on, and its cluster.
type Hop struct {
	Node      string `json:"node"` // a SPIFFE id
	ClusterID string `json:"cluster_id"`
}

// Refusal is why a target did not take a run.
type Refusal struct {
	Organization string     `json:"organization"`
	StackID      string     `json:"stack_id"`
	Code         fault.Code `json:"code"`
	Message      string     `json:"message"`
	// Permanent says that asking this target again would not help.
	Permanent bool `json:"permanent,omitempty"`
}

func (a *away) target() *Target { return &a.Targets[a.Next%len(a.Targets)] }

func (a *away) placement() Placement {
	t := a.target()
	return Placement{
		StackID: t.StackID, Organization: t.Organization, RouteID: a.RouteID, Phase: a.Phase, LastRefusal: a.Last, LateResult: a.Late,
	}
}

func readAway(r storage.Reader, k keys) (*away, error) {
	raw, err := r.Get(k.forward())
	if err != nil {
		return nil, fmt.Errorf("run: read forward: %w", err)
	}
	a := new(away)
	if err := json.Unmarshal(raw, a); err != nil || len(a.Targets) == 0 {
		return nil, fmt.Errorf("run: forward of %s is broken: %w", k.runID, err)
	}
	return a, nil
}

func (a *away) save(tx storage.Tx, k keys) error {
	raw, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("run: encode forward: %w", err)
	}
	tx.Set(k.forward(), raw)
	return nil
}

// begin makes a new run one that goes away, and finds a node to see to it. With an offerID the node of the named session can
// send it at once: if it's the one, the run is offered here and now, and need not wait for another command. st is not saved.
func (a *away) begin(tx storage.Tx, st *state, session, offerID string) error {
	st.Remote |= outward
	a.Phase = Held
	if err := st.relayIn(tx, session, ""); err != nil {
		return err
	}
	if offerID != "" && session != "" && st.Session == session {
		a.Born = st.Epoch
		if err := a.offer(tx, st, offerID); err != nil {
			return err
		}
	}
	return a.save(tx, st.keys)
}

// offer says that the run is about to be sent to the target whose turn it is. Neither a nor st is saved.
func (a *away) offer(tx storage.Tx, st *state, offerID string) error {
	if err := a.tell(tx, st, offerID); err != nil {
		return err
	}
	a.Phase, a.Mark, a.OfferID = Offered, st.Sequence, offerID
	a.Attempt++
	if a.target().FinalAck {
		st.Remote |= owing
	}
	return nil
}

// relayIn leases st as a relay to the named session, if it stands, or to whichever has the fewest, avoid only if there is no
// other; without any it waits for one. st is not saved.
func (st *state) relayIn(tx storage.Tx, session, avoid string) error {
	s, err := queue.ReadSession(tx, session)
	if err == nil && (session == "" || s == nil || s.Ended || s.Workers == 0) {
		s, err = queue.RelaySession(tx, avoid)
	}
	if err != nil {
		return err
	}
	if s == nil {
		tx.Set(st.wait(), nil)
		return nil
	}
	tx.Delete(st.wait())
	st.assign(tx, s)
	return nil
}

// unpark leases relays that wait, at most limit, and returns how many.
func unpark(tx storage.Tx, limit int) (n int, err error) {
	var waiting []keys
	err = tx.Scan(storage.Prefix(waitKeys), func(key string, _ []byte) bool {
		if tenantID, runID, ok := strings.Cut(key[len(waitKeys):], "/"); ok {
			waiting = append(waiting, keys{tenantID, runID})
		}
		return len(waiting) < limit
	})
	for i := 0; i < len(waiting) && err == nil; i++ {
		var st *state
		if st, err = readState(tx, waiting[i]); fault.Is(err, fault.NotFound) || err == nil && st.Status.Final() && !st.Remote.owes() {
			tx.Delete(waiting[i].wait())
			err = nil
			continue
		}
		if err == nil {
			err = st.relayIn(tx, "", "")
		}
		if err != nil || st.Session == "" {
			break // nobody is there to take any
		}
		st.save(tx, st.shown())
		n++
	}
	return n, err
}

// homecoming does what comes with the end of a run that crossed organisations. st is not saved.
func (st *state) homecoming(tx storage.Tx) error {
	if st.Remote.out() && st.Session == "" {
		tx.Delete(st.wait())
	}
	if st.Remote.in() {
		return releaseGrant(tx, st.keys)
	}
	return nil
}

// recall takes in that a run of another organisation's is to be canceled: nobody has it yet, and it ends; or its relay
// carries the wish on. The journal tells of it once the executor has heard.
func (st *state) recall(tx storage.Tx, a *cancelArgs) error {
	f, err := readAway(tx, st.keys)
	if err != nil {
		return err
	}
	if f.Phase == Held {
		return st.end(tx, &event.Draft{ID: a.EventID, Type: event.RunCanceled, Payload: event.Canceled(a.By)})
	}
	st.CancelMS = tx.Now().UnixMilli()
	if st.Session != "" {
		queue.Cancel(tx, st.lease())
	}
	st.save(tx, st.Status)
	return nil
}

// overdueAway ends a run of another organisation's whose time is over: at its deadline when nobody has it, and else at late,
// since the executor ends it by itself and that only has to come back.
func (st *state) overdueAway(tx storage.Tx, eventID string, late int64) (int64, error) {
	f, err := readAway(tx, st.keys)
	if err != nil {
		return 0, err
	}
	if f.Phase != Held && tx.Now().UnixMilli() < late {
		st.watch(tx, late)
		st.save(tx, st.Status)
		return late, nil
	}
	f.Attempt++
	f.Lost = f.Phase != Held
	if err := f.save(tx, st.keys); err != nil {
		return 0, err
	}
	if err := st.relet(tx); err != nil {
		return 0, err
	}
	failure := f.errLost(st)
	if f.Phase == Held {
		failure = f.errUntaken(st)
	}
	return 0, st.end(tx, &event.Draft{ID: eventID, Type: event.RunFailed, Payload: event.Failed(failure)})
}

// errUntaken says that nobody took a run in its time.
func (a *away) errUntaken(st *state) *fault.Error {
	t := a.target()
	e := fault.New(fault.Unavailable, "No peer took the run within its %v: %s was tried last; see 'agentos peers list', or give the run more time.",
		time.Duration(st.DeadlineMS-st.CreatedMS)*time.Millisecond, t.Organization)
	e = e.With("service", "peer").With("peer", t.Organization)
	return a.withRefusals(e)
}

// errRefused says that every target has refused the run for good; last was the last.
func (a *away) errRefused(last Refusal) *fault.Error {
	e := fault.New(last.Code, "%s does not take the run: %s", last.Organization, last.Message)
	return a.withRefusals(e.With("peer", last.Organization))
}

func (a *away) withRefusals(e *fault.Error) *fault.Error {
	list := make([]Refusal, 0, len(a.Refusals))
	for i := range a.Targets {
		if r, ok := a.Refusals[i]; ok {
			list = append(list, r)
		}
	}
	if len(list) == 0 {
		return e
	}
	return e.With("refusals", list)
}

// errLost says that the peer that has the run was not heard of in time.
func (a *away) errLost(st *state) *fault.Error {
	t := a.target()
	e := fault.New(fault.Unavailable, "%s took the run and was not heard of again in time; what it does with it from now on does not count.", t.Organization)
	return e.With("service", "peer").With("peer", t.Organization).With("peer_lost", true).With("last_sequence", st.Sequence)
}

// fenced reads a run that goes away and refuses a writer whose lease is not the run's.
func fenced(r storage.Reader, l Lease) (*state, *away, error) {
	st, err := readState(r, keys{l.TenantID, l.RunID})
	if err != nil {
		return nil, nil, err
	}
	if st.Status.Final() {
		return nil, nil, fault.New(fault.Conflict, "The run is %s; its journal is closed.", st.Status).With("reason", "final")
	}
	return st.relayed(r, l)
}

// relayed reads where the run goes, for who holds its lease.
func (st *state) relayed(r storage.Reader, l Lease) (*state, *away, error) {
	if !st.Remote.out() || st.Session == "" || st.Session != l.SessionID || st.Epoch != l.Epoch {
		return nil, nil, fault.New(fault.Conflict, "The run has gone to another node.").With("reason", "fenced")
	}
	f, err := readAway(r, st.keys)
	return st, f, err
}

type offerArgs struct {
	Lease
	EventID string `json:"event_id"`
	Target  int    `json:"target"`
	StackID string `json:"stack_id"` // the node that is asked, when it's another than the target names
}

// evalOffer says that a run is about to be sent to a target. Asking twice is harmless.
func evalOffer(tx storage.Tx, a offerArgs) (none struct{}, err error) {
	st, f, err := fenced(tx, a.Lease)
	if err != nil || f.Phase != Held && f.OfferID == a.EventID {
		return none, err
	}
	if f.Phase != Held || a.Target < 0 || a.Target >= len(f.Targets) {
		return none, fault.New(fault.Conflict, "The run is %s already.", f.Phase).With("reason", "phase")
	}
	f.Next = a.Target
	if a.StackID != "" {
		f.target().StackID = a.StackID
	}
	if err := f.offer(tx, st, a.EventID); err != nil {
		return none, err
	}
	st.save(tx, st.Status)
	return none, f.save(tx, st.keys)
}

// maxTold is how long the journal may be for one more event to say whom the run is offered to: who takes it gets it whole.
const maxTold = maxPrefix - 8

// tell says in the journal whom the run is offered to, if that is news. st is not saved.
func (a *away) tell(tx storage.Tx, st *state, eventID string) error {
	t := a.target()
	to := t.Organization + "/" + t.StackID
	if a.Told == to || st.Sequence >= maxTold {
		return nil
	}
	a.Told = to
	payload, err := json.Marshal(event.Forwarded{StackID: t.StackID, Organization: t.Organization, RouteID: a.RouteID, RemoteRunID: st.runID})
	if err != nil {
		return fmt.Errorf("run: encode forward: %w", err)
	}
	return st.append(tx, &event.Draft{ID: eventID, Type: event.RunForwarded, Payload: payload})
}

type withdrawArgs struct {
	Lease
	Attempt uint64  `json:"attempt"`
	Why     Refusal `json:"why"`
	EventID string  `json:"event_id"` // of the run's end, if it comes to that
}

// evalWithdraw takes an offer back which has surely not been taken, so that the next target can be asked. When every target
// has refused for good the run ends.
func evalWithdraw(tx storage.Tx, a withdrawArgs) (none struct{}, err error) {
	st, f, err := fenced(tx, a.Lease)
	if err != nil || f.Phase == Held && f.Attempt == a.Attempt {
		return none, err
	}
	if f.Phase != Offered || f.Attempt != a.Attempt || st.Sequence != f.Mark {
		return none, fault.New(fault.Conflict, "The run is %s, in attempt %d.", f.Phase, f.Attempt).With("reason", "phase")
	}
	if f.Refusals == nil {
		f.Refusals = make(map[int]Refusal)
	}
	f.Refusals[f.Next], f.Last, f.Phase = a.Why, &a.Why, Held
	st.Remote &^= owing
	left := f.advance()
	if err := f.save(tx, st.keys); err != nil {
		return none, err
	}
	switch {
	case st.CancelMS != 0: // it was asked for while nobody knew whether the run had been taken
		return none, st.end(tx, &event.Draft{ID: a.EventID, Type: event.RunCanceled, Payload: event.Canceled(st.CancelBy)})
	case !left:
		return none, st.end(tx, &event.Draft{ID: a.EventID, Type: event.RunFailed, Payload: event.Failed(f.errRefused(a.Why))})
	}
	st.save(tx, st.Status)
	return none, nil
}

// advance moves Next to the next target that has not refused for good; false when there is none.
func (a *away) advance() bool {
	for range a.Targets {
		a.Next = (a.Next + 1) % len(a.Targets)
		if !a.Refusals[a.Next].Permanent {
			return true
		}
	}
	return false
}

// Relay is a piece of a journal as the executor of a run has told it.
type Relay struct {
	Lease
	Attempt uint64 `json:"attempt"`
	// After is the sequence that the relay believes to be the last.
	After uint64 `json:"after"`
	// Events are envelopes that CheckRelayed has passed, in order.
	Events [][]byte `json:"events"`
}

// maxJournal bounds the journal of a run that others work on.
const maxJournal = 100_000

// evalRelay adds what an executor has told to the origin's own journal. The same events again give the same answer.
func evalRelay(tx storage.Tx, a Relay) (last uint64, err error) {
	st, f, err := fenced(tx, a.Lease)
	if fault.Is(err, fault.Conflict) {
		if st, again := readState(tx, keys{a.TenantID, a.RunID}); again == nil && st.Status.Final() && a.told(tx, st) {
			return st.Sequence, nil
		}
	}
	if err != nil {
		return 0, err
	}
	switch {
	case f.Phase == Held || f.Attempt != a.Attempt:
		return 0, fault.New(fault.Conflict, "The run is %s, in attempt %d.", f.Phase, f.Attempt).With("reason", "phase")
	case a.After < st.Sequence && a.told(tx, st):
		return st.Sequence, nil
	case a.After != st.Sequence:
		return 0, fault.New(fault.Conflict, "The journal has gone on; read it, and ask from there.").With("last_sequence", st.Sequence)
	}
	before := st.Status
	for _, raw := range a.Events {
		if err := st.take(tx, raw); err != nil {
			return 0, err
		}
	}
	if f.Phase == Offered {
		f.Phase = Accepted
		if err := f.save(tx, st.keys); err != nil {
			return 0, err
		}
	}
	if st.Status.Final() {
		if err := finish(tx, st); err != nil {
			return 0, err
		}
	}
	st.save(tx, before)
	return st.Sequence, nil
}

// take adds an envelope as it stands.
func (st *state) take(tx storage.Tx, raw []byte) error {
	v, err := event.ScanOwn(raw)
	if err != nil {
		return fault.Invalid("events", "An event can't be read.").Because(err)
	}
	at, err := time.Parse(time.RFC3339, string(v.Time))
	if err != nil || v.Sequence != st.Sequence+1 || v.Sequence > maxJournal {
		return fault.Invalid("events", "Event %d may not follow event %d.", v.Sequence, st.Sequence).Because(err)
	}
	if err := readable(event.Type(v.Type), v.Payload); err != nil {
		return fault.Invalid("events", "The payload of a %s can't be read: %v", v.Type, err)
	}
	if err := st.Next(event.Type(v.Type), v.Payload, at); err != nil {
		return fault.Invalid("events", "%s", err.Error())
	}
	tx.Set(event.Key(st.tenantID, st.runID, st.Sequence), raw)
	return nil
}

// readable refuses payloads of others that readers of the run could make nothing of: each final event has to say how the run
// ended.
func readable(t event.Type, payload []byte) error {
	if !t.Final() {
		return nil
	}
	o, err := outcomeOf(payload)
	switch {
	case err != nil:
		return err
	case t == event.RunCompleted && o.Output == nil:
		return errors.New("it has no output")
	case t == event.RunFailed && (o.Error == nil || !fault.Code(o.Error.Code).Known()):
		return errors.New("it has no error with a known code")
	}
	return nil
}

// told reports whether the journal holds a's events already, where a would have put them.
func (a *Relay) told(r storage.Reader, st *state) bool {
	if a.After+uint64(len(a.Events)) > st.Sequence {
		return false
	}
	for i, raw := range a.Events {
		have, err := r.Get(event.Key(a.TenantID, a.RunID, a.After+1+uint64(i)))
		if err != nil || string(have) != string(raw) {
			return false
		}
	}
	return true
}

type giveUpArgs struct {
	Lease
	Attempt uint64 `json:"attempt"`
	EventID string `json:"event_id"`
	Failure *Error `json:"failure"` // nil: the peer is lost
}

// evalGiveUp ends a run whose peer is lost, or is not to be believed any more. What comes of it later does not count.
func evalGiveUp(tx storage.Tx, a giveUpArgs) (none struct{}, err error) {
	st, f, err := fenced(tx, a.Lease)
	if err != nil {
		return none, err
	}
	if f.Phase == Held || f.Attempt != a.Attempt {
		return none, fault.New(fault.Conflict, "The run is %s, in attempt %d.", f.Phase, f.Attempt).With("reason", "phase")
	}
	f.Attempt++
	f.Lost = a.Failure == nil
	if err := f.save(tx, st.keys); err != nil {
		return none, err
	}
	failure := f.errLost(st)
	if a.Failure != nil {
		failure = &fault.Error{Code: fault.Code(a.Failure.Code), Message: a.Failure.Message, Details: a.Failure.Details}
	}
	return none, st.end(tx, &event.Draft{ID: a.EventID, Type: event.RunFailed, Payload: event.Failed(failure)})
}
