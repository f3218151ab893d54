package trust

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/internal/strictjson"
)

const (
	// invitationPrefix begins every invitation, so that secret scanners can know one.
	invitationPrefix = "aiv_"
	// MaxInvitation is the longest text of an invitation, in bytes.
	MaxInvitation = 2000
	// MaxAddress is the longest HOST:PORT, in bytes.
	MaxAddress     = 255 + 1 + 5
	invitationForm = 1
)

// Labels keep the HMACs of this file apart from each other, and from those of a later form.
const (
	invitationKeyLabel   = "agentos invitation key 1"
	invitationProofLabel = "agentos invitation proof 1"
)

// Invitation lets one other cluster pair with the one that made it. It is shown once, as text. The inviter keeps Key of it,
// from which the text can't be made again, and the accepter never sends it: what travels is a Proof.
type Invitation struct {
	PeeringID string
	// Organization, TrustDomain and ClusterID are the inviter's.
	Organization, TrustDomain, ClusterID string
	// Addresses are HOST:PORT of the inviter's federation doors.
	Addresses []string
	// CA is the fingerprint of the inviter's CA certificate.
	CA string
	// ExpiresAt is in whole seconds.
	ExpiresAt time.Time
	secret    [32]byte
}

// invitationText is an invitation's form inside the text. Its order is part of the key.
type invitationText struct {
	Form         int      `json:"v"`
	PeeringID    string   `json:"p"`
	Organization string   `json:"o"`
	TrustDomain  string   `json:"d"`
	ClusterID    string   `json:"c"`
	Addresses    []string `json:"a"`
	CA           string   `json:"f"`
	ExpiresAt    int64    `json:"e"`
	Secret       string   `json:"s,omitempty"`
}

// NewInvitation completes i with a fresh secret. Of its addresses it keeps as many as fit into the text.
func NewInvitation(i Invitation) (Invitation, error) {
	_, _ = rand.Read(i.secret[:]) // crypto/rand never fails
	i.ExpiresAt = i.ExpiresAt.UTC().Truncate(time.Second)
	for len(i.Addresses) > 1 && len(i.Encode()) > MaxInvitation {
		i.Addresses = i.Addresses[:len(i.Addresses)-1]
	}
	if err := i.validate(); err != nil {
		return Invitation{}, err
	}
	if len(i.Encode()) > MaxInvitation {
		return Invitation{}, fault.Invalid("organization", "The names of this cluster are too long for an invitation.")
	}
	return i, nil
}

// Encode returns the text that is handed to the other organisation. It is a secret.
func (i Invitation) Encode() string {
	t := i.text()
	t.Secret = base64.RawURLEncoding.EncodeToString(i.secret[:])
	raw, _ := json.Marshal(t) // strings and numbers always encode
	return invitationPrefix + base64.RawURLEncoding.EncodeToString(raw)
}

func (i Invitation) text() invitationText {
	return invitationText{
		Form: invitationForm, PeeringID: i.PeeringID, Organization: i.Organization, TrustDomain: i.TrustDomain, ClusterID: i.ClusterID,
		Addresses: i.Addresses, CA: i.CA, ExpiresAt: i.ExpiresAt.Unix(),
	}
}

// ParseInvitation reads what Encode wrote.
func ParseInvitation(s string) (Invitation, error) {
	bad := func(why string) (Invitation, error) {
		return Invitation{}, fault.Invalid("token", "This is not an invitation (%s): ask the other organisation for the text that 'agentos peering invite' printed.", why)
	}
	s = strings.TrimSpace(s)
	body, ok := strings.CutPrefix(s, invitationPrefix)
	switch {
	case !ok:
		return bad("it does not begin with " + invitationPrefix)
	case len(s) > MaxInvitation:
		return bad("it is too long")
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(body)
	if err != nil {
		return bad("it is damaged")
	}
	var t invitationText
	if err := strictjson.Decode(raw, &t); err != nil {
		return bad("it is damaged")
	}
	if t.Form != invitationForm {
		return bad("it is of another version")
	}
	secret, err := base64.RawURLEncoding.Strict().DecodeString(t.Secret)
	if err != nil || len(secret) != 32 {
		return bad("it is damaged")
	}
	if t.ExpiresAt < 0 || t.ExpiresAt > 1<<40 {
		return bad("it is damaged")
	}
	i := Invitation{
		PeeringID: t.PeeringID, Organization: t.Organization, TrustDomain: t.TrustDomain, ClusterID: t.ClusterID, Addresses: t.Addresses,
		CA: t.CA, ExpiresAt: time.Unix(t.ExpiresAt, 0).UTC(),
	}
	copy(i.secret[:], secret)
	if i.validate() != nil {
		return bad("it is damaged")
	}
	return i, nil
}

func (i *Invitation) validate() error {
	if !id.Valid(i.PeeringID) {
		return fault.Invalid("peering_id", "A peering id is 1 to %d of [A-Za-z0-9._-].", id.MaxLen)
	}
	if !ValidFingerprint(i.CA) {
		return fault.Invalid("fingerprint", "A fingerprint is 64 lower-case hex digits.")
	}
	p := Party{Organization: i.Organization, TrustDomain: i.TrustDomain, ClusterID: i.ClusterID, CA: i.CA, Addresses: i.Addresses}
	return p.Validate()
}

// Key is what the inviter keeps: a hash of the secret and of all that the invitation says, so that one that was altered
// anywhere has another key.
func (i Invitation) Key() []byte {
	t := i.text()
	raw, _ := json.Marshal(t)
	h := hmac.New(sha256.New, i.secret[:])
	writeAll(h, invitationKeyLabel, string(raw))
	return h.Sum(nil)
}

// Party is one side of a pairing, as it names itself to the other.
type Party struct {
	Organization, TrustDomain, ClusterID string
	// CA is the fingerprint of its CA certificate.
	CA string
	// Addresses are HOST:PORT of its federation doors.
	Addresses []string
}

// maxAddresses bounds the doors that one side names.
const maxAddresses = 64

// Validate checks what a stranger says of himself.
func (p *Party) Validate() error {
	switch {
	case !id.Valid(p.Organization):
		return fault.Invalid("organization", "An organisation is 1 to %d of [A-Za-z0-9._-].", id.MaxLen)
	case !ValidTrustDomain(p.TrustDomain):
		return fault.Invalid("trust_domain", "A trust domain is lower-case letters, digits, '.', '-' or '_', at most %d bytes.", maxTrustDomain)
	case !id.Valid(p.ClusterID):
		return fault.Invalid("cluster_id", "A cluster id is 1 to %d of [A-Za-z0-9._-].", id.MaxLen)
	case !ValidFingerprint(p.CA):
		return fault.Invalid("fingerprint", "A fingerprint is 64 lower-case hex digits.")
	}
	return ValidAddresses(p.Addresses)
}

// ValidAddresses checks a list of HOST:PORT.
func ValidAddresses(addresses []string) error {
	if len(addresses) == 0 || len(addresses) > maxAddresses {
		return fault.Invalid("addresses", "There are 1 to %d addresses of federation doors.", maxAddresses)
	}
	for n, a := range addresses {
		host, port, err := net.SplitHostPort(a)
		number, numberErr := strconv.ParseUint(port, 10, 16)
		if err != nil || numberErr != nil || number == 0 || len(a) > MaxAddress || !plainHost(host) {
			return fault.Invalid(fmt.Sprintf("addresses[%d]", n), "An address is HOST:PORT.")
		}
	}
	return nil
}

// plainHost reports whether host is made of what names and addresses are made of: it's shown on terminals and put into URLs.
func plainHost(host string) bool {
	for _, c := range []byte(host) {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte(".-_:%", c) >= 0) {
			return false
		}
	}
	return host != ""
}

// ValidFingerprint reports whether s has the form of Fingerprint.
func ValidFingerprint(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == sha256.Size && s == strings.ToLower(s)
}

// Terms are what both sides of a pairing must mean alike. The proof is over all of them.
type Terms struct {
	PeeringID string
	// InviterCA and InviterCluster are the inviter's fingerprint and cluster id.
	InviterCA, InviterCluster string
	Accepter                  Party
	// Nonce is the accepter's, fresh for each try.
	Nonce string
}

// Prove returns the proof, in hex, that its maker holds the invitation of key and means t.
func Prove(key []byte, t Terms) string {
	h := hmac.New(sha256.New, key)
	writeAll(h, append([]string{
		invitationProofLabel, t.PeeringID, t.InviterCA, t.InviterCluster, t.Accepter.Organization, t.Accepter.TrustDomain, t.Accepter.ClusterID,
		t.Accepter.CA, t.Nonce,
	}, t.Accepter.Addresses...)...)
	return hex.EncodeToString(h.Sum(nil))
}

// Proven reports whether proof is Prove(key, t), in constant time.
func Proven(key []byte, t Terms, proof string) bool {
	return hmac.Equal([]byte(Prove(key, t)), []byte(proof))
}

// writeAll hashes texts so that no choice of them can meet another's: each after its length.
func writeAll(h interface{ Write([]byte) (int, error) }, texts ...string) {
	var n [8]byte
	for _, s := range texts {
		binary.BigEndian.PutUint64(n[:], uint64(len(s)))
		_, _ = h.Write(n[:]) // a hash never fails
		_, _ = h.Write([]byte(s))
	}
}

// ReadAuthority reads one CA certificate in PEM and returns the trust domain it speaks for and its fingerprint.
func ReadAuthority(certPEM []byte, now time.Time) (trustDomain, fingerprint string, err error) {
	cert, err := ParseCertificate(certPEM)
	if err != nil {
		return "", "", err
	}
	if trustDomain, err = authorityDomain(cert); err != nil {
		return "", "", err
	}
	if now.Before(cert.NotBefore) || now.After(cert.NotAfter) {
		return "", "", fault.Invalid("ca", "The CA certificate of %s is valid from %s to %s only.", trustDomain, cert.NotBefore.UTC().Format(time.RFC3339), cert.NotAfter.UTC().Format(time.RFC3339))
	}
	return trustDomain, Fingerprint(cert), nil
}

// PlainFingerprint returns a fingerprint as people write it, perhaps with colons and in upper case, in the form of Fingerprint.
func PlainFingerprint(s string) string {
	return strings.ToLower(strings.NewReplacer(":", "", " ", "").Replace(s))
}
