package replica

import (
	"io"

	"github.com/cockroachdb/pebble/v2"

	"github.com/nexixai/agentos/storage"
)

// source is what both a live engine and a snapshot of it offer.
type source interface {
	Get(key []byte) (value []byte, closer io.Closer, err error)
	NewIter(o *pebble.IterOptions) (*pebble.Iterator, error)
}

// reader reads the data keys of a source. It belongs to one goroutine.
type reader struct {
	src        source
	key, limit []byte // scratch
}

var _ storage.Reader = (*reader)(nil)

func dataKey(b []byte, key string) []byte {
	b = append(b[:0], dataPrefix...)
	return append(b, key...)
}

// Get implements storage.Reader.
func (r *reader) Get(key string) ([]byte, error) {
	r.key = dataKey(r.key, key)
	v, closer, err := r.src.Get(r.key)
	if err == pebble.ErrNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := make([]byte, len(v))
	copy(out, v)
	return out, closer.Close()
}

// Scan implements storage.Reader.
func (r *reader) Scan(rg storage.Range, visit func(string, []byte) bool) error {
	if rg.To != "" && rg.To <= rg.From {
		return nil
	}
	r.key = dataKey(r.key, rg.From)
	if rg.To == "" {
		r.limit = append(r.limit[:0], dataEnd...)
	} else {
		r.limit = dataKey(r.limit, rg.To)
	}
	// The iterator copies its bounds, so that a scan within visit may reuse the scratch.
	it, err := r.src.NewIter(&pebble.IterOptions{LowerBound: r.key, UpperBound: r.limit})
	if err != nil {
		return err
	}
	step, ok := it.Next, false
	if rg.Reverse {
		step, ok = it.Prev, it.Last()
	} else {
		ok = it.First()
	}
	for ; ok; ok = step() {
		v, err := it.ValueAndErr()
		if err != nil {
			_ = it.Close()
			return err
		}
		if v == nil {
			v = []byte{}
		}
		if !visit(string(it.Key()[len(dataPrefix):]), v) {
			break
		}
	}
	return it.Close()
}

// moment is a source that shows one moment: that of the first read, so that a view which reads nothing costs nothing.
type moment struct {
	db   *pebble.DB
	snap *pebble.Snapshot
}

var _ source = (*moment)(nil)

func (m *moment) take() *pebble.Snapshot {
	if m.snap == nil {
		m.snap = m.db.NewSnapshot()
	}
	return m.snap
}

func (m *moment) close() {
	if m.snap != nil {
		_ = m.snap.Close()
	}
}

// Get implements source.
func (m *moment) Get(key []byte) ([]byte, io.Closer, error) { return m.take().Get(key) }

// NewIter implements source.
func (m *moment) NewIter(o *pebble.IterOptions) (*pebble.Iterator, error) { return m.take().NewIter(o) }

// snapshot is a reader of one moment.
type snapshot struct {
	reader
	err error
}

var _ storage.Snapshot = (*snapshot)(nil)

// Index implements storage.Snapshot.
func (s *snapshot) Index() uint64 {
	m, _, err := readMeta(s.src)
	if err != nil {
		s.err = err
	}
	return m.index
}
