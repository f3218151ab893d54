package replica_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/replica"
)

// Some tests need a process of their own: to kill it, to see it end itself, or because what they break stays broken. The
// test binary runs itself again with childEnv naming the part to play.
const childEnv = "REPLICA_TEST_CHILD"

// long asks for the long forms of the loops, as in the other suites of faults.
func long() bool { return os.Getenv("AGENTOS_FAULTS") == "full" }

func TestMain(m *testing.M) {
	if part := os.Getenv(childEnv); part != "" {
		parts := map[string]func() error{"load": childLoad, "eio": childEIO, "flip": childFlip, "member": childMember, "yard": childYard}
		if err := parts[part](); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(3)
		}
		os.Exit(0)
	}
	if os.Getenv(alone) != "" {
		os.Exit(m.Run()) // what ends in there leaves goroutines behind
	}
	goleak.VerifyTestMain(m)
}

// alone names the variable that is set in a process which runs one test only.
const alone = "REPLICA_TEST_ALONE"

// inItsOwn runs the test t in a process of its own, and reports whether this is that process. In the other it returns what
// the process printed and how it ended.
func inItsOwn(t *testing.T) (here bool, out string, err error) {
	t.Helper()
	if os.Getenv(alone) != "" {
		return true, "", nil
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), alone+"=1")
	raw, err := cmd.CombinedOutput()
	return false, string(raw), err
}

// child prepares a process that plays part, with env as "NAME=value".
func child(t *testing.T, part string, env ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(append(os.Environ(), childEnv+"="+part), env...)
	cmd.Stderr = os.Stderr
	return cmd
}

// childLoad counts keys as fast as it can, and says each on stdout once it's acknowledged. It ends by being killed.
func childLoad() error {
	reg := storage.NewRegistry()
	count := counter(reg)
	s, err := replica.Open(replica.Options{
		Dir: os.Getenv("DIR"), ServerID: "one", ClusterID: "test", Registry: reg, Fast: true, DiskFloorBytes: -1,
		SnapshotInterval: 80 * time.Millisecond, MemTableBytes: 64 << 10, Bootstrap: os.Getenv("INIT") != "", FS: nil,
	})
	if err != nil {
		return err
	}
	if err := s.Start(context.Background()); err != nil {
		return err
	}
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			for i := 0; ; i++ {
				key := fmt.Sprintf("%s/%d/%d", os.Getenv("ROUND"), w, i)
				if _, _, err := count.Do(context.Background(), s, "", key); err != nil {
					fmt.Fprintln(os.Stderr, "child:", err)
					return
				}
				if _, err := os.Stdout.WriteString(key + "\n"); err != nil { // one system call: a kill can't lose it
					return
				}
			}
		})
	}
	wg.Wait()
	return nil
}

// TestStore_Kill: under load, with tiny write buffers and a cut of the log each 80 ms, the process is killed at random
// moments. Every acknowledged command is there exactly once.
//
// Requirements: Q3.
func TestStore_Kill(t *testing.T) {
	t.Parallel()
	rounds := 6
	if long() {
		rounds = 60
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir()
	acked := make(map[string]bool)
	reg := storage.NewRegistry()
	counter(reg)
	for round := range rounds {
		cmd := child(t, "load", "DIR="+dir, "ROUND="+strconv.Itoa(round), "INIT="+strings.Repeat("1", 1-min(round, 1)))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		var timer *time.Timer
		n := 0
		for lines.Scan() {
			if timer == nil { // from the first answer on: the moment to die is drawn
				timer = time.AfterFunc(time.Duration(rng.Int64N(int64(400*time.Millisecond))), func() { _ = cmd.Process.Kill() })
			}
			acked[lines.Text()] = true
			n++
		}
		_ = cmd.Wait() // killed
		if n == 0 {
			t.Fatal("the child acknowledged nothing")
		}
		s := mustOpen(t, replica.Options{Dir: dir, Registry: reg})
		began := time.Now()
		mustStart(t, s)
		took := time.Since(began)
		total, keys := mustCount(t, s)
		for key := range acked {
			if !keys[key] {
				t.Errorf("round %d: %s was acknowledged and is gone", round, key)
			}
		}
		t.Logf("round %d: %d acknowledged, %d in all are there, ready after %v", round, n, total, took)
		mustClose(t, s)
	}
}
