package trust

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nexixai/agentos/internal/fault"
)

// NewKey makes a node's own key and returns it as PKCS #8 PEM.
func NewKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("trust: node key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("trust: node key: %w", err)
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// Credentials are a node's certificate, its key and its organisation's CA bundle. They can be replaced while doors are
// open: new connections use the new ones, and open ones live on. Safe for concurrent use.
type Credentials struct {
	now     func() time.Time
	current atomic.Pointer[material]
}

type material struct {
	cert  tls.Certificate
	id    ID
	roots *x509.CertPool
	ca    []byte
}

// NewCredentials checks and holds a node's certificate. now is the clock, nil for time.Now.
func NewCredentials(certPEM, keyPEM, caPEM []byte, now func() time.Time) (*Credentials, error) {
	if now == nil {
		now = time.Now
	}
	c := &Credentials{now: now}
	if err := c.Replace(certPEM, keyPEM, caPEM); err != nil {
		return nil, err
	}
	return c, nil
}

// Replace takes a renewed certificate. It refuses one that the bundle does not vouch for, or that names somebody else
// than the one before, and then keeps the old.
func (c *Credentials) Replace(certPEM, keyPEM, caPEM []byte) error {
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return fault.Invalid("certificate", "The certificate and the key do not belong together.").Because(err)
	}
	roots, domains, err := parseBundle(caPEM)
	if err != nil {
		return err
	}
	leaf := pair.Leaf
	who, err := checkLeaf(leaf, roots, x509.ExtKeyUsageServerAuth, c.now())
	if err != nil {
		return err
	}
	if who.Role != Node || !domains[who.TrustDomain] {
		return fault.Invalid("certificate", "The certificate names %s, which is no node of the CA's trust domain.", who)
	}
	if old := c.current.Load(); old != nil && old.id != who {
		return fault.Invalid("certificate", "The new certificate names %s, the node is %s.", who, old.id)
	}
	c.current.Store(&material{cert: pair, id: who, roots: roots, ca: caPEM})
	return nil
}

// parseBundle reads CA certificates, all of one trust domain or of several, and says which.
func parseBundle(caPEM []byte) (*x509.CertPool, map[string]bool, error) {
	pool, domains := x509.NewCertPool(), make(map[string]bool)
	for rest := caPEM; ; {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, nil, fault.Invalid("ca", "A certificate of the CA bundle does not parse.").Because(err)
		}
		domain, err := authorityDomain(cert)
		if err != nil {
			return nil, nil, err
		}
		pool.AddCert(cert)
		domains[domain] = true
	}
	if len(domains) != 1 {
		return nil, nil, fault.Invalid("ca", "A CA bundle holds the certificates of exactly one trust domain; this one of %d.", len(domains))
	}
	return pool, domains, nil
}

// ID returns who the node is.
func (c *Credentials) ID() ID { return c.current.Load().id }

// BundlePEM returns the organisation's CA certificates.
func (c *Credentials) BundlePEM() []byte { return c.current.Load().ca }

// Leaf returns the certificate in use.
func (c *Credentials) Leaf() *x509.Certificate { return c.current.Load().cert.Leaf }

// RenewAt is when the certificate should be replaced: two thirds of its life, counted from when it was signed.
func (c *Credentials) RenewAt() time.Time {
	leaf := c.Leaf()
	signed := leaf.NotBefore.Add(backdate)
	return signed.Add(leaf.NotAfter.Sub(signed) * 2 / 3)
}

// Admit decides about an identity whose certificate has been proven. An error refuses the connection.
type Admit func(who ID, leaf *x509.Certificate) error

// ClusterServer is the TLS of the cluster's door: TLS 1.3, a certificate of this organisation's CA whose role is node and
// which may be both server and client, and then admit.
func (c *Credentials) ClusterServer(admit Admit) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		SessionTicketsDisabled: true,
		ClientAuth:             tls.RequireAnyClientCert,
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &c.current.Load().cert, nil },
		VerifyConnection:       c.verifyMember(admit),
	}
}

// ClusterClient is the TLS with which a node dials another's cluster door; the same is demanded of the server.
func (c *Credentials) ClusterClient(admit Admit) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		SessionTicketsDisabled: true,
		// Names in DNS prove nothing here: VerifyConnection checks the chain, the usages and the SPIFFE ID instead.
		InsecureSkipVerify:   true,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c.current.Load().cert, nil },
		VerifyConnection:     c.verifyMember(admit),
	}
}

func (c *Credentials) verifyMember(admit Admit) func(tls.ConnectionState) error {
	return func(cs tls.ConnectionState) error {
		m := c.current.Load()
		if len(cs.PeerCertificates) == 0 {
			return fault.New(fault.Unauthorized, "The other side showed no certificate.")
		}
		leaf := cs.PeerCertificates[0]
		for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
			if _, err := checkLeaf(leaf, m.roots, usage, c.now()); err != nil {
				return err
			}
		}
		who, err := IDOf(leaf)
		if err != nil {
			return err
		}
		if who.TrustDomain != m.id.TrustDomain || who.Role != Node {
			return fault.New(fault.Forbidden, "%s is no node of %s.", who, m.id.TrustDomain)
		}
		if admit != nil {
			return admit(who, leaf)
		}
		return nil
	}
}

// checkLeaf verifies one certificate against roots for one use. No intermediates: the CA signs nodes itself.
func checkLeaf(leaf *x509.Certificate, roots *x509.CertPool, usage x509.ExtKeyUsage, now time.Time) (ID, error) {
	if leaf.IsCA {
		return ID{}, fault.New(fault.Unauthorized, "A CA certificate can't stand for a node.")
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}})
	if err != nil {
		return ID{}, fault.New(fault.Unauthorized, "The certificate is not acceptable: %v.", err).Because(err)
	}
	return IDOf(leaf)
}

// JoinServer is the TLS of the one call that comes without a certificate: a new node, with a join token, asks to be
// signed. The door shows its CA beside its own certificate, so that the caller can compare the fingerprint it holds.
func (c *Credentials) JoinServer() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		SessionTicketsDisabled: true,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			m := c.current.Load()
			chain := m.cert
			chain.Certificate = append([][]byte{m.cert.Certificate[0]}, bundleDER(m.ca)...)
			return &chain, nil
		},
	}
}

func bundleDER(caPEM []byte) [][]byte {
	var out [][]byte
	for rest := caPEM; ; {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			return out
		}
		out = append(out, block.Bytes)
	}
}

// PinnedClient is the TLS with which a joiner dials: it believes only a server whose chain holds the CA of that
// fingerprint and whose certificate, a node's, that CA has signed.
func PinnedClient(caFingerprint string, now func() time.Time) *tls.Config {
	if now == nil {
		now = time.Now
	}
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		SessionTicketsDisabled: true,
		InsecureSkipVerify:     true, // the pin below is the check
		VerifyConnection: func(cs tls.ConnectionState) error {
			for _, ca := range cs.PeerCertificates[1:] {
				if Fingerprint(ca) != caFingerprint {
					continue
				}
				domain, err := authorityDomain(ca)
				if err != nil {
					return err
				}
				roots := x509.NewCertPool()
				roots.AddCert(ca)
				who, err := checkLeaf(cs.PeerCertificates[0], roots, x509.ExtKeyUsageServerAuth, now())
				if err != nil {
					return err
				}
				if who.Role != Node || who.TrustDomain != domain {
					return fault.New(fault.Unauthorized, "%s is no node of %s.", who, domain)
				}
				return nil
			}
			return fault.New(fault.Unauthorized, "The server does not show the CA that the token pins (fingerprint %.16s…): is this the right address?", caFingerprint)
		},
	}
}
