package harness

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Authority is a CA that a test holds the key of.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	// CertFile and KeyFile are it for a node's --ca-cert-file and --ca-key-file.
	CertFile, KeyFile string
}

// NewAuthority makes a CA for a trust domain.
func NewAuthority(tb testing.TB, domain string) *Authority {
	tb.Helper()
	key := must(tb)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a test's CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		URIs: []*url.URL{{Scheme: "spiffe", Host: domain}},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		tb.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	dir := tb.TempDir()
	a := &Authority{cert: cert, key: key, CertFile: filepath.Join(dir, "ca.crt"), KeyFile: filepath.Join(dir, "ca.key")}
	for name, block := range map[string]*pem.Block{a.CertFile: {Type: "CERTIFICATE", Bytes: der}, a.KeyFile: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	return a
}

func must(tb testing.TB) func(*ecdsa.PrivateKey, error) *ecdsa.PrivateKey {
	return func(k *ecdsa.PrivateKey, err error) *ecdsa.PrivateKey {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return k
	}
}

// Identity says what a certificate is to hold.
type Identity struct {
	URIs   []string
	Usages []x509.ExtKeyUsage
	// Until is when it ends; zero is in an hour.
	Until time.Time
	// Self has it signed by its own key.
	Self bool
}

// Issue makes a key and a certificate for it.
func (a *Authority) Issue(tb testing.TB, id Identity) *tls.Certificate {
	tb.Helper()
	key := must(tb)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	if id.Until.IsZero() {
		id.Until = time.Now().Add(time.Hour)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "a stranger"}, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: id.Until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: id.Usages, BasicConstraintsValid: true,
	}
	for _, text := range id.URIs {
		u, err := url.Parse(text)
		if err != nil {
			tb.Fatal(err)
		}
		tmpl.URIs = append(tmpl.URIs, u)
	}
	parent, signer := a.cert, a.key
	if id.Self {
		parent, signer = tmpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), signer)
	if err != nil {
		tb.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// Certificate is what the node itself shows at its door, with its key.
func (n *Node) Certificate(tb testing.TB) *tls.Certificate {
	tb.Helper()
	return shown(tb, n.DataDir)
}

// Certificate is what the node itself shows at its door, with its key.
func (n *AccessNode) Certificate(tb testing.TB) *tls.Certificate {
	tb.Helper()
	return shown(tb, n.DataDir)
}

func shown(tb testing.TB, dataDir string) *tls.Certificate {
	tb.Helper()
	c, err := tls.LoadX509KeyPair(filepath.Join(dataDir, "trust", "node.crt"), filepath.Join(dataDir, "trust", "node.key"))
	if err != nil {
		tb.Fatal(err)
	}
	return &c
}
