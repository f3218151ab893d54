package lobby

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/zaplog"
)

const (
	handshakeTimeout = 5 * time.Second
	// handshakes bounds how many strangers may be in the middle of a handshake at once.
	handshakes = 256
	// tellAgain is how often callers that are refused are told of again.
	tellAgain = time.Minute
	// pause is for a port that can't take callers: out of descriptors, say.
	pause = 50 * time.Millisecond
	// lastWords bounds the time and the bytes that a refused caller is listened to, so that it reads why.
	lastWords      = 500 * time.Millisecond
	lastWordsBytes = 16 << 10
)

// PorterOptions says how to greet callers. All but Refused and Logger have to be given.
type PorterOptions struct {
	Listener net.Listener
	// Door is the door's name in the log: "cluster door".
	Door string
	// Server begins the handshake with a caller.
	Server func(net.Conn) *tls.Conn
	// Welcome takes over a caller whose handshake is done. An error turns it away.
	Welcome func(*tls.Conn) error
	// Refused, if it's there, is called with every caller that was turned away, and where it called from, without its port.
	Refused func(host string, why error)
	Logger  *zap.Logger
}

// Porter greets the callers at one port until Close. Safe for concurrent use.
type Porter struct {
	o        PorterOptions
	ctx      context.Context
	cancel   context.CancelFunc
	lobby    *Lobby
	refusals *zaplog.Repeats
	refused  atomic.Int64
	work     sync.WaitGroup
}

// NewPorter begins to greet.
func NewPorter(o PorterOptions) *Porter {
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	p := &Porter{o: o, lobby: New(handshakes), refusals: zaplog.NewRepeats(tellAgain)}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.work.Go(p.accept)
	return p
}

// Close closes the port, gives up the callers that are in the middle of their handshake, and waits for them to be gone.
func (p *Porter) Close() error {
	p.cancel()
	err := p.o.Listener.Close()
	p.work.Wait()
	return err
}

// Refused is how many callers were turned away so far.
func (p *Porter) Refused() int64 { return p.refused.Load() }

func (p *Porter) accept() {
	for {
		conn, err := p.o.Listener.Accept()
		if err == nil {
			leave := p.lobby.Enter(conn)
			p.work.Go(func() { p.greet(conn, leave) })
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		p.o.Logger.Warn(p.o.Door+" accept failed", zap.Error(err))
		select {
		case <-p.ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

func (p *Porter) greet(conn net.Conn, leave func()) {
	defer leave()
	t := p.o.Server(conn)
	ctx, cancel := context.WithTimeout(p.ctx, handshakeTimeout)
	defer cancel()
	if err := t.HandshakeContext(ctx); err != nil {
		if p.ctx.Err() == nil {
			p.turnAway(conn.RemoteAddr(), err)
		}
		dismiss(conn)
		return
	}
	leave() // it has proven itself, or that it has nothing to prove
	if err := p.o.Welcome(t); err != nil {
		p.turnAway(conn.RemoteAddr(), err)
		_ = t.Close()
	}
}

// turnAway tells of a caller that was refused: the first of each host and reason, and then once a minute how many there
// were.
func (p *Porter) turnAway(remote net.Addr, why error) {
	p.refused.Add(1)
	host, _, err := net.SplitHostPort(remote.String())
	if err != nil {
		host = remote.String()
	}
	line := host
	if f, ok := errors.AsType[*fault.Error](why); ok {
		line += " " + string(f.Code)
	}
	if left, tell := p.refusals.Tell(line); tell {
		p.o.Logger.Warn(p.o.Door+" refused a caller", zap.String("protocol", "TLS"), zap.Stringer("remote", remote), zap.Stringer("local", p.o.Listener.Addr()), zap.Int("left_out", left), zap.Error(why))
	}
	if p.o.Refused != nil {
		p.o.Refused(host, why)
	}
}

// dismiss closes a connection so that the other side reads why: closing it with unread bytes would reset it, and the TLS
// alert would be lost on the way.
func dismiss(conn net.Conn) {
	defer conn.Close()
	t, ok := conn.(*net.TCPConn)
	if !ok || t.SetDeadline(time.Now().Add(lastWords)) != nil || t.CloseWrite() != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, t, lastWordsBytes)
}
