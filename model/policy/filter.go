package policy

import (
	"encoding/json"

	"github.com/nexixai/agentos/model"
)

// maxHeldCalls bounds the tool calls of one streamed answer.
const maxHeldCalls = 128

// filter applies rules to a stream. Text is let through as soon as it's decided. The arguments of tool calls are held until
// the end: they are JSON, whose escapes can only be read in whole strings, and nobody can use half of a call.
type filter struct {
	rules *Rules
	scan  scanner
	calls []model.ToolCall
}

var _ model.Filter = (*filter)(nil)

// Stream implements model.Rules.
func (r *Rules) Stream() model.Filter {
	f := &filter{rules: r}
	f.scan.rules, f.scan.kinds, f.scan.path = &r.out, r.out.kinds, "output.message.content"
	return f
}

// Push implements model.Filter.
func (f *filter) Push(d model.Delta, emit func(model.Delta) error) error {
	if c := d.ToolCall; c != nil && c.Index >= 0 && c.Index < maxHeldCalls {
		for len(f.calls) <= c.Index {
			f.calls = append(f.calls, model.ToolCall{})
		}
		call := &f.calls[c.Index]
		if c.ID != "" {
			call.ID = c.ID
		}
		if c.Name != "" {
			call.Name = c.Name
		}
		call.Arguments = append(call.Arguments, c.Arguments...)
	}
	if d.Text == "" {
		return nil
	}
	if f.rules.out.nothing() {
		return emit(model.Delta{Text: d.Text})
	}
	f.scan.push(d.Text)
	return f.pass(false, emit)
}

func (f *filter) pass(final bool, emit func(model.Delta) error) error {
	f.scan.decide(final)
	if len(f.scan.denied) > 0 {
		p := pass{rules: &f.rules.out, denied: f.scan.denied}
		_, err := p.outcome(f.rules.id)
		return err
	}
	if text := f.scan.take(); text != "" {
		return emit(model.Delta{Text: text})
	}
	return nil
}

// Close implements model.Filter.
func (f *filter) Close(whole bool, emit func(model.Delta) error) error {
	if !f.rules.out.nothing() {
		if err := f.pass(true, emit); err != nil {
			return err
		}
	}
	if !whole {
		return nil
	}
	p := pass{rules: &f.rules.out}
	m := p.message(model.Message{Role: "assistant", ToolCalls: f.calls}, func() string { return "output.message" })
	if _, err := p.outcome(f.rules.id); err != nil {
		return err
	}
	for i := range m.ToolCalls {
		c := &m.ToolCalls[i]
		for _, piece := range []model.ToolCallDelta{{Index: i, ID: c.ID, Name: c.Name}, {Index: i, Arguments: arguments(c.Arguments)}} {
			if err := emit(model.Delta{ToolCall: &piece}); err != nil {
				return err
			}
		}
	}
	return nil
}

func arguments(raw json.RawMessage) string {
	if len(raw) == 0 {
		return "{}"
	}
	return string(raw)
}

// nothing reports whether c looks for nothing at all.
func (c *compiled) nothing() bool { return c.kinds == 0 && len(c.custom) == 0 }
