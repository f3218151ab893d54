package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nexixai/agentos/node/fleet"
)

// TestUp_access: access.json holds what the contract says, member by member and no other, and only its owner can read it
// and the keys that it names.
//
// Requirements: O3.
func TestUp_access(t *testing.T) {
	f, _ := mustUp(t)
	name := filepath.Join(f.StateDir(), "access.json")
	var access any
	raw := must[[]byte](t)(os.ReadFile(name))
	if err := json.Unmarshal(raw, &access); err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	names(access, "", got)
	want := map[string]bool{}
	for _, n := range []string{
		"mode", "state_dir", "organizations", "console_url", "observability", "observability.metrics_urls", "reports",
		"organizations.organization", "organizations.trust_domain", "organizations.ca_file", "organizations.nodes", "organizations.tenants",
		"organizations.nodes.stack_id", "organizations.nodes.region", "organizations.nodes.role", "organizations.nodes.api_url",
		"organizations.nodes.federation_url", "organizations.nodes.cluster_addr", "organizations.nodes.admin_url", "organizations.nodes.gossip_addr",
		"organizations.nodes.pid", "organizations.nodes.log_file", "organizations.nodes.data_dir",
		"organizations.tenants.tenant_id", "organizations.tenants.principals", "organizations.tenants.principals.principal_id",
		"organizations.tenants.principals.role", "organizations.tenants.principals.key_file",
	} {
		want[n] = true
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("members of access.json:\n%s", diff)
	}

	a := must[*fleet.Access](t)(fleet.ReadAccess(f.StateDir()))
	var roles []string
	for _, tenant := range a.Organizations[0].Tenants {
		for _, p := range tenant.Principals {
			roles = append(roles, tenant.ID+" "+p.Role)
			private(t, p.KeyFile)
			key := string(must[[]byte](t)(os.ReadFile(p.KeyFile)))
			if !strings.HasPrefix(key, "aos_") || strings.Count(key, "\n") != 1 || !strings.HasSuffix(key, "\n") {
				t.Errorf("%s holds no single key", p.KeyFile)
			}
			if strings.Contains(string(raw), strings.TrimSpace(key)) {
				t.Error("access.json holds a secret")
			}
		}
	}
	if diff := cmp.Diff([]string{"tnt_demo tenant_user", "tnt_demo tenant_admin", "tnt_demo platform_admin", "tnt_isolation tenant_user"}, roles); diff != "" {
		t.Error(diff)
	}
	private(t, name)
	if len(a.Reports) != 1 || !strings.HasSuffix(a.Reports[0], ".json") {
		t.Errorf("reports %q", a.Reports)
	}
}

// names collects the dotted names of an object's members, whatever lists they stand in.
func names(v any, under string, into map[string]bool) {
	switch v := v.(type) {
	case map[string]any:
		for name, inner := range v {
			into[under+name] = true
			names(inner, under+name+".", into)
		}
	case []any:
		for _, inner := range v {
			names(inner, under, into)
		}
	}
}

func private(t *testing.T, name string) {
	t.Helper()
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("%s has mode %v", name, info.Mode())
	}
}

// TestReports: every action leaves a report for people and one for programs, which say where it ran, what it found and
// what to do, and hold no secret.
//
// Requirements: O4.
func TestReports(t *testing.T) {
	f, as := mustUp(t)
	as("tnt_demo", roleUser) // the keys are there
	for action, do := range map[string]func(context.Context) (*fleet.Report, error){"validate": f.Validate, "redeploy": f.Redeploy} {
		if _, err := do(t.Context()); err != nil {
			t.Fatalf("%s: %v", action, err)
		}
	}
	if err := kill(f, "stk_acme_node_01"); err != nil {
		t.Fatal(err)
	}
	failed, err := f.Validate(t.Context())
	if err == nil || failed.Result != "failed" || len(failed.Remedies) == 0 || len(failed.LastLog) == 0 {
		t.Errorf("validate of a dead node: %v, %+v", err, failed)
	}
	if _, err := f.Nuke(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(filepath.Dir(f.StateDir()), "reports")
	keys := must[[]string](t)(filepath.Glob(filepath.Join(f.StateDir(), "keys", "*.key")))
	stamp := regexp.MustCompile(`^(up|validate|redeploy|nuke)-\d{8}-\d{6}\.(md|json)$`)
	seen := map[string]int{}
	for _, e := range must[[]os.DirEntry](t)(os.ReadDir(dir)) {
		m := stamp.FindStringSubmatch(e.Name())
		if m == nil {
			t.Errorf("a report is called %s", e.Name())
			continue
		}
		seen[m[1]+"."+m[2]]++
		text := string(must[[]byte](t)(os.ReadFile(filepath.Join(dir, e.Name()))))
		for _, k := range keys {
			if strings.Contains(text, strings.TrimSpace(string(must[[]byte](t)(os.ReadFile(k))))) {
				t.Errorf("%s holds the secret of %s", e.Name(), k)
			}
		}
		if m[2] == "json" {
			report(t, m[1], text)
		}
	}
	want := map[string]int{"up.md": 1, "up.json": 1, "validate.md": 2, "validate.json": 2, "redeploy.md": 1, "redeploy.json": 1, "nuke.md": 1, "nuke.json": 1}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Error(diff)
	}
}

// report looks at one report for programs.
func report(t *testing.T, action, text string) {
	t.Helper()
	var r map[string]any
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"action", "result", "started_at", "host", "build", "mode", "ports", "phases", "alerts", "remediation"} {
		if r[name] == nil || r[name] == "" {
			t.Errorf("the report of %s lacks %s", action, name)
		}
	}
	ports, _ := r["ports"].([]any)
	for _, p := range ports {
		want := "ours"
		if r["result"] == "failed" || action == "nuke" {
			want = "free"
		}
		if state := p.(map[string]any)["state"]; state != want {
			t.Errorf("the report of %s says of a port that it's %v", action, state)
		}
	}
	if len(ports) != 6 {
		t.Errorf("the report of %s has %d ports", action, len(ports))
	}
	if r["result"] == "failed" || action == "nuke" {
		return
	}
	for _, name := range []string{"nodes", "checks", "smoke_tests", "tenants", "advice"} {
		if list, _ := r[name].([]any); len(list) == 0 {
			t.Errorf("the report of %s has no %s", action, name)
		}
	}
	if r["seeded"] == nil || r["access"] == nil {
		t.Errorf("the report of %s lacks what was seeded, or where", action)
	}
}
