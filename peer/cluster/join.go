package cluster

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/strictjson"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/peer/trust"
)

const (
	// JoinPath is the one call of the join protocol.
	JoinPath = "/v1/cluster:join"
	// MaxJoinBody bounds what a stranger may send to JoinPath, in bytes.
	MaxJoinBody   = 64 << 10
	maxJoinAnswer = 1 << 20
	joinTimeout   = 15 * time.Second
	// tellAgain is how often joins that are refused are told of again.
	tellAgain = time.Minute
)

// JoinRequest is a new node's wish to become a member.
type JoinRequest struct {
	// Token is the join token's text; a secret.
	Token string `json:"token"`
	// PublicKey is the node's own ECDSA P-256 key, PKIX in PEM.
	PublicKey string          `json:"public_key"`
	Hosts     []string        `json:"hosts"`
	Member    registry.Member `json:"member"`
}

// JoinAnswer is all that a new member needs.
type JoinAnswer struct {
	Certificate string `json:"certificate"` // PEM
	CABundle    string `json:"ca_bundle"`   // PEM
	ClusterID   string `json:"cluster_id"`
	// Organization and TrustDomain are those of the cluster; a joiner that was told others is in the wrong place.
	Organization string   `json:"organization"`
	TrustDomain  string   `json:"trust_domain"`
	GossipKeys   [][]byte `json:"gossip_keys"`
	// Servers are the cluster addresses of the members, to reach the log through.
	Servers []string `json:"servers"`
	// GossipSeeds are the gossip addresses of the members.
	GossipSeeds []string `json:"gossip_seeds"`
	// SealKey is sent in demo mode only; elsewhere an operator gives each node its key.
	SealKey []byte `json:"seal_key,omitempty"`
}

// ServeJoins answers new nodes with calls until the door closes.
func (d *Door) ServeJoins(calls http.Handler) {
	srv := &http.Server{
		ReadHeaderTimeout: handshakeTimeout, ReadTimeout: joinTimeout, WriteTimeout: 2 * joinTimeout, MaxHeaderBytes: 8 << 10, Handler: calls,
	}
	srv.SetKeepAlivesEnabled(false)
	_ = srv.Serve(d.Listener(Join))
	_ = srv.Close()
}

// Allow refuses a source that asks to join too often. Ask it before the body is read.
func (m *Membership) Allow(source string) error {
	if m.sources.Allow(source) {
		return nil
	}
	return fault.New(fault.RateLimited, "Too many tries to join from %s; try again in a second.", source).After(time.Second)
}

// Join answers a node that asks to become a member. body is of at most MaxJoinBody bytes and has been written by anybody;
// source is whose address it came from.
func (m *Membership) Join(ctx context.Context, source, correlationID string, body []byte) (*JoinAnswer, error) {
	r, tok, pub, err := ReadJoin(body)
	if err == nil {
		var a *JoinAnswer
		if a, err = m.admit(ctx, correlationID, tok, pub, r); err == nil {
			return a, nil
		}
	}
	code := fault.CodeOf(err)
	if left, tell := m.refusals.Tell("join " + string(code)); tell {
		m.log.Warn("a join was refused", zap.String("source", source), zap.String("code", string(code)), zap.Int("left_out", left), zap.Error(err))
	}
	return nil, err
}

// ReadJoin takes the body of a join apart.
func ReadJoin(body []byte) (*JoinRequest, trust.JoinToken, *ecdsa.PublicKey, error) {
	var r JoinRequest
	if err := strictjson.Decode(body, &r); err != nil {
		return nil, trust.JoinToken{}, nil, err
	}
	tok, err := trust.ParseJoinToken(r.Token)
	if err != nil {
		return nil, tok, nil, fault.Invalid("token", "%s", fault.Of(err).Message)
	}
	pub, err := parsePublic(r.PublicKey)
	return &r, tok, pub, err
}

func parsePublic(text string) (*ecdsa.PublicKey, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, fault.Invalid("public_key", "The public key is not PEM.")
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	pub, ok := parsed.(*ecdsa.PublicKey)
	if err != nil || !ok {
		return nil, fault.Invalid("public_key", "The public key is not an ECDSA key in PKIX form.")
	}
	return pub, nil
}

// KeyHash is the SHA-256 of a public key's PKIX form, in hex: by it a token remembers who used it.
func KeyHash(pub *ecdsa.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", fmt.Errorf("cluster: public key: %w", err)
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:]), nil
}

// AskToJoin brings a new node's wish to the member at addr. It proves the cluster by the token's fingerprint before it
// shows the token.
func (d Dial) AskToJoin(ctx context.Context, addr string, key *ecdsa.PrivateKey, req JoinRequest) (*JoinAnswer, error) {
	tok, err := trust.ParseJoinToken(req.Token)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("cluster: public key: %w", err)
	}
	req.PublicKey = string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	body, err := json.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("cluster: join: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*joinTimeout)
	defer cancel()
	conn, err := d.Join(ctx, addr, tok.CA)
	if err != nil {
		return nil, fault.New(fault.Unavailable, "The cluster's door at TCP %s can't be used: %v.", addr, err).With("service", "cluster").Because(err)
	}
	defer conn.Close()
	return joinExchange(ctx, conn, addr, body)
}

func joinExchange(ctx context.Context, conn net.Conn, addr string, body []byte) (*JoinAnswer, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	broke := func(err error) (*JoinAnswer, error) {
		return nil, fault.New(fault.Unavailable, "The join call to TCP %s broke off: %v; asking again is safe.", addr, err).With("service", "cluster").Because(err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+addr+JoinPath, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("cluster: join: %w", err)
	}
	r.Header.Set("Content-Type", "application/json")
	if err := r.Write(conn); err != nil {
		return broke(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), r)
	if err != nil {
		return broke(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxJoinAnswer))
	if err != nil {
		return broke(err)
	}
	if resp.StatusCode != http.StatusOK {
		var refusal struct {
			Error struct {
				Code    fault.Code `json:"code"`
				Message string     `json:"message"`
			} `json:"error"`
		}
		if err := json.Unmarshal(raw, &refusal); err != nil || !refusal.Error.Code.Known() {
			return broke(fmt.Errorf("HTTP %d", resp.StatusCode))
		}
		return nil, fault.New(refusal.Error.Code, "The cluster at %s refused: %s", addr, refusal.Error.Message)
	}
	var answer JoinAnswer
	if err := json.Unmarshal(raw, &answer); err != nil {
		return broke(err)
	}
	return &answer, nil
}
