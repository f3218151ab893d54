package registry

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/storage"
)

// Roster is the member list in memory, kept up by the store's watch. Safe for concurrent use.
type Roster struct {
	store  storage.Store
	log    *zap.Logger
	wake   chan struct{} // capacity 1: read again
	stop   func()
	cancel context.CancelFunc
	done   chan struct{}
	all    atomic.Pointer[roll]

	mu   sync.Mutex
	ears []func()
}

// roll is one reading.
type roll struct {
	members []Member // ordered by stack id
	byID    map[string]Member
	cluster Cluster
	wish    Wish
	version int
}

// NewRoster begins to follow the tables of the cluster in store, which need not have been started yet. log may be nil.
func NewRoster(store storage.Store, log *zap.Logger) *Roster {
	if log == nil {
		log = zap.NewNop()
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &Roster{store: store, log: log, wake: make(chan struct{}, 1), cancel: cancel, done: make(chan struct{})}
	r.all.Store(&roll{version: firstVersion})
	r.stop = store.Watch(allKeys, r)
	r.poke()
	go r.follow(ctx)
	return r
}

// Close stops following.
func (r *Roster) Close() {
	r.stop()
	r.cancel()
	<-r.done
}

// Listen calls heard soon, and after every change, from one goroutine, until the roster is closed. heard may read the
// roster and must return soon.
func (r *Roster) Listen(heard func()) {
	r.mu.Lock()
	r.ears = append(r.ears, heard)
	r.mu.Unlock()
	r.poke()
}

// Members lists all members, removed ones too, ordered by stack id. The slice is the caller's to read only.
func (r *Roster) Members() []Member { return r.all.Load().members }

// Member returns one member, as far as this node's copy knows.
func (r *Roster) Member(stackID string) (Member, bool) {
	m, ok := r.all.Load().byID[stackID]
	return m, ok
}

// Cluster returns the cluster's record; its ID is empty while this node's copy does not hold it.
func (r *Roster) Cluster() Cluster { return r.all.Load().cluster }

// StoreVersion returns the cluster's version of the store. It never falls.
func (r *Roster) StoreVersion() int { return r.all.Load().version }

// MayRise reports whether all members can do a higher version of the store than the cluster's.
func (r *Roster) MayRise() bool {
	all := r.all.Load()
	return lowest(all.members) > all.version
}

// Wish returns what is wished of the leader, if anything is.
func (r *Roster) Wish() (Wish, bool) {
	w := r.all.Load().wish
	return w, w != Wish{}
}

var _ storage.Watcher = (*Roster)(nil)

// Applied implements storage.Watcher.
func (r *Roster) Applied(uint64, []storage.Change) { r.poke() }

// Jumped implements storage.Watcher.
func (r *Roster) Jumped(uint64) { r.poke() }

func (r *Roster) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// follow reads the tables anew after each change: they are small, and change seldom.
func (r *Roster) follow(ctx context.Context) {
	defer close(r.done)
	const retry = 50 * time.Millisecond
	again := time.NewTimer(0)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		case <-again.C:
		}
		err := r.store.View(ctx, storage.Read{Consistency: storage.Stale}, r.read)
		if err != nil {
			if ctx.Err() == nil {
				r.log.Debug("the member list can't be read yet", zap.Error(err))
				again.Reset(retry)
			}
			continue
		}
		r.mu.Lock()
		ears := slices.Clone(r.ears)
		r.mu.Unlock()
		for _, heard := range ears {
			heard()
		}
	}
}

func (r *Roster) read(s storage.Snapshot) error {
	members, err := Members(s)
	if err != nil {
		return err
	}
	next := &roll{members: members, byID: make(map[string]Member, len(members))}
	for _, m := range members {
		next.byID[m.StackID] = m
	}
	if _, err := get(s, clusterKey, &next.cluster); err != nil {
		return err
	}
	if _, err := get(s, officeKey, &next.wish); err != nil {
		return err
	}
	if next.version, err = GetStoreVersion(s); err != nil {
		return err
	}
	r.all.Store(next)
	return nil
}
