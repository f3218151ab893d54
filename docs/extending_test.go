package docs_test

import (
	"flag"
	"os"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "quote the examples in docs/extending.md anew")

// most is how many lines of code an example may have, without empty lines and comments: more is no example.
const most = 100

// What docs/extending.md shows is the code that passes the suites, to the letter.
// `go test ./docs -update` quotes it anew.
//
// Requirements: V3.
func TestExtending_Quotes(t *testing.T) {
	const name = "extending.md"
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	quote := regexp.MustCompile("(?s)<!-- (examples/[a-z/_]+\\.go) -->\n```go\n(.*?)```\n")
	quoted := 0
	want := quote.ReplaceAllStringFunc(string(text), func(block string) string {
		quoted++
		file := quote.FindStringSubmatch(block)[1]
		code, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		lines := 0
		for line := range strings.Lines(string(code)) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "//") {
				lines++
			}
		}
		if lines >= most {
			t.Errorf("%s has %d lines of code, and %d are too many", file, lines, most)
		}
		return "<!-- " + file + " -->\n```go\n" + string(code) + "```\n"
	})
	if quoted != 3 {
		t.Errorf("%d examples are quoted, want a tool, a backend and an engine", quoted)
	}
	if want == string(text) {
		return
	}
	if !*update {
		t.Fatalf("docs/%s quotes another code than docs/examples holds: go test ./docs -update", name)
	}
	if err := os.WriteFile(name, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}
