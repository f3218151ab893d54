package replica

import (
	"context"
	"encoding/binary"

	"github.com/cespare/xxhash/v2"

	"github.com/nexixai/agentos/storage"
)

// Checkpoint writes a copy of the state into dir, which must not exist, and returns the index it holds. Files are linked
// where the file system can.
func (s *Store) Checkpoint(dir string) (index uint64, err error) {
	if s.disk.low.Load() {
		return 0, errDisk()
	}
	at, _, err := s.checkpoint(dir)
	return at.meta.index, err
}

// StateHash reads the whole state and returns its hash and index. Replicas at one index are equal when their hashes are;
// unlike Status.Hash it tells what lies on the disk now.
func (s *Store) StateHash(ctx context.Context) (hash, index uint64, err error) {
	d := xxhash.New()
	err = s.View(ctx, storage.Read{Consistency: storage.Stale}, func(v storage.Snapshot) error {
		index = v.Index()
		var n [8]byte
		return v.Scan(storage.Range{}, func(key string, value []byte) bool {
			binary.BigEndian.PutUint32(n[:4], uint32(len(key)))
			binary.BigEndian.PutUint32(n[4:], uint32(len(value)))
			_, _ = d.Write(n[:])
			_, _ = d.WriteString(key)
			_, _ = d.Write(value)
			return ctx.Err() == nil
		})
	})
	if err == nil {
		err = ctx.Err()
	}
	return d.Sum64(), index, err
}

// LogBounds returns the first and the last index of the log on this node; zeros when it is empty.
func (s *Store) LogBounds() (first, last uint64) {
	s.logs.mu.RLock()
	defer s.logs.mu.RUnlock()
	return s.logs.first, s.logs.last
}
