package placement

import (
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/nexixai/agentos/agent"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/negotiation"
	"github.com/nexixai/agentos/tenancy"
)

// Bounds of a tenant's routes.
const (
	MaxRoutes  = 200
	MaxTargets = 16
	MaxWeight  = 1000

	maxLabels       = 16
	maxText         = 256
	maxCapabilities = 32
	minLostAfterMS  = 1000
)

// What becomes of a run whose peer is lost.
const (
	OnLostFail    = "fail"
	OnLostReplace = "replace"
)

// Route is a tenant's rule of where runs go.
type Route struct {
	ID       string   `json:"route_id"`
	TenantID string   `json:"tenant_id"`
	Match    Match    `json:"match"`
	Targets  []Target `json:"targets"`
	// LostAfterMS is how long a peer may be silent before a run there is given up; 0 waits for the run's own deadline.
	LostAfterMS int64     `json:"lost_after_ms"`
	OnLost      string    `json:"on_lost"` // fail
	CreatedAt   time.Time `json:"created_at"`
	UpdatedAt   time.Time `json:"updated_at"`
}

// Match says which runs a route is for. A field that is left out matches every run.
type Match struct {
	AgentID string `json:"agent_id,omitempty"`
	// Labels must all be among the run's, with equal values.
	Labels map[string]string `json:"labels,omitempty"`
	// ModelTier is the tier that the caller prefers, else that of the agent here.
	ModelTier string `json:"model_tier,omitempty"`
	// Region and DataClassification are those of the run's policy context.
	Region             string `json:"region,omitempty"`
	DataClassification string `json:"data_classification,omitempty"`
	// RequiredCapabilities ask nothing of the run: they are what each target of the route has to offer.
	RequiredCapabilities []string `json:"required_capabilities,omitempty"`
}

// Target is a place that a route leads to: exactly one of a node, an organisation, or this cluster.
type Target struct {
	StackID      string `json:"stack_id,omitempty"`
	Organization string `json:"organization,omitempty"`
	Local        bool   `json:"local,omitempty"`
	// Weight is the share of runs that go here, of the sum of weights; nil is 1. With 0 it takes only what no other can.
	Weight *int `json:"weight"`
}

func (t *Target) weight() int {
	if t.Weight == nil {
		return 1
	}
	return *t.Weight
}

// name tells a target from the others of its route.
func (t *Target) name() string {
	switch {
	case t.Local:
		return "local"
	case t.StackID != "":
		return "stack/" + t.StackID
	}
	return "organization/" + t.Organization
}

// specificity is how many fields a match gives; each label counts.
func (m *Match) specificity() int {
	n := len(m.Labels)
	for _, s := range [...]string{m.AgentID, m.ModelTier, m.Region, m.DataClassification} {
		if s != "" {
			n++
		}
	}
	if len(m.RequiredCapabilities) > 0 {
		n++
	}
	return n
}

// before orders routes: the most specific first, then by id.
func before(a, b *Route) int {
	if d := b.Match.specificity() - a.Match.specificity(); d != 0 {
		return d
	}
	return strings.Compare(a.ID, b.ID)
}

// normalize fills in what r was sent without, and refuses by field what a route can't be.
func (r *Route) normalize() error {
	if r.OnLost == "" {
		r.OnLost = OnLostFail
	}
	for i, name := range r.Match.RequiredCapabilities {
		r.Match.RequiredCapabilities[i] = negotiation.Canonical(name)
	}
	one := 1
	for i := range r.Targets {
		if r.Targets[i].Weight == nil {
			r.Targets[i].Weight = &one
		}
	}
	switch {
	case !id.Valid(r.ID):
		return fault.Invalid("route_id", "A route id is 1 to %d of [A-Za-z0-9._-].", id.MaxLen)
	case r.OnLost == OnLostReplace:
		return fault.Invalid("route.on_lost", "on_lost \"replace\" can't be had yet: another cluster may only take a lost run over once the first one has to renew a lease for it, and it does not. Use \"fail\".")
	case r.OnLost != OnLostFail:
		return fault.Invalid("route.on_lost", "on_lost is \"fail\".")
	case r.LostAfterMS != 0 && (r.LostAfterMS < minLostAfterMS || r.LostAfterMS > agent.MaxTimeoutMS):
		return fault.Invalid("route.lost_after_ms", "lost_after_ms is %d to %d, or 0 to wait for the run's own deadline.", minLostAfterMS, agent.MaxTimeoutMS)
	case len(r.Targets) == 0 || len(r.Targets) > MaxTargets:
		return fault.Invalid("route.targets", "A route has 1 to %d targets.", MaxTargets)
	}
	if err := r.Match.validate(); err != nil {
		return err
	}
	seen := make(map[string]bool, len(r.Targets))
	for i := range r.Targets {
		t := &r.Targets[i]
		if err := t.validate(); err != nil {
			return err
		}
		if seen[t.name()] {
			return fault.Invalid("route.targets", "The target %s is named twice.", t.name())
		}
		seen[t.name()] = true
	}
	return nil
}

func (t *Target) validate() error {
	given := 0
	for _, yes := range [...]bool{t.StackID != "", t.Organization != "", t.Local} {
		if yes {
			given++
		}
	}
	switch {
	case given != 1:
		return fault.Invalid("route.targets", "A target is exactly one of a stack_id, an organization, or \"local\": true.")
	case t.StackID != "" && !id.Valid(t.StackID):
		return fault.Invalid("route.targets.stack_id", "A stack id is 1 to %d of [A-Za-z0-9._-].", id.MaxLen)
	case t.Organization != "" && !id.Valid(t.Organization):
		return fault.Invalid("route.targets.organization", "An organisation's name is 1 to %d of [A-Za-z0-9._-].", id.MaxLen)
	case *t.Weight < 0 || *t.Weight > MaxWeight:
		return fault.Invalid("route.targets.weight", "A weight is 0 to %d.", MaxWeight)
	}
	return nil
}

// tiers of models, as the contract names them.
var tiers = [...]string{"fast", "balanced", "premium"}

func (m *Match) validate() error {
	switch {
	case m.AgentID != "" && !id.Valid(m.AgentID):
		return fault.Invalid("route.match.agent_id", "An agent id is 1 to %d of [A-Za-z0-9._-].", id.MaxLen)
	case m.Region != "" && !id.Valid(m.Region):
		return fault.Invalid("route.match.region", "A region is 1 to %d of [A-Za-z0-9._-].", id.MaxLen)
	case m.ModelTier != "" && !slices.Contains(tiers[:], m.ModelTier):
		return fault.Invalid("route.match.model_tier", "A model tier is fast, balanced or premium.")
	case len(m.Labels) > maxLabels:
		return fault.Invalid("route.match.labels", "A route matches at most %d labels.", maxLabels)
	}
	if _, known := tenancy.ClassRank(m.DataClassification); !known {
		return fault.Invalid("route.match.data_classification", "A data classification is public, internal, confidential or restricted.")
	}
	for name, value := range m.Labels {
		if name == "" || strings.Contains(name, ":") || !plain(name) || !plain(value) {
			return fault.Invalid("route.match.labels", "A label's name has no ':', and name and value have at most %d bytes without control characters.", maxText)
		}
	}
	return validCapabilities("route.match.required_capabilities", m.RequiredCapabilities)
}

func validCapabilities(field string, names []string) error {
	if len(names) > maxCapabilities {
		return fault.Invalid(field, "At most %d capabilities can be required.", maxCapabilities)
	}
	for i, name := range names {
		if !id.Valid(name) {
			return fault.Invalid(field, "A capability's name is 1 to %d of [A-Za-z0-9._-]; entry %d is not.", id.MaxLen, i)
		}
	}
	return nil
}

func plain(s string) bool {
	return len(s) <= maxText && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}
