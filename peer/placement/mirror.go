package placement

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

// tenantPrefix begins all that belongs to tenants.
const tenantPrefix = "tenant/"

// mirror is the copy of all routes in memory, kept up by the store's watch. It is read anew at the start and after a jump;
// changes that come while it's being read are put on top of what was read, by their index.
//
// Readers take one atomic load. A tenant's list is never changed: a change of a route makes a new list.
type mirror struct {
	log    *zap.Logger
	reload chan struct{} // holds one: read everything

	table atomic.Pointer[table] // nil: not known yet

	mu    sync.Mutex // of the writers
	later []laterChange
}

// table holds each tenant's routes, the most specific first. Tenants without routes are not in it. The map is copied for a
// change: routes change seldom, and are asked for with every run.
type table map[string][]*Route

type laterChange struct {
	index uint64
	key   string
	end   string // of a removed range
	value []byte
}

// maxLater bounds the changes kept while the mirror is being read; beyond it the reading begins anew.
const maxLater = 10_000

var _ storage.Watcher = (*mirror)(nil)

func (m *mirror) init(log *zap.Logger) {
	m.log = log
	m.reload = make(chan struct{}, 1)
	m.reload <- struct{}{}
}

// routes returns a tenant's routes, and whether the mirror knows them all.
func (m *mirror) routes(tenantID string) (list []*Route, all bool) {
	t := m.table.Load()
	if t == nil {
		return nil, false
	}
	return (*t)[tenantID], true
}

// Applied implements storage.Watcher. It's called with every change of anything that is a tenant's, so what is no route is
// passed over without taking a lock.
func (m *mirror) Applied(index uint64, changes []storage.Change) {
	for i := range changes {
		c := &changes[i]
		if c.RangeEnd == "" {
			if _, _, ok := splitRoute(c.Key); !ok {
				continue
			}
		} else if !mayHoldRoutes(c.Key, c.RangeEnd) {
			continue
		}
		m.change(laterChange{index: index, key: c.Key, end: c.RangeEnd, value: c.Value})
	}
}

// mayHoldRoutes tells of most ranges that are removed (a run's events, say) that no route lies in them.
func mayHoldRoutes(from, to string) bool {
	_, rest, ok := cutTenant(from)
	tenant, end, okEnd := cutTenant(to)
	if !ok || !okEnd || !strings.HasPrefix(from, tenantPrefix+tenant+"/") {
		return true
	}
	return rest < part+"0" && part+"/" < end // '0' is the byte after '/'
}

func cutTenant(key string) (tenant, rest string, ok bool) {
	return strings.Cut(strings.TrimPrefix(key, tenantPrefix), "/")
}

func (m *mirror) change(c laterChange) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.table.Load()
	if now == nil {
		m.later = append(m.later, laterChange{index: c.index, key: strings.Clone(c.key), end: strings.Clone(c.end), value: slices.Clone(c.value)})
		if len(m.later) > maxLater {
			m.forget()
		}
		return
	}
	next := make(table, len(*now)+1)
	for tenantID, list := range *now {
		next[tenantID] = list
	}
	next.apply(m.log, c)
	m.table.Store(&next)
}

// Jumped implements storage.Watcher.
func (m *mirror) Jumped(uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forget()
}

// forget empties the mirror, so that routes are read from the store until it has been read anew. m.mu is held.
func (m *mirror) forget() {
	m.table.Store(nil)
	m.later = nil
	select {
	case m.reload <- struct{}{}:
	default:
	}
}

// apply puts one change into t, which nobody else sees yet.
func (t table) apply(log *zap.Logger, c laterChange) {
	if c.end != "" {
		for tenantID, list := range t {
			t.set(tenantID, slices.DeleteFunc(slices.Clone(list), func(r *Route) bool {
				key := routeKey(tenantID, r.ID)
				return c.key <= key && key < c.end
			}))
		}
		return
	}
	tenantID, routeID, ok := splitRoute(c.key)
	if !ok {
		return
	}
	tenantID = strings.Clone(tenantID)
	list := slices.DeleteFunc(slices.Clone(t[tenantID]), func(r *Route) bool { return r.ID == routeID })
	if c.value != nil {
		route, err := decode(c.value)
		if err != nil {
			log.Error("route can't be read", zap.String("tenant_id", tenantID), zap.Error(err))
		} else {
			list = append(list, &route)
		}
	}
	t.set(tenantID, list)
}

func (t table) set(tenantID string, list []*Route) {
	if len(list) == 0 {
		delete(t, tenantID)
		return
	}
	t[tenantID] = sorted(list)
}

func sorted(list []*Route) []*Route {
	slices.SortFunc(list, before)
	return list
}

// run reads the mirror whenever it has to be read, until ctx ends.
func (m *mirror) run(ctx context.Context, store storage.Store) {
	const first, longest = 20 * time.Millisecond, 2 * time.Second
	pause := first
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.reload:
		}
		err := store.View(ctx, storage.Read{Consistency: storage.Stale}, m.load)
		if err == nil {
			pause = first
			continue
		}
		if ctx.Err() != nil {
			return
		}
		m.log.Debug("routes can't be read yet", zap.Error(err)) // a store that has not been started yet ends up here
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		pause = min(2*pause, longest)
		select {
		case m.reload <- struct{}{}:
		default:
		}
	}
}

// load reads everything from s, and puts on top what has changed since.
func (m *mirror) load(s storage.Snapshot) error {
	read := table{}
	for from := tenantPrefix; ; {
		tenantID, err := firstTenant(s, from)
		if err != nil || tenantID == "" {
			if err != nil {
				return err
			}
			break
		}
		list, err := scan(s, tenantID, m.log)
		if err != nil {
			return err
		}
		read.set(tenantID, list)
		from = storage.PrefixEnd(tenantPrefix + tenantID + "/")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.reload) > 0 {
		return nil // it jumped meanwhile: what was read is of another state
	}
	for _, l := range m.later {
		if l.index > s.Index() {
			read.apply(m.log, l)
		}
	}
	m.table.Store(&read)
	m.later = nil
	return nil
}

// firstTenant is the tenant of the first key at or after from, "" when there is none.
func firstTenant(s storage.Reader, from string) (tenantID string, err error) {
	err = s.Scan(storage.Range{From: from, To: storage.PrefixEnd(tenantPrefix)}, func(key string, _ []byte) bool {
		tenant, _, _ := cutTenant(key)
		tenantID = strings.Clone(tenant)
		return false
	})
	return tenantID, err
}
