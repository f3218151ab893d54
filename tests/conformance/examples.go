package conformance

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"unicode"

	"github.com/getkin/kin-openapi/openapi3"
)

// Check returns what is wrong with a JSON text by a schema, one line a fault that begins with its JSON pointer.
func Check(s *openapi3.Schema, raw []byte) []string {
	v, err := decode(raw)
	if err != nil {
		return []string{err.Error()}
	}
	return CheckValue(s, v)
}

// CheckValue is Check of a decoded value.
func CheckValue(s *openapi3.Schema, v any) []string {
	return faults(s.VisitJSON(v, openapi3.MultiErrors(), openapi3.EnableFormatValidation(), openapi3.DisableSchemaErrorDetails()), "")
}

// faults flattens what the library found.
func faults(err error, at string) (out []string) {
	if err == nil {
		return nil
	}
	var many openapi3.MultiError
	var one *openapi3.SchemaError
	switch {
	case errors.As(err, &one) && !isMulti(err):
		at += pointer(one.JSONPointer())
		if inner := new(openapi3.MultiError); one.Origin != nil && errors.As(one.Origin, inner) {
			return append([]string{fmt.Sprintf("%s: %s", or(at, "/"), one.Reason)}, faults(*inner, at)...)
		}
		reason := one.Reason
		if one.Origin != nil {
			reason = strings.TrimSpace(reason + " " + one.Origin.Error())
		}
		return []string{fmt.Sprintf("%s: %s", or(at, "/"), or(reason, one.SchemaField))}
	case errors.As(err, &many):
		for _, e := range many {
			out = append(out, faults(e, at)...)
		}
		return out
	}
	return []string{or(at, "/") + ": " + err.Error()}
}

func isMulti(err error) bool {
	_, ok := err.(openapi3.MultiError) //nolint:errorlint // asks what it is itself, not what it wraps
	return ok
}

func pointer(parts []string) string {
	var b strings.Builder
	for _, p := range parts {
		b.WriteString("/" + escape(p))
	}
	return b.String()
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// decode reads one JSON value and refuses what follows it.
func decode(raw []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("no JSON: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one JSON value")
	}
	return v, nil
}

// Kebab is an operationId as file names have it.
func Kebab(id string) string {
	var b strings.Builder
	for _, r := range id {
		if unicode.IsUpper(r) {
			b.WriteByte('-')
			r = unicode.ToLower(r)
		}
		b.WriteRune(r)
	}
	return b.String()
}

// example is a file that a document must hold or may hold, and the schemas of which one must take it.
type example struct {
	by      string // the place that asks for it
	schemas []*openapi3.Schema
	media   []*openapi3.MediaType // that must refer to it
	sse     bool
}

// Examples returns what is wrong with the examples of the documents: one without an owner, one that is missing, one that
// does not validate, one that its document does not refer to. The documents have to be Strict.
func Examples(t Tree, docs []*Document) (found []string) {
	for _, d := range docs {
		if d.Name == Common {
			continue
		}
		dir := path.Join(path.Dir(d.File), "examples")
		want := d.examples()
		files, err := t.List(dir)
		if err != nil {
			return []string{err.Error()}
		}
		for _, file := range files {
			e := want[strings.TrimPrefix(file, dir+"/")]
			if e == nil {
				found = append(found, fmt.Sprintf("%s: no operation and no schema of %s has this example", file, d.File))
				continue
			}
			raw, err := t.Read(file)
			if err != nil {
				return append(found, err.Error())
			}
			for _, f := range e.check(raw) {
				found = append(found, fmt.Sprintf("%s: %s (%s)", file, f, e.by))
			}
		}
		for _, name := range sorted(want) {
			file, e := path.Join(dir, name), want[name]
			if !slices.Contains(files, file) {
				found = append(found, fmt.Sprintf("%s is missing: the example of %s", file, e.by))
			}
			if len(e.media) > 0 && !slices.ContainsFunc(e.media, func(m *openapi3.MediaType) bool { return refers(m, "examples/"+name) }) {
				found = append(found, fmt.Sprintf("%s: nothing refers to examples/%s with externalValue", e.by, name))
			}
		}
	}
	return found
}

func refers(m *openapi3.MediaType, file string) bool {
	for _, e := range m.Examples {
		if e.Value != nil && strings.TrimPrefix(e.Value.ExternalValue, "./") == file {
			return true
		}
	}
	return false
}

// examples returns the files that the document's conventions name.
func (d *Document) examples() map[string]*example {
	want := map[string]*example{}
	for _, o := range d.Operations() {
		if o.Ext("x-agentos-alias-of") != "" {
			continue
		}
		if o.Body() != nil {
			want[Kebab(o.OperationID)+".request.json"] = &example{by: o.Place(), schemas: []*openapi3.Schema{o.Body()}, media: []*openapi3.MediaType{o.RequestBody.Value.Content["application/json"]}}
		}
		for _, status := range sorted(o.Responses.Map()) {
			r := o.Responses.Value(status).Value
			if status[0] != '2' || r == nil {
				continue
			}
			for kind, m := range r.Content {
				switch {
				case kind == "application/json" && m.Schema != nil:
					put(want, Kebab(o.OperationID)+".response.json", o, m, m.Schema.Value, false)
				case kind == "text/event-stream":
					put(want, Kebab(o.OperationID)+".response.sse", o, m, d.event(m), true)
				}
			}
		}
	}
	d.schemas(func(at string, s *openapi3.Schema) {
		for _, file := range bound(s) {
			want[strings.TrimPrefix(file, "examples/")] = &example{by: d.File + ": " + at, schemas: []*openapi3.Schema{s}}
		}
	})
	return want
}

func put(want map[string]*example, name string, o *Operation, m *openapi3.MediaType, s *openapi3.Schema, sse bool) {
	e := want[name]
	if e == nil {
		e = &example{by: o.Place(), sse: sse}
		want[name] = e
	}
	e.media, e.schemas = append(e.media, m), append(e.schemas, s)
}

// check returns what is wrong with the example by the schema that it fits best.
func (e *example) check(raw []byte) (best []string) {
	for i, s := range e.schemas {
		if s == nil {
			return []string{"its operation names no schema for it"}
		}
		found := Check
		if e.sse {
			found = CheckStream
		}
		f := found(s, raw)
		if len(f) == 0 {
			return nil
		}
		if i == 0 || len(f) < len(best) {
			best = f
		}
	}
	return best
}

// CheckStream returns what is wrong with a stream of server-sent events whose data: lines are JSON by this schema.
func CheckStream(s *openapi3.Schema, raw []byte) (found []string) {
	n := 0
	for i, line := range strings.Split(string(raw), "\n") {
		line = strings.TrimSuffix(line, "\r")
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "", "id", "event", "retry": // a comment or the end of a frame has no name
		case "data":
			n++
			if value == "[DONE]" { // the end of a stream in OpenAI's format
				continue
			}
			for _, f := range Check(s, []byte(value)) {
				found = append(found, fmt.Sprintf("line %d: %s", i+1, f))
			}
		default:
			found = append(found, fmt.Sprintf("line %d: no field of a stream: %.60s", i+1, line))
		}
	}
	if n == 0 {
		found = append(found, "no data: line")
	}
	if !strings.HasSuffix(string(raw), "\n\n") {
		found = append(found, "the last frame does not end with an empty line")
	}
	return found
}
