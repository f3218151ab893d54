package node

import (
	"context"
	"fmt"

	"github.com/nexixai/agentos/api"
	openaiwire "github.com/nexixai/agentos/api/openai"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/peer/forward"
)

// door makes the door of the API and the admin calls.
func (n *Node) door() (*api.Server, error) {
	w := &n.w
	d, err := api.New(api.Options{
		Store: w.store, Tenants: w.directory, Runs: w.runs, Events: w.hub, Catalog: w.catalog, Memory: w.memory, Models: w.gateway, Rulesets: w.rulesets, Prices: w.prices, Cluster: n.near.members, Peerings: n.pairing(), Routes: w.routes, Placement: w.placer, OpenAI: openaiwire.Dialect{},
		Denials: w.denials, Observe: w.metrics.request, Dependencies: n.dependencies,
		Executor: forward.NewExecutor(forward.ExecutorOptions{Store: w.store, Commands: w.commands.forward, Runs: w.runs, ClusterID: n.dir.id.ClusterID}),
		About:    n.about(), Peers: n.abroad.book,
		Federation: &api.Federation{Active: n.activePeering, Members: n.federationAddresses, Load: n.load, InTouch: n.inTouch, Called: n.abroad.book.Called},
		AdminApart: n.o.Mode == Prod, Logger: n.log.Named("api"),
	})
	if err != nil {
		return nil, fmt.Errorf("api: %w", err)
	}
	return d, nil
}

// about is what this node says of itself.
func (n *Node) about() api.About {
	who, scheme := n.dir.id, "http"
	if n.o.APITLSCertFile != "" {
		scheme = "https"
	}
	return api.About{
		Version: n.o.Build.Version, Commit: n.o.Build.GitSHA, BuiltAt: n.o.Build.Timestamp, StackID: who.StackID,
		Organization: n.o.Organization, Region: n.o.Region, TrustDomain: n.o.TrustDomain, ClusterID: who.ClusterID, Mode: string(n.o.Mode),
		StoreEpoch: n.near.roster.Load().Cluster().StoreEpoch, APIURL: scheme + "://" + n.o.APIAdvertise, FederationURL: "https://" + n.o.FederationAdvertise,
		AdminURL: scheme + "://" + n.o.AdminListen, MaxConcurrentRuns: n.o.Workers, Backends: n.backends, Tiers: []string{"fast", "balanced", "premium"},
		Capabilities: features(),
	}
}

// dependencies is what readiness depends on, each asked from memory: a look at /readyz must not load what it looks at.
func (n *Node) dependencies(context.Context) map[string]error {
	deps := map[string]error{"store": nil, "session": n.w.sessions.Err(), "disk": n.w.store.Room(), "node": nil}
	if n.w.store.Status().Leader == "" {
		deps["store"] = fault.New(fault.Unavailable, "The cluster has no leader at the moment.").With("service", "quorum")
	}
	if !n.near.caughtUp.Load() {
		deps["store"] = fault.New(fault.Unavailable, "This node has not caught up with its cluster yet.").With("service", "quorum")
	}
	if n.drained.Load() {
		deps["node"] = fault.New(fault.Unavailable, "This node is drained: an operator wants no new runs here.").With("service", "node").With("drained", true)
	}
	if n.draining.Load() {
		deps["node"] = fault.New(fault.Unavailable, "This node is stopping.").With("service", "node")
	}
	return deps
}
