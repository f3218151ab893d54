package trust

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/nexixai/agentos/internal/fault"
)

const (
	// CertificateLife is how long a node's certificate is valid; it's renewed when two thirds have passed.
	CertificateLife = 90 * 24 * time.Hour
	authorityLife   = 10 * 365 * 24 * time.Hour
	// backdate makes a new certificate good for a peer whose clock is behind.
	backdate = 5 * time.Minute
)

// Authority is an organisation's certificate authority: its certificate, and the key while it is open in memory.
type Authority struct {
	trustDomain string
	cert        *x509.Certificate
	key         *ecdsa.PrivateKey
}

// NewAuthority makes an authority for an organisation, with a P-256 key.
func NewAuthority(organization, trustDomain string, now time.Time) (*Authority, error) {
	if !ValidTrustDomain(trustDomain) {
		return nil, fault.Invalid("trust_domain", "The trust domain %q must be lower-case letters, digits, '.', '-' or '_', at most 255 bytes.", trustDomain)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("trust: authority key: %w", err)
	}
	tmpl := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{Organization: []string{organization}, CommonName: organization + " AgentOS CA"},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(authorityLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		URIs:                  []*url.URL{{Scheme: "spiffe", Host: trustDomain}},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("trust: authority certificate: %w", err)
	}
	return newAuthority(der, key)
}

// OpenAuthority rebuilds an authority from its PEM certificate and PKCS #8 PEM key, own or given by an operator.
func OpenAuthority(certPEM, keyPEM []byte) (*Authority, error) {
	cert, err := ParseCertificate(certPEM)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(keyPEM)
	if block == nil {
		return nil, fault.Invalid("ca_key", "The CA key is not PEM.")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fault.Invalid("ca_key", "The CA key is not PKCS #8: convert it with 'openssl pkcs8 -topk8 -nocrypt'.")
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fault.Invalid("ca_key", "The CA key must be the ECDSA key of the CA certificate.")
	}
	return newAuthority(cert.Raw, key)
}

func newAuthority(der []byte, key *ecdsa.PrivateKey) (*Authority, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("trust: authority certificate: %w", err)
	}
	domain, err := authorityDomain(cert)
	if err != nil {
		return nil, err
	}
	return &Authority{trustDomain: domain, cert: cert, key: key}, nil
}

// authorityDomain returns the trust domain a CA certificate speaks for: its one URI name, without a path (X509-SVID
// specification, section 3.2).
func authorityDomain(cert *x509.Certificate) (string, error) {
	if !cert.IsCA || len(cert.URIs) != 1 || cert.URIs[0].Scheme != "spiffe" || strings.Trim(cert.URIs[0].Path, "/") != "" || !ValidTrustDomain(cert.URIs[0].Host) {
		return "", fault.Invalid("ca", "The CA certificate must be a CA and hold exactly one URI name spiffe://<trust domain>.")
	}
	return cert.URIs[0].Host, nil
}

// TrustDomain returns the domain this authority signs for.
func (a *Authority) TrustDomain() string { return a.trustDomain }

// CertificatePEM returns the authority's certificate.
func (a *Authority) CertificatePEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// KeyPEM returns the authority's key. It is a secret: seal it before it is stored.
func (a *Authority) KeyPEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		return nil, fmt.Errorf("trust: authority key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// Request is what a certificate is to say.
type Request struct {
	ID ID
	// Public is the subject's own key; the private half never leaves the subject.
	Public crypto.PublicKey
	// Hosts are the names and addresses others dial; only for nodes.
	Hosts []string
	// Life is how long the certificate is valid; zero means CertificateLife.
	Life time.Duration
}

// Sign issues a certificate. Nodes get server and client use; persons client use only, so that a tool's certificate can
// never stand at the cluster's door.
func (a *Authority) Sign(r Request, now time.Time) ([]byte, error) {
	if r.ID.TrustDomain != a.trustDomain {
		return nil, fault.New(fault.Forbidden, "This CA signs for %q, not for %q.", a.trustDomain, r.ID.TrustDomain)
	}
	if _, err := ParseID(r.ID.uri()); err != nil {
		return nil, err
	}
	if key, ok := r.Public.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P256() {
		return nil, fault.Invalid("csr", "Node keys are ECDSA P-256.")
	}
	if r.Life <= 0 || r.Life > CertificateLife {
		r.Life = CertificateLife
	}
	tmpl := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: r.ID.Name},
		NotBefore:             now.Add(-backdate),
		NotAfter:              earlier(now.Add(r.Life), a.cert.NotAfter),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{r.ID.uri()},
	}
	if r.ID.Role == Node {
		tmpl.ExtKeyUsage = append(tmpl.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		for _, h := range r.Hosts {
			if ip := net.ParseIP(h); ip != nil {
				tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
			} else if h != "" {
				tmpl.DNSNames = append(tmpl.DNSNames, h)
			}
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, r.Public, a.key)
	if err != nil {
		return nil, fmt.Errorf("trust: sign %s: %w", r.ID, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// Fingerprint is the SHA-256 of a certificate's bytes, in lower-case hex: what a join token and an invitation pin.
func Fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return hex.EncodeToString(sum[:])
}

// ParseCertificate reads one PEM certificate.
func ParseCertificate(certPEM []byte) (*x509.Certificate, error) {
	block, rest := pem.Decode(certPEM)
	if block == nil || block.Type != "CERTIFICATE" || len(strings.TrimSpace(string(rest))) > 0 {
		return nil, fault.Invalid("certificate", "One PEM certificate is needed.")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fault.Invalid("certificate", "The certificate does not parse.").Because(err)
	}
	return cert, nil
}

func serial() *big.Int {
	var b [16]byte
	_, _ = rand.Read(b[:]) // crypto/rand never fails
	b[0] &= 0x7f           // positive, at most 20 octets (RFC 5280, section 4.1.2.2)
	return new(big.Int).SetBytes(b[:])
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
