package replica

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/sstable"
	"go.uber.org/zap"
)

// engine returns the options of one pebble. what is log, state or checkpoint.
func (s *Store) engine(what string) *pebble.Options {
	o := &pebble.Options{
		FS:                          s.disk,
		Cache:                       s.cache,
		MemTableSize:                uint64(pick(what == "log", 2*s.o.MemTableBytes, s.o.MemTableBytes)),
		MemTableStopWritesThreshold: 4,
		L0CompactionThreshold:       12,
		L0StopWritesThreshold:       36,
		MaxOpenFiles:                512,
		FormatMajorVersion:          pebble.FormatValueSeparation,
		DisableWAL:                  what != "log",
		Logger:                      engineLog{s, what},
		EventListener: &pebble.EventListener{
			DataCorruption: func(info pebble.DataCorruptionInfo) {
				s.die(fmt.Errorf("%w: %s: %w", ErrDamaged, info.Path, info.Details))
			},
			BackgroundError: func(err error) {
				if !errors.Is(err, pebble.ErrCancelledCompaction) {
					s.die(fmt.Errorf("storage: the %s engine failed in the background: %w", what, err))
				}
			},
		},
	}
	for i := range o.Levels {
		l := &o.Levels[i]
		// One index for a whole table: a search then reads two blocks and not three.
		l.BlockSize, l.IndexBlockSize = 16<<10, 256<<10
		if what == "log" || i == 0 { // not worth it for what is cut or written anew before long
			l.Compression = func() *sstable.CompressionProfile { return sstable.NoCompression }
		} else {
			l.Compression = func() *sstable.CompressionProfile { return sstable.FastestCompression }
		}
		if what != "log" {
			l.FilterPolicy = bloom.FilterPolicy(10)
		}
	}
	return o
}

// newCache makes the cache of both engines. They count their write buffers into it, of which each has mostly two.
func newCache(o *Options) *pebble.Cache {
	return pebble.NewCache(o.CacheBytes + 2*(o.MemTableBytes+2*o.MemTableBytes))
}

// engineLog receives what a pebble has to say.
type engineLog struct {
	s    *Store
	what string
}

var _ pebble.Logger = engineLog{}

// Infof implements pebble.Logger: flushes and compactions are not worth a line.
func (engineLog) Infof(string, ...any) {}

// Errorf implements pebble.Logger.
func (l engineLog) Errorf(format string, args ...any) {
	l.s.log.Error("engine error", zap.String("engine", l.what), zap.String("detail", fmt.Sprintf(format, args...)))
}

// Fatalf implements pebble.Logger. The engine counts on it not to return.
func (l engineLog) Fatalf(format string, args ...any) {
	l.s.perish(fmt.Errorf("storage: the %s engine can't go on: %s", l.what, fmt.Sprintf(format, args...)))
	select {}
}
