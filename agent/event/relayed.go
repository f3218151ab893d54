package event

import (
	"fmt"
	"strconv"
	"time"

	"github.com/nexixai/agentos/internal/id"
)

// Reason says why an event that another organisation sent is not taken; the names are the contract's (events:ingest).
type Reason string

const (
	Duplicate      Reason = "duplicate"
	NotOwner       Reason = "not_owner"
	WrongTenant    Reason = "wrong_tenant"
	BodyChanged    Reason = "body_changed"
	Gap            Reason = "gap"
	AfterFinal     Reason = "after_final"
	TypeNotAllowed Reason = "type_not_allowed"
	// Malformed is told as an error of the whole request at ingest; a relay gives the executor up for it.
	Malformed Reason = "malformed"
)

// Rejection is an event that is not taken.
type Rejection struct {
	Reason Reason
	Detail string
}

// Error implements error.
func (r *Rejection) Error() string { return "event: " + string(r.Reason) + ": " + r.Detail }

func reject(r Reason, format string, args ...any) error {
	return &Rejection{Reason: r, Detail: fmt.Sprintf(format, args...)}
}

// CheckRelayed checks one envelope of a run that another organisation executes, as it came from there, against what the
// origin knows: head names the run and the tenant as the executor has them, and after is the last sequence that the origin
// holds. It returns the envelope in the one form in which journals keep it, as an event of the origin's tenant and with
// everything unknown left out. It's the one check, whether events are followed or pushed. The error is a *Rejection.
func CheckRelayed(raw []byte, head *Head, after uint64, tenantID string) (View, []byte, error) {
	v, err := Scan(raw)
	if err != nil {
		return v, nil, reject(Malformed, "%v", err)
	}
	switch {
	case string(v.TenantID) != head.TenantID:
		return v, nil, reject(WrongTenant, "the event names another tenant")
	case string(v.RunID) != head.RunID || string(v.AgentID) != head.AgentID:
		return v, nil, reject(NotOwner, "the event names another run or agent")
	case v.Sequence <= after:
		return v, nil, reject(Duplicate, "event %d comes after event %d", v.Sequence, after)
	case v.Sequence != after+1:
		return v, nil, reject(Gap, "event %d comes after event %d", v.Sequence, after)
	}
	if !relayed(Type(v.Type)) {
		return v, nil, reject(TypeNotAllowed, "an executor doesn't write %.64q", v.Type)
	}
	if !id.Valid(string(v.ID)) || v.hasStep && !id.Valid(string(v.StepID)) {
		return v, nil, reject(Malformed, "an id is broken")
	}
	if _, err := time.Parse(time.RFC3339, string(v.Time)); err != nil {
		return v, nil, reject(Malformed, "the time is not RFC 3339")
	}
	return v, v.AppendAs(make([]byte, 0, len(raw)+16), tenantID), nil
}

// relayed reports whether an executor may write t into a journal: all that a run does, but for its beginning.
func relayed(t Type) bool {
	switch t {
	case RunStarted, StepStarted, StepCompleted, ToolCallRequested, ToolCallCompleted, ModelRequested, ModelCompleted,
		RunForwarded, CancelRequested, RunCompleted, RunFailed, RunCanceled:
		return true
	}
	return false
}

// CheckPrefix checks an envelope of the journal that a run is forwarded with, and returns it in the one form in which
// journals keep it, with the local tenant's id. head names the run as its sender has it.
func CheckPrefix(raw []byte, head *Head, sequence uint64, localTenant string) ([]byte, error) {
	v, err := Scan(raw)
	if err != nil {
		return nil, reject(Malformed, "%v", err)
	}
	switch {
	case string(v.TenantID) != head.TenantID:
		return nil, reject(WrongTenant, "the event names another tenant")
	case string(v.RunID) != head.RunID || string(v.AgentID) != head.AgentID:
		return nil, reject(NotOwner, "the event names another run or agent")
	case v.Sequence != sequence:
		return nil, reject(Gap, "event %d stands at %d", v.Sequence, sequence)
	case sequence == 1 && Type(v.Type) != RunCreated || sequence > 1 && Type(v.Type) != RunForwarded:
		return nil, reject(TypeNotAllowed, "a forwarded journal holds %.64q at %d", v.Type, sequence)
	case !id.Valid(string(v.ID)):
		return nil, reject(Malformed, "an id is broken")
	}
	if _, err := time.Parse(time.RFC3339, string(v.Time)); err != nil {
		return nil, reject(Malformed, "the time is not RFC 3339")
	}
	return v.AppendAs(make([]byte, 0, len(raw)+16), localTenant), nil
}

// AppendAs appends v in the one form in which journals keep an envelope, as an event of tenantID. What AppendEnvelope made
// comes out byte for byte, but for the tenant.
func (v *View) AppendAs(b []byte, tenantID string) []byte {
	b = append(b, `{"event":{"event_id":"`...)
	b = append(b, v.ID...)
	b = append(b, `","sequence":`...)
	b = strconv.AppendUint(b, v.Sequence, 10)
	member := func(name string, value []byte) {
		b = append(append(b, name...), value...)
		b = append(b, '"')
	}
	member(`,"time":"`, v.Time)
	member(`,"type":"`, v.Type)
	b = append(b, `,"tenant_id":`...)
	b = AppendString(b, tenantID)
	member(`,"agent_id":"`, v.AgentID)
	member(`,"run_id":"`, v.RunID)
	if v.hasStep {
		member(`,"step_id":"`, v.StepID)
	} else {
		b = append(b, `,"step_id":null`...)
	}
	member(`,"trace":{"traceparent":"`, v.Traceparent)
	member(`,"span_id":"`, v.SpanID)
	b = append(b, `},"payload":`...)
	b = append(b, v.Payload...)
	return append(b, "}}"...)
}
