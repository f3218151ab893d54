//go:build !linux

package process

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// startOf asks ps(1), which every Unix has, for the start of the process.
func startOf(pid int) (string, error) {
	out, err := exec.Command("ps", "-o", "stat=,lstart=", "-p", strconv.Itoa(pid)).Output()
	if _, refused := errors.AsType[*exec.ExitError](err); refused {
		return "", ErrGone
	}
	if err != nil {
		return "", fmt.Errorf("process: ask ps for %d: %w", pid, err)
	}
	state, start, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
	if state == "" || strings.HasPrefix(state, "Z") {
		return "", ErrGone
	}
	return strings.TrimSpace(start), nil
}

func (i Identity) signal(sig syscall.Signal) error {
	if !i.Alive() {
		return ErrGone
	}
	return syscall.Kill(i.PID, sig)
}

func (i Identity) wait(ctx context.Context) error { return await(ctx, i.Alive) }
