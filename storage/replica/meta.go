package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/raft"
)

// Keys that the engine keeps about the state, in the state: they change in the same batch as what they describe, so that
// the state alone says where it stands.
var (
	metaKey     = []byte(metaPrefix + "applied")
	configKey   = []byte(metaPrefix + "configuration")
	identityKey = []byte(metaPrefix + "identity")
)

// stateFormat names the layout of the state's keys. A state of another format is refused.
const stateFormat = "agentos-state/1"

// meta says which prefix of the log a state holds.
type meta struct {
	index, term uint64 // of the last command or configuration applied
	stamp       stamp  // of the last entry that was not skipped
	hash        uint64 // running, over all batches that were not skipped
}

const metaSize = 5*8 + 4

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errMeta = errors.New("storage: the state's own record is damaged")

func (m meta) append(b []byte) []byte {
	from := len(b)
	for _, v := range []uint64{m.index, m.term, m.stamp.reign, m.stamp.n, m.hash} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b[from:], castagnoli))
}

func decodeMeta(b []byte) (meta, error) {
	if len(b) != metaSize || crc32.Checksum(b[:metaSize-4], castagnoli) != binary.BigEndian.Uint32(b[metaSize-4:]) {
		return meta{}, errMeta
	}
	word := func(i int) uint64 { return binary.BigEndian.Uint64(b[8*i:]) }
	return meta{index: word(0), term: word(1), stamp: stamp{word(2), word(3)}, hash: word(4)}, nil
}

// configuration is the last membership that the state knows.
type configuration struct {
	index uint64
	conf  raft.Configuration
}

func decodeConfiguration(b []byte) (c configuration, err error) {
	if len(b) < 8 {
		return c, errMeta
	}
	defer func() { // raft.DecodeConfiguration panics on what it can't read
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", errMeta, p)
		}
	}()
	return configuration{index: binary.BigEndian.Uint64(b), conf: raft.DecodeConfiguration(b[8:])}, nil
}

// get copies the value of key out of r; nil when there is none.
func get(r source, key []byte) ([]byte, error) {
	v, closer, err := r.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := make([]byte, len(v))
	copy(out, v)
	return out, closer.Close()
}

// readMeta returns where the state r stands; the zero meta is that of an empty state.
func readMeta(r source) (meta, configuration, error) {
	var m meta
	var c configuration
	b, err := get(r, metaKey)
	if err == nil && b != nil {
		m, err = decodeMeta(b)
	}
	if err != nil {
		return m, c, err
	}
	b, err = get(r, configKey)
	if err == nil && b != nil {
		c, err = decodeConfiguration(b)
	}
	return m, c, err
}
