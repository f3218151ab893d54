package conformance

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	"pgregory.net/rapid"
)

// Maker makes values by schemas.
type Maker struct{ Rand *rand.Rand }

// deep is how many objects lie in each other at most in what is made, where the schema allows to stop.
const deep = 5

// Value makes a value that the schema takes.
func (m *Maker) Value(s *openapi3.Schema) any { return m.value(s, 0) }

func (m *Maker) value(s *openapi3.Schema, depth int) any {
	if s.Nullable && m.Rand.IntN(8) == 0 {
		return nil
	}
	if options := append(slices.Clone(s.OneOf), s.AnyOf...); len(options) > 0 {
		return m.value(options[m.Rand.IntN(len(options))].Value, depth+1)
	}
	if len(s.Enum) > 0 {
		return s.Enum[m.Rand.IntN(len(s.Enum))]
	}
	switch {
	case s.Type.Is("object"):
		return m.object(s, depth)
	case s.Type.Is("array"):
		out := []any{}
		for range m.count(s.MinItems, s.MaxItems) {
			out = append(out, m.value(s.Items.Value, depth+1))
		}
		return out
	case s.Type.Is("string"):
		return m.text(s)
	case s.Type.Is("boolean"):
		return m.Rand.IntN(2) == 0
	case s.Type.Is("integer"), s.Type.Is("number"):
		return m.number(s)
	}
	return []any{"x", 7.0, true, map[string]any{"k": "v"}}[m.Rand.IntN(4)]
}

func (m *Maker) object(s *openapi3.Schema, depth int) map[string]any {
	out := map[string]any{}
	for _, name := range sorted(s.Properties) {
		p := s.Properties[name].Value
		needed := slices.Contains(s.Required, name)
		if p.ReadOnly || !needed && (depth >= deep || m.Rand.IntN(2) == 0) {
			continue
		}
		out[name] = m.value(p, depth+1)
	}
	if of := s.AdditionalProperties.Schema; of != nil && depth < deep {
		for i := range m.Rand.IntN(3) {
			out[fmt.Sprintf("k%d", i)] = m.value(of.Value, depth+1)
		}
	}
	return out
}

func (m *Maker) count(least uint64, most *uint64) int {
	n := int(least) + m.Rand.IntN(3)
	if most != nil {
		n = min(n, int(*most))
	}
	return n
}

func (m *Maker) text(s *openapi3.Schema) string {
	switch {
	case s.Format == "date-time":
		return fmt.Sprintf("20%02d-0%d-1%dT08:00:00Z", 27+m.Rand.IntN(50), 1+m.Rand.IntN(9), m.Rand.IntN(9))
	case s.Format == "byte":
		return "AAAA"
	case s.Pattern != "":
		for {
			text := rapid.StringMatching(s.Pattern).Example(m.Rand.IntN(1 << 20))
			if s.MaxLength == nil || uint64(len(text)) <= *s.MaxLength {
				return text
			}
		}
	}
	letters := []rune("abcdefgh XYZ.,0189-_äß水🙂")
	n := m.count(max(s.MinLength, uint64(m.Rand.IntN(12))), s.MaxLength)
	out := make([]rune, n)
	for i := range out {
		out[i] = letters[m.Rand.IntN(len(letters))]
	}
	return string(out)
}

func (m *Maker) number(s *openapi3.Schema) float64 {
	low, high := 0.0, 1000.0
	if s.Min != nil {
		low, high = *s.Min, *s.Min+1000
	}
	if s.Max != nil {
		high = *s.Max
	}
	n := low + m.Rand.Float64()*(high-low)
	if s.Type.Is("integer") {
		return float64(int64(n))
	}
	return n
}

// Fault is one change to a body that has to be refused.
type Fault struct {
	What string // "missing", "value", "twice"
	Path []string
	Body string
}

// At is the path as errors write it.
func (f Fault) At() string { return strings.Join(f.Path, ".") }

// Faults returns bodies that differ from a sound one by one fault that the schema names: a member that is needed left out,
// a member that comes twice, and for every member that there may be, a value of each kind that it can't have.
func (m *Maker) Faults(s *openapi3.Schema, sound any) []Fault {
	var out []Fault
	wrong := func(what string, at []string, v any, drop bool) {
		body, ok := m.put(s, sound, at, v, drop)
		if ok && len(CheckValue(s, body)) > 0 { // what one kind refuses, another may take
			out = append(out, Fault{what, at, encode(body)})
		}
	}
	m.walk(s, sound, nil, 0, func(at []string, in *openapi3.Schema) {
		name := at[len(at)-1]
		if slices.Contains(in.Required, name) {
			wrong("missing", at, nil, true)
		}
		p := in.Properties[name].Value
		for _, bad := range m.bad(p) {
			wrong("value", at, bad, false)
		}
		if body, ok := m.put(s, sound, at, m.Value(p), false); ok {
			if doubled, ok := double(body, at); ok {
				out = append(out, Fault{"twice", at, doubled})
			}
		}
	})
	return out
}

// kind is the one of several kinds that a value is, or the first.
func kind(s *openapi3.Schema, v any) *openapi3.Schema {
	options := append(slices.Clone(s.OneOf), s.AnyOf...)
	if len(options) == 0 {
		return s
	}
	for _, o := range options {
		if len(CheckValue(o.Value, v)) == 0 {
			return o.Value
		}
	}
	return options[0].Value
}

// walk visits the members of an object and of the objects in it, of the kinds that a sound value is.
func (m *Maker) walk(s *openapi3.Schema, sound any, at []string, depth int, visit func(at []string, in *openapi3.Schema)) {
	if depth > deep {
		return
	}
	s = kind(s, sound)
	members, _ := sound.(map[string]any)
	for _, name := range sorted(s.Properties) {
		p := s.Properties[name].Value
		if p.ReadOnly {
			continue
		}
		here := append(slices.Clone(at), name)
		visit(here, s)
		m.walk(p, members[name], here, depth+1, visit)
	}
}

// bad are values that the schema does not take, at most one of each kind.
func (m *Maker) bad(s *openapi3.Schema) (out []any) {
	for _, kind := range [][]any{
		{true}, {"no such value \x01", "", strings.Repeat("x", 300<<10)}, {1.5, -1.0, 1e300}, {[]any{[]any{}}}, {map[string]any{"zz": 1.0}},
	} {
		for _, v := range kind {
			if len(CheckValue(s, v)) > 0 {
				out = append(out, v)
				break
			}
		}
	}
	if s.Max != nil && *s.Max < 1e15 {
		out = append(out, *s.Max+1)
	}
	if s.MaxLength != nil && len(s.Enum) == 0 && *s.MaxLength < 1<<20 {
		out = append(out, strings.Repeat("x", int(*s.MaxLength)+1))
	}
	return out
}

// put returns a copy of body with the member at a path set, or left out. Objects on the way that are not there are made by
// the schema; it reports whether that could be done.
func (m *Maker) put(s *openapi3.Schema, body any, at []string, v any, drop bool) (any, bool) {
	old, ok := body.(map[string]any)
	if !ok {
		return nil, false
	}
	s = kind(s, body)
	out := maps.Clone(old)
	name := at[0]
	if s.Properties[name] == nil {
		return nil, false
	}
	if len(at) == 1 {
		if drop {
			_, there := out[name]
			delete(out, name)
			return out, there
		}
		out[name] = v
		return out, true
	}
	p := kind(s.Properties[name].Value, out[name])
	inner := out[name]
	if inner == nil {
		least := map[string]any{}
		for _, need := range p.Required {
			least[need] = m.Value(p.Properties[need].Value)
		}
		inner = least
	}
	inner, ok = m.put(p, inner, at[1:], v, drop)
	out[name] = inner
	return out, ok
}

// Extra returns a copy of body with a member that nobody knows in every object that the schema names, and a twin of every
// member that differs by case.
func (m *Maker) Extra(s *openapi3.Schema, body any) any {
	s = kind(s, body)
	old, ok := body.(map[string]any)
	if !ok || len(s.Properties) == 0 || s.AdditionalProperties.Has != nil || s.AdditionalProperties.Schema != nil {
		return body
	}
	out := map[string]any{"zz_unknown": []any{1.0, map[string]any{"a": nil}}}
	for name, v := range old {
		out[name] = v
		if p := s.Properties[name]; p != nil {
			out[name] = m.Extra(p.Value, v)
			if twin := strings.ToUpper(name); twin != name {
				out[twin] = []any{"not what it is"}
			}
		}
	}
	return out
}

func encode(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	return string(raw)
}

// double writes a body with the member at a path twice.
func double(body any, at []string) (string, bool) {
	o, ok := body.(map[string]any)
	if !ok {
		return "", false
	}
	var parts []string
	for _, name := range sorted(o) {
		text := encode(o[name])
		if name == at[0] {
			if len(at) > 1 {
				if text, ok = double(o[name], at[1:]); !ok {
					return "", false
				}
			} else {
				parts = append(parts, encode(name)+":"+text)
			}
		}
		parts = append(parts, encode(name)+":"+text)
	}
	return "{" + strings.Join(parts, ",") + "}", true
}

// BadQuery returns values of a query parameter that its schema does not take.
func (m *Maker) BadQuery(p *openapi3.Parameter) (out []string) {
	s := p.Schema.Value
	if s.Type.Is("array") {
		s = s.Items.Value
	}
	for _, v := range []string{"no such value", "-1", "1.5", "0", "501", "99999999999999999999999"} {
		if len(CheckValue(s, typed(s, v))) > 0 {
			out = append(out, v)
		}
	}
	return out
}
