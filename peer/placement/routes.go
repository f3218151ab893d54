package placement

import (
	"context"
	"strings"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/agent"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/mirror"
	"github.com/nexixai/agentos/tenancy"
)

// RoutesOptions says how to make Routes. Store and Commands have to be given.
type RoutesOptions struct {
	Store    storage.Store
	Commands *Commands
	Logger   *zap.Logger
}

// Routes keeps the routes of all tenants, and a copy of them in memory. It's safe for concurrent use.
type Routes struct {
	store    storage.Store
	commands *Commands
	log      *zap.Logger
	memory   *mirror.Mirror[table]
}

// NewRoutes returns Routes that follow the store, which need not have been started yet, until Close.
func NewRoutes(o RoutesOptions) *Routes {
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	return &Routes{store: o.Store, commands: o.Commands, log: o.Logger, memory: follow(o.Store, o.Logger)}
}

// Close stops following.
func (r *Routes) Close() { r.memory.Close() }

// of returns a tenant's routes, the most specific first. They are shared and never changed.
func (r *Routes) of(ctx context.Context, tenantID string, fresh bool) ([]*Route, error) {
	if !fresh {
		if known, all := r.memory.Now(); all {
			return known[tenantID], nil
		}
	}
	read := storage.Read{}
	if fresh {
		read.Consistency = storage.Linearizable
	}
	var list []*Route
	err := r.store.View(ctx, read, func(s storage.Snapshot) (err error) {
		list, err = scan(s, tenantID, r.log)
		return err
	})
	return list, err
}

// scan reads a tenant's routes, the most specific first. One that can't be read is told to log and passed over: it must
// not keep the others from being known.
func scan(s storage.Reader, tenantID string, log *zap.Logger) (list []*Route, err error) {
	err = s.Scan(storage.Prefix(routeKey(tenantID, "")), func(_ string, raw []byte) bool {
		route, err := decode(raw)
		if err != nil {
			log.Error("route can't be read", zap.String("tenant_id", tenantID), zap.Error(err))
			return true
		}
		list = append(list, &route)
		return true
	})
	return sorted(list), err
}

// Get returns one route, or fault.NotFound.
func (r *Routes) Get(ctx context.Context, read storage.Read, tenantID, routeID string) (*Route, uint64, error) {
	var route Route
	var index uint64
	err := storage.Find(ctx, r.store, read, func(s storage.Snapshot) error {
		index = s.Index()
		if !id.Valid(routeID) {
			return noRoute()
		}
		raw, err := s.Get(routeKey(tenantID, routeID))
		if err == nil && raw == nil {
			err = noRoute()
		}
		if err == nil {
			route, err = decode(raw)
		}
		return err
	})
	if err != nil {
		return nil, index, err
	}
	return &route, index, nil
}

// List returns a tenant's routes by id, beginning after cursor; next is "" at the end.
func (r *Routes) List(ctx context.Context, read storage.Read, tenantID, cursor string, limit int) (list []Route, next string, index uint64, err error) {
	if limit, err = agent.PageLimit(limit); err != nil {
		return nil, "", 0, err
	}
	prefix := routeKey(tenantID, "")
	span := storage.Prefix(prefix)
	if cursor != "" {
		after, err := agent.Position(cursor, tenantID, part, "")
		if err != nil {
			return nil, "", 0, err
		}
		span.From = prefix + after + "\x00"
	}
	list = []Route{}
	var broken error
	err = r.store.View(ctx, read, func(s storage.Snapshot) error {
		index = s.Index()
		return s.Scan(span, func(key string, raw []byte) bool {
			if len(list) == limit {
				next = agent.Cursor(tenantID, part, "", list[limit-1].ID)
				return false
			}
			var route Route
			if route, broken = decode(raw); broken == nil {
				list = append(list, route)
			}
			return broken == nil
		})
	})
	if err == nil {
		err = broken
	}
	return list, next, index, err
}

// Put makes a route, or replaces the one of its id; created tells which. What can't be a route is fault.InvalidRequest by
// field; one beyond MaxRoutes is fault.Conflict. Runs that have been placed before go on where they are.
func (r *Routes) Put(ctx context.Context, by tenancy.Actor, route Route) (_ *Route, created bool, index uint64, err error) {
	if route.TenantID != "" && route.TenantID != by.Auth.TenantID {
		return nil, false, 0, fault.New(fault.Forbidden, "The body names another tenant than the credential; leave tenant_id out.").With("field", "route.tenant_id")
	}
	route.Targets = append([]Target(nil), route.Targets...)
	route.Match.RequiredCapabilities = append([]string(nil), route.Match.RequiredCapabilities...)
	if err := route.normalize(); err != nil {
		return nil, false, 0, err
	}
	done, index, err := r.commands.put.Do(ctx, r.store, id.New(id.Command), putRoute{By: whoOf(by), Route: route})
	if err == nil {
		err = r.reach(ctx, index)
	}
	if err != nil {
		return nil, false, index, err
	}
	return &done.Route, done.Created, index, nil
}

// Delete removes a route, or answers fault.NotFound. Runs that it has placed go on where they are.
func (r *Routes) Delete(ctx context.Context, by tenancy.Actor, routeID string) (index uint64, err error) {
	if !id.Valid(routeID) {
		return 0, noRoute()
	}
	if _, index, err = r.commands.remove.Do(ctx, r.store, id.New(id.Command), removeRoute{By: whoOf(by), ID: routeID}); err != nil {
		return index, err
	}
	return index, r.reach(ctx, index)
}

// reach waits until this node's memory holds the change at index, so that who made it is placed by it.
func (r *Routes) reach(ctx context.Context, index uint64) error {
	return r.store.View(ctx, storage.Read{MinIndex: index}, func(storage.Snapshot) error { return nil })
}

// splitRoute takes the key of a route apart.
func splitRoute(key string) (tenantID, routeID string, ok bool) {
	rest, ok := strings.CutPrefix(key, tenantPrefix)
	if !ok {
		return "", "", false
	}
	slash := strings.IndexByte(rest, '/')
	if slash < 0 {
		return "", "", false
	}
	routeID, ok = strings.CutPrefix(rest[slash+1:], part+"/")
	return rest[:slash], routeID, ok
}
