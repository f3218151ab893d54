package cluster_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

// agentos runs the command line and ends the test when it fails.
func agentos(t *testing.T, args ...string) string {
	t.Helper()
	out := harness.Command(t, 2*time.Minute, t.TempDir(), nil, append([]string{suite.Binary(t)}, args...)...)
	if out.Code != 0 {
		t.Fatalf("agentos %v: exit code %d\n%s\n%s", args, out.Code, out.Stdout, out.Stderr)
	}
	return out.Stdout
}

// adminFlags name node i and the administrator's key.
func adminFlags(t *testing.T, c *harness.Cluster, i int) []string {
	t.Helper()
	key := filepath.Join(t.TempDir(), "admin.key")
	if err := os.WriteFile(key, []byte(c.AdminKey(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"--api-url", c.Nodes[i].URL(), "--key-file", key}
}

// A backup that is taken under way becomes a new cluster with all that the old one had: keys, agents and runs; and others
// can join it.
func TestRestore_NewCluster(t *testing.T) {
	t.Parallel()
	c := harness.NewCluster(t, suite.Binary(t), &starter, 2)
	tn := harness.NewTenant(t, c.Admin(t, 0), nil)
	kept := tn.Create(t, "/say kept", nil)
	tn.Journal(t, kept)
	before := c.Describe(t, 0)
	file := filepath.Join(t.TempDir(), "acme.backup")
	agentos(t, append([]string{"backup", "--out", file}, adminFlags(t, c, 1)...)...)
	late := tn.Create(t, "/say too late", nil)
	tn.Journal(t, late)
	admin := c.AdminKey(t)
	seal := filepath.Join(c.Nodes[0].DataDir, "trust", "seal.key")
	c.Nodes[0].Kill(t)
	c.Nodes[1].Kill(t)

	restored := c.Restored(t, "stk_new")
	agentos(t, "restore", "--from", file, "--data-dir", restored.DataDir, "--seal-key-file", seal, "--stack-id", "stk_new")
	restored.Launch(t)
	restored.AwaitReady(t)
	at := restored.Client(tn.Key)
	at.Journal(t, kept)
	if a := at.Do(t, "GET", "/v1/runs/"+late, nil); a.Status != 404 {
		t.Errorf("a run that came after the backup: %d %s", a.Status, a.Body)
	}
	again := at.Want(t, 201, "POST", "/v1/agents/"+tn.Agent+"/runs", harness.Body("/say again", nil)).Str("run.run_id")
	at.Journal(t, again)
	after := restored.Client(admin).Want(t, 200, "GET", "/v1/admin/cluster", nil)
	for _, what := range []string{"cluster.cluster_id", "cluster.store_epoch"} {
		if after.Str(what) == before.Str(what) || after.Str(what) == "" {
			t.Errorf("%s is still %q", what, after.Str(what))
		}
	}
	if members, _ := after.At("cluster.members").([]any); len(members) != 1 {
		t.Errorf("members of the restored cluster: %s", after.Body)
	}
	joined := c.AddNode(t, "stk_second")
	joined.Client(tn.Key).Journal(t, kept)
	c.AwaitVoters(t, 2)
}

// A cluster that has lost most of its voters for good goes on with the one that is left.
func TestRecover_OneOfThree(t *testing.T) {
	t.Parallel()
	c := harness.NewCluster(t, suite.Binary(t), &starter, 3)
	tn := harness.NewTenant(t, c.Admin(t, 0), nil)
	kept := tn.Create(t, "/say kept", nil)
	tn.Journal(t, kept)
	c.Equal(t)
	c.AdminKey(t)
	left := c.Nodes[1]
	c.Nodes[0].Kill(t)
	c.Nodes[2].Kill(t)
	left.Kill(t)
	agentos(t, "cluster", "recover", "--data-dir", left.DataDir, "--yes-really")
	left.Launch(t)
	left.AwaitReady(t)
	at := left.Client(tn.Key)
	at.Journal(t, kept)
	again := at.Want(t, 201, "POST", "/v1/agents/"+tn.Agent+"/runs", harness.Body("/say again", nil)).Str("run.run_id")
	at.Journal(t, again)
	// The lost ones may come back only as new machines.
	c.Nodes[0].Launch(t)
	if code := c.Nodes[0].Wait(t); code == 0 {
		t.Error("a node that was left behind ended well")
	}
	c.Nodes[0].Wipe(t)
	c.Nodes[0].Launch(t)
	c.Nodes[0].AwaitReady(t)
	c.AwaitVoters(t, 2)
	c.Equal(t)
}
