package onenode_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

// The first hour with the product: up, a first run, up again, status, validate, redeploy, nuke.
//
// Requirements: V1, N1, O1, O2, O3, O4, O6, Q4.
func TestUp_FirstHour(t *testing.T) {
	t.Parallel()
	d := harness.Up(t, suite.Binary(t))
	pid := d.Pid()

	// The first run, as the README tells it.
	out := d.CLI(t, "runs", "create", "--agent", "agt_sample_echo_v1", "--text", "hello", "--watch")
	if out.Code != 0 {
		t.Fatalf("runs create: exit code %d\n%s\n%s", out.Code, out.Stdout, out.Stderr)
	}
	at := 0
	for _, what := range []string{"run.created", "run.started", "run.step.started", "model.requested", "model.completed", "run.step.completed", "run.completed", "echo: hello"} {
		i := strings.Index(out.Stdout[at:], what)
		if i < 0 {
			t.Fatalf("no %q after byte %d of\n%s", what, at, out.Stdout)
		}
		at += i
	}

	// Up again changes nothing.
	before := d.Access
	d.Up(t)
	if d.Pid() != pid {
		t.Errorf("a second up started another process: %d, then %d", pid, d.Pid())
	}
	a, b := d.Access, before
	a.Reports, b.Reports = nil, nil
	if x, y := asJSON(t, a), asJSON(t, b); x != y {
		t.Errorf("a second up changed access.json:\n%s\n%s", y, x)
	}

	for _, args := range [][]string{{"status"}, {"validate"}, {"status", "--output", "json"}, {"validate", "--output", "json"}, {"logs", d.Node().StackID}, {"agents", "list"}, {"runs", "list"}, {"models"}, {"version"}} {
		if args[0] == "version" {
			if out := harness.Command(t, time.Minute, d.Dir, nil, d.Binary, "version"); out.Code != 0 || out.Stdout == "" {
				t.Errorf("version: %d %q %q", out.Code, out.Stdout, out.Stderr)
			}
			continue
		}
		out := d.CLI(t, args...)
		if out.Code != 0 || out.Stdout == "" {
			t.Errorf("%v: exit code %d\n%s\n%s", args, out.Code, out.Stdout, out.Stderr)
		}
		if slices.Contains(args, "json") && !json.Valid([]byte(out.Stdout)) {
			t.Errorf("%v prints no JSON:\n%s", args, out.Stdout)
		}
	}

	// Redeploy keeps what was there, and drops no accepted run.
	c := d.Client(d.Key(t, "tnt_demo", "tenant_user"))
	run := c.Want(t, 201, "POST", "/v1/agents/agt_sample_echo_v1/runs", harness.Body("/wait 3s\n/say kept", nil)).Str("run.run_id")
	if out := d.CLI(t, "redeploy"); out.Code != 0 {
		t.Fatalf("redeploy: exit code %d\n%s\n%s", out.Code, out.Stdout, out.Stderr)
	}
	d.Up(t)
	events := d.Client(c.Key).Journal(t, run)
	if last := events[len(events)-1]; last.Str("output.text") != "kept" {
		t.Errorf("the run ended %s", last.Raw)
	}
	reports(t, d, "up", "validate", "redeploy")
	nuke(t, d)
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func reports(t *testing.T, d *harness.Deployment, actions ...string) {
	t.Helper()
	for _, action := range actions {
		for _, ext := range []string{".md", ".json"} {
			files, err := filepath.Glob(filepath.Join(d.Dir, "reports", action+"-????????-??????*"+ext))
			if err != nil || len(files) == 0 {
				t.Errorf("no report %s…%s (%v)", action, ext, err)
				continue
			}
			text, err := os.ReadFile(files[0])
			if err != nil || len(text) < 200 || ext == ".json" && !json.Valid(text) {
				t.Errorf("report %s: %d bytes, %v", files[0], len(text), err)
			}
		}
	}
}

func nuke(t *testing.T, d *harness.Deployment) {
	t.Helper()
	pid := d.Pid()
	if out := d.CLI(t, "nuke"); out.Code == 0 || !harness.Alive(pid) {
		t.Errorf("nuke without its assurance: exit code %d, node alive %v", out.Code, harness.Alive(pid))
	}
	if out := d.CLI(t, "nuke", "--yes-really"); out.Code != 0 {
		t.Errorf("nuke: exit code %d\n%s", out.Code, out.Stderr)
	}
	if harness.Alive(pid) || len(harness.Holders(d.StateDir)) != 0 {
		t.Errorf("processes are left: %v", harness.Holders(d.StateDir))
	}
	if _, err := os.Stat(d.Node().DataDir); err != nil {
		t.Errorf("nuke without --hard took the data: %v", err)
	}
	if out := d.CLI(t, "nuke", "--yes-really", "--hard"); out.Code != 0 {
		t.Errorf("nuke --hard: exit code %d\n%s", out.Code, out.Stderr)
	}
	if _, err := os.Stat(d.Node().DataDir); !os.IsNotExist(err) {
		t.Errorf("nuke --hard left the data: %v", err)
	}
	reports(t, d, "nuke")
}

// validate says so when something is broken: a check that can't fail would check nothing.
//
// Requirements: O5, Q4.
func TestValidate_Broken(t *testing.T) {
	t.Parallel()
	d := harness.Up(t, suite.Binary(t))
	d.Kill(t)
	if out := d.CLI(t, "validate"); out.Code == 0 {
		t.Errorf("validate passes on a dead node:\n%s", out.Stdout)
	}
	if out := d.CLI(t, "status"); out.Code == 0 && !strings.Contains(strings.ToLower(out.Stdout), "dead") && !strings.Contains(strings.ToLower(out.Stdout), "down") && !strings.Contains(strings.ToLower(out.Stdout), "unreachable") && !strings.Contains(strings.ToLower(out.Stdout), "stopped") {
		t.Errorf("status of a dead node: %d\n%s", out.Code, out.Stdout)
	}
	if out := d.CLI(t, "runs", "list"); out.Code == 0 {
		t.Errorf("runs list against a dead node: exit code 0\n%s", out.Stdout)
	}
	d.Up(t) // a killed node is started again by the next up
	if out := d.CLI(t, "validate"); out.Code != 0 {
		t.Errorf("validate after the restart: %d\n%s\n%s", out.Code, out.Stdout, out.Stderr)
	}
}

// The command line tells success from failure: a run that failed, a run that isn't there, a stream that was cut.
//
// Requirements: O1.
func TestCLI_ExitCodes(t *testing.T) {
	t.Parallel()
	d := suite.Shared(t)
	for name, c := range map[string]struct {
		args []string
		code int
	}{
		"a good run":    {[]string{"runs", "create", "--agent", "agt_sample_echo_v1", "--text", "hi", "--watch"}, 0},
		"a failed run":  {[]string{"runs", "create", "--agent", "agt_sample_echo_v1", "--text", "/error policy_blocked", "--watch"}, 8},
		"no such run":   {[]string{"runs", "get", "run_none"}, 3},
		"no such agent": {[]string{"runs", "create", "--agent", "agt_none", "--text", "x"}, 3},
		"no text":       {[]string{"runs", "create", "--agent", "agt_sample_echo_v1"}, 2},
		"no such flag":  {[]string{"runs", "list", "--wrong"}, 2},
		"no such node":  {[]string{"runs", "list", "--api-url", "http://127.0.0.1:1"}, 7},
	} {
		out := d.CLI(t, c.args...)
		if out.Code != c.code {
			t.Errorf("%s: exit code %d, want %d\n%s\n%s", name, out.Code, c.code, out.Stdout, out.Stderr)
		}
		if c.code != 0 && name != "a failed run" && (!strings.Contains(out.Stderr, "agentos: error:") || out.Stdout != "") {
			t.Errorf("%s: stderr %q, stdout %q", name, out.Stderr, out.Stdout)
		}
	}
	created := d.CLI(t, "runs", "create", "--agent", "agt_sample_echo_v1", "--text", "/wait 10m", "--output", "json")
	id, _ := harness.At(harness.Decode([]byte(created.Stdout)), "run.run_id").(string)
	if id == "" {
		t.Fatalf("runs create --output json: %s %s", created.Stdout, created.Stderr)
	}
	if out := d.CLI(t, "runs", "cancel", id); out.Code != 0 {
		t.Errorf("runs cancel: %d %s", out.Code, out.Stderr)
	}
	if out := d.CLI(t, "runs", "watch", id); out.Code != 8 || !strings.Contains(out.Stdout, "run.canceled") {
		t.Errorf("runs watch of a canceled run: %d\n%s", out.Code, out.Stdout)
	}
	if out := d.CLI(t, "runs", "get", id, "--output", "json"); out.Code != 0 || !strings.Contains(out.Stdout, `"canceled"`) {
		t.Errorf("runs get: %d %s", out.Code, out.Stdout)
	}
}
