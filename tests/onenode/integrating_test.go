package onenode_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	_ "github.com/openai/openai-go/v3" // a program of the document is built with it

	"github.com/nexixai/agentos/tests/harness"
)

// block is one block of code of a document, with the words that it has to print.
type block struct {
	language, code string
	prints         []string
	line           int
}

// blocks reads the blocks of code out of a document. One that nothing says of what it prints is a mistake: it could fail
// and nobody would see.
func blocks(t *testing.T, name string) (found []block) {
	t.Helper()
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "docs", name))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile("(?ms)^(?:<!-- prints: ([^\n]*) -->\n)?```([a-z]+)\n(.*?)^```$").FindAllSubmatchIndex(text, -1) {
		b := block{language: string(text[m[4]:m[5]]), code: string(text[m[6]:m[7]]), line: 1 + strings.Count(string(text[:m[0]]), "\n")}
		if m[2] < 0 {
			t.Errorf("docs/%s:%d: nothing says what this block prints", name, b.line)
		} else {
			b.prints = strings.Fields(string(text[m[2]:m[3]]))
		}
		found = append(found, b)
	}
	return found
}

// printed fails the test unless the words come in out, one after another.
func printed(t *testing.T, b block, out string) {
	t.Helper()
	rest := out
	for _, word := range b.prints {
		_, after, ok := strings.Cut(rest, word)
		if !ok {
			t.Errorf("docs/integrating.md:%d: %q of %q is not printed, or not in this order:\n%s", b.line, word, b.prints, out)
			return
		}
		rest = after
	}
}

// Who follows docs/integrating.md block by block sees what it says: each is run as it stands, the commands in one shell and
// in a directory with a deployment, the programs with the environment that the commands have set.
//
// Requirements: V3, B1, Q2.
func TestIntegrating_Document(t *testing.T) {
	harness.Needs(t, "bash", "curl", "jq", "go")
	d := suite.Shared(t)
	dir := t.TempDir()
	if err := os.Symlink(d.StateDir, filepath.Join(dir, ".agentos")); err != nil {
		t.Fatal(err)
	}
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	const cut = "=== the next block ==="
	var commands []block
	script := "set -euo pipefail\n"
	programs := 0
	for _, b := range blocks(t, "integrating.md") {
		switch b.language {
		case "sh":
			commands = append(commands, b)
			script += strings.ReplaceAll(b.code, "http://localhost:8420", d.Node().APIURL) + "echo; echo '" + cut + "'\n"
		case "go":
			programs++
			t.Run(fmt.Sprintf("go at line %d", b.line), func(t *testing.T) {
				file := filepath.Join(t.TempDir(), "main.go")
				if err := os.WriteFile(file, []byte(b.code), 0o600); err != nil {
					t.Fatal(err)
				}
				out := harness.Command(t, 5*time.Minute, root, environment(t, d), "go", "run", file)
				if out.Code != 0 {
					t.Errorf("docs/integrating.md:%d: exit code %d\n%s", b.line, out.Code, out.Stderr)
				}
				printed(t, b, out.Stdout)
			})
		case "js": // TestIntegrating_JavaScript
		default:
			t.Errorf("docs/integrating.md:%d: nothing runs a block of %s", b.line, b.language)
		}
	}
	out := harness.Command(t, 2*time.Minute, dir, nil, "bash", "-c", script)
	parts := strings.Split(out.Stdout, cut)
	if out.Code != 0 || len(parts) != len(commands)+1 {
		t.Fatalf("exit code %d in block %d\n%s\n%s", out.Code, len(parts), out.Stdout, out.Stderr)
	}
	if len(commands) < 5 || programs < 3 {
		t.Errorf("%d blocks of commands and %d programs were found: the search is broken", len(commands), programs)
	}
	for i, b := range commands {
		printed(t, b, parts[i])
	}
}

// The JavaScript of the document works too, with the package as npm has it (`npm ci --prefix tests/js` brings it).
//
// Requirements: B1, Q2.
func TestIntegrating_JavaScript(t *testing.T) {
	harness.Needs(t, "node")
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	modules := filepath.Join(root, "tests", "js", "node_modules")
	harness.NeedsFile(t, filepath.Join(modules, "openai", "package.json"))
	d := suite.Shared(t)
	found := 0
	for _, b := range blocks(t, "integrating.md") {
		if b.language != "js" {
			continue
		}
		found++
		dir := t.TempDir()
		if err := os.Symlink(modules, filepath.Join(dir, "node_modules")); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "main.mjs"), []byte(b.code), 0o600); err != nil {
			t.Fatal(err)
		}
		out := harness.Command(t, 2*time.Minute, dir, environment(t, d), "node", "main.mjs")
		if out.Code != 0 {
			t.Errorf("docs/integrating.md:%d: exit code %d\n%s", b.line, out.Code, out.Stderr)
		}
		printed(t, b, out.Stdout)
	}
	if found == 0 {
		t.Error("the document has no JavaScript: the search is broken")
	}
}

// environment is what the document's commands set.
func environment(t *testing.T, d *harness.Deployment) []string {
	t.Helper()
	return []string{"AGENTOS_URL=" + d.Node().APIURL, "AGENTOS_KEY=" + d.Key(t, "tnt_demo", "tenant_user")}
}
