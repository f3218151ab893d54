package cluster_test

import (
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nexixai/agentos/tests/harness"
)

// agentos runs the command line and ends the test when it fails.
func agentos(t *testing.T, args ...string) string {
	t.Helper()
	return agentosOf(t, suite.Binary(t), args...)
}

// agentosOf is agentos of another release.
func agentosOf(t *testing.T, binary string, args ...string) string {
	t.Helper()
	out := harness.Command(t, 2*time.Minute, t.TempDir(), nil, append([]string{binary}, args...)...)
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
//
// Requirements: N7.
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

// refusedRestore makes the attempt that args tell, which must end with this code and these words, and leave nothing.
func refusedRestore(t *testing.T, binary, dir string, code int, words string, args ...string) {
	t.Helper()
	out := harness.Command(t, bound, t.TempDir(), nil, append([]string{binary, "restore", "--data-dir", dir}, args...)...)
	if out.Code != code || !strings.Contains(out.Stderr, words) || !strings.Contains(out.Stderr, "hint: ") || strings.Contains(out.Stderr, "--as") {
		t.Errorf("restore %v: exit code %d, not %d with %q:\n%s", args, out.Code, code, words, out.Stderr)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("restore %v was refused, and %s is there (%v)", args, dir, err)
	}
}

// notStarted checks that no way of starting a node makes one of the directory.
func notStarted(t *testing.T, binary, dir string) {
	t.Helper()
	for _, extra := range [][]string{nil, {"--init"}} {
		out := harness.Command(t, bound, t.TempDir(), nil, append([]string{binary, "node", "run", "--data-dir", dir}, extra...)...)
		if out.Code != 2 || !strings.Contains(out.Stderr, "a restore that was cut short") {
			t.Errorf("node run %v on a restore that was cut short: exit code %d\n%s", extra, out.Code, out.Stderr)
		}
	}
}

// A restore that is refused leaves nothing that could be started; one that is killed leaves what no node starts on; and
// either is made good by restoring again.
//
// Requirements: N7.
func TestRestore_Refused(t *testing.T) {
	t.Parallel()
	later, old := stamped(t, "2.00.0", 2), suite.Binary(t)
	c := harness.NewCluster(t, later, &starter, 1)
	tn := harness.NewTenant(t, c.Admin(t, 0), nil)
	kept := tn.Create(t, "/say kept", nil)
	tn.Journal(t, kept)
	announced(t, c, 0, 2, 2)
	dir := t.TempDir()
	file, cut, wrong := filepath.Join(dir, "acme.backup"), filepath.Join(dir, "cut.backup"), filepath.Join(dir, "wrong.key")
	agentos(t, append([]string{"backup", "--out", file}, adminFlags(t, c, 0)...)...)
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{cut: whole[:len(whole)/2], wrong: []byte(base64.StdEncoding.EncodeToString(make([]byte, 32)))} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	seal := filepath.Join(c.Nodes[0].DataDir, "trust", "seal.key")
	c.Nodes[0].Kill(t)

	restored := c.Restored(t, "stk_new")
	at := restored.DataDir
	refusedRestore(t, old, at, 5, "is at version 2", "--from", file, "--seal-key-file", seal)
	refusedRestore(t, later, at, 4, "does not open the CA's key", "--from", file, "--seal-key-file", wrong)
	refusedRestore(t, later, at, 1, "the backup is damaged or cut short", "--from", cut, "--seal-key-file", seal)

	pipe := filepath.Join(dir, "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	p := starter.Launch(t, dir, nil, []string{later, "restore", "--data-dir", at, "--from", pipe, "--seal-key-file", seal})
	w, err := os.OpenFile(pipe, os.O_RDWR, 0) // which waits for no reader
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	go func() { _, _ = w.Write(whole[:len(whole)/2]) }()
	if !harness.Poll(bound, 20*time.Millisecond, func() bool {
		made, _ := filepath.Glob(filepath.Join(at, "restoring", "store", "st", "*", "*"))
		return len(made) > 0
	}) {
		t.Fatalf("the restore has not begun:\n%s", p.Output())
	}
	p.Signal(t, syscall.SIGKILL)
	p.Wait(t, bound)
	notStarted(t, old, at)
	notStarted(t, later, at)

	restored.Binary = later
	agentosOf(t, later, "restore", "--from", file, "--data-dir", at, "--seal-key-file", seal, "--stack-id", "stk_new")
	restored.Launch(t)
	restored.AwaitReady(t)
	restored.Client(tn.Key).Journal(t, kept)
}

// A cluster that has lost most of its voters for good goes on with the one that is left.
//
// Requirements: N7.
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
