package nodetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/nexixai/agentos/node"
)

// Network is what the nodes of one test reach each other through. Safe for concurrent use.
type Network struct {
	tb     testing.TB
	subnet string // the first three bytes of every node's address

	mu      sync.Mutex
	nodes   map[string]*Node // by address
	paths   map[path]state
	changed chan struct{} // closed, and made anew, when paths changes

	ctx    context.Context // the network's life
	cancel context.CancelFunc
	wg     sync.WaitGroup // connections
}

// path is one direction between two addresses.
type path struct{ from, to string }

// state is what a path does to what is sent on it.
type state struct {
	cut   bool
	delay time.Duration
}

// NewNetwork returns a network without nodes. It ends with the test, after its nodes.
func NewNetwork(tb testing.TB) *Network {
	n := &Network{
		tb: tb, subnet: fmt.Sprintf("127.%d.%d", 1+rand.IntN(254), rand.IntN(255)),
		nodes: make(map[string]*Node), paths: make(map[path]state), changed: make(chan struct{}),
	}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	tb.Cleanup(func() { n.cancel(); n.wg.Wait() })
	return n
}

// Heal mends all cuts and ends all delays.
func (n *Network) Heal() { n.change(func(paths map[path]state) { clear(paths) }) }

func (n *Network) change(do func(map[path]state)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	do(n.paths)
	close(n.changed)
	n.changed = make(chan struct{})
}

// both changes the two directions between a and b.
func (n *Network) both(a, b *Node, do func(*state)) {
	n.change(func(paths map[path]state) {
		for _, p := range []path{{a.addr, b.addr}, {b.addr, a.addr}} {
			s := paths[p]
			do(&s)
			paths[p] = s
		}
	})
}

func (n *Network) look(p path) (state, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.paths[p], n.changed
}

// pass waits until p carries something that was sent at that time, or ctx ends.
func (n *Network) pass(ctx context.Context, p path, sent time.Time) error {
	for {
		s, changed := n.look(p)
		wait := time.Until(sent.Add(s.delay))
		if !s.cut && wait <= 0 {
			return ctx.Err()
		}
		timer := time.NewTimer(wait)
		due := timer.C
		if s.cut {
			due = nil
		}
		select {
		case <-due:
		case <-changed:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// reach is the network as the node at one address has it.
type reach struct {
	*Network
	from string
}

var _ node.Network = reach{}

// Datagram implements node.Network.
func (r reach) Datagram(addr string, send func()) {
	p := path{r.from, host(addr)}
	switch s, _ := r.look(p); {
	case s.cut:
	case s.delay > 0:
		time.AfterFunc(s.delay, func() {
			if s, _ := r.look(p); !s.cut && r.ctx.Err() == nil {
				send()
			}
		})
	default:
		send()
	}
}

// DialContext implements node.Network.
func (r reach) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	out := path{r.from, host(addr)}
	back := path{out.to, out.from}
	for _, p := range []path{out, back} {
		if err := r.pass(ctx, p, time.Now()); err != nil {
			return nil, fmt.Errorf("dial %s from %s: %w", addr, r.from, err)
		}
	}
	far, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	near, inner := net.Pipe()
	r.carry(out, inner, far)
	r.carry(back, far, inner)
	return end{near, far.LocalAddr(), far.RemoteAddr()}, nil
}

// end is the dialler's end of a connection.
type end struct {
	net.Conn
	local, remote net.Addr
}

func (e end) LocalAddr() net.Addr  { return e.local }
func (e end) RemoteAddr() net.Addr { return e.remote }

// parcel is what was read at once.
type parcel struct {
	bytes []byte
	sent  time.Time
}

// window is how many parcels may be on their way on one connection.
const window = 256

// carry takes what comes from one end to the other along p, and its end, too.
func (n *Network) carry(p path, from, to net.Conn) {
	under := make(chan parcel, window)
	ctx, cancel := context.WithCancel(n.ctx)
	stop := context.AfterFunc(n.ctx, func() { _ = from.Close() })
	n.wg.Go(func() {
		defer stop()
		defer close(under)
		for {
			b := make([]byte, 16<<10)
			read, err := from.Read(b)
			if read > 0 {
				select {
				case under <- parcel{b[:read], time.Now()}:
				case <-ctx.Done():
					return
				}
			}
			if err != nil {
				return
			}
		}
	})
	n.wg.Go(func() {
		defer cancel()
		defer to.Close()
		for {
			u, open := <-under
			if !open {
				u.sent = time.Now() // the end travels as its last word does
			}
			if n.pass(ctx, p, u.sent) != nil || !open {
				return
			}
			if _, err := to.Write(u.bytes); err != nil {
				_ = from.Close()
				return
			}
		}
	})
}

func host(addr string) string {
	h, _, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	return h
}
