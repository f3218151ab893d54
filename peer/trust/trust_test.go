package trust_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/peer/trust"
	"github.com/nexixai/agentos/peer/trust/trusttest"
)

// handshake connects client and server over loopback and returns both sides' verdicts.
func handshake(tb testing.TB, server, client *tls.Config) (serverErr, clientErr error) {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer ln.Close()
	done := make(chan error, 1)
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			done <- err
			return
		}
		defer conn.Close()
		s := tls.Server(conn, server)
		if err := s.Handshake(); err != nil {
			done <- err
			return
		}
		_, err = s.Write([]byte("x"))
		done <- err
	}()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	defer conn.Close()
	c := tls.Client(conn, client)
	if clientErr = c.Handshake(); clientErr == nil {
		// In TLS 1.3 a refused client certificate shows at the first read.
		_, clientErr = c.Read(make([]byte, 1))
	}
	conn.Close()
	return <-done, clientErr
}

func TestCredentials_ClusterDoor(t *testing.T) {
	acme, globex := trusttest.New(t, "acme.test"), trusttest.New(t, "globex.test")
	twin := trusttest.New(t, "acme.test") // another CA that claims the same name
	server := acme.Node("stk_a")
	raw := func(o trusttest.Org, who trust.ID, life time.Duration, at time.Time) *tls.Config {
		cert, key := o.Issue(who, at, life)
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		return &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{pair}}
	}
	removed := errors.New("member was removed")
	cases := []struct {
		name   string
		client *tls.Config
		admit  trust.Admit
		ok     bool
	}{
		{"a node of the organisation", acme.Node("stk_b").ClusterClient(nil), nil, true},
		{"a removed member", acme.Node("stk_b").ClusterClient(nil), func(trust.ID, *x509.Certificate) error { return removed }, false},
		{"no certificate", &tls.Config{InsecureSkipVerify: true}, nil, false},
		{"another organisation's node", globex.Node("stk_a").ClusterClient(nil), nil, false},
		{"a CA of the same name", raw(twin, trust.ID{TrustDomain: "acme.test", Role: trust.Node, Name: "stk_a"}, 0, time.Now()), nil, false},
		{"a person of the organisation", raw(acme, trust.ID{TrustDomain: "acme.test", Role: trust.Person, Name: "usr_x"}, 0, time.Now()), nil, false},
		{"an expired node", raw(acme, trust.ID{TrustDomain: "acme.test", Role: trust.Node, Name: "stk_b"}, time.Hour, time.Now().Add(-2*time.Hour)), nil, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			serverErr, _ := handshake(t, server.ClusterServer(c.admit), c.client)
			if (serverErr == nil) != c.ok {
				t.Fatalf("the door says %v, want ok=%v", serverErr, c.ok)
			}
		})
	}
	t.Run("a false server is refused by the dialer", func(t *testing.T) {
		_, clientErr := handshake(t, globex.Node("stk_a").ClusterServer(func(trust.ID, *x509.Certificate) error { return nil }), acme.Node("stk_b").ClusterClient(nil))
		if clientErr == nil {
			t.Fatal("a node of another organisation passed for one of ours")
		}
	})
}

func TestPinnedClient(t *testing.T) {
	acme, other := trusttest.New(t, "acme.test"), trusttest.New(t, "acme.test")
	pin := acme.Fingerprint()
	if _, err := handshake(t, acme.Node("stk_a").JoinServer(), trust.PinnedClient(pin, nil)); err != nil {
		t.Fatalf("the right CA: %v", err)
	}
	if _, err := handshake(t, other.Node("stk_a").JoinServer(), trust.PinnedClient(pin, nil)); err == nil {
		t.Fatal("a CA of the same name and another key was believed")
	}
}

func TestCredentials_Replace(t *testing.T) {
	acme := trusttest.New(t, "acme.test")
	c := acme.Node("stk_a")
	before := c.Leaf().SerialNumber
	cert, key := acme.Issue(trust.ID{TrustDomain: "acme.test", Role: trust.Node, Name: "stk_b"}, time.Now(), 0)
	if err := c.Replace(cert, key, acme.CA.CertificatePEM()); err == nil {
		t.Fatal("took another node's certificate")
	}
	if c.Leaf().SerialNumber.Cmp(before) != 0 {
		t.Fatal("a refused replacement changed the certificate in use")
	}
	cert, key = acme.Issue(c.ID(), time.Now(), 0)
	if err := c.Replace(cert, key, acme.CA.CertificatePEM()); err != nil {
		t.Fatal(err)
	}
	if c.Leaf().SerialNumber.Cmp(before) == 0 {
		t.Fatal("the certificate is still the old one")
	}
	if left := time.Until(c.RenewAt()); left < 59*24*time.Hour || left > 61*24*time.Hour {
		t.Fatalf("renewal in %v, want two thirds of 90 days", left)
	}
}

func TestParseID(t *testing.T) {
	good := "spiffe://acme.test/node/stk_a"
	u, _ := url.Parse(good)
	got, err := trust.ParseID(u)
	if err != nil || got.String() != good {
		t.Fatalf("%v, %v", got, err)
	}
	for _, bad := range []string{
		"https://acme.test/node/stk_a", "spiffe://ACME.test/node/stk_a", "spiffe://acme.test:1/node/stk_a",
		"spiffe://u@acme.test/node/stk_a", "spiffe://acme.test/node/stk_a?x=1", "spiffe://acme.test/node/stk_a#f",
		"spiffe://acme.test/node/stk_a/more", "spiffe://acme.test/node/", "spiffe://acme.test/server/stk_a",
		"spiffe://acme.test/node/stk%5fa", "spiffe://acme.test/node/..", "spiffe:acme.test/node/stk_a", "spiffe://acme.test",
		"spiffe://acme.test/node/" + strings.Repeat("a", 3000),
	} {
		u, err := url.Parse(bad)
		if err != nil {
			continue
		}
		if _, err := trust.ParseID(u); err == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
}

func TestSealKey(t *testing.T) {
	k := trust.NewSealKey()
	sealed, err := k.Seal("ca key", []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := k.Open("ca key", sealed); err != nil || string(plain) != "secret" {
		t.Fatalf("%q, %v", plain, err)
	}
	if _, err := k.Open("gossip key", sealed); err == nil {
		t.Error("opened for another purpose")
	}
	if _, err := trust.NewSealKey().Open("ca key", sealed); !fault.Is(err, fault.Forbidden) {
		t.Errorf("another key: %v", err)
	}
	for i := range sealed {
		bent := append([]byte(nil), sealed...)
		bent[i] ^= 1
		if _, err := k.Open("ca key", bent); err == nil {
			t.Fatalf("a changed byte at %d went unseen", i)
		}
	}
	if s := fmt.Sprintf("%v %+v %#v %s", k, k, k, k); strings.Contains(s, fmt.Sprint(k[0], " ")) && !strings.Contains(s, "hidden") {
		t.Error("the key shows in a format")
	}
}

func TestJoinToken(t *testing.T) {
	made := trust.NewJoinToken(trusttest.New(t, "acme.test").Fingerprint())
	text := made.Encode()
	got, err := trust.ParseJoinToken(text + "\n")
	if err != nil || got != made {
		t.Fatalf("%v, %v", got, err)
	}
	if !got.Matches(made.Hash()) || got.Matches(trust.NewJoinToken(made.CA).Hash()) {
		t.Error("a token matches what it should not, or not what it should")
	}
	if strings.Contains(text, made.Hash()) {
		t.Error("the token shows what is kept of it")
	}
	for _, bad := range []string{"", "ajt_", "aos_x.y", text[:len(text)-2], text + "A", strings.Replace(text, ".", "", 1)} {
		if _, err := trust.ParseJoinToken(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func FuzzParseJoinToken(f *testing.F) {
	f.Add("ajt_jtk_1.AAAA")
	f.Add(trust.NewJoinToken(strings.Repeat("ab", 32)).Encode())
	f.Fuzz(func(t *testing.T, s string) {
		if tok, err := trust.ParseJoinToken(s); err == nil {
			if again, err := trust.ParseJoinToken(tok.Encode()); err != nil || again != tok {
				t.Fatalf("does not survive its own text: %v", err)
			}
		}
	})
}
