package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// Route is a tenant's rule of where runs go. Its tenant and its times are the node's to say.
type Route struct {
	ID          string        `json:"route_id,omitempty"`
	TenantID    string        `json:"tenant_id,omitempty"`
	Match       RouteMatch    `json:"match"`
	Targets     []RouteTarget `json:"targets"`
	LostAfterMS int64         `json:"lost_after_ms"`
	OnLost      string        `json:"on_lost,omitempty"` // fail
	CreatedAt   time.Time     `json:"created_at,omitzero"`
	UpdatedAt   time.Time     `json:"updated_at,omitzero"`
}

// RouteMatch says which runs a route is for; a field that is left out matches every run. RequiredCapabilities are what each
// target has to offer.
type RouteMatch struct {
	AgentID              string            `json:"agent_id,omitempty"`
	Labels               map[string]string `json:"labels,omitempty"`
	ModelTier            string            `json:"model_tier,omitempty"`
	Region               string            `json:"region,omitempty"`
	DataClassification   string            `json:"data_classification,omitempty"`
	RequiredCapabilities []string          `json:"required_capabilities,omitempty"`
}

// RouteTarget is exactly one of a node, an organisation, or the asked cluster, and its share of the runs; a nil Weight is 1.
type RouteTarget struct {
	StackID      string `json:"stack_id,omitempty"`
	Organization string `json:"organization,omitempty"`
	Local        bool   `json:"local,omitempty"`
	Weight       *int   `json:"weight,omitempty"`
}

// GetRoute returns one route.
func (c *Client) GetRoute(ctx context.Context, routeID string) (*Route, error) {
	return get[Route](ctx, c, "route", "/v1/federation/routes/{route_id}", routeID)
}

// Routes lists the tenant's routes by id.
func (c *Client) Routes() *List[Route] {
	return &List[Route]{c: c, path: "/v1/federation/routes", plural: "routes"}
}

// PutRoute makes a route, or replaces the one of this id.
func (c *Client) PutRoute(ctx context.Context, routeID string, r Route) (*Route, error) {
	return change[Route](ctx, c, http.MethodPut, "route", "/v1/federation/routes/{route_id}", map[string]any{"route": r}, routeID)
}

// DeleteRoute removes a route; runs that it has placed go on where they are.
func (c *Client) DeleteRoute(ctx context.Context, routeID string) error {
	return c.remove(ctx, "/v1/federation/routes/{route_id}", routeID)
}

// RouteExplain is a run whose place is to be explained.
type RouteExplain struct {
	AgentID       string
	Context       *RunContext
	PolicyContext *PolicyContext
	// Selector, when set, is the caller's own wish of where the run is to go.
	Selector *TargetSelector
}

// TargetSelector narrows where a run may go. Zero fields don't narrow.
type TargetSelector struct {
	StackID              string   `json:"stack_id,omitempty"`
	Region               string   `json:"region,omitempty"`
	Organization         string   `json:"organization,omitempty"`
	RequiredCapabilities []string `json:"required_capabilities,omitempty"`
	PreferredModelTier   string   `json:"preferred_model_tier,omitempty"`
}

// RouteExplanation says where a run would go, and why not anywhere else.
type RouteExplanation struct {
	Decision struct {
		Target  *string `json:"target"` // nil: nowhere
		RouteID *string `json:"route_id"`
	} `json:"decision"`
	Candidates []Candidate `json:"candidates"`
}

// ExplainRoute says where a run would go. It makes none.
func (c *Client) ExplainRoute(ctx context.Context, e RouteExplain) (*RouteExplanation, error) {
	run := map[string]any{"agent_id": e.AgentID}
	if e.Context != nil {
		run["context"] = e.Context
	}
	if e.PolicyContext != nil {
		run["policy_context"] = e.PolicyContext
	}
	body := map[string]any{"run_request": run}
	if e.Selector != nil {
		body["target_selector"] = e.Selector
	}
	a, err := c.Do(ctx, Request{Method: http.MethodPost, Path: "/v1/federation/routes:explain", Body: body})
	if err != nil {
		return nil, err
	}
	out := new(RouteExplanation)
	if err := json.Unmarshal(a.Body, out); err != nil {
		return nil, fmt.Errorf("POST /v1/federation/routes:explain: %w", err)
	}
	return out, nil
}
