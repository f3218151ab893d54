package replica_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// mutants are faults that somebody could make, each with the test that is there to notice it.
var mutants = []struct{ name, file, is, was, test string }{
	{
		"no stamp check", "fsm.go",
		"stale := e.base != m.stamp", "stale := false", "TestCluster_StaleLeader",
	},
	{
		"raft's own word for a look", "writer.go",
		"changes.Empty() && s.soleVoter()", "changes.Empty() && (s.soleVoter() || s.raft.VerifyLeader().Error() == nil)", "TestCluster_LateAnswers",
	},
	{
		"a log that outlives an install", "log.go",
		"IsMonotonic() bool { return true }", "IsMonotonic() bool { return false }", "TestCluster_InstallCut",
	},
	{
		"a local snapshot that outlives an install", "snapshots.go",
		"if st != p.of {", "if false {", "TestCluster_SnapshotDuringInstall",
	},
	{
		"raft's pipeline", "raft.go",
		"noPipeline = 1", "noPipeline = 2", "TestCluster_LogFloor",
	},
	{
		"answers before the entry is applied", "writer.go",
		"	s.flight.Store(g)\n", "	g.settle(s.at.Load().index, true)\n	s.flight.Store(g)\n", "TestCluster_Kill",
	},
	{
		"a log cut above what is flushed", "log.go",
		"to = min(to, l.flushed())", "to = min(to, l.applied())", "TestStore_CutBehindFlush",
	},
	{
		"no watch over a transfer", "writer.go",
		"hung > 5*s.o.timeouts().election", "hung > 5000*s.o.timeouts().election", "TestCluster_Wedged",
	},
	{
		"reads before watchers", "store.go",
		"	s.tell(fates)\n	s.note(m)\n", "	s.note(m)\n	s.tell(fates)\n", "TestCluster_Suite",
	},
}

// TestMutants: each fault is still one that could be made here, and in the long form its test notices it.
func TestMutants(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			path := filepath.Join(here, m.file)
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(string(raw), m.is); n != 1 {
				t.Fatalf("%s holds %q %d times", m.file, m.is, n)
			}
			if !long() {
				return
			}
			dir := t.TempDir()
			changed, overlay := filepath.Join(dir, m.file), filepath.Join(dir, "overlay.json")
			text, err := json.Marshal(map[string]any{"Replace": map[string]string{path: changed}})
			if err != nil {
				t.Fatal(err)
			}
			for name, b := range map[string][]byte{changed: []byte(strings.Replace(string(raw), m.is, m.was, 1)), overlay: text} {
				if err := os.WriteFile(name, b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			for try := range 4 {
				cmd := exec.CommandContext(t.Context(), "go", "test", "-overlay", overlay, "-count=1", "-timeout=4m", "-run", "^"+m.test+"$", ".")
				out, err := cmd.CombinedOutput()
				switch {
				case strings.Contains(string(out), "[build failed]"):
					t.Fatalf("the fault can't be built:\n%s", out)
				case err != nil:
					t.Logf("noticed in try %d", try+1)
					return
				}
			}
			t.Errorf("%s does not notice it", m.test)
		})
	}
}
