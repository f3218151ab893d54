package conformance

import (
	"maps"
	"slices"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
)

// walker visits every schema of a document once, by the place where it is written first met.
type walker struct {
	visit func(place string, s *openapi3.Schema)
	seen  map[*openapi3.Schema]bool
}

// schemas calls visit with every schema that the document holds or refers to, and a JSON pointer to it.
func (d *Document) schemas(visit func(place string, s *openapi3.Schema)) {
	w := &walker{visit: visit, seen: map[*openapi3.Schema]bool{}}
	if c := d.Components; c != nil {
		for _, name := range sorted(c.Schemas) {
			w.schema("/components/schemas/"+name, c.Schemas[name])
		}
		for _, name := range sorted(c.Parameters) {
			w.parameter("/components/parameters/"+name, c.Parameters[name])
		}
		for _, name := range sorted(c.Headers) {
			w.header("/components/headers/"+name, c.Headers[name])
		}
		for _, name := range sorted(c.RequestBodies) {
			w.body("/components/requestBodies/"+name, c.RequestBodies[name])
		}
		for _, name := range sorted(c.Responses) {
			w.response("/components/responses/"+name, c.Responses[name])
		}
	}
	for _, o := range d.Operations() {
		at := "/paths/" + escape(o.Path) + "/" + strings.ToLower(o.Method)
		for i, p := range append(slices.Clone(o.Item.Parameters), o.Parameters...) {
			w.parameter(at+"/parameters/"+itoa(i), p)
		}
		w.body(at+"/requestBody", o.RequestBody)
		for _, status := range sorted(o.Responses.Map()) {
			w.response(at+"/responses/"+status, o.Responses.Value(status))
		}
	}
}

func (w *walker) parameter(at string, p *openapi3.ParameterRef) {
	if p != nil && p.Value != nil {
		w.schema(at+"/schema", p.Value.Schema)
		w.content(at, p.Value.Content)
	}
}

func (w *walker) header(at string, h *openapi3.HeaderRef) {
	if h != nil && h.Value != nil {
		w.schema(at+"/schema", h.Value.Schema)
	}
}

func (w *walker) body(at string, b *openapi3.RequestBodyRef) {
	if b != nil && b.Value != nil {
		w.content(at, b.Value.Content)
	}
}

func (w *walker) response(at string, r *openapi3.ResponseRef) {
	if r == nil || r.Value == nil {
		return
	}
	for _, name := range sorted(r.Value.Headers) {
		w.header(at+"/headers/"+name, r.Value.Headers[name])
	}
	w.content(at, r.Value.Content)
}

func (w *walker) content(at string, c openapi3.Content) {
	for _, kind := range sorted(c) {
		w.schema(at+"/content/"+escape(kind)+"/schema", c[kind].Schema)
	}
}

func (w *walker) schema(at string, ref *openapi3.SchemaRef) {
	if ref == nil || ref.Value == nil || w.seen[ref.Value] {
		return
	}
	s := ref.Value
	w.seen[s] = true
	w.visit(at, s)
	for _, name := range sorted(s.Properties) {
		w.schema(at+"/properties/"+escape(name), s.Properties[name])
	}
	w.schema(at+"/items", s.Items)
	w.schema(at+"/additionalProperties", s.AdditionalProperties.Schema)
	w.schema(at+"/not", s.Not)
	for word, list := range map[string]openapi3.SchemaRefs{"oneOf": s.OneOf, "anyOf": s.AnyOf, "allOf": s.AllOf} {
		for i, one := range list {
			w.schema(at+"/"+word+"/"+itoa(i), one)
		}
	}
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// escape writes a name as a part of a JSON pointer (RFC 6901).
func escape(name string) string { return strings.NewReplacer("~", "~0", "/", "~1").Replace(name) }
