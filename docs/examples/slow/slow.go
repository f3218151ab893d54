// Package slow is an example of a store engine around another one: it passes everything on, and tells of what took long.
// docs/extending.md quotes it whole.
package slow

import (
	"context"
	"time"

	"github.com/nexixai/agentos/storage"
)

// Store is any engine, watched for slowness. What is not overridden here (Watch, Lead, Status) is the engine's own.
type Store struct {
	storage.Store
	o Options
}

var _ storage.Store = (*Store)(nil)

// Options says what is slow, and who is told.
type Options struct {
	// Over is the duration from which on something is slow.
	Over time.Duration
	// Tell is called with the kind of a command, or "read", after it has ended. It is called from many goroutines.
	Tell func(what string, took time.Duration)
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Around returns engine with a watch on it.
func Around(engine storage.Store, o Options) *Store {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Store{Store: engine, o: o}
}

// Do implements storage.Store. What the engine answers is passed on as it is: a refusal keeps its code, and an index its
// meaning.
func (s *Store) Do(ctx context.Context, cmd storage.Command) (result any, index uint64, err error) {
	defer s.watch(cmd.Kind, s.o.Now())
	return s.Store.Do(ctx, cmd)
}

// View implements storage.Store. The time counts that a read waits for a state as new as it demands, and the time that the
// reader takes itself: as long as it reads, the engine keeps its state.
func (s *Store) View(ctx context.Context, r storage.Read, read func(storage.Snapshot) error) error {
	defer s.watch("read", s.o.Now())
	return s.Store.View(ctx, r, read)
}

func (s *Store) watch(what string, began time.Time) {
	if took := s.o.Now().Sub(began); took >= s.o.Over {
		s.o.Tell(what, took)
	}
}
