package policy

import (
	"context"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/model"
)

// Options says how to make an Engine.
type Options struct {
	// Lookup finds a tenant's own rulesets, compiled and shared; nil means there are none. It is asked for every id but
	// DefaultID, which is the same for all.
	Lookup func(ctx context.Context, tenantID, policyID string) (*Rules, bool, error)
}

// Engine finds the rules of a caller. It implements model.Policy.
type Engine struct {
	lookup func(ctx context.Context, tenantID, policyID string) (*Rules, bool, error)
	base   *Rules
}

var _ model.Policy = (*Engine)(nil)

// New returns an Engine.
func New(o Options) *Engine {
	base, err := Compile(Default())
	if err != nil {
		panic("policy: the default ruleset doesn't compile: " + err.Error())
	}
	return &Engine{lookup: o.Lookup, base: base}
}

// Rules implements model.Policy.
func (e *Engine) Rules(ctx context.Context, tenantID, policyID string) (model.Rules, error) {
	if policyID == "" || policyID == DefaultID {
		return e.base, nil
	}
	if e.lookup != nil {
		rules, ok, err := e.lookup(ctx, tenantID, policyID)
		if err != nil {
			return nil, err
		}
		if ok {
			return rules, nil
		}
	}
	return nil, fault.New(fault.NotFound, "There is no policy %q; without its rules nothing is sent to a model. Use %q or create it.", policyID, DefaultID).
		With("policy_id", policyID)
}
