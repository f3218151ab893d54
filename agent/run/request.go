package run

import (
	"encoding/json"
	"fmt"
	"slices"
	"unicode"
	"unicode/utf8"

	"github.com/nexixai/agentos/agent"
	"github.com/nexixai/agentos/agent/queue"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/tenancy"
)

// Run options when neither the request nor the agent says otherwise.
const (
	DefaultPriority  = "normal"
	DefaultTimeoutMS = 180_000
	DefaultMaxSteps  = 30
)

// Bounds of a request.
const (
	MaxInput       = 256 << 10
	maxLabels      = 32
	maxLabelKey    = 128
	maxLabelValue  = 256
	maxContextText = 256
	maxMetadata    = 16 << 10
	maxToolList    = 128
	maxTags        = 32
)

// given says which run options a request gave.
type given uint8

const (
	givenPriority given = 1 << iota
	givenTimeout
	givenSteps
	givenStream
)

// UnmarshalJSON reads a request and remembers which options it gave, so that an agent's defaults can stand for the others.
// A request without an input is none.
func (r *Request) UnmarshalJSON(b []byte) error {
	type plain Request
	body := struct {
		*plain
		Input *struct {
			Type string  `json:"type"`
			Text *string `json:"text"`
		} `json:"input"`
		Options struct {
			agent.RunDefaults
			DryRun bool `json:"dry_run"`
		} `json:"run_options"`
	}{plain: (*plain)(r)}
	if err := json.Unmarshal(b, &body); err != nil {
		return err
	}
	switch {
	case body.Input == nil:
		return fault.Invalid("input", "The input is missing: {\"type\":\"text\",\"text\":\"…\"}.")
	case body.Input.Text == nil && (body.Input.Type == "" || body.Input.Type == "text"):
		return fault.Invalid("input.text", "The input's text is missing.")
	case body.Input.Text != nil:
		r.Input.Text = *body.Input.Text
	}
	r.Input.Type = body.Input.Type
	r.given, r.Options = 0, RunOptions{DryRun: body.Options.DryRun}
	o := &body.Options
	if o.Priority != nil {
		r.given |= givenPriority
		r.Options.Priority = *o.Priority
	}
	if o.TimeoutMS != nil {
		r.given |= givenTimeout
		r.Options.TimeoutMS = *o.TimeoutMS
	}
	if o.MaxSteps != nil {
		r.given |= givenSteps
		r.Options.MaxSteps = *o.MaxSteps
	}
	if o.StreamEvents != nil {
		r.given |= givenStream
		r.Options.StreamEvents = *o.StreamEvents
	}
	return nil
}

// SetStreamEvents says whether pieces of answers are to be streamed. A request that was not decoded from JSON needs it to
// say no, since it can't be told from one that says nothing.
func (r *Request) SetStreamEvents(on bool) {
	r.given |= givenStream
	r.Options.StreamEvents = on
}

// options says which options r gave. Of a request that was built in Go, those that aren't zero.
func (r *Request) options() given {
	g := r.given
	if r.Options.Priority != "" {
		g |= givenPriority
	}
	if r.Options.TimeoutMS != 0 {
		g |= givenTimeout
	}
	if r.Options.MaxSteps != 0 {
		g |= givenSteps
	}
	if r.Options.StreamEvents {
		g |= givenStream
	}
	return g
}

// over completes o: what was given, over an agent's defaults, over the platform's.
func (g given) over(o RunOptions, d agent.RunDefaults) RunOptions {
	full := RunOptions{Priority: DefaultPriority, TimeoutMS: DefaultTimeoutMS, MaxSteps: DefaultMaxSteps, StreamEvents: true, DryRun: o.DryRun}
	pick(&full.Priority, o.Priority, g&givenPriority != 0, d.Priority)
	pick(&full.TimeoutMS, o.TimeoutMS, g&givenTimeout != 0, d.TimeoutMS)
	pick(&full.MaxSteps, o.MaxSteps, g&givenSteps != 0, d.MaxSteps)
	pick(&full.StreamEvents, o.StreamEvents, g&givenStream != 0, d.StreamEvents)
	return full
}

func pick[T any](into *T, asked T, given bool, otherwise *T) {
	switch {
	case given:
		*into = asked
	case otherwise != nil:
		*into = *otherwise
	}
}

// validate refuses, by field, what a run can't be made of.
func (r *Request) validate() error {
	g := r.options()
	_, known := queue.ParsePriority(r.Options.Priority)
	switch {
	case r.Input.Type != "text":
		return fault.Invalid("input.type", "An input is of type text.")
	case len(r.Input.Text) > MaxInput:
		return fault.New(fault.PayloadTooLarge, "An input has at most %d bytes; send less, or put it where a tool can read it.", MaxInput).With("field", "input.text")
	case !utf8.ValidString(r.Input.Text):
		return fault.Invalid("input.text", "The input has to be UTF-8.")
	case g&givenPriority != 0 && !known:
		return fault.Invalid("run_options.priority", "A priority is low, normal or high.")
	case g&givenTimeout != 0 && (r.Options.TimeoutMS < 1 || r.Options.TimeoutMS > agent.MaxTimeoutMS):
		return fault.Invalid("run_options.timeout_ms", "A time-out is 1 to %d milliseconds.", agent.MaxTimeoutMS)
	case g&givenSteps != 0 && (r.Options.MaxSteps < 1 || r.Options.MaxSteps > agent.MaxSteps):
		return fault.Invalid("run_options.max_steps", "A run takes 1 to %d steps.", agent.MaxSteps)
	case len(r.IdempotencyKey) > tenancy.MaxIdempotencyKey || !printable(r.IdempotencyKey):
		return fault.Invalid("idempotency_key", "An idempotency key has 1 to %d bytes of printable text.", tenancy.MaxIdempotencyKey)
	}
	if err := r.Context.validate(); err != nil {
		return err
	}
	for _, list := range [...]struct {
		field string
		ids   []string
	}{{"tooling.tool_allowlist", r.Tooling.Allowlist}, {"tooling.tool_denymap", r.Tooling.Denymap}} {
		if len(list.ids) > maxToolList {
			return fault.Invalid(list.field, "The list has at most %d tools.", maxToolList)
		}
		for i, tool := range list.ids {
			if !id.ValidTool(tool) {
				return fault.Invalid(list.field, "A tool id is \"tool.\" and a dotted name; entry %d is not.", i)
			}
		}
	}
	return nil
}

func (c *Context) validate() error {
	for _, t := range [...]struct{ field, value string }{
		{"context.locale", c.Locale},
		{"context.timezone", c.Timezone},
		{"context.channel", c.Channel},
		{"context.user_id", c.UserID},
		{"context.session_id", c.SessionID},
	} {
		if len(t.value) > maxContextText || !printable(t.value) {
			return fault.Invalid(t.field, "The text has at most %d bytes and no control characters.", maxContextText)
		}
	}
	if len(c.Labels) > maxLabels {
		return fault.Invalid("context.labels", "A run has at most %d labels.", maxLabels)
	}
	for key, value := range c.Labels {
		if err := validLabel(key, value); err != nil {
			return err
		}
	}
	if len(c.Metadata) > 0 {
		raw, err := json.Marshal(c.Metadata)
		if err != nil || len(raw) > maxMetadata {
			return fault.Invalid("context.metadata", "The metadata has at most %d bytes as JSON.", maxMetadata)
		}
	}
	return nil
}

func validLabel(key, value string) error {
	switch {
	case key == "" || len(key) > maxLabelKey || !printable(key) || containsColon(key):
		return fault.Invalid("context.labels", "A label's name has 1 to %d bytes, without ':' and control characters.", maxLabelKey)
	case len(value) > maxLabelValue || !printable(value):
		return fault.Invalid("context.labels", "A label's value has at most %d bytes and no control characters.", maxLabelValue)
	}
	return nil
}

func containsColon(s string) bool { return slices.Contains([]byte(s), ':') }

func printable(s string) bool {
	for _, r := range s {
		if r == utf8.RuneError || unicode.IsControl(r) {
			return false
		}
	}
	return true
}

// classes are the data classifications, from the least guarded to the most.
var classes = [...]string{"public", "internal", "confidential", "restricted"}

// tighten returns the policy context of a run: the credential's, narrowed by the request's. What would widen it is
// refused.
func tighten(own tenancy.PolicyContext, asked *tenancy.PolicyContext) (tenancy.PolicyContext, error) {
	if asked == nil {
		return own, nil
	}
	if class := asked.DataClassification; class != "" {
		rank := slices.Index(classes[:], class)
		if rank < 0 {
			return own, fault.Invalid("policy_context.data_classification", "A data classification is public, internal, confidential or restricted.")
		}
		if rank < slices.Index(classes[:], own.DataClassification) {
			return own, widens("data_classification", own.DataClassification)
		}
		own.DataClassification = class
	}
	switch {
	case asked.Region == "" || asked.Region == own.Region:
	case own.Region != "":
		return own, widens("region", own.Region)
	case !id.Valid(asked.Region):
		return own, fault.Invalid("policy_context.region", "A region is 1 to %d letters, digits, '.', '_' and '-'.", id.MaxLen)
	default:
		own.Region = asked.Region
	}
	switch {
	case asked.Purpose == "" || asked.Purpose == own.Purpose:
	case own.Purpose != "":
		return own, widens("purpose", own.Purpose)
	case len(asked.Purpose) > maxContextText || !printable(asked.Purpose):
		return own, fault.Invalid("policy_context.purpose", "The text has at most %d bytes and no control characters.", maxContextText)
	default:
		own.Purpose = asked.Purpose
	}
	return consent(own, asked.ConsentTags)
}

// consent narrows consent tags: what was consented to can only become less.
func consent(own tenancy.PolicyContext, asked []string) (tenancy.PolicyContext, error) {
	if asked == nil {
		return own, nil
	}
	if len(asked) > maxTags {
		return own, fault.Invalid("policy_context.consent_tags", "There are at most %d consent tags.", maxTags)
	}
	for _, tag := range asked {
		if tag == "" || len(tag) > maxContextText || !printable(tag) {
			return own, fault.Invalid("policy_context.consent_tags", "A consent tag has 1 to %d bytes and no control characters.", maxContextText)
		}
		if own.ConsentTags != nil && !slices.Contains(own.ConsentTags, tag) {
			return own, widens("consent_tags", fmt.Sprint(own.ConsentTags))
		}
	}
	own.ConsentTags = slices.Clone(asked)
	return own, nil
}

func widens(field, bound string) error {
	return fault.New(fault.Forbidden, "The credential's policy context has %s %s; a run may only tighten it.", field, bound).With("field", "policy_context."+field)
}
