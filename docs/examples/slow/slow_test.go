package slow_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/nexixai/agentos/docs/examples/slow"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/mem"
	"github.com/nexixai/agentos/storage/storagetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// An engine around another keeps the whole treaty, so who starts from the example starts from something sound.
func TestStore(t *testing.T) {
	storagetest.Run(t, func(tb testing.TB, o storagetest.Options) storagetest.Engine {
		engine := mem.New(mem.Options{Registry: o.Registry, Now: o.Now})
		tb.Cleanup(engine.Close)
		return storagetest.Engine{
			Store: slow.Around(engine, slow.Options{Tell: func(string, time.Duration) {}}),
			Start: func(testing.TB) { engine.Start() },
			Close: func(testing.TB) { engine.Close() },
		}
	})
}

func TestStore_Tells(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := storage.NewRegistry()
		take := storage.Define(reg, "test.take", func(_ storage.Tx, d time.Duration) (int, error) {
			<-time.After(d)
			return 0, nil
		})
		engine := mem.New(mem.Options{Registry: reg})
		defer engine.Close()
		var told []string
		s := slow.Around(engine, slow.Options{Over: time.Second, Tell: func(what string, took time.Duration) { told = append(told, fmt.Sprint(what, " ", took)) }})
		for _, d := range []time.Duration{time.Millisecond, 3 * time.Second} {
			if _, _, err := take.Do(t.Context(), s, "", d); err != nil {
				t.Fatal(err)
			}
			if err := s.View(t.Context(), storage.Read{}, func(storage.Snapshot) error { <-time.After(d); return nil }); err != nil {
				t.Fatal(err)
			}
		}
		if want := "[test.take 3s read 3s]"; fmt.Sprint(told) != want {
			t.Errorf("told %v, want %s", told, want)
		}
	})
}
