package federation_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nexixai/agentos/tests/harness"
)

// summarizer is the agent that only globex has.
const summarizer = "agt_globex_summarizer_v1"

// upDefault is a deployment as `agentos up` makes it when nothing is asked for but a place.
func upDefault(t *testing.T, shape ...string) *harness.Deployment {
	t.Helper()
	d := harness.NewDeployment(t, suite.Binary(t))
	d.Shape = append([]string{}, shape...)
	out := d.Up(t)
	var printed, kept any
	raw, err := os.ReadFile(filepath.Join(d.StateDir, "access.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(out.Stdout), &printed); err != nil {
		t.Fatalf("up --output json prints no JSON: %v\n%s", err, out.Stdout)
	}
	if err := json.Unmarshal(raw, &kept); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(printed) != fmt.Sprint(kept) {
		t.Errorf("up prints another access.json than it keeps:\n%v\n%v", printed, kept)
	}
	return d
}

// user is a client of a node with the key of the default tenant's user.
func user(t *testing.T, o harness.Organization, node int) *harness.Client {
	t.Helper()
	c := harness.NewClient(o.Nodes[node].APIURL, o.Key(t, "tnt_demo", "tenant_user"))
	t.Cleanup(c.Close)
	return c
}

// sameEvents follows a run at a node and wants the journal that was seen elsewhere.
func sameEvents(t *testing.T, o harness.Organization, node int, runID string, want []harness.Event) {
	t.Helper()
	got := user(t, o, node).Journal(t, runID)
	if len(got) != len(want) {
		t.Fatalf("%s tells %d events of %s, want %d", o.Nodes[node].StackID, len(got), runID, len(want))
	}
	for i, e := range got {
		if e.ID != want[i].ID || e.Raw != want[i].Raw {
			t.Errorf("%s: event %d of %s differs:\n%s\n%s", o.Nodes[node].StackID, i+1, runID, e.Raw, want[i].Raw)
		}
	}
}

// Two organisations on one machine: what the first command leaves, and what it is for.
//
// Requirements: V1, V2, P3, P5, O2, O3, O5, Q4.
func TestUp_TwoOrganisations(t *testing.T) {
	t.Parallel()
	d := upDefault(t)
	looksRight(t, d)
	acme, globex := d.Org(t, "acme"), d.Org(t, "globex")

	// The run of the README: acme asks, globex works, acme sees it whole.
	out := d.CLI(t, "runs", "create", "--org", "acme", "--agent", summarizer, "--text", "two organisations", "--watch")
	if out.Code != 0 || !strings.Contains(out.Stdout, "run.forwarded") || !strings.Contains(out.Stdout, "run.completed") || !strings.HasSuffix(out.Stdout, "echo: two organisations\n") {
		t.Fatalf("runs create --org acme: exit code %d\n%s\n%s", out.Code, out.Stdout, out.Stderr)
	}

	// Any node of acme takes the run and serves it; a key is good for one run, at whichever node it comes.
	run := map[string]any{"input": map[string]any{"type": "text", "text": "once"}}
	made := user(t, acme, 1).Want(t, 201, "POST", "/v1/agents/"+summarizer+"/runs", run, "Idempotency-Key", "once")
	runID := made.Str("run.run_id")
	again := user(t, acme, 2).Want(t, 200, "POST", "/v1/agents/"+summarizer+"/runs", run, "Idempotency-Key", "once")
	if again.Str("run.run_id") != runID || again.Header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("the same key at another node: %s", again.Body)
	}
	events := user(t, acme, 1).Journal(t, runID)
	types := harness.Types(events)
	if types[0] != "run.created" || types[len(types)-1] != "run.completed" || !slices.Contains(types, "run.forwarded") {
		t.Errorf("the run's events are %v", types)
	}
	for node := range acme.Nodes {
		sameEvents(t, acme, node, runID, events)
	}
	sameEvents(t, globex, 0, runID, events)
	at := user(t, acme, 0).Want(t, 200, "GET", "/v1/runs/"+runID, nil)
	if at.Str("run.placement.organization") != "globex" || at.Str("run.output.text") != "echo: once" {
		t.Errorf("the run at acme: %s", at.Body)
	}
	where := user(t, acme, 0).As(acme.Key(t, "tnt_demo", "tenant_admin")).Want(t, 200, "POST", "/v1/federation/routes:explain", map[string]any{"run_request": map[string]any{"agent_id": summarizer}})
	if where.Str("decision.target") != globex.Nodes[0].StackID || where.Str("decision.route_id") != "rte_globex_summarizer" {
		t.Errorf("routes:explain: %s", where.Body)
	}

	// Again: nothing changes.
	before := d.Access
	again2 := d.Up(t)
	if strings.Contains(again2.Stderr, " made") || strings.Contains(again2.Stderr, "is starting") {
		t.Errorf("a second up made something:\n%s", again2.Stderr)
	}
	for i, o := range d.Access.Organizations {
		if fmt.Sprint(o) != fmt.Sprint(before.Organizations[i]) {
			t.Errorf("a second up changed access.json:\n%v\n%v", before.Organizations[i], o)
		}
	}
	valid(t, d)

	// globex is gone: acme still serves what came from there, and validate says what is wrong.
	d.KillNode(t, globex.Nodes[0])
	for node := range acme.Nodes {
		sameEvents(t, acme, node, runID, events)
		if a := user(t, acme, node).Want(t, 200, "GET", "/v1/runs/"+runID, nil); a.Str("run.output.text") != "echo: once" {
			t.Errorf("%s: %s", acme.Nodes[node].StackID, a.Body)
		}
	}
	out = d.CLI(t, "validate")
	if out.Code == 0 || !strings.Contains(out.Stdout, "FAILED") || !strings.Contains(out.Stderr, "stk_globex_node_01") {
		t.Errorf("validate without globex: exit code %d\n%s\n%s", out.Code, out.Stdout, out.Stderr)
	}
	if out = d.CLI(t, "status"); out.Code != 7 || !strings.Contains(out.Stdout, "stopped") {
		t.Errorf("status without globex: exit code %d\n%s", out.Code, out.Stdout)
	}
	d.Up(t)
	if now := d.Org(t, "globex").Nodes[0].Pid; now == globex.Nodes[0].Pid || d.Org(t, "acme").Nodes[0].Pid != acme.Nodes[0].Pid {
		t.Errorf("up after the kill: globex is process %d, and was %d", now, globex.Nodes[0].Pid)
	}
	valid(t, d)

	// One of acme's nodes is gone, the first: its own checks fail and no other.
	d.KillNode(t, d.Org(t, "acme").Nodes[0])
	onlyItsOwn(t, d.CLI(t, "validate"), acme.Nodes[0].StackID)
}

// onlyItsOwn wants of a validation that the five health checks of one node failed, each told once under way and once in the
// table, and summed up in one line.
func onlyItsOwn(t *testing.T, out harness.Outcome, stackID string) {
	t.Helper()
	if out.Code != 1 || !strings.Contains(out.Stderr, "error: validate: 5 of 41 checks failed\n") || strings.Count(out.Stderr, " FAILED: ") != 5 || strings.Contains(out.Stderr, "the last lines") {
		t.Errorf("validate without %s: exit code %d\n%s", stackID, out.Code, out.Stderr)
	}
	failed := 0
	for line := range strings.Lines(out.Stdout) {
		if !strings.Contains(line, " FAILED ") {
			continue
		}
		failed++
		if !strings.HasPrefix(line, stackID+" /") {
			t.Errorf("without %s, another check fails: %s", stackID, line)
		}
	}
	if failed != 5 {
		t.Errorf("without %s, %d checks fail, want 5:\n%s", stackID, failed, out.Stdout)
	}
}

// looksRight holds access.json, the files it names and the report against what a deployment is to be.
func looksRight(t *testing.T, d *harness.Deployment) {
	t.Helper()
	shape := ""
	for _, o := range d.Access.Organizations {
		shape += fmt.Sprintf("%s %d: ", o.Organization, len(o.Nodes))
		for _, tenant := range o.Tenants {
			shape += tenant.TenantID
			for _, p := range tenant.Principals {
				shape += " " + p.Role
				if info, err := os.Stat(p.KeyFile); err != nil || info.Mode().Perm() != 0o600 {
					t.Errorf("key file %s: %v, %v", p.KeyFile, info, err)
				}
			}
			shape += ", "
		}
		if pem, err := os.ReadFile(o.CAFile); err != nil || !strings.Contains(string(pem), "CERTIFICATE") {
			t.Errorf("CA of %s: %v", o.Organization, err)
		}
	}
	const tenants = "tnt_demo tenant_user tenant_admin platform_admin, tnt_isolation tenant_user, "
	if want := "acme 3: " + tenants + "globex 1: " + tenants; shape != want {
		t.Errorf("access.json tells of\n%s\nwant\n%s", shape, want)
	}
	if d.Access.Organizations[0].TrustDomain == d.Access.Organizations[1].TrustDomain {
		t.Error("both organisations are one trust domain")
	}
	if info, err := os.Stat(filepath.Join(d.StateDir, "access.json")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("access.json: %v, %v", info, err)
	}
	reports, _ := filepath.Glob(filepath.Join(d.Dir, "reports", "up-*.md"))
	if len(reports) == 0 {
		t.Fatal("up left no report")
	}
	text, err := os.ReadFile(reports[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, what := range []string{
		"stk_acme_node_03", "stk_globex_node_01", "## Peerings", "prg_", summarizer, "rte_globex_summarizer", "## Credentials", "globex.tnt_demo.tenant_user.key",
		"keys rotate", "tenants create", "quotas", "a run goes there and its events come back", "## Alerts",
	} {
		if !strings.Contains(string(text), what) {
			t.Errorf("the report doesn't tell of %q:\n%s", what, text)
		}
	}
	for _, o := range d.Access.Organizations {
		if key := o.Key(t, "tnt_demo", "platform_admin"); strings.Contains(string(text), key) {
			t.Error("the report holds a key")
		}
	}
}

func valid(t *testing.T, d *harness.Deployment) {
	t.Helper()
	out := d.CLI(t, "validate")
	if out.Code != 0 || !strings.Contains(out.Stdout, "both organisations tell the same journal") {
		t.Errorf("validate: exit code %d\n%s\n%s", out.Code, out.Stdout, out.Stderr)
	}
}

// A redeploy restarts the nodes of both sides under a run that goes across, and the run ends once, whole.
//
// Requirements: P5, O6.
func TestRedeploy_KeepsForwardedRun(t *testing.T) {
	t.Parallel()
	d := upDefault(t, "--nodes", "1")
	acme := d.Org(t, "acme")
	run := map[string]any{"input": map[string]any{"type": "text", "text": "/wait 4s\n/say kept"}}
	runID := user(t, acme, 0).Want(t, 201, "POST", "/v1/agents/"+summarizer+"/runs", run).Str("run.run_id")
	if out := d.CLI(t, "redeploy"); out.Code != 0 {
		t.Fatalf("redeploy: exit code %d\n%s\n%s", out.Code, out.Stdout, out.Stderr)
	}
	events := user(t, acme, 0).Journal(t, runID)
	if last := events[len(events)-1]; last.Str("output.text") != "kept" {
		t.Errorf("the run ended %s", last.Raw)
	}
	sameEvents(t, d.Org(t, "globex"), 0, runID, events)

	if out := d.CLI(t, "restart", "stk_globex_node_01"); out.Code != 0 {
		t.Errorf("restart of globex's node: exit code %d\n%s\n%s", out.Code, out.Stdout, out.Stderr)
	}
	if out := d.CLI(t, "logs", "stk_globex_node_01", "--lines", "3"); out.Code != 0 || !strings.Contains(out.Stdout, "stk_globex_node_01") {
		t.Errorf("logs: exit code %d\n%s", out.Code, out.Stdout)
	}

	// What somebody ended on purpose is not begun again by up, and validate says so.
	var list struct {
		Peerings []struct {
			ID string `json:"peering_id"`
		} `json:"peerings"`
	}
	out := d.CLI(t, "peering", "list", "--org", "globex", "--output", "json")
	if err := json.Unmarshal([]byte(out.Stdout), &list); err != nil || len(list.Peerings) != 1 {
		t.Fatalf("peering list: %v\n%s\n%s", err, out.Stdout, out.Stderr)
	}
	id := list.Peerings[0].ID
	if out := d.CLI(t, "peering", "suspend", id, "--org", "globex"); out.Code != 0 {
		t.Fatalf("peering suspend: %d %s", out.Code, out.Stderr)
	}
	out = d.CLI(t, "up")
	if out.Code == 0 || !strings.Contains(out.Stderr, "agentos peering resume "+id) {
		t.Errorf("up with a suspended peering: exit code %d\n%s", out.Code, out.Stderr)
	}
	if out := d.CLI(t, "peering", "resume", id, "--org", "globex"); out.Code != 0 {
		t.Fatalf("peering resume: %d %s", out.Code, out.Stderr)
	}
	if out := d.CLI(t, "up"); out.Code != 0 {
		t.Errorf("up after the resumption: exit code %d\n%s", out.Code, out.Stderr)
	}

	if out := d.CLI(t, "nuke", "--yes-really", "--hard"); out.Code != 0 || len(harness.Holders(d.StateDir)) != 0 {
		t.Errorf("nuke: exit code %d, left are %v\n%s", out.Code, harness.Holders(d.StateDir), out.Stderr)
	}
}

// Up to five organisations: each is paired with acme, and takes its runs.
//
// Requirements: V1, O1.
func TestUp_FiveOrganisations(t *testing.T) {
	t.Parallel()
	d := upDefault(t, "--orgs", "5", "--nodes", "1")
	var names []string
	for _, o := range d.Access.Organizations {
		names = append(names, o.Organization)
	}
	if want := []string{"acme", "globex", "initech", "umbrella", "hooli"}; !slices.Equal(names, want) {
		t.Errorf("organisations %v, want %v", names, want)
	}
	out := d.CLI(t, "validate")
	for _, name := range names[1:] {
		if !strings.Contains(out.Stdout, "acme and "+name+": both organisations tell the same journal") {
			t.Errorf("validate does not try %s:\n%s", name, out.Stdout)
		}
	}
	if out.Code != 0 {
		t.Errorf("validate: exit code %d\n%s\n%s", out.Code, out.Stdout, out.Stderr)
	}
}
