package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
)

// teardowns are what has to be undone, last first. It belongs to one goroutine at a time.
type teardowns struct {
	log   *zap.Logger
	stack []teardown
}

type teardown struct {
	name string
	run  func(context.Context) error
}

// push adds a named teardown, to run before all that were pushed earlier.
func (t *teardowns) push(name string, run func(context.Context) error) {
	t.stack = append(t.stack, teardown{name, run})
}

// run empties the stack. Each teardown runs even when ctx has ended or one before it failed; a panic counts as a failure.
func (t *teardowns) run(ctx context.Context) error {
	var faults []error
	for i := len(t.stack) - 1; i >= 0; i-- {
		began := time.Now()
		err := guarded(ctx, t.stack[i].run)
		if err != nil {
			faults = append(faults, fmt.Errorf("stop %s: %w", t.stack[i].name, err))
		}
		t.log.Debug("torn down", zap.String("part", t.stack[i].name), zap.Duration("took", time.Since(began)), zap.Error(err))
	}
	t.stack = nil
	return errors.Join(faults...)
}

func guarded(ctx context.Context, run func(context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return run(ctx)
}
