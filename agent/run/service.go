package run

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/agent"
	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/agent/queue"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/model"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
	"github.com/nexixai/agentos/tenancy/quota"
)

// Session is this node's offer to work on runs.
type Session interface {
	// ID is the session's id, "" while there is none.
	ID() string
	// Free is how many more runs the node could begin now.
	Free() int
}

// Policy judges a text without doing anything about it.
type Policy interface {
	Check(ctx context.Context, c model.Caller, text, ruleset string) (model.PolicyOutcome, string, error)
}

// Options says how to make a Service. Store, Commands and QueueCommands have to be given.
type Options struct {
	Store         storage.Store
	Commands      *Commands
	QueueCommands *queue.Commands
	// StackID, Organization and Region are this node's.
	StackID, Organization, Region string
	// Session, when set, lets creates at this node be worked on at this node.
	Session Session
	// Policy, when set, is asked by DryRun.
	Policy Policy
	// Placer, when set, is asked where a run goes; without one every run stays here.
	Placer Placer
	// Grace is how long after its deadline a leased run is left to its worker; 0 means 15 s.
	Grace  time.Duration
	Logger *zap.Logger
}

const defaultGrace = 15 * time.Second

// Service makes and changes runs. It's safe for concurrent use.
type Service struct {
	store    storage.Store
	commands *Commands
	stackID  string
	org      string
	region   string
	session  Session
	policy   Policy
	placer   Placer
	log      *zap.Logger
	keeper   *keeper
	fresh    fresh
}

// New returns a Service, and gives the store its leader's duty. It must be called before the store starts.
func New(o Options) *Service {
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.Grace <= 0 {
		o.Grace = defaultGrace
	}
	return &Service{
		store: o.Store, commands: o.Commands, stackID: o.StackID, org: o.Organization, region: o.Region,
		session: o.Session, policy: o.Policy, placer: o.Placer, log: o.Logger, keeper: newKeeper(&o),
	}
}

// Close stops listening. The duty ends with the store.
func (s *Service) Close() { s.keeper.close() }

// Meta is what a create carries beside its body.
type Meta struct {
	// Traceparent is a valid one (W3C Trace Context); the door makes one where there is none.
	Traceparent   string
	CorrelationID string
	// Selector narrows where the run may go.
	Selector *Selector
	// Hops is how many organisations the run may still cross; nil means MaxHops. Via are those that it came through.
	Hops *int
	Via  []Hop
}

// Create makes a run of an agent, or finds the one that was made under the same idempotency key (replayed). What it refuses
// leaves nothing behind: fault.InvalidRequest by field, NotFound (agent), Forbidden, Conflict (key), RateLimited.
func (s *Service) Create(ctx context.Context, by tenancy.Actor, agentID string, req Request, meta Meta) (_ *Run, replayed bool, index uint64, err error) {
	if meta.CorrelationID == "" {
		meta.CorrelationID = by.CorrelationID
	}
	args, err := s.prepare(by, agentID, &req, meta)
	if err != nil {
		return nil, false, 0, err
	}
	if s.session != nil && s.session.Free() > 0 {
		args.Session = s.session.ID()
		s.fresh.put(args)
	}
	done, index, err := s.make(ctx, args, by.Auth, &req, &meta)
	if err != nil {
		return nil, false, index, err
	}
	if done.Replayed {
		r, at, err := s.Get(ctx, storage.Read{MinIndex: index}, args.TenantID, done.RunID)
		return r, done.RunID != args.RunID, max(index, at), err
	}
	return s.newRun(args, &done, &req), false, index, nil
}

// make places a run and makes it. Where the run can't be placed it may have been made before, under its key.
func (s *Service) make(ctx context.Context, args *createArgs, by *tenancy.Auth, req *Request, meta *Meta) (created, uint64, error) {
	err := s.place(ctx, args, by, req, meta, false)
	if fault.Is(err, fault.NotFound) {
		err = s.place(ctx, args, by, req, meta, true)
	}
	if err != nil {
		if r, index, miss := s.former(ctx, args); miss == nil {
			return created{RunID: r.ID, Replayed: true}, index, nil
		} else if fault.Is(miss, fault.Conflict) {
			err = miss
		}
		return created{}, 0, err
	}
	done, index, err := s.commands.create.Do(ctx, s.store, "", *args)
	if s.placer == nil || args.Away != nil || !fault.Is(err, fault.NotFound) {
		return done, index, err
	}
	// There is no such agent here; a route to one may have been made at another node a moment ago.
	switch again := s.place(ctx, args, by, req, meta, true); {
	case again != nil && !fault.Is(again, fault.NotFound): // there is one, and it refuses the run
		return created{}, 0, again
	case again != nil || args.Away == nil:
		return done, index, err
	}
	return s.commands.create.Do(ctx, s.store, "", *args)
}

// prepare checks a create and gets it ready for the writer.
func (s *Service) prepare(by tenancy.Actor, agentID string, req *Request, meta Meta) (*createArgs, error) {
	auth := *by.Auth
	switch {
	case !auth.Has(tenancy.RunsCreate) && (meta.Selector == nil || !auth.Has(tenancy.RunsForward)):
		return nil, fault.New(fault.Forbidden, "The credential lacks the scope runs:create.").With("scope", string(tenancy.RunsCreate))
	case !id.Valid(agentID):
		return nil, fault.New(fault.NotFound, "There is no such agent; see GET /v1/agents for those there are.")
	}
	if req.Input.Type == "" {
		req.Input.Type = "text"
	}
	if err := req.validate(); err != nil {
		return nil, err
	}
	var err error
	if auth.PolicyContext, err = tighten(auth.PolicyContext, req.PolicyContext); err != nil {
		return nil, err
	}
	args := &createArgs{
		TenantID: auth.TenantID, AgentID: agentID, RunID: id.New(id.Run), EventID: id.New(id.Event), Principal: auth.Principal.ID,
		Options: req.Options, Given: req.options(), PolicyContext: auth.PolicyContext,
		Traceparent: meta.Traceparent, CorrelationID: meta.CorrelationID, StackID: s.stackID, Region: s.region,
	}
	if req.IdempotencyKey != "" {
		if args.Hash, err = req.hash(); err != nil {
			return nil, err
		}
		args.Key = idempotencyKey(auth.TenantID, auth.Principal.ID, agentID, req.IdempotencyKey)
	}
	for key, value := range req.Context.Labels {
		args.Labels = append(args.Labels, labelPrefix(auth.TenantID, key, value))
	}
	slices.Sort(args.Labels)
	rec := record{
		AgentID: agentID, Auth: auth, HomeTenantID: auth.HomeTenantID, Traceparent: meta.Traceparent,
		CorrelationID: meta.CorrelationID, StackID: s.stackID, Organization: s.org, Key: args.Key,
	}
	body := *req
	body.IdempotencyKey = ""
	if rec.Request, err = json.Marshal(&body); err == nil {
		args.Record, err = json.Marshal(&rec)
	}
	if err != nil {
		return nil, fmt.Errorf("run: encode record: %w", err)
	}
	args.row = &freshRow{rest: args.Record, record: rec, request: body}
	return args, nil
}

// hash tells the same request from another: the decoded body, with the platform's defaults filled in.
func (r *Request) hash() (string, error) {
	body := *r
	body.IdempotencyKey = ""
	if p := body.PolicyContext; p != nil && p.DataClassification == "" && p.Region == "" && p.Purpose == "" && p.ConsentTags == nil {
		body.PolicyContext = nil
	}
	body.Options = r.options().over(r.Options, agent.RunDefaults{})
	raw, err := json.Marshal(&body)
	if err != nil {
		return "", fmt.Errorf("run: hash request: %w", err)
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:]), nil
}

// newRun is a run as it was created now.
func (s *Service) newRun(a *createArgs, d *created, req *Request) *Run {
	place := Placement{StackID: d.StackID, Organization: s.org}
	if a.Away != nil {
		place = a.Away.placement()
	} else if place.StackID == "" {
		place.StackID = s.stackID
	}
	r := &Run{
		TenantID: a.TenantID, AgentID: a.AgentID, ID: a.RunID, Status: Queued,
		CreatedAt: timeOf(d.CreatedMS), Deadline: timeOf(d.DeadlineMS), EventsURL: eventsURL(a.RunID),
		Options: d.Options, Labels: req.Context.Labels, Input: &req.Input,
		Placement: place, CorrelationID: a.CorrelationID,
	}
	if r.Labels == nil {
		r.Labels = map[string]string{}
	}
	return r
}

// Cancel asks that a run be ended, and returns it: canceled when nobody worked on it, else with CancelRequestedAt set.
// Asking again while it's pending is harmless; a run that has ended is fault.Conflict. With by's idempotency key it's done
// once, and replayed tells that it was done before.
func (s *Service) Cancel(ctx context.Context, by tenancy.Actor, runID string) (r *Run, replayed bool, index uint64, err error) {
	if !by.Auth.Has(tenancy.RunsCancel) {
		return nil, false, 0, fault.New(fault.Forbidden, "The credential lacks the scope runs:cancel.").With("scope", string(tenancy.RunsCancel))
	}
	if !id.Valid(runID) {
		return nil, false, 0, errNoRun()
	}
	args := cancelArgs{
		TenantID: by.Auth.TenantID, RunID: runID, EventID: id.New(id.Event), By: by.Auth.Principal.ID, CorrelationID: by.CorrelationID,
	}
	if by.Idem != nil {
		args.Idem = &tenancy.Idempotency{Principal: args.By, Operation: by.Idem.Operation, Key: by.Idem.Key}
	}
	done, index, err := s.commands.cancel.Do(ctx, s.store, "", args)
	if err != nil {
		return nil, false, index, err
	}
	r, at, err := s.Get(ctx, storage.Read{MinIndex: index}, args.TenantID, runID)
	return r, done != args.EventID, max(index, at), err
}

// Append adds to the journal of a leased run and returns its last sequence. fault.Conflict with details.last_sequence says
// that the journal has gone on; without it, that the lease is no longer the writer's, or the run has ended. A refusal by a
// quota (RateLimited, QuotaExceeded) has appended nothing.
func (s *Service) Append(ctx context.Context, a Append) (last uint64, err error) {
	if err := a.validate(); err != nil {
		return 0, err
	}
	last, _, err = s.commands.append.Do(ctx, s.store, "", a)
	return last, err
}

// Settle books what an attempt spent whose lease is gone, so that it can't be appended any more.
func (s *Service) Settle(ctx context.Context, tenantID string, settle ...quota.Settlement) error {
	_, _, err := s.commands.settle.Do(ctx, s.store, "", settleArgs{TenantID: tenantID, Settle: settle})
	return err
}

// HandBack ends leases whose runs are unfinished, so that they go on elsewhere, or here again. A worker that stops before
// its run's final event, for whatever reason but the loss of its lease, has to call it.
func (s *Service) HandBack(ctx context.Context, leases ...Lease) error {
	for part := range slices.Chunk(leases, batch) {
		if _, _, err := s.commands.handBack.Do(ctx, s.store, "", handBackArgs{Leases: part, EventIDs: mint(len(part))}); err != nil {
			return err
		}
	}
	return nil
}

// Load reads what a worker needs from this node's copy; fault.Conflict when the lease is no longer the reader's.
func (s *Service) Load(ctx context.Context, l Lease) (*Work, error) {
	k := keys{l.TenantID, l.RunID}
	w := &Work{Lease: l}
	err := s.store.View(ctx, storage.Read{}, func(r storage.Snapshot) error {
		st, err := readState(r, k)
		if err != nil {
			return err
		}
		if st.Status.Final() || st.Session != l.SessionID || st.Epoch != l.Epoch {
			return fault.New(fault.Conflict, "The run has gone to another worker, or has ended.").With("reason", "fenced")
		}
		var rec *record
		if rec, w.Request, err = s.fresh.load(r, k); err != nil {
			return err
		}
		w.AgentID, w.Auth, w.Auth.HomeTenantID = rec.AgentID, rec.Auth, rec.HomeTenantID
		w.Traceparent, w.CorrelationID = rec.Traceparent, rec.CorrelationID
		w.CreatedAt, w.Deadline = timeOf(rec.CreatedMS), timeOf(rec.DeadlineMS)
		if st.Reserved != "" {
			if w.Reserved, err = quota.Held(r, k.tenantID, st.Reserved); err != nil {
				return err
			}
		}
		w.Journal, err = readJournal(r, k, st.Sequence)
		return err
	})
	if err != nil {
		return nil, err
	}
	return w, nil
}

// fewEvents is up to how many events are read one by one: each is found with one search, where a scan has to look
// through every table.
const fewEvents = 4

func readJournal(r storage.Reader, k keys, length uint64) ([]event.Envelope, error) {
	journal := make([]event.Envelope, 0, length)
	var broken error
	take := func(_ string, value []byte) bool {
		v, err := event.ScanOwn(value)
		if broken = err; err == nil {
			journal = append(journal, v.Envelope())
		}
		return err == nil
	}
	var err error
	if length > fewEvents {
		err = r.Scan(storage.Prefix(event.JournalPrefix(k.tenantID, k.runID)), take)
	}
	for n := uint64(1); n <= length && length <= fewEvents && err == nil && broken == nil; n++ {
		var value []byte
		if value, err = r.Get(event.Key(k.tenantID, k.runID, n)); err == nil && value != nil {
			take("", value)
		}
	}
	switch {
	case err != nil:
		return nil, err
	case broken != nil:
		return nil, broken
	case uint64(len(journal)) != length:
		return nil, fmt.Errorf("run: journal of %s has %d events, its state says %d", k.runID, len(journal), length)
	}
	return journal, nil
}

// mint makes event ids for a command that may need that many.
func mint(n int) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = id.New(id.Event)
	}
	return ids
}

func timeOf(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

func timeOrNil(ms int64) *time.Time {
	if ms == 0 {
		return nil
	}
	t := timeOf(ms)
	return &t
}

func eventsURL(runID string) string { return "/v1/runs/" + runID + "/events" }
