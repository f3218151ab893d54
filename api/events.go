package api

import (
	"context"
	"net/http"
	"strconv"
	"time"

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
	follow := c.s.o.Events.Follow
	if c.peer != nil { // it's the peer that has forwarded the run
		follow = c.s.o.Events.FollowWhole
	}
	cursor, err := follow(c.ctx(), read, c.auth.TenantID, runID, after)
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

// takeOverAfter is how long a stream may be quiet before it takes its connection over: an idle one then costs a small
// goroutine and nothing else. Most runs are busy, and end before that: their connection serves the next request.
const takeOverAfter = 100 * time.Millisecond

// stream answers with what cursor yields, and closes it. A replay that is whole at once is an ordinary answer.
func (c *call) stream(cursor *event.Cursor) error {
	first, err := cursor.Poll(c.ctx())
	if err != nil {
		cursor.Close()
		return err
	}
	c.streamHeaders()
	begin := append(append(make([]byte, 0, len(retryHint)+len(first.Frames)), retryHint...), first.Frames...)
	if first.Final {
		cursor.Close()
		c.w.WriteHeader(http.StatusOK)
		_, _ = c.w.Write(begin)
		_ = http.NewResponseController(c.w).Flush() // chunked, as every stream is: the last chunk says that it's whole
		return nil
	}
	allowed, err := c.again()
	if err != nil {
		cursor.Close()
		return err
	}
	place, err := c.s.streams.begin(c.auth.TenantID)
	if err != nil {
		cursor.Close()
		c.wrote = false
		return err
	}
	st := &eventStream{
		s: c.s, cursor: cursor, allowed: allowed, first: begin, checked: time.Now(),
	}
	hj, ok := c.w.(http.Hijacker)
	if ok && c.r.ProtoMajor == 1 && c.r.ProtoMinor == 1 && c.r.TLS == nil {
		st.patience = takeOverAfter
	}
	c.took = time.Since(c.start)
	stay := context.AfterFunc(c.ctx(), place.cancel)
	moved := false
	defer func() {
		if stay(); !moved {
			place.end()
		}
	}()
	c.w.WriteHeader(http.StatusOK)
	out := &handlerSink{w: c.w, rc: http.NewResponseController(c.w)}
	if quiet := st.run(place.ctx, out); !quiet {
		return nil
	}
	moved = stay() && c.takeOver(hj, st, place)
	if !moved {
		cursor.Close()
		out.close()
	}
	return nil
}

// takeOver makes the connection the stream's own.
func (c *call) takeOver(hj http.Hijacker, st *eventStream, place *slot) bool {
	conn, pipe, err := hj.Hijack()
	if err != nil {
		return false
	}
	c.hijacked = true
	sink := &connSink{conn: conn}
	if home, ok := c.ctx().Value(http.ServerContextKey).(*http.Server); ok && !c.r.Close && pipe.Reader.Buffered() == 0 {
		sink.home = home
	}
	st.patience = 0
	go func() {
		defer place.end()
		st.run(place.ctx, sink)
	}()
	return true
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
