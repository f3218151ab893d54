package clients_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

// TestJavaScript runs openai.test.mjs with the package as npm has it (`npm ci --prefix tests/js` brings it).
//
// Requirements: B1, Q2.
func TestJavaScript(t *testing.T) {
	t.Parallel()
	harness.Needs(t, "node")
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	modules := filepath.Join(root, "tests", "js", "node_modules")
	harness.NeedsFile(t, filepath.Join(modules, "openai", "package.json"))
	tn := suite.Tenant(t, nil)
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(".")); err != nil { // a package is looked for beside the file that imports it
		t.Fatal(err)
	}
	if err := os.Symlink(modules, filepath.Join(dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	out := harness.Command(t, 2*time.Minute, dir, []string{"AGENTOS_URL=" + tn.Base, "AGENTOS_KEY=" + tn.Key}, "node", "--test", "openai.test.mjs")
	if out.Code != 0 {
		t.Errorf("exit code %d\n%s\n%s", out.Code, out.Stdout, out.Stderr)
	}
}
