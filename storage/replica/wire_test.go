package replica_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nexixai/agentos/storage/replica"
)

// way is one direction between two nodes.
type way struct{ from, to string }

// wire connects the nodes of one test over loopback, and can cut, slow down or hold up each direction by itself. What is
// sent into a cut goes nowhere, without an error, as in a real one; connections that lost something that way are closed
// when it's mended. What was sent before a cut still arrives.
type wire struct {
	mu    sync.Mutex
	cut   map[way]bool
	lag   map[way]time.Duration
	held  map[way]chan struct{} // closed to let go
	sent  map[way]int64         // bytes
	most  map[way]int64         // of sent, after which the way is held
	conns map[*wireConn]bool
	nodes map[string]*node // by address
}

func newWire() *wire {
	return &wire{
		cut: make(map[way]bool), lag: make(map[way]time.Duration), held: make(map[way]chan struct{}), sent: make(map[way]int64),
		most: make(map[way]int64), conns: make(map[*wireConn]bool), nodes: make(map[string]*node),
	}
}

func (w *wire) isCut(from, to string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cut[way{from, to}]
}

// sever cuts from off to.
func (w *wire) sever(from, to string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut[way{from, to}] = true
}

// join ends the cuts between a and b.
func (w *wire) join(a, b string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, on := range []way{{a, b}, {b, a}} {
		delete(w.cut, on)
		for c := range w.conns {
			if c.lossy && c.way == on {
				_ = c.Conn.Close()
			}
		}
	}
}

// isolate cuts id off all others, both ways.
func (w *wire) isolate(id string, others ...string) {
	for _, o := range others {
		w.sever(id, o)
		w.sever(o, id)
	}
}

// delay has what from sends to to arrive by d later, from now on.
func (w *wire) delay(from, to string, d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lag[way{from, to}] = d
}

// hold has whoever sends from from to to wait, until mend.
func (w *wire) hold(from, to string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.held[way{from, to}] == nil {
		w.held[way{from, to}] = make(chan struct{})
	}
}

// holdAfter holds the way once n more bytes have gone over it.
func (w *wire) holdAfter(from, to string, n int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.most[way{from, to}] = w.sent[way{from, to}] + n
}

func (w *wire) isHeld(from, to string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.held[way{from, to}] != nil
}

// mend ends all cuts, delays and holds.
func (w *wire) mend() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.cut)
	clear(w.lag)
	for _, ch := range w.held {
		close(ch)
	}
	clear(w.held)
	clear(w.most)
	for c := range w.conns {
		if c.lossy {
			_ = c.Conn.Close()
		}
	}
}

// wireConn is one end of a connection.
type wireConn struct {
	net.Conn
	w *wire
	way
	gone  chan struct{} // closed with the connection
	once  sync.Once
	lossy bool // under w.mu

	mu    sync.Mutex
	line  []delayed // what's on its way
	moves bool      // somebody moves it
}

type delayed struct {
	due time.Time
	p   []byte
}

func (w *wire) keep(c net.Conn, from, to string) net.Conn {
	end := &wireConn{Conn: c, w: w, way: way{from, to}, gone: make(chan struct{})}
	w.mu.Lock()
	w.conns[end] = true
	w.mu.Unlock()
	return end
}

func (c *wireConn) Write(p []byte) (int, error) {
	c.w.mu.Lock()
	c.lossy = c.lossy || c.w.cut[c.way]
	if most := c.w.most[c.way]; most > 0 && c.w.sent[c.way] > most {
		delete(c.w.most, c.way)
		c.w.held[c.way] = make(chan struct{})
	}
	lossy, lag, held := c.lossy, c.w.lag[c.way], c.w.held[c.way]
	c.w.sent[c.way] += int64(len(p))
	c.w.mu.Unlock()
	if lossy {
		return len(p), nil
	}
	if held != nil {
		select {
		case <-held:
		case <-c.gone:
			return 0, net.ErrClosed
		}
	}
	c.mu.Lock()
	if lag == 0 && !c.moves {
		c.mu.Unlock()
		return c.Conn.Write(p)
	}
	c.line = append(c.line, delayed{time.Now().Add(lag), append([]byte(nil), p...)})
	if !c.moves {
		c.moves = true
		go c.move()
	}
	c.mu.Unlock()
	return len(p), nil
}

// move delivers what's on its way, in order, until nothing is.
func (c *wireConn) move() {
	for {
		c.mu.Lock()
		if len(c.line) == 0 {
			c.moves = false
			c.mu.Unlock()
			return
		}
		next := c.line[0]
		c.line = c.line[1:]
		c.mu.Unlock()
		t := time.NewTimer(time.Until(next.due))
		select {
		case <-t.C:
			_, _ = c.Conn.Write(next.p)
		case <-c.gone:
		}
		t.Stop()
	}
}

func (c *wireConn) Close() error {
	c.once.Do(func() { close(c.gone) })
	c.w.mu.Lock()
	delete(c.w.conns, c)
	c.w.mu.Unlock()
	return c.Conn.Close()
}

// wireStream is a node's replica.Stream.
type wireStream struct {
	net.Listener
	w  *wire
	id string
}

var _ replica.Stream = (*wireStream)(nil)

func (s *wireStream) Accept() (net.Conn, error) {
	for {
		c, err := s.Listener.Accept()
		if err != nil {
			return nil, err
		}
		var name [8]byte // who dials
		if _, err := io.ReadFull(c, name[:]); err != nil {
			_ = c.Close()
			continue
		}
		return s.w.keep(c, s.id, strings.TrimSpace(string(name[:]))), nil
	}
}

func (s *wireStream) Dial(address string, timeout time.Duration) (net.Conn, error) {
	s.w.mu.Lock()
	to := s.w.nodes[address]
	s.w.mu.Unlock()
	if to == nil || s.w.isCut(s.id, to.id) || s.w.isCut(to.id, s.id) {
		return nil, errors.New("wire: no way to " + address)
	}
	c, err := net.DialTimeout("tcp", address, timeout)
	if err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(c, "%-8s", s.id); err != nil {
		return nil, err
	}
	return s.w.keep(c, s.id, to.id), nil
}

// wireForward is a node's replica.Forwarder: it calls the leader's store, when the wire lets question and answer pass.
type wireForward struct {
	w  *wire
	id string
}

func (f wireForward) Forward(ctx context.Context, leader replica.Server, batch []byte) ([]byte, error) {
	f.w.mu.Lock()
	to := f.w.nodes[leader.Address]
	f.w.mu.Unlock()
	if to == nil {
		return nil, errors.New("wire: nobody known at " + leader.Address)
	}
	if err := f.w.pass(ctx, way{f.id, to.id}); err != nil {
		return nil, fmt.Errorf("the question: %w", err)
	}
	store := to.get()
	if store == nil {
		return nil, errors.New("wire: nobody there")
	}
	reply, err := store.HandleForward(ctx, batch)
	if err != nil {
		return nil, err
	}
	if err := f.w.pass(ctx, way{to.id, f.id}); err != nil {
		return nil, fmt.Errorf("the answer: %w", err)
	}
	return reply, nil
}

// pass goes over a way once.
func (w *wire) pass(ctx context.Context, on way) error {
	w.mu.Lock()
	cut, lag, held := w.cut[on], w.lag[on], w.held[on]
	w.mu.Unlock()
	if cut {
		return errors.New("wire: lost")
	}
	if held == nil {
		held = make(chan struct{})
		close(held)
	}
	select {
	case <-held:
	case <-ctx.Done():
		return ctx.Err()
	}
	t := time.NewTimer(lag)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// TestWire: the wire does what the tests that use it believe.
func TestWire(t *testing.T) {
	w := newWire()
	a, b := net.Pipe()
	end := w.keep(a, "a", "b")
	got := make(chan string, 8)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 8)
		for {
			n, err := b.Read(buf)
			if err != nil {
				return
			}
			got <- string(buf[:n])
		}
	}()
	send := func(text string) {
		if _, err := end.Write([]byte(text)); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	want := func(text string) {
		t.Helper()
		if g := <-got; g != text {
			t.Errorf("got %q, want %q", g, text)
		}
	}
	send("1")
	want("1")
	began := time.Now()
	w.delay("a", "b", 30*time.Millisecond)
	send("2")
	w.delay("a", "b", 0)
	send("3") // not before what was sent before it
	want("2")
	want("3")
	if took := time.Since(began); took < 30*time.Millisecond {
		t.Errorf("a delay of 30 ms took %v", took)
	}
	w.hold("a", "b")
	went := make(chan struct{})
	go func() { send("4"); close(went) }()
	w.mend()
	want("4")
	<-went
	w.delay("a", "b", 10*time.Millisecond)
	send("5")
	w.sever("a", "b")
	send("6")
	want("5") // was sent before the cut
	w.mend()
	<-done // the connection that lost something is closed
	if len(got) > 0 {
		t.Errorf("what was sent into a cut arrived: %q", <-got)
	}
	_ = end.Close()
}
