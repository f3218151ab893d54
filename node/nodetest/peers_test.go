package nodetest_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nexixai/agentos/api/client"
	"github.com/nexixai/agentos/node/nodetest"
)

// eventually waits until check is content.
func eventually(t *testing.T, within time.Duration, check func(ctx context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("not within %v: %v", within, err)
		case <-tick.C:
		}
	}
}

// sees reports whether n's view of a peer is as want has it.
func sees(n *nodetest.Node, stackID string, want func(*client.KnownPeer) bool) func(context.Context) error {
	return func(ctx context.Context) error {
		p, err := n.Client().GetPeer(ctx, stackID)
		if err == nil && !want(p) {
			err = fmt.Errorf("%s sees %s reachable=%t state=%s reason=%q capabilities=%+v", n.Name, p.StackID, p.Reachable, p.State, p.Reason, p.Capabilities)
		}
		return err
	}
}

// TestPeers_seen: every node of one cluster knows the other's, with what its grants allow, while it's there and when it's
// gone; a suspended peering's nodes are shown as such by whoever suspended it, and come back when it's resumed.
//
// Requirements: P3.
func TestPeers_seen(t *testing.T) {
	network := nodetest.NewNetwork(t)
	acme, globex := network.NewOrg("acme", 2), network.NewOrg("globex", 1)
	acme.WaitReady()
	globex.WaitReady()
	there := globex.Node(0)
	peeringID := pair(t, acme.Node(0), there)
	grants := []client.Grant{{TenantID: "tnt_demo", LocalTenantID: "tnt_demo", Scopes: []string{"runs:create", "runs:read", "agents:read"}}}
	if _, err := there.Client().PutExports(t.Context(), peeringID, grants); err != nil {
		t.Fatal(err)
	}
	for _, n := range acme.Nodes() {
		eventually(t, 30*time.Second, sees(n, there.Name, func(p *client.KnownPeer) bool {
			return p.Reachable && p.State == "admitted" && p.Agreement != nil && p.Agreement.Usable && len(p.Capabilities.Grants) == 1 && len(p.Capabilities.Agents) > 0
		}))
		if pong, err := n.Client().PingPeer(t.Context(), there.Name); err != nil || pong.StackID != there.Name || pong.TookMS <= 0 {
			t.Errorf("ping: %+v, %v", pong, err)
		}
		eventually(t, 30*time.Second, sees(there, n.Name, func(p *client.KnownPeer) bool { return p.Reachable && p.Organization == "acme" }))
	}
	p, err := acme.Node(1).Client().GetPeering(t.Context(), peeringID)
	if err != nil || len(p.Imports) != 1 || !slices.Contains(p.Imports[0].Scopes, "runs:create") {
		t.Errorf("imports: %+v, %v", p, err)
	}

	if _, err := there.Client().SuspendPeering(t.Context(), peeringID); err != nil {
		t.Fatal(err)
	}
	for _, n := range acme.Nodes() {
		eventually(t, 10*time.Second, sees(n, there.Name, func(p *client.KnownPeer) bool { return !p.Reachable && p.Reason != "" }))
		eventually(t, 10*time.Second, sees(there, n.Name, func(p *client.KnownPeer) bool { return p.State == "suspended" }))
	}
	if _, err := there.Client().ResumePeering(t.Context(), peeringID); err != nil {
		t.Fatal(err)
	}
	back := func(p *client.KnownPeer) bool { return p.Reachable && p.State == "admitted" }
	for _, n := range acme.Nodes() {
		eventually(t, 60*time.Second, sees(n, there.Name, back))
	}

	there.Stop()
	for _, n := range acme.Nodes() {
		eventually(t, 20*time.Second, sees(n, there.Name, func(p *client.KnownPeer) bool {
			return !p.Reachable && p.Capabilities != nil && p.Agreement != nil && p.Agreement.Usable
		}))
	}
}
