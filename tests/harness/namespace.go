package harness

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// envInside marks a test process that Apart has started.
const envInside = "AGENTOS_TEST_APART"

// OutsideAddress is an address that looks like one of the open internet to a process inside Apart, and is answered by the
// test itself. A guard against private addresses lets it through.
const OutsideAddress = "93.184.216.34"

// Apart runs the calling test again in a process with file systems and a network of its own, where it may mount and where
// no packet leaves the machine, and reports how that went. In the outer process it returns false, and the test is over;
// in the inner one it returns true. It needs root, or a kernel that lets users have namespaces (see Needs).
func Apart(tb testing.TB, binary string, bound time.Duration) bool {
	tb.Helper()
	if Inside() {
		for _, argv := range [][]string{
			{"mount", "--make-rprivate", "/"},
			{"ip", "link", "set", "lo", "up"},
			{"ip", "addr", "add", OutsideAddress + "/32", "dev", "lo"},
		} {
			if out := Command(tb, 10*time.Second, "", nil, argv...); out.Code != 0 {
				tb.Fatalf("%v: %s", argv, out.Stderr)
			}
		}
		return true
	}
	Needs(tb, "mount", "ip")
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "-test.run", "^"+tb.Name()+"$", "-test.v", "-test.timeout", bound.String())
	cmd.Env = append(os.Environ(), envInside+"=1", EnvBinary+"="+binary)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET}
	if uid := os.Getuid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	marker := tb.TempDir() // whatever is left running in there names it
	cmd.Env = append(cmd.Env, "TMPDIR="+marker)
	cmd.WaitDelay = 10 * time.Second
	text, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) {
		missing(tb, "the right to make namespaces (root)", err)
	}
	for _, pid := range Holders(marker) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	if err != nil {
		tb.Errorf("inside: %v\n%s", err, tail(string(text), 20000))
	} else {
		tb.Logf("inside:\n%s", tail(string(text), 4000))
	}
	return false
}

// Inside reports whether this process is the inner one of Apart.
func Inside() bool { return os.Getenv(envInside) != "" }

// MountMemory mounts an in-memory file system of size ("64m") at dir, until the end of the test. Call it inside Apart.
func MountMemory(tb testing.TB, dir, size string) {
	tb.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		tb.Fatal(err)
	}
	if err := syscall.Mount("none", dir, "tmpfs", 0, "mode=0700,size="+size); err != nil {
		tb.Fatalf("mount a file system of %s: %v", size, err)
	}
	tb.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
}
