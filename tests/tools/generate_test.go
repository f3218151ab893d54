package tools_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

const generator = "github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen@v2.8.2"

// TestGeneratedClient has a client generated out of all documents, and lets testdata/client use a node with it: it creates
// a run, streams it, cancels it, and reads what it gets with the generated types.
//
// Requirements: Q1.
func TestGeneratedClient(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", "client"))); err != nil {
		t.Fatal(err)
	}
	mustContracts(t, dir)
	env := []string{"GOFLAGS=-buildvcs=false", "GOWORK=off"}
	for _, d := range []struct{ name, file string }{
		{"common", "common.yaml"}, {"stacka", "stack-a/openapi.yaml"}, {"stackb", "stack-b/openapi.yaml"}, {"federation", "federation/openapi.yaml"},
	} {
		if err := os.Mkdir(filepath.Join(dir, d.name), 0o755); err != nil {
			t.Fatal(err)
		}
		run(t, dir, env, "go", "run", generator, "-config", d.name+".cfg.yaml", filepath.Join("docs", "api", filepath.FromSlash(d.file)))
	}
	run(t, dir, env, "go", "build", "-o", "client", ".")

	tn := suite.Tenant(t, nil)
	out := run(t, dir, []string{"AGENTOS_URL=" + tn.Base, "AGENTOS_KEY=" + tn.Key, "AGENTOS_AGENT=" + tn.Agent}, filepath.Join(dir, "client"))
	var seen struct {
		RunID    string   `json:"run_id"`
		TenantID string   `json:"tenant_id"`
		Events   []string `json:"events"`
		Status   string   `json:"status"`
		By       string   `json:"by"`
		Stack    string   `json:"stack"`
		Models   []string `json:"models"`
		Refused  string   `json:"refused"`
	}
	if err := json.Unmarshal([]byte(out.Stdout), &seen); err != nil {
		t.Fatalf("%v: %s", err, out.Stdout)
	}
	if seen.TenantID != tn.ID || seen.Status != "canceled" || seen.By == "" || seen.Refused != "not_found" || !slices.Contains(seen.Models, "builtin/echo-1") || seen.Stack != suite.Shared(t).Node().StackID {
		t.Errorf("the client saw %s", out.Stdout)
	}
	// What it has read is what there is, whoever looks.
	var there []string
	for _, e := range tn.Journal(t, seen.RunID) {
		there = append(there, e.Type)
	}
	if !slices.Equal(seen.Events, there) || len(there) < 4 {
		t.Errorf("the client read %v, and the journal holds %v", seen.Events, there)
	}
	tn.Want(t, 200, "GET", "/v1/runs/"+seen.RunID, nil)
}
