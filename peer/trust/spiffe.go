package trust

import (
	"crypto/x509"
	"net/url"
	"strings"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
)

// maxSPIFFEID is the longest SPIFFE ID, in bytes (SPIFFE-ID specification, section 2.3).
const maxSPIFFEID = 2048

// maxTrustDomain is the longest trust domain name, in bytes (SPIFFE-ID specification, section 2.1).
const maxTrustDomain = 255

// Role is what a certificate's subject is, by the first segment of its SPIFFE path.
type Role string

const (
	// Node is a server of the organisation: it may speak at the cluster's and the federation's doors.
	Node Role = "node"
	// Person is a user or a tool: a client only.
	Person Role = "user"
)

// ID is a SPIFFE identity of the form spiffe://<trust domain>/<role>/<name>.
type ID struct {
	TrustDomain string
	Role        Role
	Name        string // the stack id of a node, the principal of a person
}

// String returns the URI.
func (i ID) String() string { return i.uri().String() }

func (i ID) uri() *url.URL {
	return &url.URL{Scheme: "spiffe", Host: i.TrustDomain, Path: "/" + string(i.Role) + "/" + i.Name}
}

// ValidTrustDomain reports whether s may be a trust domain: lower-case letters, digits, '.', '-' and '_', 1 to 255 bytes.
func ValidTrustDomain(s string) bool {
	if len(s) == 0 || len(s) > maxTrustDomain {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '.' || c == '-' || c == '_') {
			return false
		}
	}
	return true
}

// ParseID reads a SPIFFE URI. It takes exactly the form this system issues: a lower-case trust domain, a known role, one
// name; no port, user, query, fragment, escape or further segment.
func ParseID(u *url.URL) (ID, error) {
	bad := func(why string) (ID, error) {
		return ID{}, fault.New(fault.Unauthorized, "The certificate's SPIFFE ID is not acceptable: %s.", why)
	}
	switch {
	case len(u.String()) > maxSPIFFEID:
		return bad("longer than 2048 bytes")
	case u.Scheme != "spiffe":
		return bad("its scheme is not spiffe")
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.RawPath != "" || u.Opaque != "":
		return bad("it has a user, query, fragment or escapes")
	case !ValidTrustDomain(u.Host):
		return bad("its trust domain is malformed")
	}
	role, name, ok := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	if !ok || !strings.HasPrefix(u.Path, "/") || !id.Valid(name) {
		return bad("its path is not /<role>/<name>")
	}
	if r := Role(role); r != Node && r != Person {
		return bad("its role is unknown")
	}
	return ID{TrustDomain: u.Host, Role: Role(role), Name: name}, nil
}

// IDOf returns the identity in a certificate, which must hold exactly one URI name.
func IDOf(cert *x509.Certificate) (ID, error) {
	if len(cert.URIs) != 1 {
		return ID{}, fault.New(fault.Unauthorized, "The certificate holds %d URI names; exactly one SPIFFE ID is needed.", len(cert.URIs))
	}
	return ParseID(cert.URIs[0])
}
