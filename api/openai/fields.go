package openai

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/strictjson"
)

// object is one JSON object, of which members are taken one by one; what is left in the end was not understood.
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
	if len(harmless) == 0 {
		return o.unsupported(member)
	}
	return fault.Invalid(o.name(member), "%s can only be %s here; leave it out.", o.name(member), strings.Join(harmless, " or "))
}

func (o *object) unsupported(member string) error {
	return fault.Invalid(o.name(member), "The field %s is not supported; leave it out.", o.name(member))
}

// done refuses what nobody took.
func (o *object) done() error {
	left := make([]string, 0, len(o.members))
	for name := range o.members {
		left = append(left, name)
	}
	if len(left) == 0 {
		return nil
	}
	slices.Sort(left)
	return o.unsupported(left[0])
}

// forget removes members that the door itself reads, or that concern nobody here.
func (o *object) forget(members ...string) {
	for _, m := range members {
		delete(o.members, m)
	}
}
