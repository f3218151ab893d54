package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/raft"
)

// logStore keeps the raft log and raft's own few values, in an engine of their own that is synced on every write.
//
//	'l' index(8)  →  crc(4) term(8) appended(8) type(1) len(data)(4) data extensions
//	's' name      →  crc(4) value
//	'c'           →  crc(4) index(8): entries up to here were known to be committed
//
// The log has no gaps, neither in itself nor between its beginning and what the state holds. It is cut at its beginning
// only below what the state has flushed.
type logStore struct {
	db     *pebble.DB
	tail   *tail
	seen   uint64 // what the tail said when the store was opened
	newest string // the write-ahead log that was read last then
	fail   func(error)

	applied func() uint64 // the state holds entries up to here; a log that is empty goes on after it at the latest
	flushed func() uint64 // and has them on disk up to here
	full    func() bool   // the disk is below the lower floor
	every   int64         // grown is told after so many bytes
	grown   chan struct{} // capacity 1

	writing sync.Mutex   // one record at a time is written and synced: see journal.go
	busy    atomic.Int64 // when the write under way began, Unix nanoseconds; 0 when there is none

	mu          sync.RWMutex
	first, last uint64
	written     int64 // bytes of entries since the store was opened
	told        int64 // written when grown was told last
	marks       []logMark
	cache       logCache
}

// logMark remembers how many bytes had been written when index was; there's one about each MiB.
type logMark struct {
	index   uint64
	written int64
}

const (
	logPrefix    = 'l'
	stablePrefix = 's'
	committedKey = "c"
	recordHeader = 4 + 8 + 8 + 1 + 4
)

var (
	_ raft.LogStore          = (*logStore)(nil)
	_ raft.StableStore       = (*logStore)(nil)
	_ raft.MonotonicLogStore = (*logStore)(nil)
)

// errNotFound has the text by which raft knows a stable value that was never set.
var errNotFound = errors.New("not found")

// errGap refuses an entry that would leave a hole.
var errGap = errors.New("storage: an entry would leave a gap in the log")

func logKey(index uint64) []byte { return binary.BigEndian.AppendUint64([]byte{logPrefix}, index) }

// openLog reads where the log begins and ends.
func openLog(db *pebble.DB, t *tail, fail func(error)) (*logStore, error) {
	l := &logStore{db: db, tail: t, fail: fail, full: func() bool { return false }, every: math.MaxInt64, grown: make(chan struct{}, 1)}
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: logKey(0), UpperBound: []byte{logPrefix + 1}})
	if err != nil {
		return nil, err
	}
	if it.First() {
		l.first = binary.BigEndian.Uint64(it.Key()[1:])
	}
	if it.Last() {
		l.last = binary.BigEndian.Uint64(it.Key()[1:])
	}
	return l, it.Close()
}

// verify reads every entry from index on, so that a damaged one is named before raft meets it.
func (l *logStore) verify(index uint64) error {
	if l.last == 0 {
		return nil
	}
	it, err := l.db.NewIter(&pebble.IterOptions{LowerBound: logKey(max(index, l.first)), UpperBound: []byte{logPrefix + 1}})
	if err != nil {
		return err
	}
	want := max(index, l.first)
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		got := binary.BigEndian.Uint64(it.Key()[1:])
		if got != want {
			err = fmt.Errorf("%w: log entry %d is missing", ErrDamaged, want)
			break
		}
		var entry raft.Log
		err = decodeRecord(got, it.Value(), &entry)
		want++
	}
	return errors.Join(err, it.Close())
}

// IsMonotonic implements raft.MonotonicLogStore: after an install raft empties the log.
func (l *logStore) IsMonotonic() bool { return true }

// FirstIndex implements raft.LogStore.
func (l *logStore) FirstIndex() (uint64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.first, nil
}

// LastIndex implements raft.LogStore.
func (l *logStore) LastIndex() (uint64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.last, nil
}

// GetLog implements raft.LogStore.
func (l *logStore) GetLog(index uint64, entry *raft.Log) error {
	l.mu.RLock()
	inside := l.first != 0 && l.first <= index && index <= l.last
	cached := inside && l.cache.get(index, entry)
	l.mu.RUnlock()
	if cached {
		return nil
	}
	if !inside {
		return raft.ErrLogNotFound
	}
	v, closer, err := l.db.Get(logKey(index))
	if errors.Is(err, pebble.ErrNotFound) {
		return raft.ErrLogNotFound // cut meanwhile
	}
	if err == nil {
		err = errors.Join(decodeRecord(index, v, entry), closer.Close())
	}
	if err != nil {
		err = fmt.Errorf("storage: log entry %d: %w", index, err)
		l.fail(err)
	}
	return err
}

// StoreLog implements raft.LogStore.
func (l *logStore) StoreLog(entry *raft.Log) error { return l.StoreLogs([]*raft.Log{entry}) }

// StoreLogs implements raft.LogStore. When it returns nil the entries are on disk.
func (l *logStore) StoreLogs(entries []*raft.Log) error {
	if len(entries) == 0 {
		return nil
	}
	if l.full() {
		return errLogFloor
	}
	if err := l.follows(entries); err != nil {
		return err
	}
	size := 0
	for _, e := range entries {
		size += recordHeader + len(e.Data) + len(e.Extensions) + 16
	}
	b := l.db.NewBatchWithSize(size + 64)
	if err := l.noteCommitted(b); err != nil {
		return errors.Join(err, b.Close())
	}
	for _, e := range entries {
		op := b.SetDeferred(9, recordHeader+len(e.Data)+len(e.Extensions))
		op.Key[0] = logPrefix
		binary.BigEndian.PutUint64(op.Key[1:], e.Index)
		encodeRecord(op.Value, e)
		if err := op.Finish(); err != nil {
			return errors.Join(err, b.Close())
		}
	}
	if err := l.commit(b); err != nil {
		return err
	}
	if err := l.tail.put(entries[len(entries)-1].Index); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.first == 0 {
		l.first = entries[0].Index
	}
	l.last = entries[len(entries)-1].Index
	l.written += int64(size)
	if l.written-l.told >= l.every {
		l.told = l.written
		select {
		case l.grown <- struct{}{}:
		default:
		}
	}
	if n := len(l.marks); n == 0 || l.written-l.marks[n-1].written > 1<<20 {
		l.marks = append(l.marks, logMark{l.last, l.written})
	}
	l.cache.add(entries)
	return nil
}

// noteCommitted writes down, for nothing since a write is under way anyway, up to where the log is known to be committed:
// a node that starts without a leader may go that far by itself.
func (l *logStore) noteCommitted(b *pebble.Batch) error {
	if l.applied == nil {
		return nil
	}
	record := binary.BigEndian.AppendUint64(make([]byte, 4, 12), l.applied())
	binary.BigEndian.PutUint32(record, crc32.Checksum(record[4:], castagnoli))
	return b.Set([]byte(committedKey), record, nil)
}

// committed is what noteCommitted has written last, or 0.
func (l *logStore) committed() (uint64, error) {
	v, closer, err := l.db.Get([]byte(committedKey))
	if errors.Is(err, pebble.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer closer.Close()
	if len(v) != 12 || crc32.Checksum(v[4:], castagnoli) != binary.BigEndian.Uint32(v) {
		return 0, fmt.Errorf("%w: the note of what is committed", ErrDamaged)
	}
	return binary.BigEndian.Uint64(v[4:]), nil
}

// follows refuses a gap: within entries, after the log's end, or between the state and the beginning of an empty log.
func (l *logStore) follows(entries []*raft.Log) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	next := l.last + 1
	if l.last == 0 {
		if next = entries[0].Index; next > l.applied()+1 {
			return fmt.Errorf("%w: %d after the state's %d", errGap, next, l.applied())
		}
	}
	for _, e := range entries {
		if e.Index != next {
			return fmt.Errorf("%w: %d instead of %d", errGap, e.Index, next)
		}
		next++
	}
	return nil
}

// DeleteRange implements raft.LogStore. Raft calls it to cut the beginning (behind a snapshot), the end (entries that
// another leader overruled), or all (after an install). The beginning is never cut above what the state has flushed.
func (l *logStore) DeleteRange(from, to uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.first == 0 {
		return nil
	}
	from, to = max(from, l.first), min(to, l.last)
	if from == l.first && to < l.last {
		to = min(to, l.flushed())
	}
	if from > to {
		return nil
	}
	if from > l.first && to < l.last {
		return fmt.Errorf("%w: cutting %d–%d out of %d–%d", errGap, from, to, l.first, l.last)
	}
	if to == l.last {
		end := from - 1
		if from == l.first {
			end = 0
		}
		if err := l.tail.lower(end); err != nil {
			return err
		}
	}
	b := l.db.NewBatch()
	if err := b.DeleteRange(logKey(from), logKey(to+1), nil); err != nil {
		return errors.Join(err, b.Close())
	}
	if err := l.commit(b); err != nil {
		return err
	}
	switch {
	case from == l.first && to == l.last:
		l.first, l.last = 0, 0
	case from == l.first:
		l.first = to + 1
	default:
		l.last = from - 1
	}
	l.cache.cut(l.first, l.last)
	for len(l.marks) > 0 && l.marks[0].index < l.first {
		l.marks = l.marks[1:]
	}
	return nil
}

// commit writes b through to the disk. A failure is the end of the process: what an engine holds after it is unknown.
func (l *logStore) commit(b *pebble.Batch) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	l.busy.Store(time.Now().UnixNano())
	err := b.Commit(pebble.Sync)
	l.busy.Store(0)
	if err != nil {
		l.fail(fmt.Errorf("storage: writing the log: %w", err))
		return err
	}
	return b.Close()
}

// bytes is how much was written since the store was opened.
func (l *logStore) bytes() int64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.written
}

// trailing says how many of the newest entries fit into limit bytes, as far as this process has seen them written.
func (l *logStore) trailing(limit int64) uint64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, m := range l.marks {
		if l.written-m.written <= limit {
			return l.last - m.index + 1
		}
	}
	return 0
}

func encodeRecord(b []byte, e *raft.Log) {
	appended := int64(0)
	if !e.AppendedAt.IsZero() {
		appended = e.AppendedAt.UnixNano()
	}
	binary.BigEndian.PutUint64(b[4:], e.Term)
	binary.BigEndian.PutUint64(b[12:], uint64(appended))
	b[20] = byte(e.Type)
	binary.BigEndian.PutUint32(b[21:], uint32(len(e.Data)))
	n := copy(b[recordHeader:], e.Data)
	copy(b[recordHeader+n:], e.Extensions)
	binary.BigEndian.PutUint32(b, recordSum(e.Index, b))
}

// recordSum covers the index too, so that a record can't stand in another's place.
func recordSum(index uint64, b []byte) uint32 {
	return crc32.Update(crc32.Checksum(binary.BigEndian.AppendUint64(make([]byte, 0, 8), index), castagnoli), castagnoli, b[4:])
}

func decodeRecord(index uint64, b []byte, e *raft.Log) error {
	if len(b) < recordHeader || binary.BigEndian.Uint32(b) != recordSum(index, b) {
		return fmt.Errorf("%w: log entry %d has a wrong checksum", ErrDamaged, index)
	}
	n := int(binary.BigEndian.Uint32(b[21:]))
	if recordHeader+n > len(b) {
		return fmt.Errorf("%w: log entry %d has a wrong length", ErrDamaged, index)
	}
	*e = raft.Log{Index: index, Term: binary.BigEndian.Uint64(b[4:]), Type: raft.LogType(b[20])}
	if at := int64(binary.BigEndian.Uint64(b[12:])); at != 0 {
		e.AppendedAt = time.Unix(0, at)
	}
	e.Data = append([]byte(nil), b[recordHeader:recordHeader+n]...)
	if rest := b[recordHeader+n:]; len(rest) > 0 {
		e.Extensions = append([]byte(nil), rest...)
	}
	return nil
}

// Set implements raft.StableStore.
func (l *logStore) Set(key, value []byte) error {
	b := l.db.NewBatch()
	k := append([]byte{stablePrefix}, key...)
	v := binary.BigEndian.AppendUint32(nil, stableSum(key, value))
	if err := b.Set(k, append(v, value...), nil); err != nil {
		return errors.Join(err, b.Close())
	}
	return l.commit(b)
}

func stableSum(key, value []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value)
}

// Get implements raft.StableStore.
func (l *logStore) Get(key []byte) ([]byte, error) {
	v, err := get(l.db, append([]byte{stablePrefix}, key...))
	if err != nil {
		l.fail(err)
		return nil, err
	}
	if v == nil {
		return nil, errNotFound
	}
	if len(v) < 4 || binary.BigEndian.Uint32(v) != stableSum(key, v[4:]) {
		return nil, fmt.Errorf("%w: the log's value %q has a wrong checksum", ErrDamaged, key)
	}
	return v[4:], nil
}

// SetUint64 implements raft.StableStore.
func (l *logStore) SetUint64(key []byte, v uint64) error {
	return l.Set(key, binary.BigEndian.AppendUint64(nil, v))
}

// GetUint64 implements raft.StableStore.
func (l *logStore) GetUint64(key []byte) (uint64, error) {
	v, err := l.Get(key)
	if err != nil {
		return 0, err
	}
	if len(v) != 8 {
		return 0, fmt.Errorf("%w: the log's value %q has %d bytes", ErrDamaged, key, len(v))
	}
	return binary.BigEndian.Uint64(v), nil
}
