package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Starter starts processes that die with this one. The kernel ties such a death to the thread that forked, so one locked
// thread does all the forking and lives as long as the Starter.
type Starter struct {
	asks chan startAsk
	once sync.Once
}

type startAsk struct {
	cmd  *exec.Cmd
	done chan error
}

// Start starts cmd; its process is killed if this process ends first.
func (s *Starter) Start(cmd *exec.Cmd) error {
	s.once.Do(func() {
		s.asks = make(chan startAsk)
		go func() {
			runtime.LockOSThread()
			for ask := range s.asks {
				ask.done <- ask.cmd.Start()
			}
		}()
	})
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	ask := startAsk{cmd: cmd, done: make(chan error, 1)}
	s.asks <- ask
	return <-ask.done
}

// Process is a process started by the suites, with what it printed.
type Process struct {
	Cmd  *exec.Cmd
	out  lockedBuffer
	done chan struct{}
	err  error
}

// Launch starts argv with extra environment variables ("K=V"). It is killed at the end of the test.
func (s *Starter) Launch(tb testing.TB, dir string, env, argv []string) *Process {
	tb.Helper()
	p := &Process{Cmd: exec.Command(argv[0], argv[1:]...), done: make(chan struct{})}
	p.Cmd.Dir, p.Cmd.Env = dir, append(os.Environ(), env...)
	p.Cmd.Stdout, p.Cmd.Stderr = &p.out, &p.out
	p.Cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.Start(p.Cmd); err != nil {
		tb.Fatalf("start %s: %v", argv[0], err)
	}
	go func() {
		p.err = p.Cmd.Wait()
		close(p.done)
	}()
	tb.Cleanup(func() {
		_ = syscall.Kill(-p.Cmd.Process.Pid, syscall.SIGKILL)
		<-p.done
	})
	return p
}

// Pid returns the process id.
func (p *Process) Pid() int { return p.Cmd.Process.Pid }

// Signal sends sig to the process alone.
func (p *Process) Signal(tb testing.TB, sig syscall.Signal) {
	tb.Helper()
	if err := p.Cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		tb.Fatalf("signal %v: %v", sig, err)
	}
}

// Done is closed when the process has ended and its output is whole.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits at most d for the end and returns the exit code (-1 when a signal ended it).
func (p *Process) Wait(tb testing.TB, d time.Duration) int {
	tb.Helper()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-p.done:
		return p.Cmd.ProcessState.ExitCode()
	case <-t.C:
		tb.Fatalf("process %d still runs after %v; it printed:\n%s", p.Pid(), d, tail(p.Output(), 8000))
		return 0
	}
}

// Output returns what the process has printed so far on both of its streams.
func (p *Process) Output() string { return p.out.String() }

// Outcome is how a command ended.
type Outcome struct {
	Code           int
	Stdout, Stderr string
}

// Command runs argv to its end within a bound and returns how it ended; the exit code is left to the caller.
func Command(tb testing.TB, bound time.Duration, dir string, env []string, argv ...string) Outcome {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var stdout, stderr bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, append(os.Environ(), env...), &stdout, &stderr
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	if ctx.Err() != nil {
		tb.Fatalf("%s: no end within %v\n%s\n%s", strings.Join(argv, " "), bound, tail(stdout.String(), 4000), tail(stderr.String(), 4000))
	}
	if _, isExit := errors.AsType[*exec.ExitError](err); err != nil && !isExit {
		tb.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, tail(stderr.String(), 4000))
	}
	return Outcome{Code: cmd.ProcessState.ExitCode(), Stdout: stdout.String(), Stderr: stderr.String()}
}

// Alive reports whether pid names a process that has not ended; a zombie has.
func Alive(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, ok := strings.Cut(string(text), ") ")
	return ok && rest != "" && rest[0] != 'Z' && rest[0] != 'X'
}

// AwaitExit waits at most d for the end of pid, which need not be a child of this process.
func AwaitExit(pid int, d time.Duration) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("pidfd_open %d: %w", pid, err)
	}
	defer unix.Close(fd)
	until := time.Now().Add(d)
	for {
		left := time.Until(until)
		if left <= 0 {
			return fmt.Errorf("process %d has not ended within %v", pid, d)
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("poll pidfd of %d: %w", pid, err)
		}
		if n > 0 {
			return nil
		}
	}
}

// RSS returns the resident memory of pid in bytes.
func RSS(pid int) (int64, error) {
	return procKiB(pid, "VmRSS:")
}

// CPU returns the processor time that pid has used since its start.
func CPU(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), ") ") // behind the program's name, which may hold spaces
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat: %q", pid, text)
	}
	user, err := strconv.ParseInt(fields[11], 10, 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * (time.Second / 100), err // USER_HZ is 100 on every Linux that Go runs on
}

// PeakRSS returns the highest resident memory of pid since its start, or since ResetPeak.
func PeakRSS(pid int) (int64, error) { return procKiB(pid, "VmHWM:") }

// ResetPeak lets PeakRSS count from now on.
func ResetPeak(pid int) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0)
}

func procKiB(pid int, field string) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, field); ok {
			n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("no %s in the status of %d", field, pid)
}

// Poll asks done every interval until it says true, at most for d. It is for what shows itself in no other way than by
// being asked, such as another process's answers.
func Poll(d, interval time.Duration, done func() bool) bool {
	if done() {
		return true
	}
	end := time.NewTimer(d)
	defer end.Stop()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if done() {
				return true
			}
		case <-end.C:
			return done()
		}
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func tail(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return "…" + s[len(s)-n:]
}
