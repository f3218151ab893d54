package run

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
)

// MaxHops is how many organisations a run may cross.
const MaxHops = 3

// place asks where a run is to go, and notes it in a when that's elsewhere.
func (s *Service) place(ctx context.Context, a *createArgs, by *tenancy.Auth, req *Request, meta *Meta, fresh bool) error {
	a.Away, a.OfferID = nil, ""
	if s.placer == nil {
		return nil
	}
	auth := *by
	auth.PolicyContext = a.PolicyContext
	hops := MaxHops
	if meta.Hops != nil {
		hops = *meta.Hops
	}
	via := make([]string, len(meta.Via))
	for i := range meta.Via {
		via[i] = meta.Via[i].ClusterID
	}
	placed, err := s.placer.Place(ctx, Placing{
		Auth: &auth, AgentID: a.AgentID, Request: req, Selector: meta.Selector, Hops: hops, Via: via,
	}, fresh)
	if err != nil {
		return err
	}
	if placed.Local || len(placed.Targets) == 0 {
		a.Wanted = placed.StackID
		return nil
	}
	a.Away = &away{
		Targets: slices.Clone(placed.Targets), RouteID: placed.RouteID, Given: a.Given, Hops: hops - 1, Via: meta.Via,
	}
	if s.session != nil {
		a.Session = s.session.ID() // a relay takes no worker
	}
	if placed.Live && a.Session != "" {
		a.OfferID = id.New(id.Event)
	}
	return nil
}

// former finds the run that was made under the request's idempotency key, for a request that can't be placed any more.
func (s *Service) former(ctx context.Context, a *createArgs) (r *Run, index uint64, err error) {
	if a.Key == "" {
		return nil, 0, errNoRun()
	}
	runID := ""
	err = s.store.View(ctx, storage.Read{Consistency: storage.Linearizable}, func(v storage.Snapshot) (err error) {
		runID, err = recall(v, a)
		index = v.Index()
		return err
	})
	if err == nil && runID == "" {
		err = errNoRun()
	}
	if err != nil {
		return nil, index, err
	}
	return s.Get(ctx, storage.Read{MinIndex: index}, a.TenantID, runID)
}

// Forward is all that a relay needs of a run that another organisation is to work on.
type Forward struct {
	Lease
	AgentID       string
	Auth          tenancy.Auth
	Request       Request
	Given         RequestOptions // of Request.Options, those that are to be sent on
	Traceparent   string
	CorrelationID string
	CreatedAt     time.Time
	Deadline      time.Time
	Phase         Phase
	Targets       []Target
	// Next is the target that has the run, or is to be asked next.
	Next    int
	Attempt uint64
	// Unsent says that nobody else can have sent the run under this attempt: it was made and offered for this very lease.
	Unsent bool
	Hops   int
	Via    []Hop
	// Ended says that the run has ended, with Last and LastID, and who was asked to work on it is still to be told; then
	// CompletedAt says when, and Lost that it was given up because nothing was heard any more.
	Ended       bool
	CompletedAt time.Time
	Lost        bool
	// Canceled says that a cancel was asked for, by whom.
	Canceled   bool
	CanceledBy string
	// Last is the journal's last sequence, LastID that event's id.
	Last   uint64
	LastID string
	// Prefix is the journal as it was when the run was offered; empty while it's held.
	Prefix [][]byte
}

// RequestOptions are the run options that a request gave; nil for one that it left to others.
type RequestOptions struct {
	Priority     *string `json:"priority,omitempty"`
	TimeoutMS    *int64  `json:"timeout_ms,omitempty"`
	MaxSteps     *int    `json:"max_steps,omitempty"`
	StreamEvents *bool   `json:"stream_events,omitempty"`
}

// Target is the target that has the run, or is to be asked next.
func (f *Forward) Target() Target { return f.Targets[f.Next] }

// Head is what all of the run's events share.
func (f *Forward) Head() event.Head {
	return event.Head{TenantID: f.TenantID, AgentID: f.AgentID, RunID: f.RunID, Traceparent: f.Traceparent}
}

func (g given) of(o RunOptions) RequestOptions {
	var out RequestOptions
	if g&givenPriority != 0 {
		out.Priority = &o.Priority
	}
	if g&givenTimeout != 0 {
		out.TimeoutMS = &o.TimeoutMS
	}
	if g&givenSteps != 0 {
		out.MaxSteps = &o.MaxSteps
	}
	if g&givenStream != 0 {
		out.StreamEvents = &o.StreamEvents
	}
	return out
}

// LoadForward reads what a relay needs from this node's copy; fault.Conflict when the lease is no longer the reader's.
func (s *Service) LoadForward(ctx context.Context, l Lease) (*Forward, error) {
	f := &Forward{Lease: l}
	err := s.store.View(ctx, storage.Read{}, func(r storage.Snapshot) error {
		st, a, err := loadable(r, l)
		if err != nil {
			return err
		}
		var rec *record
		if rec, f.Request, err = s.fresh.load(r, st.keys); err != nil {
			return err
		}
		f.AgentID, f.Auth, f.Auth.HomeTenantID = rec.AgentID, rec.Auth, rec.HomeTenantID
		f.Given = a.Given.of(f.Request.Options)
		f.Traceparent, f.CorrelationID = rec.Traceparent, rec.CorrelationID
		f.CreatedAt, f.Deadline = timeOf(rec.CreatedMS), timeOf(rec.DeadlineMS)
		f.Phase, f.Targets, f.Next, f.Attempt, f.Hops, f.Via = a.Phase, a.Targets, a.Next, a.Attempt, a.Hops, a.Via
		f.Unsent = a.Phase == Offered && a.Attempt == 1 && a.Born == l.Epoch
		f.Canceled, f.CanceledBy = st.CancelMS != 0, st.CancelBy
		f.Ended, f.CompletedAt, f.Lost = st.Status.Final(), timeOf(st.CompletedMS), a.Lost
		return f.journal(r, st, a)
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

// loadable reads a run for its relay: one that goes away, or has ended and its executor is still to be told.
func loadable(r storage.Reader, l Lease) (*state, *away, error) {
	st, err := readState(r, keys{l.TenantID, l.RunID})
	if err == nil && st.Status.Final() && st.Remote.owes() {
		return st.relayed(r, l)
	}
	return fenced(r, l)
}

// journal reads the prefix, and where the journal ends.
func (f *Forward) journal(r storage.Reader, st *state, a *away) error {
	f.Last = st.Sequence
	mark := a.Mark
	if a.Phase == Held {
		mark = 0
	}
	for n := uint64(1); n <= mark; n++ {
		raw, err := r.Get(event.Key(st.tenantID, st.runID, n))
		if err != nil {
			return err
		}
		f.Prefix = append(f.Prefix, slices.Clone(raw))
	}
	raw, err := r.Get(event.Key(st.tenantID, st.runID, st.Sequence))
	if err != nil {
		return err
	}
	v, err := event.ScanOwn(raw)
	if err != nil {
		return fmt.Errorf("run: journal of %s: %w", st.runID, err)
	}
	f.LastID = string(v.ID)
	return nil
}

// Offer says that a run is about to be sent to the target with this number, at the node stackID there ("" for the one that
// the target names). It must have returned before the first byte is sent. The same offerID again is harmless.
func (s *Service) Offer(ctx context.Context, l Lease, target int, stackID, offerID string) error {
	_, _, err := s.commands.offer.Do(ctx, s.store, "", offerArgs{Lease: l, EventID: offerID, Target: target, StackID: stackID})
	return err
}

// Withdraw takes an offer back that has surely not been taken, and notes why.
func (s *Service) Withdraw(ctx context.Context, l Lease, attempt uint64, why Refusal) error {
	args := withdrawArgs{Lease: l, Attempt: attempt, Why: why, EventID: id.New(id.Event)}
	_, _, err := s.commands.withdraw.Do(ctx, s.store, "", args)
	return err
}

// Relay adds what the executor has told to the journal and returns its last sequence. fault.Conflict as with Append.
func (s *Service) Relay(ctx context.Context, r Relay) (last uint64, err error) {
	last, _, err = s.commands.relay.Do(ctx, s.store, "", r)
	return last, err
}

// GiveUp ends a run whose executor is lost (failure nil), or is not to be believed any more.
func (s *Service) GiveUp(ctx context.Context, l Lease, attempt uint64, failure *fault.Error) error {
	args := giveUpArgs{Lease: l, Attempt: attempt, EventID: id.New(id.Event)}
	if failure != nil {
		args.Failure = &Error{Code: string(failure.Code), Message: failure.Message, Details: failure.Details}
	}
	_, _, err := s.commands.giveUp.Do(ctx, s.store, "", args)
	return err
}

// Arrival is a run of another organisation as it came, its sender proven.
type Arrival struct {
	Origin  Origin
	Attempt uint64
	RunID   string // the origin's
	AgentID string
	// By acts here for the origin's principal: the local tenant, principal@trust-domain, the rights of grant and token.
	By      tenancy.Actor
	Request Request
	// IdempotencyKey is the origin's, "" for none.
	IdempotencyKey string
	// Journal is the journal so far, as it came.
	Journal     []json.RawMessage
	RemainingMS int64
	MaxRuns     *int64
	// FinalAck says that the origin will tell how the run ended there.
	FinalAck bool
	Meta     Meta
}

// PrepareInbound checks an arrival and makes it ready for Commands.Take.
func (s *Service) PrepareInbound(ctx context.Context, a *Arrival) (*Inbound, error) {
	if !id.Valid(a.RunID) {
		return nil, fault.Invalid("run_id", "A run id is 1 to %d letters, digits, '.', '_' and '-'.", id.MaxLen)
	}
	if len(a.Journal) == 0 || len(a.Journal) > maxPrefix {
		return nil, fault.Invalid("journal", "A forwarded run comes with its journal so far, of 1 to %d events.", maxPrefix)
	}
	a.Request.IdempotencyKey = a.IdempotencyKey
	args, err := s.prepare(a.By, a.AgentID, &a.Request, a.Meta)
	if err != nil {
		return nil, err
	}
	if args.Hash, err = a.Request.hash(); err != nil {
		return nil, err
	}
	args.Hash = hashOf(args.Hash, args.Principal, a.AgentID, a.IdempotencyKey) // tells the same run from another under its id
	args.RunID, args.Peer = a.RunID, a.Origin.TrustDomain
	if s.session != nil {
		args.Session = s.session.ID()
	}
	if err := s.place(ctx, args, a.By.Auth, &a.Request, &a.Meta, false); err != nil {
		if fault.Is(err, fault.UnsupportedCapability) { // where else our runs could go, and why not, is nobody's business elsewhere
			err = fault.New(fault.UnsupportedCapability, "No place that may take this run can.").Because(err)
		}
		return nil, err
	}
	s.fresh.put(args)
	in := &Inbound{Origin: a.Origin, Attempt: a.Attempt, RemainingMS: a.RemainingMS, MaxRuns: a.MaxRuns, FinalAck: a.FinalAck, Create: *args}
	head := event.Head{TenantID: a.Origin.TenantID, AgentID: a.AgentID, RunID: a.RunID}
	for i, raw := range a.Journal {
		kept, err := event.CheckPrefix(raw, &head, uint64(i)+1, args.TenantID)
		if err != nil {
			return nil, fault.Invalid("journal", "Event %d of the journal is not acceptable: %v", i+1, err)
		}
		in.Prefix = append(in.Prefix, kept)
	}
	return in, nil
}

// From reads where a run of another organisation came from; ok is false for one of our own. fault.NotFound when there is no
// such run.
func (s *Service) From(ctx context.Context, r storage.Read, tenantID, runID string) (o Origin, ok bool, err error) {
	err = storage.Find(ctx, s.store, r, func(v storage.Snapshot) (err error) {
		if !id.Valid(runID) {
			return errNoRun()
		}
		o, ok, err = Foreign(v, tenantID, runID)
		return err
	})
	return o, ok, err
}
