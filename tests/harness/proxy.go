package harness

import (
	"net"
	"sync"
	"testing"
	"time"
)

// Proxy passes TCP between two parties on, until it's told to do worse. What passes is encrypted, so it knows requests by
// their size alone.
type Proxy struct {
	ln net.Listener

	mu       sync.Mutex
	to       string
	cut      bool
	gate     chan struct{} // closed while bytes pass
	passages map[*passage]struct{}
	// swallow is how many answers are still to be lost, of requests of at least size bytes.
	swallow, size int
	swallowed     int
}

// passage is one connection through a Proxy.
type passage struct {
	p              *Proxy
	caller, callee net.Conn
	done           chan struct{}
	once           sync.Once

	mu    sync.Mutex
	burst int // bytes from the caller since the callee spoke last
}

// NewProxy opens a proxy on a free port of loopback. It ends with the test.
func NewProxy(tb testing.TB) *Proxy {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	p := &Proxy{ln: ln, gate: make(chan struct{}), passages: make(map[*passage]struct{})}
	close(p.gate)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			all.Go(func() { p.pass(conn) })
		}
	})
	tb.Cleanup(func() { _ = ln.Close(); p.Cut(); p.Thaw(); all.Wait() })
	return p
}

// Addr is where the proxy listens, HOST:PORT.
func (p *Proxy) Addr() string { return p.ln.Addr().String() }

// To says where connections lead from now on.
func (p *Proxy) To(addr string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.to = addr
}

// Cut ends every connection and lets no other through, until Heal.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = true
	for c := range p.passages {
		c.end()
	}
}

// Heal lets connections through again.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cut = false
}

// Freeze stops every byte on its way, and closes nothing, until Thaw.
func (p *Proxy) Freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.gate:
		p.gate = make(chan struct{})
	default:
	}
}

// Thaw lets bytes pass again.
func (p *Proxy) Thaw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.gate:
	default:
		close(p.gate)
	}
}

// Swallow loses the next n answers to requests of at least size bytes: the request has got through whole, and when the first
// byte comes back its connection is cut instead.
func (p *Proxy) Swallow(n, size int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.swallow, p.size = n, size
}

// Swallowed is how many answers were lost so far.
func (p *Proxy) Swallowed() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.swallowed
}

func (p *Proxy) pass(caller net.Conn) {
	c := &passage{p: p, caller: caller, done: make(chan struct{})}
	p.mu.Lock()
	to, cut := p.to, p.cut
	p.mu.Unlock()
	callee, err := net.DialTimeout("tcp", to, 5*time.Second)
	if cut || err != nil {
		if err == nil {
			_ = callee.Close()
		}
		_ = caller.Close()
		return
	}
	c.callee = callee
	p.mu.Lock()
	p.passages[c] = struct{}{}
	if p.cut { // meanwhile
		c.end()
	}
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.passages, c)
		p.mu.Unlock()
	}()
	var both sync.WaitGroup
	both.Go(func() { c.copy(c.callee, c.caller, c.asked) })
	both.Go(func() { c.copy(c.caller, c.callee, c.answered) })
	both.Wait()
}

// end breaks the connection off on both sides.
func (c *passage) end() {
	c.once.Do(func() {
		close(c.done)
		_ = c.caller.Close()
		_ = c.callee.Close()
	})
}

// copy passes bytes on as long as may says so.
func (c *passage) copy(to, from net.Conn, may func(n int) bool) {
	defer c.end()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			c.p.mu.Lock()
			gate := c.p.gate
			c.p.mu.Unlock()
			select {
			case <-gate:
			case <-c.done:
				return
			}
			if !may(n) {
				return
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (c *passage) asked(n int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.burst += n
	return true
}

func (c *passage) answered(int) bool {
	c.mu.Lock()
	burst := c.burst
	c.burst = 0
	c.mu.Unlock()
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	if c.p.swallow == 0 || burst < c.p.size {
		return true
	}
	c.p.swallow--
	c.p.swallowed++
	return false
}
