package policy

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"
	"unicode/utf8"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
)

// DefaultID names the ruleset that every tenant has.
const DefaultID = "pol_default"

// Bounds of a ruleset. A custom expression is bounded in three ways: its text, the program it compiles to (RE2 takes time
// linear in the text for each instruction), and the longest match, which is how much of a stream it holds back.
const (
	MaxExpressions  = 32
	MaxExpression   = 1024
	MaxInstructions = 2000
	MaxMatch        = 512
)

// Directions in which a rule looks.
const (
	In   = "in"
	Out  = "out"
	Both = "both"
)

// Ruleset is policy as data.
type Ruleset struct {
	ID string `json:"policy_id"`
	// Redact lists the types to be replaced, of Types.
	Redact []string `json:"redact"`
	// Custom lists further expressions to be replaced, as type "custom:<name>".
	Custom []Expression `json:"custom,omitempty"`
	// Deny lists expressions that block a call. (Rules over the whole request, in CEL, are to stand beside them.)
	Deny []Expression `json:"deny,omitempty"`
	// Limits bound a call's tokens.
	Limits Limits `json:"limits"`
}

// Expression is a named expression in RE2's syntax. Its longest match must be bounded: \d{4,16}, not \d+.
type Expression struct {
	Name    string `json:"name"`
	Pattern string `json:"pattern"`
	// Direction is in, out or both; "" means both.
	Direction string `json:"direction,omitempty"`
}

// Limits bound the tokens of one call; 0 is no limit.
type Limits struct {
	MaxInputTokens  int64 `json:"max_input_tokens,omitempty"`
	MaxOutputTokens int64 `json:"max_output_tokens,omitempty"`
}

// Default returns the ruleset pol_default: every type is redacted, in both directions, and the rest is allowed.
func Default() Ruleset { return Ruleset{ID: DefaultID, Redact: Types()} }

const (
	customPrefix = "custom:"
	denyPrefix   = "deny:"
)

// compiled is what one direction looks for.
type compiled struct {
	kinds  kind
	custom []*expression
	hold   int // how much has to follow before a place is decided for the expressions
}

// expression is a compiled Expression.
type expression struct {
	name string // with its prefix
	// first is for the beginning of a text; later has one character before the match, so that \b and ^ see it.
	first, later *regexp.Regexp
}

// Compile checks r and makes it ready to be applied. An error names the field at fault.
func Compile(r Ruleset) (*Rules, error) {
	if !id.Valid(r.ID) {
		return nil, fault.Invalid("policy_id", "A policy_id has 1 to %d characters of A-Z a-z 0-9 . _ -.", id.MaxLen)
	}
	rules := &Rules{id: r.ID, limits: r.Limits}
	if r.Limits.MaxInputTokens < 0 || r.Limits.MaxOutputTokens < 0 {
		return nil, fault.Invalid("limits", "A token limit must not be negative; 0 sets none.")
	}
	if len(r.Redact) > len(detectors) {
		return nil, fault.Invalid("redact", "A ruleset lists each type once; there are %d.", len(detectors))
	}
	for i, name := range r.Redact {
		k, ok := kindOf(name)
		if !ok {
			return nil, fault.Invalid(fmt.Sprintf("redact[%d]", i), "There is no type %q; use some of %s.", name, strings.Join(Types(), ", "))
		}
		rules.in.kinds |= k
		rules.out.kinds |= k
	}
	if len(r.Custom)+len(r.Deny) > MaxExpressions {
		return nil, fault.Invalid("custom", "A ruleset may have %d expressions, custom and deny together.", MaxExpressions)
	}
	for i, e := range r.Custom {
		if err := rules.add(e, customPrefix, fmt.Sprintf("custom[%d]", i)); err != nil {
			return nil, err
		}
	}
	for i, e := range r.Deny {
		if err := rules.add(e, denyPrefix, fmt.Sprintf("deny[%d]", i)); err != nil {
			return nil, err
		}
	}
	return rules, nil
}

func kindOf(name string) (kind, bool) {
	for _, d := range detectors {
		if d.name == name {
			return d.kind, true
		}
	}
	return 0, false
}

func (r *Rules) add(e Expression, prefix, field string) error {
	compiledE, longest, err := e.compile(prefix, field)
	if err != nil {
		return err
	}
	for _, side := range []struct {
		name string
		*compiled
	}{{In, &r.in}, {Out, &r.out}} {
		if e.Direction == side.name || e.Direction == Both || e.Direction == "" {
			side.custom = append(side.custom, compiledE)
			side.hold = max(side.hold, longest+2*utf8.UTFMax)
		}
	}
	return nil
}

func (e Expression) compile(prefix, field string) (*expression, int, error) {
	switch e.Direction {
	case "", In, Out, Both:
	default:
		return nil, 0, fault.Invalid(field+".direction", "A direction is in, out or both.")
	}
	if !id.Valid(e.Name) {
		return nil, 0, fault.Invalid(field+".name", "A rule's name has 1 to %d characters of A-Z a-z 0-9 . _ -.", id.MaxLen)
	}
	if len(e.Pattern) > MaxExpression {
		return nil, 0, fault.Invalid(field+".pattern", "An expression may have %d bytes.", MaxExpression)
	}
	tree, err := syntax.Parse(e.Pattern, syntax.Perl)
	if err != nil {
		return nil, 0, fault.Invalid(field+".pattern", "The expression can't be read: %v.", err)
	}
	least, longest := span(tree)
	if least == 0 {
		return nil, 0, fault.Invalid(field+".pattern", "The expression matches an empty text; make it need at least one character.")
	}
	if longest > MaxMatch {
		return nil, 0, fault.Invalid(field+".pattern", "The expression's longest match must be at most %d bytes; write {1,%d} instead of + and {0,%d} instead of *.", MaxMatch, 64, 64)
	}
	program, err := syntax.Compile(tree.Simplify())
	if err != nil || len(program.Inst) > MaxInstructions {
		return nil, 0, fault.Invalid(field+".pattern", "The expression is too large; make it simpler.")
	}
	first, err := regexp.Compile(e.Pattern)
	if err != nil {
		return nil, 0, fault.Invalid(field+".pattern", "The expression can't be read: %v.", err)
	}
	later, err := regexp.Compile("(?s:.)((?:" + e.Pattern + "))")
	if err != nil {
		return nil, 0, fault.Invalid(field+".pattern", "The expression can't be read: %v.", err)
	}
	return &expression{name: prefix + e.Name, first: first, later: later}, longest, nil
}

// unbounded is the length of a match that nothing bounds.
const unbounded = 1 << 20

// span returns the lengths in bytes of the shortest and the longest match of re.
func span(re *syntax.Regexp) (least, longest int) {
	switch re.Op {
	case syntax.OpNoMatch, syntax.OpEmptyMatch, syntax.OpBeginLine, syntax.OpEndLine, syntax.OpBeginText, syntax.OpEndText,
		syntax.OpWordBoundary, syntax.OpNoWordBoundary:
		return 0, 0
	case syntax.OpLiteral:
		return len(re.Rune), len(re.Rune) * utf8.UTFMax
	case syntax.OpCharClass, syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return 1, classWidth(re)
	case syntax.OpCapture:
		return span(re.Sub[0])
	case syntax.OpQuest:
		_, longest = span(re.Sub[0])
		return 0, longest
	case syntax.OpStar:
		return 0, unbounded
	case syntax.OpPlus:
		least, _ = span(re.Sub[0])
		return least, unbounded
	case syntax.OpRepeat:
		least, longest = span(re.Sub[0])
		if re.Max < 0 {
			return least * re.Min, unbounded
		}
		return least * re.Min, min(longest*re.Max, unbounded)
	case syntax.OpConcat:
		for _, sub := range re.Sub {
			l, m := span(sub)
			least, longest = least+l, min(longest+m, unbounded)
		}
		return least, longest
	case syntax.OpAlternate:
		least = unbounded
		for _, sub := range re.Sub {
			l, m := span(sub)
			least, longest = min(least, l), max(longest, m)
		}
		return least, longest
	}
	return 0, unbounded
}

// classWidth returns the length in bytes of the longest character of a class.
func classWidth(re *syntax.Regexp) int {
	if re.Op != syntax.OpCharClass || len(re.Rune) == 0 {
		return utf8.UTFMax
	}
	return max(1, utf8.RuneLen(min(re.Rune[len(re.Rune)-1], utf8.MaxRune)))
}

// searcher finds the matches of a direction's expressions in one window.
type searcher struct {
	list []*expression
	w    *window
	// limit is the place from which on nothing can be decided yet.
	limit int
	next  []match
	begin bool // the window begins where the text does
}

type match struct{ from, to int }

func (c *compiled) searcher(w *window, base int) *searcher {
	if len(c.custom) == 0 {
		return nil
	}
	s := &searcher{list: c.custom, w: w, limit: len(w.buf) + 1, next: make([]match, len(c.custom)), begin: base == 0}
	if !w.final {
		s.limit = len(w.buf) - c.hold
	}
	for k := range s.next {
		s.next[k].from = -1
	}
	return s
}

// at returns the longest match of the expressions at i; of equals the first.
func (s *searcher) at(i int) (name string, v verdict) {
	if i >= s.limit {
		return "", more
	}
	if !utf8.RuneStart(s.w.buf[i]) {
		return "", none
	}
	for k, e := range s.list {
		if s.next[k].from < i {
			s.next[k] = e.find(s.w.buf, i, s.begin && i == 0)
		}
		if m := s.next[k]; m.from == i && m.to-m.from > v.n {
			name, v = e.name, verdict{n: m.to - m.from}
		}
	}
	return name, v
}

// find returns the first match at or after i.
func (e *expression) find(text string, i int, begin bool) match {
	if begin {
		if m := e.first.FindStringIndex(text); m != nil {
			return match{m[0], m[1]}
		}
		return match{len(text) + 1, 0}
	}
	_, size := utf8.DecodeLastRuneInString(text[:i])
	if m := e.later.FindStringSubmatchIndex(text[i-size:]); m != nil {
		return match{i - size + m[2], i - size + m[3]}
	}
	return match{len(text) + 1, 0}
}
