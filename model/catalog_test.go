package model_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/model"
	"github.com/nexixai/agentos/model/modeltest"
	"github.com/nexixai/agentos/model/provider/builtin"
)

// lister is a backend whose list of models can be slow, or fail.
type lister struct {
	fake
	list func(context.Context) ([]model.Info, error)
}

func (l *lister) Models(ctx context.Context) ([]model.Info, error) { return l.list(ctx) }

// A backend that hangs must not hold up calls to others, and an old list is better than none.
func TestGateway_Catalog(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var asked, mode atomic.Int64 // mode 0 answers, 1 fails, 2 hangs
		far := &lister{fake: *says("far", "x"), list: func(ctx context.Context) ([]model.Info, error) {
			asked.Add(1)
			switch mode.Load() {
			case 1:
				return nil, errors.New("down")
			case 2:
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return []model.Info{{ID: "far/m", Backend: "far", Model: "m", Capabilities: []string{"chat"}}}, nil
		}}
		g := modeltest.MustGateway(t, model.Options{Providers: []model.Provider{builtin.New(), far}, CatalogTTL: time.Minute})
		ask := func(ref string) error {
			req := modeltest.Say("x")
			req.ModelRef = ref
			_, err := g.Chat(t.Context(), modeltest.Caller(), req, nil)
			return err
		}
		mode.Store(2)
		began := time.Now()
		if err := ask("builtin/echo-1"); err != nil || time.Since(began) > 5*time.Second {
			t.Errorf("beside a backend that hangs from the start: %v after %s", err, time.Since(began))
		}
		if err := ask("far/anything"); err != nil {
			t.Errorf("a backend that has not said what it serves is asked: %v", err)
		}
		if err := ask("m"); !fault.Is(err, fault.NotFound) {
			t.Errorf("a bare name that nobody has said to serve: %v", err)
		}
		step := func(m int64, ref string, want fault.Code) {
			t.Helper()
			mode.Store(m)
			time.Sleep(2 * time.Minute) // of the bubble's clock
			before, began := asked.Load(), time.Now()
			_ = ask("builtin/echo-1") // finds the list old, and has it fetched
			if time.Since(began) != 0 {
				t.Errorf("a call waited %s for a list", time.Since(began))
			}
			time.Sleep(10 * time.Second)
			synctest.Wait()
			if asked.Load() != before+1 {
				t.Errorf("the list was asked for %d times", asked.Load()-before)
			}
			if err := ask(ref); fault.CodeOf(err) != want {
				t.Errorf("mode %d, %s: %v", m, ref, err)
			}
		}
		step(0, "m", "")
		step(0, "far/anything", fault.NotFound)
		step(1, "m", "")
		step(2, "m", "")
	})
}
