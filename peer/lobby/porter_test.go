package lobby_test

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/nexixai/agentos/peer/lobby"
	"github.com/nexixai/agentos/peer/trust/trusttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// porch is a port with a porter, who lets in whoever speaks TLS unless full says why not.
type porch struct {
	*lobby.Porter
	addr    string
	queue   *lobby.Queue
	full    atomic.Pointer[error]
	refused chan string
	lines   *observer.ObservedLogs
}

// hiccup is a listener that fails once before it goes on.
type hiccup struct {
	net.Listener
	had atomic.Bool
}

func (h *hiccup) Accept() (net.Conn, error) {
	if h.had.CompareAndSwap(false, true) {
		return nil, errors.New("too many open files")
	}
	return h.Listener.Accept()
}

func mustPorch(t *testing.T) *porch {
	t.Helper()
	port, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	core, lines := observer.New(zap.InfoLevel)
	p := &porch{addr: port.Addr().String(), queue: lobby.NewQueue(port.Addr()), refused: make(chan string, 1000), lines: lines}
	conf := trusttest.New(t, "acme.test").Node("stk_a").JoinServer()
	p.Porter = lobby.NewPorter(lobby.PorterOptions{
		Listener: &hiccup{Listener: port}, Door: "side door", Logger: zap.New(core),
		Server: func(c net.Conn) *tls.Conn { return tls.Server(c, conf) },
		Welcome: func(c *tls.Conn) error {
			if why := p.full.Load(); why != nil {
				return *why
			}
			p.queue.Put(c)
			return nil
		},
		Refused: func(host string, _ error) { p.refused <- host },
	})
	t.Cleanup(func() { _, _ = p.Close(), p.queue.Close() })
	return p
}

func (p *porch) call(t *testing.T) (*tls.Conn, error) {
	t.Helper()
	raw, err := net.Dial("tcp", p.addr) //nolint:noctx // a test
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = raw.Close() })
	_ = raw.SetDeadline(time.Now().Add(20 * time.Second))
	c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}) //nolint:gosec // nobody's name matters here
	return c, c.Handshake()
}

// TestPorter_welcome: whoever is through with its handshake is yielded, also after the port failed for a moment.
func TestPorter_welcome(t *testing.T) {
	p := mustPorch(t)
	c, err := p.call(t)
	if err != nil {
		t.Fatal(err)
	}
	in, err := p.queue.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if _, err := io.WriteString(in, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Error(err)
	}
	if n := p.lines.FilterMessage("side door accept failed").Len(); n != 1 || p.Refused() != 0 {
		t.Errorf("%d lines about the port's failure, and %d refused", n, p.Refused())
	}
}

// TestPorter_refuses: each caller that is turned away is counted and told to whoever asked for that, and the log has one line
// of many.
func TestPorter_refuses(t *testing.T) {
	p := mustPorch(t)
	why := errors.New("not today")
	p.full.Store(&why)
	const callers = 5
	for range callers {
		if c, err := p.call(t); err == nil { // the client is through before the server has looked
			if _, err := c.Read(make([]byte, 1)); err == nil {
				t.Error("was let in")
			}
		}
	}
	for range callers {
		if host := <-p.refused; host != "127.0.0.1" {
			t.Errorf("told of %q", host)
		}
	}
	if n := p.Refused(); n != callers {
		t.Errorf("%d of %d counted", n, callers)
	}
	if n := p.lines.FilterMessage("side door refused a caller").Len(); n != 1 {
		t.Errorf("%d lines in the log", n)
	}
}

// TestPorter_crowd: callers who say nothing make room for the one who means it, and each that had to go is counted once.
func TestPorter_crowd(t *testing.T) {
	p := mustPorch(t)
	const silent = 300
	for range silent {
		c, err := net.Dial("tcp", p.addr) //nolint:noctx // a test
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	if _, err := p.call(t); err != nil {
		t.Fatalf("kept out by callers who say nothing: %v", err)
	}
	for range silent - 255 { // with the one that came last there were 301 for 256 places
		<-p.refused
	}
	if n := p.Refused(); n < silent-255 || n > silent {
		t.Errorf("%d counted", n)
	}
}

// TestPorter_Close: a caller in the middle of its handshake holds nothing up, and was not refused.
func TestPorter_Close(t *testing.T) {
	p := mustPorch(t)
	c, err := net.Dial("tcp", p.addr) //nolint:noctx // a test
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := p.call(t); err != nil { // by then the silent one has been taken in
		t.Fatal(err)
	}
	began := time.Now()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 4*time.Second { // its time would have run out by itself after 5 s
		t.Errorf("closing took %v", took)
	}
	if n := p.Refused(); n != 0 {
		t.Errorf("%d refused", n)
	}
}

// TestQueue: who isn't taken is closed: one too many, one who still waits when it closes, and one who comes after.
func TestQueue(t *testing.T) {
	q := lobby.NewQueue(&net.TCPAddr{})
	callers := make([]*caller, 66)
	for i := range callers[:65] {
		callers[i] = &caller{}
		q.Put(callers[i])
	}
	if callers[63].closed || !callers[64].closed {
		t.Error("not exactly 64 may wait")
	}
	if c, err := q.Accept(); err != nil || c != callers[0] {
		t.Errorf("got %v, %v", c, err)
	}
	_, _ = q.Close(), q.Close()
	callers[65] = &caller{}
	q.Put(callers[65])
	if callers[0].closed || !callers[1].closed || !callers[63].closed || !callers[65].closed {
		t.Error("closing it closes who waits, and only those")
	}
	if _, err := q.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accepting after Close: %v", err)
	}
}
