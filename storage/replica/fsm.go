package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/raft"
)

// machine applies the log to the state. Raft calls it from one goroutine, which owns m.
type machine struct {
	s    *Store
	m    meta
	conf configuration
}

var _ raft.BatchingFSM = (*machine)(nil)

// commitBytes bounds how much of a batch of entries goes into one commit of the engine, so that a long catch-up doesn't
// need a write buffer of its own for each.
const commitBytes = 1 << 20

// Apply implements raft.FSM; raft calls ApplyBatch instead.
func (f *machine) Apply(l *raft.Log) any { return f.ApplyBatch([]*raft.Log{l})[0] }

// ApplyBatch implements raft.BatchingFSM. The entries become visible together, in one commit or a few.
func (f *machine) ApplyBatch(logs []*raft.Log) []any {
	for from := 0; from < len(logs); {
		size, to := 0, from
		for to < len(logs) && (to == from || size+len(logs[to].Data) <= commitBytes) {
			size += len(logs[to].Data)
			to++
		}
		f.apply(logs[from:to], size)
		from = to
	}
	return make([]any, len(logs))
}

// applied is one entry's fate.
type applied struct {
	index uint64
	entry entry
	skip  bool
}

// apply commits logs: what each wrote, and where the state stands afterwards, in one batch. An entry that the state holds
// already is passed over. One that was evaluated on another state than this (its base is not the last stamp) moves the
// index and nothing else: every replica decides so alike, and the askers are told to ask again.
func (f *machine) apply(logs []*raft.Log, size int) {
	s, m, conf := f.s, f.m, f.conf
	b := s.cur.db.NewBatchWithSize(size + 256)
	fates := make([]applied, 0, len(logs))
	var err error
	for _, l := range logs {
		if l.Index <= m.index {
			continue
		}
		m.index, m.term = l.Index, l.Term
		if l.Type == raft.LogConfiguration {
			record := append(binary.BigEndian.AppendUint64(nil, l.Index), l.Data...)
			if conf, err = decodeConfiguration(record); err == nil {
				err = b.Set(configKey, record, nil)
			}
		} else {
			var e entry
			if e, err = decodeEntry(l.Data); err == nil {
				stale := e.base != m.stamp
				fates = append(fates, applied{index: l.Index, entry: e, skip: stale})
				if !stale {
					m.stamp = e.own
					if len(e.repr) != 0 { // a look, or a group of refusals, is no batch: it moves no hash
						m.hash = chain(m.hash, e.repr)
						err = appendBatch(b, e.repr)
					}
				}
			}
		}
		if err != nil {
			s.die(fmt.Errorf("storage: applying entry %d: %w", l.Index, err))
			return
		}
	}
	if m.index == f.m.index {
		_ = b.Close()
		return
	}
	err = b.Set(metaKey, m.append(nil), nil)
	if err == nil {
		s.applying.Store(time.Now().UnixNano())
		err = b.Commit(pebble.NoSync)
		s.applying.Store(0)
	}
	if err != nil {
		s.die(fmt.Errorf("storage: applying entries: %w", err))
		return
	}
	_ = b.Close()
	f.m, f.conf = m, conf
	s.publish(m, fates)
}

func appendBatch(b *pebble.Batch, repr []byte) error {
	var from pebble.Batch
	if err := from.SetRepr(repr); err != nil {
		return err
	}
	return b.Apply(&from, nil)
}

func chain(hash uint64, repr []byte) uint64 {
	d := xxhash.New()
	_, _ = d.Write(binary.BigEndian.AppendUint64(make([]byte, 0, 8), hash))
	_, _ = d.Write(repr)
	return d.Sum64()
}

// Snapshot implements raft.FSM: it only notes where the state stands.
func (f *machine) Snapshot() (raft.FSMSnapshot, error) {
	return &flushing{s: f.s, at: flushed{meta: f.m, conf: f.conf}, of: f.s.cur}, nil
}

// Restore implements raft.FSM: it takes the state that was just unpacked.
func (f *machine) Restore(rc io.ReadCloser) error {
	for {
		if in, ok := rc.(*installed); ok {
			return f.s.adopt(f, in)
		}
		w, ok := rc.(raft.ReadCloserWrapper)
		if !ok {
			return errors.New("storage: a snapshot that was not installed can't be restored")
		}
		rc = w.WrappedReadCloser()
	}
}
