package conformance_test

import (
	"flag"
	"path/filepath"
	"testing"

	"github.com/nexixai/agentos/tests/conformance"
)

// update writes what the tests of this package compare with: go test ./tests/conformance -run NAME -update.
var update = flag.Bool("update", false, "write docs/traceability.md and docs/api/released anew")

// TestReleased_OnlyGrows compares the documents with every contract that was released. With -update the folder of the
// current version is brought up to date first, unless something that stands there would break.
//
// Requirements: V4, Q1.
func TestReleased_OnlyGrows(t *testing.T) {
	tree := mustTree(t)
	if *update {
		dir, err := conformance.Release(tree)
		if err != nil {
			t.Fatal(err)
		}
		t.Log("released to", dir)
	}
	dirs, err := conformance.Releases(tree)
	if err != nil {
		t.Fatal(err)
	}
	if len(dirs) == 0 {
		t.Fatal("no contract has been released; go test ./tests/conformance -run Released -update")
	}
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) { report(t, conformance.Breaks(tree, dir)) })
	}
}

// TestBreaks_NameThePlace breaks the sound contract in every way that /v1 must not change, and sees each named; what may
// change is let through.
func TestBreaks_NameThePlace(t *testing.T) {
	tree := released(t)
	const (
		get    = "thingsGet (GET /v1/things/{thing_id})"
		put    = "thingsPut (PUT /v1/things/{thing_id})"
		events = "thingsEvents (GET /v1/things/{thing_id}/events)"
		named  = `name: {type: string, minLength: 1, maxLength: 10}`
	)
	check := func(_ testing.TB, tree conformance.Tree) []string {
		return conformance.Breaks(tree, "docs/api/released/v1.02")
	}
	seen(t, tree, check, []broken{
		{"path", smallDoc, "/v1/things/{thing_id}/events:", "/v1/things/{thing_id}/stream:", []string{smallDoc, events}},
		{"method", smallDoc, "    put:", "    post:", []string{put}},
		{"planned again", smallDoc, "x-agentos-scope: agents:write", "x-agentos-scope: agents:write\n      x-agentos-status: planned", []string{put}},
		{"operationId", smallDoc, "operationId: thingsGet", "operationId: thingsRead", []string{"GET /v1/things/{thing_id}", "thingsGet"}},
		{"scope", smallDoc, "x-agentos-scope: agents:read", "x-agentos-scope: platform:admin", []string{get, "platform:admin"}},
		{"member of an answer", smallDoc, "            size: {type: integer, nullable: true}\n", "", []string{get, "thing/size"}},
		{"always there", smallDoc, "required: [thing, tenant_id, correlation_id]", "required: [thing, correlation_id]", []string{get, "tenant_id"}},
		{"may be null", smallDoc, "made_at: {$ref: \"../common.yaml#/components/schemas/Time\"}", "made_at: {type: string, format: date-time, nullable: true}", []string{get, "thing/made_at"}},
		{"type in an answer", smallDoc, "size: {type: integer, nullable: true}", "size: {type: string, nullable: true}", []string{get, "thing/size"}},
		{"new required member", smallDoc, "required: [name, colour]", "required: [name, colour, size]", []string{put, "thing/size"}},
		{"type in a request", smallDoc, "size: {type: integer, minimum: 1", "size: {type: boolean, minimum: 1", []string{put, "thing/size"}},
		{"enum value of a request", smallDoc, "enum: [red, green]", "enum: [red]", []string{put, "thing/colour", "green"}},
		{"bound", smallDoc, named, `name: {type: string, minLength: 1, maxLength: 9}`, []string{put, "thing/name"}},
		{"new bound", smallDoc, "labels: {type: object, ", "labels: {type: object, maxProperties: 2, ", []string{put, "thing/labels"}},
		{"new pattern", smallDoc, named, `name: {type: string, minLength: 1, maxLength: 10, pattern: "^a"}`, []string{put, "thing/name"}},
		{"member of a request", smallDoc, "            size: {type: integer, minimum: 1, maximum: 9}\n", "", []string{put, "thing/size"}},
		{"parameter", smallDoc, "        - $ref: \"../common.yaml#/components/parameters/Consistency\"\n", "        []\n", []string{get, "consistency"}},
		{"header", smallDoc, `            X-Tenant-Id: {$ref: "../common.yaml#/components/headers/TenantId"}` + "\n", "", []string{get, "X-Tenant-Id"}},
		{"event", smallDoc, "event: {type: string, enum: [made, broken]}", "events: {type: string}", []string{events, "event"}},
		{"shared", "docs/api/common.yaml", "        message: {type: string, description: \"What happened, and what to do next.\"}\n", "", []string{get, "error/message"}},
	})
	for name, c := range map[string]broken{
		"new optional member":     {old: "size: {type: integer, minimum: 1", text: "weight: {type: number}\n            size: {type: integer, minimum: 1"},
		"new member of an answer": {old: "size: {type: integer, nullable", text: "weight: {type: number}\n            size: {type: integer, nullable"},
		"new enum value":          {old: "enum: [red, green]", text: "enum: [red, green, blue]"},
		"wider bound":             {old: "maxLength: 10", text: "maxLength: 11"},
		"new event":               {old: "enum: [made, broken]", text: "enum: [made, broken, mended]"},
		"words":                   {old: "summary: Read a thing", text: "summary: Look at a thing"},
	} {
		changed, err := tree.With(smallDoc, c.old, c.text)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range check(t, changed) {
			t.Errorf("%s is refused: %s", name, f)
		}
	}
}

// released is the sound contract, all of it served, and released as it is.
func released(tb testing.TB) conformance.Tree {
	tb.Helper()
	tree, err := small(tb).With(smallDoc, "      x-agentos-status: planned\n", "")
	if err != nil {
		tb.Fatal(err)
	}
	for _, name := range []string{"stack-b", "federation"} {
		tree = tree.Put("docs/api/"+name+"/openapi.yaml", "openapi: 3.0.3\ninfo: {title: Nothing, version: \"1.02\"}\npaths: {}\n")
	}
	for _, name := range []string{"common.yaml", "stack-a/openapi.yaml", "stack-b/openapi.yaml", "federation/openapi.yaml"} {
		raw, err := tree.Read("docs/api/" + name)
		if err != nil {
			tb.Fatal(err)
		}
		tree = tree.Put("docs/api/released/v1.02/"+name, string(raw))
	}
	return tree
}
