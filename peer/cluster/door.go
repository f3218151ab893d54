// Package cluster is the door between the nodes of one cluster: one TLS port behind which the store's log, commands to
// the leader and the joining of new nodes each have a protocol of their own, told apart by ALPN before a byte is read.
//
// Room: others. It imports peer/trust and internal/….
package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/zaplog"
	"github.com/nexixai/agentos/peer/lobby"
	"github.com/nexixai/agentos/peer/trust"
)

// Protocol names what is spoken on a connection (ALPN, RFC 7301).
type Protocol string

const (
	// Raft is the store's log between replicas.
	Raft Protocol = "agentos-raft/1"
	// Commands is what a follower asks of the leader.
	Commands Protocol = "agentos-commands/1"
	// Talk is what members ask of each other beside the log.
	Talk Protocol = "agentos-talk/1"
	// Join is the one protocol for callers without a certificate: HTTP/1.1, one call.
	Join Protocol = "agentos-join/1"
)

const (
	handshakeTimeout = 5 * time.Second
	// handshakes bounds how many strangers may be in the middle of a handshake at once.
	handshakes = 256
	backlog    = 64
	// tellAgain is how often callers that are refused are told of again.
	tellAgain = time.Minute
)

// Options says how to open a door.
type Options struct {
	// Listen is the host:port of the door; Listener, when it is set, is the port itself, already bound.
	Listen   string
	Listener net.Listener
	// Advertise is the address that others dial; empty means the one bound.
	Advertise   string
	Credentials *trust.Credentials
	// Admit decides about a node whose certificate is proven, by the member list: a removed member stays out.
	Admit trust.Admit
	// Dial reaches other doors; nil dials over TCP.
	Dial   Dial
	Logger *zap.Logger
}

// Dial opens a connection as net.Dialer's DialContext does, before TLS.
type Dial func(ctx context.Context, network, addr string) (net.Conn, error)

// Door is the open port. Safe for concurrent use.
type Door struct {
	o    Options
	log  *zap.Logger
	ln   net.Listener
	addr net.Addr

	conf  *tls.Config
	rooms map[Protocol]*room

	mu     sync.Mutex
	open   map[net.Conn]*x509.Certificate // proven peers, to be cut when they're removed
	closed bool

	lobby    *lobby.Lobby
	refusals *zaplog.Repeats
	refused  atomic.Int64
	wg       sync.WaitGroup
}

// Open listens and sorts connections by protocol until Close.
func Open(o Options) (*Door, error) {
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	ln := o.Listener
	if ln == nil {
		var err error
		if ln, err = net.Listen("tcp", o.Listen); err != nil {
			return nil, fault.New(fault.Unavailable, "The cluster's door can't listen on TCP %s: %v.", o.Listen, err).With("service", "cluster").Because(err)
		}
	}
	d := &Door{o: o, log: o.Logger, ln: ln, open: make(map[net.Conn]*x509.Certificate), lobby: lobby.New(handshakes), refusals: zaplog.NewRepeats(tellAgain)}
	if d.addr = ln.Addr(); o.Advertise != "" {
		d.addr = named(o.Advertise)
	}
	d.rooms = map[Protocol]*room{Raft: newRoom(d), Commands: newRoom(d), Talk: newRoom(d), Join: newRoom(d)}
	member := o.Credentials.ClusterServer(o.Admit)
	member.NextProtos = []string{string(Raft), string(Commands), string(Talk)}
	joiner := o.Credentials.JoinServer()
	joiner.NextProtos = []string{string(Join)}
	d.conf = &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			if len(hello.SupportedProtos) != 1 {
				return nil, fault.New(fault.Unauthorized, "A caller at the cluster's door names exactly one protocol.")
			}
			switch Protocol(hello.SupportedProtos[0]) {
			case Raft, Commands, Talk:
				return member, nil
			case Join:
				return joiner, nil
			}
			return nil, fault.New(fault.Unauthorized, "Unknown protocol at the cluster's door.")
		},
	}
	d.wg.Go(d.accept)
	return d, nil
}

// Expired reports whether this node's own certificate no longer holds.
func (d *Door) Expired() bool { return time.Now().After(d.o.Credentials.Leaf().NotAfter) }

// Addr is the address that others dial.
func (d *Door) Addr() string { return d.addr.String() }

// Listener yields the connections of one protocol.
func (d *Door) Listener(p Protocol) net.Listener { return d.rooms[p] }

func (d *Door) accept() {
	for {
		conn, err := d.ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors, say; the pause keeps the loop from spinning until some are free
			d.log.Warn("cluster door accept failed", zap.Error(err))
			time.Sleep(50 * time.Millisecond)
			continue
		}
		leave, crowded := d.lobby.Enter(conn)
		if crowded {
			d.refused.Add(1)
		}
		d.wg.Go(func() { d.greet(conn, leave) })
	}
}

func (d *Door) greet(conn net.Conn, leave func()) {
	defer leave()
	t := tls.Server(conn, d.conf)
	ctx, cancel := context.WithTimeout(context.Background(), handshakeTimeout)
	defer cancel()
	if err := t.HandshakeContext(ctx); err != nil {
		d.turnAway(conn.RemoteAddr(), err)
		dismiss(conn)
		return
	}
	leave() // it has proven itself, or that it has nothing to prove
	state := t.ConnectionState()
	var leaf *x509.Certificate
	if len(state.PeerCertificates) > 0 {
		leaf = state.PeerCertificates[0]
	}
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		_ = conn.Close()
		return
	}
	tracked := &peerConn{Conn: t, door: d, leaf: leaf}
	d.open[tracked] = leaf
	d.mu.Unlock()
	if !d.rooms[Protocol(state.NegotiatedProtocol)].put(tracked) {
		_ = tracked.Close()
	}
}

// turnAway tells of a caller that was refused: the first of each host, and then once a minute how many there were.
func (d *Door) turnAway(remote net.Addr, why error) {
	d.refused.Add(1)
	host, _, err := net.SplitHostPort(remote.String())
	if err != nil {
		host = remote.String()
	}
	left, tell := d.refusals.Tell(host)
	if !tell {
		return
	}
	d.log.Warn("cluster door refused a caller", zap.String("remote", remote.String()), zap.Int("left_out", left), zap.Error(why))
}

// Refused is how many callers were turned away since the door was opened.
func (d *Door) Refused() int64 { return d.refused.Load() }

// dismiss closes a connection so that the other side reads why: closing it with unread bytes would reset it, and the TLS
// alert would be lost on the way.
func dismiss(conn net.Conn) {
	defer conn.Close()
	t, ok := conn.(*net.TCPConn)
	if !ok || t.SetDeadline(time.Now().Add(500*time.Millisecond)) != nil || t.CloseWrite() != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, t, firstRead)
}

// Cut closes every open connection whose peer admit now refuses: a member was removed.
func (d *Door) Cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for conn, leaf := range d.open {
		if leaf == nil || d.o.Admit == nil {
			continue
		}
		if who, err := trust.IDOf(leaf); err != nil || d.o.Admit(who, leaf) != nil {
			_ = conn.(*peerConn).Conn.Close()
		}
	}
}

// Dial opens a connection to another node's door. want names the stack id that must answer; "" takes any member.
func (d *Door) Dial(ctx context.Context, addr, want string, p Protocol) (net.Conn, error) {
	conf := d.o.Credentials.ClusterClient(func(who trust.ID, leaf *x509.Certificate) error {
		if want != "" && who.Name != want {
			return fault.New(fault.Unauthorized, "At %s answers %s, not %s.", addr, who.Name, want)
		}
		if d.o.Admit != nil {
			return d.o.Admit(who, leaf)
		}
		return nil
	})
	conf.NextProtos = []string{string(p)}
	return d.o.Dial.dial(ctx, addr, conf)
}

// Join opens the one connection of a node that has no certificate yet: it believes only the CA the token pins.
func (d Dial) Join(ctx context.Context, addr, caFingerprint string) (net.Conn, error) {
	conf := trust.PinnedClient(caFingerprint, nil)
	conf.NextProtos = []string{string(Join)}
	return d.dial(ctx, addr, conf)
}

func (d Dial) dial(ctx context.Context, addr string, conf *tls.Config) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	if d == nil {
		d = new(net.Dialer).DialContext
	}
	conn, err := d(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("cluster: TCP %s: %w", addr, err)
	}
	t := tls.Client(conn, conf)
	if err := t.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("cluster: TCP %s: %w", addr, err)
	}
	return t, nil
}

// Close closes the door, and every connection that came through it.
func (d *Door) Close() error {
	err := d.ln.Close()
	d.mu.Lock()
	d.closed = true
	for conn := range d.open {
		_ = conn.(*peerConn).Conn.Close()
	}
	d.mu.Unlock()
	for _, r := range d.rooms {
		_ = r.Close()
	}
	d.wg.Wait()
	return err
}

// named is an address to be dialled by others.
type named string

func (named) Network() string  { return "tcp" }
func (n named) String() string { return string(n) }

// peerConn leaves the door's list when it's closed.
type peerConn struct {
	net.Conn
	door *Door
	leaf *x509.Certificate // nil on the join protocol
}

func (c *peerConn) Close() error {
	c.door.mu.Lock()
	delete(c.door.open, c)
	c.door.mu.Unlock()
	return c.Conn.Close()
}

// room is the net.Listener of one protocol.
type room struct {
	door  *Door
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

var _ net.Listener = (*room)(nil)

func newRoom(d *Door) *room {
	return &room{door: d, conns: make(chan net.Conn, backlog), done: make(chan struct{})}
}

func (r *room) put(c net.Conn) bool {
	select {
	case <-r.done:
		return false
	default:
	}
	select {
	case r.conns <- c:
		return true
	default:
		return false // nobody takes them: better refused than waiting unheard
	}
}

func (r *room) Accept() (net.Conn, error) {
	select {
	case c := <-r.conns:
		return c, nil
	case <-r.done:
		return nil, net.ErrClosed
	}
}

func (r *room) Close() error   { r.once.Do(func() { close(r.done) }); return nil }
func (r *room) Addr() net.Addr { return r.door.addr }
