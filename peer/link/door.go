package link

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/zaplog"
	"github.com/nexixai/agentos/peer/lobby"
	"github.com/nexixai/agentos/peer/trust"
	"github.com/nexixai/agentos/tenancy"
)

const (
	handshakeTimeout = 5 * time.Second
	// handshakes bounds how many strangers may be in the middle of a handshake at once.
	handshakes = 256
	backlog    = 64
	// tellAgain is how often callers that are refused are told of again.
	tellAgain = time.Minute
	// noteAgain is how often the same caller, refused for the same reason, is in the audit again.
	noteAgain = time.Hour
)

// DoorOptions says how to open a federation door.
type DoorOptions struct {
	// Listener is the port, already bound.
	Listener    net.Listener
	Credentials *trust.Credentials
	// Bundles names the CA of a trust domain whose peering is in force, or why there is none.
	Bundles trust.Bundles
	// Denials takes note of callers that are refused; nil means that they are only logged.
	Denials interface{ Refused(tenancy.AuditRecord) }
	Logger  *zap.Logger
}

// Door is the listener of the federation door. It yields connections whose handshake is done: of nodes of other
// organisations, proven, and of callers without a certificate. Why somebody was refused is for this side's log and audit;
// the other side sees that its certificate is bad, and no more. Safe for concurrent use.
type Door struct {
	o     DoorOptions
	log   *zap.Logger
	conf  *tls.Config
	conns chan net.Conn
	done  chan struct{}

	mu     sync.Mutex
	open   map[*tracked]struct{}
	closed bool

	lobby    *lobby.Lobby
	refusals *zaplog.Repeats // in the log
	noted    *zaplog.Repeats // in the audit
	refused  atomic.Int64
	wg       sync.WaitGroup
}

var _ net.Listener = (*Door)(nil)

// tracked is a caller's connection below TLS. It leaves the door's list when it's closed.
type tracked struct {
	net.Conn
	door *Door
	who  trust.ID          // zero: no certificate
	leaf *x509.Certificate // proves who, by the bundle that was kept then
}

func (c *tracked) Close() error {
	c.door.mu.Lock()
	delete(c.door.open, c)
	c.door.mu.Unlock()
	return c.Conn.Close()
}

// OpenDoor greets callers until Close.
func OpenDoor(o DoorOptions) *Door {
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	d := &Door{
		o: o, log: o.Logger, conf: o.Credentials.FederationServer(o.Bundles, nil), conns: make(chan net.Conn, backlog), done: make(chan struct{}),
		open: make(map[*tracked]struct{}), lobby: lobby.New(handshakes), refusals: zaplog.NewRepeats(tellAgain), noted: zaplog.NewRepeats(noteAgain),
	}
	d.wg.Go(d.accept)
	return d
}

// Refused is how many callers were turned away since the door was opened.
func (d *Door) Refused() int64 { return d.refused.Load() }

// Addr implements net.Listener.
func (d *Door) Addr() net.Addr { return d.o.Listener.Addr() }

// Accept implements net.Listener. The connections are *tls.Conn.
func (d *Door) Accept() (net.Conn, error) {
	select {
	case c := <-d.conns:
		return c, nil
	case <-d.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. Connections that were yielded live on; see Cut.
func (d *Door) Close() error {
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		return nil
	}
	d.closed = true
	d.mu.Unlock()
	close(d.done)
	err := d.o.Listener.Close()
	d.wg.Wait()
	for {
		select {
		case c := <-d.conns:
			_ = c.Close()
		default:
			return err
		}
	}
}

// Cut closes the connections whose certificates the bundles of now don't vouch for: of a peering that isn't in force, and of
// one that was revoked and made anew with another CA before this node heard of either. kept answers from memory.
func (d *Door) Cut(kept trust.Bundles) {
	d.mu.Lock()
	open := slices.Collect(maps.Keys(d.open))
	d.mu.Unlock()
	var out []*tracked
	for _, c := range open {
		if c.leaf == nil {
			continue
		}
		if _, err := trust.VerifyPeer(c.leaf, kept, time.Now()); err != nil {
			out = append(out, c)
		}
	}
	for _, c := range out {
		d.log.Info("cut a connection: its peering is not in force", zap.Stringer("peer", c.who), zap.Stringer("remote", c.RemoteAddr()))
		_ = c.Close()
	}
}

func (d *Door) accept() {
	for {
		conn, err := d.o.Listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors, say; the pause keeps the loop from spinning until some are free
			d.log.Warn("federation door accept failed", zap.Error(err))
			select {
			case <-d.done:
				return
			case <-time.After(50 * time.Millisecond):
			}
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
	raw := &tracked{Conn: conn, door: d}
	t := tls.Server(raw, d.conf)
	ctx, cancel := context.WithTimeout(context.Background(), handshakeTimeout)
	defer cancel()
	if err := t.HandshakeContext(ctx); err != nil {
		d.turnAway(conn, err)
		dismiss(conn)
		return
	}
	leave() // it has proven itself, or that it has nothing to prove
	var leaf *x509.Certificate
	if shown := t.ConnectionState().PeerCertificates; len(shown) > 0 {
		leaf = shown[0]
		raw.who, _ = trust.IDOf(leaf) // the handshake has proven it
		raw.leaf = leaf
	}
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		_ = t.Close()
		return
	}
	d.open[raw] = struct{}{}
	d.mu.Unlock()
	// From here on Cut finds it. What was cut off between the handshake and here is not let in either.
	if leaf != nil {
		if _, err := trust.VerifyPeer(leaf, d.o.Bundles, time.Now()); err != nil {
			d.turnAway(conn, err)
			_ = t.Close()
			return
		}
	}
	select {
	case d.conns <- t:
	default:
		_ = t.Close() // nobody takes them: better refused than waiting unheard
	}
}

// turnAway tells of a caller that was refused: the first of each host and reason, and then once a minute how many there
// were.
func (d *Door) turnAway(conn net.Conn, why error) {
	d.refused.Add(1)
	remote := conn.RemoteAddr().String()
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		host = remote
	}
	f, identified := errors.AsType[*fault.Error](why)
	line := host
	if identified {
		line += " " + string(f.Code)
	}
	if left, tell := d.refusals.Tell(line); tell {
		d.log.Warn("federation door refused a caller", zap.String("protocol", "TLS"), zap.String("remote", remote), zap.Stringer("local", d.Addr()), zap.Int("left_out", left), zap.Error(why))
	}
	if d.o.Denials == nil || !identified { // what isn't TLS, or broke off, was no attempt to be somebody
		return
	}
	left, tell := d.noted.Tell(host + " " + f.Message) // a peer that was suspended goes on asking
	if !tell {
		return
	}
	d.o.Denials.Refused(tenancy.AuditRecord{
		Principal: "anonymous", Action: "federation.connect", Resource: "federation", Outcome: string(f.Code),
		Details: map[string]any{"source": host, "reason": f.Message, "left_out": left, "protocol": "TLS", "address": d.Addr().String()},
	})
}

// dismiss closes a connection so that the other side reads why: closing it with unread bytes would reset it, and the TLS
// alert would be lost on the way.
func dismiss(conn net.Conn) {
	defer conn.Close()
	t, ok := conn.(*net.TCPConn)
	if !ok || t.SetDeadline(time.Now().Add(500*time.Millisecond)) != nil || t.CloseWrite() != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, t, 16<<10)
}
