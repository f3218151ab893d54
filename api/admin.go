package api

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nexixai/agentos/agent"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
	"github.com/nexixai/agentos/tenancy/audit"
	"github.com/nexixai/agentos/tenancy/quota"
)

// tenantInPath returns the tenant named in the path, if the caller may administer it; another one does not exist.
func (c *call) tenantInPath() (string, error) {
	tenantID, err := c.ident("id")
	if err != nil {
		return "", err
	}
	return tenantID, c.auth.Administers(tenantID)
}

func (c *call) createTenant() error {
	var body struct {
		Create *tenancy.TenantCreate `json:"tenant_create"`
	}
	if err := c.body(&body); err != nil {
		return err
	}
	if body.Create == nil {
		return fault.Invalid("tenant_create", "The body is {\"tenant_create\": {…}}.")
	}
	t, replayed, index, err := c.s.o.Tenants.CreateTenant(c.ctx(), c.actor(), *body.Create)
	if err != nil {
		return err
	}
	c.index = index
	return c.reply(c.posted(replayed), member{"tenant", t})
}

func (c *call) listTenants() error {
	read, err := c.read()
	if err != nil {
		return err
	}
	cursor, limit, err := c.page()
	if err != nil {
		return err
	}
	if cursor, err = placeOf(cursor, "", "tenants"); err != nil {
		return err
	}
	tenants, next, index, err := c.s.o.Tenants.ListTenants(c.ctx(), read, cursor, limit)
	if err != nil {
		return err
	}
	c.index = index
	return list(c, "tenants", tenants, cursorAt(next, "", "tenants"))
}

func (c *call) readTenant() (*tenancy.Tenant, error) {
	tenantID, err := c.tenantInPath()
	if err != nil {
		return nil, err
	}
	read, err := c.read()
	if err != nil {
		return nil, err
	}
	t, index, err := c.s.o.Tenants.ReadTenant(c.ctx(), read, tenantID)
	c.index = index
	return t, err
}

func (c *call) getTenant() error {
	t, err := c.readTenant()
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, member{"tenant", t})
}

func (c *call) updateTenant() error {
	tenantID, err := c.tenantInPath()
	if err != nil {
		return err
	}
	var body struct {
		Update *struct {
			tenancy.TenantUpdate
			TenantID string `json:"tenant_id"`
		} `json:"tenant_update"`
	}
	if err := c.body(&body); err != nil {
		return err
	}
	if body.Update == nil {
		return fault.Invalid("tenant_update", "The body is {\"tenant_update\": {…}}.")
	}
	if err := c.ownTenant("tenant_update.tenant_id", body.Update.TenantID); err != nil {
		return err
	}
	t, index, err := c.s.o.Tenants.UpdateTenant(c.ctx(), c.actor(), tenantID, body.Update.TenantUpdate)
	if err != nil {
		return err
	}
	c.index = index
	return c.reply(http.StatusOK, member{"tenant", t})
}

func (c *call) setTenantStatus(s tenancy.TenantStatus) error {
	tenantID, err := c.tenantInPath()
	if err != nil {
		return err
	}
	t, replayed, index, err := c.s.o.Tenants.SetTenantStatus(c.ctx(), c.actor(), tenantID, s)
	if err != nil {
		return err
	}
	if c.index = index; replayed {
		c.posted(true)
	}
	return c.reply(http.StatusOK, member{"tenant", t})
}

func (c *call) getQuotas() error {
	t, err := c.readTenant()
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, member{"quota_config", t.Quotas})
}

func (c *call) putQuotas() error {
	tenantID, err := c.tenantInPath()
	if err != nil {
		return err
	}
	var body struct {
		Quotas *tenancy.Quotas `json:"quota_config"`
	}
	if err := c.body(&body); err != nil {
		return err
	}
	if body.Quotas == nil {
		return fault.Invalid("quota_config", "The body is {\"quota_config\": {…}}.")
	}
	t, index, err := c.s.o.Tenants.PutQuotas(c.ctx(), c.actor(), tenantID, *body.Quotas)
	if err != nil {
		return err
	}
	c.index = index
	return c.reply(http.StatusOK, member{"quota_config", t.Quotas})
}

func (c *call) issueKey() error {
	tenantID, err := c.tenantInPath()
	if err != nil {
		return err
	}
	var body tenancy.KeyCreate
	if err := c.body(&body); err != nil {
		return err
	}
	k, replayed, index, err := c.s.o.Tenants.IssueKey(c.ctx(), c.actor(), tenantID, body)
	if err != nil {
		return err
	}
	c.index = index
	return c.reply(c.posted(replayed), member{"key", k})
}

func (c *call) listKeys() error {
	tenantID, err := c.tenantInPath()
	if err != nil {
		return err
	}
	return listSome(c, "keys", func(ctx context.Context, r storage.Read, _, cursor string, limit int) ([]tenancy.Key, string, uint64, error) {
		after, err := placeOf(cursor, tenantID, "keys")
		if err != nil {
			return nil, "", 0, err
		}
		keys, next, index, err := c.s.o.Tenants.ListKeys(ctx, r, tenantID, after, limit)
		return keys, cursorAt(next, tenantID, "keys"), index, err
	})
}

func (c *call) rotateKey() error {
	tenantID, err := c.tenantInPath()
	if err != nil {
		return err
	}
	keyID, err := c.ident("key_id")
	if err != nil {
		return err
	}
	var body struct {
		OverlapSeconds int64 `json:"overlap_seconds"`
	}
	if c.r.ContentLength != 0 {
		if err := c.body(&body); err != nil {
			return err
		}
	}
	if body.OverlapSeconds < 0 || body.OverlapSeconds > int64((365*24*time.Hour)/time.Second) {
		return fault.Invalid("overlap_seconds", "overlap_seconds is 0 or more, and at most 30 days.")
	}
	k, replayed, index, err := c.s.o.Tenants.RotateKey(c.ctx(), c.actor(), tenantID, keyID, time.Duration(body.OverlapSeconds)*time.Second)
	if err != nil {
		return err
	}
	if c.index = index; replayed {
		c.posted(true)
	}
	return c.reply(http.StatusOK, member{"key", k})
}

func (c *call) revokeKey() error {
	tenantID, err := c.tenantInPath()
	if err != nil {
		return err
	}
	keyID, err := c.ident("key_id")
	if err != nil {
		return err
	}
	if c.index, err = c.s.o.Tenants.RevokeKey(c.ctx(), c.actor(), tenantID, keyID); err != nil {
		return err
	}
	return c.noContent()
}

// auditChain is the tenant whose chain is asked for; "" is the platform's own. A tenant's admin has its own alone.
func (c *call) auditChain() (string, error) {
	want, named := c.query.Get("tenant_id"), c.query.Has("tenant_id")
	switch {
	case !named || want == c.auth.TenantID:
		return c.auth.TenantID, nil
	case c.auth.Has(tenancy.PlatformAdmin) && want == "platform":
		return "", nil
	case !id.Valid(want):
		return "", fault.Invalid("tenant_id", "tenant_id is 1 to %d of [A-Za-z0-9._-].", id.MaxLen)
	}
	return want, c.auth.Administers(want)
}

func (c *call) listAudit() error {
	chain, err := c.auditChain()
	if err != nil {
		return err
	}
	read, err := c.read()
	if err != nil {
		return err
	}
	cursor, limit, err := c.page()
	if err != nil {
		return err
	}
	f := audit.Filter{Action: c.query.Get("action")}
	switch order := c.query.Get("order"); order {
	case "", "asc":
	case "desc":
		f.Newest = true
	default:
		return fault.Invalid("order", "order is asc, oldest first, or desc.")
	}
	if f.From, err = c.time("from"); err != nil {
		return err
	}
	if f.To, err = c.time("to"); err != nil {
		return err
	}
	filter := strings.Join([]string{c.query.Get("action"), c.query.Get("from"), c.query.Get("to"), c.query.Get("order")}, "\n")
	if f.After, err = auditPlace(cursor, chain, filter); err != nil {
		return err
	}
	var records []audit.Record
	var next uint64
	var head audit.Head
	err = c.s.o.Store.View(c.ctx(), read, func(s storage.Snapshot) (err error) {
		c.index = s.Index()
		if head, err = audit.ReadHead(s, chain); err != nil {
			return err
		}
		records, next, err = audit.List(s, chain, f, limit)
		return err
	})
	if err != nil {
		return err
	}
	if records == nil {
		records = []audit.Record{}
	}
	cursor = ""
	if next != 0 {
		cursor = agent.Cursor(chain, "audit", filter, strconv.FormatUint(next, 10))
	}
	return c.reply(http.StatusOK, member{"records", records}, cursorOf(cursor), member{"head", head})
}

// auditPlace is where a page of a chain begins.
func auditPlace(cursor, chain, filter string) (uint64, error) {
	if cursor == "" {
		return 0, nil
	}
	place, err := agent.Position(cursor, chain, "audit", filter)
	if err != nil {
		return 0, err
	}
	after, err := strconv.ParseUint(place, 10, 64)
	if err != nil {
		return 0, fault.Invalid("cursor", "The cursor doesn't belong to this list; begin anew without it.")
	}
	return after, nil
}

// time reads an RFC 3339 time of the query; the zero time when it's left out.
func (c *call) time(name string) (time.Time, error) {
	v := c.query.Get(name)
	if v == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339, v)
	if err != nil {
		return t, fault.Invalid(name, "%s is a time such as 2026-01-31T12:00:00Z.", name)
	}
	return t.UTC(), nil
}

func (c *call) usage() error {
	read, err := c.read()
	if err != nil {
		return err
	}
	window := c.query.Get("window")
	switch window {
	case "":
		window = "day"
	case "day", "month":
	default:
		return fault.Invalid("window", "window is day or month.")
	}
	now := time.Now().UTC()
	from, err := c.time("from")
	if err != nil {
		return err
	}
	to, err := c.time("to")
	if err != nil {
		return err
	}
	if to.IsZero() {
		to = now
	}
	if from.IsZero() {
		from = time.Date(to.Year(), to.Month(), 1, 0, 0, 0, 0, time.UTC)
	}
	if from.After(to) {
		return fault.Invalid("from", "from is later than to.")
	}
	groupBy := []string{}
	for _, v := range c.query["group_by"] {
		for _, g := range strings.Split(v, ",") {
			if g = strings.TrimSpace(g); g != "" && !slices.Contains(groupBy, g) {
				groupBy = append(groupBy, g)
			}
		}
	}
	t, err := c.s.o.Tenants.Tenant(c.ctx(), c.auth.TenantID)
	if err != nil {
		return err
	}
	var rows []quota.UsageRow
	var budgets []quota.Budget
	err = c.s.o.Store.View(c.ctx(), read, func(s storage.Snapshot) (err error) {
		c.index = s.Index()
		if rows, err = quota.UsageRows(s, t.ID, from, to, window, groupBy); err != nil {
			return err
		}
		budgets, err = quota.Budgets(s, t, now)
		return err
	})
	if err != nil {
		return err
	}
	if rows == nil {
		rows = []quota.UsageRow{}
	}
	if budgets == nil {
		budgets = []quota.Budget{}
	}
	return c.reply(http.StatusOK, member{"usage", map[string]any{
		"from": from, "to": to, "window": window, "group_by": groupBy, "rows": rows, "budgets": budgets,
	}})
}

func (c *call) backends() error {
	if _, err := c.read(); err != nil {
		return err
	}
	health := c.s.o.Models.Health(c.ctx())
	type backend struct {
		Name    string `json:"name"`
		Healthy bool   `json:"healthy"`
		Reason  string `json:"reason,omitempty"`
	}
	out := []backend{}
	for name, err := range health {
		b := backend{Name: name, Healthy: err == nil}
		if err != nil {
			b.Reason = fault.Of(err).Message
		}
		out = append(out, b)
	}
	slices.SortFunc(out, func(a, b backend) int { return strings.Compare(a.Name, b.Name) })
	return list(c, "backends", out, "")
}
