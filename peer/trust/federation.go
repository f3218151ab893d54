package trust

import (
	"crypto/tls"
	"crypto/x509"
	"time"

	"github.com/nexixai/agentos/internal/fault"
)

// Bundles returns the CA certificates, PEM, that vouch for the nodes of a trust domain, or why none of its nodes may speak
// here now. Bundles are never merged: what one organisation's CA signs proves nothing of another.
type Bundles func(trustDomain string) ([]byte, error)

// FederationServer is the TLS of the federation door: TLS 1.3 and, from whoever shows a certificate, a node's of the trust
// domain that it names, signed by that domain's own CA, good for server and client use; then admit, which may be nil. A
// caller without a certificate gets through as nobody: the two calls that such a one may make are the door's to tell.
//
// The door shows its CA beside its own certificate, so that who holds an invitation can compare the fingerprint.
func (c *Credentials) FederationServer(bundles Bundles, admit Admit) *tls.Config {
	verify := c.verifyPeer(bundles, admit)
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		SessionTicketsDisabled: true,
		ClientAuth:             tls.RequestClientCert,
		NextProtos:             []string{"http/1.1"},
		GetCertificate:         c.withAuthority,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 {
				return nil
			}
			return verify(cs)
		},
	}
}

// withAuthority is the certificate in use, and its CA's behind it.
func (c *Credentials) withAuthority(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	m := c.current.Load()
	chain := m.cert
	chain.Certificate = append([][]byte{m.cert.Certificate[0]}, bundleDER(m.ca)...)
	return &chain, nil
}

// FederationClient is the TLS with which a node calls at another organisation's federation door: the same is demanded of
// the server, which must be of wantDomain and, unless wantStack is "", that node. It holds the certificate that is in use
// now, for as long as it's used: a forward token is bound to it, see ForwardSigner.
func (c *Credentials) FederationClient(bundles Bundles, wantDomain, wantStack string) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		SessionTicketsDisabled: true,
		NextProtos:             []string{"http/1.1"},
		Certificates:           []tls.Certificate{c.current.Load().cert},
		// Names in DNS prove nothing here: VerifyConnection checks the chain, the usages and the SPIFFE ID instead.
		InsecureSkipVerify: true,
		VerifyConnection: c.verifyPeer(bundles, func(who ID, _ *x509.Certificate) error {
			if who.TrustDomain != wantDomain {
				return fault.New(fault.Unauthorized, "There answers %s, which is not of %s.", who, wantDomain)
			}
			if wantStack != "" && who.Name != wantStack {
				return fault.New(fault.Unauthorized, "There answers %s, not %s.", who.Name, wantStack)
			}
			return nil
		}),
	}
}

func (c *Credentials) verifyPeer(bundles Bundles, admit Admit) func(tls.ConnectionState) error {
	return func(cs tls.ConnectionState) error {
		if len(cs.PeerCertificates) == 0 {
			return fault.New(fault.Unauthorized, "The other side showed no certificate.")
		}
		leaf := cs.PeerCertificates[0]
		who, err := VerifyPeer(leaf, bundles, c.now())
		if err == nil && admit != nil {
			err = admit(who, leaf)
		}
		return err
	}
}

// VerifyPeer checks a certificate that the other side has shown, and returns whose it is.
func VerifyPeer(leaf *x509.Certificate, bundles Bundles, now time.Time) (ID, error) {
	claimed, err := IDOf(leaf) // it only picks the bundle; nothing is proven yet
	if err != nil {
		return ID{}, err
	}
	if claimed.Role != Node {
		return ID{}, fault.New(fault.Unauthorized, "%s is no node; only nodes speak here.", claimed)
	}
	bundle, err := bundles(claimed.TrustDomain)
	if err != nil {
		return ID{}, err
	}
	roots, domains, err := parseBundle(bundle)
	if err != nil {
		return ID{}, err
	}
	if !domains[claimed.TrustDomain] {
		return ID{}, fault.New(fault.Unauthorized, "The CA that is kept for %s is another domain's.", claimed.TrustDomain)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if _, err := checkLeaf(leaf, roots, usage, now); err != nil {
			return ID{}, err
		}
	}
	return claimed, nil
}
