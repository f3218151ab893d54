package cluster_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/nexixai/agentos/tests/harness"
)

// edit is a change of one place in the source: was for is, which must be there once; or a file of its own, without is.
type edit struct{ file, is, was string }

// bug is a fault that somebody could make, and what brings it out.
type bug struct {
	name string
	// rig is what a node needs so that the trouble can be made at all. It breaks nothing by itself.
	rig, seed []edit
	start     func(x *trial, binary string)
	trouble   func(*trial)
	tries     int // until it's found, at most
	// quick: tried in the short form, too.
	quick bool
}

// bugs are what the histories are there to find.
var bugs = []bug{
	{
		name:  "a stale not found",
		seed:  []edit{{"storage/storage.go", "if !isNotFound(err) || r.Consistency != Default {", "if true {"}},
		start: (*trial).three, trouble: (*trial).deaf, tries: 3, quick: true,
	},
	{
		name: "no stamp check",
		rig: []edit{
			{"storage/replica/writer.go", "	if s.beforePropose != nil {\n", "	s.holdCreates(g)\n	if s.beforePropose != nil {\n"},
			{"storage/replica/hold.go", "", holdCreates},
		},
		seed:  []edit{{"storage/replica/fsm.go", "stale := e.base != m.stamp", "stale := false"}},
		start: (*trial).three, trouble: (*trial).staleLeader, tries: 3,
	},
	{
		name: "raft's own word for a look",
		// As with a clock that runs slow, a leader that is cut off notices it late.
		rig:   []edit{{"storage/replica/options.go", "return timeouts{time.Second, time.Second, 500 * time.Millisecond", "return timeouts{time.Second, time.Second, time.Second"}},
		seed:  []edit{{"storage/replica/writer.go", "changes.Empty() && s.soleVoter()", "changes.Empty() && (s.soleVoter() || s.raft.VerifyLeader().Error() == nil)"}},
		start: (*trial).slowLeader, trouble: (*trial).cutWithSilent, tries: 10,
	},
}

// holdCreates lets a test take a writer as long as it likes between the evaluation of a create and its proposal, as a
// machine may that is short of time: while there is a file hold in the store's directory, it waits.
const holdCreates = `package replica

import (
	"os"
	"path/filepath"
	"time"
)

func (s *Store) holdCreates(g *group) {
	for _, a := range g.asks {
		for !a.look && a.cmd.Kind == "run.create" {
			if _, err := os.Stat(filepath.Join(s.o.Dir, "hold")); err != nil {
				return
			}
			_ = os.WriteFile(filepath.Join(s.o.Dir, "held"), nil, 0o600)
			time.Sleep(5 * time.Millisecond)
		}
	}
}
`

// TestSeededBugs: histories show the bugs that they are taken for. Each bug is put into the binary, which is tried with the
// trouble that it can't stand until a history has no order; the binary without it stands the same trouble.
//
// Requirements: Q3.
func TestSeededBugs(t *testing.T) {
	t.Parallel()
	for _, b := range bugs {
		t.Run(strings.ReplaceAll(b.name, " ", "_"), func(t *testing.T) {
			if !harness.Inside() {
				overlay(t, append(b.rig[:len(b.rig):len(b.rig)], b.seed...)) // it could still be made, whether it's tried or not
			}
			if rounds(0, 1) == 0 && !b.quick {
				return
			}
			t.Run("sound", func(t *testing.T) { b.try(t, b.rig, false) })
			t.Run("seeded", func(t *testing.T) { b.try(t, append(b.rig[:len(b.rig):len(b.rig)], b.seed...), true) })
		})
	}
}

// try makes the bug's trouble for the binary with these edits, and expects that histories tell whether it is wrong.
func (b *bug) try(t *testing.T, edits []edit, wrong bool) {
	if !harness.Apart(t, build(t, edits), 10*time.Minute) {
		return
	}
	x := &trial{t: t, network: harness.NewNetwork(t, 3)}
	b.start(x, suite.Binary(t))
	x.tn = harness.NewTenant(t, x.c.Admin(t, 0), nil)
	tries := rounds(1, b.tries)
	if wrong {
		tries = b.tries
	}
	for x.round = range tries {
		x.h = &history{began: time.Now()}
		b.trouble(x)
		result := x.h.check(t)
		t.Logf("round %d: a history of %d operations: %s", x.round, len(x.h.ops), result)
		switch {
		case wrong && result == porcupine.Illegal:
			return
		case !wrong && result != porcupine.Ok:
			t.Fatal("no order explains what the sound binary did")
		}
	}
	if wrong {
		t.Errorf("%d histories did not show the bug", tries)
	}
}

// build makes a binary of the source with these edits; without any it is the one under test.
func build(t *testing.T, edits []edit) string {
	t.Helper()
	if len(edits) == 0 || harness.Inside() {
		return suite.Binary(t)
	}
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(t.TempDir(), "agentos")
	out := harness.Command(t, 5*time.Minute, root, []string{"CGO_ENABLED=0"}, "go", "build", "-trimpath", "-overlay", overlay(t, edits), "-o", binary, "./cmd/agentos")
	if out.Code != 0 {
		t.Fatalf("the edits can't be built: %s", out.Stderr)
	}
	return binary
}

// overlay writes what go build needs to see the source with these edits.
func overlay(t *testing.T, edits []edit) string {
	t.Helper()
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	texts, replace := map[string]string{}, map[string]string{}
	for _, e := range edits {
		text, seen := texts[e.file]
		if e.is == "" {
			texts[e.file] = e.was
			continue
		}
		if !seen {
			raw, err := os.ReadFile(filepath.Join(root, e.file))
			if err != nil {
				t.Fatal(err)
			}
			text = string(raw)
		}
		if n := strings.Count(text, e.is); n != 1 {
			t.Fatalf("%s holds %q %d times", e.file, e.is, n)
		}
		texts[e.file] = strings.Replace(text, e.is, e.was, 1)
	}
	dir := t.TempDir()
	for file, text := range texts {
		name := filepath.Join(dir, strings.ReplaceAll(file, "/", "_"))
		replace[filepath.Join(root, file)] = name
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(name, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// trial is a cluster in trouble, and the history of it.
type trial struct {
	t       *testing.T
	network *harness.Network
	c       *harness.Cluster
	tn      *harness.Tenant
	h       *history
	round   int
}

// three starts three nodes alike.
func (x *trial) three(binary string) { x.c = harness.NewClusterOn(x.t, binary, &starter, x.network) }

// slowLeader starts three voters and a member without a vote. The first is slower to see that it's cut off than the other
// voters are to elect another.
func (x *trial) slowLeader(binary string) {
	x.c = harness.NewClusterOn(x.t, binary, &starter, &harness.Network{Hosts: x.network.Hosts[:1]}, "--timing=standard")
	for i, timing := range []string{"fast", "fast", "standard"} {
		if i == 2 {
			x.network.AddHost(x.t)
		}
		x.c.AddNodeOn(x.t, x.network.Hosts[i+1], fmt.Sprintf("stk_n%d", i+2), "--timing="+timing)
		x.c.AwaitVoters(x.t, min(i+2, 3))
	}
}

// do does one operation at a node, for at most as long as a client would wait.
func (x *trial) do(id int, n *harness.Node, query string, in touch) (known bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Second)
	defer cancel()
	c := n.Client(x.tn.Key)
	defer c.Close()
	return x.h.do(ctx, id, c, x.tn.Agent, query, in)
}

// must is do until it's done.
func (x *trial) must(id int, n *harness.Node, in touch) {
	x.t.Helper()
	if !harness.Poll(bound, 20*time.Millisecond, func() bool { id += 1000; return x.do(id, n, "", in) }) {
		x.t.Fatalf("%s does not get %v done", n.Name, in)
	}
}

// lead has n lead.
func (x *trial) lead(n *harness.Node) {
	x.t.Helper()
	if !harness.Poll(bound, 50*time.Millisecond, func() bool {
		leader := x.c.Leader(x.t)
		if leader == n {
			return true
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_, _ = leader.Client(x.c.AdminKey(x.t)).Try(ctx, "POST", "/v1/admin/cluster:transfer-leader", map[string]any{"stack_id": n.Name})
		return false
	}) {
		x.t.Fatalf("%s does not come to lead", n.Name)
	}
}

// others are the nodes but n.
func (x *trial) others(n *harness.Node) (out []*harness.Node) {
	for _, o := range x.c.Nodes {
		if o != n {
			out = append(out, o)
		}
	}
	return out
}

// deaf: a node that is cut off is asked for what the others have just been told.
func (x *trial) deaf() {
	n := x.c.Follower(x.t)
	n.Machine.Isolate()
	in := touch{key: fmt.Sprint("deaf", x.round), write: true, value: "there"}
	x.must(1, x.others(n)[0], in)
	x.do(2, n, "", touch{key: in.key})
	n.Machine.Rejoin()
	x.c.AwaitVoters(x.t, 3)
}

// staleLeader: a leader evaluates a create, loses the office to another, which makes the run, and has the office back before
// it proposes.
func (x *trial) staleLeader() {
	n := x.c.Leader(x.t)
	hold, held := filepath.Join(n.DataDir, "store", "hold"), filepath.Join(n.DataDir, "store", "held")
	if err := os.WriteFile(hold, nil, 0o600); err != nil {
		x.t.Fatal(err)
	}
	in := touch{key: fmt.Sprint("stale", x.round), create: true}
	var wg sync.WaitGroup
	wg.Go(func() { x.must(1, n, in) })
	if !harness.Poll(bound, 5*time.Millisecond, func() bool { _, err := os.Stat(held); return err == nil }) {
		x.t.Fatal("no create was evaluated")
	}
	n.Machine.Isolate()
	x.must(2, x.others(n)[0], in)
	n.Machine.Rejoin()
	x.lead(n)
	for _, name := range []string{hold, held} {
		if err := os.Remove(name); err != nil {
			x.t.Fatal(err)
		}
	}
	wg.Wait()
	x.must(3, x.others(n)[1], in)
}

// cutWithSilent: a leader is cut off together with a member that has no vote, and both are asked what the others have been
// told since they have elected another.
func (x *trial) cutWithSilent() {
	old, voters, silent := x.c.Nodes[0], x.c.Nodes[1:3], x.c.Nodes[3]
	x.lead(old)
	x.c.AwaitVoters(x.t, 3)
	key := fmt.Sprint("cut", x.round)
	x.must(1, old, touch{key: key, write: true, value: "old"})
	x.network.Split(old.Machine, silent.Machine)
	done := make(chan struct{})
	var wg sync.WaitGroup
	for i, v := range voters {
		wg.Go(func() {
			x.do(10+i, v, "", touch{key: key, write: true, value: v.Name})
		})
	}
	for i := range 4 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					x.do(20+i, old, "?consistency=linearizable", touch{key: key})
				}
			}
		})
	}
	pause(1500 * time.Millisecond)
	close(done)
	x.network.Unite()
	wg.Wait()
}
