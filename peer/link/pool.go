package link

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/peer/trust"
)

const (
	dialTimeout = 5 * time.Second
	// idleFor is how long an idle connection is kept; the door keeps it for longer, so that no call meets its end.
	idleFor   = 90 * time.Second
	keptIdle  = 128
	headWait  = 30 * time.Second
	maxHeader = 64 << 10
)

// pool are the connections to one door, all with the same certificate of ours.
type pool struct {
	target    Target
	clusterID string
	peering   registry.Peering
	signer    *trust.ForwardSigner
	connect   func(ctx context.Context, network, addr string) (net.Conn, error)
	transport *http.Transport
	used      time.Time // guarded by Links.mu

	mu    sync.Mutex
	conns map[*conn]struct{}
	over  bool

	tokenMu sync.Mutex
	tokens  map[string]token // of calls that change nothing
}

type token struct {
	text    string
	expires time.Time
}

func newPool(o *Options, to Target, peering *registry.Peering) (*pool, error) {
	bundle := func(domain string) ([]byte, error) {
		now, ok := o.Peerings.ByID(to.PeeringID)
		if !ok || now.State != registry.PeeringActive || now.TrustDomain != domain {
			return nil, fault.New(fault.Forbidden, "The peering %s is not in force for %s.", to.PeeringID, domain)
		}
		return now.Bundle, nil
	}
	var conf *tls.Config
	var signer *trust.ForwardSigner
	var err error
	for { // both of the same certificate, though it may be renewed in between
		conf = o.Credentials.FederationClient(bundle, peering.TrustDomain, to.StackID)
		if signer, err = o.Credentials.ForwardSigner(); err != nil {
			return nil, err
		}
		if bytes.Equal(conf.Certificates[0].Certificate[0], signer.Leaf().Raw) {
			break
		}
	}
	p := &pool{
		target: to, connect: o.Dial, clusterID: o.ClusterID, peering: *peering, signer: signer, used: time.Now(), conns: make(map[*conn]struct{}), tokens: make(map[string]token),
	}
	p.transport = &http.Transport{
		DialTLSContext: func(ctx context.Context, _, addr string) (net.Conn, error) { return p.dial(ctx, addr, conf) },
		TLSNextProto:   map[string]func(string, *tls.Conn) http.RoundTripper{}, // HTTP/1.1 alone
		MaxIdleConns:   keptIdle, MaxIdleConnsPerHost: keptIdle, IdleConnTimeout: idleFor, ResponseHeaderTimeout: headWait,
		MaxResponseHeaderBytes: maxHeader, DisableCompression: true,
	}
	return p, nil
}

// serves reports whether the pool's connections are to what peering names now.
func (p *pool) serves(now *registry.Peering) bool {
	return now.TrustDomain == p.peering.TrustDomain && now.ClusterID == p.peering.ClusterID && bytes.Equal(now.Bundle, p.peering.Bundle)
}

// retire lets idle connections go, and the others when they're idle.
func (p *pool) retire() {
	p.mu.Lock()
	p.over = true
	p.mu.Unlock()
	p.transport.CloseIdleConnections()
}

// close ends all connections.
func (p *pool) close() {
	p.mu.Lock()
	p.over = true
	conns := p.conns
	p.conns = nil
	p.mu.Unlock()
	for c := range conns {
		_ = c.Close()
	}
	p.transport.CloseIdleConnections()
}

// do makes one call.
func (p *pool) do(ctx context.Context, r *Request) (*http.Response, error) {
	req, err := p.request(ctx, r)
	if err != nil {
		return nil, &failure{unsent: true, err: err}
	}
	var s sent
	req = req.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: s.took}))
	resp, err := p.transport.RoundTrip(req)
	if err != nil {
		return nil, p.broken(ctx, err, s.seal())
	}
	p.mu.Lock()
	over := p.over
	p.mu.Unlock()
	if over {
		p.transport.CloseIdleConnections()
	}
	if most := r.MaxAnswer; most >= 0 {
		if most == 0 {
			most = DefaultMaxAnswer
		}
		resp.Body = &bounded{resp.Body, most}
	}
	return resp, nil
}

// request is r as it goes on the wire. It has no Idempotency-Key and no way to get its body again: net/http resends what has
// either.
func (p *pool) request(ctx context.Context, r *Request) (*http.Request, error) {
	var body io.Reader
	if r.Body != nil {
		body = struct{ io.Reader }{bytes.NewReader(r.Body)}
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, "https://"+p.target.Address+r.Path, body)
	if err != nil {
		return nil, fmt.Errorf("link: %w", err)
	}
	for name, values := range r.Header {
		req.Header[name] = values
	}
	req.Header.Del("Idempotency-Key")
	req.Header.Del("X-Idempotency-Key")
	if r.Body != nil {
		req.ContentLength = int64(len(r.Body))
		req.Header.Set("Content-Type", "application/json")
	}
	if r.For == nil {
		return req, nil
	}
	text, err := p.token(r)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+text)
	return req, nil
}

// reuseMargin is how long before its end a token isn't used again.
const reuseMargin = 15 * time.Second

// token signs for whom the call is. A call that changes nothing may use one again.
func (p *pool) token(r *Request) (string, error) {
	claims := *r.For
	claims.Audience = p.peering.ClusterID
	now := time.Now()
	reads := (r.Method == http.MethodGet || r.Method == http.MethodHead) && claims.ID == ""
	var name string
	if reads {
		name = fmt.Sprintf("%q %q %q %+v %+v %d", claims.Subject, claims.TenantID, claims.Scopes, claims.PolicyContext, claims.Actors, claims.Hops)
		p.tokenMu.Lock()
		defer p.tokenMu.Unlock()
		if t, ok := p.tokens[name]; ok && now.Add(reuseMargin).Before(t.expires) {
			return t.text, nil
		}
	}
	if claims.ID == "" {
		claims.ID = newJTI()
	}
	text, expires, err := p.signer.Sign(claims, p.clusterID, now)
	if err != nil || !reads {
		return text, err
	}
	for old, t := range p.tokens {
		if !now.Before(t.expires) {
			delete(p.tokens, old)
		}
	}
	p.tokens[name] = token{text, expires}
	return text, nil
}

// broken says why there is no answer.
func (p *pool) broken(ctx context.Context, err error, unsent bool) error {
	if own := context.Cause(ctx); own != nil {
		err = own
	}
	code := fault.Unavailable
	if errors.Is(err, context.DeadlineExceeded) {
		code = fault.Timeout
	}
	f := fault.New(code, "The peer %s does not answer at TCP %s: %v.", p.peering.Organization, p.target.Address, reason(err)).Because(err)
	return &failure{unsent: unsent, err: f.With("service", "federation").With("peer", p.peering.Organization)}
}

// reason is the innermost word of an error.
func reason(err error) string {
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return f.Message
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" {
		return "it does not accept this node's certificate (" + op.Err.Error() + "): the peering may be suspended or revoked there"
	} else if ok && op.Err != nil {
		return op.Op + ": " + op.Err.Error()
	}
	return err.Error()
}

// sent follows on which connections a call was written.
type sent struct {
	mu    sync.Mutex
	taken []mark
}

// mark is a connection, and how much had been written to it before the call.
type mark struct {
	c      *conn
	before int64
}

func (s *sent) took(info httptrace.GotConnInfo) {
	c, ok := info.Conn.(*conn)
	if !ok {
		return
	}
	s.mu.Lock()
	s.taken = append(s.taken, mark{c, c.written.Load()})
	s.mu.Unlock()
}

// seal ends the writing, and reports whether there was none.
func (s *sent) seal() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !slices.ContainsFunc(s.taken, func(m mark) bool { return m.c.seal() != m.before })
}

// conn counts what is written to a connection, so that a call that failed can be told from one that was never made.
type conn struct {
	net.Conn
	p       *pool
	written atomic.Int64

	mu     sync.Mutex
	sealed bool
}

// Write implements net.Conn.
func (c *conn) Write(b []byte) (int, error) {
	c.mu.Lock()
	if c.sealed {
		c.mu.Unlock()
		return 0, net.ErrClosed
	}
	c.written.Add(int64(len(b))) // before it's done: what has begun may have arrived
	c.mu.Unlock()
	return c.Conn.Write(b)
}

// seal lets nothing more be written, and returns how much was.
func (c *conn) seal() int64 {
	c.mu.Lock()
	c.sealed = true
	n := c.written.Load()
	c.mu.Unlock()
	_ = c.Close() // it's of no use to anybody any more
	return n
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.p.mu.Lock()
	delete(c.p.conns, c)
	c.p.mu.Unlock()
	return c.Conn.Close()
}

// dial opens a connection and has it say a word: in TLS 1.3 a server that refuses our certificate is heard only then, and
// no call shall be the one to hear it.
func (p *pool) dial(ctx context.Context, addr string, conf *tls.Config) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	tcp, err := p.connect(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	raw := tls.Client(tcp, conf)
	if err := raw.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, tcp.Close())
	}
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	err = greet(raw, addr)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	c := &conn{Conn: raw, p: p}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conns == nil {
		return nil, errors.Join(fault.New(fault.Forbidden, "The peering %s is not in force.", p.target.PeeringID), raw.Close())
	}
	p.conns[c] = struct{}{}
	return c, nil
}

// greet asks how the door is. Any answer will do: it has taken our certificate.
func greet(raw net.Conn, addr string) error {
	if _, err := io.WriteString(raw, "GET /v1/federation/health HTTP/1.1\r\nHost: "+addr+"\r\n\r\n"); err != nil {
		return err
	}
	in := bufio.NewReader(io.LimitReader(raw, maxHeader))
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.Close || in.Buffered() > 0 {
		return errors.New("the door does not keep connections")
	}
	return nil
}
