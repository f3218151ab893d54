package api

import (
	"context"
	"net/http"

	"github.com/nexixai/agentos/agent/run"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/peer/placement"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
)

// Routes keeps the tenants' rules of where runs go.
type Routes interface {
	Get(ctx context.Context, r storage.Read, tenantID, routeID string) (*placement.Route, uint64, error)
	List(ctx context.Context, r storage.Read, tenantID, cursor string, limit int) ([]placement.Route, string, uint64, error)
	Put(ctx context.Context, by tenancy.Actor, route placement.Route) (*placement.Route, bool, uint64, error)
	Delete(ctx context.Context, by tenancy.Actor, routeID string) (uint64, error)
}

// Placement says where runs go.
type Placement interface {
	Explain(ctx context.Context, a run.Placing) (*run.Placed, error)
	Hosted(ctx context.Context, by *tenancy.Auth) ([]placement.Hosted, error)
}

var (
	_ Routes    = (*placement.Routes)(nil)
	_ Placement = (*placement.Placer)(nil)
)

func (c *call) getRoute() error   { return getOne(c, "route", "route_id", c.s.o.Routes.Get) }
func (c *call) listRoutes() error { return listSome(c, "routes", c.s.o.Routes.List) }

func (c *call) putRoute() error {
	name, err := c.ident("route_id")
	if err != nil {
		return err
	}
	var body struct {
		Route *placement.Route `json:"route"`
	}
	if err := c.body(&body); err != nil {
		return err
	}
	if body.Route == nil {
		return fault.Invalid("route", "The body is {\"route\": {…}}.")
	}
	if err := c.ownTenant("route.tenant_id", body.Route.TenantID); err != nil {
		return err
	}
	if body.Route.ID != "" && body.Route.ID != name {
		return fault.Invalid("route.route_id", "route.route_id is not the id in the path.")
	}
	body.Route.ID, body.Route.TenantID = name, c.auth.TenantID
	r, isNew, index, err := c.s.o.Routes.Put(c.ctx(), c.actor(), *body.Route)
	if err != nil {
		return err
	}
	c.index = index
	return c.reply(created(isNew), member{"route", r})
}

func (c *call) deleteRoute() error {
	name, err := c.ident("route_id")
	if err != nil {
		return err
	}
	if c.index, err = c.s.o.Routes.Delete(c.ctx(), c.actor(), name); err != nil {
		return err
	}
	return c.noContent()
}

// explainedRun is a run to be explained: as it would be asked for, but that the input may be left out. What doesn't bear on
// the place is ignored.
type explainedRun struct {
	AgentID       string                 `json:"agent_id"`
	Input         run.Input              `json:"input"`
	Context       run.Context            `json:"context"`
	PolicyContext *tenancy.PolicyContext `json:"policy_context"`
}

// explainRoute says where a run would go, and why not anywhere else. It makes none.
func (c *call) explainRoute() error {
	var body struct {
		Run      *explainedRun `json:"run_request"`
		Selector *run.Selector `json:"target_selector"`
	}
	if err := c.body(&body); err != nil {
		return err
	}
	if body.Run == nil {
		return fault.Invalid("run_request", "The body is {\"run_request\": {\"agent_id\": …}}.")
	}
	req := &run.Request{Input: body.Run.Input, Context: body.Run.Context, PolicyContext: body.Run.PolicyContext}
	asked, err := run.Asking(c.auth, body.Run.AgentID, req)
	if err != nil {
		return within("run_request", err)
	}
	asked.Selector = body.Selector
	placed, err := c.s.o.Placement.Explain(c.ctx(), asked)
	if err != nil {
		return err
	}
	var decision struct {
		Target  *string `json:"target"` // null: nowhere
		RouteID *string `json:"route_id"`
	}
	if placed.RouteID != "" {
		decision.RouteID = &placed.RouteID
	}
	if len(placed.Candidates) > 0 && placed.Candidates[0].Chosen {
		decision.Target = &placed.Candidates[0].StackID
	}
	return c.reply(http.StatusOK, member{"decision", decision}, member{"candidates", placed.Candidates})
}

// within says of a refusal which member of the body it is about.
func within(name string, err error) error {
	if err == nil {
		return nil
	}
	e := fault.Of(err)
	field, ok := e.Details["field"].(string)
	if !ok {
		return err
	}
	inner := *e
	inner.Details = nil
	for key, value := range e.Details {
		inner.With(key, value)
	}
	return inner.With("field", name+"."+field)
}
