package tools_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nexixai/agentos/tests/harness"
)

// quiet keeps the linter from telling anybody that it runs, or asking whether there is a newer one.
func quiet() []string {
	return []string{"REDOCLY_TELEMETRY=off", "REDOCLY_SUPPRESS_UPDATE_NOTICE=true"}
}

// TestRedocly has Redocly's linter find no error in the contracts, and name the place of one that was put there.
//
// Requirements: Q1.
func TestRedocly(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"package.json", "package-lock.json", "redocly.yaml"} {
		mustCopy(t, name, filepath.Join(dir, name))
	}
	mustContracts(t, dir)
	run(t, dir, nil, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier")
	lint := []string{filepath.Join(dir, "node_modules", ".bin", "redocly"), "lint", "stack-a", "stack-b", "federation", "common"}
	out := run(t, dir, quiet(), lint...)
	for _, name := range []string{"stack-a/openapi.yaml", "stack-b/openapi.yaml", "federation/openapi.yaml", "common.yaml"} {
		if all := out.Stdout + out.Stderr; !strings.Contains(all, "validating docs/api/"+name) {
			t.Errorf("%s was not looked at:\n%s", name, all)
		}
	}

	file := filepath.Join(dir, "docs", "api", "federation", "openapi.yaml")
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	const id = "operationId: peersGet"
	broken := strings.Replace(string(raw), id, "operationId: peersList", 1)
	if broken == string(raw) {
		t.Fatalf("%s does not hold %q", file, id)
	}
	if err := os.WriteFile(file, []byte(broken), 0o644); err != nil {
		t.Fatal(err)
	}
	out = harness.Command(t, bound, dir, quiet(), lint...)
	if all := out.Stdout + out.Stderr; out.Code == 0 || !strings.Contains(all, "operation-operationId-unique") || !strings.Contains(all, "federation/openapi.yaml:") {
		t.Errorf("an operationId that is there twice: exit code %d\n%s", out.Code, all)
	}
}
