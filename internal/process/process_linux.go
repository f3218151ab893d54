package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// startOf reads the 22nd field of /proc/PID/stat (proc(5)): clock ticks from boot to the start of the process.
func startOf(pid int) (string, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return "", ErrGone
	}
	if err != nil {
		return "", err
	}
	// The second field is the command in parentheses and may hold anything; the third begins after the last one.
	end := bytes.LastIndexByte(stat, ')')
	fields := strings.Fields(string(stat[end+1:]))
	const state, start = 0, 19
	if end < 0 || len(fields) <= start {
		return "", fmt.Errorf("process: /proc/%d/stat can't be read: %q", pid, stat)
	}
	if s := fields[state]; s == "Z" || s == "X" {
		return "", ErrGone
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(boot)) + "/" + fields[start], nil
}

// signal goes through a pidfd, which is bound to the process and not to its number: opened first, compared second, there
// is no moment in which another process could take its place.
func (i Identity) signal(sig syscall.Signal) error {
	fd, err := unix.PidfdOpen(i.PID, 0)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		return i.signalByNumber(sig)
	}
	if errors.Is(err, unix.ESRCH) {
		return ErrGone
	}
	if err != nil {
		return fmt.Errorf("process: pidfd_open %d: %w", i.PID, err)
	}
	defer unix.Close(fd)
	if !i.Alive() {
		return ErrGone
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); errors.Is(err, unix.ESRCH) {
		return ErrGone
	} else if err != nil {
		return fmt.Errorf("process: send signal %d to %d: %w", sig, i.PID, err)
	}
	return nil
}

func (i Identity) signalByNumber(sig syscall.Signal) error {
	if !i.Alive() {
		return ErrGone
	}
	return syscall.Kill(i.PID, sig)
}

func (i Identity) wait(ctx context.Context) error {
	fd, err := unix.PidfdOpen(i.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return await(ctx, i.Alive)
	}
	defer unix.Close(fd)
	for i.Alive() {
		// A pidfd becomes readable when the process ends. The bound only lets ctx be looked at.
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 50)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("process: poll pidfd of %d: %w", i.PID, err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}
