package trust

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"strings"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
)

// joinPrefix begins every join token, so that secret scanners can know one.
const joinPrefix = "ajt_"

// JoinToken lets one new node into a cluster: it proves the node to the cluster by a secret, and the cluster to the node
// by the fingerprint of its CA. The cluster keeps only the secret's hash.
type JoinToken struct {
	// ID names the token in listings and in the store.
	ID string
	// CA is the fingerprint of the cluster's CA certificate.
	CA     string
	secret [32]byte
}

// NewJoinToken draws a token for the cluster whose CA has that fingerprint.
func NewJoinToken(caFingerprint string) JoinToken {
	t := JoinToken{ID: id.New("jtk_"), CA: caFingerprint}
	_, _ = rand.Read(t.secret[:]) // crypto/rand never fails
	return t
}

// Encode returns the token as the text an operator hands on. It is a secret.
func (t JoinToken) Encode() string {
	ca, _ := hex.DecodeString(t.CA)
	return joinPrefix + t.ID + "." + base64.RawURLEncoding.EncodeToString(append(ca, t.secret[:]...))
}

// ParseJoinToken reads what Encode wrote.
func ParseJoinToken(s string) (JoinToken, error) {
	bad := fault.Invalid("join_token", "This is not a join token: make one with 'agentos cluster token create' on a node of the cluster.")
	rest, ok := strings.CutPrefix(strings.TrimSpace(s), joinPrefix)
	if !ok || len(rest) > 256 {
		return JoinToken{}, bad
	}
	name, body, ok := strings.Cut(rest, ".")
	if !ok || !id.Valid(name) {
		return JoinToken{}, bad
	}
	b, err := base64.RawURLEncoding.DecodeString(body)
	if err != nil || len(b) != sha256.Size+32 {
		return JoinToken{}, bad
	}
	t := JoinToken{ID: name, CA: hex.EncodeToString(b[:sha256.Size])}
	copy(t.secret[:], b[sha256.Size:])
	return t, nil
}

// Hash is what the cluster keeps of the token.
func (t JoinToken) Hash() string {
	sum := sha256.Sum256(t.secret[:])
	return hex.EncodeToString(sum[:])
}

// Matches reports whether t is the token whose hash was kept, in constant time.
func (t JoinToken) Matches(hash string) bool {
	return subtle.ConstantTimeCompare([]byte(t.Hash()), []byte(hash)) == 1
}
