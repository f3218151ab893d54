package replica

import (
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// stream makes a raft.StreamLayer of a Stream. It ends the connections with itself: raft's transport, when it's closed,
// leaves those that it has accepted or pooled as they are, and their readers with them.
type stream struct {
	Stream
	mu    sync.Mutex
	conns map[*streamConn]bool // nil once closed
}

type streamConn struct {
	net.Conn
	s *stream
}

var _ raft.StreamLayer = (*stream)(nil)

func newStream(s Stream) *stream { return &stream{Stream: s, conns: make(map[*streamConn]bool)} }

// Dial implements raft.StreamLayer.
func (s *stream) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	return s.keep(s.Stream.Dial(string(address), timeout))
}

// Accept implements net.Listener.
func (s *stream) Accept() (net.Conn, error) { return s.keep(s.Stream.Accept()) }

func (s *stream) keep(c net.Conn, err error) (net.Conn, error) {
	if err != nil {
		return nil, err
	}
	kept := &streamConn{Conn: c, s: s}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == nil {
		_ = c.Close()
		return nil, net.ErrClosed
	}
	s.conns[kept] = true
	return kept, nil
}

// Close implements net.Listener.
func (s *stream) Close() error {
	s.mu.Lock()
	all := s.conns
	s.conns = nil
	s.mu.Unlock()
	for c := range all {
		_ = c.Conn.Close()
	}
	return s.Stream.Close()
}

// Close implements net.Conn.
func (c *streamConn) Close() error {
	c.s.mu.Lock()
	delete(c.s.conns, c)
	c.s.mu.Unlock()
	return c.Conn.Close()
}
