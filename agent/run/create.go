package run

import (
	"encoding/json"
	"slices"
	"strconv"

	"github.com/nexixai/agentos/agent"
	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/agent/queue"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
	"github.com/nexixai/agentos/tenancy/audit"
	"github.com/nexixai/agentos/tenancy/quota"
)

// createArgs is a create as its asker prepared it: checked, hashed and encoded, so that the writer has little left to do.
type createArgs struct {
	TenantID  string `json:"tenant_id"`
	AgentID   string `json:"agent_id"`
	RunID     string `json:"run_id"`
	EventID   string `json:"event_id"`
	Principal string `json:"principal"`
	// Key is the store key of the idempotency record, "" for none; Hash tells equal requests.
	Key  string `json:"key"`
	Hash string `json:"hash"`
	// Record is the run's record as a JSON object, but for what the writer adds (see record).
	Record json.RawMessage `json:"record"`
	// Options are those that the request gave; Given says which.
	Options RunOptions `json:"options"`
	Given   given      `json:"given"`
	// Labels are the prefixes of the label lists that the run joins.
	Labels        []string              `json:"labels"`
	PolicyContext tenancy.PolicyContext `json:"policy_context"`
	Traceparent   string                `json:"traceparent"`
	CorrelationID string                `json:"correlation_id"`
	// StackID and Region are the asking node's; Session is set when it offers a free worker.
	StackID string `json:"stack_id"`
	Region  string `json:"region"`
	Session string `json:"session"`
	// Peer is the trust domain that the run came from, "" for one of our own.
	Peer string `json:"peer,omitempty"`
	// Wanted is the node of this cluster that was asked for by name; it gets the run if it has a free worker.
	Wanted string `json:"wanted,omitempty"`
	// Away, when set, says that the run goes to another organisation.
	Away *away `json:"away,omitempty"`
	// OfferID is set when the asking node can send it at once: then it's made and offered in one, by the event of this id.
	OfferID string `json:"offer_id,omitempty"`

	row *freshRow
}

// created is the answer to a create.
type created struct {
	RunID    string `json:"run_id"`
	Replayed bool   `json:"replayed"`
	// What the writer decided, of a run that was created now.
	CreatedMS  int64      `json:"created_ms"`
	DeadlineMS int64      `json:"deadline_ms"`
	Options    RunOptions `json:"options"`
	StackID    string     `json:"stack_id"`
}

// evalCreate is the whole of a create: whether it may be, and all that comes with it.
func (c *Commands) evalCreate(tx storage.Tx, a createArgs) (created, error) {
	k := keys{a.TenantID, a.RunID}
	if raw, err := tx.Get(k.state()); err != nil {
		return created{}, err
	} else if raw != nil { // asked again, the first answer being lost
		return created{RunID: a.RunID, Replayed: true}, nil
	}
	tenant, err := c.tenants.Tenant(tx, a.TenantID)
	if err != nil {
		return created{}, err
	}
	if tenant.Status != tenancy.Active {
		return created{}, errDisabled()
	}
	if former, err := recall(tx, &a); err != nil || former != "" {
		return created{RunID: former, Replayed: true}, err
	}
	options, err := c.admissible(tx, &a)
	if err != nil {
		return created{}, err
	}
	if err := quota.AdmitRun(tx, tenant); err != nil {
		return created{}, err
	}
	st := &state{
		keys: k, AgentID: a.AgentID, Traceparent: a.Traceparent, Region: a.PolicyContext.Region,
		CreatedMS: tx.Now().UnixMilli(), MaxSteps: options.MaxSteps, Weight: weight(tenant.PlanTier),
	}
	st.DeadlineMS = st.CreatedMS + options.TimeoutMS
	st.Priority, _ = queue.ParsePriority(options.Priority)
	if err := st.append(tx, &event.Draft{ID: a.EventID, Type: event.RunCreated, Payload: event.Created()}); err != nil {
		return created{}, err
	}
	tx.Set(k.record(), appendRecord(st, &options, a.Record))
	enlist(tx, st, a.Labels)
	if a.Key != "" {
		tx.Set(a.Key, []byte(a.Hash+a.RunID))
	}
	st.watch(tx, st.DeadlineMS)
	if err := a.settle(tx, st); err != nil {
		return created{}, err
	}
	st.save(tx, "")
	if err := recordCreate(tx, &a); err != nil {
		return created{}, err
	}
	done := created{RunID: a.RunID, CreatedMS: st.CreatedMS, DeadlineMS: st.DeadlineMS, Options: options, StackID: st.StackID}
	return done, nil
}

// settle sends a new run away, or leases or queues it here. st is not saved.
func (a *createArgs) settle(tx storage.Tx, st *state) error {
	if a.Away != nil {
		return a.Away.begin(tx, st, a.Session, a.OfferID)
	}
	session := a.Session
	if a.Wanted != "" {
		wanted, err := queue.SessionOf(tx, a.Wanted)
		if err != nil {
			return err
		}
		session = wanted
	}
	return settleIn(tx, st, session)
}

// recall finds the run that was made under the same idempotency key, "" when there is none. The key's record is the
// request's hash and then the run's id, and it lives as long as the run.
func recall(tx storage.Reader, a *createArgs) (runID string, err error) {
	if a.Key == "" {
		return "", nil
	}
	raw, err := tx.Get(a.Key)
	if err != nil || raw == nil {
		return "", err
	}
	if len(raw) <= len(a.Hash) || string(raw[:len(a.Hash)]) != a.Hash {
		return "", fault.New(fault.Conflict, "The idempotency key was used for a different request; send the same request again, or choose a new key.").With("field", "idempotency_key")
	}
	return string(raw[len(a.Hash):]), nil
}

// admissible checks that the run has an agent and a place, and returns its options in full.
func (c *Commands) admissible(r storage.Reader, a *createArgs) (RunOptions, error) {
	if a.Away != nil { // the agent is the other side's, and so are its defaults
		return a.Given.over(a.Options, agent.RunDefaults{}), nil
	}
	ag, err := c.agents.Agent(r, a.TenantID, a.AgentID)
	if err != nil {
		return RunOptions{}, err
	}
	if ag.Status == agent.Inactive {
		return RunOptions{}, fault.New(fault.Conflict, "The agent is inactive; set its status to active first.").With("field", "agent_id")
	}
	defaults, err := agent.ParseRunDefaults(ag.RunDefaults)
	if err != nil {
		return RunOptions{}, err
	}
	if err := regional(r, a.PolicyContext.Region, a.Region); err != nil {
		return RunOptions{}, err
	}
	return a.Given.over(a.Options, defaults), nil
}

// regional refuses a run that is bound to a region in which this cluster has no node.
func regional(r storage.Reader, region, asked string) error {
	if region == "" || region == asked {
		return nil
	}
	found := false
	err := queue.EachSession(r, func(s *queue.Session) bool {
		found = s.Region == region
		return !found
	})
	if err == nil && !found {
		err = fault.New(fault.UnsupportedCapability, "The run may only be run in region %s, and this cluster has no node there.", region).
			With("missing", []string{"region:" + region}).With("candidates", []string{})
	}
	return err
}

// weight is a tenant's share of the workers against the others that wait.
func weight(planTier string) int {
	switch planTier {
	case "enterprise":
		return 4
	case "standard":
		return 2
	}
	return 1
}

// enlist adds a new run to the lists it can be found by. save adds it to that of its status.
func enlist(tx storage.Tx, st *state, labels []string) {
	entry := st.made()
	tx.Set(listPrefix(st.tenantID)+entry, nil)
	tx.Set(agentPrefix(st.tenantID, st.AgentID)+entry, nil)
	for _, prefix := range labels {
		tx.Set(prefix+entry, nil)
	}
}

// recordCreate writes the one audit record of a run: who, which agent, when, under what policy, by which route.
func recordCreate(tx storage.Tx, a *createArgs) error {
	details := map[string]any{"agent_id": a.AgentID, "route": "local"}
	if a.Away != nil {
		details["route"] = a.Away.RouteID
		details["organization"] = a.Away.Targets[0].Organization
	}
	p := &a.PolicyContext
	for _, d := range [...]struct{ name, value string }{
		{"data_classification", p.DataClassification}, {"region", p.Region}, {"purpose", p.Purpose},
	} {
		if d.value != "" {
			details[d.name] = d.value
		}
	}
	if len(p.ConsentTags) > 0 {
		details["consent_tags"] = slices.Clone(p.ConsentTags)
	}
	_, err := audit.Append(tx, audit.Record{
		TenantID: a.TenantID, Principal: a.Principal, Action: "run.create", Resource: "run/" + a.RunID, Outcome: "ok",
		CorrelationID: a.CorrelationID, Peer: a.Peer, Details: details,
	})
	return err
}

// record is what never changes of a run. The asker encodes it; the writer puts times and options before it.
type record struct {
	CreatedMS     int64           `json:"created_ms,omitempty"`
	DeadlineMS    int64           `json:"deadline_ms,omitempty"`
	Options       *RunOptions     `json:"options,omitempty"`
	AgentID       string          `json:"agent_id"`
	Request       json.RawMessage `json:"request"`
	Auth          tenancy.Auth    `json:"auth"`
	HomeTenantID  string          `json:"home_tenant_id,omitempty"`
	Traceparent   string          `json:"traceparent"`
	CorrelationID string          `json:"correlation_id"`
	StackID       string          `json:"stack_id"` // of the node that was asked
	Organization  string          `json:"organization"`
	Key           string          `json:"key,omitempty"` // of the idempotency record
}

// appendRecord completes an encoded record.
func appendRecord(st *state, o *RunOptions, rest json.RawMessage) []byte {
	b := append(make([]byte, 0, len(rest)+192), `{"created_ms":`...)
	b = strconv.AppendInt(b, st.CreatedMS, 10)
	b = append(b, `,"deadline_ms":`...)
	b = strconv.AppendInt(b, st.DeadlineMS, 10)
	b = append(b, `,"options":{"priority":`...)
	b = event.AppendString(b, o.Priority)
	b = append(b, `,"timeout_ms":`...)
	b = strconv.AppendInt(b, o.TimeoutMS, 10)
	b = append(b, `,"max_steps":`...)
	b = strconv.AppendInt(b, int64(o.MaxSteps), 10)
	b = append(b, `,"stream_events":`...)
	b = strconv.AppendBool(b, o.StreamEvents)
	b = append(b, `,"dry_run":false},`...)
	return append(b, rest[1:]...)
}
