package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/internal/zaplog"
	"github.com/nexixai/agentos/storage"
)

// Node is one AgentOS node. It is started once and stopped once.
type Node struct {
	o       Options
	log     *zap.Logger
	level   zaplog.Level
	leveled bool // level belongs to log

	dir      *dataDir
	down     teardowns
	draining atomic.Bool // the node is stopping
	drained  atomic.Bool // an operator wants no new runs here
	failed   chan error
	certs    *certificate // nil without TLS

	// What Start has wired; written by Start alone, before anything can call back.
	w        wiring
	near     neighbours
	abroad   federation
	backends []string // names of the model backends

	mu      sync.Mutex
	started bool
	stopped bool
}

// New checks o and returns a node that does nothing yet. The error names every setting at fault (FieldError).
func New(o Options) (*Node, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	n := &Node{o: o.withDefaults(), failed: make(chan error, 1), log: o.Logger}
	if n.log == nil {
		var err error
		n.log, n.level, err = zaplog.New(zaplog.Options{Level: n.o.LogLevel, Format: n.o.LogFormat, Out: os.Stderr})
		if err != nil {
			return nil, err
		}
		n.leveled = true
	}
	n.down.log = n.log
	return n, nil
}

// Start makes or opens the data directory, wires the rooms and serves. It returns once the node is ready, or with the
// reason why it can't be; then nothing is left running. ctx bounds the start alone.
func (n *Node) Start(ctx context.Context) (err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.started {
		return errors.New("node: started before")
	}
	n.started = true
	began := time.Now()
	defer func() {
		if err != nil {
			n.stopped = true
			undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), n.o.DrainTimeout)
			defer cancel()
			if downErr := n.down.run(undo); downErr != nil {
				n.log.Error("the start was not undone whole", zap.Error(downErr))
			}
		}
	}()
	if n.o.OwnsProcess {
		n.ownProcess()
	}
	if n.dir, err = openDataDir(n.o); err != nil {
		return err
	}
	n.down.push("data directory", func(context.Context) error { n.dir.close(); return nil })
	if err := n.dir.adopt(&n.o); err != nil {
		return err
	}
	n.log = n.log.With(zap.String("stack_id", n.dir.id.StackID))
	n.down.log = n.log
	n.log.Info("starting", zap.String("version", n.o.Build.Version), zap.String("git_sha", n.o.Build.GitSHA), zap.String("mode", string(n.o.Mode)),
		zap.String("organization", n.o.Organization), zap.String("cluster_id", n.dir.id.ClusterID), zap.String("data_dir", n.dir.path))
	if err := n.wire(ctx); err != nil {
		return err
	}
	if n.o.OwnsProcess {
		// A start reads and throws away more than an idle node ever needs; what it took is given back at once.
		debug.FreeOSMemory()
	}
	n.log.Info("ready", zap.String("api", n.o.APIListen), zap.String("admin", n.o.AdminListen), zap.Duration("took", time.Since(began)))
	return nil
}

// Stop takes the node down: it stops being ready, takes no new runs, lets steps, requests and streams end, and then undoes
// what Start has done, last first. It ends within the drain timeout and a few seconds, whatever hangs. It may be called
// more than once.
func (n *Node) Stop(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.stopped || !n.started {
		return nil
	}
	n.stopped = true
	n.draining.Store(true)
	ctx, cancel := context.WithTimeout(ctx, n.o.DrainTimeout)
	defer cancel()
	n.log.Info("stopping")
	began := time.Now()
	err := n.down.run(ctx)
	n.log.Info("stopped", zap.Duration("took", time.Since(began)), zap.Error(err))
	return err
}

// Status tells where the node's copy of the store stands and whom it takes for the leader. It may be asked between Start
// and Stop.
func (n *Node) Status() storage.Status { return n.w.store.Status() }

// Failed delivers the failure of a part that the node can't do without; the owner then calls Stop.
func (n *Node) Failed() <-chan error { return n.failed }

// fail tells the first failure.
func (n *Node) fail(part string, err error) {
	n.log.Error("a part of the node has failed", zap.String("part", part), zap.Error(err))
	select {
	case n.failed <- fmt.Errorf("%s: %w", part, err):
	default:
	}
}

// Reload takes what may change while running from o: the log level, and the files of the certificate. Other settings
// that differ are told in the log.
func (n *Node) Reload(o Options) error {
	o = o.withDefaults()
	if err := o.Validate(); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range table {
		if !s.Reload && s.Value(&o) != s.Value(&n.o) && s.Name != "init" {
			n.log.Warn("a setting changed that needs a restart", zap.String("setting", s.Name))
		}
	}
	if n.leveled {
		if err := n.level.Set(o.LogLevel); err != nil {
			return err
		}
	}
	if n.certs != nil && o.APITLSCertFile != "" {
		if err := n.certs.load(o.APITLSCertFile, o.APITLSKeyFile); err != nil {
			return err
		}
	}
	n.log.Info("reloaded", zap.String("log_level", o.LogLevel))
	return nil
}
