package registry

import (
	"go.uber.org/zap"

	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/mirror"
)

// Roster is the member list in memory, kept up by the store's watch. Safe for concurrent use.
type Roster struct{ mirror *mirror.Mirror[*roll] }

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
	return &Roster{mirror.New(mirror.Options[*roll]{
		Store: store, Prefixes: []string{allKeys}, What: "member list", Read: readRoll, Empty: &roll{version: firstVersion}, Logger: log,
	})}
}

// Close stops following.
func (r *Roster) Close() { r.mirror.Close() }

// Listen calls heard soon, and after every change, from one goroutine, until the roster is closed. heard may read the
// roster and must return soon.
func (r *Roster) Listen(heard func()) { r.mirror.Listen(heard) }

func (r *Roster) now() *roll {
	all, _ := r.mirror.Now()
	return all
}

// Members lists all members, removed ones too, ordered by stack id. The slice is the caller's to read only.
func (r *Roster) Members() []Member { return r.now().members }

// Member returns one member, as far as this node's copy knows.
func (r *Roster) Member(stackID string) (Member, bool) {
	m, ok := r.now().byID[stackID]
	return m, ok
}

// Cluster returns the cluster's record; its ID is empty while this node's copy does not hold it.
func (r *Roster) Cluster() Cluster { return r.now().cluster }

// StoreVersion returns the cluster's version of the store. It never falls.
func (r *Roster) StoreVersion() int { return r.now().version }

// MayRise reports whether all members can do a higher version of the store than the cluster's.
func (r *Roster) MayRise() bool {
	all := r.now()
	return lowest(all.members) > all.version
}

// Wish returns what is wished of the leader, if anything is.
func (r *Roster) Wish() (Wish, bool) {
	w := r.now().wish
	return w, w != Wish{}
}

func readRoll(s storage.Snapshot) (*roll, error) {
	members, err := Members(s)
	if err != nil {
		return nil, err
	}
	next := &roll{members: members, byID: make(map[string]Member, len(members))}
	for _, m := range members {
		next.byID[m.StackID] = m
	}
	if _, err := get(s, clusterKey, &next.cluster); err != nil {
		return nil, err
	}
	if _, err := get(s, officeKey, &next.wish); err != nil {
		return nil, err
	}
	if next.version, err = GetStoreVersion(s); err != nil {
		return nil, err
	}
	return next, nil
}
