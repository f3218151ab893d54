package replica_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/replica"
	"github.com/nexixai/agentos/storage/storagetest"
)

// counter defines a read-modify-write counter: a command that was applied twice, or lost, shows in it.
func counter(reg *storage.Registry) storage.Call[string, int] {
	return storage.Define(reg, "count", func(tx storage.Tx, key string) (int, error) {
		raw, err := tx.Get("n")
		if err != nil {
			return 0, err
		}
		n := 0
		if raw != nil {
			if _, err := fmt.Sscan(string(raw), &n); err != nil {
				return 0, err
			}
		}
		if had, err := tx.Get("k/" + key); err != nil || had != nil {
			return n, err // asked before: harmless twice
		}
		n++
		tx.Set("n", fmt.Append(nil, n))
		tx.Set("k/"+key, fmt.Append(nil, n))
		return n, nil
	})
}

// mustCount returns the counter, and the keys that were counted.
func mustCount(tb testing.TB, s storage.Store) (n int, keys map[string]bool) {
	tb.Helper()
	return mustCountAt(tb, s, storage.Linearizable)
}

func mustCountAt(tb testing.TB, s storage.Store, how storage.Consistency) (n int, keys map[string]bool) {
	tb.Helper()
	keys = make(map[string]bool)
	err := s.View(context.Background(), storage.Read{Consistency: how}, func(v storage.Snapshot) error {
		raw, err := v.Get("n")
		if err != nil {
			return err
		}
		if raw != nil {
			if _, err := fmt.Sscan(string(raw), &n); err != nil {
				return err
			}
		}
		return v.Scan(storage.Prefix("k/"), func(key string, _ []byte) bool { keys[strings.TrimPrefix(key, "k/")] = true; return true })
	})
	if err != nil {
		tb.Fatal(err)
	}
	if n != len(keys) {
		tb.Errorf("the counter stands at %d, with %d keys", n, len(keys))
	}
	return n, keys
}

// TestStore_Restart: what was acknowledged is there after a stop, also when nothing was flushed, and a lone voter leads
// again well within a second.
func TestStore_Restart(t *testing.T) {
	dir := t.TempDir()
	reg := storage.NewRegistry()
	count := counter(reg)
	o := replica.Options{Dir: dir, Registry: reg, Bootstrap: true}
	var hash uint64
	for round := range 4 {
		s := mustOpen(t, o)
		began := time.Now()
		mustStart(t, s)
		if took := time.Since(began); took > time.Second {
			t.Errorf("round %d: ready after %v", round, took)
		}
		if st := s.Status(); hash != 0 && st.Hash != hash {
			t.Errorf("round %d: the running hash is %x, was %x", round, st.Hash, hash)
		}
		if n, _ := mustCount(t, s); n != round*50 {
			t.Errorf("round %d: %d commands are there, want %d", round, n, round*50)
		}
		for i := range 50 {
			if _, _, err := count.Do(t.Context(), s, "", fmt.Sprintf("%d/%d", round, i)); err != nil {
				t.Fatal(err)
			}
		}
		hash = s.Status().Hash
		mustClose(t, s)
		o.Bootstrap = false
	}
}

// TestOpen_Refuses: directories that don't fit are refused by name, and stay as they are.
func TestOpen_Refuses(t *testing.T) {
	reg := storage.NewRegistry()
	count := counter(reg)
	make := func(t *testing.T) replica.Options {
		o := replica.Options{Dir: t.TempDir(), ServerID: "one", ClusterID: "test", Registry: reg, Bootstrap: true, DiskFloorBytes: -1}
		s := mustOpen(t, o)
		mustStart(t, s)
		if _, _, err := count.Do(t.Context(), s, "", "k"); err != nil {
			t.Fatal(err)
		}
		mustClose(t, s)
		o.Bootstrap = false
		return o
	}
	for _, test := range []struct {
		name  string
		spoil func(t *testing.T, o *replica.Options)
		want  error  // or
		text  string // what the error says
	}{
		{"to bootstrap what exists", func(_ *testing.T, o *replica.Options) { o.Bootstrap = true }, replica.ErrExists, ""},
		{"another cluster", func(_ *testing.T, o *replica.Options) { o.ClusterID = "other" }, nil, "another cluster"},
		{"another server", func(_ *testing.T, o *replica.Options) { o.ServerID = "two" }, nil, `"test one"`},
		{"no log", func(t *testing.T, o *replica.Options) { mustRemove(t, o.Dir, "log") }, replica.ErrDamaged, "folder log"},
		{"no state", func(t *testing.T, o *replica.Options) { mustRemove(t, o.Dir, "st") }, replica.ErrDamaged, "folder st"},
		{"no CURRENT", func(t *testing.T, o *replica.Options) { mustRemove(t, o.Dir, "st/CURRENT") }, replica.ErrDamaged, "CURRENT"},
		{"CURRENT names nothing", func(t *testing.T, o *replica.Options) { mustRemove(t, o.Dir, "st/state-0") }, nil, "state-0"},
		{"an emptied log", func(t *testing.T, o *replica.Options) {
			mustRemove(t, o.Dir, "log")
			if err := os.Mkdir(filepath.Join(o.Dir, "log"), 0o700); err != nil {
				t.Fatal(err)
			}
		}, replica.ErrLogLost, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := make(t)
			test.spoil(t, &o)
			s, err := replica.Open(o)
			if err == nil {
				mustClose(t, s)
				t.Fatal("opened")
			}
			if test.want != nil && !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.text) {
				t.Errorf("refused with %v", err)
			}
			if test.name == "CURRENT names nothing" {
				if _, err := os.Stat(filepath.Join(o.Dir, "st/state-0")); err == nil {
					t.Error("an empty state was made where one is missing")
				}
			}
		})
	}
}

func mustRemove(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

// TestOpen_Interrupted: a directory whose making was cut short holds nothing yet, and is made anew.
func TestOpen_Interrupted(t *testing.T) {
	reg := storage.NewRegistry()
	counter(reg)
	dir := t.TempDir()
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "log"), 0o700), os.WriteFile(filepath.Join(dir, "making"), nil, 0o600),
		os.MkdirAll(filepath.Join(dir, "st", "state-0"), 0o700)); err != nil {
		t.Fatal(err)
	}
	if there, err := replica.Exists(nil, dir); err != nil || there {
		t.Fatalf("a half-made directory exists: %v, %v", there, err)
	}
	s := mustOpen(t, replica.Options{Dir: dir, Registry: reg, Bootstrap: true})
	mustStart(t, s)
	if there, err := replica.Exists(nil, dir); err != nil || !there {
		t.Fatalf("a made directory does not exist: %v, %v", there, err)
	}
	mustClose(t, s)
	mustStart(t, mustOpen(t, replica.Options{Dir: dir, Registry: reg}))
}

// TestStore_Snapshots: while the state is flushed and the log cut all the time nothing is lost, and the log stays short.
func TestStore_Snapshots(t *testing.T) {
	reg := storage.NewRegistry()
	s := mustOpen(t, replica.Options{
		Dir: t.TempDir(), Bootstrap: true, Registry: reg, SnapshotInterval: 5 * time.Millisecond, MemTableBytes: 256 << 10,
	})
	_ = storagetest.Define(reg)
	count := counter(reg)
	mustStart(t, s)
	for i := range 600 {
		if _, _, err := count.Do(t.Context(), s, "", fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	if n, _ := mustCount(t, s); n != 600 {
		t.Errorf("%d commands of 600", n)
	}
	first, last := s.LogBounds()
	if last < 600 || first < 100 {
		t.Errorf("the log holds %d–%d after 600 commands and a cut each few milliseconds", first, last)
	}
}

// TestStore_CutBehindFlush: raft counts a barrier, of which the state knows nothing, into what it has taken a snapshot of. The
// log is not cut above what is flushed all the same: after a loss of power the state and the log meet.
func TestStore_CutBehindFlush(t *testing.T) {
	reg := storage.NewRegistry()
	count := counter(reg)
	disk := vfs.NewCrashableMem()
	files := &faultFS{FS: disk}
	o := replica.Options{Dir: "node", Registry: reg, Bootstrap: true, FS: files, SnapshotInterval: time.Hour}
	s := mustOpen(t, o)
	mustStart(t, s)
	for i := range 4 {
		if _, _, err := count.Do(t.Context(), s, "", fmt.Sprint("before", i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Barrier(); err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	files.set(func(op, path string) error {
		if op == "sync" && strings.HasPrefix(path, "node/st/") { // the snapshot is being flushed
			once.Do(func() {
				for i := range 8 { // so that the barrier is not among the last entries, which a cut leaves
					if _, _, err := count.Do(context.Background(), s, "", fmt.Sprint("meanwhile", i)); err != nil {
						t.Error(err)
					}
				}
			})
		}
		return nil
	})
	if err := s.Snapshot(); err != nil {
		t.Fatal(err)
	}
	files.set(nil)
	o.FS, o.Bootstrap = disk.CrashClone(vfs.CrashCloneCfg{}), false
	if first, _ := s.LogBounds(); first < 2 {
		t.Error("the log was not cut at all")
	}
	mustClose(t, s)
	s = mustOpen(t, o)
	mustStart(t, s)
	if n, _ := mustCount(t, s); n != 12 {
		t.Errorf("%d commands of 12 are there", n)
	}
}
