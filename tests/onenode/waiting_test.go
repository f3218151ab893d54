package onenode_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

// awaitWaiting asks until the run says what it waits for, and returns that answer.
func awaitWaiting(t *testing.T, c *harness.Client, runID string) harness.Answer {
	t.Helper()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for end := time.Now().Add(soon); ; <-again.C {
		a := c.Want(t, 200, "GET", "/v1/runs/"+runID, nil)
		if a.At("run.waiting") != nil {
			return a
		}
		if time.Now().After(end) {
			t.Fatalf("run %s waits for nothing: %s", runID, a.Body)
		}
	}
}

// keyFile keeps a fresh key of the tenant for the command line.
func keyFile(t *testing.T, tn *harness.Tenant) string {
	t.Helper()
	a := tn.Root.Want(t, 201, "POST", "/v1/admin/tenants/"+tn.ID+"/keys", map[string]any{
		"principal_id": "usr_hands", "principal_type": "user", "roles": []string{"tenant_admin"},
	})
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte(a.Str("key.secret")), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// hands shows a run with the command line, alone and in the list, and wants these words in each.
func hands(t *testing.T, tn *harness.Tenant, url, runID, alone, listed string) {
	t.Helper()
	key := keyFile(t, tn)
	for want, args := range map[string][]string{alone: {"runs", "get", runID}, listed: {"runs", "list"}} {
		argv := append(append([]string{suite.Binary(t)}, args...), "--api-url", url, "--key-file", key)
		out := harness.Command(t, time.Minute, t.TempDir(), nil, argv...)
		if out.Code != 0 || !strings.Contains(out.Stdout, want) {
			t.Errorf("%v: exit code %d, without %q:\n%s%s", args, out.Code, want, out.Stdout, out.Stderr)
		}
	}
}

// end cancels the run, which then waits for nothing any more.
func end(t *testing.T, c *harness.Client, runID string) {
	t.Helper()
	c.Want(t, 200, "POST", "/v1/runs/"+runID+":cancel", nil)
	c.Journal(t, runID)
	if a := c.Want(t, 200, "GET", "/v1/runs/"+runID, nil); harness.Has(a.At("run"), "waiting") {
		t.Errorf("a run that has ended waits: %s", a.Body)
	}
}

// A run whose next step has to wait for a limit of its tenant says for which, and until when; nothing is written into its
// journal for that.
//
// Requirements: T4.
func TestWaiting_Quota(t *testing.T) {
	t.Parallel()
	const limit = "tool_calls_per_minute"
	quotas := harness.Wide()
	quotas["tools"] = map[string]any{limit: 1}
	tn := suite.Tenant(t, quotas)
	before := time.Now()
	id := tn.Create(t, "/call tool.echo {}\n/call tool.echo {}\n/say on", nil)
	a := awaitWaiting(t, tn.Client, id)
	if a.Str("run.status") != "running" || a.Str("run.waiting.for") != "quota" || a.Str("run.waiting.limit") != limit {
		t.Errorf("waiting: %s", a.Body)
	}
	until, err := time.Parse(time.RFC3339Nano, a.Str("run.waiting.until"))
	if err != nil || until.Before(before) || until.After(before.Add(62*time.Second+soon)) {
		t.Errorf("until %v (%v), begun at %v", until, err, before)
	}
	if list := tn.Want(t, 200, "GET", "/v1/runs?status=running", nil); harness.At(list.At("runs.0"), "waiting.limit") != limit {
		t.Errorf("the list: %s", list.Body)
	}
	hands(t, tn, suite.Shared(t).Node().APIURL, id, "the tenant's quota "+limit+", until 20", "waits for "+limit)
	end(t, tn.Client, id)
}

// A run that no node has room for says that it waits for a worker, and nothing once it's being worked on.
func TestWaiting_Worker(t *testing.T) {
	t.Parallel()
	c := harness.NewCluster(t, suite.Binary(t), &starter, 1, "--workers=1")
	tn := harness.NewTenant(t, c.Admin(t, 0), nil)
	first := tn.Create(t, "/wait 10m", nil)
	awaitEvent(t, tn.Client, first, "model.requested")
	second := tn.Create(t, "/wait 10m", nil)
	a := awaitWaiting(t, tn.Client, second)
	if a.Str("run.status") != "queued" || a.Str("run.waiting.for") != "worker" || harness.Has(a.At("run.waiting"), "until") {
		t.Errorf("waiting: %s", a.Body)
	}
	if a := tn.Want(t, 200, "GET", "/v1/runs/"+first, nil); harness.Has(a.At("run"), "waiting") {
		t.Errorf("a run that is being worked on waits: %s", a.Body)
	}
	hands(t, tn, c.Nodes[0].URL(), second, "a node that has room for it; agentos cluster status", "waits for worker")
	end(t, tn.Client, first)
	awaitEvent(t, tn.Client, second, "model.requested")
	if a := tn.Want(t, 200, "GET", "/v1/runs/"+second, nil); harness.Has(a.At("run"), "waiting") {
		t.Errorf("a run that is being worked on waits: %s", a.Body)
	}
	end(t, tn.Client, second)
}
