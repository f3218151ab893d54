package conformance

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
)

func itoa(n int) string { return strconv.Itoa(n) }

// lint collects where the documents leave the conventions of docs/api/README.md.
type lint struct {
	tree   Tree
	docs   []*Document
	scopes []any
	byID   map[string]*Operation
	found  []string
}

// Lint returns what is wrong with the documents, one place a line.
func Lint(t Tree, docs []*Document) []string {
	l := &lint{tree: t, docs: docs, byID: map[string]*Operation{}}
	for _, d := range docs {
		if err := d.Valid(); err != nil {
			l.add("%s: %v", d.File, err)
		}
		if d.OpenAPI != "3.0.3" {
			l.add("%s: openapi is %s, not 3.0.3", d.File, d.OpenAPI)
		}
		if d.Name == Common {
			l.scopes = d.Components.Schemas["Scope"].Value.Enum
		}
	}
	for _, o := range All(docs) {
		if other := l.byID[o.OperationID]; other != nil {
			l.add("%s: the operationId is that of %s too", o.Place(), other.Place())
		}
		l.byID[o.OperationID] = o
	}
	for _, d := range docs {
		for _, o := range d.Operations() {
			l.operation(o)
		}
		l.schemas(d)
	}
	return l.found
}

func (l *lint) add(format string, args ...any) {
	l.found = append(l.found, fmt.Sprintf(format, args...))
}

var operationID = regexp.MustCompile(`^[a-z][a-z0-9]*([A-Z][a-z0-9]*)*$`)

func (l *lint) operation(o *Operation) {
	at := o.Place()
	if !operationID.MatchString(o.OperationID) {
		l.add("%s: the operationId is not lower camel case", at)
	}
	if o.Summary == "" {
		l.add("%s: no summary", at)
	}
	if len(o.Tags) != 1 {
		l.add("%s: %d tags, not one", at, len(o.Tags))
	} else if o.Doc.Tags.Get(o.Tags[0]) == nil {
		l.add("%s: the tag %q is not among the document's tags", at, o.Tags[0])
	}
	l.rights(o)
	l.marks(o)
	l.errors(o)
	for status, ref := range o.Responses.Map() {
		l.headers(o, status, ref.Value)
	}
}

// rights checks who may call.
func (l *lint) rights(o *Operation) {
	names, said := o.Schemes()
	if !said {
		l.add("%s: no security ([] for none)", o.Place())
	}
	for _, name := range names {
		if o.Doc.Components == nil || o.Doc.Components.SecuritySchemes[name] == nil {
			l.add("%s: the security scheme %q is not among the document's components", o.Place(), name)
		}
	}
	scope, has := o.Extensions["x-agentos-scope"]
	switch {
	case has && !slices.Contains(l.scopes, scope):
		l.add("%s: x-agentos-scope %v is no scope of common.yaml", o.Place(), scope)
	case o.Secured() && !has:
		l.add("%s: no x-agentos-scope", o.Place())
	case said && len(names) == 0 && has:
		l.add("%s: x-agentos-scope on an operation that asks for no credential", o.Place())
	}
}

// marks checks the extensions that have few values.
func (l *lint) marks(o *Operation) {
	if v, has := o.Extensions["x-agentos-status"]; has && v != "planned" {
		l.add("%s: x-agentos-status is %v; the only value is planned", o.Place(), v)
	}
	if v, has := o.Extensions["x-agentos-door"]; has && v != "federation" && v != "cluster" {
		l.add("%s: x-agentos-door is %v, not federation or cluster", o.Place(), v)
	}
	if v, has := o.Extensions["x-agentos-alias-of"]; has {
		id, _ := v.(string)
		switch of := l.byID[id]; {
		case of == nil:
			l.add("%s: x-agentos-alias-of names %v, which is no operation", o.Place(), v)
		case of.Ext("x-agentos-alias-of") != "":
			l.add("%s: x-agentos-alias-of names %v, which is an alias itself", o.Place(), v)
		case of.Method != o.Method:
			l.add("%s: x-agentos-alias-of names %v, which is a %s", o.Place(), v, of.Method)
		}
	}
	for name := range o.Extensions {
		switch name {
		case "x-agentos-scope", "x-agentos-status", "x-agentos-door", "x-agentos-alias-of":
		default:
			l.add("%s: %s is no extension of ours on an operation", o.Place(), name)
		}
	}
}

// wanted are the error answers that an operation can't be without.
func (o *Operation) wanted() []string {
	want := []string{"500"}
	if o.Secured() {
		want = append(want, "400", "401", "403", "429", "503")
	}
	if o.Body() != nil {
		want = append(want, "400", "413", "415")
	}
	return want
}

func (l *lint) errors(o *Operation) {
	for _, status := range o.wanted() {
		if o.Responses.Value(status) == nil {
			l.add("%s: no answer %s", o.Place(), status)
		}
	}
	ok := false
	for status, ref := range o.Responses.Map() {
		if status[0] == '2' {
			ok = true
			continue
		}
		if ref.Value == nil || status[0] == '3' || o.Method == "GET" && (status == "503" && strings.HasSuffix(o.Path, "readyz")) {
			continue
		}
		if s := jsonSchema(ref.Value.Content); s == nil || s.Properties["error"] == nil {
			l.add("%s: the answer %s is no error object (refer to common.yaml)", o.Place(), status)
		}
	}
	if !ok {
		l.add("%s: no success", o.Place())
	}
}

// headers checks the headers that every answer carries.
func (l *lint) headers(o *Operation, status string, r *openapi3.Response) {
	want := []string{"X-Request-Id", "X-Correlation-Id", "X-AgentOS-Index"}
	if o.Secured() {
		want = append(want, "X-Tenant-Id")
	}
	for _, name := range want {
		if r.Headers[name] == nil {
			l.add("%s: the answer %s names no header %s", o.Place(), status, name)
		}
	}
	for kind, m := range r.Content {
		if kind != "text/event-stream" {
			continue
		}
		if m.Schema == nil || m.Schema.Value == nil || !m.Schema.Value.Type.Is("string") {
			l.add("%s: the stream of %s has no string schema", o.Place(), status)
		}
		if o.Doc.event(m) == nil {
			l.add("%s: the stream of %s names no schema of its events (x-agentos-event)", o.Place(), status)
		}
	}
}

// event returns the schema of what a stream's data: lines hold.
func (d *Document) event(m *openapi3.MediaType) *openapi3.Schema {
	name := marked(m.Extensions, "x-agentos-event")
	if name == "" && m.Schema != nil && m.Schema.Value != nil {
		name = marked(m.Schema.Value.Extensions, "x-agentos-event")
	}
	if name == "" && m.Schema != nil {
		name = marked(m.Schema.Extensions, "x-agentos-event")
	}
	return d.named(name)
}

// named returns a schema of the document's own components.
func (d *Document) named(name string) *openapi3.Schema {
	if d.Components == nil {
		return nil
	}
	if ref := d.Components.Schemas[name]; ref != nil {
		return ref.Value
	}
	return nil
}

// schemas checks how schemas are written.
func (l *lint) schemas(d *Document) {
	d.schemas(func(at string, s *openapi3.Schema) {
		at = d.File + ": " + at
		if len(s.AllOf) > 0 {
			l.add("%s: allOf; write the object out", at)
		}
		if s.Type == nil && len(s.Properties) > 0 {
			l.add("%s: properties without type: object", at)
		}
		if s.Type.Is("object") && len(s.Properties) == 0 && s.AdditionalProperties.Has == nil && s.AdditionalProperties.Schema == nil && len(s.OneOf)+len(s.AnyOf) == 0 {
			l.add("%s: an object that names no properties says additionalProperties", at)
		}
		if len(s.Properties) > 0 && len(s.OneOf)+len(s.AnyOf) > 0 {
			l.add("%s: properties beside oneOf or anyOf can't be read strictly; write the objects out", at)
		}
		for _, name := range s.Required {
			if s.Properties[name] == nil {
				l.add("%s: required names %q, which is no property", at, name)
			}
		}
		if s.Type.Is("array") && s.Items == nil {
			l.add("%s: an array without items", at)
		}
		if s.Example != nil {
			for _, f := range CheckValue(s, s.Example) {
				l.add("%s/example: %s", at, f)
			}
		}
		for _, file := range bound(s) {
			if _, err := l.tree.Read(path.Join(path.Dir(d.File), file)); err != nil {
				l.add("%s: x-agentos-example: %v", at, err)
			}
		}
	})
}

// bound returns the example files that a schema names.
func bound(s *openapi3.Schema) []string {
	switch v := s.Extensions["x-agentos-example"].(type) {
	case string:
		return []string{v}
	case []any:
		var out []string
		for _, one := range v {
			if f, ok := one.(string); ok {
				out = append(out, f)
			}
		}
		return out
	}
	return nil
}

// Planned lists the operations that are not served yet, as "operationId METHOD path".
func Planned(docs []*Document) []string {
	var out []string
	for _, o := range All(docs) {
		if o.Planned() {
			out = append(out, o.OperationID+" "+o.Method+" "+o.Path)
		}
	}
	slices.Sort(out)
	return out
}
