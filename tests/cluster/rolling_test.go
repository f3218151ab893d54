package cluster_test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

// stamped builds this tree's binary as one of another release: of that version, which can do the store up to storeVersion.
func stamped(t *testing.T, version string, storeVersion int) string {
	t.Helper()
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "agentos-"+version)
	flags := fmt.Sprintf("-s -w -X main.version=%s -X main.storeVersion=%d", version, storeVersion)
	built := harness.Command(t, 5*time.Minute, root, []string{"CGO_ENABLED=0"}, "go", "build", "-trimpath", "-ldflags", flags, "-o", out, "./cmd/agentos")
	if built.Code != 0 {
		t.Fatalf("build: %s", built.Stderr)
	}
	return out
}

// A cluster of the previous version is upgraded node by node under load: mixed versions work, and no run that was
// acknowledged is lost or fails.
//
// Requirements: N5.
func TestRolling_Upgrade(t *testing.T) {
	t.Parallel()
	old, current := stamped(t, "1.01.9", 1), suite.Binary(t)
	c := harness.NewCluster(t, old, &starter, 3)
	tn := harness.NewTenant(t, c.Admin(t, 0), nil)
	l := newLoad(c, tn, "rolling", mixed)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { l.run(ctx, t, 6) })
	var worst time.Duration
	for _, n := range c.Nodes {
		began := time.Now()
		if code := n.Stop(t); code != 0 {
			t.Errorf("%s ended with %d:\n%s", n.Name, code, n.Output())
		}
		n.Binary = current
		n.Launch(t)
		n.AwaitReady(t)
		c.AwaitVoters(t, 3)
		gap := l.gap(began)
		worst = max(worst, gap)
		t.Logf("%s upgraded in %v; longest silence %v", n.Name, time.Since(began).Round(time.Millisecond), gap.Round(time.Millisecond))
	}
	cancel()
	wg.Wait()
	l.check(t)
	t.Logf("%d runs acknowledged, longest silence %v", l.acks, worst.Round(time.Millisecond))
	c.Equal(t)
	for _, v := range []string{"0", "1", "2"} {
		if got := c.Describe(t, 0).Str("cluster.members." + v + ".version"); got == "1.01.9" || got == "" {
			t.Errorf("member %s is of version %q", v, got)
		}
	}
}

// release gives a node that does not run another binary and starts it.
func release(t *testing.T, c *harness.Cluster, n *harness.Node, binary string) {
	t.Helper()
	n.Binary = binary
	n.Launch(t)
	n.AwaitReady(t)
	c.AwaitVoters(t, len(c.Nodes))
}

// announced waits until node i knows what everybody's binary can do, the store's version among them: want lists the
// members in order, and the cluster's comes last.
func announced(t *testing.T, c *harness.Cluster, i int, want ...int64) {
	t.Helper()
	var got []int64
	if !harness.Poll(bound, 50*time.Millisecond, func() bool {
		a := c.Describe(t, i)
		got = got[:0]
		for m := range len(want) - 1 {
			got = append(got, a.Int(fmt.Sprintf("cluster.members.%d.store_version", m)))
		}
		got = append(got, a.Int("cluster.store_version"))
		return slices.Equal(got, want)
	}) {
		t.Fatalf("the members' store versions, and the cluster's, are %v, not %v", got, want)
	}
}

// tooOld checks that a node of an old binary ends by itself, and says why and what to do.
func tooOld(t *testing.T, n *harness.Node) {
	t.Helper()
	code, out := n.Wait(t), n.Output()
	if code != 5 || !strings.Contains(out, "is at version 2") || !strings.Contains(out, "reads it up to version 1: use the release that the other members run") {
		t.Errorf("%s of an earlier release ended with %d:\n%s", n.Name, code, out)
	}
	if strings.Contains(out, `"msg":"ready"`) {
		t.Errorf("%s was ready before it ended:\n%s", n.Name, out)
	}
}

// The store's version rises when the last member can do it, and no sooner. From then on a binary that can't is refused
// everywhere: when it was away while the version rose, when it joins, when it starts alone on what it has, and when it is
// to make a cluster out of that or of a backup.
//
// Requirements: N5.
func TestRolling_StoreVersion(t *testing.T) {
	t.Parallel()
	old, next := stamped(t, "1.01.9", 1), stamped(t, "1.99.0", 2)
	c := harness.NewCluster(t, old, &starter, 3)
	announced(t, c, 0, 1, 1, 1, 1)
	for _, n := range c.Nodes[1:] {
		n.Stop(t)
		release(t, c, n, next)
	}
	announced(t, c, 0, 1, 2, 2, 1)

	away := c.Nodes[2]
	away.Stop(t)
	c.Nodes[0].Stop(t)
	c.Nodes[0].Binary = next
	c.Nodes[0].Launch(t)
	c.Nodes[0].AwaitReady(t)
	announced(t, c, 1, 2, 2, 2, 2)

	away.Binary = old // its own copy knows nothing of the rise yet
	away.Launch(t)
	tooOld(t, away)
	release(t, c, away, next)
	announced(t, c, 2, 2, 2, 2, 2)

	joiner := c.Restored(t, "stk_n4")
	joiner.Launch(t)
	tooOld(t, joiner)
	if got := c.Describe(t, 0).At("cluster.members"); len(got.([]any)) != 3 {
		t.Errorf("the members are %v", got)
	}

	backup := filepath.Join(t.TempDir(), "acme.backup")
	agentos(t, append([]string{"backup", "--out", backup}, adminFlags(t, c, 0)...)...)
	for _, n := range c.Nodes[:3] {
		n.Stop(t)
	}
	first := c.Nodes[0]
	seal := filepath.Join(first.DataDir, "trust", "seal.key")
	for _, args := range [][]string{
		{"cluster", "recover", "--data-dir", first.DataDir, "--yes-really"},
		{"restore", "--from", backup, "--data-dir", filepath.Join(t.TempDir(), "data"), "--seal-key-file", seal},
	} {
		if out := harness.Command(t, bound, t.TempDir(), nil, append([]string{old}, args...)...); out.Code != 5 || !strings.Contains(out.Stderr, "is at version 2") {
			t.Errorf("%v ended with %d:\n%s", args, out.Code, out.Stderr)
		}
	}
	first.Binary = old
	first.Launch(t)
	tooOld(t, first)
	c.Nodes = c.Nodes[:3]
	for _, n := range c.Nodes {
		n.Binary = next
		n.Launch(t)
	}
	c.AwaitVoters(t, 3)
	c.Equal(t)
}
