package openai

import (
	"encoding/json"
	"fmt"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/model"
)

// decodeTools reads which tools are offered and which must be used.
func (c *Chat) decodeTools(o *object) error {
	var list []json.RawMessage
	if _, err := o.into("tools", &list); err != nil {
		return err
	}
	if len(list) > maxTools {
		return fault.Invalid("tools", "There can be %d tools.", maxTools)
	}
	names := make(map[string]bool, len(list))
	for i, raw := range list {
		t, err := decodeTool(raw, fmt.Sprintf("tools[%d]", i))
		if err != nil {
			return err
		}
		if names[t.Name] {
			return fault.Invalid(fmt.Sprintf("tools[%d].function.name", i), "Two tools are named %q.", t.Name)
		}
		names[t.Name] = true
		c.req.Tools = append(c.req.Tools, t)
	}
	for i := range c.req.Messages {
		for j := range c.req.Messages[i].ToolCalls {
			if call := &c.req.Messages[i].ToolCalls[j]; names[call.Name] {
				call.ToolID = call.Name
			}
		}
	}
	var parallel bool
	if given, err := o.into("parallel_tool_calls", &parallel); err != nil {
		return err
	} else if given {
		c.req.ParallelToolCalls = &parallel
	}
	return c.decodeChoice(o, names)
}

// decodeTool reads a tool of the client's own. It has no id here, so its name is its id.
func decodeTool(raw json.RawMessage, path string) (model.Tool, error) {
	var t model.Tool
	o, err := read(raw, path)
	if err != nil {
		return t, err
	}
	var kind string
	if _, err := o.into("type", &kind); err != nil {
		return t, err
	}
	if kind != "function" {
		return t, fault.Invalid(o.name("type"), "%s is function.", o.name("type"))
	}
	inner, ok := o.take("function")
	if !ok {
		return t, fault.Invalid(o.name("function"), "%s is missing.", o.name("function"))
	}
	f, err := read(inner, o.name("function"))
	if err != nil {
		return t, err
	}
	for member, to := range map[string]any{"name": &t.Name, "description": &t.Description, "strict": &t.Strict} {
		if _, err := f.into(member, to); err != nil {
			return t, err
		}
	}
	if !toolName(t.Name) {
		return t, fault.Invalid(f.name("name"), "A function's name has 1 to 64 letters, digits, '_' and '-'.")
	}
	t.ID = t.Name
	if parameters, ok := f.take("parameters"); ok {
		if parameters[0] != '{' {
			return t, fault.Invalid(f.name("parameters"), "%s is a JSON Schema, an object.", f.name("parameters"))
		}
		t.InputSchema = parameters
	}
	return t, nil
}

func toolName(s string) bool {
	if len(s) == 0 || len(s) > 64 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-') {
			return false
		}
	}
	return true
}

func (c *Chat) decodeChoice(o *object, names map[string]bool) error {
	raw, given := o.take("tool_choice")
	if !given {
		return nil
	}
	if raw[0] == '"' {
		if err := decode(raw, "tool_choice", &c.req.ToolChoice); err != nil {
			return err
		}
		switch c.req.ToolChoice {
		case "auto", "none":
			return nil
		case "required":
			if len(names) == 0 {
				return fault.Invalid("tool_choice", "tool_choice required needs tools.")
			}
			return nil
		}
		return fault.Invalid("tool_choice", "tool_choice is auto, none, required, or names a function.")
	}
	choice, err := read(raw, "tool_choice")
	if err != nil {
		return err
	}
	if err := choice.only("type", `"function"`); err != nil {
		return err
	}
	inner, ok := choice.take("function")
	if !ok {
		return fault.Invalid("tool_choice.function", "tool_choice.function is missing.")
	}
	f, err := read(inner, "tool_choice.function")
	if err != nil {
		return err
	}
	if _, err := f.into("name", &c.req.ToolChoice); err != nil {
		return err
	}
	if !names[c.req.ToolChoice] {
		return fault.Invalid("tool_choice.function.name", "tool_choice names the function %q, which is not among the tools.", c.req.ToolChoice)
	}
	return nil
}
