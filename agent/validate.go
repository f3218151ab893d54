package agent

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/internal/strictjson"
)

// Bounds of definitions, and of run options.
const (
	MaxTimeoutMS = 24 * 60 * 60 * 1000
	MaxSteps     = 1000

	maxName         = 256
	maxDescription  = 4 << 10
	maxInstructions = 64 << 10
	maxTools        = 128
	maxToolName     = 64 // the bound of the model vendors
	maxModelRef     = 256
	maxSchema       = 64 << 10
	maxConfig       = 16 << 10
)

// normalize fills in what a was sent without, and refuses what it can't be. Errors name the field.
func (a *Agent) normalize() error {
	if a.Name == "" {
		a.Name = a.ID
	}
	if a.Status == "" {
		a.Status = Active
	}
	if a.ModelRef == "" {
		a.ModelRef = DefaultModelRef
	}
	if a.ToolIDs == nil {
		a.ToolIDs = []string{}
	}
	switch {
	case !id.Valid(a.ID):
		return badID("agent_id")
	case a.Status != Active && a.Status != Inactive && a.Status != Deprecated:
		return fault.Invalid("agent.status", "An agent's status is active, inactive or deprecated.")
	case !ValidModelRef(a.ModelRef):
		return fault.Invalid("agent.model_ref", "A model is named by tier:fast, tier:balanced, tier:premium, its id, or backend/model.")
	case len(a.ToolIDs) > maxTools:
		return fault.Invalid("agent.tool_ids", "An agent has at most %d tools.", maxTools)
	case a.PolicyID != "" && !id.Valid(a.PolicyID):
		return badID("agent.policy_id")
	}
	for i, tool := range a.ToolIDs {
		if !id.ValidTool(tool) {
			return fault.Invalid("agent.tool_ids", "A tool id is \"tool.\" and a dotted name; entry %d is not.", i)
		}
		if slices.Contains(a.ToolIDs[:i], tool) {
			return fault.Invalid("agent.tool_ids", "The tool %s is listed twice.", tool)
		}
	}
	for _, text := range [...]struct {
		field, value string
		most         int
	}{
		{"agent.name", a.Name, maxName},
		{"agent.version", a.Version, maxName},
		{"agent.description", a.Description, maxDescription},
		{"agent.instructions", a.Instructions, maxInstructions},
	} {
		if len(text.value) > text.most || !utf8.ValidString(text.value) {
			return fault.Invalid(text.field, "The text has to be UTF-8 of at most %d bytes.", text.most)
		}
	}
	defaults, err := ParseRunDefaults(a.RunDefaults)
	if err != nil {
		return err
	}
	a.RunDefaults, err = json.Marshal(defaults) // without what nobody knows
	return err
}

// ParseRunDefaults reads an agent's run_defaults; nothing, or null, is no defaults.
func ParseRunDefaults(raw json.RawMessage) (RunDefaults, error) {
	var d RunDefaults
	if len(raw) == 0 {
		return d, nil
	}
	if err := strictjson.Decode(raw, &d); err != nil {
		return d, strictjson.Within("agent.run_defaults", err)
	}
	switch {
	case d.Priority != nil && *d.Priority != "low" && *d.Priority != "normal" && *d.Priority != "high":
		return d, fault.Invalid("agent.run_defaults.priority", "A priority is low, normal or high.")
	case d.TimeoutMS != nil && (*d.TimeoutMS < 1 || *d.TimeoutMS > MaxTimeoutMS):
		return d, fault.Invalid("agent.run_defaults.timeout_ms", "A time-out is 1 to %d milliseconds.", MaxTimeoutMS)
	case d.MaxSteps != nil && (*d.MaxSteps < 1 || *d.MaxSteps > MaxSteps):
		return d, fault.Invalid("agent.run_defaults.max_steps", "A run takes 1 to %d steps.", MaxSteps)
	}
	return d, nil
}

// ValidModelRef reports whether s can name a model: "tier:" and a tier, a model id, or "backend/model".
func ValidModelRef(s string) bool {
	if tier, ok := strings.CutPrefix(s, "tier:"); ok {
		return tier == "fast" || tier == "balanced" || tier == "premium"
	}
	if s == "" || len(s) > maxModelRef || !utf8.ValidString(s) {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || unicode.IsControl(r) || unicode.IsSpace(r) }) < 0
}

// ToolName is a tool's name as models see it: its id without "tool.", dots as '_'.
func ToolName(toolID string) string {
	return strings.ReplaceAll(strings.TrimPrefix(toolID, "tool."), ".", "_")
}

// normalize fills in what t was sent without, and refuses what it can't be.
func (t *Tool) normalize() error {
	t.Name = ToolName(t.ID)
	if len(t.InputSchema) == 0 || string(t.InputSchema) == "null" {
		t.InputSchema = json.RawMessage(`{"type":"object"}`)
	}
	if string(t.Config) == "null" {
		t.Config = nil
	}
	switch {
	case !id.ValidTool(t.ID):
		return fault.Invalid("tool_id", "A tool id is \"tool.\" and a dotted name of letters, digits, '.', '_' and '-', at most %d bytes long.", id.MaxLen)
	case len(t.Name) > maxToolName:
		return fault.Invalid("tool_id", "A tool's name has at most %d characters, since models know no longer ones.", maxToolName)
	case t.Kind != "http" && t.Kind != "mcp":
		return fault.Invalid("tool.kind", "A tool that is put is of kind http or mcp.")
	case len(t.Description) > maxDescription || !utf8.ValidString(t.Description):
		return fault.Invalid("tool.description", "The text has to be UTF-8 of at most %d bytes.", maxDescription)
	case !isObject(t.InputSchema) || len(t.InputSchema) > maxSchema:
		return fault.Invalid("tool.input_schema", "The input schema has to be a JSON Schema object of at most %d bytes.", maxSchema)
	case len(t.Config) > 0 && !isObject(t.Config) || len(t.Config) > maxConfig:
		return fault.Invalid("tool.config", "The configuration has to be a JSON object of at most %d bytes.", maxConfig)
	}
	return nil
}

func isObject(raw json.RawMessage) bool {
	trimmed := bytes.TrimSpace(raw)
	return len(trimmed) > 0 && trimmed[0] == '{' && json.Valid(trimmed)
}

func badID(field string) error {
	return fault.Invalid(field, "An id is 1 to %d letters, digits, '.', '_' and '-'.", id.MaxLen)
}
