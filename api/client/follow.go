package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"mime"
	"net/http"
	"strconv"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/sse"
)

// ErrCut says that an event stream ended before the end of what it streams, and could not be taken up again.
var ErrCut = errors.New("the event stream ended before its end was seen")

// Names of the frames of a run's stream, and of the events that end one.
const (
	frameEvent = "agentos.event"
	frameGap   = "agentos.gap"

	RunCompleted = "agentos.run.completed"
	RunFailed    = "agentos.run.failed"
	RunCanceled  = "agentos.run.canceled"
)

// Event is one event of a run's journal, or a delta of a model's answer on its way to become one.
type Event struct {
	// ID and Sequence are empty for a delta.
	ID       string    `json:"event_id"`
	Sequence uint64    `json:"sequence"`
	Time     time.Time `json:"time"`
	Type     string    `json:"type"`
	TenantID string    `json:"tenant_id"`
	AgentID  string    `json:"agent_id"`
	RunID    string    `json:"run_id"`
	StepID   *string   `json:"step_id"`
	Trace    struct {
		Traceparent string `json:"traceparent"`
		SpanID      string `json:"span_id"`
	} `json:"trace"`
	Payload json.RawMessage `json:"payload"`
}

// Final reports whether e ends its run.
func (e *Event) Final() bool {
	return e.Type == RunCompleted || e.Type == RunFailed || e.Type == RunCanceled
}

// Gap says that events are no longer there.
type Gap struct {
	RunID  string `json:"run_id"`
	From   uint64 `json:"from_sequence"`
	To     uint64 `json:"to_sequence"`
	Reason string `json:"reason"` // retention or backlog
}

// Frame is one piece of a run's stream. Either Event or Gap is set.
type Frame struct {
	// Data is what came, byte for byte: the envelope of the event, or of the gap.
	Data  json.RawMessage
	Event *Event
	Gap   *Gap
}

// Delta reports whether f is a piece of a model's answer, which is not stored and comes at most once.
func (f *Frame) Delta() bool { return f.Event != nil && f.Event.Sequence == 0 }

const (
	// maxFrame bounds one frame: an event with all that may stand in it, and room for what is yet to be added.
	maxFrame = 2 << 20
	// quiet is how long a stream may say nothing before it's taken for dead: three heartbeats.
	quiet = 45 * time.Second
	// comeBack is how soon a stream is asked for again when it doesn't say.
	comeBack = time.Second
)

// Follow yields a run's events with a sequence above after, once each and in order, and the deltas and gaps between them,
// until the final event. When a connection breaks it is made again, and goes on where it was; deltas of the meantime are
// lost. It ends with an error when the node refuses, when nothing new came through for Options.Patience (ErrCut), when
// what comes is not the run's journal, and when ctx ends; without one only after the final event. Stopping to read cancels
// nothing.
func (c *Client) Follow(ctx context.Context, runID string, after uint64) iter.Seq2[Frame, error] {
	return func(yield func(Frame, error) bool) {
		r, err := at(http.MethodGet, "/v1/runs/{run_id}/events", nil, runID)
		if err != nil {
			yield(Frame{}, err)
			return
		}
		s := &follower{c: c, r: r, runID: runID, last: after, retry: comeBack, yield: yield}
		if err := s.follow(ctx); err != nil {
			yield(Frame{}, err)
		}
	}
}

// follower is one reader of one run.
type follower struct {
	c     *Client
	r     Request
	runID string
	last  uint64 // sequence of the newest event passed on, or told to be gone
	retry time.Duration
	up    time.Duration // how long the last connection stood
	yield func(Frame, error) bool
	done  bool // the final event was passed on, or the reader has had enough
}

// errWrong says that what came is not the journal of the run; to ask again would bring the same.
type errWrong struct{ error }

func (s *follower) follow(ctx context.Context) error {
	progress := time.Now() // moved on by new events, and by as long as a connection stood
	for try := 0; ; try++ {
		before := s.last
		err := s.listen(ctx)
		if s.done {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if wrong, ok := errors.AsType[errWrong](err); ok {
			return wrong.error
		}
		if f, ok := errors.AsType[*fault.Error](err); ok && !f.Code.Retryable() {
			return err
		}
		if progress = progress.Add(s.up); s.last > before {
			progress, try = time.Now(), 0
		}
		lost := fmt.Errorf("%w: %w", ErrCut, err)
		if s.c.o.Patience > 0 && time.Since(progress) > s.c.o.Patience || !passing(err) {
			return lost
		}
		if !pause(ctx, try, max(s.retry, floorOf(err))) {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return lost
		}
	}
}

// listen reads one connection. It never returns nil: the end of a connection is not the end of a run.
func (s *follower) listen(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s.up, s.r.after = 0, s.last
	watch := time.AfterFunc(quiet, func() { cancel(fmt.Errorf("nothing came for %v, not even a heartbeat", quiet)) })
	defer watch.Stop()
	resp, err := s.c.stream(ctx, s.r, nil)
	if err != nil {
		return why(ctx, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNoContent { // what was seen last was the end
		s.done = true
		return nil
	}
	began := time.Now()
	defer func() { s.up = time.Since(began) }()
	frames := sse.NewReader(&heard{resp.Body, watch}, maxFrame)
	for {
		f, err := frames.Next()
		if frames.Retry() > 0 {
			s.retry = min(frames.Retry(), maxPause)
		}
		if errors.Is(err, io.EOF) {
			return errors.New("the connection ended")
		}
		if errors.Is(err, sse.ErrTooLong) {
			return s.wrong("a frame is longer than %d bytes", maxFrame)
		}
		if err != nil {
			return why(ctx, err)
		}
		if err := s.take(f); err != nil || s.done {
			return err
		}
	}
}

// why is the reason why ctx ended, if it did, and else err.
func why(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// heard notes that something came.
type heard struct {
	io.Reader
	watch *time.Timer
}

// Read implements io.Reader.
func (h *heard) Read(p []byte) (int, error) {
	n, err := h.Reader.Read(p)
	if n > 0 {
		h.watch.Reset(quiet)
	}
	return n, err
}

// take passes one frame on, unless the reader has it.
func (s *follower) take(f sse.Frame) error {
	switch f.Event {
	case frameEvent:
		return s.takeEvent(f)
	case frameGap:
		return s.takeGap(f)
	}
	return nil // /v1 may gain kinds of frames
}

func (s *follower) takeEvent(f sse.Frame) error {
	var body struct {
		Event *Event `json:"event"`
	}
	if err := json.Unmarshal(f.Data, &body); err != nil || body.Event == nil {
		return s.wrong("a frame is no event: %s", excerpt(f.Data))
	}
	e := body.Event
	switch {
	case e.RunID != s.runID:
		return s.wrong("an event is of run %q", e.RunID)
	case !f.HasID && e.Sequence == 0:
		s.pass(f, e, nil)
		return nil
	case f.ID != strconv.FormatUint(e.Sequence, 10) || e.Sequence == 0:
		return s.wrong("the frame with id %q holds the event with sequence %d", f.ID, e.Sequence)
	case e.Sequence <= s.last: // delivery is at least once
		return nil
	case e.Sequence > s.last+1: // asked for again, it comes whole
		return fmt.Errorf("event %d came after event %d", e.Sequence, s.last)
	}
	s.last = e.Sequence
	s.pass(f, e, nil)
	s.done = s.done || e.Final()
	return nil
}

func (s *follower) takeGap(f sse.Frame) error {
	var body struct {
		Gap *Gap `json:"gap"`
	}
	if err := json.Unmarshal(f.Data, &body); err != nil || body.Gap == nil || body.Gap.From > body.Gap.To {
		return s.wrong("a frame is no gap: %s", excerpt(f.Data))
	}
	switch g := body.Gap; {
	case g.RunID != s.runID:
		return s.wrong("a gap is in run %q", g.RunID)
	case g.To <= s.last:
		return nil
	case g.From > s.last+1:
		return fmt.Errorf("a gap from %d came after event %d", g.From, s.last)
	}
	s.last = body.Gap.To
	s.pass(f, nil, body.Gap)
	return nil
}

// pass gives a frame to the reader.
func (s *follower) pass(f sse.Frame, e *Event, g *Gap) {
	if !s.yield(Frame{Data: bytes.Clone(f.Data), Event: e, Gap: g}, nil) {
		s.done = true
	}
}

func (s *follower) wrong(format string, args ...any) error {
	return errWrong{fmt.Errorf("the stream of run %s is not its journal: "+format, append([]any{s.runID}, args...)...)}
}

// stream asks for an event stream and returns the answer, with its body unread, once it says that it is one.
func (c *Client) stream(ctx context.Context, r Request, body []byte) (*http.Response, error) {
	resp, err := c.send(ctx, r, body, "text/event-stream")
	if err != nil {
		return nil, err
	}
	kind := resp.Header.Get("Content-Type")
	if resp.StatusCode == http.StatusNoContent || resp.StatusCode == http.StatusOK && isStream(kind) {
		return resp, nil
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		_, err := c.read(ctx, r, resp)
		return nil, err
	}
	return nil, fmt.Errorf("%s %s: the answer is %q, and no event stream", r.Method, r.Path, kind)
}

func isStream(contentType string) bool {
	kind, _, err := mime.ParseMediaType(contentType)
	return err == nil && kind == "text/event-stream"
}
