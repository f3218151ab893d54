// Package strictjson reads JSON from strangers: UTF-8 only, one value and nothing after it, no name twice in one object,
// bounded in depth and in members, and names that match by exact case (encoding/json alone would take "INPUT" for "input").
// A value of the wrong type is refused with the path of its field.
//
// Room: plumbing. It imports internal/fault. Doors call Decode with a body that they have bounded in size; what it returns
// is fault.InvalidRequest with details.field, ready for whoever sent the body.
//
// The text is looked at once before anything is decoded, so that a body of a hundred thousand brackets costs no more than
// the first sixty-five of them. The scan walks the target's Go type beside the text: where the text holds a name that
// differs from a field's only by case, that name is hidden from encoding/json; in maps and in raw JSON, where names are
// data, nothing is touched.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strconv"
	"strings"

	"github.com/nexixai/agentos/internal/fault"
)

// Bounds of one text.
const (
	// MaxDepth is how deep objects and arrays may lie in each other.
	MaxDepth = 64
	// MaxMembers is how many members all objects of a text may have together, and items the lists of it that are decoded.
	// Raw JSON's lists don't count: they stay as long as their text.
	MaxMembers = 1 << 18
)

// Decode reads b into v, which must be a pointer, as encoding/json would. Names that v doesn't know are ignored.
func Decode(b []byte, v any) error { return Visit(b, v, nil) }

// Visit is Decode, and calls visit with each member of the outermost object, before v is set. raw is the member's text; it
// belongs to b, as name does. v may be nil: then the text is only checked.
func Visit(b []byte, v any, visit func(name, raw []byte)) error {
	var target *shape
	if v != nil {
		target = shapeOf(reflect.TypeOf(v).Elem())
	}
	s := scanners.Get().(*scanner)
	defer s.release()
	s.b, s.visit = b, visit
	if err := s.scan(target); err != nil {
		return err
	}
	if v == nil {
		return nil
	}
	if len(s.twins) > 0 {
		b = hide(b, s.twins)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return refusal(err, target)
	}
	return nil
}

// Within returns an error of Decode as it looks from outside, where the text that was decoded is the member at path of a
// larger one. An empty path leaves the error as it is.
func Within(path string, err error) error {
	if err == nil || path == "" {
		return err
	}
	e := fault.Of(err)
	switch field, _ := e.Details["field"].(string); field {
	case "", whole:
	default:
		path += "." + field
	}
	return fault.Invalid(path, "%s", e.Message).Because(err)
}

// Valid reports whether b is a text that Decode would take for any value.
func Valid(b []byte) bool { return Visit(b, nil, nil) == nil }

// hide returns b with the names at spans made unlike any field's.
func hide(b []byte, spans []span) []byte {
	b = bytes.Clone(b)
	for _, s := range spans {
		for i := s.from; i < s.to; i++ {
			b[i] = '~'
		}
	}
	return b
}

// refusal turns an error of encoding/json into one for who sent the text.
func refusal(err error, target *shape) error {
	if e, ok := errors.AsType[*fault.Error](err); ok {
		return e
	}
	e, ok := errors.AsType[*json.UnmarshalTypeError](err)
	if !ok {
		return fault.Invalid(whole, "The body can't be read; compare it with the documentation.").Because(err)
	}
	field := target.wire(e.Field)
	if field == "" {
		field = whole
	}
	got, detail, _ := strings.Cut(e.Value, " ")
	if detail != "" && len(detail) < 32 {
		got = detail
	}
	if got == "bool" {
		got = "a boolean"
	}
	return fault.Invalid(field, "Here stands %s, where %s is needed.", article(got), wanted(e.Type))
}

func article(got string) string {
	switch got {
	case "string", "number":
		return "a " + got
	case "object", "array":
		return "an " + got
	}
	return got
}

func wanted(t reflect.Type) string {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return "a whole number within " + strconv.Itoa(t.Bits()) + " bits"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number, 0 or more, within " + strconv.Itoa(t.Bits()) + " bits"
	case reflect.Float32, reflect.Float64:
		return "a number that can be counted with"
	case reflect.Slice, reflect.Array:
		return "an array"
	case reflect.Map:
		return "an object"
	case reflect.Struct:
		if t.PkgPath() == "time" {
			return "a time such as 2006-01-02T15:04:05Z"
		}
		return "an object"
	}
	return "something else"
}

// whole is the field named when the text as a whole is at fault.
const whole = "body"
