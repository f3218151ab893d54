package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// tail remembers, beside the log, how far the log went. A write-ahead log whose last record can't be read looks like one
// that a crash has cut short, and the engine takes it for that; but when the bit has turned after the record was
// acknowledged, the end of the log is lost. The mark is written after each sync and never synced itself, so after a power
// loss it may be behind the log, but never before it. Where the log loses its end rightly, the mark is lowered, durably,
// first.
//
//	crc(4) index(8)
type tail struct {
	f vfs.File
	b [12]byte
}

// tailName is the mark's file in the log's folder. An operator who accepts that the log's end is lost removes it.
const tailName = "TAIL"

// openTail opens the mark, or makes one. seen is 0 when it says nothing.
func openTail(files vfs.FS, path string) (t *tail, seen uint64, err error) {
	f, err := files.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, 0, err
	}
	t = &tail{f: f}
	if n, err := f.ReadAt(t.b[:], 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, 0, errors.Join(err, f.Close())
	} else if n == len(t.b) && binary.BigEndian.Uint32(t.b[:]) == crc32.Checksum(t.b[4:], castagnoli) {
		seen = binary.BigEndian.Uint64(t.b[4:])
	}
	return t, seen, nil
}

// put marks that the log goes up to index.
func (t *tail) put(index uint64) error {
	binary.BigEndian.PutUint64(t.b[4:], index)
	binary.BigEndian.PutUint32(t.b[:], crc32.Checksum(t.b[4:], castagnoli))
	_, err := t.f.WriteAt(t.b[:], 0)
	return err
}

// lower marks that the log may end at index, before it does.
func (t *tail) lower(index uint64) error {
	if err := t.put(index); err != nil {
		return err
	}
	return t.f.Sync()
}

func (t *tail) close() error { return t.f.Close() }

// errShortened tells of a log that ends before what it had acknowledged.
func errShortened(l *logStore) error {
	return fmt.Errorf("%w: the last record of %s can't be read: the log ends at entry %d, and had %d (once log/%s is removed it's taken as it is)",
		ErrLogLost, l.newest, l.last, l.seen, tailName)
}
