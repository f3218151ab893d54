package api

import (
	"context"
	"net/http"
	"strconv"

	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/internal/fault"
)

// runEvents streams a run's journal.
func (c *call) runEvents() error {
	runID, err := c.ident("run_id")
	if err != nil {
		return err
	}
	read, err := c.read()
	if err != nil {
		return err
	}
	after, err := c.resumeAt()
	if err != nil {
		return err
	}
	cursor, err := c.s.o.Events.Follow(c.ctx(), read, c.auth.TenantID, runID, after)
	if err != nil {
		return err
	}
	if cursor.Ended() {
		cursor.Close()
		return c.noContent()
	}
	if c.r.Method == http.MethodHead {
		cursor.Close()
		return c.streamHead()
	}
	return c.stream(cursor)
}

// resumeAt is the sequence the reader has: the larger of what the query and Last-Event-ID say.
func (c *call) resumeAt() (uint64, error) {
	var after uint64
	take := func(name, v string) error {
		n, err := strconv.ParseUint(v, 10, 63)
		if err != nil {
			return fault.Invalid(name, "%s is a whole number, 0 or above.", name)
		}
		after = max(after, n)
		return nil
	}
	for _, name := range []string{"after_sequence", "from_sequence"} {
		if c.query.Has(name) {
			if err := take(name, c.query.Get(name)); err != nil {
				return 0, err
			}
		}
	}
	if v := c.r.Header.Get("Last-Event-ID"); v != "" {
		if err := take("Last-Event-ID", v); err != nil {
			return 0, err
		}
	}
	return after, nil
}

// retryHint tells a browser how soon to come back, in milliseconds.
const retryHint = "retry: 1000\n\n"

// stream answers with what cursor yields, and closes it. A replay that is whole at once is an ordinary answer, which
// keeps the connection for the next request. Over plain HTTP/1.1 a live stream takes the connection over: an idle one
// then costs a small goroutine and nothing else.
func (c *call) stream(cursor *event.Cursor) error {
	first, err := cursor.Poll(c.ctx())
	if err != nil {
		cursor.Close()
		return err
	}
	c.streamHeaders()
	if first.Final {
		cursor.Close()
		c.w.WriteHeader(http.StatusOK)
		_, _ = c.w.Write([]byte(retryHint))
		_, _ = c.w.Write(first.Frames)
		_ = http.NewResponseController(c.w).Flush() // chunked, as every stream is: the last chunk says that it's whole
		return nil
	}
	secret, err := credential(c.r.Header)
	if err != nil {
		cursor.Close()
		return err
	}
	st := &eventStream{s: c.s, cursor: cursor, source: c.source(), secret: secret, auth: c.auth, first: first}
	if c.r.ProtoMajor == 1 && c.r.ProtoMinor == 1 && c.r.TLS == nil {
		if hj, ok := c.w.(http.Hijacker); ok {
			return c.takeOver(hj, st)
		}
	}
	ctx, end, err := c.s.streams.begin(c.ctx())
	if err != nil {
		cursor.Close()
		c.wrote = false
		return err
	}
	defer end()
	c.w.WriteHeader(http.StatusOK)
	st.run(ctx, &handlerSink{w: c.w, rc: http.NewResponseController(c.w)})
	return nil
}

// streamHeaders sets what a stream's head says.
func (c *call) streamHeaders() {
	c.outHeaders()
	h := c.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-cache, no-transform")
	h.Set("X-Accel-Buffering", "no")
	c.wrote, c.status = true, http.StatusOK
}

// streamHead answers HEAD: what a stream would begin with, and nothing of it.
func (c *call) streamHead() error {
	c.streamHeaders()
	c.w.WriteHeader(http.StatusOK)
	return nil
}

// takeOver makes the connection the stream's own.
func (c *call) takeOver(hj http.Hijacker, st *eventStream) error {
	ctx, end, err := c.s.streams.begin(context.Background())
	if err != nil {
		st.cursor.Close()
		c.wrote = false
		return err
	}
	conn, _, err := hj.Hijack()
	if err != nil {
		end()
		st.cursor.Close()
		return err
	}
	c.hijacked = true
	sink := newConnSink(conn, c.w.Header())
	go func() {
		defer end()
		st.run(ctx, sink)
	}()
	return nil
}
