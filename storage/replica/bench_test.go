package replica_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/replica"
)

type putArgs struct{ Key, Value string }

func benchStore(b *testing.B) (*replica.Store, storage.Call[putArgs, struct{}]) {
	b.Helper()
	reg := storage.NewRegistry()
	put := storage.Define(reg, "put", func(tx storage.Tx, a putArgs) (struct{}, error) {
		tx.Set(a.Key, []byte(a.Value))
		return struct{}{}, nil
	})
	s, err := replica.Open(replica.Options{Dir: b.TempDir(), ServerID: "one", ClusterID: "bench", Registry: reg, Bootstrap: true})
	if err != nil {
		b.Fatal(err)
	}
	if err := s.Start(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	if err := s.Ready(b.Context()); err != nil {
		b.Fatal(err)
	}
	return s, put
}

// BenchmarkStore_Do measures small commands: at one caller the time is a disk sync and what the engine adds to it, at
// many it's the rate.
func BenchmarkStore_Do(b *testing.B) {
	for _, callers := range []int{1, 64, 256} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			s, put := benchStore(b)
			ctx := context.Background()
			value := string(make([]byte, 100))
			took := make([]time.Duration, b.N)
			var next atomic.Int64
			var wg sync.WaitGroup
			b.ReportAllocs()
			b.ResetTimer()
			for range callers {
				wg.Go(func() {
					for {
						i := int(next.Add(1)) - 1
						if i >= b.N {
							return
						}
						began := time.Now()
						if _, _, err := put.Do(ctx, s, "", putArgs{fmt.Sprintf("bench/%09d", i), value}); err != nil {
							b.Error(err)
							return
						}
						took[i] = time.Since(began)
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commands/s")
		})
	}
}

// BenchmarkFdatasync is the yardstick: 300 bytes into a preallocated file, synced.
func BenchmarkFdatasync(b *testing.B) {
	f, err := os.Create(filepath.Join(b.TempDir(), "x"))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	const size = 8 << 20
	if err := syscall.Fallocate(int(f.Fd()), 0, 0, size); err != nil {
		b.Fatal(err)
	}
	block := make([]byte, 300)
	took := make([]time.Duration, 0, b.N)
	for i := 0; b.Loop(); i++ {
		began := time.Now()
		if _, err := f.WriteAt(block, int64(i*300)%(size-300)); err != nil {
			b.Fatal(err)
		}
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
}
