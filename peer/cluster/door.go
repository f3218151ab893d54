// Package cluster is the door between the nodes of one cluster: one TLS port behind which the store's log, commands to
// the leader and the joining of new nodes each have a protocol of their own, told apart by ALPN before a byte is read.
//
// Room: others. It imports peer/trust and internal/….
package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/internal/fault"
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
	// handshakeTimeout is for a call of this node's own; callers have the porter's.
	handshakeTimeout = 5 * time.Second
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
	o      Options
	log    *zap.Logger
	addr   net.Addr
	porter *lobby.Porter
	queues map[Protocol]*lobby.Queue

	mu     sync.Mutex
	open   map[*peerConn]struct{}
	closed bool
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
	d := &Door{o: o, log: o.Logger, open: make(map[*peerConn]struct{}), queues: make(map[Protocol]*lobby.Queue)}
	if d.addr = ln.Addr(); o.Advertise != "" {
		d.addr = named(o.Advertise)
	}
	for _, p := range []Protocol{Raft, Commands, Talk, Join} {
		d.queues[p] = lobby.NewQueue(d.addr)
	}
	conf := d.serverConfig()
	d.porter = lobby.NewPorter(lobby.PorterOptions{
		Listener: ln, Door: "cluster door", Welcome: d.welcome, Logger: o.Logger,
		Server: func(conn net.Conn) *tls.Conn { return tls.Server(conn, conf) },
	})
	return d, nil
}

// serverConfig asks members for their certificate, and those who join for none.
func (d *Door) serverConfig() *tls.Config {
	member := d.o.Credentials.ClusterServer(d.o.Admit)
	member.NextProtos = []string{string(Raft), string(Commands), string(Talk)}
	joiner := d.o.Credentials.JoinServer()
	joiner.NextProtos = []string{string(Join)}
	return &tls.Config{
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
}

// Expired reports whether this node's own certificate no longer holds.
func (d *Door) Expired() bool { return time.Now().After(d.o.Credentials.Leaf().NotAfter) }

// Addr is the address that others dial.
func (d *Door) Addr() string { return d.addr.String() }

// Listener yields the connections of one protocol.
func (d *Door) Listener(p Protocol) net.Listener { return d.queues[p] }

// welcome sorts a caller whose handshake is done by its protocol.
func (d *Door) welcome(t *tls.Conn) error {
	state := t.ConnectionState()
	tracked := &peerConn{Conn: t, door: d}
	if len(state.PeerCertificates) > 0 {
		tracked.leaf = state.PeerCertificates[0]
	}
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		_ = t.Close()
		return nil
	}
	d.open[tracked] = struct{}{}
	d.mu.Unlock()
	d.queues[Protocol(state.NegotiatedProtocol)].Put(tracked)
	return nil
}

// Refused is how many callers were turned away since the door was opened.
func (d *Door) Refused() int64 { return d.porter.Refused() }

// Cut closes every open connection whose peer admit now refuses: a member was removed.
func (d *Door) Cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for conn := range d.open {
		if conn.leaf == nil || d.o.Admit == nil {
			continue
		}
		if who, err := trust.IDOf(conn.leaf); err != nil || d.o.Admit(who, conn.leaf) != nil {
			_ = conn.Conn.Close()
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
	d.mu.Lock()
	d.closed = true
	for conn := range d.open {
		_ = conn.Conn.Close()
	}
	d.mu.Unlock()
	err := d.porter.Close()
	for _, q := range d.queues {
		_ = q.Close()
	}
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
