package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/batchrepr"

	"github.com/nexixai/agentos/storage"
)

// stamp names one entry of one reign. A reign is a leader's continuous hold on the log, named by a random number, and n
// counts its entries. Every entry carries its own stamp and the one it was evaluated on.
type stamp struct{ reign, n uint64 }

// An entry is a header and a pebble batch in its binary form, whose keys already carry dataPrefix:
//
//	format(1) base.reign(8) base.n(8) own.reign(8) own.n(8) time(8) batch…
//
// An entry without changes (a linearizable look, a group of refusals) ends after the header.
const (
	entryFormat = 1
	entryHeader = 1 + 5*8
)

// Keys of the state: what commands wrote lies under dataPrefix, what the engine itself needs to know under metaPrefix.
const (
	metaPrefix = "\x00"
	dataPrefix = "\x01"
	dataEnd    = "\x02"
)

type entry struct {
	base, own stamp
	time      time.Time
	repr      []byte // a pebble batch, or empty
}

// encodeEntry returns the log entry that carries g's changes.
func encodeEntry(base, own stamp, now time.Time, g *storage.Group) ([]byte, error) {
	b := make([]byte, 0, entryHeader+batchrepr.HeaderLen+g.Bytes()+g.Bytes()/8+64)
	b = append(b, entryFormat)
	for _, v := range []uint64{base.reign, base.n, own.reign, own.n, uint64(now.UnixNano())} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	if g.Empty() {
		return b, nil
	}
	b = append(b, make([]byte, batchrepr.HeaderLen)...)
	count := uint32(0)
	err := g.Each(func(op storage.Op) error {
		count++
		switch {
		case op.RangeEnd != "":
			b = append(b, byte(pebble.InternalKeyKindRangeDelete))
			b = appendKey(b, op.Key)
			b = appendKey(b, op.RangeEnd)
		case op.Value == nil:
			b = append(b, byte(pebble.InternalKeyKindDelete))
			b = appendKey(b, op.Key)
		default:
			b = append(b, byte(pebble.InternalKeyKindSet))
			b = appendKey(b, op.Key)
			b = binary.AppendUvarint(b, uint64(len(op.Value)))
			b = append(b, op.Value...)
		}
		return nil
	})
	batchrepr.SetCount(b[entryHeader:], count)
	return b, err
}

func appendKey(b []byte, key string) []byte {
	b = binary.AppendUvarint(b, uint64(len(dataPrefix)+len(key)))
	b = append(b, dataPrefix...)
	return append(b, key...)
}

var errEntry = errors.New("storage: a log entry has an unknown form")

func decodeEntry(b []byte) (entry, error) {
	if len(b) < entryHeader || b[0] != entryFormat {
		return entry{}, errEntry
	}
	word := func(i int) uint64 { return binary.BigEndian.Uint64(b[1+8*i:]) }
	e := entry{
		base: stamp{word(0), word(1)},
		own:  stamp{word(2), word(3)},
		time: time.Unix(0, int64(word(4))).UTC(),
		repr: b[entryHeader:],
	}
	if len(e.repr) != 0 && len(e.repr) < batchrepr.HeaderLen {
		return entry{}, errEntry
	}
	return e, nil
}

// changes lists what the entry does, for watchers. The keys are copies.
func (e entry) changes() ([]storage.Change, error) {
	var out []storage.Change
	for r := batchrepr.Read(e.repr); ; {
		kind, key, value, ok, err := r.Next()
		if err != nil {
			return nil, fmt.Errorf("storage: batch of a log entry: %w", err)
		}
		if !ok {
			return out, nil
		}
		c := storage.Change{Key: strings.TrimPrefix(string(key), dataPrefix)}
		switch kind {
		case pebble.InternalKeyKindSet:
			c.Value = value
			if value == nil {
				c.Value = []byte{}
			}
		case pebble.InternalKeyKindRangeDelete:
			c.RangeEnd = strings.TrimPrefix(string(value), dataPrefix)
		}
		out = append(out, c)
	}
}
