package main

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/nexixai/agentos/node/fleet"
)

// binary is the built agentos that the scripts run: the one AGENTOS_TEST_BINARY names, or one built for them.
func binary(tb testing.TB) string {
	tb.Helper()
	if given := os.Getenv("AGENTOS_TEST_BINARY"); given != "" {
		return given
	}
	out := filepath.Join(tb.TempDir(), "agentos")
	cmd := exec.Command("go", "build", "-o", out, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("build agentos: %v\n%s", err, text)
	}
	return out
}

// TestScripts drives the built binary as a person would, by the scripts in testdata/script.
func TestScripts(t *testing.T) {
	bin := binary(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			port, err := freePorts(5)
			if err != nil {
				return err
			}
			env.Setenv("PATH", filepath.Dir(bin)+string(os.PathListSeparator)+env.Getenv("PATH"))
			env.Setenv("PORT", strconv.Itoa(port))
			env.Setenv("ADMIN_PORT", strconv.Itoa(port+4))
			env.Defer(func() { end(env.WorkDir) })
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "killnode": killNode, "pidis": pidIs},
	})
}

// exits runs agentos and checks its exit code: exits CODE ARG...
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: exits CODE ARG...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec("agentos", args[1:]...)
	got := 0
	if exit, ok := err.(*exec.ExitError); ok {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("agentos %q: exit code %d, want %d", args[1:], got, want)
	}
}

// theNode opens the deployment in the script's directory and returns its only node's process.
func theNode(ts *testscript.TestScript) (f *fleet.Fleet, stackID string) {
	dir := ts.MkAbs(".agentos")
	f, err := fleet.Open(fleet.Options{StateDir: dir, ReportDir: ts.MkAbs("reports"), Binary: "agentos"})
	ts.Check(err)
	access, err := fleet.ReadAccess(dir)
	ts.Check(err)
	return f, access.Organizations[0].Nodes[0].StackID
}

// killNode ends the node without a warning: killnode
func killNode(ts *testscript.TestScript, neg bool, args []string) {
	f, id := theNode(ts)
	ts.Check(kill(f, id))
}

// pidIs compares the node's process with an earlier one: pidis NAME notes it the first time and compares it from then on;
// ! pidis NAME wants another one.
func pidIs(ts *testscript.TestScript, neg bool, args []string) {
	f, id := theNode(ts)
	who, alive, err := f.ProcessOf(id)
	ts.Check(err)
	if !alive {
		ts.Fatalf("the node does not run")
	}
	now, was := strconv.Itoa(who.PID), ts.Getenv("PID_"+args[0])
	if was == "" {
		ts.Setenv("PID_"+args[0], now)
		return
	}
	if (was == now) == neg {
		ts.Fatalf("the node was process %s and is %s", was, now)
	}
}

// end stops what a script has left running.
func end(dir string) {
	f, err := fleet.Open(fleet.Options{StateDir: filepath.Join(dir, ".agentos"), ReportDir: filepath.Join(dir, "reports"), Binary: "agentos"})
	if err != nil {
		return
	}
	access, err := fleet.ReadAccess(filepath.Join(dir, ".agentos"))
	if err != nil {
		return
	}
	for _, o := range access.Organizations {
		for _, n := range o.Nodes {
			_ = kill(f, n.StackID)
		}
	}
}

// freePorts returns the first of n free ports in a row, below the range that the kernel takes ports for connections from.
func freePorts(n int) (int, error) {
	for range 200 {
		first := 11000 + rand.IntN(2000)*10
		free := true
		for i := 0; i < n && free; i++ {
			l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(first+i)))
			if free = err == nil; free {
				_ = l.Close()
			}
		}
		if free {
			return first, nil
		}
	}
	return 0, fmt.Errorf("no %d free ports in a row", n)
}
