package conformance_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/nexixai/agentos/tests/harness"
)

const (
	prsDoc          = "docs/product/agentos-prs/v1.02-prs.md"
	traceabilityDoc = "docs/traceability.md"
)

// requirement is one of the PRS.
type requirement struct {
	id, title, slug string
	state           string // built, partly or planned
}

// citation is a test that says which requirements it shows.
type citation struct {
	file, test string
	ids        []string
}

var (
	requirementHead  = regexp.MustCompile(`^### (([VNPABTOMQ])[1-9][0-9]*) (.+)$`)
	requirementState = regexp.MustCompile(`^State: (?:(built|planned)\.|(partly|planned)\. Missing: .+\.)$`)
	requirementsLine = regexp.MustCompile(`^Requirements: ([A-Z][0-9]+(?:, [A-Z][0-9]+)*)\.$`)
	testName         = regexp.MustCompile(`^(Test|Fuzz|Example)([^a-z]|$)`)
)

// TestTraceability_document holds docs/traceability.md to the PRS and to what the tests say of themselves. It fails when a
// test cites what the PRS doesn't have, and when something is called built or partly built that no test shows.
//
// Requirements: V4, Q1.
func TestTraceability_document(t *testing.T) {
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	prs, err := os.ReadFile(filepath.Join(root, prsDoc))
	if err != nil {
		t.Fatal(err)
	}
	requirements, problems := parsePRS(string(prs))
	if len(requirements) < 50 {
		t.Fatalf("only %d requirements found in %s: the reader is broken", len(requirements), prsDoc)
	}
	citations, more := citationsBelow(t, root)
	problems = append(append(problems, more...), untraced(requirements, citations)...)
	for _, p := range problems {
		t.Error(p)
	}
	want := traceability(requirements, citations)
	if *update {
		if err := os.WriteFile(filepath.Join(root, traceabilityDoc), []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(filepath.Join(root, traceabilityDoc))
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("%s is stale; run: go test ./tests/conformance -run Traceability -update", traceabilityDoc)
	}
}

// parsePRS reads the requirements: a heading of level three with the id, and below it a line that tells the state.
func parsePRS(text string) (found []requirement, problems []string) {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		m := requirementHead.FindStringSubmatch(line)
		if m == nil {
			if strings.HasPrefix(line, "### ") {
				problems = append(problems, fmt.Sprintf("%s:%d: a heading of level three is a requirement: ### ID Title", prsDoc, i+1))
			}
			continue
		}
		r := requirement{id: m[1], title: m[3], slug: slug(line[len("### "):])}
		if slices.ContainsFunc(found, func(o requirement) bool { return o.id == r.id }) {
			problems = append(problems, fmt.Sprintf("%s:%d: %s stands there twice", prsDoc, i+1, r.id))
		}
		for _, below := range lines[i+1:] {
			if strings.HasPrefix(below, "#") {
				break
			}
			if s := requirementState.FindStringSubmatch(below); s != nil {
				r.state = s[1] + s[2]
				break
			}
		}
		if r.state == "" {
			problems = append(problems, fmt.Sprintf("%s:%d: %s lacks its state: built, planned, or partly with what is missing", prsDoc, i+1, r.id))
		}
		found = append(found, r)
	}
	return found, problems
}

// slug is the anchor that a heading gets.
func slug(heading string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(heading) {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-', r == '_':
			b.WriteRune(r)
		case r == ' ':
			b.WriteByte('-')
		}
	}
	return b.String()
}

// citationsBelow reads every test file below root.
func citationsBelow(tb testing.TB, root string) (found []citation, problems []string) {
	tb.Helper()
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if base := d.Name(); name != root && (base == "testdata" || strings.HasPrefix(base, ".")) {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		cited, wrong, err := citationsIn(filepath.ToSlash(rel), text)
		found, problems = append(found, cited...), append(problems, wrong...)
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return found, problems
}

// citationsIn reads one test file. A line that begins with "Requirements:" has to be the last of a test's doc comment.
func citationsIn(name string, text []byte) (found []citation, problems []string, err error) {
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, name, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, nil, err
	}
	docs := map[*ast.CommentGroup]bool{}
	for _, decl := range file.Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if !ok || fn.Doc == nil || fn.Recv != nil || !testName.MatchString(fn.Name.Name) {
			continue
		}
		docs[fn.Doc] = true
		lines := strings.Split(strings.TrimSpace(fn.Doc.Text()), "\n")
		for i, line := range lines {
			if !strings.HasPrefix(line, "Requirements:") {
				continue
			}
			m := requirementsLine.FindStringSubmatch(line)
			if m == nil || i != len(lines)-1 {
				problems = append(problems, fmt.Sprintf("%s: %s: the last line of the comment is to be \"Requirements: A1, B2.\"", fset.Position(fn.Pos()), fn.Name.Name))
				continue
			}
			found = append(found, citation{file: name, test: fn.Name.Name, ids: strings.Split(m[1], ", ")})
		}
	}
	for _, group := range file.Comments {
		if !docs[group] && slices.ContainsFunc(strings.Split(group.Text(), "\n"), func(l string) bool { return strings.HasPrefix(l, "Requirements:") }) {
			problems = append(problems, fmt.Sprintf("%s: requirements are cited here by no test: the line belongs into a test's doc comment", fset.Position(group.Pos())))
		}
	}
	return found, problems, nil
}

// untraced says what tests and requirements have against each other.
func untraced(requirements []requirement, citations []citation) (problems []string) {
	known, shown := map[string]bool{}, map[string]bool{}
	for _, r := range requirements {
		known[r.id] = true
	}
	for _, c := range citations {
		for i, id := range c.ids {
			shown[id] = true
			if !known[id] {
				problems = append(problems, fmt.Sprintf("%s: %s cites %s, which %s doesn't have", c.file, c.test, id, prsDoc))
			}
			if slices.Contains(c.ids[:i], id) {
				problems = append(problems, fmt.Sprintf("%s: %s cites %s twice", c.file, c.test, id))
			}
		}
	}
	for _, r := range requirements {
		if (r.state == "built" || r.state == "partly") && !shown[r.id] {
			problems = append(problems, fmt.Sprintf("%s: %s is called %s, and no test cites it", prsDoc, r.id, r.state))
		}
	}
	return problems
}

// traceability is the document.
func traceability(requirements []requirement, citations []citation) string {
	var b strings.Builder
	b.WriteString(`# Which tests show which requirement

<!-- Written from the PRS and the tests' own comments by: go test ./tests/conformance -run Traceability -update -->

The requirements are those of the [PRS](product/agentos-prs/v1.02-prs.md). A test says in the last line of its comment which of
them it shows (` + "`Requirements: N3, P5.`" + `); a check holds this page to that, and fails when something is called built or partly
built that no test shows.

| requirement | state | shown by |
|---|---|---|
`)
	for _, r := range requirements {
		var tests []string
		for _, c := range citations {
			if slices.Contains(c.ids, r.id) {
				tests = append(tests, fmt.Sprintf("[%s.%s](../%s)", filepath.Base(filepath.Dir(c.file)), c.test, c.file))
			}
		}
		slices.Sort(tests)
		shown := strings.Join(tests, "<br>")
		if shown == "" {
			shown = "–"
		}
		fmt.Fprintf(&b, "| [%s %s](product/agentos-prs/v1.02-prs.md#%s) | %s | %s |\n", r.id, r.title, r.slug, r.state, shown)
	}
	return b.String()
}

// TestTraceability_finds sees each of the checks red: without it a reader that finds nothing would pass for a clean one.
func TestTraceability_finds(t *testing.T) {
	const sound = "### N1 One binary\n\nState: built.\n\n### P8 Receipts\n\nState: planned. Missing: all of it.\n"
	requirements, problems := parsePRS(sound)
	if len(requirements) != 2 || len(problems) > 0 || requirements[0].slug != "n1-one-binary" {
		t.Fatalf("a sound PRS reads as %+v, %q", requirements, problems)
	}
	for text, want := range map[string]string{
		"### N1 One\n\nState: done.\n":                     "N1 lacks its state",
		"### N1 One\n\nState: partly.\n":                   "N1 lacks its state",
		"### N1 One\n\n### N2 Two\n\nState: built.\n":      "N1 lacks its state",
		"### X1 One\n\nState: built.\n":                    "is a requirement",
		sound + "### N1 Again\n\nState: built.\n":          "N1 stands there twice",
		"### P2 Negotiation\n\nState: partly. Missing x\n": "P2 lacks its state",
	} {
		if _, problems := parsePRS(text); len(problems) != 1 || !strings.Contains(problems[0], want) {
			t.Errorf("parsePRS(%q) says %q, want one line with %q", text, problems, want)
		}
	}

	cite := func(comment, fn string) string { return "package x_test\n\n" + comment + "\nfunc " + fn + "() {}\n" }
	for _, c := range []struct{ name, text, want string }{
		{"unknown", cite("// TestX looks.\n//\n// Requirements: N1, Z9.", "TestX"), "cites Z9, which"},
		{"twice", cite("// TestX looks.\n//\n// Requirements: N1, N1.", "TestX"), "cites N1 twice"},
		{"shown by none", cite("// TestX looks.\n//\n// Requirements: P8.", "TestX"), "N1 is called built, and no test cites it"},
		{"no full stop", cite("// TestX looks.\n//\n// Requirements: N1", "TestX"), "the last line of the comment"},
		{"not last", cite("// TestX looks.\n//\n// Requirements: N1.\n// And more.", "TestX"), "the last line of the comment"},
		{"not a test's", cite("// testX looks.\n//\n// Requirements: N1.", "testX"), "cited here by no test"},
	} {
		cited, problems, err := citationsIn("x_test.go", []byte(c.text))
		if err != nil {
			t.Fatal(err)
		}
		problems = append(problems, untraced(requirements, cited)...)
		if !slices.ContainsFunc(problems, func(p string) bool { return strings.Contains(p, c.want) }) {
			t.Errorf("%s: %q, want a line with %q", c.name, problems, c.want)
		}
	}
	cited, problems, err := citationsIn("x_test.go", []byte(cite("// FuzzX looks.\n//\n// Requirements: N1.", "FuzzX")))
	if err != nil || len(append(problems, untraced(requirements, cited)...)) > 0 {
		t.Errorf("a sound citation: %q, %v", problems, err)
	}
	if table := traceability(requirements, cited); !strings.Contains(table, "#n1-one-binary) | built | [..FuzzX](../x_test.go) |") {
		t.Errorf("the table has no row for a cited requirement:\n%s", table)
	}
}
