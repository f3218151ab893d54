package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nexixai/agentos/api/client"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/node"
	"github.com/nexixai/agentos/peer/cluster"
)

// The states of a peering in which both sides still have it.
const (
	peeringActive    = "active"
	peeringSuspended = "suspended"
	peeringRevoked   = "revoked"
)

// grantScopes are what the organisations of a deployment let each other do: to run agents and follow the runs.
var grantScopes = [...]string{
	"runs:create", "runs:read", "runs:cancel", "runs:forward", "agents:read", "tools:invoke", "memory:read", "memory:write", "models:invoke", "events:read", "events:ingest", "peers:read",
}

// wire waits until the nodes of each organisation are one cluster, in which everybody votes who is to, pairs the first
// organisation with each of the others, and tells people where it all is. That comes before the checks, so that a
// deployment which fails them can be looked at.
func (f *Fleet) wire(ctx context.Context, _ *Report, p *phase) error {
	orgs := f.plan.Organizations
	p.total(len(orgs) + (3+len(orgs[0].Nodes)+1)*(len(orgs)-1) + len(f.wantedRoutes()) + 1)
	var paired error
	clustered := f.each(func(org planOrg) error {
		if org.Organization == orgs[0].Organization { // which pairs while its voters are still being made
			paired = f.pairAll(ctx, p)
		}
		now, err := f.awaitVoters(ctx, org)
		if err != nil {
			return &FailedError{Phase: p.name, Check: "cluster of " + org.Organization, Err: err, Next: "agentos cluster status --org " + org.Organization + f.at()}
		}
		p.step("%s is one cluster: %d node(s), %d voter(s), led by %s", org.Organization, len(now.Members), voters(now), *now.Leader)
		return nil
	})
	if err := errors.Join(clustered, f.saveAccess(), paired); err != nil {
		return err
	}
	p.step("access to %d node(s) is in %s", len(f.plan.nodes()), f.path(accessName))
	return nil
}

// pairAll pairs the first organisation with each of the others, and routes to them what only they can do.
func (f *Fleet) pairAll(ctx context.Context, p *phase) error {
	first := f.plan.Organizations[0]
	var meeting sync.WaitGroup
	defer meeting.Wait()
	met := make([]error, len(f.plan.Organizations))
	for i, other := range f.plan.Organizations[1:] {
		w := &pairing{f: f, p: p, first: first, other: other}
		if err := w.do(ctx); err != nil {
			return &FailedError{
				Phase: p.name, Check: "pair " + first.Organization + " with " + other.Organization, Err: err,
				Log: tail(f.logFile(first.Nodes[0].StackID), 0, 8), LogFile: f.logFile(first.Nodes[0].StackID),
				Next: "agentos peering list --org " + other.Organization + f.at(),
			}
		}
		meeting.Go(func() { met[i] = w.meet(ctx) })
	}
	if err := f.routeAll(ctx, p, first); err != nil {
		return err
	}
	meeting.Wait()
	return errors.Join(met...)
}

func (f *Fleet) routeAll(ctx context.Context, p *phase, first planOrg) error {
	for _, want := range f.wantedRoutes() {
		made, err := f.ensureRoute(ctx, first, want)
		if err != nil {
			return &FailedError{Phase: p.name, Check: "route " + want.ID, Err: err, Next: "agentos up" + f.at()}
		}
		p.step("%s: route %s for %s to %s %s", first.Organization, want.ID, want.Match.AgentID, want.Targets[0].Organization, madeWord(made))
	}
	return nil
}

// pairing brings two organisations of a deployment together.
type pairing struct {
	f            *Fleet
	p            *phase
	first, other planOrg
	ours, theirs *client.Client // of the first's administrator, and the other's
	id, state    string         // of the peering
	granted      bool           // by this up
}

func (w *pairing) do(ctx context.Context) error {
	var err error
	if w.ours, err = w.f.with(w.first.Nodes[0], w.f.keyFile(w.first, node.DefaultTenantID, rolePlatformAdmin)); err != nil {
		return err
	}
	defer w.ours.Close()
	if w.theirs, err = w.f.with(w.other.Nodes[0], w.f.keyFile(w.other, node.DefaultTenantID, rolePlatformAdmin)); err != nil {
		return err
	}
	defer w.theirs.Close()
	names := w.first.Organization + " and " + w.other.Organization
	if w.id, w.state, err = w.found(ctx); err != nil {
		return err
	}
	if w.state == "" {
		if w.id, err = w.pair(ctx); err != nil {
			return err
		}
		w.state = peeringActive
		w.p.step("%s are paired: %s made", names, w.id)
	} else {
		w.p.step("%s are paired: %s is there, %s", names, w.id, w.state)
	}
	if slices.Contains(w.f.plan.Wired, w.id) { // what may be done since then is for people to say
		w.p.step("%s grants %s as before", w.first.Organization, w.other.Organization)
		w.p.step("%s grants %s as before", w.other.Organization, w.first.Organization)
		return nil
	}
	if err := w.grant(ctx, w.ours, w.first, w.other); err != nil {
		return err
	}
	if err := w.grant(ctx, w.theirs, w.other, w.first); err != nil {
		return err
	}
	w.granted = w.state == peeringActive
	w.f.plan.Wired = append(w.f.plan.Wired, w.id)
	return w.f.plan.save(w.f.o.StateDir)
}

// meet waits until every node of both sides can work with the other side. A peering that somebody suspended or revoked is
// left at that.
func (w *pairing) meet(ctx context.Context) error {
	wait := func(org, with planOrg) error {
		for _, n := range org.Nodes {
			if w.state != peeringActive {
				w.p.step("%s is not in touch with %s: %s is %s", n.StackID, with.Organization, w.id, w.state)
				continue
			}
			if err := w.f.touch(ctx, org, n, w.id, w.granted); err != nil {
				return &FailedError{
					Phase: w.p.name, Check: n.StackID + " is in touch with " + with.Organization, Err: err,
					Log: tail(w.f.logFile(n.StackID), 0, 8), LogFile: w.f.logFile(n.StackID), Next: "agentos status" + w.f.at(),
				}
			}
			w.p.step("%s is in touch with %s", n.StackID, with.Organization)
		}
		return nil
	}
	return errors.Join(wait(w.first, w.other), wait(w.other, w.first))
}

// found looks for the peering that there is, and says how it is: "" when there is none. One that somebody has revoked
// counts as there, since ending it was no accident; one that only half came about is taken back.
func (w *pairing) found(ctx context.Context) (id, state string, err error) {
	ours, err := peeringsWith(ctx, w.ours, w.other.TrustDomain)
	if err != nil {
		return "", "", err
	}
	theirs, err := peeringsWith(ctx, w.theirs, w.first.TrustDomain)
	if err != nil {
		return "", "", err
	}
	for id, a := range ours {
		if b, ok := theirs[id]; ok && a.State != peeringRevoked && b.State != peeringRevoked {
			if a.State != peeringActive {
				return id, a.State, nil
			}
			return id, b.State, nil
		}
	}
	for _, id := range w.f.plan.Wired {
		_, here := ours[id]
		if _, there := theirs[id]; here && there {
			return id, peeringRevoked, nil
		}
	}
	return "", "", errors.Join(takeBack(ctx, w.ours, ours), takeBack(ctx, w.theirs, theirs))
}

// peeringsWith are a cluster's peerings with a trust domain, by id.
func peeringsWith(ctx context.Context, c *client.Client, trustDomain string) (map[string]client.Peering, error) {
	all := map[string]client.Peering{}
	for p, err := range c.Peerings().All(ctx) {
		if err != nil {
			return nil, err
		}
		if p.TrustDomain == trustDomain {
			all[p.ID] = p
		}
	}
	return all, nil
}

// takeBack revokes the peerings that the other side has nothing of.
func takeBack(ctx context.Context, c *client.Client, all map[string]client.Peering) error {
	for id, p := range all {
		if p.State == peeringRevoked {
			continue
		}
		if err := c.RevokePeering(ctx, id); err != nil {
			return fmt.Errorf("revoke the half of peering %s: %w", id, err)
		}
	}
	return nil
}

// pair has the first organisation invite the other, and the other accept.
func (w *pairing) pair(ctx context.Context) (id string, err error) {
	inv, err := w.ours.InvitePeer(ctx, "", 10*time.Minute)
	if err != nil {
		return "", fmt.Errorf("invite: %w", err)
	}
	if _, err := w.theirs.AcceptPeer(ctx, inv.Token, inv.Peering.Fingerprints.Ours); err != nil {
		return "", errors.Join(fmt.Errorf("accept: %w", err), w.ours.RevokePeering(ctx, inv.Peering.ID))
	}
	return inv.Peering.ID, nil
}

// grant lets the other organisation's default tenant act as one's own, unless something is granted already.
func (w *pairing) grant(ctx context.Context, c *client.Client, from, to planOrg) error {
	p, err := c.GetPeering(ctx, w.id)
	if err != nil {
		return err
	}
	if len(p.Exports) > 0 || p.State == peeringRevoked {
		w.p.step("%s grants %s as before", from.Organization, to.Organization)
		return nil
	}
	grants := []client.Grant{{TenantID: node.DefaultTenantID, LocalTenantID: node.DefaultTenantID, Scopes: grantScopes[:]}}
	if _, err := c.PutExports(ctx, w.id, grants); err != nil {
		return fmt.Errorf("exports of %s: %w", from.Organization, err)
	}
	w.p.step("%s grants %s to act as %s", from.Organization, to.Organization, node.DefaultTenantID)
	return nil
}

// wantedRoutes are the routes of the first organisation's default tenant.
func (f *Fleet) wantedRoutes() []client.Route {
	var want []client.Route
	for _, org := range f.plan.Organizations[1:] {
		if org.Organization == summarizerOrg {
			want = append(want, client.Route{
				ID: "rte_" + org.Organization + "_summarizer", Match: client.RouteMatch{AgentID: summarizerID},
				Targets: []client.RouteTarget{{Organization: org.Organization}},
			})
		}
	}
	return want
}

func (f *Fleet) ensureRoute(ctx context.Context, org planOrg, want client.Route) (made bool, err error) {
	c, err := f.with(org.Nodes[0], f.keyFile(org, node.DefaultTenantID, roleTenantAdmin))
	if err != nil {
		return false, err
	}
	defer c.Close()
	if _, err = c.GetRoute(ctx, want.ID); !fault.Is(err, fault.NotFound) {
		return false, err
	}
	_, err = c.PutRoute(ctx, want.ID, want)
	return true, err
}

// awaitVoters waits until as many of the organisation's nodes vote as are to, and returns the cluster as it then is.
func (f *Fleet) awaitVoters(ctx context.Context, org planOrg) (*client.Cluster, error) {
	c, err := f.with(org.Nodes[0], f.keyFile(org, node.DefaultTenantID, rolePlatformAdmin))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	want := cluster.WantedVoters(len(org.Nodes))
	ctx, cancel := context.WithTimeoutCause(ctx, bootPatience, fmt.Errorf("not all of %d voters were there after %v", want, bootPatience))
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		now, err := c.Cluster(ctx)
		if err == nil && now.Leader != nil && voters(now) >= want {
			return now, nil
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), err)
		case <-tick.C:
		}
	}
}

func voters(c *client.Cluster) (n int) {
	for _, m := range c.Members {
		if m.Role == "voter" && m.Status == "alive" {
			n++
		}
	}
	return n
}
