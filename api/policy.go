package api

import (
	"context"
	"net/http"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/model/meter"
	"github.com/nexixai/agentos/model/policy"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
)

// Rulesets keeps tenants' policies.
type Rulesets interface {
	Get(ctx context.Context, r storage.Read, tenantID, policyID string) (*policy.Stored, uint64, error)
	List(ctx context.Context, r storage.Read, tenantID, after string, limit int) ([]policy.Stored, string, uint64, error)
	Put(ctx context.Context, by tenancy.Actor, set policy.Ruleset) (*policy.Stored, bool, uint64, error)
	Delete(ctx context.Context, by tenancy.Actor, policyID string) (uint64, error)
}

// Prices keeps the price list.
type Prices interface {
	Get(ctx context.Context, r storage.Read) (*meter.PriceList, uint64, error)
	Put(ctx context.Context, by tenancy.Actor, l *meter.PriceList) (*meter.PriceList, uint64, error)
}

var (
	_ Rulesets = (*policy.Rulesets)(nil)
	_ Prices   = (*meter.Prices)(nil)
)

func (c *call) getRuleset() error { return getOne(c, "ruleset", "policy_id", c.s.o.Rulesets.Get) }

func (c *call) listRulesets() error {
	return listSome(c, "rulesets", func(ctx context.Context, r storage.Read, tenantID, cursor string, limit int) ([]policy.Stored, string, uint64, error) {
		after, err := placeOf(cursor, tenantID, "rulesets")
		if err != nil {
			return nil, "", 0, err
		}
		list, next, index, err := c.s.o.Rulesets.List(ctx, r, tenantID, after, limit)
		return list, cursorAt(next, tenantID, "rulesets"), index, err
	})
}

func (c *call) putRuleset() error {
	name, err := c.ident("policy_id")
	if err != nil {
		return err
	}
	var body struct {
		Ruleset *struct {
			policy.Ruleset
			TenantID string `json:"tenant_id"`
		} `json:"ruleset"`
	}
	if err := c.body(&body); err != nil {
		return err
	}
	if body.Ruleset == nil {
		return fault.Invalid("ruleset", "The body is {\"ruleset\": {…}}.")
	}
	if err := c.ownTenant("ruleset.tenant_id", body.Ruleset.TenantID); err != nil {
		return err
	}
	if body.Ruleset.ID != "" && body.Ruleset.ID != name {
		return fault.Invalid("ruleset.policy_id", "ruleset.policy_id is not the id in the path.")
	}
	body.Ruleset.ID = name
	set, isNew, index, err := c.s.o.Rulesets.Put(c.ctx(), c.actor(), body.Ruleset.Ruleset)
	if err != nil {
		return err
	}
	c.index = index
	return c.reply(created(isNew), member{"ruleset", set})
}

func (c *call) deleteRuleset() error {
	name, err := c.ident("policy_id")
	if err != nil {
		return err
	}
	if c.index, err = c.s.o.Rulesets.Delete(c.ctx(), c.actor(), name); err != nil {
		return err
	}
	return c.noContent()
}

func (c *call) getPrices() error {
	read, err := c.read()
	if err != nil {
		return err
	}
	list, index, err := c.s.o.Prices.Get(c.ctx(), read)
	if err != nil {
		return err
	}
	c.index = index
	return c.reply(http.StatusOK, member{"prices", list})
}

// putPrices replaces the price list of the whole cluster: an operator's call.
func (c *call) putPrices() error {
	var body struct {
		Prices *meter.PriceList `json:"prices"`
	}
	if err := c.body(&body); err != nil {
		return err
	}
	if body.Prices == nil {
		return fault.Invalid("prices", "The body is {\"prices\": {…}}.")
	}
	list, index, err := c.s.o.Prices.Put(c.ctx(), c.actor(), body.Prices)
	if err != nil {
		return err
	}
	c.index = index
	return c.reply(http.StatusOK, member{"prices", list})
}
