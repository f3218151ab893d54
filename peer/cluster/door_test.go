package cluster_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/nexixai/agentos/peer/cluster"
	"github.com/nexixai/agentos/peer/trust"
	"github.com/nexixai/agentos/peer/trust/trusttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, c *trust.Credentials, admit trust.Admit) *cluster.Door {
	t.Helper()
	d, err := cluster.Open(cluster.Options{Listen: "127.0.0.1:0", Credentials: c, Admit: admit})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// echo answers on every connection of one protocol with the protocol's name, then echoes.
func echo(t *testing.T, d *cluster.Door, p cluster.Protocol) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := d.Listener(p).Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.WriteString(conn, string(p)+"\n")
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
	t.Cleanup(func() { _ = d.Close(); <-done })
}

func hello(t *testing.T, conn net.Conn, err error, p cluster.Protocol) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	buf := make([]byte, len(p)+1)
	if _, err := io.ReadFull(conn, buf); err != nil || string(buf) != string(p)+"\n" {
		t.Fatalf("%q, %v", buf, err)
	}
}

func TestDoor_SortsByProtocol(t *testing.T) {
	acme := trusttest.New(t, "acme.test")
	a, b := open(t, acme.Node("stk_a"), nil), open(t, acme.Node("stk_b"), nil)
	for _, p := range []cluster.Protocol{cluster.Raft, cluster.Commands, cluster.Join} {
		echo(t, a, p)
	}
	ctx := context.Background()
	for _, p := range []cluster.Protocol{cluster.Raft, cluster.Commands} {
		conn, err := b.Dial(ctx, a.Addr(), "stk_a", p)
		hello(t, conn, err, p)
	}
	conn, err := cluster.Dial(nil).Join(ctx, a.Addr(), acme.Fingerprint())
	hello(t, conn, err, cluster.Join)
	if conn, err := b.Dial(ctx, a.Addr(), "stk_c", cluster.Raft); err == nil {
		conn.Close()
		t.Error("another node than the wanted one was believed")
	}
}

func TestDoor_RefusesStrangers(t *testing.T) {
	acme, globex := trusttest.New(t, "acme.test"), trusttest.New(t, "globex.test")
	a := open(t, acme.Node("stk_a"), nil)
	for _, p := range []cluster.Protocol{cluster.Raft, cluster.Commands, cluster.Join} {
		echo(t, a, p)
	}
	own := func(o trusttest.Org, role trust.Role) []tls.Certificate {
		cert, key := o.Issue(o.ID(role, "stk_x"), time.Now(), 0)
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		return []tls.Certificate{pair}
	}
	for name, conf := range map[string]*tls.Config{
		"no certificate on the log's protocol": {NextProtos: []string{string(cluster.Raft)}},
		"another organisation":                 {NextProtos: []string{string(cluster.Raft)}, Certificates: own(globex, trust.Node)},
		"a person":                             {NextProtos: []string{string(cluster.Commands)}, Certificates: own(acme, trust.Person)},
		"no protocol":                          {Certificates: own(acme, trust.Node)},
		"an unknown protocol":                  {NextProtos: []string{"h2"}, Certificates: own(acme, trust.Node)},
		"two protocols, the open one first":    {NextProtos: []string{string(cluster.Join), string(cluster.Raft)}},
		"TLS 1.2":                              {NextProtos: []string{string(cluster.Raft)}, Certificates: own(acme, trust.Node), MaxVersion: tls.VersionTLS12},
	} {
		conf.InsecureSkipVerify = true
		conn, err := (&tls.Dialer{Config: conf}).DialContext(context.Background(), "tcp", a.Addr())
		if err != nil {
			continue
		}
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		if n, err := conn.Read(make([]byte, 1)); err == nil {
			t.Errorf("%s: was let in (%d byte read)", name, n)
		}
		conn.Close()
	}
}

// Requirements: N4.
func TestDoor_CutsRemovedMembers(t *testing.T) {
	acme := trusttest.New(t, "acme.test")
	var removed atomic.Bool
	gone := errors.New("removed")
	a := open(t, acme.Node("stk_a"), func(who trust.ID, _ *x509.Certificate) error {
		if who.Name == "stk_b" && removed.Load() {
			return gone
		}
		return nil
	})
	b := open(t, acme.Node("stk_b"), nil)
	echo(t, a, cluster.Raft)
	conn, err := b.Dial(context.Background(), a.Addr(), "stk_a", cluster.Raft)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.ReadFull(conn, make([]byte, len(cluster.Raft)+1)); err != nil {
		t.Fatal(err)
	}
	a.Cut()
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal("a member in good standing was cut:", err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Fatal("a member in good standing was cut:", err)
	}
	removed.Store(true)
	a.Cut()
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Fatal("the removed member's connection is still open")
	}
	if conn, err := b.Dial(context.Background(), a.Addr(), "stk_a", cluster.Raft); err == nil {
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Fatal("the removed member came in again")
		}
		conn.Close()
	}
}
