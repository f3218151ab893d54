package route

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/model"
	"github.com/nexixai/agentos/tenancy"
)

// Options says how to make a Router.
type Options struct {
	// Tiers lists for a tier the models that serve it ("backend/model"), in the order to be tried. A tier that is left out
	// is served by every model that says so itself, in the order of the backends.
	Tiers map[string][]string
	// Threshold is how many failures in a row open a backend's breaker; 0 means 5.
	Threshold int
	// Cooldown is how long an open breaker refuses calls at first; it doubles up to MaxCooldown. 0 means 2 s and 1 min.
	Cooldown, MaxCooldown time.Duration
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Router implements model.Router. It is safe for concurrent use.
type Router struct {
	tiers  map[string][]string
	health *health
}

var _ model.Router = (*Router)(nil)

// New returns a Router.
func New(o Options) *Router {
	tiers := make(map[string][]string, len(o.Tiers))
	for tier, models := range o.Tiers {
		tiers[tier] = slices.Clone(models)
	}
	return &Router{tiers: tiers, health: newHealth(o)}
}

// TierPrefix begins a model_ref that names a tier.
const TierPrefix = "tier:"

// Decide implements model.Router.
func (r *Router) Decide(q model.RouteQuery) (model.Decision, error) {
	d := model.Decision{ModelRef: q.ModelRef, Considered: []model.Considered{}}
	named := r.named(q)
	if len(named) == 0 {
		return d, notFound(q.ModelRef)
	}
	var entitled, unfit []string
	var ready, waiting []model.Info
	for _, m := range named {
		c := considered{Considered: model.Considered{Backend: m.Backend, Model: m.Model}, all: q.Explain}
		switch {
		case !check(&c, r.entitlement(q, m)):
			// What a tenant may not use does not exist for it, in an explanation too.
			continue
		case !check(&c, capability(q.Operation, m)):
			unfit = append(unfit, q.Operation)
		case !check(&c, r.requirements(q, m)...):
			entitled = append(entitled, m.ID)
		default:
			entitled = append(entitled, m.ID)
			if check(&c, r.health.reason(m.Backend)) {
				ready = append(ready, m)
			} else {
				waiting = append(waiting, m)
			}
		}
		if q.Explain || len(c.Reasons) > 0 {
			d.Considered = append(d.Considered, c.Considered)
		}
	}
	// A backend that is to be spared is still tried when there's no other; its breaker says the last word.
	d.Candidates = append(ready, waiting...)
	if q.Explain {
		mark(&d)
	}
	switch {
	case len(d.Candidates) > 0:
		return d, nil
	case len(entitled) > 0:
		return d, unmet(q, d, entitled)
	case len(unfit) > 0 && !strings.HasPrefix(q.ModelRef, TierPrefix):
		return d, fault.Invalid("model", "The model %q can't do %q; see GET /v1/models for what each can do.", q.ModelRef, q.Operation)
	}
	return d, notFound(q.ModelRef)
}

func notFound(ref string) error {
	return fault.New(fault.NotFound, "There is no model %q that this tenant may use; see GET /v1/models for those there are.", ref).With("param", "model")
}

func unmet(q model.RouteQuery, d model.Decision, candidates []string) error {
	var missing []string
	for _, c := range d.Considered {
		if !slices.Contains(candidates, c.Backend+"/"+c.Model) {
			continue // it can't do this at all, whatever is required
		}
		for _, reason := range c.Reasons {
			if !reason.OK && !slices.Contains(missing, reason.Check) {
				missing = append(missing, reason.Check)
			}
		}
	}
	return fault.New(fault.UnsupportedCapability, "No model of %q meets the requirements; loosen them or name another model.", q.ModelRef).
		With("missing", missing).With("candidates", candidates)
}

// considered gathers reasons: those against, or all.
type considered struct {
	model.Considered
	all bool
}

func check(c *considered, reasons ...model.Reason) bool {
	ok := true
	for _, reason := range reasons {
		if c.all || !reason.OK {
			c.Reasons = append(c.Reasons, reason)
		}
		ok = ok && reason.OK
	}
	return ok
}

func mark(d *model.Decision) {
	for i, m := range d.Candidates {
		for j := range d.Considered {
			if c := &d.Considered[j]; c.Backend == m.Backend && c.Model == m.Model {
				c.Chosen, c.Order = i == 0, i+1
			}
		}
	}
}

// named returns the models that q.ModelRef may mean, best first.
func (r *Router) named(q model.RouteQuery) []model.Info {
	if tier, ok := strings.CutPrefix(q.ModelRef, TierPrefix); ok {
		return r.ofTier(tier, q)
	}
	if backend, name, ok := strings.Cut(q.ModelRef, "/"); ok {
		for _, b := range q.Backends {
			if b.Name == backend {
				return r.at(b, name)
			}
		}
	}
	var list []model.Info
	for _, b := range q.Backends {
		if b.Known {
			list = append(list, r.at(b, q.ModelRef)...)
		}
	}
	return list
}

// at returns the model called name at b. A backend that hasn't said what it serves is believed to serve it: it'll refuse by
// itself what it doesn't have.
func (r *Router) at(b model.Backend, name string) []model.Info {
	for _, m := range b.Models {
		if m.Model == name {
			m.Tiers = r.tiersOf(m)
			return []model.Info{m}
		}
	}
	if b.Known || name == "" {
		return nil
	}
	m := model.Info{ID: b.Name + "/" + name, Backend: b.Name, Model: name}
	m.Tiers = r.tiersOf(m)
	return []model.Info{m}
}

func (r *Router) ofTier(tier string, q model.RouteQuery) []model.Info {
	var list []model.Info
	if configured, ok := r.tiers[tier]; ok {
		for _, id := range configured {
			backend, name, _ := strings.Cut(id, "/")
			for _, b := range q.Backends {
				if b.Name == backend {
					list = append(list, r.at(b, name)...)
				}
			}
		}
		return list
	}
	for _, b := range q.Backends {
		for _, m := range b.Models {
			if slices.Contains(m.Tiers, tier) {
				m.Tiers = r.tiersOf(m)
				list = append(list, m)
			}
		}
	}
	return list
}

// tiersOf returns the tiers that m serves: those it is configured for, and of the others those it claims.
func (r *Router) tiersOf(m model.Info) []string {
	if len(r.tiers) == 0 {
		return m.Tiers
	}
	var tiers []string
	for _, tier := range m.Tiers {
		if _, configured := r.tiers[tier]; !configured {
			tiers = append(tiers, tier)
		}
	}
	for tier, models := range r.tiers {
		if slices.Contains(models, m.ID) {
			tiers = append(tiers, tier)
		}
	}
	slices.Sort(tiers)
	return tiers
}

// entitlement holds a model against what the tenant may use: its backend, and a tier, the one asked for or, of a model named
// outright, one of those it serves. So a premium model can't be had by its name.
func (r *Router) entitlement(q model.RouteQuery, m model.Info) model.Reason {
	reason := model.Reason{Check: "entitlement", OK: true, Detail: "the tenant may use it"}
	if t := q.Tenant; !allowed(t.Entitlements.ModelBackendsAllowed, m.Backend) {
		reason.OK, reason.Detail = false, fmt.Sprintf("the tenant may not use the backend %q", m.Backend)
	} else if tier, ok := strings.CutPrefix(q.ModelRef, TierPrefix); ok {
		if !allowed(t.Entitlements.ModelTiersAllowed, tier) {
			reason.OK, reason.Detail = false, fmt.Sprintf("the tenant may not use the tier %q", tier)
		}
	} else if !tierAllowed(t, m) {
		reason.OK, reason.Detail = false, "the tenant may use none of the model's tiers"
	}
	return reason
}

func tierAllowed(t *tenancy.Tenant, m model.Info) bool {
	if len(m.Tiers) == 0 {
		return true // it belongs to no tier, so the backend's entitlement is all there is
	}
	return slices.ContainsFunc(m.Tiers, func(tier string) bool { return allowed(t.Entitlements.ModelTiersAllowed, tier) })
}

// allowed reads an entitlement: nil sets no limit, an empty list allows nothing.
func allowed(list []string, name string) bool { return list == nil || slices.Contains(list, name) }

func capability(op string, m model.Info) model.Reason {
	if len(m.Capabilities) == 0 || slices.Contains(m.Capabilities, op) {
		return model.Reason{Check: "capability", OK: true, Detail: "it can do " + op}
	}
	return model.Reason{Check: "capability", Detail: "it can't do " + op}
}

func (r *Router) requirements(q model.RouteQuery, m model.Info) []model.Reason {
	var list []model.Reason
	if least := q.Requirements.MinContextTokens; least > 0 {
		known := m.ContextWindowTokens > 0
		list = append(list, model.Reason{
			Check: "min_context_tokens", OK: !known || m.ContextWindowTokens >= least,
			Detail: bound(known, "its context has %d tokens, %d are required", m.ContextWindowTokens, least),
		})
	}
	if most := q.Requirements.MaxCostUSD; most > 0 && q.Cost != nil {
		cost := float64(q.Cost(m)) / 1e9
		list = append(list, model.Reason{
			Check: "max_cost_usd", OK: cost <= most, Detail: fmt.Sprintf("the call may cost %.9f USD, %.9f is the bound", cost, most),
		})
	}
	if most := q.Requirements.MaxLatencyMS; most > 0 {
		seen, known := r.health.latency(m.ID)
		list = append(list, model.Reason{
			Check: "max_latency_ms", OK: !known || seen.Milliseconds() <= most,
			Detail: bound(known, "it takes %d ms of late, %d is the bound", seen.Milliseconds(), most),
		})
	}
	return list
}

func bound(known bool, format string, has, wants int64) string {
	if !known {
		return "not known"
	}
	return fmt.Sprintf(format, has, wants)
}

// Visible implements model.Router.
func (r *Router) Visible(t *tenancy.Tenant, backends []model.Backend) []model.Info {
	list := []model.Info{}
	for _, b := range backends {
		if !allowed(t.Entitlements.ModelBackendsAllowed, b.Name) {
			continue
		}
		for _, m := range b.Models {
			m.Tiers = r.tiersOf(m)
			if !tierAllowed(t, m) {
				continue
			}
			m.Tiers = slices.DeleteFunc(slices.Clone(m.Tiers), func(tier string) bool { return !allowed(t.Entitlements.ModelTiersAllowed, tier) })
			list = append(list, m)
		}
	}
	return list
}

// Begin implements model.Router.
func (r *Router) Begin(backend string) error { return r.health.begin(backend) }

// End implements model.Router.
func (r *Router) End(backend, name string, rep model.Report) {
	r.health.end(backend, backend+"/"+name, rep)
}
