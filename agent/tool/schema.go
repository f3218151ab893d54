package tool

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"golang.org/x/text/language"
	"golang.org/x/text/message"

	"github.com/nexixai/agentos/internal/fault"
)

// Bounds of what strangers give us to compile and to check.
const (
	maxSchema   = 64 << 10
	maxDepth    = 64
	maxExponent = 400 // of a number: beyond it, exact arithmetic would take memory without end
	maxCompiled = 1024
)

// schemas compiles JSON Schemas (draft 2020-12 unless "$schema" says otherwise) and keeps them. A schema can refer to
// nothing outside itself.
type schemas struct {
	mu       sync.RWMutex
	compiled map[string]*schema
}

// schema is one compiled schema, which meters how much work a check costs: "allOf": [X, X], nested, costs twice as much
// with each level, and a check can't be stopped from outside.
type schema struct {
	mu   sync.Mutex // one check at a time: they're short, and share the meter
	root *jsonschema.Schema
	fuel int
}

// fuelPerCheck is far more than an honest input of MaxOutput bytes needs: one unit for each visit of a value by a
// subschema, and one for each of the value's members.
const fuelPerCheck = 400_000

// outOfFuel is what a check panics with when it costs too much; schemas.check catches it.
type outOfFuel struct{}

func newSchemas() *schemas { return &schemas{compiled: make(map[string]*schema)} }

// trivial reports whether raw accepts everything.
func trivial(raw json.RawMessage) bool {
	switch string(bytes.TrimSpace(raw)) {
	case "", "{}", "true", "null":
		return true
	}
	return false
}

// of returns the compiled schema, nil for one that accepts everything.
func (s *schemas) of(raw json.RawMessage) (*schema, error) {
	if trivial(raw) {
		return nil, nil
	}
	if len(raw) > maxSchema {
		return nil, fault.Invalid("tool.input_schema", "The schema is longer than %d bytes.", maxSchema)
	}
	s.mu.RLock()
	found := s.compiled[string(raw)]
	s.mu.RUnlock()
	if found != nil {
		return found, nil
	}
	compiled, err := compile(raw)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.compiled) >= maxCompiled {
		clear(s.compiled) // rare; what is in use is compiled again in no time
	}
	s.compiled[string(raw)] = compiled
	return compiled, nil
}

// nothingElse refuses to load what a schema refers to outside itself: neither files nor addresses are a tenant's to read.
type nothingElse struct{}

// Load implements jsonschema.URLLoader.
func (nothingElse) Load(string) (any, error) {
	return nil, errors.New("a schema may refer only to itself")
}

func compile(raw json.RawMessage) (compiled *schema, err error) {
	defer func() {
		if p := recover(); p != nil {
			compiled, err = nil, fault.Invalid("tool.input_schema", "The schema can't be compiled.").Because(fmt.Errorf("panic: %v", p))
		}
	}()
	doc, err := decode(raw)
	if err != nil {
		return nil, fault.Invalid("tool.input_schema", "The schema is not usable: %s.", err)
	}
	compiler := jsonschema.NewCompiler()
	compiler.UseLoader(nothingElse{})
	const self = "urn:agentos:input-schema"
	if err := compiler.AddResource(self, doc); err != nil {
		return nil, fault.Invalid("tool.input_schema", "The schema is not a JSON Schema.").Because(err)
	}
	root, err := compiler.Compile(self)
	if err != nil {
		return nil, fault.Invalid("tool.input_schema", "The schema is not a JSON Schema that refers only to itself.").Because(err)
	}
	compiled = &schema{root: root}
	if !compiled.meter(root, make(map[*jsonschema.Schema]bool)) {
		return nil, fault.Invalid("tool.input_schema", "The schema uses $dynamicRef or $recursiveRef, which this node does not take; use $ref.")
	}
	return compiled, nil
}

// meter makes every subschema take fuel as it's entered: a check of the format is the first thing the library does with a
// value whose type fits. It reports false for schemas whose way can't be known beforehand.
func (s *schema) meter(sub *jsonschema.Schema, seen map[*jsonschema.Schema]bool) bool {
	if sub == nil || seen[sub] {
		return true
	}
	seen[sub] = true
	if sub.DynamicRef != nil || sub.RecursiveRef != nil {
		return false
	}
	format := sub.Format
	metered := &jsonschema.Format{Name: "metered", Validate: func(v any) error {
		cost := 1
		switch v := v.(type) {
		case []any:
			cost += len(v)
		case map[string]any:
			cost += len(v)
		}
		if s.fuel -= cost; s.fuel < 0 {
			panic(outOfFuel{})
		}
		if format != nil {
			return format.Validate(v)
		}
		return nil
	}}
	if format != nil {
		metered.Name = format.Name
	}
	sub.Format = metered
	for _, child := range children(sub) {
		if !s.meter(child, seen) {
			return false
		}
	}
	return true
}

func children(s *jsonschema.Schema) []*jsonschema.Schema {
	out := []*jsonschema.Schema{
		s.Ref, s.Not, s.If, s.Then, s.Else, s.PropertyNames, s.UnevaluatedProperties, s.Contains, s.Items2020,
		s.UnevaluatedItems, s.ContentSchema,
	}
	for _, list := range [][]*jsonschema.Schema{s.AllOf, s.AnyOf, s.OneOf, s.PrefixItems} {
		out = append(out, list...)
	}
	for _, sub := range s.Properties {
		out = append(out, sub)
	}
	for _, sub := range s.PatternProperties {
		out = append(out, sub)
	}
	for _, sub := range s.DependentSchemas {
		out = append(out, sub)
	}
	loose := []any{s.AdditionalProperties, s.AdditionalItems, s.Items}
	for _, sub := range s.Dependencies {
		loose = append(loose, sub)
	}
	for _, sub := range loose {
		switch sub := sub.(type) {
		case *jsonschema.Schema:
			out = append(out, sub)
		case []*jsonschema.Schema:
			out = append(out, sub...)
		}
	}
	return out
}

// check refuses an input that does not fit, saying where and why.
func (s *schemas) check(schema, input json.RawMessage) (err error) {
	if trivial(schema) {
		return nil
	}
	compiled, err := s.of(schema)
	if err != nil {
		return err
	}
	value, err := decode(input)
	if err != nil {
		return fault.Invalid("input", "The input is not usable: %s.", err)
	}
	compiled.mu.Lock()
	defer compiled.mu.Unlock()
	defer func() {
		if p := recover(); p != nil {
			err = fault.Invalid("input", "Checking the input against the tool's schema costs too much.").Because(fmt.Errorf("panic: %v", p))
		}
	}()
	compiled.fuel = fuelPerCheck
	if err := compiled.root.Validate(value); err != nil {
		return fault.Invalid("input", "The input does not fit the tool's schema: %s.", reasons(err))
	}
	return nil
}

// reasons tells the first few leaves of a validation error.
func reasons(err error) string {
	invalid, ok := errors.AsType[*jsonschema.ValidationError](err)
	if !ok {
		return "it can't be checked"
	}
	english := message.NewPrinter(language.English)
	var out []string
	var walk func(e *jsonschema.ValidationError)
	walk = func(e *jsonschema.ValidationError) {
		if len(out) == 3 {
			return
		}
		if len(e.Causes) == 0 {
			at := "/" + strings.Join(e.InstanceLocation, "/")
			text, _ := CutText(at+": "+e.ErrorKind.LocalizedString(english), 300)
			out = append(out, text)
		}
		for _, cause := range e.Causes {
			walk(cause)
		}
	}
	walk(invalid)
	return strings.Join(out, "; ")
}

// decode reads JSON as the schema library wants it, and refuses what would make checking it expensive.
func decode(raw []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	depth := 0
	for {
		token, err := d.Token()
		if err != nil {
			break // of the end, or of a fault that Unmarshal reports
		}
		switch t := token.(type) {
		case json.Delim:
			if t == '{' || t == '[' {
				depth++
			} else {
				depth--
			}
			if depth > maxDepth {
				return nil, fmt.Errorf("it is nested deeper than %d", maxDepth)
			}
		case json.Number:
			if !modest(string(t)) {
				return nil, fmt.Errorf("the number %.40s is out of range", t)
			}
		}
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		return nil, errors.New("it is not valid JSON")
	}
	return value, nil
}

// modest reports whether a JSON number has so few digits and so small an exponent that exact arithmetic on it is cheap.
func modest(n string) bool {
	mantissa, exponent, has := strings.Cut(strings.ToLower(n), "e")
	if len(mantissa) > maxExponent {
		return false
	}
	if !has {
		return true
	}
	digits := strings.TrimLeft(strings.TrimLeft(exponent, "+-"), "0")
	if len(digits) > 3 {
		return false
	}
	value := 0
	for _, c := range digits {
		value = value*10 + int(c-'0')
	}
	return value <= maxExponent
}
