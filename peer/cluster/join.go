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
	"golang.org/x/time/rate"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/peer/trust"
)

const (
	// JoinPath is the one call of the join protocol.
	JoinPath = "/v1/cluster:join"
	// maxJoinBody bounds what a stranger may send, in bytes.
	maxJoinBody   = 64 << 10
	maxJoinAnswer = 1 << 20
	joinTimeout   = 15 * time.Second
	// joinsPerSecond and joinBurst bound strangers' tries at one door. Tokens can't be guessed; this bounds the work.
	joinsPerSecond = 5
	joinBurst      = 20
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

// Admission decides about a join whose token parsed: it commits the join, and signs. Errors with a fault code go back to
// the caller; others are hidden.
type Admission func(ctx context.Context, tok trust.JoinToken, pub *ecdsa.PublicKey, r JoinRequest) (*JoinAnswer, error)

// ServeJoins answers new nodes until the door closes.
func (d *Door) ServeJoins(admit Admission) {
	limit := rate.NewLimiter(joinsPerSecond, joinBurst)
	srv := &http.Server{
		ReadHeaderTimeout: handshakeTimeout, ReadTimeout: joinTimeout, WriteTimeout: 2 * joinTimeout, MaxHeaderBytes: 8 << 10,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			answer, err := d.joinCall(r, limit, admit)
			w.Header().Set("Content-Type", "application/json")
			if err == nil {
				_ = json.NewEncoder(w).Encode(answer)
				return
			}
			f := fault.Of(err)
			if left, tell := d.refusals.Tell("join " + string(f.Code)); tell {
				d.log.Warn("a join was refused", zap.String("remote", r.RemoteAddr), zap.String("code", string(f.Code)), zap.Int("left_out", left), zap.Error(err))
			}
			w.WriteHeader(joinStatus(f.Code))
			_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{"code": f.Code, "message": f.Message, "retryable": f.Code.Retryable(), "details": f.Details}})
		}),
	}
	srv.SetKeepAlivesEnabled(false)
	_ = srv.Serve(d.Listener(Join))
	_ = srv.Close()
}

// joinStatus is a coarse HTTP status: the caller reads the code in the body.
func joinStatus(c fault.Code) int {
	switch c {
	case fault.InvalidRequest:
		return http.StatusBadRequest
	case fault.Unauthorized:
		return http.StatusUnauthorized
	case fault.Forbidden:
		return http.StatusForbidden
	case fault.NotFound:
		return http.StatusNotFound
	case fault.RateLimited:
		return http.StatusTooManyRequests
	case fault.Unavailable:
		return http.StatusServiceUnavailable
	case fault.Conflict, fault.UnsupportedCapability:
		return http.StatusConflict
	}
	return http.StatusInternalServerError
}

func (d *Door) joinCall(r *http.Request, limit *rate.Limiter, admit Admission) (*JoinAnswer, error) {
	if r.Method != http.MethodPost || r.URL.Path != JoinPath {
		return nil, fault.New(fault.NotFound, "The join protocol has one call, POST %s.", JoinPath)
	}
	if !limit.Allow() {
		return nil, fault.New(fault.RateLimited, "Too many nodes ask to join at once; try again in a second.").After(time.Second)
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxJoinBody+1))
	if err != nil || len(body) > maxJoinBody {
		return nil, fault.New(fault.InvalidRequest, "The join request does not fit in %d bytes, or broke off.", maxJoinBody)
	}
	var req JoinRequest
	if err := json.Unmarshal(body, &req); err != nil {
		return nil, fault.New(fault.InvalidRequest, "The join request is not the JSON it should be.")
	}
	tok, err := trust.ParseJoinToken(req.Token)
	if err != nil {
		return nil, err
	}
	pub, err := parsePublic(req.PublicKey)
	if err != nil {
		return nil, err
	}
	return admit(r.Context(), tok, pub, req)
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
