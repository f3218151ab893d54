package strictjson

import (
	"encoding/json"
	"reflect"
	"strings"
	"sync"
	"time"
)

// shape is how encoding/json reads a Go type, as far as names go. A nil shape takes anything as it is.
type shape struct {
	fields map[string]*shape // of a struct
	elem   *shape            // of what an array's or a map's values are
	isMap  bool
	time   bool // a time.Time, whose own errors don't say where it stands
}

// item is the shape of an array's values.
func (t *shape) item() *shape {
	if t == nil || t.fields != nil || t.isMap {
		return nil
	}
	return t.elem
}

// field is the shape of a member's value. twin is true for a name that encoding/json would take for a field's, though it
// differs from it by case.
func (t *shape) field(name []byte) (value *shape, twin bool) {
	if t == nil {
		return nil, false
	}
	if t.fields == nil {
		if t.isMap {
			return t.elem, false
		}
		return nil, false
	}
	if f, ok := t.fields[string(name)]; ok {
		return f, false
	}
	for known := range t.fields {
		if strings.EqualFold(known, string(name)) {
			return nil, true
		}
	}
	return nil, false
}

// wire returns a path as the text has it. encoding/json's paths also hold the Go names of embedded types (since Go 1.24)
// that a field was reached through.
func (t *shape) wire(path string) string {
	var kept []string
	for name := range strings.SplitSeq(path, ".") {
		for t != nil && t.fields == nil { // of a list or a map: its values' paths don't say which
			t = t.elem
		}
		if t != nil {
			inner, ok := t.fields[name]
			if !ok {
				continue
			}
			t = inner
		}
		kept = append(kept, name)
	}
	return strings.Join(kept, ".")
}

var (
	shapes      sync.Map // reflect.Type → *shape
	unmarshaler = reflect.TypeFor[json.Unmarshaler]()
)

func shapeOf(t reflect.Type) *shape {
	if s, ok := shapes.Load(t); ok {
		return s.(*shape)
	}
	s := build(t, map[reflect.Type]*shape{})
	shapes.Store(t, s)
	return s
}

// build makes the shape of t; begun holds those under way, for types that hold themselves.
func build(t reflect.Type, begun map[reflect.Type]*shape) *shape {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if s, ok := begun[t]; ok {
		return s
	}
	if t == reflect.TypeFor[time.Time]() {
		return &shape{time: true}
	}
	own := reflect.PointerTo(t).Implements(unmarshaler)
	switch {
	case t.Kind() == reflect.Struct && own && !tagged(t):
		// A wrapper that reads itself, such as tenancy.Field: it looks like what it holds. Others are left alone.
		if value, ok := t.FieldByName("Value"); ok {
			return build(value.Type, begun)
		}
		return nil
	case t.Kind() == reflect.Struct:
		s := &shape{fields: make(map[string]*shape)}
		begun[t] = s
		s.addFields(t, begun)
		return s
	case own:
		return nil
	case t.Kind() == reflect.Slice, t.Kind() == reflect.Array, t.Kind() == reflect.Map:
		s := &shape{isMap: t.Kind() == reflect.Map}
		begun[t] = s
		s.elem = build(t.Elem(), begun)
		return s
	}
	return nil
}

// tagged reports whether t's fields say how they are named in JSON.
func tagged(t reflect.Type) bool {
	for f := range t.Fields() {
		if _, ok := f.Tag.Lookup("json"); ok {
			return true
		}
	}
	return false
}

func (s *shape) addFields(t reflect.Type, begun map[reflect.Type]*shape) {
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Tag.Get("json") == "-" {
			continue
		}
		if f.Anonymous && name == "" {
			inner := f.Type
			if inner.Kind() == reflect.Pointer {
				inner = inner.Elem()
			}
			if inner.Kind() == reflect.Struct {
				s.addFields(inner, begun)
				continue
			}
		}
		if !f.IsExported() {
			continue
		}
		if name == "" {
			name = f.Name
		}
		s.fields[name] = build(f.Type, begun)
	}
}
