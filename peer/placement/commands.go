package placement

import (
	"encoding/json"
	"fmt"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
	"github.com/nexixai/agentos/tenancy/audit"
)

// Commands are the changes of routes.
type Commands struct {
	put    storage.Call[putRoute, routePut]
	remove storage.Call[removeRoute, struct{}]
}

// Define adds the room's commands to reg.
func Define(reg *storage.Registry) *Commands {
	return &Commands{put: storage.Define(reg, "route.put", evalPut), remove: storage.Define(reg, "route.delete", evalRemove)}
}

const part = "routes"

func routeKey(tenantID, routeID string) string { return tenancy.Place(tenantID, part, routeID) }

// who changes a route.
type who struct {
	TenantID      string `json:"tenant_id"`
	Principal     string `json:"principal"`
	CorrelationID string `json:"correlation_id"`
}

func whoOf(by tenancy.Actor) who {
	return who{TenantID: by.Auth.TenantID, Principal: by.Auth.Principal.ID, CorrelationID: by.CorrelationID}
}

func (w *who) record(tx storage.Tx, action, routeID string, details map[string]any) error {
	_, err := audit.Append(tx, audit.Record{
		TenantID: w.TenantID, Principal: w.Principal, Action: action, Resource: "route/" + routeID, Outcome: "ok",
		CorrelationID: w.CorrelationID, Details: details,
	})
	return err
}

type putRoute struct {
	By    who   `json:"by"`
	Route Route `json:"route"`
}

type routePut struct {
	Route   Route `json:"route"`
	Created bool  `json:"created"`
}

func evalPut(tx storage.Tx, a putRoute) (routePut, error) {
	if _, err := tenancy.GetTenant(tx, a.By.TenantID); err != nil {
		return routePut{}, err
	}
	r := a.Route
	r.TenantID, r.CreatedAt, r.UpdatedAt = a.By.TenantID, tx.Now(), tx.Now()
	key := routeKey(r.TenantID, r.ID)
	raw, err := tx.Get(key)
	if err != nil {
		return routePut{}, err
	}
	created := raw == nil
	if created {
		err = oneMore(tx, r.TenantID)
	} else {
		var former Route
		if former, err = decode(raw); err == nil {
			r.CreatedAt = former.CreatedAt
		}
	}
	if err != nil {
		return routePut{}, err
	}
	if raw, err = json.Marshal(&r); err != nil {
		return routePut{}, fmt.Errorf("placement: encode route: %w", err)
	}
	tx.Set(key, raw)
	targets := make([]string, len(r.Targets))
	for i := range r.Targets {
		targets[i] = r.Targets[i].name()
	}
	return routePut{Route: r, Created: created}, a.By.record(tx, "route.put", r.ID, map[string]any{"targets": targets})
}

// oneMore refuses a route beyond MaxRoutes.
func oneMore(tx storage.Tx, tenantID string) error {
	n := 0
	err := tx.Scan(storage.Prefix(routeKey(tenantID, "")), func(string, []byte) bool { n++; return n < MaxRoutes })
	if err == nil && n >= MaxRoutes {
		err = fault.New(fault.Conflict, "The tenant has %d routes, as many as it may; delete one first.", n)
	}
	return err
}

type removeRoute struct {
	By who    `json:"by"`
	ID string `json:"route_id"`
}

func evalRemove(tx storage.Tx, a removeRoute) (none struct{}, err error) {
	key := routeKey(a.By.TenantID, a.ID)
	raw, err := tx.Get(key)
	if err != nil {
		return none, err
	}
	if raw == nil {
		return none, noRoute()
	}
	tx.Delete(key)
	return none, a.By.record(tx, "route.delete", a.ID, nil)
}

func decode(raw []byte) (r Route, err error) {
	if err = json.Unmarshal(raw, &r); err != nil {
		err = fmt.Errorf("placement: decode route: %w", err)
	}
	return r, err
}

func noRoute() error {
	return fault.New(fault.NotFound, "There is no such route; see GET /v1/federation/routes for those there are.")
}
