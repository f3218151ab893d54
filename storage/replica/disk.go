package replica

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/zap"

	"github.com/nexixai/agentos/internal/fault"
)

// disk stands between the engines and the file system. It hears of every write and sync that fails, before the engine
// can try again, and counts what is written, so that free space is looked at in time.
type disk struct {
	vfs.FS
	dir          string
	floor, lower uint64
	fail         func(error)
	log          *zap.Logger

	low, lowest atomic.Bool // below floor, below lower
	unchecked   atomic.Int64
	look        chan struct{} // asks watch to look now
}

// lookEvery is how many bytes may be written before free space is looked at again, besides each second.
const lookEvery = 4 << 20

func newDisk(o Options, fail func(error)) *disk {
	return &disk{
		FS: o.FS, dir: o.Dir, floor: uint64(o.DiskFloorBytes), lower: uint64(o.LogFloorBytes),
		fail: fail, log: o.Logger, look: make(chan struct{}, 1),
	}
}

// watch keeps the floors until stop is closed.
func (d *disk) watch(stop <-chan struct{}) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-d.look:
		case <-stop:
			return
		}
		d.check()
	}
}

// check compares the free space with the floors. The ticks are for what lifts; before each write it's looked at anew.
func (d *disk) check() {
	d.unchecked.Store(0)
	use, err := d.FS.GetDiskUsage(d.dir)
	if err != nil {
		return // the file system can't tell: then its writes will
	}
	low := use.AvailBytes < d.floor
	if d.low.Swap(low) != low {
		if low {
			d.log.Error("disk space below the floor, new work is refused", zap.Uint64("free_bytes", use.AvailBytes), zap.Uint64("floor_bytes", d.floor))
		} else {
			d.log.Info("disk space above the floor again", zap.Uint64("free_bytes", use.AvailBytes))
		}
	}
	d.lowest.Store(use.AvailBytes < d.lower)
}

func (d *disk) wrote(n int) {
	if d.unchecked.Add(int64(n)) > lookEvery {
		select {
		case d.look <- struct{}{}:
		default:
		}
	}
}

// errDisk refuses new work below the floor.
func errDisk() error {
	return fault.New(fault.Unavailable, "The node's disk is nearly full; nothing new is taken until there is space again.").
		With("service", "disk").After(5 * time.Second)
}

// errLogFloor is what the log answers raft below the lower floor; a follower just stops acknowledging.
var errLogFloor = errors.New("storage: the disk is full to the log's floor")

// guard wraps a file that may be written.
func (d *disk) guard(name string, f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		d.failed(err)
		return nil, err
	}
	return &guarded{File: f, disk: d, name: name}, nil
}

func (d *disk) failed(err error) {
	if err != nil {
		d.fail(err)
	}
}

// Create implements vfs.FS.
func (d *disk) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := d.FS.Create(name, c)
	return d.guard(name, f, err)
}

// OpenReadWrite implements vfs.FS.
func (d *disk) OpenReadWrite(name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	f, err := d.FS.OpenReadWrite(name, c, o...)
	return d.guard(name, f, err)
}

// ReuseForWrite implements vfs.FS.
func (d *disk) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := d.FS.ReuseForWrite(from, to, c)
	return d.guard(to, f, err)
}

// OpenDir implements vfs.FS.
func (d *disk) OpenDir(name string) (vfs.File, error) {
	f, err := d.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &guarded{File: f, disk: d, name: name}, nil
}

// Rename implements vfs.FS.
func (d *disk) Rename(from, to string) error {
	err := d.FS.Rename(from, to)
	d.failed(err)
	return err
}

// GetDiskUsage implements vfs.FS. An engine takes any other error than "unsupported" for a failed disk.
func (d *disk) GetDiskUsage(path string) (vfs.DiskUsage, error) {
	use, err := d.FS.GetDiskUsage(path)
	if err != nil {
		return use, vfs.ErrUnsupported
	}
	return use, nil
}

// Unwrap implements vfs.FS.
func (d *disk) Unwrap() vfs.FS { return d.FS }

type guarded struct {
	vfs.File
	disk *disk
	name string
}

// failed tells of a failed call with the file's name, which the error of a bare system call leaves out.
func (g *guarded) failed(call string, err error) {
	if err != nil {
		g.disk.failed(fmt.Errorf("%s %s: %w", call, g.name, err))
	}
}

// Write implements vfs.File.
func (g *guarded) Write(p []byte) (int, error) {
	n, err := g.File.Write(p)
	g.disk.wrote(n)
	g.failed("write", err)
	return n, err
}

// WriteAt implements vfs.File.
func (g *guarded) WriteAt(p []byte, off int64) (int, error) {
	n, err := g.File.WriteAt(p, off)
	g.disk.wrote(n)
	g.failed("write", err)
	return n, err
}

// Sync implements vfs.File.
func (g *guarded) Sync() error {
	err := g.File.Sync()
	g.failed("sync", err)
	return err
}

// SyncData implements vfs.File.
func (g *guarded) SyncData() error {
	err := g.File.SyncData()
	g.failed("sync", err)
	return err
}

// SyncTo implements vfs.File.
func (g *guarded) SyncTo(n int64) (bool, error) {
	full, err := g.File.SyncTo(n)
	g.failed("sync", err)
	return full, err
}

// Preallocate implements vfs.File. The engines ask for it for their write-ahead logs only. Giving the file its size at once,
// where they'd keep the size and reserve the blocks alone, spares each later sync the journal write for a new size: a third
// of the time of a small command. A log that ends in zeros reads as one that ends there.
func (g *guarded) Preallocate(off, n int64) error {
	fd := g.File.Fd()
	if fd == vfs.InvalidFd || !strings.HasSuffix(g.name, ".log") {
		return g.File.Preallocate(off, n)
	}
	return fallocate(fd, off, n)
}
