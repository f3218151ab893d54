package cluster_test

import (
	"crypto/tls"
	"fmt"
	"testing"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

// serial is the serial number of the certificate that a node shows at its cluster door.
func serial(t *testing.T, n *harness.Node) string {
	t.Helper()
	var got string
	conn, err := tls.Dial("tcp", n.ClusterAddr(), &tls.Config{
		InsecureSkipVerify: true, NextProtos: []string{"agentos-join/1"}, // the one protocol that asks for no certificate
		VerifyConnection: func(s tls.ConnectionState) error {
			got = s.PeerCertificates[0].SerialNumber.String()
			return nil
		},
	})
	if err != nil {
		t.Fatalf("dial %s: %v", n.Name, err)
	}
	_ = conn.Close()
	return got
}

// Certificates that live for seconds are renewed again and again while runs go on, and so is the gossip key, with a node
// away; nothing of it needs a restart, and nobody is shut out.
//
// Requirements: N2, N4, N7, Q3.
func TestRotation_CertificatesAndGossip(t *testing.T) {
	t.Parallel()
	c := harness.NewCluster(t, suite.Binary(t), &starter, 3, "--certificate-life=12s")
	tn := harness.NewTenant(t, c.Admin(t, 0), nil)
	first := map[string]string{}
	for _, n := range c.Nodes {
		first[n.Name] = serial(t, n)
	}
	away := c.Nodes[2]
	away.Kill(t)
	agentos(t, append([]string{"cluster", "rotate-gossip-key"}, adminFlags(t, c, 0)...)...)
	away.Launch(t)
	away.AwaitReady(t)
	seen := 0
	deadline := time.Now().Add(bound)
	for i := 0; seen < len(c.Nodes); i++ {
		if time.Now().After(deadline) {
			t.Fatalf("only %d of %d certificates were renewed", seen, len(c.Nodes))
		}
		at := c.Nodes[i%3].Client(tn.Key)
		a := at.Want(t, 201, "POST", "/v1/agents/"+tn.Agent+"/runs", harness.Body(fmt.Sprintf("/wait 200ms\n/say %d", i), nil))
		at.Journal(t, a.Str("run.run_id"))
		seen = 0
		for _, n := range c.Nodes {
			if serial(t, n) != first[n.Name] {
				seen++
			}
		}
	}
	agentos(t, append([]string{"cluster", "rotate-gossip-key"}, adminFlags(t, c, 1)...)...)
	c.AwaitVoters(t, 3)
	c.Equal(t)
	// Gossip is whole again: a node that leaves politely is known to have left, not to have died.
	last := c.Nodes[1]
	last.Stop(t)
	if !harness.Poll(bound, 100*time.Millisecond, func() bool {
		return c.Describe(t, 0).Str("cluster.members.1.status") == "left"
	}) {
		t.Errorf("the others have not heard that a node left: %s", c.Describe(t, 0).Body)
	}
}
