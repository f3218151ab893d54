package fleet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nexixai/agentos/api/client"
	"github.com/nexixai/agentos/internal/process"
)

// How long a node may take to serve after its start, and to stop after SIGTERM: its own drain, and a little more.
const (
	bootPatience = 60 * time.Second
	stopPatience = 45 * time.Second
)

// boot starts the nodes that do not run, and waits until every one is ready.
func (f *Fleet) boot(ctx context.Context, _ *Report, p *phase) error {
	p.total(len(f.plan.nodes()))
	for _, org := range f.plan.Organizations {
		for _, n := range org.Nodes {
			who, alive, err := f.running(n.StackID)
			if err != nil {
				return err
			}
			began := time.Now()
			if alive {
				if err := f.awaitReady(ctx, n, who, nil); err != nil {
					return f.bootFailed(p, n, 0, err)
				}
				p.step("%s runs already, process %d", n.StackID, who.PID)
				continue
			}
			c, err := f.launch(org, n)
			if err != nil {
				return &FailedError{Phase: p.name, Check: "start " + n.StackID, Err: err, Next: "agentos logs " + n.StackID}
			}
			p.note("%s is starting, process %d", n.StackID, c.PID)
			if err := f.awaitReady(ctx, n, c.Identity, c); err != nil {
				return f.bootFailed(p, n, c.logAt, err)
			}
			p.step("%s is ready, process %d, %s", n.StackID, c.PID, time.Since(began).Round(time.Millisecond))
		}
	}
	return nil
}

func (f *Fleet) bootFailed(p *phase, n planNode, logAt int64, err error) error {
	return &FailedError{
		Phase: p.name, Check: n.StackID + " becomes ready", Err: err,
		Log: tail(f.logFile(n.StackID), logAt, 12), LogFile: f.logFile(n.StackID), Next: "agentos logs " + n.StackID + " --state-dir " + f.o.StateDir,
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

// readiness returns nil when the node can take work, and else what keeps it from that.
func readiness(ctx context.Context, c *client.Client) error {
	r, err := c.Ready(ctx)
	if err != nil || r.Ready() {
		return err
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
