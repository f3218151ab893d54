package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

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
//
// Requirements: V3, O1.
func TestScripts(t *testing.T) {
	bin := binary(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			port, err := freePorts(25) // for three nodes
			if err != nil {
				return err
			}
			env.Setenv("PATH", filepath.Dir(bin)+string(os.PathListSeparator)+env.Getenv("PATH"))
			env.Setenv("PORT", strconv.Itoa(port))
			env.Setenv("PORT2", strconv.Itoa(port+10))
			env.Setenv("ADMIN_PORT", strconv.Itoa(port+4))
			for i := range 5 { // of two nodes that are started by hand
				env.Setenv("A"+strconv.Itoa(i), strconv.Itoa(port+i))
				env.Setenv("B"+strconv.Itoa(i), strconv.Itoa(port+10+i))
			}
			env.Defer(func() { end(env.WorkDir) })
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "json": printsJSON, "await": awaitRun, "eventually": eventually, "killnode": killNode, "pidis": pidIs, "cancelall": cancelAll,
		},
	})
}

// exits runs agentos and checks its exit code: exits CODE ARG...
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: exits CODE ARG...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	if got := exitCode(ts, args[1:]); got != want {
		ts.Fatalf("agentos %q: exit code %d, want %d", args[1:], got, want)
	}
}

func exitCode(ts *testscript.TestScript, args []string) int {
	err := ts.Exec("agentos", args...)
	if exit, ok := err.(*exec.ExitError); ok {
		return exit.ExitCode()
	}
	ts.Check(err)
	return 0
}

// printsJSON is exits with --output json, and wants standard output to be JSON values and nothing else.
func printsJSON(ts *testscript.TestScript, neg bool, args []string) {
	exits(ts, neg, append(args, "--output", "json"))
	for d := json.NewDecoder(strings.NewReader(ts.ReadFile("stdout"))); ; {
		var v any
		err := d.Decode(&v)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			ts.Fatalf("agentos %q prints what is no JSON: %v", args[1:], err)
		}
	}
}

// eventually is exits for what takes a while: it asks again until the code is the one: eventually CODE ARG...
func eventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: eventually CODE ARG...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		if exitCode(ts, args[1:]) == want {
			return
		}
	}
	ts.Fatalf("agentos %q: never the exit code %d", args[1:], want)
}

// awaitRun runs agentos until the standard output holds a run: await ARG...
func awaitRun(ts *testscript.TestScript, _ bool, args []string) {
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		if code := exitCode(ts, args); code == 0 && strings.Contains(ts.ReadFile("stdout"), "run_id") {
			return
		}
	}
	ts.Fatalf("agentos %q: nothing came", args)
}

// cancelAll cancels every run that has not ended, once there is one.
func cancelAll(ts *testscript.TestScript, _ bool, _ []string) {
	awaitRun(ts, false, []string{"runs", "list", "--status", "running", "--output", "json"})
	var list struct {
		Runs []struct {
			ID string `json:"run_id"`
		} `json:"runs"`
	}
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &list))
	for _, r := range list.Runs {
		exits(ts, false, []string{"0", "runs", "cancel", r.ID})
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

// end stops what a script has left running, in whatever state directory.
func end(dir string) {
	_ = filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Base(name) != "plan.json" {
			return nil
		}
		f, err := fleet.Open(fleet.Options{StateDir: filepath.Dir(name), ReportDir: filepath.Join(dir, "reports"), Binary: "agentos"})
		if err != nil {
			return nil
		}
		files, err := f.LogFiles("")
		if err != nil {
			return nil
		}
		for id := range files {
			_ = kill(f, id)
		}
		return nil
	})
}

// given are the ports that a test of this process has: they are free until its node starts.
var given struct {
	sync.Mutex
	ports map[int]bool
}

// freePorts returns the first of n free ports in a row, below the range that the kernel takes ports for connections from.
func freePorts(n int) (int, error) {
	given.Lock()
	defer given.Unlock()
	for range 200 {
		first := 11000 + rand.IntN(2000)*10
		free := !given.ports[first] && !given.ports[first+10] && !given.ports[first+20]
		for i := 0; i < n && free; i++ {
			l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(first+i)))
			if free = err == nil; free {
				_ = l.Close()
			}
		}
		if free {
			if given.ports == nil {
				given.ports = map[int]bool{}
			}
			given.ports[first], given.ports[first+10], given.ports[first+20] = true, true, true
			return first, nil
		}
	}
	return 0, fmt.Errorf("no %d free ports in a row", n)
}
