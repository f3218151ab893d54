package event

import (
	"strconv"
	"time"
)

// Heartbeat is the SSE comment that keeps a quiet stream open.
const Heartbeat = ": heartbeat\n\n"

// appendFrame appends one event as an SSE frame. data is a stored envelope: one line.
func appendFrame(b []byte, sequence uint64, data []byte) []byte {
	b = append(b, "id: "...)
	b = strconv.AppendUint(b, sequence, 10)
	b = append(b, "\nevent: agentos.event\ndata: "...)
	b = append(b, data...)
	return append(b, "\n\n"...)
}

// appendGap appends the frame that tells a reader which events it can't have any more.
func appendGap(b []byte, runID string, from, to uint64) []byte {
	b = append(b, `event: agentos.gap`+"\n"+`data: {"gap":{"run_id":`...)
	b = AppendString(b, runID)
	b = append(b, `,"from_sequence":`...)
	b = strconv.AppendUint(b, from, 10)
	b = append(b, `,"to_sequence":`...)
	b = strconv.AppendUint(b, to, 10)
	return append(b, `,"reason":"retention"}}`+"\n\n"...)
}

// Delta is a piece of a model's answer on its way, before the answer is an event.
type Delta struct {
	TenantID, AgentID, RunID string
	StepID, SpanID           string
	Traceparent              string
	ModelRef, Text           string
}

// appendDelta appends d as a frame without an id.
func appendDelta(b []byte, d *Delta, at time.Time) []byte {
	payload := append(make([]byte, 0, 64+len(d.ModelRef)+len(d.Text)), `{"model_ref":`...)
	payload = AppendString(payload, d.ModelRef)
	payload = append(payload, `,"text":`...)
	payload = append(AppendString(payload, d.Text), '}')
	head := Head{TenantID: d.TenantID, AgentID: d.AgentID, RunID: d.RunID, Traceparent: d.Traceparent}
	draft := Draft{Type: ModelDelta, StepID: d.StepID, SpanID: d.SpanID, Payload: payload}
	b = append(b, "event: agentos.event\ndata: "+`{"event":{"sequence":null`...)
	b = head.appendRest(b, &draft, at)
	return append(b, "\n\n"...)
}
