package fleet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/nexixai/agentos/internal/process"
	"github.com/nexixai/agentos/node"
)

// Nuke ends every process of the deployment and verifies that they are gone. With hard it removes the state directory
// too. What it reports lies outside. Where there is no deployment, there is nothing to do, and that is no failure.
func (f *Fleet) Nuke(ctx context.Context, hard bool) (*Report, error) {
	r := f.newReport("nuke")
	if f.plan == nil {
		return r, f.finish(r, f.run(ctx, r, "look", func(_ context.Context, p *phase) error {
			p.step("there is no deployment in %s: nothing to end or remove", f.o.StateDir)
			return nil
		}))
	}
	release, err := f.hold()
	if err != nil {
		return r, err
	}
	defer release()
	err = f.run(ctx, r, "stop", func(ctx context.Context, p *phase) error { return f.stopAll(ctx, r, p) })
	if err == nil {
		err = f.run(ctx, r, "verify", func(_ context.Context, p *phase) error { return f.verifyStopped(p) })
	}
	f.listPorts(ctx, r)
	if err == nil && hard {
		err = f.run(ctx, r, "remove", func(_ context.Context, p *phase) error { return f.remove(r, p) })
	}
	if err == nil && !hard {
		r.Advice = append(r.Advice, Advice{"start it again with all it kept", "agentos up" + f.at()}, Advice{"remove what it kept", "agentos nuke --yes-really --hard" + f.at()})
	}
	return r, f.finish(r, err)
}

func (f *Fleet) stopAll(ctx context.Context, r *Report, p *phase) error {
	ids, err := f.stackIDs()
	if err != nil {
		return err
	}
	p.total(len(ids))
	var faults []error
	for _, id := range ids {
		who, alive, err := f.running(id)
		switch {
		case err != nil:
			faults = append(faults, err)
		case !alive:
			p.step("%s does not run", id)
		default:
			forced, err := f.stop(ctx, who, stopPatience)
			if err != nil {
				faults = append(faults, fmt.Errorf("stop %s: %w", id, err))
				continue
			}
			how := "stopped"
			if forced {
				how = "killed: it did not stop by itself"
			}
			p.step("%s, process %d, %s", id, who.PID, how)
			r.Removed = append(r.Removed, fmt.Sprintf("process %d of %s", who.PID, id))
		}
	}
	if err := errors.Join(faults...); err != nil {
		return &FailedError{Phase: p.name, Check: "processes end", Err: err, Next: "agentos nuke --yes-really" + f.at()}
	}
	return nil
}

// stackIDs names the nodes of the plan and any other that has a directory here.
func (f *Fleet) stackIDs() ([]string, error) {
	var ids []string
	seen := map[string]bool{}
	for _, n := range f.plan.nodes() {
		ids, seen[n.StackID] = append(ids, n.StackID), true
	}
	entries, err := os.ReadDir(f.path(nodesName))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if e.IsDir() && !seen[e.Name()] {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

func (f *Fleet) verifyStopped(p *phase) error {
	ids, err := f.stackIDs()
	if err != nil {
		return err
	}
	nodes := f.plan.nodes()
	p.total(len(ids) + len(nodes))
	for _, id := range ids {
		who, alive, err := f.running(id)
		if err != nil {
			return err
		}
		if alive {
			return &FailedError{Phase: p.name, Check: id + " is gone", Err: fmt.Errorf("process %d still runs", who.PID), Next: "agentos nuke --yes-really" + f.at()}
		}
		p.step("%s is gone", id)
	}
	for _, n := range nodes {
		for _, l := range n.listeners() {
			if err := free(l.network, l.addr); err != nil {
				p.note("%s port %s is held by a process that is not ours", l.network, l.addr)
			}
		}
		p.step("ports %d-%d were looked at", n.Port, n.Port+4)
	}
	return nil
}

// remove deletes the state directory. It is one of ours: it holds a plan that this program has read.
func (f *Fleet) remove(r *Report, p *phase) error {
	if err := node.WriteFile(f.path(removingName), nil, 0o600); err != nil {
		return err
	}
	if err := f.clear(r, p); err != nil {
		return err
	}
	for _, name := range []string{planName, lockName} { // last, so that a removal that is cut short can be taken up again
		if err := os.Remove(f.path(name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := os.Remove(f.o.StateDir); err != nil {
		p.note("kept %s: it is not empty", f.o.StateDir)
	} else {
		p.step("removed %s", f.o.StateDir)
		r.Removed = append(r.Removed, f.o.StateDir)
	}
	return nil
}

// clear deletes what a deployment keeps, and then the mark that says so: half a data directory is none that a node could
// start on.
func (f *Fleet) clear(r *Report, p *phase) error {
	entries, err := os.ReadDir(f.o.StateDir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		switch name := e.Name(); name {
		case planName, lockName, removingName:
		case accessName, keysName, nodesName, planName + ".tmp", accessName + ".tmp":
			if err := os.RemoveAll(f.path(name)); err != nil {
				return err
			}
			p.step("removed %s", f.path(name))
			r.Removed = append(r.Removed, f.path(name))
		default:
			p.note("kept %s, which is not ours", f.path(name))
		}
	}
	return os.Remove(f.path(removingName))
}

// endRemoval does the rest of a "nuke --hard" that was cut short, so that up begins with nothing instead of with a half.
func (f *Fleet) endRemoval(r *Report, p *phase) error {
	if _, err := os.Stat(f.path(removingName)); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	p.note("a removal of this deployment was cut short; its rest goes first")
	return f.clear(r, p)
}

// LogFiles returns the log file of each node, or of the one that is named.
func (f *Fleet) LogFiles(stackID string) (map[string]string, error) {
	p, err := f.need()
	if err != nil {
		return nil, err
	}
	files := map[string]string{}
	var known []string
	for _, n := range p.nodes() {
		known = append(known, n.StackID)
		if stackID == "" || stackID == n.StackID {
			files[n.StackID] = f.logFile(n.StackID)
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("the deployment has no node %q, only %q", stackID, known)
	}
	return files, nil
}

// ProcessOf returns the live process of a node, or false.
func (f *Fleet) ProcessOf(stackID string) (process.Identity, bool, error) {
	return f.running(filepath.Base(stackID))
}
