package event

import (
	"context"
	"sync"
	"time"

	"github.com/nexixai/agentos/storage"
)

// Bounds of one read of the store for a reader that's behind.
const (
	replayBytes  = 256 << 10
	replayEvents = 512
)

// Batch is what has gathered for one reader.
type Batch struct {
	// Frames are SSE frames, ready to be written. They may be shared with other readers and must not be changed.
	Frames []byte
	// Last is the sequence of the newest event so far, Count the number of events among Frames. Deltas and heartbeats
	// don't count.
	Last  uint64
	Count int
	// Final is set when the reader now has the run's final event: nothing follows.
	Final bool
}

// Cursor is one reader's place in a run's events. Next is for one goroutine at a time; Close may be called by another.
type Cursor struct {
	hub             *Hub
	tenantID, runID string
	topic           *topic
	last            uint64 // newest sequence returned, or asked to be left out
	at              uint64 // place in the topic's stream, when live
	live            bool
	whole           bool // nothing is veiled for this reader
	ended           bool
	timer           *time.Timer
	close           sync.Once
}

// Ended reports whether the reader already had the final event when it came: there is nothing to follow.
func (c *Cursor) Ended() bool { return c.ended }

// Last is the sequence of the newest event returned, at first the one asked for.
func (c *Cursor) Last() uint64 { return c.last }

// Close ends the cursor; it may be called more than once.
func (c *Cursor) Close() { c.close.Do(func() { c.hub.unsubscribe(c.topic) }) }

// Poll returns what is there for the reader now, perhaps nothing; it does not wait.
func (c *Cursor) Poll(ctx context.Context) (Batch, error) {
	for {
		b, need := c.ready()
		if len(b.Frames) > 0 || b.Final || need.wake != nil {
			return b, nil
		}
		if b, err := c.replay(ctx, need); err != nil || len(b.Frames) > 0 {
			return b, err
		}
	}
}

// Next blocks until there is something for the reader and returns all that has gathered. It returns ctx's error when ctx
// ends first, storage.ErrClosed when the hub is closed, and a heartbeat (Count 0) when it was quiet for Options.Heartbeat.
// Once the run has ended and the reader has everything, it returns Final at once, without frames.
func (c *Cursor) Next(ctx context.Context) (Batch, error) {
	b, quiet, err := c.next(ctx, c.hub.heartbeat)
	if quiet {
		b = Batch{Frames: []byte(Heartbeat), Last: c.last}
	}
	return b, err
}

// Within is Next that waits at most for d, and then says that it was quiet.
func (c *Cursor) Within(ctx context.Context, d time.Duration) (b Batch, quiet bool, err error) {
	return c.next(ctx, d)
}

func (c *Cursor) next(ctx context.Context, patience time.Duration) (b Batch, quiet bool, err error) {
	for {
		if err := ctx.Err(); err != nil {
			return Batch{}, false, err
		}
		b, need := c.ready()
		switch {
		case len(b.Frames) > 0 || b.Final:
			return b, false, nil
		case need.wake == nil:
			b, err := c.replay(ctx, need)
			if err != nil || len(b.Frames) > 0 {
				return b, false, err
			}
		default:
			if quiet, err := c.wait(ctx, need.wake, patience); err != nil || quiet {
				return Batch{}, quiet, err
			}
		}
	}
}

// need is what a reader does when the window has nothing for it: wait for wake, or, when that is nil, read the store.
type need struct {
	wake <-chan struct{}
	// tip is where the journal ended, as far as was known when the reader turned to the store.
	tip
	jumps uint64
}

// ready takes what the window holds for c, or says what c needs.
func (c *Cursor) ready() (Batch, need) {
	t := c.topic
	t.mu.Lock()
	defer t.mu.Unlock()
	store := need{tip: t.tip(), jumps: t.jumps}
	if t.synced != t.jumps {
		return Batch{}, store
	}
	shown, end := store.shown(c.whole), t.end()
	if shown.head < t.head { // the final event is held back, and is the last that the window holds
		if at, ok := t.place(t.head); ok {
			end = at
		}
	}
	if !c.live || c.at < t.base {
		c.live = c.join(t)
	}
	switch {
	case c.live && c.at < end:
		size := end - t.base
		b := Batch{Frames: t.buf[c.at-t.base : size : size], Last: shown.head, Count: int(shown.head - c.last), Final: shown.final}
		c.at, c.last = end, shown.head
		if t.readers == 1 {
			t.cut(c.hub) // nobody else will want these bytes; whoever comes late reads the store
		}
		return b, need{}
	case c.last < shown.head:
		return Batch{}, store
	case shown.final:
		return Batch{Last: c.last, Final: true}, need{}
	}
	return Batch{}, need{wake: t.waiting()}
}

// join finds c's place in the window: at the event after the last one it has, or at the end when that is the newest. A
// reader that asked to begin after what has not happened yet joins when it has.
func (c *Cursor) join(t *topic) bool {
	if c.last == t.head {
		c.at = t.end()
		return true
	}
	at, ok := t.place(c.last + 1)
	c.at = at
	return ok
}

// wait blocks until woken; quiet is true when that took longer than d, which is for ever when it's 0.
func (c *Cursor) wait(ctx context.Context, woken <-chan struct{}, d time.Duration) (quiet bool, err error) {
	var beat <-chan time.Time
	if d > 0 {
		if c.timer == nil {
			c.timer = time.NewTimer(d)
		} else {
			c.timer.Reset(d)
		}
		defer c.timer.Stop()
		beat = c.timer.C
	}
	select {
	case <-woken:
		return false, nil
	case <-beat:
		return true, nil
	case <-ctx.Done():
		return false, ctx.Err()
	case <-c.hub.closed:
		return false, storage.ErrClosed
	}
}

// replay reads the next events from this node's copy, which holds at least what the hub was fed.
func (c *Cursor) replay(ctx context.Context, n need) (Batch, error) {
	var r replay
	err := c.hub.store.View(ctx, storage.Read{Consistency: storage.Stale}, func(s storage.Snapshot) (err error) {
		if n.tip, err = c.topic.newest(s, n); err != nil {
			return err
		}
		r = replay{runID: c.runID, next: c.last + 1, veiled: n.veiled && !c.whole}
		span := storage.Range{From: Key(c.tenantID, c.runID, r.next), To: storage.PrefixEnd(c.topic.journal)}
		if err := s.Scan(span, r.visit); err != nil {
			return err
		}
		return r.broken
	})
	if err != nil {
		return Batch{}, err
	}
	b := r.batch
	if shown := n.shown(c.whole); b.Count == 0 && c.last < shown.head { // retention has taken them
		b.Frames = appendGap(b.Frames, c.runID, c.last+1, shown.head)
		b.Last, b.Final = shown.head, shown.final
	}
	c.topic.learn(c.hub, n.tip)
	c.topic.learn(c.hub, tip{head: b.Last, final: b.Final, veiled: n.veiled})
	c.topic.sync(n.jumps)
	c.last, c.live = max(c.last, b.Last), false
	return b, nil
}

// newest is what n knows of the journal's end, read anew when the store was replaced since the hub was last sure.
func (t *topic) newest(s storage.Snapshot, n need) (tip, error) {
	t.mu.Lock()
	sure := t.synced >= n.jumps
	t.mu.Unlock()
	if sure {
		return n.tip, nil
	}
	return readTip(s, t.journal)
}

// sync notes that the store was read after so many jumps.
func (t *topic) sync(jumps uint64) {
	t.mu.Lock()
	t.synced = max(t.synced, jumps)
	t.mu.Unlock()
}

// replay gathers frames from a scan of a journal.
type replay struct {
	runID  string
	next   uint64
	veiled bool // stop before the final event
	batch  Batch
	broken error
}

func (r *replay) visit(key string, value []byte) bool {
	b := &r.batch
	_, sequence, ok := splitKey(key)
	if !ok {
		return true
	}
	if b.Count > 0 && (len(b.Frames)+len(value) > replayBytes || b.Count >= replayEvents) {
		return false
	}
	v, err := ScanOwn(value)
	if err != nil {
		r.broken = err
		return false
	}
	if r.veiled && v.Final() {
		return false
	}
	if sequence != r.next {
		b.Frames = appendGap(b.Frames, r.runID, r.next, sequence-1)
	}
	b.Frames = appendFrame(b.Frames, sequence, value)
	b.Count++
	b.Last, b.Final, r.next = sequence, v.Final(), sequence+1
	return true
}
