package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// MaxEnvelope bounds the bytes of one envelope: a payload of 256 KiB and what stands around it.
const MaxEnvelope = 256<<10 + 8<<10

// maxDepth bounds how deep a stranger's JSON may be nested.
const maxDepth = 64

// View is an envelope taken apart without copying: its slices point into the scanned bytes.
type View struct {
	// Sequence is 0 for a delta, which has none.
	Sequence                           uint64
	ID, Type, TenantID, AgentID, RunID []byte
	StepID, Time, Traceparent, SpanID  []byte
	Payload                            []byte // the object, as it stands
	hasSequence, hasStep               bool
}

// Scan takes an envelope apart, bare or wrapped as {"event":{…}}. It's meant for a stranger's bytes: they must be valid
// JSON on one line within MaxEnvelope, no deeper than 64, no member twice or in odd spelling, and all fields of the
// contract present. Members it doesn't know are passed over.
func Scan(b []byte) (View, error) {
	var v View
	switch {
	case len(b) > MaxEnvelope:
		return v, fmt.Errorf("event: envelope of %d bytes is longer than %d", len(b), MaxEnvelope)
	case bytes.IndexByte(b, '\n') >= 0 || bytes.IndexByte(b, '\r') >= 0:
		return v, errors.New("event: envelope isn't on one line")
	case !utf8.Valid(b):
		return v, errors.New("event: envelope isn't UTF-8")
	case !json.Valid(b):
		return v, errors.New("event: envelope isn't JSON")
	}
	if err := v.scan(b); err != nil {
		return v, err
	}
	return v, v.complete()
}

// ScanOwn is Scan for bytes that AppendEnvelope made: it trusts that they are JSON.
func ScanOwn(b []byte) (View, error) {
	var v View
	err := v.scan(b)
	return v, err
}

// typeOf returns the type of an envelope that AppendEnvelope made, without looking at the rest of it.
func typeOf(b []byte) Type {
	const key = `","type":"`
	_, rest, ok := bytes.Cut(b[:min(len(b), 256)], []byte(key))
	if !ok {
		return ""
	}
	name, _, ok := bytes.Cut(rest, []byte{'"'})
	if !ok {
		return ""
	}
	return Type(name)
}

// Final reports whether the event ends its run.
func (v *View) Final() bool { return Type(v.Type).Final() }

// Envelope copies v into a value of its own.
func (v *View) Envelope() Envelope {
	e := Envelope{
		ID: string(v.ID), Sequence: v.Sequence, Time: string(v.Time), Type: Type(v.Type),
		TenantID: string(v.TenantID), AgentID: string(v.AgentID), RunID: string(v.RunID),
		Trace:   Trace{Traceparent: string(v.Traceparent), SpanID: string(v.SpanID)},
		Payload: bytes.Clone(v.Payload),
	}
	if v.hasStep {
		step := string(v.StepID)
		e.StepID = &step
	}
	return e
}

func (v *View) complete() error {
	for _, f := range [...]struct {
		name  string
		value []byte
	}{{"type", v.Type}, {"tenant_id", v.TenantID}, {"agent_id", v.AgentID}, {"run_id", v.RunID}, {"time", v.Time}, {"payload", v.Payload}} {
		if len(f.value) == 0 {
			return fmt.Errorf("event: envelope has no %s", f.name)
		}
	}
	if len(v.ID) == 0 || !v.hasSequence || v.Sequence == 0 {
		return errors.New("event: envelope has no event_id or no sequence")
	}
	if v.Payload[0] != '{' {
		return errors.New("event: payload isn't an object")
	}
	return nil
}

func (v *View) scan(b []byte) error {
	inner, wrapped := b, false
	first := true
	err := Members(b, func(key, value []byte) error {
		if first && string(key) == "event" && len(value) > 0 && value[0] == '{' {
			inner, wrapped = value, true
		} else if wrapped && bytes.EqualFold(key, []byte("event")) {
			return errTwice("event")
		}
		first = false
		return nil
	})
	if err != nil {
		return err
	}
	var seen uint16
	return Members(inner, func(key, value []byte) error {
		at, err := memberOf(key)
		if err != nil || at < 0 {
			return err
		}
		if seen&(1<<at) != 0 {
			return errTwice(string(key))
		}
		seen |= 1 << at
		return v.take(at, value)
	})
}

// envelopeMembers are the members of an event that Scan knows, in the order of take's cases.
var envelopeMembers = [...]string{"event_id", "sequence", "time", "type", "tenant_id", "agent_id", "run_id", "step_id", "trace", "payload"}

func memberOf(key []byte) (int, error) {
	for i, name := range envelopeMembers {
		if string(key) == name {
			return i, nil
		}
	}
	if bytes.IndexByte(key, '\\') >= 0 {
		return -1, errors.New("event: a member's name is written with escapes")
	}
	for _, name := range envelopeMembers {
		if bytes.EqualFold(key, []byte(name)) {
			return -1, fmt.Errorf("event: member %q must be written %q", key, name)
		}
	}
	return -1, nil
}

func (v *View) take(member int, value []byte) (err error) {
	switch member {
	case 0:
		v.ID, err = plainString(value)
	case 1:
		if string(value) == "null" {
			return nil
		}
		v.hasSequence = true
		v.Sequence, err = Uint(value)
		if err == nil && v.Sequence > maxSequence {
			err = fmt.Errorf("event: sequence %d is too large", v.Sequence)
		}
	case 2:
		v.Time, err = plainString(value)
	case 3:
		v.Type, err = plainString(value)
	case 4:
		v.TenantID, err = plainString(value)
	case 5:
		v.AgentID, err = plainString(value)
	case 6:
		v.RunID, err = plainString(value)
	case 7:
		if string(value) != "null" {
			v.hasStep = true
			v.StepID, err = plainString(value)
		}
	case 8:
		return v.trace(value)
	case 9:
		v.Payload = value
	}
	return err
}

func (v *View) trace(value []byte) error {
	if string(value) == "null" {
		return nil
	}
	return Members(value, func(key, value []byte) (err error) {
		switch {
		case string(key) == "traceparent" && v.Traceparent == nil:
			v.Traceparent, err = plainString(value)
		case string(key) == "span_id" && v.SpanID == nil:
			v.SpanID, err = plainString(value)
		case bytes.IndexByte(key, '\\') >= 0, bytes.EqualFold(key, []byte("traceparent")), bytes.EqualFold(key, []byte("span_id")):
			err = errTwice(string(key))
		}
		return err
	})
}

func errTwice(name string) error {
	return fmt.Errorf("event: member %q stands twice, or in odd spelling", name)
}

var errSyntax = errors.New("event: broken JSON")

// plainString is the inside of a JSON string that needs no unescaping; identifiers, times and types never do.
func plainString(value []byte) ([]byte, error) {
	if len(value) < 2 || value[0] != '"' || value[len(value)-1] != '"' {
		return nil, errors.New("event: a member that has to be a string isn't one")
	}
	inside := value[1 : len(value)-1]
	if bytes.IndexByte(inside, '\\') >= 0 {
		return nil, errors.New("event: an identifier is written with escapes")
	}
	return inside, nil
}

// Uint reads a JSON number that is a whole one, not negative, and written without fraction or exponent.
func Uint(value []byte) (uint64, error) {
	if len(value) == 0 || len(value) > 19 {
		return 0, errors.New("event: not a whole number in range")
	}
	var n uint64
	for _, c := range value {
		if c < '0' || c > '9' {
			return 0, errors.New("event: not a whole number in range")
		}
		n = n*10 + uint64(c-'0')
	}
	return n, nil
}

// Members calls visit for each member of the JSON object in b, in order, until visit returns an error, which is then
// returned. key is what stands between the quotes, unescaped; value is the member's text without space around it. It
// expects valid JSON: of anything else it finds some faults, and is only sure not to run away.
func Members(b []byte, visit func(key, value []byte) error) error {
	i := space(b, 0)
	if i >= len(b) || b[i] != '{' {
		return errSyntax
	}
	i = space(b, i+1)
	if i < len(b) && b[i] == '}' {
		return nil
	}
	for {
		if i >= len(b) || b[i] != '"' {
			return errSyntax
		}
		end := skipString(b, i)
		if end < 0 {
			return errSyntax
		}
		key := b[i+1 : end-1]
		i = space(b, end)
		if i >= len(b) || b[i] != ':' {
			return errSyntax
		}
		i = space(b, i+1)
		if end = skipValue(b, i); end < 0 {
			return errSyntax
		}
		if err := visit(key, b[i:end]); err != nil {
			return err
		}
		i = space(b, end)
		switch {
		case i >= len(b):
			return errSyntax
		case b[i] == '}':
			return nil
		case b[i] != ',':
			return errSyntax
		}
		i = space(b, i+1)
	}
}

func space(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\t' || b[i] == '\n' || b[i] == '\r') {
		i++
	}
	return i
}

// skipString returns where the string that begins at i ends, or -1.
func skipString(b []byte, i int) int {
	for i++; i < len(b); {
		n := bytes.IndexByte(b[i:], '"')
		if n < 0 {
			return -1
		}
		end := i + n
		slashes := 0
		for j := end - 1; j >= i && b[j] == '\\'; j-- {
			slashes++
		}
		if slashes%2 == 0 {
			return end + 1
		}
		i = end + 1
	}
	return -1
}

// skipValue returns where the value that begins at i ends, or -1.
func skipValue(b []byte, i int) int {
	if i >= len(b) {
		return -1
	}
	switch b[i] {
	case '"':
		return skipString(b, i)
	case '{', '[':
	default:
		start := i
		for i < len(b) && b[i] != ',' && b[i] != '}' && b[i] != ']' && b[i] > ' ' {
			i++
		}
		if i == start {
			return -1
		}
		return i
	}
	depth := 0
	for i < len(b) {
		switch b[i] {
		case '"':
			if i = skipString(b, i); i < 0 {
				return -1
			}
			continue
		case '{', '[':
			if depth++; depth > maxDepth {
				return -1
			}
		case '}', ']':
			if depth--; depth == 0 {
				return i + 1
			}
		}
		i++
	}
	return -1
}
