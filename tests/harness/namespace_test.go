package harness_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

var suite harness.Suite

func TestMain(m *testing.M) { os.Exit(suite.Run(m)) }

// Inside Apart a test has an address that looks foreign, and may mount; outside it has neither.
func TestApart(t *testing.T) {
	if !harness.Apart(t, "/bin/true", time.Minute) {
		if l, err := net.Listen("tcp", harness.OutsideAddress+":0"); err == nil {
			_ = l.Close()
			t.Error("the address is this machine's outside, too")
		}
		return
	}
	l, err := net.Listen("tcp", harness.OutsideAddress+":80")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dir := t.TempDir()
	harness.MountMemory(t, dir, "1m")
	if err := os.WriteFile(filepath.Join(dir, "big"), make([]byte, 2<<20), 0o600); err == nil {
		t.Error("2 MB fit into 1 MB")
	}
}

// A suite that ends without a word leaves no process behind.
func TestSuite_Guard(t *testing.T) {
	if os.Getenv("AGENTOS_TEST_ORPHAN") != "" {
		orphan := exec.Command("sleep", "600")
		if err := orphan.Start(); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(os.Getenv("AGENTOS_TEST_ORPHAN"), []byte(os.TempDir()), 0o600); err != nil {
			t.Fatal(err)
		}
		panic("the end, without a word")
	}
	note := filepath.Join(t.TempDir(), "note")
	out := harness.Command(t, time.Minute, "", []string{"AGENTOS_TEST_ORPHAN=" + note}, "/proc/self/exe", "-test.run", "^TestSuite_Guard$")
	if out.Code == 0 || !strings.Contains(out.Stdout+out.Stderr, "without a word") {
		t.Fatalf("the inner suite did not die: %d", out.Code)
	}
	root, err := os.ReadFile(note)
	if err != nil {
		t.Fatal(err)
	}
	if !harness.Poll(20*time.Second, 20*time.Millisecond, func() bool {
		_, err := os.Stat(string(root))
		return len(harness.Holders(string(root))) == 0 && os.IsNotExist(err)
	}) {
		t.Errorf("left behind: %v, directory %s", harness.Holders(string(root)), root)
	}
}
