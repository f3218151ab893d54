package policy

import (
	"encoding/json"
	"strconv"
	"strings"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/model"
)

// Rules is a compiled ruleset. It implements model.Rules and is safe for concurrent use.
type Rules struct {
	id      string
	in, out compiled
	limits  Limits
}

var _ model.Rules = (*Rules)(nil)

// ReasonRedacted is the reason given when something was replaced.
const ReasonRedacted = "policy_redacted"

// allowed is the outcome of what passes untouched. Outcomes are read-only, so all share it.
var allowed = model.PolicyOutcome{Decision: model.Allowed, Reasons: []string{}, Redactions: []model.Redaction{}}

// Limits implements model.Rules.
func (r *Rules) Limits() model.TokenLimits {
	return model.TokenLimits{MaxInput: r.limits.MaxInputTokens, MaxOutput: r.limits.MaxOutputTokens}
}

// pass applies one direction to the fields of one call and gathers what was done.
type pass struct {
	rules      *compiled
	redactions []model.Redaction
	denied     []string
}

// text returns s with everything replaced that has to be.
func (p *pass) text(s string, path func() string) string {
	kinds := p.rules.kinds & possible(s)
	if kinds == 0 && len(p.rules.custom) == 0 {
		return s
	}
	scan := scanner{rules: p.rules, kinds: kinds}
	scan.buf = s
	scan.decide(true)
	p.denied = append(p.denied, scan.denied...)
	if len(scan.redactions) == 0 {
		return s
	}
	at := path()
	for i := range scan.redactions {
		scan.redactions[i].Path = at
	}
	p.redactions = append(p.redactions, scan.redactions...)
	return scan.take()
}

func (p *pass) outcome(policyID string) (model.PolicyOutcome, error) {
	if len(p.redactions) == 0 && len(p.denied) == 0 {
		return allowed, nil
	}
	o := model.PolicyOutcome{Decision: model.Redacted, Reasons: []string{}, Redactions: p.redactions}
	if len(p.redactions) == 0 {
		o.Redactions = []model.Redaction{}
	} else {
		o.Reasons = append(o.Reasons, ReasonRedacted)
	}
	if len(p.denied) == 0 {
		return o, nil
	}
	o.Decision, o.Reasons = model.Blocked, nil
	for _, name := range p.denied {
		o.Reasons = appendNew(o.Reasons, denyPrefix+name)
	}
	return o, blocked(policyID, o.Reasons)
}

func blocked(policyID string, reasons []string) error {
	return fault.New(fault.PolicyBlocked, "The policy %q does not allow this content (%s); leave it out, or ask the tenant's admin.", policyID, strings.Join(reasons, ", ")).
		With("policy_id", policyID).With("reasons", reasons)
}

func appendNew(list []string, s string) []string {
	for _, have := range list {
		if have == s {
			return list
		}
	}
	return append(list, s)
}

// Texts implements model.Rules.
func (r *Rules) Texts(texts []string, path string) ([]string, model.PolicyOutcome, error) {
	p := pass{rules: &r.in}
	changed := texts
	for i, text := range texts {
		got := p.text(text, func() string {
			if len(texts) == 1 {
				return path
			}
			return path + "[" + strconv.Itoa(i) + "]"
		})
		if len(got) != len(text) || got != text {
			if &changed[0] == &texts[0] {
				changed = append([]string(nil), texts...)
			}
			changed[i] = got
		}
	}
	o, err := p.outcome(r.id)
	return changed, o, err
}

// Request implements model.Rules.
func (r *Rules) Request(req *model.ChatRequest) (*model.ChatRequest, model.PolicyOutcome, error) {
	p := pass{rules: &r.in}
	out := *req
	owned := false // out.Messages is a copy
	for i := range req.Messages {
		m := p.message(req.Messages[i], func() string { return "input.messages[" + strconv.Itoa(i) + "]" })
		if !p.touched(&req.Messages[i], &m) {
			continue
		}
		if !owned {
			out.Messages, owned = append([]model.Message(nil), req.Messages...), true
		}
		out.Messages[i] = m
	}
	if len(req.Tools) > 0 {
		out.Tools = p.tools(req.Tools)
	}
	for i, stop := range req.Stop {
		if got := p.text(stop, func() string { return "generation.stop[" + strconv.Itoa(i) + "]" }); got != stop {
			out.Stop = append([]string(nil), out.Stop...)
			out.Stop[i] = got
		}
	}
	out.ResponseFormat = p.json(req.ResponseFormat, func() string { return "response_format" })
	o, err := p.outcome(r.id)
	if len(p.redactions) == 0 {
		return req, o, err
	}
	return &out, o, err
}

func (p *pass) touched(a, b *model.Message) bool {
	if a.Content != b.Content || a.Name != b.Name {
		return true
	}
	return len(a.ToolCalls) > 0 && &a.ToolCalls[0] != &b.ToolCalls[0]
}

// message returns m with its texts replaced; m's own tool calls are left as they are.
func (p *pass) message(m model.Message, path func() string) model.Message {
	if m.Role == "tool" && len(m.Content) > 0 && (m.Content[0] == '{' || m.Content[0] == '[' || m.Content[0] == '"') {
		// A tool's output is JSON more often than not: what an escape hides must not get by.
		m.Content = string(p.json(json.RawMessage(m.Content), func() string { return path() + ".content" }))
	} else {
		m.Content = p.text(m.Content, func() string { return path() + ".content" })
	}
	if m.Name != "" {
		m.Name = p.text(m.Name, func() string { return path() + ".name" })
	}
	owned := false
	for i := range m.ToolCalls {
		args := p.json(m.ToolCalls[i].Arguments, func() string { return path() + ".tool_calls[" + strconv.Itoa(i) + "].arguments" })
		if len(args) == 0 || len(args) == len(m.ToolCalls[i].Arguments) && &args[0] == &m.ToolCalls[i].Arguments[0] {
			continue
		}
		if !owned {
			m.ToolCalls, owned = append([]model.ToolCall(nil), m.ToolCalls...), true
		}
		m.ToolCalls[i].Arguments = args
	}
	return m
}

func (p *pass) tools(tools []model.Tool) []model.Tool {
	before := len(p.redactions)
	out := append([]model.Tool(nil), tools...)
	for i := range out {
		path := func(member string) func() string {
			return func() string { return "input.tools[" + strconv.Itoa(i) + "]." + member }
		}
		out[i].Description = p.text(out[i].Description, path("description"))
		out[i].InputSchema = p.json(out[i].InputSchema, path("input_schema"))
	}
	if len(p.redactions) == before {
		return tools
	}
	return out
}

// Answer implements model.Rules.
func (r *Rules) Answer(m model.Message) (model.Message, model.PolicyOutcome, error) {
	p := pass{rules: &r.out}
	m = p.message(m, func() string { return "output.message" })
	o, err := p.outcome(r.id)
	if err != nil {
		return model.Message{Role: m.Role}, o, err
	}
	return m, o, nil
}
