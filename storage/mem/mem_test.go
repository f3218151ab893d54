package mem_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/nexixai/agentos/storage/mem"
	"github.com/nexixai/agentos/storage/storagetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Requirements: A3, Q2.
func TestStore(t *testing.T) {
	storagetest.Run(t, func(tb testing.TB, o storagetest.Options) storagetest.Engine {
		s := mem.New(mem.Options{Registry: o.Registry, Now: o.Now})
		tb.Cleanup(s.Close)
		return storagetest.Engine{
			Store: s,
			Start: func(testing.TB) { s.Start() },
			Close: func(testing.TB) { s.Close() },
		}
	})
}
