package loop

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/agent/run"
	"github.com/nexixai/agentos/model"
)

// Entry is one event of a journal with its payload decoded, or about to be encoded.
type Entry struct {
	Type           event.Type
	ID             string
	StepID, SpanID string
	At             time.Time
	Body           Body
}

// Body is a payload. Encode appends it as one JSON object on one line.
type Body interface{ Encode(b []byte) []byte }

// Started is the payload of run.started: one attempt of one node.
type Started struct {
	StackID string `json:"stack_id"`
	Attempt uint64 `json:"attempt"`
}

// Encode implements Body.
func (p *Started) Encode(b []byte) []byte {
	b = append(b, `{"status":"running"`...)
	b = appendField(b, "stack_id", p.StackID)
	b = strconv.AppendUint(appendKey(b, "attempt"), p.Attempt, 10)
	return append(b, '}')
}

// StepStarted is the payload of run.step.started.
type StepStarted struct {
	Kind string `json:"step_kind"` // model or tool
	Name string `json:"name"`      // the model's reference, or the tool's id
}

// Encode implements Body.
func (p *StepStarted) Encode(b []byte) []byte {
	b = append(b, '{')
	b = appendField(b, "step_kind", p.Kind)
	b = appendField(b, "name", p.Name)
	return append(b, '}')
}

// StepCompleted is the payload of run.step.completed.
type StepCompleted struct {
	Status     string `json:"status"` // ok or error
	DurationMS int64  `json:"duration_ms"`
}

// Encode implements Body.
func (p *StepCompleted) Encode(b []byte) []byte {
	b = append(b, '{')
	b = appendField(b, "status", p.Status)
	b = appendInt(b, "duration_ms", p.DurationMS)
	return append(b, '}')
}

// ModelRequested is the payload of model.requested: written, with the reservation, before the model is asked.
type ModelRequested struct {
	ModelRef     string       `json:"model_ref"`
	InputSummary InputSummary `json:"input_summary"`
}

// InputSummary says how much a model was given, without saying what.
type InputSummary struct {
	Messages int  `json:"messages"`
	HasTools bool `json:"has_tools"`
}

// Encode implements Body.
func (p *ModelRequested) Encode(b []byte) []byte {
	b = append(b, '{')
	b = appendField(b, "model_ref", p.ModelRef)
	b = append(b, `,"operation":"chat","requirements":{"max_latency_ms":null,"max_cost_usd":null},"input_summary":{`...)
	b = appendInt(b, "messages", int64(p.InputSummary.Messages))
	b = appendBool(b, "has_tools", p.InputSummary.HasTools)
	return append(b, '}', '}')
}

// ModelCompleted is the payload of model.completed. It holds the answer, so that a resumed run need not ask again.
type ModelCompleted struct {
	ModelRef      string              `json:"model_ref"`
	Status        string              `json:"status"` // ok or error
	Usage         model.Usage         `json:"usage"`
	LatencyMS     int64               `json:"latency_ms"`
	PolicyOutcome model.PolicyOutcome `json:"policy_outcome"`
	Route         model.RouteTaken    `json:"route"`
	Output        *ModelOutput        `json:"output"`
	Truncated     bool                `json:"truncated"`
	Error         *Failure            `json:"error"`
	// RetryInMS is set when the call will be tried again, after so long.
	RetryInMS *int64 `json:"retry_in_ms"`
	// Lost is set when the worker that had asked is gone, so that nobody knows what the model said.
	Lost bool `json:"lost"`
}

// ModelOutput is a model's answer in the canonical shape of Stack B.
type ModelOutput struct {
	Message   OutputMessage `json:"message"`
	ToolCalls []Wish        `json:"tool_calls"`
}

// OutputMessage is the text of an answer.
type OutputMessage struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// Wish is a tool call that a model asked for. Its id is minted here and is the effect id: it goes to the tool, too.
type Wish struct {
	CallID    string          `json:"tool_call_id"`
	ToolID    string          `json:"tool_id"`
	Name      string          `json:"name"`
	Arguments json.RawMessage `json:"arguments"`
	// Unfit says why the arguments can't be used, in which case they were left out.
	Unfit string `json:"unfit,omitempty"`
}

// Encode implements Body.
func (p *ModelCompleted) Encode(b []byte) []byte {
	b = append(b, '{')
	b = appendField(b, "model_ref", p.ModelRef)
	b = append(b, `,"operation":"chat"`...)
	b = appendField(b, "status", p.Status)
	b = append(b, `,"usage":{`...)
	b = appendInt(b, "input_tokens", p.Usage.InputTokens)
	b = appendInt(b, "output_tokens", p.Usage.OutputTokens)
	b = appendInt(b, "total_tokens", p.Usage.TotalTokens)
	b = appendUSD(b, "cost_usd", p.Usage.CostNUSD)
	if p.Usage.Estimated {
		b = appendBool(b, "estimated", true)
	}
	b = append(b, '}')
	b = appendInt(b, "latency_ms", p.LatencyMS)
	b = appendOutcome(b, &p.PolicyOutcome)
	b = appendRoute(b, &p.Route)
	b = p.appendOutput(b)
	if p.Truncated {
		b = appendBool(b, "truncated", true)
	}
	b = appendFailure(b, "error", p.Error)
	if p.RetryInMS != nil {
		b = appendInt(b, "retry_in_ms", *p.RetryInMS)
	}
	if p.Lost {
		b = appendBool(b, "lost", true)
	}
	return append(b, '}')
}

func (p *ModelCompleted) appendOutput(b []byte) []byte {
	b = appendKey(b, "output")
	if p.Output == nil {
		return append(b, "null"...)
	}
	b = append(b, `{"type":"chat","message":{`...)
	b = appendField(b, "role", p.Output.Message.Role)
	b = appendField(b, "content", p.Output.Message.Content)
	b = append(b, `},"tool_calls":[`...)
	for i := range p.Output.ToolCalls {
		w := &p.Output.ToolCalls[i]
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '{')
		b = appendField(b, "tool_call_id", w.CallID)
		b = appendField(b, "tool_id", w.ToolID)
		b = appendField(b, "name", w.Name)
		b = appendRaw(b, "arguments", w.Arguments)
		if w.Unfit != "" {
			b = appendField(b, "unfit", w.Unfit)
		}
		b = append(b, '}')
	}
	return append(b, ']', '}')
}

// ToolRequested is the payload of tool.call.requested: written before the tool is called.
type ToolRequested struct {
	CallID    string          `json:"tool_call_id"`
	ToolID    string          `json:"tool_id"`
	Input     json.RawMessage `json:"input"`
	TimeoutMS int64           `json:"timeout_ms"`
}

// Encode implements Body.
func (p *ToolRequested) Encode(b []byte) []byte {
	b = append(b, '{')
	b = appendField(b, "tool_call_id", p.CallID)
	b = appendField(b, "tool_id", p.ToolID)
	b = appendRaw(b, "input", p.Input)
	b = appendInt(b, "timeout_ms", p.TimeoutMS)
	return append(b, '}')
}

// The outcomes of a tool call.
const (
	StatusOK      = "ok"
	StatusError   = "error"
	StatusTimeout = "timeout"
	StatusDenied  = "denied"
)

// ToolCompleted is the payload of tool.call.completed.
type ToolCompleted struct {
	CallID     string          `json:"tool_call_id"`
	ToolID     string          `json:"tool_id"`
	Status     string          `json:"status"` // ok, error, timeout or denied
	Output     json.RawMessage `json:"output"`
	Truncated  bool            `json:"truncated"`
	DurationMS int64           `json:"duration_ms"`
	Error      *Failure        `json:"error"`
}

// Encode implements Body.
func (p *ToolCompleted) Encode(b []byte) []byte {
	b = append(b, '{')
	b = appendField(b, "tool_call_id", p.CallID)
	b = appendField(b, "tool_id", p.ToolID)
	b = appendField(b, "status", p.Status)
	b = appendRaw(b, "output", p.Output)
	if p.Truncated {
		b = appendBool(b, "truncated", true)
	}
	b = appendInt(b, "duration_ms", p.DurationMS)
	b = appendFailure(b, "error", p.Error)
	return append(b, '}')
}

// CancelRequested is the payload of run.cancel_requested, which somebody else writes.
type CancelRequested struct {
	By json.RawMessage `json:"by"`
}

// Encode implements Body.
func (p *CancelRequested) Encode(b []byte) []byte {
	return append(appendRaw(append(b, '{'), "by", p.By), '}')
}

// Completed is the payload of run.completed.
type Completed struct {
	Output *run.Output `json:"output"`
}

// Encode implements Body.
func (p *Completed) Encode(b []byte) []byte {
	b = append(b, `{"status":"completed","output":{`...)
	b = appendField(b, "type", p.Output.Type)
	b = appendField(b, "text", p.Output.Text)
	if p.Output.Truncated {
		b = appendBool(b, "truncated", true)
	}
	return append(b, '}', '}')
}

// Failed is the payload of run.failed.
type Failed struct {
	Error *Failure `json:"error"`
}

// Encode implements Body.
func (p *Failed) Encode(b []byte) []byte {
	return append(appendFailure(append(b, `{"status":"failed"`...), "error", p.Error), '}')
}

// Canceled is the payload of run.canceled.
type Canceled struct {
	By json.RawMessage `json:"by"`
}

// Encode implements Body.
func (p *Canceled) Encode(b []byte) []byte {
	return append(appendRaw(append(b, `{"status":"canceled"`...), "by", p.By), '}')
}

// Decode reads one event of a journal. Events that say nothing to the loop have a nil Body.
func Decode(e *event.Envelope) (Entry, error) {
	out := Entry{Type: e.Type, ID: e.ID, SpanID: e.Trace.SpanID}
	if e.StepID != nil {
		out.StepID = *e.StepID
	}
	if e.Time != "" {
		at, err := time.Parse(time.RFC3339Nano, e.Time)
		if err != nil {
			return out, fmt.Errorf("loop: time of event %s: %w", e.ID, err)
		}
		out.At = at
	}
	switch e.Type {
	case event.RunStarted:
		out.Body = &Started{}
	case event.StepStarted:
		out.Body = &StepStarted{}
	case event.StepCompleted:
		out.Body = &StepCompleted{}
	case event.ModelRequested:
		out.Body = &ModelRequested{}
	case event.ModelCompleted:
		out.Body = &ModelCompleted{}
	case event.ToolCallRequested:
		out.Body = &ToolRequested{}
	case event.ToolCallCompleted:
		out.Body = &ToolCompleted{}
	case event.CancelRequested:
		out.Body = &CancelRequested{}
	default:
		return out, nil
	}
	if err := json.Unmarshal(e.Payload, out.Body); err != nil {
		return out, fmt.Errorf("loop: payload of event %s: %w", e.ID, err)
	}
	return out, nil
}
