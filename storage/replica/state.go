package replica

import (
	"fmt"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
)

// state is one copy of the key space in a directory of its own. It is counted: readers hold it while they read, and it
// closes when the last one has let go after the store has.
type state struct {
	db   *pebble.DB
	dir  string // full path
	refs atomic.Int64
	done chan struct{} // closed once the engine is
	err  error         // of closing, to be read after done
}

func newState(db *pebble.DB, dir string) *state {
	s := &state{db: db, dir: dir, done: make(chan struct{})}
	s.refs.Store(1)
	return s
}

func (s *state) release() {
	if s.refs.Add(-1) == 0 {
		s.err = s.db.Close()
		close(s.done)
	}
}

// checkIdentity refuses a state of another cluster or of another layout.
func checkIdentity(db *pebble.DB, clusterID string) error {
	got, err := get(db, identityKey)
	if err != nil {
		return err
	}
	if want := identity(clusterID); string(got) != want {
		return fmt.Errorf("storage: the state is of %q, not of %q: it belongs to another cluster or version", got, want)
	}
	return nil
}

func identity(clusterID string) string { return stateFormat + " " + clusterID }

// acquire returns the current state, held for the caller, or nil when the store is closed.
func (s *Store) acquire() *state {
	s.swap.RLock()
	defer s.swap.RUnlock()
	if s.cur == nil {
		return nil
	}
	s.cur.refs.Add(1)
	return s.cur
}
