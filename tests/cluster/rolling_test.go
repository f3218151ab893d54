package cluster_test

import (
	"context"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

// previous builds this tree's binary with the stamp of an earlier version.
func previous(t *testing.T) string {
	t.Helper()
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "agentos-previous")
	built := harness.Command(t, 5*time.Minute, root, []string{"CGO_ENABLED=0"}, "go", "build", "-trimpath", "-ldflags", "-s -w -X main.version=1.01.9", "-o", out, "./cmd/agentos")
	if built.Code != 0 {
		t.Fatalf("build: %s", built.Stderr)
	}
	return out
}

// A cluster of the previous version is upgraded node by node under load: mixed versions work, and no run that was
// acknowledged is lost or fails.
func TestRolling_Upgrade(t *testing.T) {
	t.Parallel()
	old, current := previous(t), suite.Binary(t)
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
