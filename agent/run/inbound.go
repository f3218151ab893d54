package run

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/agent/queue"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
	"github.com/nexixai/agentos/tenancy/quota"
)

// Origin is where a run of others came from.
type Origin struct {
	PeeringID    string `json:"peering_id"`
	Organization string `json:"organization"`
	TrustDomain  string `json:"trust_domain"`
	ClusterID    string `json:"cluster_id"`
	StackID      string `json:"stack_id"` // the node that asked
	// TenantID is the origin's own tenant.
	TenantID string `json:"tenant_id"`
}

// Inbound is a run that another organisation has forwarded, checked and prepared (Service.PrepareInbound).
type Inbound struct {
	Origin  Origin `json:"origin"`
	Attempt uint64 `json:"attempt"`
	// Prefix is the journal so far, as envelopes of the local tenant.
	Prefix [][]byte `json:"prefix"`
	// RemainingMS is how long the origin still gives the run.
	RemainingMS int64 `json:"remaining_ms"`
	// MaxRuns is the grant's bound on runs at once; nil sets none.
	MaxRuns *int64 `json:"max_runs,omitempty"`
	// FinalAck says that the origin will tell how the run ended there (Commands.Conclude).
	FinalAck bool       `json:"final_ack,omitempty"`
	Create   createArgs `json:"create"`
}

// Taken is the answer to an inbound run.
type Taken struct {
	RunID    string   `json:"run_id"`
	Replayed bool     `json:"replayed"`
	Refused  *Refused `json:"refused,omitempty"`
}

// Refused is a refusal that is on record: the same run in the same attempt is refused again, however late it comes.
type Refused struct {
	Attempt uint64 `json:"attempt"`
	Error   Error  `json:"error"`
}

// known is what this cluster knows of a run of others, by the origin's cluster and the run's id: that it's here, under which
// tenant; that it was refused, up to which attempt; or that it was canceled before it came.
type known struct {
	TenantID string   `json:"tenant_id,omitempty"` // the local one
	Refused  *Refused `json:"refused,omitempty"`
	Canceled bool     `json:"canceled,omitempty"`
	AtMS     int64    `json:"at_ms"`
}

func (o *Origin) knownKey(runID string) string {
	return inboundKeys + o.TrustDomain + "/" + o.ClusterID + "/" + runID
}

func readKnown(r storage.Reader, key string) (*known, error) {
	raw, err := r.Get(key)
	if err != nil || raw == nil {
		return nil, err
	}
	k := new(known)
	if err := json.Unmarshal(raw, k); err != nil {
		return nil, fmt.Errorf("run: %s is broken: %w", key, err)
	}
	return k, nil
}

// knownFor is how long a refusal, or a cancel that came first, is remembered: far longer than any run may take.
const knownFor = 7 * 24 * time.Hour

// save writes k. What is not a run here is forgotten after knownFor; each such note lets go of a few that are older.
func (k *known) save(tx storage.Tx, key string) error {
	before, err := readKnown(tx, key)
	if err != nil {
		return err
	}
	noted, note := before != nil && before.TenantID == "", k.TenantID == ""
	if note != noted {
		if err := countNote(tx, key, map[bool]int64{true: 1, false: -1}[note]); err != nil {
			return err
		}
	}
	k.AtMS = tx.Now().UnixMilli()
	if note {
		tx.Set(string(appendMS([]byte(inboundOrder), k.AtMS))+"/"+key[len(inboundKeys):], nil)
		if err := forgetKnown(tx); err != nil {
			return err
		}
	}
	raw, err := json.Marshal(k)
	if err != nil {
		return fmt.Errorf("run: encode: %w", err)
	}
	tx.Set(key, raw)
	return nil
}

// maxNotes bounds what is remembered of one peer's runs that are not here.
const maxNotes = 10_000

// countNote counts a peer's note that comes (more is 1) or goes (-1). One too many is refused for now: who sends so many
// means no runs.
func countNote(tx storage.Tx, key string, more int64) error {
	n, err := notes(tx, key)
	if err != nil {
		return err
	}
	if n += more; n > maxNotes {
		return fault.New(fault.RateLimited, "So many runs of this peer have been refused, or canceled before they came, that no more can be noted; try again later.").
			With("limit", "federation.notes").With("max", maxNotes).After(time.Minute)
	}
	tx.Set(notesKey(key), strconv.AppendInt(nil, max(n, 0), 10))
	return nil
}

// notesKey is where the notes of a peer are counted, of which key is one.
func notesKey(key string) string {
	return inboundCount + key[len(inboundKeys):strings.LastIndexByte(key, '/')]
}

func notes(r storage.Reader, key string) (n int64, err error) {
	raw, err := r.Get(notesKey(key))
	if err != nil || raw == nil {
		return 0, err
	}
	if n, err = strconv.ParseInt(string(raw), 10, 64); err != nil {
		return 0, fmt.Errorf("run: %s is broken: %w", notesKey(key), err)
	}
	return n, nil
}

func forgetKnown(tx storage.Tx) error {
	var old []string
	end := string(appendMS([]byte(inboundOrder), tx.Now().Add(-knownFor).UnixMilli()))
	err := tx.Scan(storage.Range{From: inboundOrder, To: end}, func(key string, _ []byte) bool {
		old = append(old, key)
		return len(old) < 4
	})
	for i := 0; i < len(old) && err == nil; i++ {
		_, name, _ := strings.Cut(old[i][len(inboundOrder):], "/")
		var k *known
		k, err = readKnown(tx, inboundKeys+name)
		if k != nil && k.TenantID == "" && k.AtMS < tx.Now().Add(-knownFor).UnixMilli() {
			tx.Delete(inboundKeys + name)
			err = errors.Join(err, countNote(tx, inboundKeys+name, -1))
		}
		tx.Delete(old[i])
	}
	return err
}

// inbound is the record of a run's origin, beside it.
type inbound struct {
	Origin
	Attempt uint64 `json:"attempt"`
	Hash    string `json:"hash"`
	Counted bool   `json:"counted"` // against the grant
	// Superseded says that the end which the run has here is not the one that it has at its origin.
	Superseded bool `json:"superseded,omitempty"`
}

func readInbound(r storage.Reader, k keys) (*inbound, error) {
	raw, err := r.Get(k.origin())
	if err != nil {
		return nil, fmt.Errorf("run: read origin: %w", err)
	}
	in := new(inbound)
	if err := json.Unmarshal(raw, in); err != nil {
		return nil, fmt.Errorf("run: origin of %s is broken: %w", k.runID, err)
	}
	return in, nil
}

func (in *inbound) save(tx storage.Tx, k keys) error {
	raw, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("run: encode origin: %w", err)
	}
	tx.Set(k.origin(), raw)
	return nil
}

// Take takes a run of another organisation, or finds that it was taken before, or refuses it on record. It is part of a
// command that has proven who asks, and that they may; a refusal must not undo what else that command has written, so it
// comes back as a value.
func (c *Commands) Take(tx storage.Tx, in Inbound) (Taken, error) {
	key := in.Origin.knownKey(in.Create.RunID)
	k, err := readKnown(tx, key)
	if err != nil {
		return Taken{}, err
	}
	switch {
	case k != nil && k.TenantID != "":
		return in.again(tx, k)
	case k != nil && k.Canceled:
		return Taken{}, fault.New(fault.Conflict, "The run was canceled before it came.").With("reason", "canceled").With("refused_attempt", in.Attempt)
	case k != nil && k.Refused != nil && in.Attempt <= k.Refused.Attempt:
		return Taken{Refused: k.Refused}, nil
	}
	if raw, err := tx.Get(keys{in.Create.TenantID, in.Create.RunID}.state()); err != nil {
		return Taken{}, err
	} else if raw != nil {
		return c.Refuse(tx, &in.Origin, in.Create.RunID, in.Attempt, errForeignRun())
	}
	err = c.admitInbound(tx, &in)
	if err == nil {
		return Taken{RunID: in.Create.RunID}, (&known{TenantID: in.Create.TenantID}).save(tx, key)
	}
	if fault.Is(err, fault.Internal) {
		return Taken{}, err
	}
	return c.Refuse(tx, &in.Origin, in.Create.RunID, in.Attempt, err)
}

func errForeignRun() *fault.Error {
	return fault.New(fault.Conflict, "Another run has this id here.").With("field", "run_id")
}

// Refuse puts a refusal on record. Nothing of the run may have been written before it.
func (c *Commands) Refuse(tx storage.Tx, o *Origin, runID string, attempt uint64, why error) (Taken, error) {
	f := fault.Of(why)
	r := &Refused{Attempt: attempt, Error: Error{Code: string(f.Code), Message: f.Message, Retryable: f.Code.Retryable(), Details: f.Details}}
	return Taken{Refused: r}, (&known{Refused: r}).save(tx, o.knownKey(runID))
}

// again answers for a run that is here already: the same one, or another one's id.
func (in *Inbound) again(tx storage.Tx, k *known) (Taken, error) {
	at := keys{in.Create.TenantID, in.Create.RunID}
	if k.TenantID != at.tenantID {
		return Taken{}, errForeignRun()
	}
	have, err := readInbound(tx, at)
	if err != nil {
		return Taken{}, err
	}
	if have.Hash != in.Create.Hash || have.PeeringID != in.Origin.PeeringID {
		return Taken{}, errForeignRun()
	}
	if in.Attempt > have.Attempt {
		have.Attempt = in.Attempt
		if err := have.save(tx, at); err != nil {
			return Taken{}, err
		}
	}
	return Taken{RunID: at.runID, Replayed: true}, nil
}

// admitInbound makes the run. It checks everything that may refuse before it writes anything.
func (c *Commands) admitInbound(tx storage.Tx, in *Inbound) error {
	a := &in.Create
	tenant, err := c.tenants.Tenant(tx, a.TenantID)
	switch {
	case fault.Is(err, fault.NotFound):
		return fault.New(fault.Forbidden, "There is no grant for this tenant.")
	case err != nil:
		return err
	case tenant.Status != tenancy.Active:
		return errDisabled()
	}
	options, err := c.admissible(tx, a)
	if err != nil {
		return err
	}
	st := &state{
		keys: keys{a.TenantID, a.RunID}, AgentID: a.AgentID, Traceparent: a.Traceparent, Region: a.PolicyContext.Region,
		CreatedMS: tx.Now().UnixMilli(), MaxSteps: options.MaxSteps, Weight: weight(tenant.PlanTier), Remote: inward,
	}
	if options.TimeoutMS = min(options.TimeoutMS, in.RemainingMS); options.TimeoutMS <= 0 {
		return fault.New(fault.Timeout, "The run's time is over.")
	}
	if err := in.prefix(st); err != nil {
		return err
	}
	grant := grantKey(in.Origin.PeeringID, a.TenantID)
	counted, err := countGrant(tx, grant, in.MaxRuns)
	if err != nil {
		return err
	}
	if err := quota.AdmitRun(tx, tenant); err != nil {
		return err
	}
	if counted >= 0 {
		tx.Set(grant, fmt.Appendf(nil, "%d", counted+1))
	}
	return c.writeInbound(tx, in, st, &options)
}

// prefix folds the journal that came with the run.
func (in *Inbound) prefix(st *state) error {
	if len(in.Prefix) == 0 || len(in.Prefix) > maxPrefix {
		return fault.Invalid("journal", "A forwarded run comes with its journal so far, of 1 to %d events.", maxPrefix)
	}
	for i, raw := range in.Prefix {
		v, err := event.ScanOwn(raw)
		if err != nil {
			return fault.Invalid("journal", "Event %d of the journal can't be read.", i+1).Because(err)
		}
		at, err := time.Parse(time.RFC3339, string(v.Time))
		if err != nil || v.Sequence != uint64(i)+1 || event.Type(v.Type).Final() {
			return fault.Invalid("journal", "Event %d of the journal is not one that a forwarded run can begin with.", i+1)
		}
		if err := st.Next(event.Type(v.Type), v.Payload, at); err != nil {
			return fault.Invalid("journal", "%s", err.Error())
		}
	}
	if st.Status != Queued {
		return fault.Invalid("journal", "The journal says that the run is %s; a forwarded run is queued.", st.Status)
	}
	return nil
}

// maxPrefix bounds the journal that a run is forwarded with.
const maxPrefix = 256

func (c *Commands) writeInbound(tx storage.Tx, in *Inbound, st *state, options *RunOptions) error {
	a := &in.Create
	st.DeadlineMS = st.CreatedMS + options.TimeoutMS
	st.Priority, _ = queue.ParsePriority(options.Priority)
	for i, raw := range in.Prefix {
		tx.Set(event.Key(st.tenantID, st.runID, uint64(i)+1), raw)
	}
	tx.Set(st.record(), appendRecord(st, options, a.Record))
	from := inbound{Origin: in.Origin, Attempt: in.Attempt, Hash: a.Hash, Counted: in.MaxRuns != nil}
	if err := from.save(tx, st.keys); err != nil {
		return err
	}
	if in.FinalAck {
		st.veil(tx)
	}
	enlist(tx, st, a.Labels)
	st.watch(tx, st.DeadlineMS)
	if err := a.settle(tx, st); err != nil {
		return err
	}
	st.save(tx, "")
	return recordCreate(tx, a)
}

// grantKey counts the runs under one grant that have not ended.
func grantKey(peeringID, tenantID string) string {
	return tenancy.Place(tenantID, "quota", "grant/"+peeringID)
}

// countGrant reads how many runs there are under a grant, and refuses one more than most. Without a bound it's -1.
func countGrant(r storage.Reader, key string, most *int64) (n int64, err error) {
	if most == nil {
		return -1, nil
	}
	raw, err := r.Get(key)
	if err != nil {
		return 0, err
	}
	if raw != nil {
		if _, err := fmt.Sscan(string(raw), &n); err != nil {
			return 0, fmt.Errorf("run: %s is broken: %w", key, err)
		}
	}
	if n >= *most {
		return n, fault.New(fault.RateLimited, "The grant allows %d runs at once, and so many have not ended.", *most).With("limit", "grant.max_concurrent_runs").With("max", *most).After(time.Second)
	}
	return n, nil
}

func releaseGrant(tx storage.Tx, k keys) error {
	in, err := readInbound(tx, k)
	if err != nil || !in.Counted {
		return err
	}
	key := grantKey(in.PeeringID, k.tenantID)
	raw, err := tx.Get(key)
	if err != nil || raw == nil {
		return err
	}
	var n int64
	if _, err := fmt.Sscan(string(raw), &n); err != nil {
		return fmt.Errorf("run: %s is broken: %w", key, err)
	}
	if n <= 1 {
		tx.Delete(key)
	} else {
		tx.Set(key, fmt.Appendf(nil, "%d", n-1))
	}
	return nil
}

// CancelInbound cancels a run of others at their wish, and remembers the wish for one that has not come yet: it will be
// refused. by is the foreign principal.
func (c *Commands) CancelInbound(tx storage.Tx, o Origin, tenantID, runID, eventID, by, correlationID string) error {
	key := o.knownKey(runID)
	k, err := readKnown(tx, key)
	if err != nil {
		return err
	}
	if k == nil || k.TenantID == "" {
		return (&known{Canceled: true}).save(tx, key)
	}
	if k.TenantID != tenantID {
		return errNoRun()
	}
	err = endOnWish(tx, cancelArgs{TenantID: tenantID, RunID: runID, EventID: eventID, By: by, CorrelationID: correlationID, Peer: o.TrustDomain})
	if fault.Is(err, fault.Conflict) {
		return nil // it has ended; the origin will see how
	}
	return err
}

// Foreign reads where a run came from; ok is false for one of our own.
func Foreign(r storage.Reader, tenantID, runID string) (o Origin, ok bool, err error) {
	k := keys{tenantID, runID}
	st, err := readState(r, k)
	if err != nil || !st.Remote.in() {
		return Origin{}, false, err
	}
	in, err := readInbound(r, k)
	if err != nil {
		return Origin{}, false, err
	}
	return in.Origin, true, nil
}
