// Package trusttest makes organisations with certificates, for tests.
package trusttest

import (
	"testing"
	"time"

	"github.com/nexixai/agentos/peer/trust"
)

// Org is an organisation with an open CA.
type Org struct {
	tb testing.TB
	CA *trust.Authority
}

// New makes an organisation for a trust domain.
func New(tb testing.TB, domain string) Org {
	tb.Helper()
	ca, err := trust.NewAuthority(domain, domain, time.Now())
	if err != nil {
		tb.Fatal(err)
	}
	return Org{tb: tb, CA: ca}
}

// Fingerprint is the CA's.
func (o Org) Fingerprint() string {
	o.tb.Helper()
	ca, err := trust.ParseCertificate(o.CA.CertificatePEM())
	if err != nil {
		o.tb.Fatal(err)
	}
	return trust.Fingerprint(ca)
}

// Issue signs a certificate for a key of its own; zero life means the default.
func (o Org) Issue(who trust.ID, now time.Time, life time.Duration) (certPEM, keyPEM []byte) {
	o.tb.Helper()
	key, keyPEM, err := trust.NewKey()
	if err != nil {
		o.tb.Fatal(err)
	}
	certPEM, err = o.CA.Sign(trust.Request{ID: who, Public: key.Public(), Hosts: []string{"127.0.0.1", "localhost"}, Life: life}, now)
	if err != nil {
		o.tb.Fatal(err)
	}
	return certPEM, keyPEM
}

// ID is the identity of one of the organisation's own.
func (o Org) ID(role trust.Role, name string) trust.ID {
	return trust.ID{TrustDomain: o.CA.TrustDomain(), Role: role, Name: name}
}

// Node makes the credentials of a node.
func (o Org) Node(name string) *trust.Credentials {
	o.tb.Helper()
	cert, key := o.Issue(o.ID(trust.Node, name), time.Now(), 0)
	c, err := trust.NewCredentials(cert, key, o.CA.CertificatePEM(), nil)
	if err != nil {
		o.tb.Fatal(err)
	}
	return c
}
