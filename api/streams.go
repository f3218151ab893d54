package api

import (
	"bytes"
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
	"github.com/nexixai/agentos/tenancy"
)

// maxStreams bounds the event streams of one node.
const maxStreams = 16_384

// streams owns every open event stream: the server's own shutdown does not know connections that were taken over.
type streams struct {
	mu     sync.Mutex
	n      int
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

func newStreams() *streams {
	ctx, cancel := context.WithCancel(context.Background())
	return &streams{ctx: ctx, cancel: cancel}
}

// begin counts a stream in. Its context ends with parent, and when the node drains.
func (s *streams) begin(parent context.Context) (ctx context.Context, end func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return nil, nil, fault.New(fault.Unavailable, "This node is stopping; ask another.").With("service", "node").After(time.Second)
	}
	if s.n >= maxStreams {
		return nil, nil, fault.New(fault.RateLimited, "This node follows %d streams, as many as it takes; close some or ask another.", maxStreams).After(time.Second)
	}
	s.n++
	s.wg.Add(1)
	ctx, cancel := context.WithCancel(parent)
	stop := context.AfterFunc(s.ctx, cancel)
	return ctx, func() {
		stop()
		cancel()
		s.mu.Lock()
		s.n--
		s.mu.Unlock()
		s.wg.Done()
	}, nil
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
	source tenancy.Source
	secret string
	auth   *tenancy.Auth
	first  event.Batch
}

func (st *eventStream) run(ctx context.Context, out sink) {
	defer out.close()
	defer st.cursor.Close()
	defer func() {
		if p := recover(); p != nil {
			st.s.log.Error("an event stream panicked", zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
		}
	}()
	if out.write([]byte(retryHint)) != nil {
		return
	}
	b := st.first
	for checked := time.Now(); ; {
		if len(b.Frames) > 0 && out.write(b.Frames) != nil {
			return
		}
		if b.Final {
			out.finish()
			return
		}
		var err error
		if b, err = st.cursor.Next(ctx); err != nil {
			return
		}
		if now := time.Now(); now.Sub(checked) > time.Second {
			if st.allowed(ctx) != nil {
				return
			}
			checked = now
		}
	}
}

var errRevoked = errors.New("api: the stream's credential no longer holds")

// allowed checks the reader's rights again: a key may have been revoked, a tenant disabled.
func (st *eventStream) allowed(ctx context.Context) error {
	auth, err := st.s.o.Tenants.Authenticate(ctx, st.secret, st.source)
	if err != nil {
		return err
	}
	if auth.TenantID != st.auth.TenantID {
		if auth, err = st.s.o.Tenants.ActFor(auth, st.auth.TenantID); err != nil {
			return err
		}
	}
	if !auth.Has(tenancy.RunsRead) {
		return errRevoked
	}
	return nil
}

// handlerSink writes through the server: HTTP/2, TLS, HTTP/1.0.
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

// connSink writes chunks (RFC 9112, section 7.1) on a connection of its own. The last chunk is only ever written after
// the final event.
type connSink struct {
	conn net.Conn
	head []byte // waits for the first frames
}

func newConnSink(conn net.Conn, h http.Header) *connSink {
	var b bytes.Buffer
	b.WriteString("HTTP/1.1 200 OK\r\nDate: " + time.Now().UTC().Format(http.TimeFormat) + "\r\n")
	h.Set("Transfer-Encoding", "chunked")
	h.Set("Connection", "close")
	_ = h.Write(&b)
	b.WriteString("\r\n")
	return &connSink{conn: conn, head: b.Bytes()}
}

func (s *connSink) write(frames []byte) error {
	_ = s.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	size := strconv.AppendUint(s.head, uint64(len(frames)), 16)
	s.head = nil
	bufs := net.Buffers{append(size, "\r\n"...), frames, crlf}
	_, err := bufs.WriteTo(s.conn)
	return err
}

var crlf = []byte("\r\n")

func (s *connSink) finish() {
	_ = s.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	_, _ = s.conn.Write([]byte("0\r\n\r\n"))
}

func (s *connSink) close() { _ = s.conn.Close() }
