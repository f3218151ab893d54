package trust

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/internal/strictjson"
	"github.com/nexixai/agentos/tenancy"
)

const (
	// ForwardTokenLife is the longest life of a forward token.
	ForwardTokenLife = 60 * time.Second
	// ForwardTokenLeeway is by how much the clocks of two organisations may differ.
	ForwardTokenLeeway = 60 * time.Second
	// MaxForwardToken is the longest forward token, in bytes.
	MaxForwardToken = 8 << 10
	// MaxHops is how many organisations a run may cross.
	MaxHops = 3

	// maxForwardName bounds the principal and the scopes of a token, in bytes.
	maxForwardName   = 512
	maxForwardScopes = 64
)

// ForwardClaims are what a forward token says: for whom a node of one organisation asks something of another's cluster.
type ForwardClaims struct {
	// Issuer is the asking organisation's trust domain. ForwardSigner sets it.
	Issuer string
	// Subject is the principal at the asking side.
	Subject string
	// Audience is the receiving cluster's id.
	Audience string
	// TenantID is the receiver's tenant.
	TenantID      string
	Scopes        []tenancy.Scope
	PolicyContext tenancy.PolicyContext
	// ID is the token's own (jti). A call that changes something takes each but once.
	ID string
	// Actors are the nodes through which the request came, the first origin first, who shows the token last.
	Actors []ForwardActor
	// Hops is how many organisations the run may cross beyond the receiver.
	Hops int
	// IssuedAt is the zero time in a token that doesn't say it.
	IssuedAt, ExpiresAt time.Time
}

// ForwardActor is a node that passed a request on.
type ForwardActor struct {
	// Node is its SPIFFE ID.
	Node string
	// ClusterID is its cluster's.
	ClusterID string
}

// Via lists the clusters that the request came through, the first origin first.
func (c *ForwardClaims) Via() []string {
	via := make([]string, len(c.Actors))
	for i, a := range c.Actors {
		via[i] = a.ClusterID
	}
	return via
}

// forwardWire is the claims as they stand in a token.
type forwardWire struct {
	Issuer        string                `json:"iss"`
	Subject       string                `json:"sub"`
	Audience      audience              `json:"aud"`
	Expires       *int64                `json:"exp"`
	IssuedAt      *int64                `json:"iat,omitempty"`
	NotBefore     *int64                `json:"nbf,omitempty"`
	ID            string                `json:"jti"`
	TenantID      string                `json:"tenant_id"`
	Scope         string                `json:"scope"`
	PolicyContext tenancy.PolicyContext `json:"policy_context"`
	Confirm       struct {
		Thumbprint string `json:"x5t#S256"`
	} `json:"cnf"`
	Actor *forwardActor `json:"act"`
	Hops  *int          `json:"hops"`
}

// forwardActor is one link of the chain, who shows the token outermost (RFC 8693, section 4.1).
type forwardActor struct {
	Subject   string        `json:"sub"`
	ClusterID string        `json:"cluster_id"`
	Before    *forwardActor `json:"act,omitempty"`
}

// audience is one name, alone or as the only one of a list (RFC 7519, section 4.1.3).
type audience string

func (a *audience) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '[' {
		var list []string
		if err := json.Unmarshal(b, &list); err != nil {
			return err
		}
		if len(list) != 1 {
			return errors.New("aud names more than one, or none")
		}
		*a = audience(list[0])
		return nil
	}
	return json.Unmarshal(b, (*string)(a))
}

// ForwardSigner signs forward tokens with the key of one certificate. A token is good only on a connection that was opened
// with this very certificate: whoever keeps connections keeps the signer beside them, and takes a new one for new ones
// after the certificate was renewed. It is safe for concurrent use.
type ForwardSigner struct {
	leaf   *x509.Certificate
	id     ID
	thumb  string
	signer jose.Signer
}

// ForwardSigner returns a signer for the certificate in use.
func (c *Credentials) ForwardSigner() (*ForwardSigner, error) {
	m := c.current.Load()
	alg, err := forwardAlgorithm(m.cert.Leaf)
	if err != nil {
		return nil, err
	}
	thumb := Thumbprint(m.cert.Leaf)
	options := (&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", thumb)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: m.cert.PrivateKey}, options)
	if err != nil {
		return nil, fmt.Errorf("trust: forward token: %w", err)
	}
	return &ForwardSigner{leaf: m.cert.Leaf, id: m.id, thumb: thumb, signer: signer}, nil
}

// Leaf is the certificate that the tokens are bound to.
func (s *ForwardSigner) Leaf() *x509.Certificate { return s.leaf }

// Sign makes a token of c, for this node of the cluster clusterID: it adds the node to the actors, and sets the issuer and
// the times. A token may be shown again until c.ExpiresAt by calls that change nothing.
func (s *ForwardSigner) Sign(c ForwardClaims, clusterID string, now time.Time) (token string, expires time.Time, err error) {
	now = now.Truncate(time.Second)
	expires = now.Add(ForwardTokenLife)
	iat, exp := now.Unix(), expires.Unix()
	w := forwardWire{
		Issuer: s.id.TrustDomain, Subject: c.Subject, Audience: audience(c.Audience), IssuedAt: &iat, Expires: &exp, ID: c.ID,
		TenantID: c.TenantID, PolicyContext: c.PolicyContext, Hops: &c.Hops,
	}
	w.Confirm.Thumbprint = s.thumb
	scopes := make([]string, len(c.Scopes))
	for i, scope := range c.Scopes {
		scopes[i] = string(scope)
	}
	w.Scope = strings.Join(scopes, " ")
	for _, a := range c.Actors {
		w.Actor = &forwardActor{Subject: a.Node, ClusterID: a.ClusterID, Before: w.Actor}
	}
	w.Actor = &forwardActor{Subject: s.id.String(), ClusterID: clusterID, Before: w.Actor}
	payload, err := json.Marshal(&w)
	if err != nil {
		return "", time.Time{}, fmt.Errorf("trust: forward token: %w", err)
	}
	signed, err := s.signer.Sign(payload)
	if err == nil {
		token, err = signed.CompactSerialize()
	}
	if err != nil {
		return "", time.Time{}, fmt.Errorf("trust: forward token: %w", err)
	}
	if len(token) > MaxForwardToken {
		return "", time.Time{}, fault.New(fault.PayloadTooLarge, "The request's authorization is too large to be passed on: it takes %d bytes of %d.", len(token), MaxForwardToken)
	}
	return token, expires, nil
}

// VerifyForward reads the token that came over a connection whose other side has proven leaf against its peering's CA.
// audience is this cluster's id. Whatever is wrong, the message says only that the token is not acceptable; the cause, for
// the log and the audit, says why.
//
// Not decided here, for it needs the store: whether the peering is active, whether the jti is new, what the grant allows,
// and whether this cluster is among the actors.
func VerifyForward(token string, leaf *x509.Certificate, audience string, now time.Time) (*ForwardClaims, error) {
	w, err := proveForward(token, leaf)
	if err != nil {
		return nil, unacceptable(err)
	}
	c, err := w.check(leaf, audience, now)
	return c, unacceptable(err)
}

// unacceptable keeps the cause for the log and the audit.
func unacceptable(cause error) error {
	if cause == nil {
		return nil
	}
	return fault.New(fault.Unauthorized, "The forward token is not acceptable.").Because(cause)
}

// proveForward reads what a token says that is signed with the key of leaf.
func proveForward(token string, leaf *x509.Certificate) (*forwardWire, error) {
	if token == "" || len(token) > MaxForwardToken {
		return nil, fmt.Errorf("it has %d bytes, 1 to %d are taken", len(token), MaxForwardToken)
	}
	alg, err := forwardAlgorithm(leaf)
	if err != nil {
		return nil, err
	}
	if err := checkForwardHeader(token, alg, Thumbprint(leaf)); err != nil {
		return nil, err
	}
	signed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{alg})
	if err != nil {
		return nil, fmt.Errorf("it does not parse: %w", err)
	}
	payload, err := signed.Verify(leaf.PublicKey)
	if err != nil {
		return nil, errors.New("the signature is not of the certificate's key")
	}
	var w forwardWire
	if err := strictjson.Decode(payload, &w); err != nil {
		return nil, fmt.Errorf("the claims can't be read: %w", err)
	}
	return &w, nil
}

// forwardAlgorithm is the one algorithm that goes with a certificate's key. What a token says of it is compared, never
// followed.
func forwardAlgorithm(leaf *x509.Certificate) (jose.SignatureAlgorithm, error) {
	switch key := leaf.PublicKey.(type) {
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P256() {
			return jose.ES256, nil
		}
	case ed25519.PublicKey:
		return jose.EdDSA, nil
	}
	return "", errors.New("the certificate's key is neither P-256 nor Ed25519")
}

// checkForwardHeader takes a header that says how it's signed and nothing of where a key could be found.
func checkForwardHeader(token string, alg jose.SignatureAlgorithm, thumb string) error {
	head, _, _ := strings.Cut(token, ".")
	raw, err := base64.RawURLEncoding.Strict().DecodeString(head)
	if err != nil {
		return errors.New("its header is not base64url")
	}
	var said struct {
		Algorithm string  `json:"alg"`
		Type      *string `json:"typ"`
		KeyID     *string `json:"kid"`
	}
	var odd []byte
	err = strictjson.Visit(raw, &said, func(name, _ []byte) {
		switch string(name) {
		case "alg", "typ", "kid":
		default:
			odd = bytes.Clone(name)
		}
	})
	switch {
	case err != nil:
		return fmt.Errorf("its header can't be read: %w", err)
	case odd != nil:
		return fmt.Errorf("its header has a %.32q, which it may not have", odd)
	case said.Algorithm != string(alg):
		return fmt.Errorf("it is signed by %.32q, the certificate's key by %s", said.Algorithm, alg)
	case said.Type != nil && !strings.EqualFold(*said.Type, "JWT"):
		return fmt.Errorf("it is a %.32q, not a JWT", *said.Type)
	case said.KeyID != nil && *said.KeyID != thumb:
		return errors.New("its kid is not the certificate's thumbprint")
	}
	return nil
}

// check judges the claims of a token whose signature is right.
func (w *forwardWire) check(leaf *x509.Certificate, audience string, now time.Time) (*ForwardClaims, error) {
	who, err := IDOf(leaf)
	switch {
	case err != nil:
		return nil, err
	case who.Role != Node:
		return nil, fmt.Errorf("%s is no node", who)
	case w.Issuer != who.TrustDomain:
		return nil, fmt.Errorf("iss is %.64q, the certificate's trust domain %s", w.Issuer, who.TrustDomain)
	case audience == "" || string(w.Audience) != audience:
		return nil, fmt.Errorf("aud is %.64q, this cluster %s", string(w.Audience), audience)
	case subtle.ConstantTimeCompare([]byte(w.Confirm.Thumbprint), []byte(Thumbprint(leaf))) != 1:
		return nil, errors.New("cnf is not of the connection's certificate")
	case w.Hops == nil || *w.Hops < 0 || *w.Hops > MaxHops:
		return nil, fmt.Errorf("hops are missing, or not 0 to %d", MaxHops)
	case !id.Valid(w.TenantID):
		return nil, errors.New("tenant_id is missing or malformed")
	case !id.Valid(w.ID):
		return nil, errors.New("jti is missing or malformed")
	case !principal(w.Subject):
		return nil, errors.New("sub is missing or malformed")
	}
	if err := w.timely(now); err != nil {
		return nil, err
	}
	c := &ForwardClaims{
		Issuer: w.Issuer, Subject: w.Subject, Audience: string(w.Audience), TenantID: w.TenantID, PolicyContext: w.PolicyContext,
		ID: w.ID, Hops: *w.Hops, ExpiresAt: time.Unix(*w.Expires, 0).UTC(),
	}
	if w.IssuedAt != nil {
		c.IssuedAt = time.Unix(*w.IssuedAt, 0).UTC()
	}
	if _, ok := tenancy.ClassRank(w.PolicyContext.DataClassification); !ok {
		return nil, errors.New("policy_context has an unknown data classification")
	}
	if region := w.PolicyContext.Region; region != "" && !id.Valid(region) {
		return nil, errors.New("policy_context has a malformed region")
	}
	for scope := range strings.FieldsSeq(w.Scope) {
		if len(c.Scopes) == maxForwardScopes || len(scope) > maxForwardName {
			return nil, errors.New("scope names too much")
		}
		c.Scopes = append(c.Scopes, tenancy.Scope(scope))
	}
	c.Actors, err = w.Actor.chain(who)
	return c, err
}

// timely checks the token's times. Seconds beyond what a clock can show are refused with the rest.
func (w *forwardWire) timely(now time.Time) error {
	const leeway = int64(ForwardTokenLeeway / time.Second)
	const life = int64(ForwardTokenLife / time.Second)
	at := now.Unix()
	switch {
	case w.Expires == nil:
		return errors.New("exp is missing")
	case *w.Expires <= at-leeway:
		return errors.New("it has expired")
	case *w.Expires > at+life+leeway:
		return errors.New("exp lies too far ahead")
	case w.IssuedAt != nil && (*w.IssuedAt > at+leeway || *w.IssuedAt > *w.Expires):
		return errors.New("iat lies ahead")
	case w.IssuedAt != nil && *w.IssuedAt < *w.Expires-life:
		return errors.New("it lives longer than a minute")
	case w.NotBefore != nil && *w.NotBefore > at+leeway:
		return errors.New("nbf lies ahead")
	}
	return nil
}

// chain reads the actors from the outermost in, and checks that the outermost is who shows the token.
func (a *forwardActor) chain(who ID) ([]ForwardActor, error) {
	if a == nil {
		return nil, errors.New("act is missing")
	}
	if a.Subject != who.String() {
		return nil, fmt.Errorf("act is %.64q, the certificate %s", a.Subject, who)
	}
	var list []ForwardActor
	for ; a != nil; a = a.Before {
		switch {
		case len(list) == MaxHops:
			return nil, fmt.Errorf("act is longer than %d", MaxHops)
		case !id.Valid(a.ClusterID):
			return nil, errors.New("act has a missing or malformed cluster_id")
		case !plainName(a.Subject):
			return nil, errors.New("act has a missing or malformed sub")
		}
		list = append(list, ForwardActor{Node: a.Subject, ClusterID: a.ClusterID})
	}
	for i, j := 0, len(list)-1; i < j; i, j = i+1, j-1 {
		list[i], list[j] = list[j], list[i]
	}
	return list, nil
}

// principal reports whether s can be a principal: an identifier, and after an '@' the trust domain that it comes from, once for
// each organisation that it came through.
func principal(s string) bool {
	for part := range strings.SplitSeq(s, "@") {
		if !id.Valid(part) {
			return false
		}
	}
	return len(s) <= maxForwardName
}

// plainName reports whether s is printable ASCII without spaces, of a bounded length.
func plainName(s string) bool {
	if s == "" || len(s) > maxForwardName {
		return false
	}
	for i := 0; i < len(s); i++ {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// Thumbprint is the SHA-256 of a certificate as a token's cnf holds it (RFC 8705, section 3.1).
func Thumbprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
