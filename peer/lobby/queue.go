package lobby

import (
	"net"
	"sync"
)

// backlog is how many callers wait in a Queue.
const backlog = 64

// Queue is a net.Listener of callers that were greeted. Safe for concurrent use.
type Queue struct {
	addr net.Addr
	done chan struct{}

	mu     sync.Mutex
	conns  chan net.Conn
	closed bool
}

var _ net.Listener = (*Queue)(nil)

// NewQueue returns an empty Queue; addr is what it says its address is.
func NewQueue(addr net.Addr) *Queue {
	return &Queue{addr: addr, done: make(chan struct{}), conns: make(chan net.Conn, backlog)}
}

// Put gives conn to whoever accepts next, or closes it if nobody takes them: better refused than waiting unheard.
func (q *Queue) Put(conn net.Conn) {
	if !q.put(conn) {
		_ = conn.Close()
	}
}

func (q *Queue) put(conn net.Conn) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	select {
	case q.conns <- conn:
		return true
	default:
		return false
	}
}

// Accept implements net.Listener.
func (q *Queue) Accept() (net.Conn, error) {
	select {
	case conn := <-q.conns:
		return conn, nil
	case <-q.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. It closes who still waits; connections that were accepted live on.
func (q *Queue) Close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return nil
	}
	q.closed = true
	close(q.done)
	for {
		select {
		case conn := <-q.conns:
			_ = conn.Close()
		default:
			return nil
		}
	}
}

// Addr implements net.Listener.
func (q *Queue) Addr() net.Addr { return q.addr }
