package conformance_test

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nexixai/agentos/tests/conformance"
)

const (
	smallDoc      = "docs/api/stack-a/openapi.yaml"
	smallExamples = "docs/api/stack-a/examples/"
)

// small is the sound contract under testdata, as its parts and what the checks find in it.
func small(tb testing.TB) conformance.Tree {
	tb.Helper()
	root, err := filepath.Abs(filepath.Join("testdata", "sound"))
	if err != nil {
		tb.Fatal(err)
	}
	return conformance.Tree{Root: root}
}

func mustSmall(tb testing.TB, t conformance.Tree) []*conformance.Document {
	tb.Helper()
	var docs []*conformance.Document
	for _, name := range []string{conformance.Common, "stack-a"} {
		d, err := conformance.Load(t, name)
		if err != nil {
			tb.Fatal(err)
		}
		docs = append(docs, d)
	}
	return docs
}

// broken is one change to a file, and the words that the check has to say of it in one line.
type broken struct {
	name, file, old, text string
	want                  []string
}

// seen runs check over each broken tree: nothing is found before the change, and after it the place is named.
func seen(t *testing.T, tree conformance.Tree, check func(testing.TB, conformance.Tree) []string, cases []broken) {
	t.Helper()
	for _, f := range check(t, tree) {
		t.Errorf("found where nothing is broken: %s", f)
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			changed, err := tree.With(c.file, c.old, c.text)
			if err != nil {
				t.Fatal(err)
			}
			named(t, check(t, changed), c.want...)
		})
	}
}

// named fails the test unless one line of found holds all the words.
func named(tb testing.TB, found []string, words ...string) {
	tb.Helper()
	for _, f := range found {
		all := true
		for _, w := range words {
			all = all && strings.Contains(f, w)
		}
		if all {
			return
		}
	}
	tb.Errorf("nothing found names %q; found %q", words, found)
}

func TestLint_NamesThePlace(t *testing.T) {
	lint := func(tb testing.TB, tree conformance.Tree) []string {
		return conformance.Lint(tree, mustSmall(tb, tree))
	}
	at := smallDoc + ": thingsGet (GET /v1/things/{thing_id})"
	seen(t, small(t), lint, []broken{
		{"version", smallDoc, "openapi: 3.0.3", "openapi: 3.0.1", []string{smallDoc, "3.0.1"}},
		{"operationId", smallDoc, "operationId: thingsGet", "operationId: Things_Get", []string{"Things_Get (GET /v1/things/{thing_id})", "camel case"}},
		{"operationId twice", smallDoc, "operationId: thingsPut", "operationId: thingsGet", []string{"thingsGet", "operationId"}},
		{"summary", smallDoc, "summary: Read a thing", `summary: ""`, []string{at, "summary"}},
		{"tag", smallDoc, "tags: [things]", "tags: [stuff]", []string{at, "stuff"}},
		{"two tags", smallDoc, "tags: [things]", "tags: [things, health]", []string{at, "2 tags"}},
		{"no security", smallDoc, "security: [{bearer: []}]", "description: x", []string{at, "no security"}},
		{"no scope", smallDoc, "x-agentos-scope: agents:read", "description: x", []string{at, "no x-agentos-scope"}},
		{"unknown scope", smallDoc, "x-agentos-scope: agents:read", "x-agentos-scope: agents:see", []string{at, "agents:see"}},
		{"unknown mark", smallDoc, "x-agentos-status: planned", "x-agentos-status: soon", []string{"thingsEvents", "soon"}},
		{"unknown extension", smallDoc, "x-agentos-scope: agents:read", "x-agentos-scope: agents:read\n      x-agentos-mood: good", []string{at, "x-agentos-mood"}},
		{"alias of nothing", smallDoc, "x-agentos-scope: agents:read", "x-agentos-scope: agents:read\n      x-agentos-alias-of: thingsSee", []string{at, "thingsSee"}},
		{"door", smallDoc, "x-agentos-scope: agents:read", "x-agentos-scope: agents:read\n      x-agentos-door: back", []string{at, "back"}},
		{"an error answer", smallDoc, `"403": {$ref: "../common.yaml#/components/responses/Forbidden"}`, "x-none: true", []string{at, "no answer 403"}},
		{"a header", smallDoc, `X-AgentOS-Index: {$ref`, `X-Other: {$ref`, []string{at, "200", "X-AgentOS-Index"}},
		{"allOf", smallDoc, "Colour: {type: string, enum: [red, green]}", "Colour: {allOf: [{type: string, enum: [red, green]}]}", []string{smallDoc, "/components/schemas/Colour", "allOf"}},
		{"required", smallDoc, "required: [name, colour]", "required: [name, color]", []string{smallDoc, "/components/schemas/ThingRequest/properties/thing", `"color"`}},
		{"open object", smallDoc, "{type: object, additionalProperties: {type: string}}", "{type: object}", []string{"/properties/labels", "additionalProperties"}},
		{"stream", smallDoc, "x-agentos-event: ThingEvent", "x-agentos-event: Nothing", []string{"thingsEvents", "x-agentos-event"}},
		{"bound example", smallDoc, "examples/event.json", "examples/events.json", []string{"/components/schemas/ThingEvent", "events.json"}},
		{"example of a schema", smallDoc, "Colour: {type: string", "Colour: {example: blue, type: string", []string{"/components/schemas/Colour/example", "allowed values"}},
		{"as OpenAPI", smallDoc, "name: thing_id, in: path", "name: thing, in: path", []string{smallDoc, "thing_id"}},
	})
}

func TestExamples_NameThePlace(t *testing.T) {
	check := func(tb testing.TB, tree conformance.Tree) []string {
		docs := mustSmall(tb, tree)
		conformance.Strict(docs)
		return conformance.Examples(tree, docs)
	}
	get, put, stream := smallExamples+"things-get.response.json", smallExamples+"things-put.request.json", smallExamples+"things-events.response.sse"
	tree := small(t)
	seen(t, tree, check, []broken{
		{"unknown member", get, `"size": null`, `"size": null, "weight": 3`, []string{get, "/thing", "weight"}},
		{"missing member", get, `, "size": null`, "", []string{get, "/thing", "size"}},
		{"wrong type", get, `"size": null`, `"size": "big"`, []string{get, "/thing/size"}},
		{"null", get, `"colour": "red"`, `"colour": null`, []string{get, "/thing/colour"}},
		{"enum", put, `"green"`, `"blue"`, []string{put, "/thing/colour"}},
		{"time", get, "08:00:00Z", "8 o'clock", []string{get, "/thing/made_at"}},
		{"time zone", get, "08:00:00Z", "08:00:00+01:00", []string{get, "/thing/made_at"}},
		{"member of a map", put, `"hall"`, `7`, []string{put, "/thing/labels/room"}},
		{"no JSON", put, `{"thing"`, `{thing`, []string{put, "JSON"}},
		{"an event", stream, `"made"`, `"mended"`, []string{stream, "line 5", "/event"}},
		{"a frame", stream, "event: agentos", "events: agentos", []string{stream, "line 4"}},
		{"bound example", smallExamples + "event.json", `"event"`, `"events"`, []string{"event.json", "events"}},
		{"not referred to", smallDoc, "externalValue: examples/things-put.request.json", "externalValue: examples/other.json", []string{"thingsPut", "things-put.request.json"}},
		{"owner", smallDoc, "operationId: thingsGet", "operationId: thingsRead", []string{get, "no operation"}},
		{"missing file", smallDoc, "operationId: thingsGet", "operationId: thingsRead", []string{"things-read.response.json is missing"}},
	})
	named(t, check(t, tree.Put(smallExamples+"stray.json", "{}")), "stray.json", "no operation")
}

// TestJudge_NamesThePlace shows that every way in which an answer can leave the document is seen.
func TestJudge_NamesThePlace(t *testing.T) {
	j, err := conformance.NewJudge(small(t), "stack-a")
	if err != nil {
		t.Fatal(err)
	}
	const thing = `{"thing":{"name":"chair","colour":"red","made_at":"2026-11-25T08:00:00Z","size":null},"tenant_id":"tnt_demo","correlation_id":"corr_1"}`
	const fault = `{"error":{"code":"not_found","message":"m","retryable":false,"details":{}},"correlation_id":"corr_1"}`
	answer := func(status int, body string, headers ...string) conformance.Reply {
		h := http.Header{}
		for _, s := range append([]string{"X-Request-Id: req_1", "X-Correlation-Id: corr_1", "X-AgentOS-Index: 7", "Content-Type: application/json"}, headers...) {
			name, value, _ := strings.Cut(s, ": ")
			if h.Set(name, value); value == "" {
				h.Del(name)
			}
		}
		return conformance.Reply{Status: status, Header: h, Body: []byte(body)}
	}
	get := j.Operation("thingsGet")
	for name, sound := range map[string]conformance.Reply{
		"success": answer(200, thing), "error": answer(404, fault), "problem": answer(404,
			`{"type":"about:blank","title":"t","status":404,"detail":"d","code":"not_found","retryable":false,"details":{},"correlation_id":"corr_1"}`, "Content-Type: application/problem+json"),
	} {
		for _, f := range j.Reply(get, sound) {
			t.Errorf("%s: found where nothing is wrong: %s", name, f)
		}
	}
	for name, c := range map[string]struct {
		reply conformance.Reply
		want  string
	}{
		"status":            {answer(418, fault), "418, which it does not document"},
		"media type":        {answer(200, thing, "Content-Type: text/plain"), `media type "text/plain"`},
		"unknown member":    {answer(200, strings.Replace(thing, `"size"`, `"weight":1,"size"`, 1)), "weight"},
		"missing member":    {answer(200, strings.Replace(thing, `,"size":null`, ``, 1)), "size"},
		"missing header":    {answer(200, thing, "X-Request-Id: "), "X-Request-Id is missing"},
		"unknown header":    {answer(200, thing, "X-AgentOS-Mood: good"), "X-Agentos-Mood is not documented"},
		"type of a header":  {answer(200, thing, "X-AgentOS-Index: seven"), "X-Agentos-Index"},
		"code and status":   {answer(404, strings.Replace(fault, "not_found", "conflict", 1)), `"conflict" belongs to 409`},
		"retryable":         {answer(404, strings.Replace(fault, "false", "true", 1)), "retryable"},
		"no Retry-After":    {answer(429, strings.NewReplacer("not_found", "rate_limited", "false", "true").Replace(fault)), "Retry-After"},
		"no challenge":      {answer(401, strings.Replace(fault, "not_found", "unauthorized", 1)), "Www-Authenticate"},
		"correlation":       {answer(404, fault, "X-Correlation-Id: corr_2"), "correlation_id"},
		"unknown member of": {answer(404, strings.Replace(fault, `"details"`, `"cause":"x","details"`, 1)), "cause"},
	} {
		t.Run(name, func(t *testing.T) { named(t, j.Reply(get, c.reply), smallDoc+": thingsGet", c.want) })
	}
	stream := answer(200, "id: 1\ndata: {\"event\":\"melted\"}\n\n", "Content-Type: text/event-stream")
	named(t, j.Reply(j.Operation("thingsEvents"), stream), "thingsEvents", "line 2", "/event")
}
