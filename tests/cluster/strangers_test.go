package cluster_test

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

// members is who belongs to the cluster by the word of node i: names, roles and addresses.
func members(t *testing.T, c *harness.Cluster, i int) string {
	t.Helper()
	a := c.Describe(t, i)
	all, _ := a.At("cluster.members").([]any)
	var b strings.Builder
	for _, m := range all {
		fmt.Fprintf(&b, "%v %v %v %v %v\n", harness.At(m, "stack_id"), harness.At(m, "role"), harness.At(m, "state"), harness.At(m, "cluster_addr"), harness.At(m, "api_url"))
	}
	return b.String()
}

// figure is one number on a node's /metrics.
func figure(t *testing.T, n *harness.Node, name string) int {
	t.Helper()
	resp, err := http.Get(n.AdminURL() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			f, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err != nil {
				t.Fatal(err)
			}
			return int(f)
		}
	}
	t.Fatalf("%s shows no %s", n.Name, name)
	return 0
}

// gossipers waits until gossip at each node holds count nodes for alive.
func gossipers(t *testing.T, c *harness.Cluster, count int) {
	t.Helper()
	for _, n := range c.Nodes {
		got := 0
		if !harness.Poll(bound, 50*time.Millisecond, func() bool {
			got = figure(t, n, "agentos_gossip_members_alive")
			return got == count
		}) {
			t.Errorf("gossip at %s holds %d nodes for alive, want %d", n.Name, got, count)
		}
	}
}

// What every member may say, one of each protocol: a question where the other stands, an empty batch of commands, a raft
// call. A member is answered; the first byte back is the proof that somebody got in.
func sayings() map[string][]byte {
	question := []byte(`{"status":{}}`)
	framed := append(binary.BigEndian.AppendUint32(nil, uint32(len(question))), question...)
	return map[string][]byte{
		"agentos-talk/1":     framed,
		"agentos-commands/1": {0, 0, 0, 4, 0, 0, 0, 0},
		"agentos-raft/1":     append([]byte{1}, "\x80"...), // a request for a vote that says nothing
	}
}

// knock speaks protocol at a node's door and returns what came back, and the error that ended it.
func knock(n *harness.Node, protocols []string, cert *tls.Certificate, version uint16, say []byte) ([]byte, error) {
	conf := &tls.Config{
		InsecureSkipVerify: true, NextProtos: protocols, MinVersion: tls.VersionTLS12, MaxVersion: version, // the stranger trusts anybody
	}
	if cert != nil {
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	dialer := &net.Dialer{Timeout: 10 * time.Second}
	conn, err := tls.DialWithDialer(dialer, "tcp", n.ClusterAddr(), conf)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := conn.Write(say); err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(conn, 64<<10))
}

// Who is no member gets in nowhere, whatever it shows at whichever node's door.
//
// Requirements: N4, Q3.
func TestStrangers_ClusterDoor(t *testing.T) {
	t.Parallel()
	const domain = "acme.agentos.internal"
	ca, other := harness.NewAuthority(t, domain), harness.NewAuthority(t, domain)
	c := harness.NewCluster(t, suite.Binary(t), &starter, 3, "--ca-cert-file="+ca.CertFile, "--ca-key-file="+ca.KeyFile)
	tn := harness.NewTenant(t, c.Admin(t, 0), nil)
	gossipers(t, c, 3)
	before, pids := members(t, c, 0), []int{c.Nodes[0].Pid(), c.Nodes[1].Pid(), c.Nodes[2].Pid()}
	member := "spiffe://" + domain + "/node/stk_n2"
	client, server := x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth
	both := []x509.ExtKeyUsage{client, server}
	strangers := map[string]*tls.Certificate{
		"no certificate":                    nil,
		"self-signed, a member's name":      ca.Issue(t, harness.Identity{URIs: []string{member}, Usages: both, Self: true}),
		"another CA of the same name":       other.Issue(t, harness.Identity{URIs: []string{member}, Usages: both}),
		"without the server role":           ca.Issue(t, harness.Identity{URIs: []string{member}, Usages: both[:1]}),
		"a server that is no client":        ca.Issue(t, harness.Identity{URIs: []string{member}, Usages: both[1:]}),
		"no usage at all":                   ca.Issue(t, harness.Identity{URIs: []string{member}}),
		"a person":                          ca.Issue(t, harness.Identity{URIs: []string{"spiffe://" + domain + "/user/ops"}, Usages: both[:1]}),
		"a person with the server role":     ca.Issue(t, harness.Identity{URIs: []string{"spiffe://" + domain + "/user/stk_n2"}, Usages: both}),
		"another trust domain":              ca.Issue(t, harness.Identity{URIs: []string{"spiffe://globex.agentos.internal/node/stk_n2"}, Usages: both}),
		"another role":                      ca.Issue(t, harness.Identity{URIs: []string{"spiffe://" + domain + "/keeper/stk_n2"}, Usages: both}),
		"a longer path":                     ca.Issue(t, harness.Identity{URIs: []string{member + "/x"}, Usages: both}),
		"two names":                         ca.Issue(t, harness.Identity{URIs: []string{member, "spiffe://" + domain + "/node/stk_n1"}, Usages: both}),
		"no name":                           ca.Issue(t, harness.Identity{Usages: both}),
		"a member's name with another key":  ca.Issue(t, harness.Identity{URIs: []string{member}, Usages: both}),
		"a member's name, and out of date":  ca.Issue(t, harness.Identity{URIs: []string{member}, Usages: both, Until: time.Now().Add(-time.Minute)}),
		"a member's certificate, stolen":    {Certificate: c.Nodes[1].Certificate(t).Certificate, PrivateKey: ca.Issue(t, harness.Identity{}).PrivateKey},
		"a member's name in capital letter": ca.Issue(t, harness.Identity{URIs: []string{strings.ToUpper(member)}, Usages: both}),
	}
	tries := 0
	for _, n := range c.Nodes {
		for protocol, say := range sayings() {
			for name, cert := range strangers {
				tries++
				got, err := knock(n, []string{protocol}, cert, tls.VersionTLS13, say)
				if netErr, ok := errors.AsType[net.Error](err); len(got) > 0 || err == nil || ok && netErr.Timeout() {
					t.Errorf("%s at %s, %s: %d bytes came back, %v", name, n.Name, protocol, len(got), err)
				}
			}
		}
		// The member itself is let in, or none of this would prove anything.
		if got, err := knock(n, []string{"agentos-talk/1"}, c.Nodes[1].Certificate(t), tls.VersionTLS13, sayings()["agentos-talk/1"]); err != nil || !strings.Contains(string(got), `"stack_id":"`+n.Name) {
			t.Errorf("a member at %s: %q, %v", n.Name, got, err)
		}
		for name, protocols := range map[string][]string{"none": nil, "unknown": {"h2"}, "two": {"agentos-talk/1", "agentos-raft/1"}, "one that needs none, and another": {"agentos-join/1", "agentos-raft/1"}} {
			if got, err := knock(n, protocols, c.Nodes[1].Certificate(t), tls.VersionTLS13, sayings()["agentos-talk/1"]); err == nil {
				t.Errorf("protocols %s at %s: %q", name, n.Name, got)
			}
		}
		if got, err := knock(n, []string{"agentos-talk/1"}, c.Nodes[1].Certificate(t), tls.VersionTLS12, sayings()["agentos-talk/1"]); err == nil {
			t.Errorf("TLS 1.2 at %s: %q", n.Name, got)
		}
		joinRefused(t, n)
		if lines := strings.Count(n.Output(), "cluster door refused a caller"); lines == 0 || lines > 10 {
			t.Errorf("%s has %d lines about the strangers; want some, and not one for each of %d", n.Name, lines, tries/3)
		}
		if got := figure(t, n, "agentos_cluster_door_refused"); got < tries/3 {
			t.Errorf("%s counts %d refusals, want %d at least", n.Name, got, tries/3)
		}
	}
	gossipers(t, c, 3)
	unmoved(t, c, tn, before, pids)
}

// joinRefused tries the one protocol that asks for no certificate, without a token that holds.
func joinRefused(t *testing.T, n *harness.Node) {
	t.Helper()
	forged := "agjt_" + strings.Repeat("A", 60)
	for what, body := range map[string]string{
		"no token":     `{}`,
		"no JSON":      `token`,
		"a forged one": `{"token":"` + forged + `","public_key":"x","member":{"stack_id":"stk_x","server_id":"stk_x.1","cluster_addr":"127.0.0.1:1"}}`,
	} {
		for _, path := range []string{"/v1/cluster:join", "/v1/admin/cluster", "/"} {
			say := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", path, len(body), body)
			got, err := knock(n, []string{"agentos-join/1"}, nil, tls.VersionTLS13, []byte(say))
			if line, _, _ := strings.Cut(string(got), "\r\n"); err != nil && !errors.Is(err, io.EOF) || !strings.HasPrefix(line, "HTTP/1.1 4") {
				t.Errorf("join with %s at %s of %s: %q, %v", what, path, n.Name, line, err)
			}
		}
	}
}

// unmoved checks that a cluster of three is as it was, and works.
func unmoved(t *testing.T, c *harness.Cluster, tn *harness.Tenant, before string, pids []int) {
	t.Helper()
	for i, n := range c.Nodes {
		if !n.Running() || n.Pid() != pids[i] {
			t.Errorf("%s has ended:\n%s", n.Name, n.Output())
			continue
		}
		if got := members(t, c, i); got != before {
			t.Errorf("the members by %s:\n%s\nand were:\n%s", n.Name, got, before)
		}
		at := n.Client(tn.Key)
		at.Journal(t, at.Want(t, 201, "POST", "/v1/agents/"+tn.Agent+"/runs", harness.Body("/say on", nil)).Str("run.run_id"))
	}
	c.AwaitVoters(t, 3)
	c.Equal(t)
}

// Who has not both the label and the key is not heard in gossip; who has them is, which shows that the others were refused
// for what they lack. In the list of members is none of them.
//
// Requirements: N2, Q3.
func TestStrangers_Gossip(t *testing.T) {
	t.Parallel()
	c := harness.NewCluster(t, suite.Binary(t), &starter, 3)
	tn := harness.NewTenant(t, c.Admin(t, 0), nil)
	gossipers(t, c, 3)
	before, pids := members(t, c, 0), []int{c.Nodes[0].Pid(), c.Nodes[1].Pid(), c.Nodes[2].Pid()}
	right := c.Nodes[0].Rumour(t)
	wrong := make([]byte, 32)
	_, _ = rand.Read(wrong)
	for name, r := range map[string]harness.Rumour{
		"another label":              {Label: "clu_01arz3ndektsv4rrffq69g5fav", Key: right.Key},
		"the label and no key":       {Label: right.Label},
		"the label and another key":  {Label: right.Label, Key: wrong},
		"neither":                    {Label: "clu_other"},
		"the key and an empty label": {Key: right.Key},
	} {
		for _, n := range c.Nodes {
			dropped := figure(t, n, "agentos_gossip_dropped")
			if got, ok := r.Answers(n.GossipAddr(), n.Name, 250*time.Millisecond); ok {
				t.Errorf("%s: %s answers a ping with %d bytes", name, n.Name, len(got))
			}
			alive := r.Alive("stk_stranger", net.IPv4(127, 0, 0, 1), 9, 1, []byte("\x00{}"))
			send(t, n, r.Packet(alive))
			send(t, n, r.Packet(r.Dead(c.Nodes[2].Name, c.Nodes[1].Name, 1<<30)))
			if got := stream(t, n, r.Stream(r.PushPull(1, []string{"stk_stranger"}))); strings.Contains(string(got), "stk_n") {
				t.Errorf("%s: %s tells a stranger of its members: %q", name, n.Name, got)
			}
			if !harness.Poll(bound, 20*time.Millisecond, func() bool { return figure(t, n, "agentos_gossip_dropped") > dropped }) {
				t.Errorf("%s: %s counts nothing as dropped", name, n.Name)
			}
			if got := figure(t, n, "agentos_gossip_members_alive"); got != 3 {
				t.Errorf("%s: gossip at %s holds %d nodes for alive", name, n.Name, got)
			}
		}
	}
	for _, n := range c.Nodes {
		if _, ok := right.Answers(n.GossipAddr(), n.Name, 20*time.Second); !ok {
			t.Errorf("%s does not answer a ping with the right label and key, so the checks above prove nothing", n.Name)
		}
		if lines := strings.Count(n.Output(), "gossip trouble"); lines == 0 || lines > 40 {
			t.Errorf("%s has %d lines about the strangers", n.Name, lines)
		}
		if strings.Contains(n.Output(), string(right.Key)) {
			t.Errorf("%s has printed its key", n.Name)
		}
	}
	gossipers(t, c, 3)
	unmoved(t, c, tn, before, pids)
}

// send sends one datagram to a node's gossip.
func send(t *testing.T, n *harness.Node, packet []byte) {
	t.Helper()
	conn, err := net.Dial("udp", n.GossipAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = conn.Write(packet)
}

// stream sends bytes to a node's gossip over TCP and returns what comes back.
func stream(t *testing.T, n *harness.Node, b []byte) []byte {
	t.Helper()
	d := net.Dialer{Timeout: 10 * time.Second}
	conn, err := d.DialContext(context.Background(), "tcp", n.GossipAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = conn.Write(b)
	_ = conn.(*net.TCPConn).CloseWrite()
	got, err := io.ReadAll(io.LimitReader(conn, 1<<20))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%s keeps a stranger's stream open", n.Name)
	}
	return got
}
