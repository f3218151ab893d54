package replica_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/replica"
)

// ledger remembers what was acknowledged.
type ledger struct {
	mu    sync.Mutex
	acked map[string]bool
}

func (l *ledger) add(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.acked == nil {
		l.acked = make(map[string]bool)
	}
	l.acked[key] = true
}

func (l *ledger) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acked)
}

func (l *ledger) copy() map[string]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.acked)
}

// load has writers count keys until stop is closed or a command fails.
func (l *ledger) load(s storage.Store, count storage.Call[string, int], writers int, stop <-chan struct{}) *sync.WaitGroup {
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				key := fmt.Sprintf("%d/%d", w, i)
				if _, _, err := count.Do(context.Background(), s, "", key); err != nil {
					return
				}
				l.add(key)
			}
		})
	}
	return &wg
}

// missing lists what of acked isn't in keys.
func missing(acked, keys map[string]bool) (out []string) {
	for key := range acked {
		if !keys[key] {
			out = append(out, key)
		}
	}
	slices.Sort(out)
	return out
}

// TestStore_PowerLoss: the power fails before some sync, or right after it; what was not synced may be there or not, block
// by block. What had been acknowledged by then is there when the node is started again.
//
// Requirements: Q3.
func TestStore_PowerLoss(t *testing.T) {
	crashes, every := 24, int64(9)
	if long() {
		crashes, every = 400, 3
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	disk := vfs.NewCrashableMem()
	files := &faultFS{FS: disk}
	reg := storage.NewRegistry()
	count := counter(reg)
	s := mustOpen(t, replica.Options{
		Dir: "node", Registry: reg, Bootstrap: true, FS: files, MemTableBytes: 64 << 10, SnapshotInterval: 20 * time.Millisecond,
	})
	mustStart(t, s)

	type crash struct {
		disk  *vfs.MemFS
		acked map[string]bool
	}
	var all ledger
	var mu sync.Mutex
	var crashed []crash
	var syncs int64
	stop := make(chan struct{})
	files.set(func(op, _ string) error {
		mu.Lock()
		defer mu.Unlock()
		if syncs++; op != "sync" || syncs%every != 0 || len(crashed) == crashes {
			return nil
		}
		// What is acknowledged is looked at first: what comes between may be lost.
		acked := all.copy()
		crashed = append(crashed, crash{disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng}), acked})
		if len(crashed) == crashes {
			close(stop)
		}
		return nil
	})
	all.load(s, count, 8, stop).Wait()
	files.set(nil)
	mustClose(t, s)
	for i, c := range crashed {
		s := mustOpen(t, replica.Options{Dir: "node", Registry: reg, FS: c.disk})
		mustStart(t, s)
		if _, keys := mustCount(t, s); len(missing(c.acked, keys)) > 0 {
			t.Errorf("crash %d: of %d acknowledged these are gone: %q", i, len(c.acked), missing(c.acked, keys))
		}
		mustClose(t, s)
	}
	if n := len(crashed[len(crashed)-1].acked); n < 100 {
		t.Errorf("only %d commands were acknowledged: the crashes came too early to mean anything", n)
	}
}

// TestStore_PowerLossAtInit: whenever the power fails while a directory is being made, it's either whole or made anew.
func TestStore_PowerLossAtInit(t *testing.T) {
	reg := storage.NewRegistry()
	count := counter(reg)
	for at := 1; ; at++ {
		disk := vfs.NewCrashableMem()
		files := &faultFS{FS: disk}
		var clone *vfs.MemFS
		ops := 0
		files.set(func(string, string) error {
			if ops++; ops == at {
				clone = disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rand.New(rand.NewPCG(uint64(at), 0))})
			}
			return nil
		})
		s := mustOpen(t, replica.Options{Dir: "node", Registry: reg, Bootstrap: true, FS: files})
		files.set(nil)
		mustClose(t, s)
		if clone == nil {
			if at < 10 {
				t.Fatalf("making a directory took only %d writes and syncs", at)
			}
			return
		}
		there, err := replica.Exists(clone, "node")
		if err != nil {
			t.Fatal(err)
		}
		s = mustOpen(t, replica.Options{Dir: "node", Registry: reg, Bootstrap: !there, FS: clone})
		mustStart(t, s)
		if _, _, err := count.Do(t.Context(), s, "", "k"); err != nil {
			t.Fatalf("cut at %d: %v", at, err)
		}
		mustClose(t, s)
	}
}

// TestStore_EIO runs childEIO for each engine and operation.
//
// Requirements: Q3.
func TestStore_EIO(t *testing.T) {
	t.Parallel()
	for _, folder := range []string{"log", "st"} {
		for _, op := range []string{"write", "sync"} {
			t.Run(folder+"/"+op, func(t *testing.T) {
				out, err := child(t, "eio", "FOLDER="+folder, "OP="+op).Output()
				if err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				if n := strings.Count(string(out), "ended"); n != 10 {
					t.Errorf("%d of 10 failures ended the process:\n%s", n, out)
				}
			})
		}
	}
}

// childEIO has the n-th write or sync of one engine fail, for n = 1…10 each with a new node, and then looks at what a
// crash at that moment leaves. It's a process of its own because a node that has met its end is never closed.
func childEIO() error {
	if os.Getenv("FOLDER") == "exit" {
		return eioExit()
	}
	for n := int64(1); n <= 10; n++ {
		if err := eio(os.Getenv("FOLDER"), os.Getenv("OP"), n); err != nil {
			return fmt.Errorf("%s %d of %s: %w", os.Getenv("OP"), n, os.Getenv("FOLDER"), err)
		}
		fmt.Println("ended", n)
	}
	return nil
}

// eioExit leaves Options.Fatal at its default.
func eioExit() error {
	files := &faultFS{FS: vfs.NewMem()}
	reg := storage.NewRegistry()
	count := counter(reg)
	s, err := replica.Open(replica.Options{
		Dir: "node", ServerID: "one", ClusterID: "test", Registry: reg, Bootstrap: true, FS: files, Fast: true, DiskFloorBytes: -1,
	})
	if err != nil {
		return err
	}
	if err := errors.Join(s.Start(context.Background()), s.Ready(context.Background())); err != nil {
		return err
	}
	files.set(func(string, string) error { return syscall.EIO })
	_, _, err = count.Do(context.Background(), s, "", "k")
	return fmt.Errorf("still here: %w", err)
}

func eio(folder, op string, n int64) error {
	disk := vfs.NewCrashableMem()
	files := &faultFS{FS: disk}
	reg := storage.NewRegistry()
	count := counter(reg)
	ended := make(chan error, 1)
	o := replica.Options{
		Dir: "node", ServerID: "one", ClusterID: "test", Registry: reg, Bootstrap: true, FS: files, Fast: true, DiskFloorBytes: -1,
		MemTableBytes: 64 << 10, SnapshotInterval: 20 * time.Millisecond, AskTimeout: time.Second,
		Fatal: func(err error) { ended <- err; select {} },
	}
	s, err := replica.Open(o)
	if err != nil {
		return err
	}
	if err := errors.Join(s.Start(context.Background()), s.Ready(context.Background())); err != nil {
		return err
	}
	var seen, after atomic.Int64
	files.set(func(o, path string) error {
		if o != op || !strings.Contains(path, "node/"+folder) {
			return nil
		}
		switch at := seen.Add(1); {
		case at == n:
			return syscall.EIO
		case at > n && op == "sync" && folder == "log":
			after.Add(1) // a second sync of the same log
		}
		return nil
	})
	var all ledger
	all.load(s, count, 8, nil)
	var cause error
	select {
	case cause = <-ended:
	case <-time.After(30 * time.Second):
		return errors.New("the process did not end")
	}
	if !errors.Is(cause, syscall.EIO) {
		return fmt.Errorf("the process ended because of %w", cause)
	}
	// Everything that was ever acknowledged counts, also what came after the failure, against what was synced by then.
	clone := disk.CrashClone(vfs.CrashCloneCfg{})
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if _, _, err := count.Do(ctx, s, "", "late"); err == nil {
		return errors.New("a command was acknowledged after the failure")
	}
	if after.Load() > 0 {
		return fmt.Errorf("the log was synced %d times more", after.Load())
	}
	acked := all.copy()
	o.Bootstrap, o.FS, o.Fatal = false, clone, func(err error) { panic(err) }
	again, err := replica.Open(o)
	if err != nil {
		return err
	}
	if err := errors.Join(again.Start(context.Background()), again.Ready(context.Background())); err != nil {
		return err
	}
	keys := make(map[string]bool)
	err = again.View(context.Background(), storage.Read{}, func(v storage.Snapshot) error {
		return v.Scan(storage.Prefix("k/"), func(key string, _ []byte) bool { keys[strings.TrimPrefix(key, "k/")] = true; return true })
	})
	if gone := missing(acked, keys); err == nil && len(gone) > 0 {
		err = fmt.Errorf("of %d acknowledged these are gone: %q", len(acked), gone)
	}
	return errors.Join(err, again.Close())
}

// TestStore_FatalDefault: without a hook the process ends by itself.
func TestStore_FatalDefault(t *testing.T) {
	err := child(t, "eio", "FOLDER=exit").Run()
	if err == nil || !strings.Contains(err.Error(), "exit status 1") {
		t.Errorf("the process ended with %v", err)
	}
}

// TestStore_DiskFloor: below the floor new commands are refused and reads go on; it lifts by itself.
//
// Requirements: Q3.
func TestStore_DiskFloor(t *testing.T) {
	t.Parallel() // most of it is waiting
	disk := vfs.NewMem()
	free := func(n uint64) { disk.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: n, TotalBytes: 1 << 30}) }
	free(1 << 29)
	reg := storage.NewRegistry()
	count := counter(reg)
	s := mustOpen(t, replica.Options{Dir: "node", Registry: reg, Bootstrap: true, FS: disk, DiskFloorBytes: 64 << 20})
	mustStart(t, s)
	until := func(what string, done func(error) bool) {
		t.Helper()
		deadline := time.Now().Add(20 * time.Second)
		for i := 0; ; i++ {
			_, _, err := count.Do(t.Context(), s, "", fmt.Sprint(what, i))
			if done(err) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s never came, but %v", what, err)
			}
		}
	}
	until("work", func(err error) bool { return err == nil })
	free(1 << 25)
	var refused *fault.Error
	_, _, err := count.Do(t.Context(), s, "", "the first below the floor")
	if !errors.As(err, &refused) {
		t.Fatalf("the first command after the disk has filled: %v, want a refusal", err)
	}
	if refused.Code != fault.Unavailable || refused.Details["service"] != "disk" {
		t.Errorf("refused with %v, %v", refused, refused.Details)
	}
	if n, _ := mustCount(t, s); n == 0 {
		t.Error("nothing can be read below the floor")
	}
	free(1 << 29)
	until("work again", func(err error) bool { return err == nil })
	free(1 << 20) // below the log's own floor
	until("a refusal again", func(err error) bool { return err != nil })
	free(1 << 29)
	until("work after the log's floor", func(err error) bool { return err == nil })
}

// flips are the places where one bit is turned.
var flips = []struct{ name, glob string }{
	{"log table", "log/*.sst"},
	{"log manifest", "log/MANIFEST-*"},
	{"state table", "st/state-0/*.sst"},
	{"state manifest", "st/state-0/MANIFEST-*"},
	{"CURRENT", "st/CURRENT"},
	{"log journal", "log/*.log"},
}

// TestOpen_Flip: a bit that turned on the disk is met with a refusal that names the place, not with other data.
func TestOpen_Flip(t *testing.T) {
	t.Parallel()
	for _, f := range flips {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			out, err := child(t, "flip", "DIR="+t.TempDir(), "GLOB="+f.glob).Output()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			t.Logf("%s", out)
		})
	}
}

// childFlip makes a node, turns bits in its files one at a time, and opens a copy each time. It's a process of its own
// because a node that meets damage while it runs ends its process.
func childFlip() error {
	dir, reg := os.Getenv("DIR"), storage.NewRegistry()
	count := counter(reg)
	o := replica.Options{Dir: filepath.Join(dir, "node"), ServerID: "one", ClusterID: "test", Registry: reg, Bootstrap: true, DiskFloorBytes: -1}
	s, err := replica.Open(o)
	if err != nil {
		return err
	}
	if err := errors.Join(s.Start(context.Background()), s.Ready(context.Background())); err != nil {
		return err
	}
	for i := range 300 {
		if _, _, err := count.Do(context.Background(), s, "", fmt.Sprint(i)); err != nil {
			return err
		}
	}
	if err := s.Close(); err != nil {
		return err
	}
	// A second start and stop, so that the log has a table and the journals are cut off at a known end.
	o.Bootstrap = false
	if s, err = replica.Open(o); err != nil {
		return err
	}
	if err := errors.Join(s.Start(context.Background()), s.Ready(context.Background()), s.Close()); err != nil {
		return err
	}
	names, err := filepath.Glob(filepath.Join(o.Dir, os.Getenv("GLOB")))
	if err != nil || len(names) == 0 {
		return fmt.Errorf("no file %s: %w", os.Getenv("GLOB"), err)
	}
	refused, whole := 0, 0
	var last error
	places := 6
	if long() {
		places = 48
	}
	for i := range places {
		copied := filepath.Join(dir, fmt.Sprint("copy", i))
		if err := os.CopyFS(copied, os.DirFS(o.Dir)); err != nil {
			return err
		}
		name := names[i%len(names)]
		rel, err := filepath.Rel(o.Dir, name)
		if err != nil {
			return err
		}
		if ok, err := flip(filepath.Join(copied, rel), i, places); err != nil || !ok {
			return errors.Join(err, fmt.Errorf("%s is empty", rel))
		}
		if err := look(copied, o); err != nil {
			if strings.Contains(err.Error(), "WRONG") {
				return fmt.Errorf("%s, place %d: %w", rel, i, err)
			}
			if !blames(err, rel) {
				return fmt.Errorf("%s, place %d: the refusal does not name it: %w", rel, i, err)
			}
			refused, last = refused+1, err
		} else {
			whole++ // the bit was in a part that says nothing, and everything is there
		}
	}
	if refused == 0 {
		return errors.New("no turned bit was noticed")
	}
	fmt.Printf("%d refused, %d harmless; the last: %v\n", refused, whole, last)
	return nil
}

// blames reports whether err says which file is damaged, or which entry of the log.
func blames(err error, file string) bool {
	return strings.Contains(err.Error(), filepath.Base(file)) || strings.Contains(err.Error(), "log entry")
}

// flip turns one bit, in the i-th of so many parts of the file; the last two are at the very end of a manifest or a journal.
func flip(path string, i, parts int) (bool, error) {
	b, err := os.ReadFile(path)
	if err != nil || len(b) == 0 {
		return false, err
	}
	if end := slices.IndexFunc(b, func(c byte) bool { return c != 0 }); end < 0 {
		return false, nil
	}
	used := len(b)
	for used > 0 && b[used-1] == 0 { // the end of a preallocated file holds nothing
		used--
	}
	at := used * (2*i + 1) / (2 * parts)
	if i >= parts-2 && (strings.HasPrefix(filepath.Base(path), "MANIFEST") || strings.HasSuffix(path, ".log")) {
		at = used - 1
	}
	b[at] ^= 0x10
	return true, os.WriteFile(path, b, 0o600)
}

// look opens a copy and reads everything. It returns what the node refused with; an error with WRONG in it means that the
// node gave other data than was written.
func look(dir string, o replica.Options) error {
	o.Dir = dir
	ended := make(chan error, 1)
	o.Fatal = func(err error) { ended <- err; select {} }
	result := make(chan error, 1)
	go func() {
		s, err := replica.Open(o)
		if err != nil {
			result <- err
			return
		}
		if err := errors.Join(s.Start(context.Background()), s.Ready(context.Background())); err != nil {
			result <- err
			return
		}
		n := 0
		err = s.View(context.Background(), storage.Read{}, func(v storage.Snapshot) error {
			return v.Scan(storage.Prefix("k/"), func(string, []byte) bool { n++; return true })
		})
		if err == nil && n != 300 {
			err = fmt.Errorf("WRONG: %d keys of 300", n)
		}
		if err != nil {
			result <- err
			return
		}
		result <- s.Close()
	}()
	select {
	case err := <-ended:
		return err
	case err := <-result:
		return err
	case <-time.After(time.Minute):
		return errors.New("WRONG: no answer")
	}
}
