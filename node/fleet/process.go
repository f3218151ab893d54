package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/nexixai/agentos/internal/process"
	"github.com/nexixai/agentos/node"
)

// launched is what process.json holds. The lock in a node's data directory names the process too; this file covers the
// moment before a new node has taken its lock.
type launched struct {
	process.Identity
	StartedAt time.Time `json:"started_at"`
	Binary    string    `json:"binary"`
}

// running returns the live process of a node, or false.
func (f *Fleet) running(stackID string) (process.Identity, bool, error) {
	owner, held, err := node.LockOwner(f.dataDir(stackID))
	if err != nil {
		return process.Identity{}, false, err
	}
	if held {
		return owner, true, nil
	}
	raw, err := os.ReadFile(filepath.Join(f.nodeDir(stackID), processName))
	if errors.Is(err, os.ErrNotExist) {
		return process.Identity{}, false, nil
	}
	if err != nil {
		return process.Identity{}, false, err
	}
	var l launched
	if err := json.Unmarshal(raw, &l); err != nil {
		return process.Identity{}, false, fmt.Errorf("%s of %s is damaged: %w", processName, stackID, err)
	}
	return l.Identity, l.Alive(), nil
}

// child is a node that this command has just started.
type child struct {
	process.Identity
	exited chan struct{} // closed when it has ended
	state  string        // how, valid after that
	logAt  int64         // where its lines begin in the log file
}

// launch starts the node's process in a session of its own, so that neither the terminal nor the end of this command
// touches it.
func (f *Fleet) launch(org planOrg, n planNode, extra ...string) (*child, error) {
	dir := f.nodeDir(n.StackID)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	out, err := os.OpenFile(f.logFile(n.StackID), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close() // the process has its own
	at, err := out.Seek(0, 2)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(f.o.Binary, append(f.arguments(org, n), extra...)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.Env = dir, out, out, f.environment()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", f.o.Binary, err)
	}
	c := &child{exited: make(chan struct{}), logAt: at}
	c.Identity, err = process.Of(cmd.Process.Pid)
	if err == nil {
		err = writeJSON(filepath.Join(dir, processName), launched{Identity: c.Identity, StartedAt: time.Now().UTC(), Binary: f.o.Binary})
	}
	go func() { // ends with the process, or with this command
		_ = cmd.Wait()
		c.state = cmd.ProcessState.String()
		close(c.exited)
	}()
	if err != nil && !errors.Is(err, process.ErrGone) {
		_ = cmd.Process.Kill()
		<-c.exited
		return nil, fmt.Errorf("record the process of %s: %w", n.StackID, err)
	}
	return c, nil
}

// arguments are the settings that make a node this node; everything else comes from the environment.
func (f *Fleet) arguments(org planOrg, n planNode) []string {
	data := f.dataDir(n.StackID)
	args := []string{
		"node", "run",
		"--mode=" + string(f.plan.Mode),
		"--stack-id=" + n.StackID,
		"--organization=" + org.Organization,
		"--trust-domain=" + org.TrustDomain,
		"--region=" + n.Region,
		"--data-dir=" + data,
		"--api-listen=" + n.addr("api"),
		"--federation-listen=" + n.addr("federation"),
		"--cluster-listen=" + n.addr("cluster"),
		"--gossip-listen=" + n.addr("gossip"),
		"--admin-listen=" + n.addr("admin"),
	}
	if n.StackID == org.Nodes[0].StackID && !node.HoldsNode(data) {
		args = append(args, "--init")
	}
	return args
}

// environment is this command's own, with what the environment file adds, and without what would name another node.
func (f *Fleet) environment() []string {
	var env []string
	given := map[string]bool{}
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if own(name) {
			continue
		}
		given[name] = true
		env = append(env, kv)
	}
	for name, v := range f.o.Env {
		if !given[name] && !own(name) && v != "" {
			env = append(env, name+"="+v)
		}
	}
	slices.Sort(env)
	return env
}

// own reports whether a variable would make one node out of all: those of the settings that arguments gives.
func own(name string) bool {
	for _, setting := range []string{
		"init", "join", "join-token", "join-token-file", "stack-id", "data-dir", "organization", "trust-domain", "region", "mode",
		"api-listen", "api-advertise", "federation-listen", "federation-advertise", "cluster-listen", "cluster-advertise",
		"gossip-listen", "gossip-advertise", "admin-listen",
	} {
		if name == node.EnvName(setting) {
			return true
		}
	}
	return name == "AGENTOS_CONFIG"
}

// stop ends a node: politely first, then by force. It returns how it ended.
func (f *Fleet) stop(ctx context.Context, who process.Identity, patience time.Duration) (forced bool, err error) {
	err = who.Signal(syscall.SIGTERM)
	if errors.Is(err, process.ErrGone) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	polite, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := who.Wait(polite); err == nil {
		return false, nil
	} else if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if err := who.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, process.ErrGone) {
		return true, err
	}
	hard, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := who.Wait(hard); err != nil {
		return true, fmt.Errorf("process %d did not end after SIGKILL: %w", who.PID, err)
	}
	return true, nil
}

// tail returns the last n lines of a file from offset on.
func tail(name string, offset int64, n int) []string {
	file, err := os.Open(name)
	if err != nil {
		return nil
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil
	}
	const most = 256 << 10
	from := max(offset, info.Size()-most)
	raw := make([]byte, max(0, info.Size()-from))
	read, _ := file.ReadAt(raw, from)
	lines := strings.Split(strings.TrimRight(string(raw[:read]), "\n"), "\n")
	if from > offset && len(lines) > 1 {
		lines = lines[1:] // the first is cut
	}
	if len(lines) == 1 && lines[0] == "" {
		return nil
	}
	return lines[max(0, len(lines)-n):]
}
