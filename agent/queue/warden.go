package queue

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/storage"
)

// minGrace is the least time a new leader gives every session to be heard.
const minGrace = 2 * time.Second

// Warden ends the sessions of nodes that have fallen silent, when this node leads. A session ends its TTL after this node
// itself applied its last renewal, but no sooner than two seconds, and two renewals, after the office began: who was not
// heard because there was no leader to hear is not punished for it.
type Warden struct {
	store    storage.Store
	commands *Commands
	changed  func()
	log      *zap.Logger
	stop     func()
	wake     chan struct{}

	mu    sync.Mutex
	heard map[string]heard
}

// heard is what this node has applied of a session.
type heard struct {
	renewals uint64
	at       time.Time // by this node's monotonic clock
	ttl      time.Duration
	workers  int
}

// WardenOptions says how to make a Warden.
type WardenOptions struct {
	Store    storage.Store
	Commands *Commands
	// Changed, when set, is called at every node when a session has ended, or can take more runs than before, or when
	// the store was replaced. It's called by the store's applier and must return at once.
	Changed func()
	Logger  *zap.Logger
}

// NewWarden returns a Warden that listens at once and acts while this node leads. It must be made before the store starts.
func NewWarden(o WardenOptions) *Warden {
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.Changed == nil {
		o.Changed = func() {}
	}
	w := &Warden{
		store: o.Store, commands: o.Commands, changed: o.Changed, log: o.Logger,
		wake: make(chan struct{}, 1), heard: make(map[string]heard),
	}
	w.stop = o.Store.Watch(sessionKeys, w)
	o.Store.Lead(w.watch)
	return w
}

// Close stops listening.
func (w *Warden) Close() { w.stop() }

var _ storage.Watcher = (*Warden)(nil)

// Applied implements storage.Watcher.
func (w *Warden) Applied(_ uint64, changes []storage.Change) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range changes {
		id := c.Key[len(sessionKeys):]
		if c.Value == nil {
			delete(w.heard, id)
			continue
		}
		if s, err := decodeSession(id, c.Value); err == nil {
			w.hear(s)
		}
	}
}

// hear notes a session's row. Rows change for other reasons than renewals: only a new count is a sign of life.
func (w *Warden) hear(s *Session) {
	known, ok := w.heard[s.ID]
	if s.Ended {
		delete(w.heard, s.ID)
		w.changed()
		return
	}
	if s.Workers > known.workers {
		w.changed()
	}
	if ok && known.renewals == s.Renewals {
		return
	}
	w.heard[s.ID] = heard{renewals: s.Renewals, at: time.Now(), ttl: s.TTL, workers: s.Workers}
	if !ok {
		signal(w.wake)
	}
}

// Jumped implements storage.Watcher.
func (w *Warden) Jumped(uint64) {
	signal(w.wake)
	w.changed()
}

// watch is the leader's duty.
func (w *Warden) watch(ctx context.Context) {
	began := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		case <-timer.C:
		}
		if err := w.learn(ctx); err != nil && ctx.Err() == nil {
			w.log.Warn("sessions can't be read", zap.Error(err))
		}
		next := time.Hour
		for id, h := range w.silent() {
			left := time.Until(h.ends(began))
			if left <= 0 {
				left = w.end(ctx, id, h)
			}
			next = min(next, left)
		}
		timer.Reset(next)
	}
}

// ends is when a session ends unless it's heard again.
func (h heard) ends(began time.Time) time.Time {
	end, grace := h.at.Add(h.ttl), began.Add(max(minGrace, 2*h.ttl/3))
	if end.Before(grace) {
		return grace
	}
	return end
}

// learn takes in sessions that were there before this node listened. They count as heard now.
func (w *Warden) learn(ctx context.Context) error {
	return w.store.View(ctx, storage.Read{Consistency: storage.Stale}, func(r storage.Snapshot) error {
		return EachSession(r, func(s *Session) bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			if _, ok := w.heard[s.ID]; !ok && !s.Ended {
				w.heard[s.ID] = heard{renewals: s.Renewals, at: time.Now(), ttl: s.TTL, workers: s.Workers}
			}
			return true
		})
	})
}

// silent copies what was heard.
func (w *Warden) silent() map[string]heard {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := make(map[string]heard, len(w.heard))
	for id, h := range w.heard {
		all[id] = h
	}
	return all
}

// end ends a silent session, and returns after how long to look again.
func (w *Warden) end(ctx context.Context, id string, h heard) time.Duration {
	ended, _, err := w.commands.end.Do(ctx, w.store, "", endArgs{ID: id, Renewals: h.renewals, Silent: true})
	switch {
	case err != nil:
		return h.ttl / 10
	case ended:
		w.log.Warn("session ended for silence", zap.String("session_id", id))
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.heard, id)
		return time.Hour
	}
	return h.ttl / 10 // it has renewed at the last moment; the watch is about to say so
}
