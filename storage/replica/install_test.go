package replica_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/replica"
)

// jumps is a watcher that counts how often the whole state was replaced.
type jumps struct{ n atomic.Int64 }

// Applied implements storage.Watcher.
func (*jumps) Applied(uint64, []storage.Change) {}

// Jumped implements storage.Watcher.
func (j *jumps) Jumped(uint64) { j.n.Add(1) }

// bulk defines a command that sets a key to so many bytes that don't compress.
func bulk(reg *storage.Registry) storage.Call[bulkArgs, int] {
	return storage.Define(reg, "bulk", func(tx storage.Tx, a bulkArgs) (int, error) {
		rng := rand.New(rand.NewPCG(uint64(a.Size), uint64(len(a.Key))))
		b := make([]byte, a.Size)
		for i := 0; i+8 <= len(b); i += 8 {
			binary.LittleEndian.PutUint64(b[i:], rng.Uint64())
		}
		tx.Set("bulk/"+a.Key, b)
		return a.Size, nil
	})
}

type bulkArgs struct {
	Key  string
	Size int
}

// outrun has the others write until late, which is cut off, can only be helped by an install, whoever leads.
func (c *cluster) outrun(tb testing.TB, late *node, count storage.Call[string, int]) (others []*node) {
	tb.Helper()
	for _, n := range c.nodes {
		if n != late {
			others = append(others, n)
		}
	}
	last := late.store.LastIndex()
	for i := 0; ; i++ {
		if _, _, err := count.Do(tb.Context(), others[0].store, "", fmt.Sprint("outrun/", i)); err != nil {
			tb.Fatal(err)
		}
		if i%50 != 49 {
			continue
		}
		behind := true
		for _, n := range others {
			c.mustWait(tb, n, n.store.Ready)
			c.mustWait(tb, n, func(context.Context) error { return n.store.Snapshot() })
			first, _ := n.store.LogBounds()
			behind = behind && first > last+1
		}
		if behind {
			return others
		}
	}
}

// TestCluster_SnapshotDuringInstall: a local snapshot that began before an install and ends after it must not set raft back
// to where the replaced state stood.
func TestCluster_SnapshotDuringInstall(t *testing.T) {
	reg := storage.NewRegistry()
	count, big := counter(reg), bulk(reg)
	c := mustCluster(t, 3, reg, func(_ int, o *replica.Options) { o.TrailingBytes, o.SnapshotInterval = 1, time.Hour })
	c.mustLead(t, c.nodes[0])
	leader, late := c.nodes[0], c.nodes[2]
	if _, _, err := count.Do(t.Context(), late.store, "", "early"); err != nil {
		t.Fatal(err)
	}
	c.mustWait(t, late, late.store.Ready)
	c.isolate(late.id, leader.id, c.nodes[1].id)
	for i := range 4 {
		if _, _, err := big.Do(t.Context(), leader.store, "", bulkArgs{fmt.Sprint(i), 700 << 10}); err != nil {
			t.Fatal(err)
		}
	}
	s := late.store
	others := c.outrun(t, late, count)
	var seen jumps
	defer s.Watch("", &seen)()
	c.mend()
	for _, n := range others {
		c.holdAfter(n.id, late.id, 1<<20)
	}
	c.mustWait(t, late, func(context.Context) error {
		if !c.isHeld(others[0].id, late.id) && !c.isHeld(others[1].id, late.id) {
			return errors.New("the install has not come half way")
		}
		return nil
	})
	var wg sync.WaitGroup
	var ended atomic.Pointer[error]
	wg.Go(func() {
		err := s.Snapshot()
		if applied, last := s.Status().Applied, s.LastIndex(); last < applied {
			t.Errorf("raft takes %d for the end of a log whose state holds %d", last, applied)
		}
		ended.Store(&err)
	})
	c.mustWait(t, late, func(context.Context) error {
		all := make([]byte, 1<<20)
		if !strings.Contains(string(all[:runtime.Stack(all, true)]), "raft.(*Raft).takeSnapshot") {
			if err := ended.Load(); err != nil {
				return fmt.Errorf("the snapshot is already over: %v", *err)
			}
			return errors.New("no snapshot has begun")
		}
		return nil
	})
	c.mend()
	wg.Wait()
	c.mustAgree(t)
	if seen.n.Load() == 0 {
		t.Error("there was no install")
	}
}

// TestCluster_InstallCut: the power fails at some step of an install, on a member whose log ends in entries that the others
// overruled. It starts again, leads, and feeds an empty joiner: all copies are equal, and nothing of the overruled is left.
//
// Requirements: N3, Q3.
func TestCluster_InstallCut(t *testing.T) {
	cuts := 4
	if long() {
		cuts = 200
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	reg := storage.NewRegistry()
	count := counter(reg)
	disk := vfs.NewCrashableMem()
	files := &faultFS{FS: disk}
	c := newCluster(t)
	for i := range 3 {
		c.mustNode(t, i, reg, func(i int, o *replica.Options) {
			o.Dir, o.FS, o.TrailingBytes, o.SnapshotInterval = "node", vfs.NewMem(), 1, time.Hour
			if i == 2 {
				o.FS = files
			}
		})
	}
	c.mustJoin(t, 3)
	cut := c.nodes[2]
	for i := range 20 {
		if _, _, err := count.Do(t.Context(), cut.store, "", fmt.Sprint("first/", i)); err != nil {
			t.Fatal(err)
		}
	}
	steps := c.installSteps(t, count, cut, disk, files)
	c.mustAgree(t)
	c.mustStop(t, cut)
	t.Logf("%d steps", len(steps))
	chosen := rng.Perm(len(steps))
	for i, at := range chosen[:min(cuts, len(chosen))] {
		t.Logf("cut %d: before step %d, %s", i, at, steps[at].what)
		cut.o.FS = steps[at].crash(rng)
		c.mustStart(t, cut)
		c.mustAgree(t)
		c.mustLead(t, cut)
		join := c.mustNode(t, 3+i, reg, func(_ int, o *replica.Options) { o.Dir, o.FS = "node", vfs.NewMem() })
		if err := join.store.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.mustWait(t, cut, func(ctx context.Context) error { return cut.get().AddNonvoter(ctx, join.id, join.address) })
		c.mustAgree(t)
		for _, n := range c.nodes {
			s := n.get()
			if s == nil {
				continue
			}
			if _, keys := mustCount(t, s); len(missing(map[string]bool{"ghost": true}, keys)) == 0 {
				t.Errorf("%s holds what was overruled", n.id)
			}
		}
		leader, _ := c.leader(t)
		c.mustWait(t, leader, func(ctx context.Context) error { return leader.get().Remove(ctx, join.id) })
		c.mustStop(t, join)
		c.mustAgree(t)
		c.mustStop(t, cut)
	}
}

// step is a moment of an install.
type step struct {
	what string
	disk *vfs.MemFS // as it was, with what was not synced
}

// crash is what a loss of power leaves of the step's disk.
func (s step) crash(rng *rand.Rand) *vfs.MemFS {
	return s.disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
}

// installSteps makes cut a former leader whose last entries nobody else has, then has the others outrun it and help it with
// an install. It returns the disk as it was before each write and sync of that.
func (c *cluster) installSteps(t *testing.T, count storage.Call[string, int], cut *node, disk *vfs.MemFS, files *faultFS) (steps []step) {
	t.Helper()
	c.mustLead(t, cut)
	others := c.nodes[:2]
	c.isolate(cut.id, others[0].id, others[1].id)
	lonely, cancel := context.WithCancel(t.Context())
	before := cut.store.LastIndex()
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, _, err := count.Do(lonely, cut.store, "", "ghost"); err == nil {
			t.Error("a leader that was cut off acknowledged")
		}
	})
	c.mustWait(t, cut, func(context.Context) error {
		if cut.store.LastIndex() == before {
			return errors.New("nothing was written on the leader's own side")
		}
		return nil
	})
	cancel() // nobody asks again
	wg.Wait()
	c.outrun(t, cut, count)
	var seen jumps
	defer cut.store.Watch("", &seen)()
	var mu sync.Mutex
	after := 0
	files.set(func(op, path string) error {
		mu.Lock()
		defer mu.Unlock()
		if seen.n.Load() > 0 { // raft empties the log behind it
			after++
		}
		if after < 20 {
			steps = append(steps, step{op + " " + path, disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(0, 0))})})
		}
		return nil
	})
	c.mend()
	c.mustAgree(t)
	files.set(nil)
	if seen.n.Load() == 0 {
		t.Fatal("there was no install")
	}
	mu.Lock()
	defer mu.Unlock()
	return steps
}
