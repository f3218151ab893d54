package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/nexixai/agentos/internal/fault"
)

// maxDepth is how deeply a body may nest.
const maxDepth = 64

// decode reads one JSON value from a stranger's bytes into a value of ours. It is stricter than encoding/json: the text
// is UTF-8, nests at most maxDepth deep, holds no name twice in one object, and nothing follows it; a name matches a
// field by exact case alone. Unknown names are ignored. body is changed.
func decode(body []byte, into any) error {
	s := scanner{b: body}
	if !utf8.Valid(body) {
		return fault.Invalid("body", "The body is not UTF-8.")
	}
	if err := s.value(reflect.TypeOf(into), 0); err != nil {
		return err
	}
	if s.space(); s.i != len(s.b) {
		return fault.Invalid("body", "Something follows the JSON value at byte %d; send exactly one.", s.i)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return wrongType(err)
	}
	return nil
}

// wrongType turns what encoding/json says into the contract's error.
func wrongType(err error) error {
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return f
	}
	if t, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		field := t.Field
		if field == "" {
			field = "body"
		}
		return fault.Invalid(field, "%s must be %s, not %s.", field, kindName(t.Type), t.Value)
	}
	return fault.Invalid("body", "The body is not usable: %s.", strings.TrimPrefix(err.Error(), "json: "))
}

func kindName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.String:
		return "a string"
	case reflect.Slice, reflect.Array:
		return "a list"
	case reflect.Map, reflect.Struct:
		return "an object"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Pointer:
		return kindName(t.Elem())
	}
	return "a whole number"
}

// scanner walks a JSON text beside the type it's meant for.
type scanner struct {
	b []byte
	i int
}

func (s *scanner) broken(what string) error {
	return fault.Invalid("body", "The body is not JSON: %s at byte %d.", what, s.i)
}

func (s *scanner) space() {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\t', '\n', '\r':
			s.i++
		default:
			return
		}
	}
}

func (s *scanner) value(t reflect.Type, depth int) error {
	if depth > maxDepth {
		return fault.Invalid("body", "The body nests more than %d deep.", maxDepth)
	}
	s.space()
	if s.i == len(s.b) {
		return s.broken("it ends too early")
	}
	switch c := s.b[s.i]; {
	case c == '{':
		return s.object(t, depth)
	case c == '[':
		return s.array(t, depth)
	case c == '"':
		_, _, err := s.text()
		return err
	case c == '-' || '0' <= c && c <= '9':
		return s.number()
	}
	for _, word := range []string{"true", "false", "null"} {
		if bytes.HasPrefix(s.b[s.i:], []byte(word)) {
			s.i += len(word)
			return nil
		}
	}
	return s.broken("a value is missing or malformed")
}

func (s *scanner) object(t reflect.Type, depth int) error {
	fields := fieldsOf(t)
	elem := elemOf(t, reflect.Map)
	var seen names
	s.i++
	for first := true; ; first = false {
		s.space()
		if s.i < len(s.b) && s.b[s.i] == '}' && first {
			s.i++
			return nil
		}
		from, to, err := s.text()
		if err != nil {
			return err
		}
		name, err := unquote(s.b[from:to])
		if err != nil {
			return s.broken("a name is malformed")
		}
		if !seen.add(name) {
			return fault.Invalid(name, "The name %.64q stands twice in one object.", name)
		}
		inner := elem
		if fields != nil {
			var exact bool
			if inner, exact = fields.exact[name]; !exact && fields.folded[fold(name)] {
				for k := from; k < to; k++ { // encoding/json would take it for the field; now it takes it for nothing
					s.b[k] = '?'
				}
			}
		}
		if s.space(); s.i == len(s.b) || s.b[s.i] != ':' {
			return s.broken("a ':' is missing")
		}
		s.i++
		if err := s.value(inner, depth+1); err != nil {
			return err
		}
		if s.space(); s.i == len(s.b) {
			return s.broken("it ends too early")
		}
		switch s.b[s.i] {
		case ',':
			s.i++
		case '}':
			s.i++
			return nil
		default:
			return s.broken("a ',' or '}' is missing")
		}
	}
}

func (s *scanner) array(t reflect.Type, depth int) error {
	elem := elemOf(t, reflect.Slice)
	s.i++
	for first := true; ; first = false {
		s.space()
		if s.i < len(s.b) && s.b[s.i] == ']' && first {
			s.i++
			return nil
		}
		if err := s.value(elem, depth+1); err != nil {
			return err
		}
		if s.space(); s.i == len(s.b) {
			return s.broken("it ends too early")
		}
		switch s.b[s.i] {
		case ',':
			s.i++
		case ']':
			s.i++
			return nil
		default:
			return s.broken("a ',' or ']' is missing")
		}
	}
}

// text passes a string and returns where its content lies.
func (s *scanner) text() (from, to int, err error) {
	if s.i == len(s.b) || s.b[s.i] != '"' {
		return 0, 0, s.broken("a string is missing")
	}
	s.i++
	from = s.i
	for s.i < len(s.b) {
		switch c := s.b[s.i]; {
		case c == '"':
			s.i++
			return from, s.i - 1, nil
		case c == '\\':
			s.i += 2
		case c < 0x20:
			return 0, 0, s.broken("a control character stands in a string")
		default:
			s.i++
		}
	}
	s.i = len(s.b)
	return 0, 0, s.broken("a string does not end")
}

// number passes what may be a number; encoding/json judges its form.
func (s *scanner) number() error {
	for s.i < len(s.b) {
		switch c := s.b[s.i]; {
		case '0' <= c && c <= '9', c == '-', c == '+', c == '.', c == 'e', c == 'E':
			s.i++
		default:
			return nil
		}
	}
	return nil
}

func unquote(b []byte) (string, error) {
	if bytes.IndexByte(b, '\\') < 0 {
		return string(b), nil
	}
	var out string
	quoted := make([]byte, 0, len(b)+2)
	quoted = append(append(append(quoted, '"'), b...), '"')
	err := json.Unmarshal(quoted, &out)
	return out, err
}

// names is a small set: most objects have few names.
type names struct {
	list []string
	set  map[string]bool
}

func (n *names) add(name string) bool {
	if n.set != nil {
		if n.set[name] {
			return false
		}
		n.set[name] = true
		return true
	}
	for _, have := range n.list {
		if have == name {
			return false
		}
	}
	if n.list = append(n.list, name); len(n.list) > 16 {
		n.set = make(map[string]bool, 64)
		for _, have := range n.list {
			n.set[have] = true
		}
	}
	return true
}

// fields are the names by which encoding/json fills a struct.
type fields struct {
	exact  map[string]reflect.Type
	folded map[string]bool
}

var fieldCache sync.Map // reflect.Type → *fields; types are few and never change

var unmarshaler = reflect.TypeFor[json.Unmarshaler]()

func fieldsOf(t reflect.Type) *fields {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == nil || t.Kind() != reflect.Struct {
		return nil
	}
	if f, ok := fieldCache.Load(t); ok {
		return f.(*fields)
	}
	if reflect.PointerTo(t).Implements(unmarshaler) && !tagged(t) {
		if v, ok := t.FieldByName("Value"); ok { // a field that knows whether it was sent
			return fieldsOf(v.Type)
		}
		return nil
	}
	f := &fields{exact: make(map[string]reflect.Type), folded: make(map[string]bool)}
	for _, sf := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(sf.Tag.Get("json"), ",")
		if !sf.IsExported() || name == "-" || sf.Anonymous && name == "" {
			continue
		}
		if name == "" {
			name = sf.Name
		}
		f.exact[name] = sf.Type
		f.folded[fold(name)] = true
	}
	fieldCache.Store(t, f)
	return f
}

// tagged reports whether a type that decodes itself still does it by the names of its fields.
func tagged(t reflect.Type) bool {
	for i := range t.NumField() {
		if t.Field(i).Tag.Get("json") != "" {
			return true
		}
	}
	return false
}

func elemOf(t reflect.Type, kind reflect.Kind) reflect.Type {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == nil || t.Kind() != kind || reflect.PointerTo(t).Implements(unmarshaler) {
		return nil
	}
	return t.Elem()
}

// fold maps names that encoding/json takes for equal to one form.
func fold(s string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
			least = min(least, next)
		}
		return least
	}, s)
}
