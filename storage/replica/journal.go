package replica

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"strconv"
	"strings"
)

// A write-ahead log that was cut short by a crash ends in the middle of a record, and the engine that reads it takes the
// first record it can't read for that end. A bit that turned further up looks the same to it, and everything behind would
// be lost without a word. (Its own look-ahead for that begins at the next block of 32 KiB only.) Here the log store
// knows more than the engine: it writes one record at a time and syncs each before it begins the next, so a record behind
// one that can't be read proves that the disk has changed what it was given.
//
// The same goes for the manifest, in which an engine notes which tables make it up: each note is synced before the next.
//
// The form, from package record of pebble: blocks of 32 KiB, chunks within them of
//
//	crc(4) length(2) type(1) [journal(4) synced(8)] payload
//
// little-endian, where type says whole, first, middle or last part of a record, and a manifest has no bracket.
type journal struct {
	header                  int
	whole, first, lastChunk byte
	number                  uint32
}

const journalBlock = 32 << 10

func writeAhead(number uint32) journal {
	return journal{header: 4 + 2 + 1 + 4 + 8, whole: 9, first: 10, lastChunk: 12, number: number}
}

var manifest = journal{header: 4 + 2 + 1, whole: 1, first: 2, lastChunk: 4}

// checkJournals looks at every write-ahead log in the engine's directory dir, and at its manifest.
func (d directory) checkJournals(dir string) error {
	names, err := d.fs.List(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		base, isLog := strings.CutSuffix(name, ".log")
		number, err := strconv.ParseUint(base, 10, 64)
		if !isLog || err != nil {
			continue
		}
		if err := d.checkJournal(dir, name, writeAhead(uint32(number))); err != nil {
			return err
		}
	}
	if name := manifestOf(names); name != "" {
		return d.checkJournal(dir, name, manifest)
	}
	return nil
}

// newestJournal names the write-ahead log that the engine in dir has written last, "" when there is none.
func (d directory) newestJournal(dir string) (string, error) {
	names, err := d.fs.List(dir)
	newest := ""
	for _, name := range names {
		if strings.HasSuffix(name, ".log") {
			newest = max(newest, name) // numbers of fixed length
		}
	}
	return newest, err
}

// manifestOf finds which manifest is the current one among an engine's files.
func manifestOf(names []string) string {
	marker := ""
	for _, name := range names {
		if rest, ok := strings.CutPrefix(name, "marker.manifest."); ok {
			marker = max(marker, rest) // a number of fixed length, and the manifest's name
		}
	}
	_, name, _ := strings.Cut(marker, ".")
	return name
}

// manifest names the current manifest of the engine in dir.
func (d directory) manifest(dir string) string {
	names, err := d.fs.List(dir)
	if err != nil {
		return "a manifest"
	}
	return manifestOf(names)
}

// unopened says what's wrong with the engine in dir that could not be opened; an engine's own words say which file, but for
// one case: when the manifest's last note can't be read, which looks like the end of the manifest, the tables that the note
// before still names are gone.
func (d directory) unopened(what, dir string, err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: %s: %s names tables that are not there; either they or its end are lost: %w", ErrDamaged, what, d.manifest(dir), err)
	}
	return damaged(what, err)
}

func (d directory) checkJournal(dir, name string, j journal) error {
	f, err := d.fs.Open(d.fs.PathJoin(dir, name))
	if err != nil {
		return err
	}
	b, err := io.ReadAll(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if at, ok := j.check(b); !ok {
		return fmt.Errorf("%w: %s can't be read at byte %d, but goes on behind it", ErrDamaged, name, at)
	}
	return nil
}

// check walks over the records in b. ok is false when one can't be read at at and another begins behind it.
func (j journal) check(b []byte) (at int, ok bool) {
	for {
		if left := journalBlock - at%journalBlock; left < j.header {
			at += left // the rest of a block that has no room for a chunk
		}
		next := j.chunk(b, at)
		if next == 0 {
			break
		}
		at = next
	}
	used := len(bytes.TrimRight(b, "\x00")) // a file that was given its size ahead ends in nothing
	for q := at + 1; q+6 < used; q++ {
		if kind := b[q+6]; (kind == j.whole || kind == j.first) && j.chunk(b, q) != 0 {
			return at, false
		}
	}
	return at, true
}

// chunk returns where the chunk at at ends, or 0 when none that is whole begins there.
func (j journal) chunk(b []byte, at int) (next int) {
	end := min(len(b), (at/journalBlock+1)*journalBlock)
	if at+j.header > end {
		return 0
	}
	kind := b[at+6]
	if kind < j.whole || kind > j.lastChunk || j.number != 0 && binary.LittleEndian.Uint32(b[at+7:]) != j.number {
		return 0
	}
	next = at + j.header + int(binary.LittleEndian.Uint16(b[at+4:]))
	if next > end {
		return 0
	}
	sum := crc32.Checksum(b[at+6:next], castagnoli)
	if binary.LittleEndian.Uint32(b[at:]) != (sum>>15|sum<<17)+0xa282ead8 {
		return 0
	}
	return next
}
