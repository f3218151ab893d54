package run

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nexixai/agentos/agent"
	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/storage"
)

// detail is what of a run is read.
type detail uint8

const (
	withInput detail = 1 << iota
	unveiled         // its end too, though its origin may not have it yet
)

// Get returns one run, with its input, or fault.NotFound. Of a run of others whose origin has not heard of its end it tells
// as if it went on.
func (s *Service) Get(ctx context.Context, r storage.Read, tenantID, runID string) (*Run, uint64, error) {
	return s.get(ctx, r, keys{tenantID, runID}, withInput)
}

// GetWhole is Get for whom nothing is veiled: the organisation that the run comes from.
func (s *Service) GetWhole(ctx context.Context, r storage.Read, tenantID, runID string) (*Run, uint64, error) {
	return s.get(ctx, r, keys{tenantID, runID}, withInput|unveiled)
}

func (s *Service) get(ctx context.Context, r storage.Read, k keys, d detail) (*Run, uint64, error) {
	var out *Run
	var index uint64
	err := storage.Find(ctx, s.store, r, func(v storage.Snapshot) (err error) {
		index = v.Index()
		if !id.Valid(k.runID) {
			return errNoRun()
		}
		out, err = read(v, k, d)
		return err
	})
	return out, index, err
}

func readRecord(r storage.Reader, k keys) (*record, error) {
	raw, err := r.Get(k.record())
	if err != nil {
		return nil, fmt.Errorf("run: read record: %w", err)
	}
	if raw == nil {
		return nil, errNoRun()
	}
	rec := new(record)
	if err := json.Unmarshal(raw, rec); err != nil || rec.Options == nil {
		return nil, fmt.Errorf("run: record of %s is broken: %w", k.runID, err)
	}
	return rec, nil
}

// request is the request that the run was made of, defaulted.
func (rec *record) request() (Request, error) {
	var req Request
	if err := json.Unmarshal(rec.Request, &req); err != nil {
		return req, fmt.Errorf("run: decode request: %w", err)
	}
	req.Options, req.given = *rec.Options, 0
	return req, nil
}

// read puts a run together from its record, its state, and its final event.
func read(r storage.Reader, k keys, d detail) (*Run, error) {
	st, err := readState(r, k)
	if err != nil {
		return nil, err
	}
	if st.hidden() && d&unveiled == 0 {
		st.Progress = st.before()
	}
	rec, err := readRecord(r, k)
	if err != nil {
		return nil, err
	}
	req, err := rec.request()
	if err != nil {
		return nil, err
	}
	out := &Run{
		TenantID: k.tenantID, AgentID: rec.AgentID, ID: k.runID, Status: st.Status,
		CreatedAt: timeOf(rec.CreatedMS), StartedAt: timeOrNil(st.StartedMS), CompletedAt: timeOrNil(st.CompletedMS),
		Deadline: timeOf(rec.DeadlineMS), CancelRequestedAt: timeOrNil(st.CancelMS), EventsURL: eventsURL(k.runID),
		Options: req.Options, Labels: req.Context.Labels, Summary: st.Summary,
		Usage: Usage{
			InputTokens: st.InputTokens, OutputTokens: st.OutputTokens, TotalTokens: st.TotalTokens, CostUSD: float64(st.CostNUSD) / 1e9,
		},
		Placement:     Placement{StackID: rec.StackID, Organization: rec.Organization},
		CorrelationID: rec.CorrelationID,
	}
	if out.Labels == nil {
		out.Labels = map[string]string{}
	}
	if st.StackID != "" {
		out.Placement.StackID = st.StackID
	}
	if st.Remote != 0 {
		if err := out.crossed(r, st); err != nil {
			return nil, err
		}
	}
	if d&withInput != 0 {
		out.Input = &req.Input
	}
	if st.Status.Final() {
		err = out.outcome(r, st)
	} else {
		out.Waiting, err = st.waitsFor(r, &out.Placement)
	}
	return out, err
}

// crossed tells where a run went to, and came from.
func (r *Run) crossed(s storage.Reader, st *state) error {
	if st.Remote.out() {
		a, err := readAway(s, st.keys)
		if err != nil {
			return err
		}
		r.Placement = a.placement()
	}
	if st.Remote.in() {
		in, err := readInbound(s, st.keys)
		if err != nil {
			return err
		}
		r.Placement.ForwardedFrom, r.Placement.Superseded = in.Organization, in.Superseded
	}
	return nil
}

// outcome reads output or error out of the final event.
func (r *Run) outcome(s storage.Reader, st *state) error {
	raw, err := s.Get(event.Key(st.tenantID, st.runID, st.Sequence))
	if err != nil {
		return fmt.Errorf("run: read final event: %w", err)
	}
	v, err := event.ScanOwn(raw)
	if err != nil {
		return fmt.Errorf("run: final event of %s: %w", st.runID, err)
	}
	out, err := outcomeOf(v.Payload)
	if err != nil { // one run that can't be read must not hide the others of a list
		out.Error = &Error{Code: string(fault.Internal), Message: "How the run ended can't be read from its journal.", Details: map[string]any{}}
	}
	r.Output, r.Error = out.Output, out.Error
	return nil
}

// outcome is what the payload of a final event holds of a run's end.
type outcome struct {
	Output *Output `json:"output"`
	Error  *Error  `json:"error"`
}

func outcomeOf(payload []byte) (outcome, error) {
	var o outcome
	if err := json.Unmarshal(payload, &o); err != nil {
		return outcome{}, err
	}
	return o, nil
}

// Filter says which runs a list holds. Zero fields don't filter.
type Filter struct {
	AgentID string
	Status  Status
	// Labels have all to be on the run.
	Labels map[string]string
}

func (f *Filter) validate() error {
	switch {
	case f.AgentID != "" && !id.Valid(f.AgentID):
		return fault.Invalid("agent_id", "An id is 1 to %d letters, digits, '.', '_' and '-'.", id.MaxLen)
	case f.Status != "" && statusNumber(f.Status) == 0:
		return fault.Invalid("status", "A status is queued, running, completed, failed or canceled.")
	case len(f.Labels) > maxLabels:
		return fault.Invalid("label", "A run has at most %d labels.", maxLabels)
	}
	for key, value := range f.Labels {
		if err := validLabel(key, value); err != nil {
			return fault.Invalid("label", "A label is given as name:value; %q can't be one.", key)
		}
	}
	return nil
}

// String is the filter in one form only, for cursors.
func (f *Filter) String() string {
	b := []string{f.AgentID, string(f.Status)}
	for _, key := range slices.Sorted(maps.Keys(f.Labels)) {
		b = append(b, key, f.Labels[key])
	}
	return hashOf(b...)
}

// index chooses the list to walk, and those that an entry has to be on as well.
func (f *Filter) index(tenantID string) (walk string, also []string) {
	var lists []string
	for _, key := range slices.Sorted(maps.Keys(f.Labels)) {
		lists = append(lists, labelPrefix(tenantID, key, f.Labels[key]))
	}
	if f.Status != "" {
		lists = append(lists, statusPrefix(tenantID, f.Status))
	}
	if f.AgentID != "" {
		lists = append(lists, agentPrefix(tenantID, f.AgentID))
	}
	if len(lists) == 0 {
		return listPrefix(tenantID), nil
	}
	return lists[0], lists[1:]
}

// Bounds of one page: beyond maxLooked entries looked at, or maxPage bytes of outputs, it ends short, with a cursor to go on.
const (
	lookAhead = 128
	maxLooked = 20_000
	maxPage   = 4 << 20 // bytes of outputs
)

// List returns a tenant's runs, newest first, beginning after cursor; next is "" at the end. A page may be shorter than
// limit although there are more. A cursor that belongs to another list is fault.InvalidRequest.
func (s *Service) List(ctx context.Context, r storage.Read, tenantID string, f Filter, cursor string, limit int) (list []Run, next string, index uint64, err error) {
	if limit, err = agent.PageLimit(limit); err != nil {
		return nil, "", 0, err
	}
	if err := f.validate(); err != nil {
		return nil, "", 0, err
	}
	before := ""
	if cursor != "" {
		if before, err = agent.Position(cursor, tenantID, "runs", f.String()); err != nil {
			return nil, "", 0, err
		}
	}
	list = []Run{}
	err = s.store.View(ctx, r, func(v storage.Snapshot) error {
		index = v.Index()
		entries, more, err := f.find(v, tenantID, before, limit)
		if err != nil {
			return err
		}
		size := 0
		for i, entry := range entries {
			_, runID, _ := strings.Cut(entry, "/")
			one, err := read(v, keys{tenantID, runID}, 0)
			if err != nil {
				return err
			}
			if one.Output != nil {
				size += len(one.Output.Text) + len(one.Output.Artifacts)
			}
			if size > maxPage && i > 0 {
				more = entries[i-1]
				break
			}
			list = append(list, *one)
		}
		if more != "" {
			next = agent.Cursor(tenantID, "runs", f.String(), more)
		}
		return nil
	})
	return list, next, index, err
}

// find walks the lists for up to limit entries older than before. more is where to go on, "" at the end.
func (f *Filter) find(r storage.Reader, tenantID, before string, limit int) (entries []string, more string, err error) {
	walk, also := f.index(tenantID)
	for looked := 0; looked < maxLooked; {
		var ahead []string
		span := storage.Prefix(walk)
		span.Reverse = true
		if before != "" {
			span.To = walk + before
		}
		err := r.Scan(span, func(key string, _ []byte) bool {
			ahead = append(ahead, strings.Clone(key[len(walk):]))
			return len(ahead) < lookAhead
		})
		if err != nil {
			return nil, "", err
		}
		for _, entry := range ahead {
			fits, err := onAll(r, also, entry)
			if err != nil {
				return nil, "", err
			}
			if fits && len(entries) == limit {
				return entries, entries[limit-1], nil
			}
			if fits {
				entries = append(entries, entry)
			}
			before = entry
		}
		if looked += len(ahead); len(ahead) < lookAhead {
			return entries, "", nil
		}
	}
	return entries, before, nil
}

func onAll(r storage.Reader, lists []string, entry string) (bool, error) {
	for _, list := range lists {
		there, err := r.Get(list + entry)
		if err != nil || there == nil {
			return false, err
		}
	}
	return true, nil
}
