package openai

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/strictjson"
)

// object is one JSON object, of which members are taken one by one. What is left in the end is unknown, and ignored.
type object struct {
	path    string // "" for the body
	members map[string]json.RawMessage
}

// read opens an object. Members that are null are as good as absent.
func read(raw []byte, path string) (*object, error) {
	o := &object{path: path}
	if err := decode(raw, path, &o.members); err != nil {
		return nil, err
	}
	if o.members == nil {
		return nil, fault.Invalid(named(path), "Here stands null, where an object is needed.")
	}
	for name, value := range o.members {
		if string(value) == "null" {
			delete(o.members, name)
		}
	}
	return o, nil
}

func named(path string) string {
	if path == "" {
		return "body"
	}
	return path
}

// decode reads raw into v; an error names the field by its whole path.
func decode(raw []byte, path string, v any) error {
	return strictjson.Within(path, strictjson.Decode(raw, v))
}

func (o *object) name(member string) string {
	if o.path == "" {
		return member
	}
	return o.path + "." + member
}

// take returns a member's text and removes it.
func (o *object) take(member string) (json.RawMessage, bool) {
	raw, ok := o.members[member]
	delete(o.members, member)
	return raw, ok
}

// into reads a member into v, and reports whether it was there.
func (o *object) into(member string, v any) (bool, error) {
	raw, ok := o.take(member)
	if !ok {
		return false, nil
	}
	return true, decode(raw, o.name(member), v)
}

// only takes a member that may be absent or say what is the case anyway.
func (o *object) only(member string, harmless ...string) error {
	raw, ok := o.take(member)
	if !ok || slices.Contains(harmless, strings.Join(strings.Fields(string(raw)), "")) {
		return nil
	}
	return fault.Invalid(o.name(member), "%s can only be %s here; leave it out.", o.name(member), strings.Join(harmless, " or "))
}

// refuse says no to members that mean something which can't be honoured here.
func (o *object) refuse(members ...string) error {
	for _, m := range members {
		if _, given := o.members[m]; given {
			return fault.Invalid(o.name(m), "The field %s is not supported; leave it out.", o.name(m))
		}
	}
	return nil
}
