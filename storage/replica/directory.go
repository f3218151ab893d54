package replica

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// directory is the layout of a replica on disk:
//
//	making         present while the directory is being made; then nothing in it counts yet
//	log/           the raft log and raft's own few values (pebble, synced)
//	log/TAIL       how far the log went
//	st/CURRENT     names the state directory in use, and the index at which it was installed (0 if it grew here)
//	st/state-N/    the state (pebble, no WAL of its own)
type directory struct {
	fs   vfs.FS
	root string
}

// current is what CURRENT says.
type current struct {
	name      string
	installed uint64
}

func (d directory) path(elem ...string) string {
	return d.fs.PathJoin(append([]string{d.root}, elem...)...)
}
func (d directory) log() string    { return d.path("log") }
func (d directory) states() string { return d.path("st") }
func (d directory) marker() string { return d.path("making") }

// Errors about directories that can't be used as they are.
var (
	// ErrExists says that a directory to be bootstrapped already holds a replica.
	ErrExists = errors.New("storage: the directory already holds a replica")
	// ErrDamaged says that a directory contradicts itself. It must be emptied, and rejoin under a new server id.
	ErrDamaged = errors.New("storage: the directory is damaged")
	// ErrLogLost says that the log ends before what the state already holds: acknowledged entries, or votes, are gone. The
	// directory must be emptied, and rejoin under a new server id.
	ErrLogLost = errors.New("storage: the log is behind the state")
)

// Exists reports whether dir holds a replica. A directory whose making was interrupted holds none.
func Exists(files vfs.FS, dir string) (bool, error) {
	if files == nil {
		files = vfs.Default
	}
	d := directory{fs: files, root: dir}
	making, err := d.has(d.marker())
	if err != nil || making {
		return false, err
	}
	log, err := d.has(d.log())
	if err != nil {
		return false, err
	}
	states, err := d.has(d.states())
	return log || states, err
}

func (d directory) has(path string) (bool, error) {
	_, err := d.fs.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// begin makes the folders of a new replica, behind the marker.
func (d directory) begin() error {
	if err := d.makeRoot(); err != nil {
		return err
	}
	if err := d.write(d.marker(), "a replica is being made here\n"); err != nil {
		return err
	}
	for _, dir := range []string{d.log(), d.states()} {
		if err := d.fs.RemoveAll(dir); err != nil {
			return err
		}
		if err := d.fs.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	return d.sync(d.root)
}

// makeRoot makes the root and what's missing above it, so that it's found again after the power failed.
func (d directory) makeRoot() error {
	var parents []string // of what is made
	for path := d.root; ; {
		ok, err := d.has(path)
		if err != nil {
			return err
		}
		above := d.fs.PathDir(path)
		if ok || above == path {
			break
		}
		parents = append(parents, above)
		path = above
	}
	if err := d.fs.MkdirAll(d.root, 0o700); err != nil {
		return err
	}
	for _, parent := range parents {
		if err := d.sync(parent); err != nil {
			return err
		}
	}
	return nil
}

// finish takes the marker away: from now on what the directory holds counts.
func (d directory) finish() error {
	if err := d.fs.Remove(d.marker()); err != nil {
		return err
	}
	return d.sync(d.root)
}

// write replaces the file at path, durably.
func (d directory) write(path, text string) error {
	tmp := path + ".tmp"
	f, err := d.fs.Create(tmp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, text)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := d.fs.Rename(tmp, path); err != nil {
		return err
	}
	return d.sync(d.fs.PathDir(path))
}

func (d directory) sync(dir string) error {
	f, err := d.fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (d directory) writeCurrent(c current) error {
	line := fmt.Sprintf("%s %d", c.name, c.installed)
	return d.write(d.path("st", "CURRENT"), fmt.Sprintf("%s %08x\n", line, crc32.Checksum([]byte(line), castagnoli)))
}

func (d directory) readCurrent() (current, error) {
	b, err := d.read(d.path("st", "CURRENT"))
	if err != nil {
		return current{}, fmt.Errorf("%w: st/CURRENT: %w", ErrDamaged, err)
	}
	words := strings.Fields(string(b))
	if len(words) != 3 {
		return current{}, fmt.Errorf("%w: st/CURRENT says %q", ErrDamaged, b)
	}
	installed, err := strconv.ParseUint(words[1], 10, 64)
	sum := fmt.Sprintf("%08x", crc32.Checksum([]byte(words[0]+" "+words[1]), castagnoli))
	if err != nil || sum != words[2] || d.fs.PathBase(words[0]) != words[0] {
		return current{}, fmt.Errorf("%w: st/CURRENT says %q", ErrDamaged, b)
	}
	return current{name: words[0], installed: installed}, nil
}

func (d directory) read(path string) ([]byte, error) {
	f, err := d.fs.Open(path)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, 4096))
	return b, errors.Join(err, f.Close())
}

// sweep removes what CURRENT doesn't name: half installed states, and checkpoints that were being sent.
func (d directory) sweep(keep string) error {
	names, err := d.fs.List(d.states())
	if err != nil {
		return err
	}
	for _, name := range names {
		if name == keep || name == "CURRENT" {
			continue
		}
		if err := d.fs.RemoveAll(d.path("st", name)); err != nil {
			return err
		}
	}
	return nil
}
