package house_test

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/nexixai/agentos"

// rooms are the folders in their one direction: a room may import only those before it.
var rooms = []struct{ name, why string }{
	{"internal", "plumbing knows nothing of what flows through it"},
	{"storage", "the log keeps bytes; it must not know what they mean"},
	{"negotiation", "offer and need are compared by pure functions, which must stay testable without a node"},
	{"tenancy", "who may do what is decided below everything that acts, so that nothing can act around it"},
	{"model", "Stack B serves agents and direct callers alike, and must not depend on either"},
	{"agent", "Stack A must not see peers or the door: it never knows who listens, or where a run was asked for"},
	{"peer", "others are reached through trust and grants; they must not reach into the door"},
	{"web", "pages show what they are given"},
	{"docs", "the contracts say what is served; they must not ask how"},
	{"api", "the door calls inward; nothing inside knows HTTP"},
	{"node", "wiring knows every room; a room that knew the wiring could not be tested alone"},
	{"cmd", "hands only parse and print"},
	{"tests", "the suites look at the binary from outside"},
}

// sole names the one room that may import a heavy library, and what a second importer would cost.
var sole = []struct{ library, room, why string }{
	{"github.com/hashicorp/raft", "storage/replica", "consensus has one owner; a second would see terms and indexes that mean nothing outside it"},
	{"github.com/cockroachdb/pebble", "storage/replica", "the engine is replaceable only while everyone else sees storage.Store"},
	{"github.com/hashicorp/memberlist", "peer/gossip", "gossip is rumour; whoever imports it is tempted to believe it"},
	{"github.com/julienschmidt/httprouter", "api", "routes are registered in one place, with their limits, auth and audit around them"},
	{"cel.dev/cel-go", "model/policy", "expressions are compiled once, with a cost limit, and deny on error"},
	{"github.com/google/cel-go", "model/policy", "expressions are compiled once, with a cost limit, and deny on error"},
	{"github.com/modelcontextprotocol/go-sdk", "agent/tool", "tools are one port; MCP is one adapter of it"},
	{"github.com/jackc/pgx", "agent/event/pgsink", "PostgreSQL is a sink and must never be in the path of a run"},
	{"go.opentelemetry.io/otel/exporters", "node", "the exporter compiles gRPC in; everyone else only passes traceparent on"},
	{"github.com/spf13/cobra", "cmd/agentos", "flags belong to the hands; rooms take Options"},
	{"go.uber.org/zap/zapcore", "internal/zaplog", "loggers are built in one place, with redaction; rooms take a *zap.Logger"},
	{"github.com/rogpeppe/go-internal", "cmd/agentos", "scripts drive the real binary; rooms are tested through their Go interface"},
}

// zapBuilders are the functions of package zap that make a logger out of nothing.
var zapBuilders = []string{"New", "NewProduction", "NewDevelopment", "NewExample", "NewProductionConfig", "NewDevelopmentConfig", "ReplaceGlobals", "Must", "L", "S"}

// file is one parsed Go file of the module.
type file struct {
	path string // relative to the module's root, with slashes
	dir  string
	test bool
	ast  *ast.File
}

func (f file) imports() []string {
	var out []string
	for _, spec := range f.ast.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err == nil {
			out = append(out, p)
		}
	}
	return out
}

func TestHouse_Direction(t *testing.T) {
	for _, f := range mustParse(t) {
		for _, imported := range f.imports() {
			if why := direction(f.dir, imported, f.test); why != "" {
				t.Errorf("%s imports %s: %s", f.path, strings.TrimPrefix(imported, module+"/"), why)
			}
		}
	}
}

// direction returns why a package in dir must not import imported, or "".
func direction(dir, imported string, test bool) string {
	inner, ours := strings.CutPrefix(imported, module+"/")
	if !ours {
		return ""
	}
	from, to := rank(dir), rank(inner)
	switch {
	case from < 0:
		return fmt.Sprintf("the folder %q is in no room; give it a place in the one direction first", dir)
	case to < 0:
		return fmt.Sprintf("the folder %q is in no room; give it a place in the one direction first", inner)
	case rooms[from].name == "tests" && to != from:
		return "a suite that shares code with what it judges can be wrong in the same way and agree; speak to the binary as a stranger would"
	case to > from:
		return fmt.Sprintf("%s may import only what is left of it, and %s is to its right: %s. Declare a small interface in %s and let node pass the thing in",
			rooms[from].name, rooms[to].name, rooms[from].why, dir)
	case to == from && from > 0 && !test && strings.HasPrefix(inner, dir+"/"):
		return "a parent must not import its child: the child knows the parent's nouns, and the other way round it would be a circle of meaning"
	case strings.HasPrefix(imported, module+"/cmd/"):
		return "a command is an end; what is worth importing belongs in a room"
	}
	return ""
}

func rank(dir string) int {
	top, _, _ := strings.Cut(dir, "/")
	return slices.IndexFunc(rooms, func(r struct{ name, why string }) bool { return r.name == top })
}

// TestDirection_refuses shows that the rule can fail: without it, a direction that always returned "" would pass.
func TestDirection_refuses(t *testing.T) {
	for _, c := range []struct {
		dir, imported string
		test, refused bool
	}{
		{"storage", "api", false, true},
		{"agent/run", "peer/forward", false, true},
		{"agent", "agent/run", false, true},
		{"agent", "agent/run", true, false},
		{"agent/run", "agent", false, false},
		{"agent/run", "agent/event", false, false},
		{"api", "tenancy", false, false},
		{"attic", "storage", false, true},
		{"node", "cmd/agentos", false, true},
		{"tests/onenode", "api/client", true, true},
		{"tests/onenode", "tests/harness", true, false},
		{"internal/zaplog", "internal/fault", false, false},
	} {
		if got := direction(c.dir, module+"/"+c.imported, c.test) != ""; got != c.refused {
			t.Errorf("direction(%q, %q, test=%v): refused = %v, want %v", c.dir, c.imported, c.test, got, c.refused)
		}
	}
}

// Requirements: V3.
func TestHouse_SoleImporters(t *testing.T) {
	for _, f := range mustParse(t) {
		for _, imported := range f.imports() {
			for _, s := range sole {
				if f.test && s.library == "go.uber.org/zap/zapcore" {
					continue // a test may look at what was logged
				}
				if within(imported, s.library) && !within(f.dir, s.room) {
					t.Errorf("%s imports %s, which only %s may: %s", f.path, imported, s.room, s.why)
				}
			}
		}
	}
}

// within reports whether p is root or lies below it.
func within(p, root string) bool { return p == root || strings.HasPrefix(p, root+"/") }

func TestHouse_LoggersAreBuiltInOnePlace(t *testing.T) {
	for _, f := range mustParse(t) {
		if f.test || within(f.dir, "internal/zaplog") || !slices.Contains(f.imports(), "go.uber.org/zap") {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if pkg, ok := sel.X.(*ast.Ident); ok && pkg.Name == "zap" && slices.Contains(zapBuilders, sel.Sel.Name) {
				t.Errorf("%s uses zap.%s: a logger built outside internal/zaplog has no redaction; take one through Options (zap.NewNop for none)", f.path, sel.Sel.Name)
			}
			return true
		})
	}
}

func TestHouse_PackagesSayWhatTheyAreFor(t *testing.T) {
	documented, seen := map[string]bool{}, map[string]string{}
	for _, f := range mustParse(t) {
		if f.test {
			continue
		}
		seen[f.dir] = f.ast.Name.Name
		if f.ast.Doc != nil && strings.HasPrefix(f.ast.Doc.Text(), lead(f.ast.Name.Name)) {
			documented[f.dir] = true
		}
	}
	for dir, name := range seen {
		if !documented[dir] {
			t.Errorf("%s has no package comment beginning with %q: a reader must learn what the room is for and what it may import", dir, lead(name))
		}
	}
}

func lead(name string) string {
	if name == "main" {
		return "Command "
	}
	return "Package " + name + " "
}

func TestHouse_NoPackageState(t *testing.T) {
	for _, f := range mustParse(t) {
		if f.test {
			continue
		}
		for _, decl := range f.ast.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s has an init function: what happens on import cannot be tested, ordered or left out", f.path)
			}
		}
	}
}

// TestHouse_NoForeignPaths keeps the machine a file was written on out of the project: it must build and read the same
// everywhere. The words are put together here so that this file does not contain them.
func TestHouse_NoForeignPaths(t *testing.T) {
	var words [][]byte
	for _, w := range [][]string{{"/wo", "rk/main"}, {"/wo", "rk/shared"}, {"../sha", "red/"}, {"/ro", "ot/"}, {"/wo", "rk/.library"}, {"proxy.gol", "ang.org"}, {"registry.npm", "js.org"}} {
		words = append(words, []byte(strings.Join(w, "")))
	}
	root := mustRoot(t)
	err := walk(root, func(name string) error {
		switch path.Ext(name) {
		case ".go", ".md", ".yaml", ".yml", ".json", ".txt", ".sh", ".mod", ".txtar", "":
		default:
			return nil
		}
		b, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(name)))
		if err != nil {
			return err
		}
		for i, line := range bytes.Split(b, []byte("\n")) {
			for _, w := range words {
				if bytes.Contains(line, w) {
					t.Errorf("%s:%d names %q: the project has to mean the same on every machine", name, i+1, w)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func mustRoot(tb testing.TB) string {
	tb.Helper()
	dir, err := os.Getwd()
	if err != nil {
		tb.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			tb.Fatal("no go.mod above the test")
		}
		dir = up
	}
}

// walk calls visit for each file of the project: everything but version control, built things and running state.
func walk(root string, visit func(name string) error) error {
	return filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			if os.IsNotExist(err) { // something else tidied up meanwhile
				return nil
			}
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		name := filepath.ToSlash(rel)
		if d.IsDir() {
			switch name {
			case ".git", "bin", "dist", "reports":
				return fs.SkipDir
			}
			if strings.HasPrefix(d.Name(), ".agentos") || d.Name() == "node_modules" {
				return fs.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		return visit(name)
	})
}

func mustParse(tb testing.TB) []file {
	tb.Helper()
	root := mustRoot(tb)
	var files []file
	fset := token.NewFileSet()
	err := walk(root, func(name string) error {
		if path.Ext(name) != ".go" || strings.Contains(name, "testdata/") {
			return nil
		}
		parsed, err := parser.ParseFile(fset, filepath.Join(root, filepath.FromSlash(name)), nil, parser.ParseComments)
		if err != nil {
			return err
		}
		files = append(files, file{path: name, dir: path.Dir(name), test: strings.HasSuffix(name, "_test.go"), ast: parsed})
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	if len(files) < 10 {
		tb.Fatalf("only %d Go files found below %s: the walk is broken", len(files), root)
	}
	return files
}
