package replica_test

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/replica"
)

// slowFS has each sync take longer by a set time.
type slowFS struct {
	faultFS
	by atomic.Int64 // nanoseconds
}

func newSlowFS() *slowFS {
	f := &slowFS{faultFS: faultFS{FS: vfs.Default}} // a real one, so that the memory in use is not the disk's
	f.set(func(op, _ string) error {
		if d := time.Duration(f.by.Load()); op == "sync" && d > 0 {
			<-time.After(d)
		}
		return nil
	})
	return f
}

// peak samples how much memory the process uses, until stop is called, which returns the most.
func peak() (stop func() uint64) {
	done := make(chan struct{})
	var most uint64
	var wg sync.WaitGroup
	wg.Go(func() {
		for tick := time.NewTicker(5 * time.Millisecond); ; {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapInuse)
			select {
			case <-tick.C:
			case <-done:
				tick.Stop()
				return
			}
		}
	})
	return func() uint64 { close(done); wg.Wait(); return most }
}

// TestCluster_FarBehind: under load with commands of nearly 1 MB one follower is slow, and another comes back after more than
// the log keeps. Both catch up, nobody elects, and the leader's memory stays within what its buffers and caches may hold.
//
// Requirements: N3, Q3.
func TestCluster_FarBehind(t *testing.T) {
	commands, most := 12, uint64(400<<20) // of three members: write buffers, caches of the log of 16 MB, entries on their way
	if long() {
		commands = 1500
	}
	reg := storage.NewRegistry()
	big := bulk(reg)
	disks := make([]*slowFS, 3)
	c := mustCluster(t, 3, reg, func(i int, o *replica.Options) {
		disks[i] = newSlowFS()
		o.FS, o.TrailingBytes, o.SnapshotBytes = disks[i], 4<<20, 8<<20
		o.Patient()
	})
	leader, slow, late := c.nodes[0], c.nodes[1], c.nodes[2]
	c.mustLead(t, leader)
	term := leader.store.Status().Term
	var seen jumps
	defer late.store.Watch("", &seen)()
	load := func() {
		var wg sync.WaitGroup
		var next atomic.Int64
		for range 4 {
			wg.Go(func() {
				for i := next.Add(1); i <= int64(commands); i = next.Add(1) {
					if _, _, err := big.Do(t.Context(), leader.store, "", bulkArgs{fmt.Sprint(i % 16), 1000 << 10}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
	}
	c.isolate(late.id, leader.id, slow.id)
	disks[1].by.Store(int64(20 * time.Millisecond))
	load()
	runtime.GC()
	stop := peak()
	c.mend()
	load()
	caught := time.Now()
	c.mustWait(t, late, func(context.Context) error {
		if at, want := late.store.Status().Applied, leader.store.Status().Applied; at < want {
			return fmt.Errorf("at %d of %d", at, want)
		}
		return nil
	})
	used := stop()
	t.Logf("caught up %v after the load ended; %d installs; %d MiB in use at most", time.Since(caught), seen.n.Load(), used>>20)
	disks[1].by.Store(0)
	c.mustAgree(t)
	if seen.n.Load() == 0 {
		t.Error("the late follower was never that far behind")
	}
	if now := leader.store.Status().Term; now != term {
		t.Errorf("there was an election: term %d, then %d", term, now)
	}
	if used > most {
		t.Errorf("%d MiB were in use, want at most %d", used>>20, most>>20)
	}
}
