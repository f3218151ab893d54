package event

import (
	"strconv"
	"time"
	"unicode/utf8"
)

// Head is what all events of one run share.
type Head struct {
	TenantID, AgentID, RunID string
	// Traceparent is the run's (W3C Trace Context, version 00).
	Traceparent string
}

// AppendEnvelope appends the envelope of d as the event with this sequence, on one line. d.Payload must be a JSON object
// without line breaks.
func AppendEnvelope(b []byte, h *Head, d *Draft, sequence uint64, at time.Time) []byte {
	b = append(b, `{"event":{"event_id":`...)
	b = AppendString(b, d.ID)
	b = append(b, `,"sequence":`...)
	b = strconv.AppendUint(b, sequence, 10)
	return h.appendRest(b, d, at)
}

// appendRest appends what follows the sequence.
func (h *Head) appendRest(b []byte, d *Draft, at time.Time) []byte {
	b = append(b, `,"time":"`...)
	b = AppendTime(b, at)
	b = append(b, `","type":`...)
	b = AppendString(b, string(d.Type))
	b = append(b, `,"tenant_id":`...)
	b = AppendString(b, h.TenantID)
	b = append(b, `,"agent_id":`...)
	b = AppendString(b, h.AgentID)
	b = append(b, `,"run_id":`...)
	b = AppendString(b, h.RunID)
	b = append(b, `,"step_id":`...)
	if d.StepID == "" {
		b = append(b, "null"...)
	} else {
		b = AppendString(b, d.StepID)
	}
	b = append(b, `,"trace":{"traceparent":`...)
	b = AppendString(b, h.Traceparent)
	b = append(b, `,"span_id":`...)
	span := d.SpanID
	if span == "" {
		span = SpanOf(h.Traceparent)
	}
	b = AppendString(b, span)
	b = append(b, `},"payload":`...)
	if len(d.Payload) == 0 {
		b = append(b, "{}"...)
	} else {
		b = append(b, d.Payload...)
	}
	return append(b, "}}"...)
}

// SpanOf is the parent id in a traceparent, or "" when there is none.
func SpanOf(traceparent string) string {
	const at = len("00-") + 32 + len("-")
	if len(traceparent) < at+16 {
		return ""
	}
	return traceparent[at : at+16]
}

// AppendTime appends t in UTC with milliseconds, as RFC 3339 has it.
func AppendTime(b []byte, t time.Time) []byte {
	return t.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z")
}

const hexDigits = "0123456789abcdef"

// AppendString appends s as a JSON string. Bytes that are not UTF-8 become U+FFFD.
func AppendString(b []byte, s string) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && size == 1 {
				b = append(append(b, s[start:i]...), `\ufffd`...)
				start = i + 1
			}
			i += size
			continue
		}
		b = append(b, s[start:i]...)
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, '\\', 'n')
		case '\r':
			b = append(b, '\\', 'r')
		case '\t':
			b = append(b, '\\', 't')
		default:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
		i++
		start = i
	}
	return append(append(b, s[start:]...), '"')
}
