package placement

import (
	"maps"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/mirror"
)

// tenantPrefix begins all that belongs to tenants.
const tenantPrefix = "tenant/"

// table holds each tenant's routes, the most specific first. Tenants without routes are not in it. Neither the map nor a list
// is ever changed once it's shown, but copied: routes change seldom, and are asked for with every run.
type table map[string][]*Route

// follow keeps a table up to what is in store.
func follow(store storage.Store, log *zap.Logger) *mirror.Mirror[table] {
	return mirror.New(mirror.Options[table]{
		Store: store, Prefixes: []string{tenantPrefix}, What: "routes", Wants: mayBeRoute, Logger: log,
		Read: func(s storage.Snapshot) (table, error) { return readTable(s, log) },
		Apply: func(held table, changes []storage.Change) table {
			next := maps.Clone(held)
			for _, c := range changes {
				next.apply(log, c)
			}
			return next
		},
	})
}

// mayBeRoute passes over what is no route: it's asked with every change of anything that is a tenant's.
func mayBeRoute(c storage.Change) bool {
	if c.RangeEnd != "" {
		return mayHoldRoutes(c.Key, c.RangeEnd)
	}
	_, _, ok := splitRoute(c.Key)
	return ok
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

// apply puts one change into t, which nobody else sees yet.
func (t table) apply(log *zap.Logger, c storage.Change) {
	if c.RangeEnd != "" {
		for tenantID, list := range t {
			t.set(tenantID, slices.DeleteFunc(slices.Clone(list), func(r *Route) bool {
				key := routeKey(tenantID, r.ID)
				return c.Key <= key && key < c.RangeEnd
			}))
		}
		return
	}
	tenantID, routeID, ok := splitRoute(c.Key)
	if !ok {
		return
	}
	tenantID = strings.Clone(tenantID)
	list := slices.DeleteFunc(slices.Clone(t[tenantID]), func(r *Route) bool { return r.ID == routeID })
	if c.Value != nil {
		route, err := decode(c.Value)
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

// readTable reads all routes of all tenants.
func readTable(s storage.Reader, log *zap.Logger) (table, error) {
	read := table{}
	for from := tenantPrefix; ; {
		tenantID, err := firstTenant(s, from)
		if err != nil || tenantID == "" {
			return read, err
		}
		list, err := scan(s, tenantID, log)
		if err != nil {
			return nil, err
		}
		read.set(tenantID, list)
		from = storage.PrefixEnd(tenantPrefix + tenantID + "/")
	}
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
