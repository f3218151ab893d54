package conformance_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nexixai/agentos/tests/conformance"
	"github.com/nexixai/agentos/tests/harness"
)

func mustTree(tb testing.TB) conformance.Tree {
	tb.Helper()
	root, err := harness.Root()
	if err != nil {
		tb.Fatal(err)
	}
	return conformance.Tree{Root: root}
}

func mustLoad(tb testing.TB, t conformance.Tree) []*conformance.Document {
	tb.Helper()
	docs, err := conformance.LoadAll(t)
	if err != nil {
		tb.Error(err) // what is there is looked at all the same
	}
	return docs
}

func mustStrict(tb testing.TB, t conformance.Tree) []*conformance.Document {
	tb.Helper()
	docs := mustLoad(tb, t)
	conformance.Strict(docs)
	return docs
}

// report fails the test with everything that was found.
func report(tb testing.TB, found []string) {
	tb.Helper()
	for _, f := range found {
		tb.Error(f)
	}
}

// Requirements: V4, Q1.
func TestDocuments_FollowTheirConventions(t *testing.T) {
	tree := mustTree(t)
	docs := mustLoad(t, tree)
	for _, d := range docs {
		if len(d.Operations()) == 0 && d.Name != conformance.Common {
			t.Errorf("%s has no operations", d.File)
		}
	}
	report(t, conformance.Lint(tree, docs))
}

// TestDocuments_Planned keeps the list of what is not served yet in testdata/planned.txt, so that a mark is taken off (or
// put on) on purpose. What stands there is neither routed nor asked of a running node.
func TestDocuments_Planned(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("testdata", "planned.txt"))
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Join(conformance.Planned(mustLoad(t, mustTree(t))), "\n")
	if want := strings.TrimSpace(string(raw)); got != want {
		t.Errorf("planned operations are\n%s\n\ntestdata/planned.txt says\n%s", got, want)
	}
}

// Requirements: Q1.
func TestExamples(t *testing.T) {
	tree := mustTree(t)
	report(t, conformance.Examples(tree, mustStrict(t, tree)))
}
