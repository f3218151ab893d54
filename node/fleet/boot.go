package fleet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nexixai/agentos/api/client"
	"github.com/nexixai/agentos/internal/process"
	"github.com/nexixai/agentos/node"
)

// How long a node may take to serve after its start, and to stop after SIGTERM: its own drain, and a little more.
const (
	bootPatience = 60 * time.Second
	stopPatience = 45 * time.Second
)

// boot starts the nodes that do not run, those of all organisations at once, and waits until every one is ready.
func (f *Fleet) boot(ctx context.Context, _ *Report, p *phase) error {
	p.total(len(f.plan.nodes()))
	return f.each(func(org planOrg) error { return f.bootOrg(ctx, p, org) })
}

// bootOrg starts the nodes of one organisation. Those that were here before are started together, since a cluster is ready
// only when more than half of it is back; new ones join what is ready.
func (f *Fleet) bootOrg(ctx context.Context, p *phase, org planOrg) error {
	var known, fresh []planNode
	for i, n := range org.Nodes {
		data := f.dataDir(n.StackID)
		if i == 0 || node.HoldsNode(data) && !node.AwaitsJoin(data) {
			known = append(known, n)
		} else {
			fresh = append(fresh, n)
		}
	}
	if err := f.bring(ctx, p, org, known, nil); err != nil || len(fresh) == 0 {
		return err
	}
	token, err := f.joinToken(ctx, org, len(fresh))
	if err != nil {
		return &FailedError{Phase: p.name, Check: "join token of " + org.Organization, Err: err, Log: tail(f.logFile(org.Nodes[0].StackID), 0, 8), LogFile: f.logFile(org.Nodes[0].StackID), Next: "agentos status" + f.at()}
	}
	join := []string{"--join=" + org.Nodes[0].addr("cluster"), "--join-token-file=" + token}
	return errors.Join(f.bring(ctx, p, org, fresh, join), os.Remove(token))
}

// started is a node on its way.
type started struct {
	node  planNode
	who   process.Identity
	child *child // nil: it ran already
	began time.Time
}

// bring starts those of nodes that do not run, all at once, and waits until each is ready.
func (f *Fleet) bring(ctx context.Context, p *phase, org planOrg, nodes []planNode, extra []string) error {
	var all []started
	for _, n := range nodes {
		who, alive, err := f.running(n.StackID)
		if err != nil {
			return err
		}
		s := started{node: n, who: who, began: time.Now()}
		if !alive {
			if s.child, err = f.launch(org, n, extra...); err != nil {
				return &FailedError{Phase: p.name, Check: "start " + n.StackID, Err: err, Next: "agentos logs " + n.StackID + f.at()}
			}
			s.who = s.child.Identity
			p.note("%s is starting, process %d", n.StackID, s.who.PID)
		}
		all = append(all, s)
	}
	for _, s := range all {
		if err := f.awaitReady(ctx, s.node, s.who, s.child); err != nil {
			logAt := int64(0)
			if s.child != nil {
				logAt = s.child.logAt
			}
			return f.bootFailed(p, s.node, logAt, err)
		}
		if s.child == nil {
			p.step("%s runs already, process %d", s.node.StackID, s.who.PID)
		} else {
			p.step("%s is ready, process %d, %s", s.node.StackID, s.who.PID, time.Since(s.began).Round(time.Millisecond))
		}
	}
	return nil
}

// joinToken makes a token that lets count nodes into the organisation's cluster, and returns the file it is in.
func (f *Fleet) joinToken(ctx context.Context, org planOrg, count int) (string, error) {
	key := f.keyFile(org, node.DefaultTenantID, rolePlatformAdmin)
	if _, err := os.Stat(key); err != nil { // the first start: seed has not moved the key yet
		key = filepath.Join(f.dataDir(org.Nodes[0].StackID), node.PlatformKeyName)
	}
	c, err := f.with(org.Nodes[0], key)
	if err != nil {
		return "", err
	}
	defer c.Close()
	tok, err := c.CreateJoinToken(ctx, 10*time.Minute, count)
	if err != nil {
		return "", err
	}
	name := f.path(nodesName, org.Organization+".join.token") // if up is killed, it goes with the nodes
	return name, node.WriteFile(name, []byte(tok.Token+"\n"), 0o600)
}

func (f *Fleet) bootFailed(p *phase, n planNode, logAt int64, err error) error {
	if errors.Is(err, errDrained) {
		return &FailedError{Phase: p.name, Check: n.StackID + " becomes ready", Err: err, Next: "agentos cluster drain " + n.StackID + " --undo" + f.at()}
	}
	return &FailedError{
		Phase: p.name, Check: n.StackID + " becomes ready", Err: err,
		Log: tail(f.logFile(n.StackID), logAt, 12), LogFile: f.logFile(n.StackID), Next: "agentos logs " + n.StackID + f.at(),
	}
}

// awaitReady asks /readyz until the node says yes. It gives up at once when the process ends.
func (f *Fleet) awaitReady(ctx context.Context, n planNode, who process.Identity, c *child) error {
	ctx, cancel := context.WithTimeoutCause(ctx, bootPatience, fmt.Errorf("it was not ready after %v", bootPatience))
	defer cancel()
	var exited <-chan struct{}
	if c != nil {
		exited = c.exited
	}
	api, err := f.once(n.apiURL())
	if err != nil {
		return err
	}
	defer api.Close()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		last := readiness(ctx, api)
		if last == nil {
			return nil
		}
		if errors.Is(last, errDrained) {
			return last
		}
		select {
		case <-exited:
			return fmt.Errorf("the process ended: %s", c.state)
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), last)
		case <-tick.C:
			if c == nil && !who.Alive() {
				return errors.New("the process ended")
			}
		}
	}
}

// errDrained is what keeps a node from work until somebody takes it back: there is nothing to wait for.
var errDrained = errors.New("an operator has drained it, and it takes no runs")

// readiness returns nil when the node can take work, and else what keeps it from that.
func readiness(ctx context.Context, c *client.Client) error {
	r, err := c.Ready(ctx)
	if err != nil || r.Ready() {
		return err
	}
	if r.Drained() {
		return errDrained
	}
	return errors.New(unready(r))
}

// unready names the dependencies that are not well.
func unready(r *client.Readiness) string {
	var ill []string
	for _, name := range slices.Sorted(maps.Keys(r.Dependencies)) {
		if why := r.Dependencies[name]; why != "ok" {
			ill = append(ill, name+": "+why)
		}
	}
	return r.Status + ": " + strings.Join(ill, "; ")
}
