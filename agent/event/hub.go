package event

import (
	"context"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/storage"
)

// Defaults of Options.
const (
	DefaultWindow = 64 << 10
	DefaultMemory = 64 << 20
)

// Options says how to make a Hub. Zero fields have their defaults.
type Options struct {
	Store storage.Store
	// Heartbeat is how long Cursor.Next waits before it returns a Heartbeat instead of an event; 0 waits for ever.
	Heartbeat time.Duration
	// Window is how many bytes of frames a followed run keeps ready. A reader further behind reads the store.
	Window int
	// Memory is how many bytes all windows together may take before each keeps only what is newest.
	Memory int64
	// Now is the clock for deltas; nil means time.Now.
	Now func() time.Time
}

// Hub lets any number of readers follow runs. It has no goroutine of its own: the store's applier feeds it, and readers
// wait in Cursor.Next. It's safe for concurrent use.
//
// Lock order: Hub.mu, then topic.mu.
type Hub struct {
	store     storage.Store
	heartbeat time.Duration
	window    int
	memory    int64
	now       func() time.Time
	stop      func()
	closed    chan struct{}
	held      atomic.Int64 // bytes in all windows
	followers atomic.Int64

	mu     sync.RWMutex
	topics map[string]*topic // by journal prefix; runs that somebody follows, and young ones
	young  []*topic          // the runs begun last, oldest first
}

// Who creates a run asks for its events a moment later. The newest runs are therefore kept ready from their first event
// on, whether anybody follows them or not, so that such a reader costs no search of the store.
const (
	youngTopics = 512
	youngWindow = 16 << 10 // of a run that nobody follows
)

// New returns a Hub that watches o.Store until Close.
func New(o Options) *Hub {
	if o.Window <= 0 {
		o.Window = DefaultWindow
	}
	if o.Memory <= 0 {
		o.Memory = DefaultMemory
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	h := &Hub{
		store: o.Store, heartbeat: o.Heartbeat, window: o.Window, memory: o.Memory, now: o.Now,
		closed: make(chan struct{}), topics: make(map[string]*topic),
	}
	h.stop = o.Store.Watch("tenant/", (*feed)(h))
	return h
}

// Close stops feeding; every Next that waits returns storage.ErrClosed. It is called once.
func (h *Hub) Close() {
	h.stop()
	close(h.closed)
}

// Followers is the number of open cursors.
func (h *Hub) Followers() int { return int(h.followers.Load()) }

// feed is the Hub as the store's applier sees it.
type feed Hub

var _ storage.Watcher = (*feed)(nil)

// Applied implements storage.Watcher.
func (f *feed) Applied(_ uint64, changes []storage.Change) {
	h := (*Hub)(f)
	h.mu.Lock()
	defer h.mu.Unlock()
	var woken *topic
	for i := range changes {
		if changes[i].RangeEnd != "" {
			h.removed(&changes[i])
			continue
		}
		journal, sequence, ok := splitKey(changes[i].Key)
		if !ok {
			h.veil(&changes[i])
			continue
		}
		t := h.topics[journal]
		switch {
		case changes[i].Value == nil:
			if t != nil {
				t.doubt(h)
			}
			continue
		case t == nil && sequence == 1:
			t = h.begin(journal)
		case t == nil:
			continue
		}
		t.add(h, sequence, changes[i].Value)
		if woken != nil && woken != t { // keys are in order: a journal's events come together
			woken.wake()
		}
		woken = t
	}
	if woken != nil {
		woken.wake()
	}
}

// Jumped implements storage.Watcher: every window may have missed events, so readers go back to the store.
func (f *feed) Jumped(uint64) {
	h := (*Hub)(f)
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.young) > 0 {
		h.age()
	}
	for _, t := range h.topics {
		t.doubt(h)
	}
}

// veil takes in that a run's veil has come or gone, if that is what the change is of. h.mu is held.
func (h *Hub) veil(c *storage.Change) {
	journal, ok := splitVeil(c.Key)
	if !ok {
		return
	}
	t := h.topics[journal]
	if t == nil {
		return
	}
	t.mu.Lock()
	if t.veil = veiled; c.Value == nil {
		t.veil = bare
	}
	t.mu.Unlock()
	t.wake()
}

// removed takes in that retention has removed a range of keys. h.mu is held.
func (h *Hub) removed(c *storage.Change) {
	for _, t := range h.topics {
		if t.journal < c.RangeEnd && c.Key < storage.PrefixEnd(t.journal) {
			t.doubt(h)
		}
	}
}

// doubt sends every reader back to the store: what the topic knows is no longer all that is there, or more than that.
func (t *topic) doubt(h *Hub) {
	t.mu.Lock()
	t.sever(h)
	t.jumps++
	t.mu.Unlock()
	t.wake()
}

// begin makes the topic of a run that has just begun. h.mu is held.
func (h *Hub) begin(journal string) *topic {
	if len(h.young) >= youngTopics {
		h.age()
	}
	journal = strings.Clone(journal) // its key may be part of something larger
	t := &topic{journal: journal, young: true, veil: bare}
	h.topics[journal] = t
	h.young = append(h.young, t)
	return t
}

// age lets the oldest of the young topics go, unless somebody follows it. h.mu is held.
func (h *Hub) age() {
	t := h.young[0]
	h.young[0] = nil
	h.young = h.young[1:]
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.young = false; t.readers == 0 {
		delete(h.topics, t.journal)
		t.cut(h)
	}
}

// Delta passes a piece of a model's answer on to those who follow the run at this node now. It's never stored, and may be
// lost on the way to a slow reader.
func (h *Hub) Delta(d Delta) {
	if h.followers.Load() == 0 {
		return
	}
	journal := JournalPrefix(d.TenantID, d.RunID)
	h.mu.RLock()
	defer h.mu.RUnlock()
	t := h.topics[journal]
	if t == nil {
		return
	}
	t.mu.Lock()
	if !t.final && t.readers > 0 {
		frame := appendDelta(nil, &d, h.now())
		t.room(h, len(frame))
		t.buf = append(t.buf, frame...)
		h.held.Add(int64(len(frame)))
	}
	t.mu.Unlock()
	t.wake()
}

// topic is one followed run: the newest of its frames, in order, as one stream of bytes that only grows at its end and is
// cut at its beginning. Bytes once written are never changed, so readers share them.
type topic struct {
	journal string

	mu      sync.Mutex
	readers int    // changed under Hub.mu too
	young   bool   // is in Hub.young; changed under Hub.mu too
	base    uint64 // place of buf[0] in the stream
	buf     []byte
	marks   []mark // one for each event in buf
	head    uint64 // newest sequence seen here
	final   bool   // head is the final event
	veil    veil   // whether the final event is to be held back
	jumps   uint64 // how often the store was replaced, or events removed: what was fed is no longer what is there
	synced  uint64 // the jumps after which the store has been read again
	wakeup  chan struct{}
}

// veil says whether a run's final event is not for its tenant to see yet. A run that is bare stays so.
type veil uint8

const (
	unknown veil = iota
	veiled
	bare
)

// tip is where a journal ends.
type tip struct {
	head   uint64 // its newest sequence, 0 when it's empty
	final  bool   // that is the final event
	veiled bool
}

// shown is where the journal ends for a reader, who may see what is veiled if whole.
func (p tip) shown(whole bool) tip {
	if p.veiled && p.final && !whole {
		p.head, p.final = p.head-1, false
	}
	return p
}

// tip is where the journal ends as far as the topic knows. t.mu is held.
func (t *topic) tip() tip { return tip{head: t.head, final: t.final, veiled: t.veil == veiled} }

// mark says where in the stream an event's frame begins.
type mark struct{ sequence, at uint64 }

func (t *topic) end() uint64 { return t.base + uint64(len(t.buf)) }

// cut forgets the window. A reader that has had all of it stays where it is.
func (t *topic) cut(h *Hub) {
	h.held.Add(-int64(len(t.buf)))
	t.base, t.buf, t.marks = t.end(), nil, nil
}

// sever forgets the window where what follows is not the next: no reader's place is good any more.
func (t *topic) sever(h *Hub) {
	t.cut(h)
	t.base++
}

// room makes place for n more bytes: beyond the window, or when the hub holds too much in all, the window starts anew.
// Readers of the old bytes keep them for as long as they need.
func (t *topic) room(h *Hub, n int) {
	window := h.window
	if t.readers == 0 {
		window = min(window, youngWindow)
	}
	if len(t.buf) > 0 && (len(t.buf)+n > window || h.held.Load()+int64(n) > h.memory) {
		t.cut(h)
	}
}

// add appends one event. Out of order means that something was missed: the window starts anew after it.
func (t *topic) add(h *Hub, sequence uint64, data []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if sequence <= t.head {
		return
	}
	if sequence != t.head+1 {
		t.sever(h)
	}
	t.room(h, len(data)+64)
	before := len(t.buf)
	t.marks = append(t.marks, mark{sequence: sequence, at: t.end()})
	t.buf = appendFrame(t.buf, sequence, data)
	h.held.Add(int64(len(t.buf) - before))
	t.head = sequence
	t.final = t.final || typeOf(data).Final()
}

// wake lets every reader that waits look again.
func (t *topic) wake() {
	t.mu.Lock()
	ch := t.wakeup
	t.wakeup = nil
	t.mu.Unlock()
	if ch != nil {
		close(ch)
	}
}

// waiting returns a channel that is closed by the next wake. t.mu is held.
func (t *topic) waiting() <-chan struct{} {
	if t.wakeup == nil {
		t.wakeup = make(chan struct{})
	}
	return t.wakeup
}

// place returns where in the stream the event with this sequence begins; ok is false when the window doesn't hold it.
func (t *topic) place(sequence uint64) (at uint64, ok bool) {
	i := sort.Search(len(t.marks), func(i int) bool { return t.marks[i].sequence >= sequence })
	if i == len(t.marks) || t.marks[i].sequence != sequence {
		return 0, false
	}
	return t.marks[i].at, true
}

// subscribe makes sure that every event of a journal from now on is seen.
func (h *Hub) subscribe(journal string) *topic {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.topics[journal]
	if t == nil {
		t = &topic{journal: journal}
		h.topics[journal] = t
	}
	t.mu.Lock()
	t.readers++
	t.mu.Unlock()
	h.followers.Add(1)
	return t
}

func (h *Hub) unsubscribe(t *topic) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.followers.Add(-1)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.readers--; t.readers == 0 && !t.young {
		delete(h.topics, t.journal)
		t.cut(h)
	}
}

// Follow returns a cursor on a run's events with a sequence above after. A run that isn't there, or is another tenant's,
// is fault.NotFound. The final event of a run that is veiled comes when the veil has gone. The caller closes the cursor.
func (h *Hub) Follow(ctx context.Context, r storage.Read, tenantID, runID string, after uint64) (*Cursor, error) {
	return h.follow(ctx, r, &Cursor{hub: h, tenantID: tenantID, runID: runID, last: after})
}

// FollowWhole is Follow for whom nothing is veiled: the organisation that the run comes from.
func (h *Hub) FollowWhole(ctx context.Context, r storage.Read, tenantID, runID string, after uint64) (*Cursor, error) {
	return h.follow(ctx, r, &Cursor{hub: h, tenantID: tenantID, runID: runID, last: after, whole: true})
}

func (h *Hub) follow(ctx context.Context, r storage.Read, c *Cursor) (*Cursor, error) {
	if !id.Valid(c.tenantID) || !id.Valid(c.runID) {
		return nil, errNoRun()
	}
	c.topic = h.subscribe(JournalPrefix(c.tenantID, c.runID))
	err := storage.Find(ctx, h.store, r, func(s storage.Snapshot) error {
		end, sure := c.topic.tipSure()
		if !sure {
			var err error
			if end, err = readTip(s, c.topic.journal); err != nil {
				return err
			}
			if end.head == 0 {
				return errNoRun()
			}
			c.topic.learn(h, end)
		}
		end = end.shown(c.whole)
		c.ended = end.final && c.last >= end.head
		return nil
	})
	if err != nil {
		c.Close()
		return nil, err
	}
	c.topic.mu.Lock()
	c.live = c.join(c.topic) // now, so that deltas count from here on
	c.topic.mu.Unlock()
	return c, nil
}

func errNoRun() error { return fault.New(fault.NotFound, "There is no such run.") }

// tipSure is where the journal ends, when the topic has been fed ever since it knew that: then the store would say the same.
func (t *topic) tipSure() (p tip, sure bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.tip(), t.head > 0 && t.synced == t.jumps && t.veil != unknown
}

// learn takes in what a read of the store has shown, perhaps a while ago.
func (t *topic) learn(h *Hub, p tip) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p.head > t.head {
		t.sever(h)
		t.head = p.head
	}
	t.final = t.final || p.final
	switch {
	case !p.veiled:
		t.veil = bare
	case t.veil == unknown:
		t.veil = veiled
	}
}

// readTip reads where a journal ends.
func readTip(r storage.Reader, journal string) (p tip, err error) {
	span := storage.Prefix(journal)
	span.Reverse = true
	var broken error
	err = r.Scan(span, func(key string, value []byte) bool {
		_, sequence, ok := splitKey(key)
		if !ok {
			return true
		}
		p.head = sequence
		v, err := ScanOwn(value)
		p.final, broken = v.Final(), err
		return false
	})
	if err == nil {
		err = broken
	}
	if err != nil || p.head == 0 {
		return p, err
	}
	veil, err := r.Get(veilOf(journal))
	p.veiled = veil != nil
	return p, err
}
