package api

import (
	"context"
	"errors"
	"net"
	"net/http"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/internal/fault"
)

// maxStreams bounds the event streams of one node, maxTenantStreams those of one tenant: three in four, so that nobody
// takes all.
const (
	maxStreams       = 16_384
	maxTenantStreams = maxStreams / 4 * 3
)

// streams owns every open event stream: the server's own shutdown does not know connections that were taken over.
type streams struct {
	mu     sync.Mutex
	n      int
	of     map[string]int // by tenant
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

func newStreams() *streams {
	ctx, cancel := context.WithCancel(context.Background())
	return &streams{of: make(map[string]int), ctx: ctx, cancel: cancel}
}

// begin counts a tenant's stream in, which ends when the node drains. The stream's owner calls end.
func (s *streams) begin(tenantID string) (*slot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return nil, fault.New(fault.Unavailable, "This node is stopping; ask another.").With("service", "node").After(time.Second)
	}
	if s.n >= maxStreams {
		return nil, fault.New(fault.RateLimited, "This node follows %d streams, as many as it takes; close some or ask another.", maxStreams).After(time.Second)
	}
	if s.of[tenantID] >= maxTenantStreams {
		return nil, fault.New(fault.RateLimited, "This node follows %d streams of this tenant, as many as one may have; close some or ask another.", maxTenantStreams).After(time.Second)
	}
	s.n++
	s.of[tenantID]++
	s.wg.Add(1)
	l := &slot{s: s, tenantID: tenantID}
	l.ctx, l.cancel = context.WithCancel(s.ctx)
	return l, nil
}

// slot is a stream's place among those of the node.
type slot struct {
	s        *streams
	tenantID string
	ctx      context.Context
	cancel   context.CancelFunc
}

func (l *slot) end() {
	l.cancel()
	l.s.mu.Lock()
	l.s.n--
	if l.s.of[l.tenantID]--; l.s.of[l.tenantID] == 0 {
		delete(l.s.of, l.tenantID)
	}
	l.s.mu.Unlock()
	l.s.wg.Done()
}

func (s *streams) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n
}

func (s *streams) drain(ctx context.Context) {
	s.cancel()
	done := make(chan struct{})
	go func() { s.wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// sink takes whole frames. finish says that the stream is whole; close ends it, whole or not.
type sink interface {
	write(frames []byte) error
	finish()
	close()
}

// eventStream carries one cursor's events to one client.
type eventStream struct {
	s      *Server
	cursor *event.Cursor
	// allowed checks the reader's rights again: a key may have been revoked, a tenant disabled, a peering suspended.
	allowed func(context.Context) error
	first   []byte // what the stream begins with
	// patience, when set, is how long a quiet stream stays where it is before it moves to a connection of its own.
	patience time.Duration
	checked  time.Time // when the reader's rights were looked at
}

// run writes what the cursor yields until the run's end, when the stream has been finished and closed, or until it was
// quiet for longer than the stream's patience: then quiet is true and the stream goes on elsewhere.
func (st *eventStream) run(ctx context.Context, out sink) (quiet bool) {
	defer func() {
		if p := recover(); p != nil {
			quiet = false
			st.s.log.Error("an event stream panicked", zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
		}
		if !quiet {
			st.cursor.Close()
			out.close()
		}
	}()
	for b := (event.Batch{Frames: st.first}); ; {
		if len(b.Frames) > 0 && out.write(b.Frames) != nil {
			return false
		}
		st.first = nil
		if b.Final {
			out.finish()
			return false
		}
		var err error
		if st.patience > 0 {
			b, quiet, err = st.cursor.Within(ctx, st.patience)
		} else {
			b, err = st.cursor.Next(ctx)
		}
		if quiet || err != nil {
			return quiet
		}
		if now := time.Now(); now.Sub(st.checked) > time.Second {
			if st.allowed(ctx) != nil {
				return false
			}
			st.checked = now
		}
	}
}

var errRevoked = errors.New("api: the stream's credential no longer holds")

// handlerSink writes through the server: HTTP/2, TLS, HTTP/1.0, and every stream at first.
type handlerSink struct {
	w  http.ResponseWriter
	rc *http.ResponseController
	ok bool
}

func (s *handlerSink) write(frames []byte) error { return writeNow(s.w, s.rc, frames) }

// writeNow writes one piece of a stream to a client that has to take it within writeTimeout. The deadline is for this
// piece: left in place, HTTP/2 would end the stream by it, however quiet it is.
func writeNow(w http.ResponseWriter, rc *http.ResponseController, b []byte) error {
	_ = rc.SetWriteDeadline(time.Now().Add(writeTimeout))
	if _, err := w.Write(b); err != nil {
		return err
	}
	if err := rc.Flush(); err != nil {
		return err
	}
	_ = rc.SetWriteDeadline(time.Time{})
	return nil
}

func (s *handlerSink) finish() { s.ok = true }

// close cuts a stream that is not whole, so that the client can't take its end for the run's.
func (s *handlerSink) close() {
	if !s.ok {
		panic(http.ErrAbortHandler)
	}
}

// connSink goes on writing chunks (RFC 9112, section 7.1) on a connection that was taken over in the middle of an answer.
// The last chunk is only ever written after the final event; then the connection goes back to the server it came from.
type connSink struct {
	conn net.Conn
	home *http.Server // nil: the connection ends with the answer
	ok   bool
}

func (s *connSink) write(frames []byte) error {
	_ = s.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	var size [16]byte
	bufs := net.Buffers{append(strconv.AppendUint(size[:0], uint64(len(frames)), 16), "\r\n"...), frames, crlf}
	_, err := bufs.WriteTo(s.conn)
	return err
}

var crlf = []byte("\r\n")

func (s *connSink) finish() {
	_ = s.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	_, err := s.conn.Write([]byte("0\r\n\r\n"))
	s.ok = err == nil
}

func (s *connSink) close() {
	if !s.ok || s.home == nil || s.conn.SetWriteDeadline(time.Time{}) != nil {
		_ = s.conn.Close()
		return
	}
	back := &homecoming{conn: s.conn}
	_ = s.home.Serve(back) // serves the connection in a goroutine of its own, and returns
	if back.conn != nil {  // the server is closing
		_ = back.conn.Close()
	}
}

// homecoming is a listener that yields one connection.
type homecoming struct{ conn net.Conn }

var _ net.Listener = (*homecoming)(nil)

// Accept implements net.Listener.
func (h *homecoming) Accept() (net.Conn, error) {
	conn := h.conn
	if h.conn = nil; conn == nil {
		return nil, net.ErrClosed
	}
	return conn, nil
}

// Close implements net.Listener.
func (h *homecoming) Close() error { return nil }

// Addr implements net.Listener.
func (h *homecoming) Addr() net.Addr { return nil }
