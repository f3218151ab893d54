package conformance_test

import (
	"testing"

	"github.com/nexixai/agentos/tests/conformance"
)

// appendix is the page that has the last word on payloads.
const appendix = "docs/product/agentos-prs/v1.02-schemas-appendix.md"

// Requirements: V4, Q1.
func TestAppendix_BlocksValidate(t *testing.T) {
	tree := mustTree(t)
	report(t, conformance.Blocks(tree, appendix, mustStrict(t, tree)))
}

// Requirements: V4.
func TestLinks_Resolve(t *testing.T) { report(t, conformance.Links(mustTree(t))) }

func TestBlocks_NameThePlace(t *testing.T) {
	const file = "docs/payloads.md"
	tree := small(t).Put(file, "# Payloads\n\n```text\nnot JSON\n```\n\n```json stack-a#ThingEvent\n{\"event\": \"made\"}\n```\n\n"+
		"```json common#Principal\n{\"principal_id\": \"usr_a\", \"principal_type\": \"user\"}\n```\n")
	check := func(tb testing.TB, tree conformance.Tree) []string {
		docs := mustSmall(tb, tree)
		conformance.Strict(docs)
		return conformance.Blocks(tree, file, docs)
	}
	seen(t, tree, check, []broken{
		{"value", file, `"made"`, `"mended"`, []string{file + ":7", "/event"}},
		{"unknown member", file, `"made"`, `"made", "by": 1`, []string{file + ":7", "by"}},
		{"no JSON", file, `{"event"`, `{event`, []string{file + ":7", "JSON"}},
		{"no name", file, "json stack-a#ThingEvent", "json", []string{file + ":7", "which schema"}},
		{"no such schema", file, "#ThingEvent", "#ThingEvents", []string{file + ":7", "ThingEvents"}},
		{"no such document", file, "json common", "json commons", []string{file + ":11", "commons"}},
	})
	if found := conformance.Blocks(tree.Put(file, "# Nothing\n"), file, nil); len(found) == 0 {
		t.Error("a page without a block passed")
	}
}

func TestLinks_NameThePlace(t *testing.T) {
	const a, b = "README.md", "docs/b.md"
	tree := conformance.Tree{Root: t.TempDir()}.
		Put(a, "# First\n\nSee [b](docs/b.md), [its part](docs/b.md#a-part--of-it-v102) and [this](#first).\n\n[outside](https://example.com/x)\n").
		Put(b, "# B\n\n## A part – of it, `v1.02`\n\n[back](../README.md#first) ![p](p.png) [again](#b-1) [tag](#here)\n\n# B\n\n<a id=\"here\"></a>\n").
		Put("docs/p.png", "")
	check := func(_ testing.TB, tree conformance.Tree) []string { return conformance.Links(tree) }
	seen(t, tree, check, []broken{
		{"file", a, "[b](docs/b.md)", "[b](docs/c.md)", []string{a + ":3", "docs/c.md"}},
		{"anchor", a, "#a-part--of-it-v102", "#a-part", []string{a + ":3", "#a-part", b}},
		{"own anchor", a, "(#first)", "(#last)", []string{a + ":3", "#last"}},
		{"heading renamed", b, "## A part", "## The part", []string{a + ":3", b}},
		{"image", b, "p.png", "q.png", []string{b + ":5", "docs/q.png"}},
		{"tag", b, `id="here"`, `id="there"`, []string{b + ":5", "#here"}},
		{"outside the project", b, "../README.md#first", "../../README.md", []string{b + ":5", "out of the project"}},
		{"from the root", a, "(docs/b.md)", "(/docs/b.md)", []string{a + ":3", "relative"}},
	})
}
