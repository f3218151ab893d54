package link

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/zaplog"
	"github.com/nexixai/agentos/peer/lobby"
	"github.com/nexixai/agentos/peer/trust"
	"github.com/nexixai/agentos/tenancy"
)

// noteAgain is how often the same caller, refused for the same reason, is in the audit again.
const noteAgain = time.Hour

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
	o      DoorOptions
	log    *zap.Logger
	porter *lobby.Porter
	queue  *lobby.Queue
	noted  *zaplog.Repeats // in the audit

	mu     sync.Mutex
	open   map[*tracked]struct{}
	closed bool
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
		o: o, log: o.Logger, queue: lobby.NewQueue(o.Listener.Addr()), noted: zaplog.NewRepeats(noteAgain), open: make(map[*tracked]struct{}),
	}
	conf := o.Credentials.FederationServer(o.Bundles, nil)
	d.porter = lobby.NewPorter(lobby.PorterOptions{
		Listener: o.Listener, Door: "federation door", Welcome: d.welcome, Refused: d.note, Logger: o.Logger,
		Server: func(conn net.Conn) *tls.Conn { return tls.Server(&tracked{Conn: conn, door: d}, conf) },
	})
	return d
}

// Refused is how many callers were turned away since the door was opened.
func (d *Door) Refused() int64 { return d.porter.Refused() }

// Addr implements net.Listener.
func (d *Door) Addr() net.Addr { return d.queue.Addr() }

// Accept implements net.Listener. The connections are *tls.Conn.
func (d *Door) Accept() (net.Conn, error) { return d.queue.Accept() }

// Close implements net.Listener. Connections that were yielded live on; see Cut.
func (d *Door) Close() error {
	d.mu.Lock()
	closed := d.closed
	d.closed = true
	d.mu.Unlock()
	if closed {
		return nil
	}
	err := d.porter.Close()
	_ = d.queue.Close()
	return err
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

// welcome yields a caller whose handshake is done.
func (d *Door) welcome(t *tls.Conn) error {
	raw := t.NetConn().(*tracked)
	if shown := t.ConnectionState().PeerCertificates; len(shown) > 0 {
		raw.leaf = shown[0]
		raw.who, _ = trust.IDOf(raw.leaf) // the handshake has proven it
	}
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		_ = t.Close()
		return nil
	}
	d.open[raw] = struct{}{}
	d.mu.Unlock()
	// From here on Cut finds it. What was cut off between the handshake and here is not let in either.
	if raw.leaf != nil {
		if _, err := trust.VerifyPeer(raw.leaf, d.o.Bundles, time.Now()); err != nil {
			return err
		}
	}
	d.queue.Put(t)
	return nil
}

// note puts a caller that was refused in the audit.
func (d *Door) note(host string, why error) {
	f, identified := errors.AsType[*fault.Error](why)
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
