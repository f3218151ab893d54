package main

import (
	"context"
	"errors"
	"syscall"
	"time"

	"github.com/nexixai/agentos/internal/process"
	"github.com/nexixai/agentos/node/fleet"
)

// kill ends a node as a power cut would, and waits until it is gone.
func kill(f *fleet.Fleet, stackID string) error {
	who, alive, err := f.ProcessOf(stackID)
	if err != nil || !alive {
		return err
	}
	if err := who.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, process.ErrGone) {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return who.Wait(ctx)
}
