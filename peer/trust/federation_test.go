package trust_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/peer/trust"
	"github.com/nexixai/agentos/peer/trust/trusttest"
)

// book is which CA stands for which trust domain.
type book map[string][]byte

func (b book) bundle(domain string) ([]byte, error) {
	if ca, ok := b[domain]; ok {
		return ca, nil
	}
	return nil, fault.New(fault.Forbidden, "There is no peering with %s.", domain)
}

// selfSigned is a certificate that claims an identity and proves nothing.
func selfSigned(tb testing.TB, uri string) tls.Certificate {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	u, err := url.Parse(uri)
	if err != nil {
		tb.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), URIs: []*url.URL{u},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, &x509.Certificate{SerialNumber: big.NewInt(1)}, &key.PublicKey, key)
	if err != nil {
		tb.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func pair(tb testing.TB, certPEM, keyPEM []byte) tls.Certificate {
	tb.Helper()
	c, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// TestFederation_attacks: who isn't a node of a paired organisation, proven by that organisation's own CA, doesn't get in;
// the door's own log says why.
//
// Requirements: N4, P6, Q3.
func TestFederation_attacks(t *testing.T) {
	acme, globex, initech := trusttest.New(t, "acme.test"), trusttest.New(t, "globex.test"), trusttest.New(t, "initech.test")
	twin := trusttest.New(t, "globex.test") // another CA that claims the same name
	paired := book{"globex.test": globex.CA.CertificatePEM(), "initech.test": initech.CA.CertificatePEM()}
	door := acme.Node("stk_acme").FederationServer(paired.bundle, nil)
	issue := func(o trusttest.Org, who trust.ID, now time.Time) tls.Certificate {
		c, k := o.Issue(who, now, 0)
		return pair(t, c, k)
	}
	for name, c := range map[string]struct {
		shows tls.Certificate
		why   string // "" gets in
	}{
		"a node of a paired organisation": {issue(globex, globex.ID(trust.Node, "stk_g"), time.Now()), ""},
		"another paired organisation":     {issue(initech, initech.ID(trust.Node, "stk_i"), time.Now()), ""},
		"self-signed":                     {selfSigned(t, "spiffe://globex.test/node/stk_g"), "not acceptable"},
		"another CA of the same name":     {issue(twin, twin.ID(trust.Node, "stk_g"), time.Now()), "not acceptable"},
		"not paired, or revoked":          {issue(trusttest.New(t, "hooli.test"), trust.ID{TrustDomain: "hooli.test", Role: trust.Node, Name: "stk_h"}, time.Now()), "no peering with hooli.test"},
		"the door's own organisation":     {issue(acme, acme.ID(trust.Node, "stk_acme_2"), time.Now()), "no peering with acme.test"},
		"a person, client use only":       {issue(globex, globex.ID(trust.Person, "usr_g"), time.Now()), "no node"},
		"an expired certificate":          {issue(globex, globex.ID(trust.Node, "stk_g"), time.Now().Add(-400*24*time.Hour)), "expired"},
		"a CA for a node":                 {selfSigned(t, "spiffe://globex.test"), "not acceptable"},
		"an escaped path":                 {selfSigned(t, "spiffe://globex.test/node/a%2fb"), "not acceptable"},
	} {
		t.Run(name, func(t *testing.T) {
			client := globex.Node("stk_any").FederationClient(book{"acme.test": acme.CA.CertificatePEM()}.bundle, "acme.test", "")
			client.Certificates = []tls.Certificate{c.shows}
			serverErr, clientErr := handshake(t, door, client)
			if c.why == "" {
				if serverErr != nil || clientErr != nil {
					t.Fatalf("refused: %v, %v", serverErr, clientErr)
				}
				return
			}
			if serverErr == nil || !strings.Contains(serverErr.Error(), c.why) {
				t.Errorf("the door said %v, want …%s…", serverErr, c.why)
			}
			if clientErr == nil || strings.Contains(clientErr.Error(), c.why) {
				t.Errorf("the caller was told %v", clientErr)
			}
		})
	}
}

// TestFederation_mixedChain: a leaf of one organisation with another's CA behind it proves nothing: bundles are not merged.
func TestFederation_mixedChain(t *testing.T) {
	globex, initech := trusttest.New(t, "globex.test"), trusttest.New(t, "initech.test")
	paired := book{"globex.test": initech.CA.CertificatePEM()} // a slip in the keeping
	cert, _ := initech.Issue(initech.ID(trust.Node, "stk_i"), time.Now(), 0)
	leaf, err := trust.ParseCertificate(cert)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := trust.VerifyPeer(leaf, paired.bundle, time.Now()); err == nil {
		t.Error("initech's node came in by globex's peering")
	}
	cert, _ = globex.Issue(globex.ID(trust.Node, "stk_g"), time.Now(), 0)
	if leaf, err = trust.ParseCertificate(cert); err != nil {
		t.Fatal(err)
	}
	if _, err := trust.VerifyPeer(leaf, paired.bundle, time.Now()); err == nil {
		t.Error("a bundle of another trust domain was taken for globex's")
	}
}

// TestFederation_dialler: the caller demands the trust domain and the node that it means, not a name in DNS.
func TestFederation_dialler(t *testing.T) {
	acme, globex, initech := trusttest.New(t, "acme.test"), trusttest.New(t, "globex.test"), trusttest.New(t, "initech.test")
	paired := book{"globex.test": globex.CA.CertificatePEM(), "initech.test": initech.CA.CertificatePEM()}
	door := globex.Node("stk_g").FederationServer(book{"acme.test": acme.CA.CertificatePEM()}.bundle, nil)
	me := acme.Node("stk_a")
	for name, c := range map[string]struct {
		domain, stack, why string
	}{
		"the domain, any node":     {"globex.test", "", ""},
		"the domain and the node":  {"globex.test", "stk_g", ""},
		"another node":             {"globex.test", "stk_other", "not stk_other"},
		"another paired domain":    {"initech.test", "", "not of initech.test"},
		"a domain that isn't ours": {"hooli.test", "", "not of hooli.test"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := handshake(t, door, me.FederationClient(paired.bundle, c.domain, c.stack))
			if c.why == "" && err != nil || c.why != "" && (err == nil || !strings.Contains(err.Error(), c.why)) {
				t.Errorf("%v, want %q", err, c.why)
			}
		})
	}
	t.Run("revoked", func(t *testing.T) {
		_, err := handshake(t, door, me.FederationClient(book{}.bundle, "globex.test", ""))
		if err == nil || !strings.Contains(err.Error(), "no peering") {
			t.Errorf("%v, want that there is no peering", err)
		}
	})
	t.Run("without a certificate", func(t *testing.T) {
		serverErr, clientErr := handshake(t, door, trust.PinnedClient(globex.Fingerprint(), nil))
		if serverErr != nil || clientErr != nil {
			t.Errorf("who holds an invitation can't ask: %v, %v", serverErr, clientErr)
		}
	})
}
