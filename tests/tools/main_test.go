// Package tools_test brings tools from outside to the contracts: a linter, and a generator of clients. They read the
// documents as anybody's tools would. What they need of npm and of Go's modules is pinned, and fetched by the clients of
// those alone.
package tools_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

var suite harness.Suite

func TestMain(m *testing.M) { os.Exit(suite.Run(m)) }

// bound is how long one step of a tool may take, on a machine that has to fetch it first.
const bound = 2 * time.Minute

// run has a command succeed in dir, and returns what it printed.
func run(tb testing.TB, dir string, env []string, argv ...string) harness.Outcome {
	tb.Helper()
	out := harness.Command(tb, bound, dir, env, argv...)
	if out.Code != 0 {
		tb.Fatalf("%v: exit code %d\n%s\n%s", argv, out.Code, out.Stdout, out.Stderr)
	}
	return out
}

// mustContracts copies the contracts below dir, as they lie in the project, so that a tool may write beside them and a test
// may break them.
func mustContracts(tb testing.TB, dir string) {
	tb.Helper()
	root, err := harness.Root()
	if err != nil {
		tb.Fatal(err)
	}
	for _, part := range []string{"common.yaml", "stack-a", "stack-b", "federation"} {
		from, to := filepath.Join(root, "docs", "api", part), filepath.Join(dir, "docs", "api", part)
		info, err := os.Stat(from)
		if err != nil {
			tb.Fatal(err)
		}
		if info.IsDir() {
			err = os.CopyFS(to, os.DirFS(from))
		} else {
			mustCopy(tb, from, to)
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
}

func mustCopy(tb testing.TB, from, to string) {
	tb.Helper()
	raw, err := os.ReadFile(from)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(to), 0o755)
	}
	if err == nil {
		err = os.WriteFile(to, raw, 0o644)
	}
	if err != nil {
		tb.Fatal(err)
	}
}
