package modeltest

import (
	"context"
	"sync"
	"testing"

	"github.com/nexixai/agentos/model"
	"github.com/nexixai/agentos/model/meter"
	"github.com/nexixai/agentos/model/policy"
	"github.com/nexixai/agentos/model/provider/builtin"
	"github.com/nexixai/agentos/model/route"
	"github.com/nexixai/agentos/tenancy"
	"github.com/nexixai/agentos/tenancy/quota"
)

// MustGateway returns a gateway as a node wires it, with what o leaves out: the builtin backend, the default policy, tiers and
// prices, and a Books of its own. It's closed when the test ends.
func MustGateway(tb testing.TB, o model.Options) *model.Gateway {
	tb.Helper()
	if o.Providers == nil {
		o.Providers = []model.Provider{builtin.New()}
	}
	if o.Policy == nil {
		o.Policy = policy.New(policy.Options{})
	}
	if o.Routes == nil {
		o.Routes = route.New(route.Options{Now: o.Now})
	}
	if o.Meter == nil {
		m, err := meter.New(meter.Options{})
		if err != nil {
			tb.Fatal(err)
		}
		o.Meter = m
	}
	if o.Budget == nil {
		o.Budget = &Books{}
	}
	if o.NodeID == "" {
		o.NodeID = "stk_test"
	}
	g, err := model.New(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(g.Close)
	return g
}

// Caller returns a caller of a tenant without limits.
func Caller() model.Caller {
	return model.Caller{
		Auth:   &tenancy.Auth{TenantID: "tnt_test", Principal: tenancy.Principal{ID: "svc_test", Type: tenancy.Service}},
		Tenant: &tenancy.Tenant{ID: "tnt_test", Status: tenancy.Active, DefaultPolicyID: policy.DefaultID},
	}
}

// Books is a model.Budget in memory that remembers what it was asked.
type Books struct {
	// Refuse, when set, is returned by Reserve.
	Refuse error

	mu       sync.Mutex
	Reserved []quota.Reservation
	Settled  []quota.Settlement
}

var _ model.Budget = (*Books)(nil)

// Reserve implements model.Budget.
func (b *Books) Reserve(_ context.Context, _, _ string, r quota.Reservation) (bool, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.Refuse != nil {
		return false, b.Refuse
	}
	b.Reserved = append(b.Reserved, r)
	return false, nil
}

// Settle implements model.Budget.
func (b *Books) Settle(_ context.Context, _, _ string, s quota.Settlement) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.Settled = append(b.Settled, s)
	return nil
}
