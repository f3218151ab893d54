package replica_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/replica"
	"github.com/nexixai/agentos/storage/storagetest"
)

// TestCluster_Suite: three nodes keep the treaty, seen from the leader and from a follower.
//
// Requirements: N3, A3.
func TestCluster_Suite(t *testing.T) {
	for _, remote := range []bool{false, true} {
		t.Run(fmt.Sprintf("remote=%v", remote), func(t *testing.T) {
			storagetest.Run(t, func(tb testing.TB, o storagetest.Options) storagetest.Engine {
				c := newCluster(tb)
				for i := range 3 {
					c.mustNode(tb, i, o.Registry, func(_ int, r *replica.Options) { r.Now = o.Now })
				}
				seen := c.nodes[0]
				if remote {
					seen = c.nodes[1]
				}
				return storagetest.Engine{
					Store: seen.store, Remote: remote,
					Start: func(tb testing.TB) { c.mustJoin(tb, 2) }, // and a third, which doesn't vote
					Close: func(tb testing.TB) { c.mustStop(tb, seen) },
				}
			})
		})
	}
}

// TestCluster_LeaderStops: leaders stop and come back under load from all nodes. Every acknowledged command is there
// once, and the copies are equal.
func TestCluster_LeaderStops(t *testing.T) {
	reg := storage.NewRegistry()
	count := counter(reg)
	c := mustCluster(t, 3, reg, func(_ int, o *replica.Options) {
		o.SnapshotInterval, o.MemTableBytes, o.TrailingBytes = 80*time.Millisecond, 64<<10, 32<<10
	})
	var all ledger
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for w := range 9 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				key := fmt.Sprintf("%d/%d", w, i)
				for try := 0; ; try++ { // at another node when one is gone
					s := c.nodes[(w+try)%3].get()
					if s == nil {
						continue
					}
					_, _, err := count.Do(context.Background(), s, "", key)
					if err == nil {
						all.add(key)
						break
					}
					if !errors.Is(err, storage.ErrClosed) && !fault.Is(err, fault.Unavailable) {
						t.Errorf("%s: %v", key, err)
						return
					}
				}
			}
		})
	}
	rounds := 3
	if long() {
		rounds = 30
	}
	for range rounds {
		before := len(all.copy())
		leader, _ := c.leader(t)
		c.mustStop(t, leader)
		c.leader(t)
		c.mustStart(t, leader)
		c.mustWait(t, leader, leader.get().Ready)
		for len(all.copy()) < before+50 {
			c.leader(t)
		}
	}
	close(stop)
	wg.Wait()
	c.mustAgree(t)
	for _, n := range c.nodes {
		total, keys := mustCount(t, n.get())
		if gone := missing(all.copy(), keys); len(gone) > 0 {
			t.Errorf("%s lacks %q", n.id, gone)
		}
		t.Logf("%s: %d acknowledged, %d in all", n.id, len(all.copy()), total)
	}
}

// TestCluster_NoQuorum: a leader that is cut off refuses, its copy can still be read as it stands, the others elect
// another, and after mending all are equal again.
func TestCluster_NoQuorum(t *testing.T) {
	t.Parallel() // most of it is waiting
	reg := storage.NewRegistry()
	count := counter(reg)
	c := mustCluster(t, 3, reg, nil)
	leader, others := c.leader(t)
	if _, _, err := count.Do(t.Context(), leader.store, "", "before"); err != nil {
		t.Fatal(err)
	}
	c.isolate(leader.id, others[0].id, others[1].id)
	ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
	defer cancel()
	var refused *fault.Error
	if _, _, err := count.Do(ctx, leader.store, "", "lost"); !errors.As(err, &refused) || refused.Details["service"] != "quorum" {
		t.Errorf("a leader without followers: %v", err)
	}
	err := leader.store.View(t.Context(), storage.Read{Consistency: storage.Stale}, func(s storage.Snapshot) error {
		if v, err := s.Get("k/before"); err != nil || v == nil {
			t.Errorf("a stale read without a leader: %q, %v", v, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	c.mustWait(t, others[0], func(ctx context.Context) error {
		_, _, err := count.Do(ctx, others[0].store, "", "elsewhere")
		return err
	})
	linear, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	err = leader.store.View(linear, storage.Read{Consistency: storage.Linearizable}, func(storage.Snapshot) error { return nil })
	if !fault.Is(err, fault.Unavailable) {
		t.Errorf("a linearizable read on the minority's side: %v", err)
	}
	c.mend()
	c.mustAgree(t)
	if n, _ := mustCount(t, leader.store); n < 2 {
		t.Errorf("the former leader counts %d after mending", n)
	}
}

// TestCluster_OneWay: what a leader sends arrives, but no answer does. It must not go on saying that it leads.
func TestCluster_OneWay(t *testing.T) {
	t.Parallel() // most of it is waiting
	reg := storage.NewRegistry()
	count := counter(reg)
	c := mustCluster(t, 3, reg, nil)
	leader, others := c.leader(t)
	c.sever(others[0].id, leader.id)
	c.sever(others[1].id, leader.id)
	c.mustWait(t, others[1], func(ctx context.Context) error {
		_, _, err := count.Do(ctx, others[1].store, "", "later")
		return err
	})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	err := leader.store.View(ctx, storage.Read{Consistency: storage.Linearizable}, func(s storage.Snapshot) error {
		v, err := s.Get("k/later")
		if err == nil && v == nil {
			t.Error("a linearizable read missed a command that had been acknowledged")
		}
		return err
	})
	if err != nil && !fault.Is(err, fault.Unavailable) {
		t.Error(err)
	}
	c.mend()
	c.mustAgree(t)
}

// TestCluster_ReadYourWrites: at each node a caller reads what it was just told, and Find finds what any node was told.
func TestCluster_ReadYourWrites(t *testing.T) {
	reg := storage.NewRegistry()
	count := counter(reg)
	c := mustCluster(t, 3, reg, nil)
	for i := range 60 {
		key := fmt.Sprint(i)
		at := c.nodes[i%3]
		if _, _, err := count.Do(t.Context(), at.store, "", key); err != nil {
			t.Fatal(err)
		}
		look := func(s storage.Snapshot) error {
			v, err := s.Get("k/" + key)
			if err == nil && v == nil {
				err = fault.New(fault.NotFound, "no %s", key)
			}
			return err
		}
		if err := at.store.View(t.Context(), storage.Read{}, look); err != nil {
			t.Errorf("%s at the node that was told: %v", key, err)
		}
		if err := storage.Find(t.Context(), c.nodes[(i+1)%3].store, storage.Read{}, look); err != nil {
			t.Errorf("%s at another node: %v", key, err)
		}
	}
}

// TestCluster_Nudge: a follower has a lone command applied soon after the leader's answer, not after a CommitTimeout.
func TestCluster_Nudge(t *testing.T) {
	reg := storage.NewRegistry()
	count := counter(reg)
	c := mustCluster(t, 3, reg, nil)
	leader, others := c.leader(t)
	var answers, lags []time.Duration
	for i := range 60 {
		began := time.Now()
		_, index, err := count.Do(t.Context(), leader.store, "", fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
		answers = append(answers, time.Since(began))
		err = others[0].store.View(t.Context(), storage.Read{MinIndex: index}, func(storage.Snapshot) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		lags = append(lags, time.Since(began))
	}
	slices.Sort(answers)
	slices.Sort(lags)
	t.Logf("answered after %v, applied at a follower after %v (p50)", answers[30], lags[30])
	if lags[30] > 3*answers[30]+5*time.Millisecond {
		t.Errorf("a follower applies %v after the leader began, which answers after %v", lags[30], answers[30])
	}
}

// TestCluster_LogFloor: a follower whose disk is full to the log's floor refuses entries, again and again, under load. Each
// time that there is space again it catches up, without an election, and at the end all can stop.
func TestCluster_LogFloor(t *testing.T) {
	rounds := 4
	if long() {
		rounds = 60
	}
	reg := storage.NewRegistry()
	count := counter(reg)
	disks := make([]*vfs.MemFS, 3)
	free := func(i int, n uint64) { disks[i].TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: n, TotalBytes: 1 << 30}) }
	c := mustCluster(t, 3, reg, func(i int, o *replica.Options) {
		disks[i] = vfs.NewMem()
		free(i, 1<<29)
		o.Dir, o.FS, o.DiskFloorBytes, o.LogFloorBytes = "node", disks[i], 64<<20, 32<<20
	})
	var all ledger
	stop := make(chan struct{})
	loads := all.load(c.nodes[0].store, count, 6, stop)
	for range rounds {
		leader, _ := c.leader(t)
		i := (slices.Index(c.nodes, leader) + 1) % 3
		full := c.nodes[i]
		free(i, 16<<20)
		c.mustWait(t, full, func(context.Context) error {
			if at := full.store.Status().Applied; c.nodes[(i+1)%3].store.Status().Applied < at+40 {
				return fmt.Errorf("the full member still keeps up, at %d", at)
			}
			return nil
		})
		free(i, 1<<29)
		want := leader.store.Status().Applied
		c.mustWait(t, full, func(context.Context) error {
			if at := full.store.Status().Applied; at < want {
				return fmt.Errorf("it stays at %d of %d", at, want)
			}
			return nil
		})
	}
	close(stop)
	loads.Wait()
	c.mustAgree(t)
}

// TestCluster_DiskFloor: a leader whose disk is nearly full hands the office on, and the cluster goes on working.
func TestCluster_DiskFloor(t *testing.T) {
	t.Parallel() // most of it is waiting
	reg := storage.NewRegistry()
	count := counter(reg)
	disks := make([]*vfs.MemFS, 3)
	free := func(i int, n uint64) { disks[i].TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: n, TotalBytes: 1 << 30}) }
	c := mustCluster(t, 3, reg, func(i int, o *replica.Options) {
		disks[i] = vfs.NewMem()
		free(i, 1<<29)
		o.Dir, o.FS, o.DiskFloorBytes = "node", disks[i], 64<<20
	})
	leader, _ := c.leader(t)
	free(slices.Index(c.nodes, leader), 32<<20)
	c.mustWait(t, leader, func(context.Context) error {
		if now, _ := c.leader(t); now == leader {
			return errors.New("still in office")
		}
		return nil
	})
	if _, _, err := count.Do(t.Context(), leader.store, "", "k"); err != nil {
		t.Errorf("asked at the node whose disk is full, with another leader: %v", err)
	}
	c.mustAgree(t)
}
