package tool

import (
	"slices"

	"github.com/nexixai/agentos/agent"
)

// Allowed returns those of an agent's tools that a run may call: the tenant is entitled to them, the request's allowlist
// names them, and its denymap does not. A nil list of entitlements or a nil allowlist sets no further limit; an empty one
// allows nothing. The order is the agent's; a tool that is listed twice counts once.
func Allowed(tools []agent.Tool, entitled, allow, deny []string) []agent.Tool {
	out := make([]agent.Tool, 0, len(tools))
	for i := range tools {
		toolID := tools[i].ID
		if entitled != nil && !slices.Contains(entitled, toolID) || allow != nil && !slices.Contains(allow, toolID) ||
			slices.Contains(deny, toolID) {
			continue
		}
		if !slices.ContainsFunc(out, func(t agent.Tool) bool { return t.ID == toolID }) {
			out = append(out, tools[i])
		}
	}
	return out
}

// NameOf is the name by which models know t: its own, or else its id without "tool." and with "_" for dots.
func NameOf(t *agent.Tool) string {
	if t.Name != "" {
		return t.Name
	}
	return agent.ToolName(t.ID)
}
