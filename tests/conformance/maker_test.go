package conformance_test

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/nexixai/agentos/tests/conformance"
)

// What the generator calls sound is taken by the schema, what it calls a fault is refused at the place it names: otherwise
// TestGenerated would ask a node for the wrong answer, or for none.
func TestMaker(t *testing.T) {
	docs := mustSmall(t, small(t))
	schema := docs[1].Components.Schemas["ThingRequest"].Value
	m := &conformance.Maker{Rand: rand.New(rand.NewPCG(1, 2))}
	for range 300 {
		v := m.Value(schema)
		for _, f := range conformance.CheckValue(schema, v) {
			t.Fatalf("%s of %v", f, v)
		}
	}
	sound := map[string]any{"thing": map[string]any{"name": "chair", "colour": "red"}}
	var found []string
	for _, f := range m.Faults(schema, sound) {
		found = append(found, f.What+" "+f.At())
		var v any
		if err := json.Unmarshal([]byte(f.Body), &v); err != nil {
			t.Fatalf("%s: %v", f.Body, err)
		}
		if f.What != "twice" && len(conformance.CheckValue(schema, v)) == 0 {
			t.Errorf("%s %s: the schema takes %s", f.What, f.At(), f.Body)
		}
	}
	for _, want := range []string{
		"missing thing", "missing thing.name", "missing thing.colour", "value thing", "value thing.name", "value thing.colour", "value thing.size",
		"value thing.labels", "value thing.parts", "twice thing", "twice thing.name", "twice thing.parts",
	} {
		if !slices.Contains(found, want) {
			t.Errorf("no fault %q among %q", want, found)
		}
	}
	if slices.Contains(found, "missing thing.size") {
		t.Error("a member that may be left out is missed")
	}
	extra, ok := m.Extra(schema, sound).(map[string]any)
	if inner, _ := extra["thing"].(map[string]any); !ok || extra["THING"] == nil || inner["zz_unknown"] == nil || inner["NAME"] == nil || inner["name"] != "chair" {
		t.Errorf("what nobody knows: %v", extra)
	}
}
