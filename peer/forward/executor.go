package forward

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/agent/run"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/peer/trust"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
)

// Caller is a node of another organisation that asks on behalf of a tenant, proven by its certificate and its token.
type Caller struct {
	Peering registry.Peering
	StackID string
	// Auth are the rights of grant and token together, for the local tenant.
	Auth   *tenancy.Auth
	Claims *trust.ForwardClaims
}

// origin is where the caller's runs come from; the tenant there isn't told by every call.
func (by *Caller) origin() run.Origin {
	return run.Origin{
		PeeringID: by.Peering.ID, Organization: by.Peering.Organization, TrustDomain: by.Peering.TrustDomain, ClusterID: by.Peering.ClusterID, StackID: by.StackID,
	}
}

// Commands are the executor's changes of the store.
type Commands struct {
	runs   *run.Commands
	take   storage.Call[takeArgs, run.Taken]
	refuse storage.Call[refuseArgs, run.Taken]
	cancel storage.Call[cancelArgs, struct{}]
	// conclude takes in how a run ended at its origin.
	conclude storage.Call[concludeArgs, run.Concluded]
	ingest   storage.Call[ingestArgs, []run.Verdict]
}

// Define adds the commands to reg; runs are those of the same registry.
func Define(reg *storage.Registry, runs *run.Commands) *Commands {
	c := &Commands{runs: runs}
	c.take = storage.Define(reg, "forward.take", c.evalTake)
	c.refuse = storage.Define(reg, "forward.refuse", c.evalRefuse)
	c.cancel = storage.Define(reg, "forward.cancel", c.evalCancel)
	c.conclude = storage.Define(reg, "forward.conclude", c.evalConclude)
	c.ingest = storage.Define(reg, "forward.ingest", c.evalIngest)
	return c
}

// Keys of the tokens that were used: by trust domain and a hash of the jti, and by the second in which each may be forgotten.
const (
	tokenKeys  = "federation/jti/"
	tokenOrder = "federation/jti-due/"
)

// token is a forward token that a call changes something with: good once.
type token struct {
	TrustDomain string `json:"trust_domain"`
	ID          string `json:"jti"`
	ExpiresUnix int64  `json:"expires"`
}

func tokenOf(c *Caller) token {
	ends := c.Claims.ExpiresAt.Add(trust.ForwardTokenLeeway)
	return token{TrustDomain: c.Peering.TrustDomain, ID: c.Claims.ID, ExpiresUnix: ends.Unix()}
}

// errReplayed is what a token that was used before gets; the message is that of any token that is not acceptable.
func errReplayed() error {
	return fault.New(fault.Unauthorized, "The forward token is not acceptable.").Because(errors.New("its jti has been used"))
}

// use notes that a token was used, and forgets a few that can't be used any more.
func (t *token) use(tx storage.Tx) error {
	sum := sha256.Sum256([]byte(t.ID))
	name := t.TrustDomain + "/" + hex.EncodeToString(sum[:])
	if seen, err := tx.Get(tokenKeys + name); err != nil {
		return err
	} else if seen != nil {
		return errReplayed()
	}
	tx.Set(tokenKeys+name, nil)
	tx.Set(fmt.Sprintf("%s%012d/%s", tokenOrder, t.ExpiresUnix, name), nil)
	var old []string
	end := fmt.Sprintf("%s%012d/", tokenOrder, tx.Now().Unix())
	err := tx.Scan(storage.Range{From: tokenOrder, To: end}, func(key string, _ []byte) bool {
		old = append(old, key)
		return len(old) < 4
	})
	for _, key := range old {
		tx.Delete(key)
		tx.Delete(tokenKeys + key[len(tokenOrder)+13:])
	}
	return err
}

// active reads the peering that a call came through, which must be active at this very point of the log.
func active(r storage.Reader, peeringID string) (registry.Peering, error) {
	p, err := registry.GetPeering(r, peeringID)
	if fault.Is(err, fault.NotFound) || err == nil && p.State != registry.PeeringActive {
		return p, fault.New(fault.Unauthorized, "There is no peering in force.")
	}
	return p, err
}

type takeArgs struct {
	Token token       `json:"token"`
	Run   run.Inbound `json:"run"`
}

// evalTake takes a run, after looking again at everything that may have changed since the door looked.
func (c *Commands) evalTake(tx storage.Tx, a takeArgs) (run.Taken, error) {
	in := &a.Run
	p, err := active(tx, in.Origin.PeeringID)
	if err != nil {
		return run.Taken{}, err
	}
	if err := a.Token.use(tx); err != nil {
		return run.Taken{}, err
	}
	grant, ok := p.Export(in.Origin.TenantID)
	if ok && grant.LocalTenantID != in.Create.TenantID {
		ok = false
	}
	if err := allowed(ok, &grant, in.Create.AgentID, in.Create.PolicyContext.DataClassification); err != nil {
		return c.runs.Refuse(tx, &in.Origin, in.Create.RunID, in.Attempt, err)
	}
	in.MaxRuns = nil
	if grant.Quotas != nil {
		in.MaxRuns = grant.Quotas.MaxConcurrentRuns
	}
	return c.runs.Take(tx, *in)
}

// allowed says whether a grant lets a run of an agent with a class of data in.
func allowed(there bool, g *registry.Grant, agentID, class string) error {
	if !there {
		return fault.New(fault.Forbidden, "There is no grant for this tenant.")
	}
	for _, s := range [...]tenancy.Scope{tenancy.RunsCreate, tenancy.RunsRead} { // who can't follow a run must not begin it
		if !slices.Contains(g.Scopes, s) {
			return fault.New(fault.Forbidden, "The grant does not give the scope %s.", s).With("scope", string(s))
		}
	}
	if g.Agents != nil && !slices.Contains(g.Agents, agentID) {
		return fault.New(fault.NotFound, "There is no such agent; see GET /v1/agents for those there are.")
	}
	most, _ := tenancy.ClassRank(g.MaxDataClassification)
	if rank, ok := tenancy.ClassRank(class); g.MaxDataClassification != "" && (!ok || rank > most) {
		return fault.New(fault.Forbidden, "The grant takes data up to the class %s.", g.MaxDataClassification).With("field", "policy_context.data_classification")
	}
	return nil
}

type refuseArgs struct {
	Token   token      `json:"token"`
	Origin  run.Origin `json:"origin"`
	RunID   string     `json:"run_id"`
	Attempt uint64     `json:"attempt"`
	Why     run.Error  `json:"why"`
}

// evalRefuse puts on record that a run can't be taken as it came, unless it was taken before.
func (c *Commands) evalRefuse(tx storage.Tx, a refuseArgs) (run.Taken, error) {
	if _, err := active(tx, a.Origin.PeeringID); err != nil {
		return run.Taken{}, err
	}
	if err := a.Token.use(tx); err != nil {
		return run.Taken{}, err
	}
	return c.runs.Refuse(tx, &a.Origin, a.RunID, a.Attempt, &fault.Error{Code: fault.Code(a.Why.Code), Message: a.Why.Message, Details: a.Why.Details})
}

type cancelArgs struct {
	Token         token      `json:"token"`
	Origin        run.Origin `json:"origin"`
	TenantID      string     `json:"tenant_id"`
	RunID         string     `json:"run_id"`
	EventID       string     `json:"event_id"`
	By            string     `json:"by"`
	CorrelationID string     `json:"correlation_id"`
}

func (c *Commands) evalCancel(tx storage.Tx, a cancelArgs) (none struct{}, err error) {
	if _, err := active(tx, a.Origin.PeeringID); err != nil {
		return none, err
	}
	if err := a.Token.use(tx); err != nil {
		return none, err
	}
	return none, c.runs.CancelInbound(tx, a.Origin, a.TenantID, a.RunID, a.EventID, a.By, a.CorrelationID)
}

type concludeArgs struct {
	Token token          `json:"token"`
	End   run.Conclusion `json:"end"`
}

func (c *Commands) evalConclude(tx storage.Tx, a concludeArgs) (run.Concluded, error) {
	if _, err := active(tx, a.End.Origin.PeeringID); err != nil {
		return run.Concluded{}, err
	}
	if err := a.Token.use(tx); err != nil {
		return run.Concluded{}, err
	}
	return c.runs.Conclude(tx, a.End)
}

// ExecutorOptions says how to make an Executor.
type ExecutorOptions struct {
	Store    storage.Store
	Commands *Commands
	Runs     *run.Service
	// ClusterID is this cluster's.
	ClusterID string
}

// Executor is the end of the wire at which runs arrive.
type Executor struct{ o ExecutorOptions }

// NewExecutor returns an Executor.
func NewExecutor(o ExecutorOptions) *Executor { return &Executor{o: o} }

// Accept takes a run that another organisation's node forwards. The same run again is answered alike, and replayed says so.
// A refusal whose details hold refused_attempt is on record: that attempt will not be taken, however late it comes again.
func (e *Executor) Accept(ctx context.Context, by *Caller, req *Request, r *RunRequest, create run.Request, meta run.Meta) (_ *Forwarded, replayed bool, index uint64, err error) {
	a, err := e.arrival(by, req, r, create, meta)
	if err != nil {
		return nil, false, 0, err
	}
	in, err := e.o.Runs.PrepareInbound(ctx, a)
	var taken run.Taken
	switch {
	case err == nil:
		taken, index, err = e.o.Commands.take.Do(ctx, e.o.Store, "", takeArgs{Token: tokenOf(by), Run: *in})
	case onRecord(err) && id.Valid(a.RunID):
		f := fault.Of(err)
		taken, index, err = e.o.Commands.refuse.Do(ctx, e.o.Store, "", refuseArgs{
			Token: tokenOf(by), Origin: a.Origin, RunID: a.RunID, Attempt: a.Attempt,
			Why: run.Error{Code: string(f.Code), Message: f.Message, Details: f.Details},
		})
	}
	if err != nil {
		return nil, false, index, err
	}
	if no := taken.Refused; no != nil {
		f := &fault.Error{Code: fault.Code(no.Error.Code), Message: no.Error.Message, Details: no.Error.Details}
		return nil, false, index, f.With("refused_attempt", no.Attempt)
	}
	now, at, err := e.o.Runs.GetWhole(ctx, storage.Read{MinIndex: index}, by.Auth.TenantID, taken.RunID)
	if err != nil {
		return nil, false, index, err
	}
	return &Forwarded{
		TenantID: now.TenantID, RunID: now.ID, EventsURL: EventsPath(now.ID), RemoteStackID: now.Placement.StackID, RemoteRunID: now.ID,
		RemoteEventsURL: EventsPath(now.ID), Status: now.Status,
	}, taken.Replayed, max(index, at), nil
}

// onRecord reports whether an error refuses the run for good as it came, and not only at this moment.
func onRecord(err error) bool {
	switch fault.CodeOf(err) {
	case fault.Internal, fault.Unavailable, fault.Timeout:
		return false
	}
	return true
}

func (e *Executor) arrival(by *Caller, req *Request, r *RunRequest, create run.Request, meta run.Meta) (*run.Arrival, error) {
	o := req.Origin
	switch {
	case o == nil:
		return nil, fault.Invalid("forward.origin", "A node that forwards a run says where it comes from.")
	case len(by.Claims.Actors) == 0 || o.ClusterID != by.Claims.Actors[len(by.Claims.Actors)-1].ClusterID || o.ClusterID != by.Peering.ClusterID || o.StackID != by.StackID:
		return nil, fault.New(fault.Forbidden, "The run's origin is not who sends it.").With("field", "forward.origin")
	case o.Attempt == 0 || o.RemainingMS <= 0:
		return nil, fault.Invalid("forward.origin", "A forwarded run has an attempt and time left.")
	}
	if slices.Contains(by.Claims.Via(), e.o.ClusterID) {
		return nil, fault.New(fault.LoopDetected, "The run has come through this cluster before.").With("via", by.Claims.Via())
	}
	origin := run.Origin{
		PeeringID: by.Peering.ID, Organization: by.Peering.Organization, TrustDomain: by.Peering.TrustDomain, ClusterID: o.ClusterID,
		StackID: o.StackID, TenantID: o.TenantID,
	}
	hops := by.Claims.Hops
	meta.Hops = &hops
	for _, actor := range by.Claims.Actors {
		meta.Via = append(meta.Via, run.Hop{Node: actor.Node, ClusterID: actor.ClusterID})
	}
	return &run.Arrival{
		Origin: origin, Attempt: o.Attempt, RunID: o.RunID, AgentID: r.AgentID, Request: create, IdempotencyKey: r.IdempotencyKey,
		By: tenancy.Actor{Auth: by.Auth, CorrelationID: meta.CorrelationID}, Journal: o.Journal, RemainingMS: o.RemainingMS, FinalAck: o.FinalAck, Meta: meta,
	}, nil
}

// Cancel cancels a run at the wish of the peer that forwarded it, or remembers the wish for when the run comes.
func (e *Executor) Cancel(ctx context.Context, by *Caller, runID, correlationID string) (index uint64, err error) {
	if !id.Valid(runID) {
		return 0, fault.Invalid("run_id", "A run id is 1 to %d letters, digits, '.', '_' and '-'.", id.MaxLen)
	}
	if !by.Auth.Has(tenancy.RunsCancel) {
		return 0, fault.New(fault.Forbidden, "The grant or the token lacks the scope %s.", tenancy.RunsCancel).With("scope", string(tenancy.RunsCancel))
	}
	_, index, err = e.o.Commands.cancel.Do(ctx, e.o.Store, "", cancelArgs{
		Token: tokenOf(by), Origin: by.origin(),
		TenantID: by.Auth.TenantID, RunID: runID, EventID: id.New(id.Event), By: by.Auth.Principal.ID, CorrelationID: correlationID,
	})
	return index, err
}

// Conclude takes in how a run ended at the peer that forwarded it, and answers with what there is of it here. A run that goes
// on here though it has ended there is canceled, if the caller may; one that has not come will be refused.
func (e *Executor) Conclude(ctx context.Context, by *Caller, runID string, end Final, correlationID string) (run.Concluded, uint64, error) {
	switch {
	case !id.Valid(runID):
		return run.Concluded{}, 0, fault.Invalid("run_id", "A run id is 1 to %d letters, digits, '.', '_' and '-'.", id.MaxLen)
	case end.Sequence == 0 || !id.Valid(end.EventID):
		return run.Concluded{}, 0, fault.Invalid("final", "The event that ended the run is told by its sequence and its event_id.")
	}
	return e.o.Commands.conclude.Do(ctx, e.o.Store, "", concludeArgs{Token: tokenOf(by), End: run.Conclusion{
		Origin: by.origin(), TenantID: by.Auth.TenantID, RunID: runID, Sequence: end.Sequence, FinalID: end.EventID,
		Stop: by.Auth.Has(tenancy.RunsCancel), By: by.Auth.Principal.ID, EventID: id.New(id.Event), CorrelationID: correlationID,
	}})
}

// Place is an event of a journal, by its sequence and its id.
type Place struct {
	Sequence uint64
	EventID  string // "" is not compared
}

// Owns returns nil when the run is one that by has forwarded, for the tenant it acts for; to others it does not exist. When
// by says which event it has last, and the journal here has another one there, it's fault.Conflict: the two have parted.
func (e *Executor) Owns(ctx context.Context, r storage.Read, by *Caller, runID string, at *Place) error {
	return storage.Find(ctx, e.o.Store, r, func(v storage.Snapshot) error {
		if !id.Valid(runID) {
			return errNoRun()
		}
		o, foreign, err := run.Foreign(v, by.Auth.TenantID, runID)
		if err == nil && (!foreign || o.PeeringID != by.Peering.ID) {
			err = errNoRun()
		}
		if err != nil || at == nil || at.EventID == "" || at.Sequence == 0 {
			return err
		}
		raw, err := v.Get(event.Key(by.Auth.TenantID, runID, at.Sequence))
		if err != nil {
			return err
		}
		if have, err := event.ScanOwn(raw); raw == nil || err != nil || string(have.ID) != at.EventID {
			return fault.New(fault.Conflict, "Event %d of the run is another one here.", at.Sequence).With("reason", "diverged")
		}
		return nil
	})
}

func errNoRun() error { return fault.New(fault.NotFound, "There is no such run.") }
