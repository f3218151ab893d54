package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nexixai/agentos/agent"
	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/agent/loop"
	"github.com/nexixai/agentos/agent/memory"
	"github.com/nexixai/agentos/agent/queue"
	"github.com/nexixai/agentos/agent/run"
	"github.com/nexixai/agentos/agent/tool"
	"github.com/nexixai/agentos/api"
	"github.com/nexixai/agentos/internal/metric"
	"github.com/nexixai/agentos/internal/safehttp"
	"github.com/nexixai/agentos/model"
	"github.com/nexixai/agentos/model/meter"
	"github.com/nexixai/agentos/model/policy"
	"github.com/nexixai/agentos/model/provider/builtin"
	"github.com/nexixai/agentos/model/provider/openai"
	"github.com/nexixai/agentos/model/route"
	"github.com/nexixai/agentos/peer/forward"
	"github.com/nexixai/agentos/peer/placement"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/replica"
	"github.com/nexixai/agentos/tenancy"
	"github.com/nexixai/agentos/tenancy/audit"
	"github.com/nexixai/agentos/tenancy/sweep"
)

// heartbeat is how often a quiet event stream shows that it lives.
const heartbeat = 15 * time.Second

// wiring holds the rooms of a started node, from the log to the loop.
type wiring struct {
	metrics   *metrics
	commands  commands
	store     *replica.Store
	directory *tenancy.Directory
	denials   *audit.Denials
	catalog   *agent.Catalog
	memory    *memory.Store
	tools     *tool.Set
	hub       *event.Hub
	sessions  *queue.Sessions
	gateway   *model.Gateway
	rulesets  *policy.Rulesets
	prices    *meter.Prices
	routes    *placement.Routes
	placer    *placement.Placer
	runs      *run.Service
	runtime   *loop.Runtime
	forwarder *forward.Forwarder
}

// commands are every change that can be asked of the store.
type commands struct {
	registry *storage.Registry
	tenancy  *tenancy.Commands
	audit    *audit.Commands
	sweep    *sweep.Commands
	agent    *agent.Commands
	memory   *memory.Commands
	queue    *queue.Commands
	run      *run.Commands
	model    *model.Commands
	policy   *policy.Commands
	meter    *meter.Commands
	members  *registry.Commands
	peerings *registry.PeeringCommands
	routes   *placement.Commands
	heard    *registry.HeardCommands
	forward  *forward.Commands
}

func define() commands {
	reg := storage.NewRegistry()
	c := commands{registry: reg, tenancy: tenancy.Define(reg), audit: audit.Define(reg), sweep: sweep.Define(reg), agent: agent.Define(reg)}
	c.memory, c.queue, c.model = memory.Define(reg), queue.Define(reg), model.Define(reg)
	c.policy, c.meter = policy.Define(reg), meter.Define(reg)
	c.run = run.Define(reg, c.tenancy, c.agent)
	c.members, c.peerings = registry.Define(reg), registry.DefinePeerings(reg)
	c.routes = placement.Define(reg)
	c.heard = registry.DefineHeard(reg)
	c.forward = forward.Define(reg, c.run)
	return c
}

// wire puts the rooms together in one straight line, from the log to the door. Each part that has to be undone says so as
// soon as it is there; they are undone last first.
func (n *Node) wire(ctx context.Context) error {
	w := &n.w
	w.metrics, w.commands = newMetrics(n.o.Build), define()

	if n.o.OwnsProcess {
		if err := metric.NewSink(w.metrics.registry, 0); err != nil { // before raft is made: it looks its sink up once
			return fmt.Errorf("figures of libraries: %w", err)
		}
	}

	// The log, and the others who share it.
	if err := n.openDoor(ctx); err != nil {
		return err
	}
	store, err := n.openStore(ctx)
	if err != nil {
		return err
	}
	w.store = store
	if err := n.meet(); err != nil {
		return err
	}

	// Who may do what.
	w.directory = tenancy.New(tenancy.Options{Store: store, Commands: w.commands.tenancy, Logger: n.log.Named("tenancy")})
	n.down.push("tenants", func(context.Context) error { w.directory.Close(); return nil })
	sweeper := sweep.New(sweep.Options{Store: store, Commands: w.commands.sweep, Logger: n.log.Named("sweep")})
	n.down.push("sweeper", func(context.Context) error { sweeper.Close(); return nil })
	w.denials = audit.New(audit.Options{Store: store, Commands: w.commands.audit, Logger: n.log.Named("audit")})
	n.down.push("refusals", func(context.Context) error { w.denials.Close(); return nil })

	// Stack B.
	if err := n.wireModels(); err != nil {
		return err
	}

	// Others, of whom Stack A is told.
	n.wireAbroad()

	// Stack A.
	if err := n.wireAgents(n.dir.id); err != nil {
		return err
	}

	// From here on the node takes part.
	if err := store.Start(ctx); err != nil {
		return err
	}
	if err := n.take(ctx); err != nil {
		return err
	}
	n.begin()
	if err := n.seed(ctx); err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	w.sessions.Start()
	n.down.push("session", func(context.Context) error { w.sessions.Close(); return nil })
	return n.open(ctx)
}

// openStore opens the store, or makes it in a directory whose making has not been completed yet.
func (n *Node) openStore(ctx context.Context) (*replica.Store, error) {
	who := n.dir.id
	there, err := replica.Exists(nil, n.dir.store())
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	if !there && who.Stored {
		return nil, &FieldError{"data-dir", fmt.Sprintf("%s held a store, and it is gone from %s", n.dir.path, n.dir.store()), "put it back, or restore a backup; a node must not forget what it has promised"}
	}
	store, err := replica.Open(replica.Options{
		Dir: n.dir.store(), ServerID: who.ServerID, ClusterID: who.ClusterID, Registry: n.w.commands.registry,
		Bootstrap: !there && !who.Joined, Stream: n.near.door.Stream(), Forward: &n.near, Fast: n.o.Timing == "fast", DiskFloorBytes: int64(n.o.DiskFloor), Logger: n.log,
		MayLead: func(r storage.Reader) error { return readable(r, who.StackID, n.o.StoreVersion) },
	})
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	n.down.push("store", func(context.Context) error { return store.Close() })
	if err := n.checkVersion(ctx, store); err != nil { // before this node writes, votes or is asked anything
		return nil, err
	}
	if !who.Stored {
		n.dir.id.Stored = true
		if err := n.dir.save(); err != nil {
			return nil, err
		}
	}
	return store, nil
}

func (n *Node) wireModels() error {
	w := &n.w
	var backends []model.Provider
	if n.o.BuiltinBackend == "on" || n.o.BuiltinBackend == "auto" && n.o.Mode != Prod {
		backends = append(backends, w.metrics.count(builtin.New()))
	}
	if n.o.OpenAIBaseURL != "" {
		p, err := openai.New(openai.Options{BaseURL: n.o.OpenAIBaseURL, KeyFile: n.o.OpenAIKeyFile})
		if err != nil {
			return &FieldError{"openai-base-url", err.Error(), ""}
		}
		backends = append(backends, w.metrics.count(p))
	}
	tariff, err := meter.New(meter.Options{})
	if err != nil {
		return fmt.Errorf("prices: %w", err)
	}
	w.prices = meter.NewPrices(meter.PricesOptions{Store: w.store, Commands: w.commands.meter, Meter: tariff, Logger: n.log.Named("prices")})
	n.down.push("prices", func(context.Context) error { w.prices.Close(); return nil })
	w.rulesets = policy.NewRulesets(w.store, w.commands.policy)
	for _, b := range backends {
		n.backends = append(n.backends, b.Name())
	}
	w.gateway, err = model.New(model.Options{
		Providers: backends, Policy: policy.New(policy.Options{Lookup: w.rulesets.Lookup}), Routes: route.New(route.Options{}), Meter: tariff,
		Budget: model.NewLedger(w.store, w.commands.model), NodeID: n.dir.id.StackID, Logger: n.log.Named("model"),
	})
	if err != nil {
		return fmt.Errorf("models: %w", err)
	}
	n.down.push("models", func(context.Context) error { w.gateway.Close(); return nil })
	return nil
}

func (n *Node) wireAgents(who identity) error {
	w := &n.w
	w.memory = memory.New(memory.Options{Store: w.store, Commands: w.commands.memory, Embedder: newEmbedder(), Logger: n.log.Named("memory")})
	outside := safehttp.New(safehttp.Options{})
	n.down.push("outside requests", func(context.Context) error { outside.Close(); return nil })
	w.tools = tool.New(tool.Options{
		Kinds:  map[string]tool.Kind{tool.KindBuiltin: tool.NewBuiltin(tool.MemoryKV(w.memory), outside), tool.KindHTTP: tool.NewWebhook(outside)},
		Logger: n.log.Named("tool"),
	})
	w.catalog = agent.New(agent.Options{Store: w.store, Commands: w.commands.agent, Builtins: tool.Builtins(), CheckTool: w.tools.Check})
	w.hub = event.New(event.Options{Store: w.store, Heartbeat: heartbeat})
	n.down.push("event hub", func(context.Context) error { w.hub.Close(); return nil })
	w.sessions = queue.New(queue.Options{
		Store: w.store, Commands: w.commands.queue, StackID: who.StackID, Region: n.o.Region, Workers: n.o.Workers, TTL: n.o.SessionTTL, Logger: n.log.Named("queue"),
	})
	n.wirePlacement()
	w.runs = run.New(run.Options{
		Store: w.store, Commands: w.commands.run, QueueCommands: w.commands.queue, StackID: who.StackID, Organization: n.o.Organization, Region: n.o.Region,
		Session: w.sessions, Policy: w.gateway, Placer: w.placer, Logger: n.log.Named("run"),
	})
	n.down.push("runs", func(context.Context) error { w.runs.Close(); return nil })
	w.runtime = loop.New(loop.Options{
		StackID: who.StackID, Runs: w.runs, Waits: w.runs, Leases: w.sessions, Agents: w.catalog, Tenants: w.directory, Gateway: w.gateway, Tools: w.tools,
		Deltas: w.hub.Delta, Workers: n.o.Workers, Observer: w.metrics, Logger: n.log.Named("loop"),
	})
	w.forwarder = forward.New(forward.Options{
		Runs: w.runs, Leases: w.sessions, Peers: n.abroad.book, Wire: wire{n.abroad.links}, ClusterID: n.dir.id.ClusterID, StackID: who.StackID,
		Deltas: w.hub.Delta, Observer: w.metrics, Logger: n.log.Named("forward"),
	})
	return nil
}

// open lets work and callers in. What it pushes is undone in this order when the node stops: the workers come to the end
// of their steps while streams still carry what they do; then the doors close.
func (n *Node) open(ctx context.Context) error {
	if n.o.APITLSCertFile != "" {
		n.certs = new(certificate)
		if err := n.certs.load(n.o.APITLSCertFile, n.o.APITLSKeyFile); err != nil {
			return err
		}
	}
	n.gauges()
	door, err := n.door()
	if err != nil {
		return err
	}
	admin, err := listen(ctx, "admin-listen", n.o.AdminListen)
	if err != nil {
		return err
	}
	public, err := listen(ctx, "api-listen", n.o.APIListen)
	if err != nil {
		return errors.Join(err, admin.Close())
	}
	foreign, err := listen(ctx, "federation-listen", n.o.FederationListen)
	if err != nil {
		return errors.Join(err, admin.Close(), public.Close())
	}
	n.watchTouch()
	n.openFederation(foreign, door)
	n.near.serving.Go(func() { n.near.door.ServeJoins(door.JoinHandler()) })
	n.serve("admin", api.HTTP(n.adminHandler(door.AdminHandler()), n.log.Named("admin")), admin)
	n.serve("api", api.HTTP(door.Handler(), n.log.Named("api")), public)
	n.down.push("streams", func(ctx context.Context) error { door.Drain(ctx); return nil })
	n.down.push("workers", func(ctx context.Context) error {
		w := &n.w
		door.Refuse()
		w.sessions.Drain()
		w.forwarder.Close() // others relay at once what this node has
		bounded, cancel := context.WithTimeout(ctx, n.o.DrainTimeout/3)
		defer cancel()
		err := w.runtime.Drain(bounded)
		w.runtime.Close()
		if errors.Is(err, context.DeadlineExceeded) {
			n.log.Info("steps were cut off; their runs go on after the next start")
			err = nil
		}
		return err
	})
	n.w.runtime.Start()
	n.w.forwarder.Start()
	return nil
}
