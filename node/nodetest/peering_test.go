package nodetest_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/nexixai/agentos/api/client"
	"github.com/nexixai/agentos/node/nodetest"
)

// pair pairs two clusters, asking these nodes of them, and returns the peering's id.
func pair(t *testing.T, inviter, accepter *nodetest.Node) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	inv, err := inviter.Client().InvitePeer(ctx, "", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	p, err := accepter.Client().AcceptPeer(ctx, inv.Token, inv.Peering.Fingerprints.Ours)
	if err != nil {
		t.Fatal(err)
	}
	if p.State != "active" || p.Fingerprints.Theirs != inv.Peering.Fingerprints.Ours {
		t.Fatalf("paired: %+v", p)
	}
	return p.ID
}

// caller is a connection of one organisation's node to another's federation door.
type caller struct {
	t    *testing.T
	door string
	conn net.Conn
	in   *bufio.Reader
}

// call opens a connection from one node to another's federation door, as the node itself would. It fails when the door
// does not let it in.
func call(t *testing.T, from, to *nodetest.Node) (*caller, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	raw, err := from.Network().DialContext(ctx, "tcp", to.FederationAddr())
	if err != nil {
		return nil, err
	}
	theirs := to.Credentials()
	bundle := func(string) ([]byte, error) { return theirs.BundlePEM(), nil }
	conn := tls.Client(raw, from.Credentials().FederationClient(bundle, theirs.ID().TrustDomain, to.Name))
	c := &caller{t, to.Name, conn, bufio.NewReader(conn)}
	t.Cleanup(func() { _ = conn.Close() })
	return c, c.ask()
}

// ask asks the door who it is, over the connection that is open.
func (c *caller) ask() error {
	_ = c.conn.SetDeadline(time.Now().Add(10 * time.Second))
	r, err := http.NewRequestWithContext(c.t.Context(), http.MethodGet, "https://"+c.door+"/v1/peer/info", nil)
	if err != nil {
		return err
	}
	if err := r.Write(c.conn); err != nil {
		return err
	}
	resp, err := http.ReadResponse(c.in, r)
	if err != nil {
		return err
	}
	if err := resp.Body.Close(); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

// ended waits for the other side to close the connection, 5 s at most.
func (c *caller) ended() {
	c.t.Helper()
	_ = c.conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := c.in.ReadByte(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Errorf("a connection to %s lives on: %v", c.door, err)
	}
}

// TestPeering_Cut: suspending or revoking a peering at one node closes what is open at every node within 5 s, and lets
// nothing in again until it is resumed.
//
// Requirements: P1.
func TestPeering_Cut(t *testing.T) {
	t.Parallel()
	network := nodetest.NewNetwork(t)
	acme, globex := network.NewOrg("acme", 3), network.NewOrg("globex", 1)
	stranger := globex.Node(0)
	if _, err := call(t, stranger, acme.Node(0)); err == nil {
		t.Fatal("a node of an organisation that nobody has paired with was let in")
	}
	peeringID := pair(t, acme.Node(1), globex.Node(0))
	everywhere := func() (open []*caller) {
		t.Helper()
		for _, to := range acme.Nodes() {
			c, err := call(t, globex.Node(0), to)
			if err != nil {
				t.Fatalf("%s: %v", to.Name, err)
			}
			open = append(open, c)
		}
		return open
	}
	for _, c := range []struct {
		name string
		do   func(*client.Client) error
	}{
		{"suspended", func(c *client.Client) error { _, err := c.SuspendPeering(t.Context(), peeringID); return err }},
		{"revoked", func(c *client.Client) error { return c.RevokePeering(t.Context(), peeringID) }},
	} {
		open := everywhere()
		if err := c.do(acme.Node(2).Client()); err != nil {
			t.Fatal(err)
		}
		for _, one := range open {
			one.ended()
		}
		for _, to := range acme.Nodes() {
			if _, err := call(t, globex.Node(0), to); err == nil {
				t.Errorf("%s: %s lets it in again", c.name, to.Name)
			}
		}
		if c.name == "suspended" {
			if _, err := acme.Node(0).Client().ResumePeering(t.Context(), peeringID); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestPeering_OtherDoor: an invitation names every door of the inviter, so one that can't be reached does no harm.
func TestPeering_OtherDoor(t *testing.T) {
	t.Parallel()
	network := nodetest.NewNetwork(t)
	acme, globex := network.NewOrg("acme", 3), network.NewOrg("globex", 1)
	acme.Node(0).Cut(globex.Node(0)) // the door that is named first
	pair(t, acme.Node(0), globex.Node(0))
	if _, err := call(t, acme.Node(2), globex.Node(0)); err != nil {
		t.Errorf("the inviter is not let in at the accepter's: %v", err)
	}
}
