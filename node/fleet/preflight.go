package fleet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/nexixai/agentos/node"
)

// preflight looks at the machine before anything is started.
func (f *Fleet) preflight(ctx context.Context, r *Report, p *phase) error {
	nodes := f.plan.nodes()
	p.total(4 + len(nodes))
	fail := func(check string, err error, next string) error {
		return &FailedError{Phase: p.name, Check: check, Err: err, Next: next}
	}
	if err := f.writable(); err != nil {
		return fail("state directory", err, "choose a directory you may write to: agentos up --state-dir DIR")
	}
	p.step("state directory %s is writable", f.o.StateDir)
	if err := f.endRemoval(r, p); err != nil {
		return fail("state directory", err, "agentos nuke --yes-really --hard"+f.at())
	}

	free, err := freeSpace(f.o.StateDir)
	if err != nil {
		return fail("disk", err, "choose another directory: agentos up --state-dir DIR")
	}
	least, err := f.leastFree()
	if err != nil {
		return fail("settings", err, "correct it, then run agentos up again")
	}
	if free < least {
		return fail("disk", fmt.Errorf("%s has %v free, and at least %v are needed", f.o.StateDir, rounded(free), rounded(least)), "make room, or choose another directory: agentos up --state-dir DIR")
	}
	p.step("disk has %v free", rounded(free))

	if err := f.clock(); err != nil {
		return fail("clock", err, "set the clock (timedatectl set-ntp true), then run agentos up again")
	}
	p.step("clock reads %s", time.Now().UTC().Format(time.RFC3339))

	files, err := openFiles()
	if err != nil {
		return fail("open files", err, "ulimit -n 4096, then run agentos up again")
	}
	if files < 256 {
		return fail("open files", fmt.Errorf("only %d files may be open", files), "ulimit -n 4096, then run agentos up again")
	}
	p.step("%d files may be open", files)

	for _, n := range nodes {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := f.ports(ctx, p, n); err != nil {
			return fail("ports of "+n.StackID, err, fmt.Sprintf("stop what holds it (ss -lptn 'sport = :PORT'), or use other ports: agentos up --base-port %d", f.plan.BasePort+1000))
		}
	}
	return nil
}

func (f *Fleet) writable() error {
	if err := os.MkdirAll(f.o.StateDir, 0o700); err != nil {
		return err
	}
	probe, err := os.CreateTemp(f.o.StateDir, ".probe-*")
	if err != nil {
		return err
	}
	_, err = probe.WriteString("probe\n")
	return errors.Join(err, probe.Sync(), probe.Close(), os.Remove(probe.Name()))
}

// leastFree is the space below which a deployment is not begun: the nodes' own floor, below which they refuse work, and
// half of it again to work in.
func (f *Fleet) leastFree() (node.Bytes, error) {
	c, err := node.Load(node.Sources{EnvFile: f.o.Env, Env: func(name string) (string, bool) {
		if own(name) {
			return "", false
		}
		return os.LookupEnv(name)
	}})
	if err != nil {
		return 0, err
	}
	return c.Options.DiskFloor + c.Options.DiskFloor/2, nil
}

func freeSpace(dir string) (node.Bytes, error) {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return 0, fmt.Errorf("statfs %s: %w", dir, err)
	}
	return node.Bytes(uint64(fs.Bavail) * uint64(fs.Bsize)), nil //nolint:unconvert // the types differ between systems
}

// rounded is b for the eye.
func rounded(b node.Bytes) string {
	switch {
	case b >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(b)/(1<<30))
	case b >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(b)/(1<<20))
	}
	return b.String()
}

func openFiles() (uint64, error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, err
	}
	return uint64(limit.Max), nil
}

// clock refuses a time that can't be: before this binary was built, or before what was already written here.
func (f *Fleet) clock() error {
	now := time.Now()
	if built, err := time.Parse(time.RFC3339, f.o.Build.Timestamp); err == nil && now.Before(built.Add(-24*time.Hour)) {
		return fmt.Errorf("the clock reads %s, but this binary was built at %s", now.UTC().Format(time.RFC3339), built.UTC().Format(time.RFC3339))
	}
	if info, err := os.Stat(filepath.Join(f.o.StateDir, planName)); err == nil && info.ModTime().After(now.Add(24*time.Hour)) {
		return fmt.Errorf("the clock reads %s, but this deployment was made at %s", now.UTC().Format(time.RFC3339), info.ModTime().UTC().Format(time.RFC3339))
	}
	return nil
}

// dyingPatience is how long a port may stay taken after its process has ended: a process that was killed counts as ended
// with its first thread, and lets go of its sockets with its last.
const dyingPatience = 3 * time.Second

// ports checks that each address of n is free, or held by n itself.
func (f *Fleet) ports(ctx context.Context, p *phase, n planNode) error {
	_, alive, err := f.running(n.StackID)
	if err != nil {
		return err
	}
	state := "free"
	if alive {
		state = "ours"
	}
	ctx, cancel := context.WithTimeout(ctx, dyingPatience)
	defer cancel()
	for _, l := range n.listeners() {
		if !alive {
			if err := freed(ctx, l.network, l.addr); err != nil {
				return fmt.Errorf("%s port %s of %s (%s) is taken: %w", l.network, l.addr, n.StackID, l.name, err)
			}
		}
	}
	p.step("ports %d-%d of %s are %s", n.Port, n.Port+4, n.StackID, state)
	return nil
}

// freed waits until an address can be listened on, and reports why it can't when ctx ends.
func freed(ctx context.Context, network, addr string) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := free(network, addr)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

// free reports why an address can't be listened on.
func free(network, addr string) error {
	if network == "udp" {
		c, err := net.ListenPacket(network, addr)
		if err != nil {
			return cause(err)
		}
		return c.Close()
	}
	l, err := net.Listen(network, addr)
	if err != nil {
		return cause(err)
	}
	return l.Close()
}

func cause(err error) error {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno
	}
	return err
}
