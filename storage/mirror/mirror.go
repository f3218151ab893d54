package mirror

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/storage"
)

const (
	// retry is how long it takes until a store that could not be read is asked again.
	retry = 50 * time.Millisecond
	// maxLater bounds the changes kept while everything is being read; beyond it the reading begins anew.
	maxLater = 100_000
)

// Options says how to make a Mirror of T. Store, Prefixes, What and Read are needed.
type Options[T any] struct {
	Store    storage.Store
	Prefixes []string
	// What names it in the log, such as "routes".
	What string
	// Read decodes all of it. Several goroutines may call it at once.
	Read func(storage.Snapshot) (T, error)
	// Apply puts changes on top of held, and returns what is held from then on: a changed copy, or held itself if it guards
	// itself against those who read it. It's called by one goroutine at a time, and keeps no byte of changes. Nil has
	// everything read anew after each change.
	Apply func(held T, changes []storage.Change) T
	// Wants tells the changes that matter from the rest, without a lock; nil wants all.
	Wants func(storage.Change) bool
	// Empty is held while nothing has been read. It is never given to Apply.
	Empty  T
	Logger *zap.Logger // nil means none
}

// Mirror is the copy. It's safe for concurrent use.
type Mirror[T any] struct {
	o       Options[T]
	reload  chan struct{} // capacity 1: read everything
	changed chan struct{} // capacity 1: tell those who listen
	stops   []func()
	cancel  context.CancelFunc
	done    sync.WaitGroup
	held    atomic.Pointer[holding[T]]

	mu    sync.Mutex // of those who change what is held
	ears  []func()
	era   uint64        // grows when what is being read is of no use any more
	read  uint64        // index of the last reading
	newer uint64        // index of the newest change that is held
	later []laterChange // while nothing has been read, for Apply
}

// holding is what a mirror shows.
type holding[T any] struct {
	value T
	whole bool
}

type laterChange struct {
	index  uint64
	change storage.Change
}

var _ storage.Watcher = (*Mirror[int])(nil)

// New begins to follow the store, which need not have been started yet, until Close.
func New[T any](o Options[T]) *Mirror[T] {
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	ctx, cancel := context.WithCancel(context.Background())
	m := &Mirror[T]{o: o, reload: make(chan struct{}, 1), changed: make(chan struct{}, 1), cancel: cancel}
	m.held.Store(&holding[T]{value: o.Empty})
	for _, prefix := range o.Prefixes {
		m.stops = append(m.stops, o.Store.Watch(prefix, m))
	}
	nudge(m.reload)
	m.done.Go(func() { m.follow(ctx) })
	return m
}

// Close stops following, and waits until nobody who listens is being told any more. What is held stays.
func (m *Mirror[T]) Close() {
	for _, stop := range m.stops {
		stop()
	}
	m.cancel()
	m.done.Wait()
}

// Now returns what is held, and whether it's all there is as far as this node's copy of the store knows: it isn't before the
// first reading, nor, with an Apply, from a jump of the store to the next reading.
func (m *Mirror[T]) Now() (held T, whole bool) {
	h := m.held.Load()
	return h.value, h.whole
}

// Listen calls heard soon, if something has been read, and after every change, from one goroutine, until the mirror is closed.
// Several changes may be told as one. heard may ask the mirror and must return soon.
func (m *Mirror[T]) Listen(heard func()) {
	m.mu.Lock()
	m.ears = append(m.ears, heard)
	m.mu.Unlock()
	if _, whole := m.Now(); whole {
		nudge(m.changed)
	}
}

// Refresh reads everything with r's consistency, and returns when what is held is no older than that.
func (m *Mirror[T]) Refresh(ctx context.Context, r storage.Read) error {
	for {
		m.mu.Lock()
		era := m.era
		m.mu.Unlock()
		taken := false
		err := m.o.Store.View(ctx, r, func(s storage.Snapshot) error {
			value, err := m.o.Read(s)
			if err == nil {
				taken = m.take(value, s.Index(), era)
			}
			return err
		})
		if err != nil || taken {
			return err
		}
	}
}

// take holds what was read at index, unless something newer is held. It returns false when the state was replaced since era.
func (m *Mirror[T]) take(value T, index, era uint64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if era != m.era {
		return false
	}
	if index < max(m.read, m.newer) {
		return true
	}
	var later []storage.Change
	for _, l := range m.later {
		if l.index > index {
			later = append(later, l.change)
			m.newer = l.index
		}
	}
	if len(later) > 0 {
		value = m.o.Apply(value, later)
	}
	m.read, m.later = index, nil
	m.held.Store(&holding[T]{value: value, whole: true})
	nudge(m.changed)
	return true
}

// Applied implements storage.Watcher.
func (m *Mirror[T]) Applied(index uint64, changes []storage.Change) {
	if m.o.Wants != nil {
		if changes = wanted(changes, m.o.Wants); len(changes) == 0 {
			return
		}
	}
	if m.o.Apply == nil {
		nudge(m.reload)
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.held.Load()
	switch {
	case !now.whole:
		m.keep(index, changes)
	case index > m.read: // else it was read already
		m.newer = index
		m.held.Store(&holding[T]{value: m.o.Apply(now.value, changes), whole: true})
		nudge(m.changed)
	}
}

// keep takes note of changes that come before what they change has been read. m.mu is held.
func (m *Mirror[T]) keep(index uint64, changes []storage.Change) {
	for _, c := range changes {
		m.later = append(m.later, laterChange{index: index, change: storage.Change{
			Key: strings.Clone(c.Key), RangeEnd: strings.Clone(c.RangeEnd), Value: slices.Clone(c.Value),
		}})
	}
	if len(m.later) > maxLater {
		m.forget()
	}
}

func wanted(changes []storage.Change, wants func(storage.Change) bool) (mine []storage.Change) {
	for _, c := range changes {
		if wants(c) {
			mine = append(mine, c)
		}
	}
	return mine
}

// Jumped implements storage.Watcher.
func (m *Mirror[T]) Jumped(uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forget()
}

// forget has everything read anew. What Apply keeps up is not shown until then, since the changes that led there are unknown;
// the rest is shown as it was, as it is between a change and its reading. m.mu is held.
func (m *Mirror[T]) forget() {
	m.era++
	m.read, m.newer, m.later = 0, 0, nil
	if m.o.Apply != nil {
		m.held.Store(&holding[T]{value: m.o.Empty})
	}
	nudge(m.reload)
}

// follow reads everything whenever it has to be read, and tells those who listen, until ctx ends.
func (m *Mirror[T]) follow(ctx context.Context) {
	again := time.NewTimer(retry)
	again.Stop()
	defer again.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.changed:
			m.tell(ctx)
			continue
		case <-m.reload:
		case <-again.C:
		}
		err := m.Refresh(ctx, storage.Read{Consistency: storage.Stale})
		switch {
		case err == nil:
			failing = false
		case ctx.Err() != nil:
			return
		default: // a store that has not been started yet ends up here, over and over
			if !failing {
				m.o.Logger.Debug("can't be read yet", zap.String("what", m.o.What), zap.Error(err))
			}
			failing = true
			again.Reset(retry)
		}
	}
}

func (m *Mirror[T]) tell(ctx context.Context) {
	m.mu.Lock()
	ears := slices.Clone(m.ears)
	m.mu.Unlock()
	for _, heard := range ears {
		if ctx.Err() != nil {
			return
		}
		heard()
	}
}

func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
