package harness

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Stage is what a whole package of tests shares: it stands in for a test where something outlives each single one. Close
// runs its cleanups, last first. A Fatal on it ends the calling test's goroutine after the reason was printed.
type Stage struct {
	testing.TB // nil: a method that isn't overridden below panics
	mu         sync.Mutex
	cleanups   []func()
	failed     bool
}

// Helper does nothing.
func (s *Stage) Helper() {}

// Logf prints to standard error.
func (s *Stage) Logf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// Errorf prints and remembers the failure.
func (s *Stage) Errorf(format string, args ...any) {
	s.mu.Lock()
	s.failed = true
	s.mu.Unlock()
	s.Logf(format, args...)
}

// Fatalf is Errorf that ends the goroutine.
func (s *Stage) Fatalf(format string, args ...any) {
	s.Errorf(format, args...)
	runtime.Goexit()
}

// Fatal is Fatalf without a format.
func (s *Stage) Fatal(args ...any) { s.Fatalf("%s", fmt.Sprintln(args...)) }

// Failed reports whether something failed.
func (s *Stage) Failed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

// Cleanup registers f for Close.
func (s *Stage) Cleanup(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cleanups = append(s.cleanups, f)
}

// TempDir makes a directory that Close removes.
func (s *Stage) TempDir() string {
	dir, err := os.MkdirTemp("", "agentos-test-")
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// Close runs the cleanups.
func (s *Stage) Close() {
	s.mu.Lock()
	fs := s.cleanups
	s.cleanups = nil
	s.mu.Unlock()
	for i := len(fs) - 1; i >= 0; i-- {
		fs[i]()
	}
}

// Suite is one package's shared binary and deployment, each made when first asked for.
type Suite struct {
	Build Build
	// Shape is the deployment's; nil is one organisation of one node.
	Shape []string
	stage Stage
	once  sync.Once
	up    *Deployment
}

// Run runs m's tests and then ends everything the suite has started; its result is for os.Exit.
func (s *Suite) Run(m *testing.M) int {
	return Guarded(func() int {
		code := m.Run()
		s.stage.Close()
		s.Build.Close()
		return code
	})
}

// Guarded runs do with one temporary directory below which everything lies that is made on the way, and a guard, a second
// copy of this program, that waits for the end of this one: should it come without a word (a time-out's panic, a kill),
// the guard ends whatever holds that directory, and removes it.
func Guarded(do func() int) int {
	if root := os.Getenv(envGuard); root != "" {
		return guard(root)
	}
	root, err := os.MkdirTemp("", "agentos-suite-")
	if err == nil {
		err = os.Setenv("TMPDIR", root)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), envGuard+"="+root)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	leash, err := cmd.StdinPipe() // its end is the news of ours
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "guard:", err)
		return 1
	}
	code := do()
	_ = leash.Close()
	_ = cmd.Wait()
	return code
}

// envGuard makes a test binary a guard of the directory it names.
const envGuard = "AGENTOS_TEST_GUARD"

func guard(root string) int {
	_, _ = io.Copy(io.Discard, os.Stdin)
	for range 3 { // a process that was killed may have been about to start another
		for _, pid := range Holders(root) {
			if pid != os.Getpid() && syscall.Kill(pid, syscall.SIGKILL) == nil {
				_ = AwaitExit(pid, 20*time.Second)
			}
		}
	}
	_ = os.RemoveAll(root)
	return 0
}

// Binary returns the binary's path.
func (s *Suite) Binary(tb testing.TB) string {
	tb.Helper()
	return s.Build.Binary(tb)
}

// Shared returns the package's deployment, for tests that bring their own tenant and leave the node as it was.
func (s *Suite) Shared(tb testing.TB) *Deployment {
	tb.Helper()
	bin := s.Binary(tb)
	s.once.Do(func() {
		d := NewDeployment(&s.stage, bin)
		d.Shape = s.Shape
		done := make(chan struct{})
		go func() { // a Fatal in here must not skip once's bookkeeping
			defer close(done)
			d.Up(&s.stage)
			s.up = d
		}()
		<-done
	})
	if s.up == nil {
		tb.Fatal("the shared deployment did not come up")
	}
	return s.up
}

// Tenant makes a tenant in the shared deployment.
func (s *Suite) Tenant(tb testing.TB, quotas map[string]any) *Tenant {
	tb.Helper()
	return NewTenant(tb, s.Shared(tb).Admin(tb), quotas)
}
