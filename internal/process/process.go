package process

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"
)

// ErrGone says that the process has ended, or that its id now belongs to another one.
var ErrGone = errors.New("process: it has ended")

// Identity is one process on this machine, for as long as the machine is up.
type Identity struct {
	PID int `json:"pid"`
	// Start is when the process began, as the kernel tells it, together with the boot it began in. It is opaque.
	Start string `json:"start"`
}

// Self returns the identity of this process.
func Self() (Identity, error) { return Of(os.Getpid()) }

// Of returns the identity of the process that has pid now. It returns ErrGone when there is none.
func Of(pid int) (Identity, error) {
	start, err := startOf(pid)
	if err != nil {
		return Identity{}, err
	}
	return Identity{PID: pid, Start: start}, nil
}

// Alive reports whether the process still runs. A process that has ended but was not yet waited for does not.
func (i Identity) Alive() bool {
	if i.PID <= 0 {
		return false
	}
	start, err := startOf(i.PID)
	return err == nil && start == i.Start
}

// Signal sends sig to the process, or returns ErrGone.
func (i Identity) Signal(sig syscall.Signal) error {
	if i.PID <= 0 {
		return ErrGone
	}
	return i.signal(sig)
}

// Wait returns nil once the process has ended, or ctx's error.
func (i Identity) Wait(ctx context.Context) error {
	if !i.Alive() {
		return nil
	}
	return i.wait(ctx)
}

// await asks alive until it says no; it is for systems that can't tell by themselves.
func await(ctx context.Context, alive func() bool) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for alive() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
