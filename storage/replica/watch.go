package replica

import (
	"slices"
	"sync"

	"github.com/nexixai/agentos/storage"
)

// watches are who wants to hear of changes. The lock is held while they are told, so that stop can promise silence.
type watches struct {
	mu   sync.Mutex
	list []*watch
}

type watch struct {
	span storage.Range
	w    storage.Watcher
}

// Watch implements storage.Store.
func (s *Store) Watch(prefix string, w storage.Watcher) (stop func()) {
	entry := &watch{span: storage.Prefix(prefix), w: w}
	s.watches.mu.Lock()
	defer s.watches.mu.Unlock()
	s.watches.list = append(s.watches.list, entry)
	return func() {
		s.watches.mu.Lock()
		defer s.watches.mu.Unlock()
		s.watches.list = slices.DeleteFunc(s.watches.list, func(x *watch) bool { return x == entry })
	}
}

// tell lets every watch know what the entries changed.
func (s *Store) tell(fates []applied) {
	s.watches.mu.Lock()
	defer s.watches.mu.Unlock()
	if len(s.watches.list) == 0 {
		return
	}
	for _, f := range fates {
		if f.skip || len(f.entry.repr) == 0 {
			continue
		}
		changes, err := f.entry.changes()
		if err != nil {
			s.die(err)
			return
		}
		for _, w := range s.watches.list {
			if seen := storage.Within(changes, w.span); len(seen) > 0 {
				w.w.Applied(f.index, seen)
			}
		}
	}
}

// jumped lets everybody know that the whole state was replaced.
func (s *Store) jumped(m meta) {
	s.watches.mu.Lock()
	for _, w := range s.watches.list {
		w.w.Jumped(m.index)
	}
	s.watches.mu.Unlock()
	s.note(m)
	s.waiters.reached(m.index)
}
