package placement_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nexixai/agentos/agent"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/peer/placement"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/mem"
	"github.com/nexixai/agentos/tenancy"
	"github.com/nexixai/agentos/tenancy/audit"
)

// house is a store with two tenants, and the routes in it.
type house struct {
	*watched
	routes  *placement.Routes
	catalog *agent.Catalog
	wipe    storage.Call[string, bool]
}

// watched is a store that counts what is read of it, and can pretend to have jumped.
type watched struct {
	*mem.Store
	views    atomic.Int64
	down     atomic.Bool
	hold     atomic.Pointer[chan struct{}] // of one who reads without demands
	watchers []storage.Watcher
}

func (w *watched) Watch(prefix string, watcher storage.Watcher) func() {
	w.watchers = append(w.watchers, watcher)
	return w.Store.Watch(prefix, watcher)
}

func (w *watched) View(ctx context.Context, r storage.Read, read func(storage.Snapshot) error) error {
	w.views.Add(1)
	if w.down.Load() && r.Consistency == storage.Stale {
		return fault.New(fault.Unavailable, "not yet")
	}
	hold := w.hold.Load()
	return w.Store.View(ctx, r, func(s storage.Snapshot) error {
		if hold != nil && r.Consistency == storage.Stale {
			<-*hold // s is older than what is written meanwhile
		}
		return read(s)
	})
}

func mustHouse(tb testing.TB) *house {
	tb.Helper()
	reg := storage.NewRegistry()
	commands, agents, tenants := placement.Define(reg), agent.Define(reg), tenancy.Define(reg)
	h := &house{wipe: storage.Define(reg, "test.wipe", func(tx storage.Tx, prefix string) (bool, error) {
		tx.DeleteRange(storage.Prefix(prefix))
		return true, nil
	})}
	h.watched = &watched{Store: mem.New(mem.Options{Registry: reg})}
	h.Start()
	tb.Cleanup(h.Store.Close)
	directory := tenancy.New(tenancy.Options{Store: h.Store, Commands: tenants})
	tb.Cleanup(directory.Close)
	for _, id := range []string{"tnt_demo", "tnt_other"} {
		if _, _, err := directory.EnsureTenant(tb.Context(), tenancy.TenantCreate{ID: id}); err != nil {
			tb.Fatal(err)
		}
	}
	h.routes = placement.NewRoutes(placement.RoutesOptions{Store: h.watched, Commands: commands})
	tb.Cleanup(h.routes.Close)
	h.catalog = agent.New(agent.Options{Store: h.watched, Commands: agents})
	return h
}

func by(tenant string) tenancy.Actor {
	return tenancy.Actor{Auth: &tenancy.Auth{TenantID: tenant, Principal: tenancy.Principal{ID: "usr_admin"}}, CorrelationID: "corr_test"}
}

func to(org string) []placement.Target { return []placement.Target{{Organization: org}} }

func (h *house) mustPut(tb testing.TB, tenant string, r placement.Route) *placement.Route {
	tb.Helper()
	put, _, _, err := h.routes.Put(tb.Context(), by(tenant), r)
	if err != nil {
		tb.Fatal(err)
	}
	return put
}

func TestRoutes(t *testing.T) {
	h := mustHouse(t)
	put, created, index, err := h.routes.Put(t.Context(), by("tnt_demo"), placement.Route{
		ID: "rte_1", Match: placement.Match{AgentID: agentID, RequiredCapabilities: []string{"Tool.Hosting"}}, Targets: to("globex"),
	})
	if err != nil || !created || index == 0 {
		t.Fatal(put, created, index, err)
	}
	if put.TenantID != "tnt_demo" || put.OnLost != "fail" || *put.Targets[0].Weight != 1 || put.CreatedAt.IsZero() || put.Match.RequiredCapabilities[0] != "tool_hosting" {
		t.Errorf("defaults: %+v", put)
	}
	again, created, _, err := h.routes.Put(t.Context(), by("tnt_demo"), placement.Route{ID: "rte_1", Targets: to("initech"), LostAfterMS: 5000})
	if err != nil || created || !again.CreatedAt.Equal(put.CreatedAt) || again.Match.AgentID != "" {
		t.Errorf("replaced: %+v, created %v, %v", again, created, err)
	}
	got, _, err := h.routes.Get(t.Context(), storage.Read{}, "tnt_demo", "rte_1")
	if diff := cmp.Diff(again, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	for _, other := range []string{"tnt_other", "tnt_demo/routes", ""} {
		if _, _, err := h.routes.Get(t.Context(), storage.Read{}, other, "rte_1"); !fault.Is(err, fault.NotFound) {
			t.Errorf("tenant %q: %v", other, err)
		}
	}
	if _, err := h.routes.Delete(t.Context(), by("tnt_other"), "rte_1"); !fault.Is(err, fault.NotFound) {
		t.Errorf("deleted by another tenant: %v", err)
	}
	if _, _, _, err := h.routes.Put(t.Context(), by("tnt_other"), placement.Route{ID: "rte_2", TenantID: "tnt_demo", Targets: to("globex")}); !fault.Is(err, fault.Forbidden) {
		t.Errorf("put for another tenant: %v", err)
	}
	if _, _, _, err := h.routes.Put(t.Context(), by("tnt_gone"), placement.Route{ID: "rte_2", Targets: to("globex")}); !fault.Is(err, fault.NotFound) {
		t.Errorf("put for a tenant that isn't there: %v", err)
	}
	for range 2 {
		_, err = h.routes.Delete(t.Context(), by("tnt_demo"), "rte_1")
	}
	if !fault.Is(err, fault.NotFound) {
		t.Errorf("deleted twice: %v", err)
	}
	_ = h.Store.View(t.Context(), storage.Read{}, func(s storage.Snapshot) error {
		records, _, err := audit.List(s, "tnt_demo", audit.Filter{}, 10)
		var actions []string
		for _, r := range records {
			if strings.HasPrefix(r.Action, "route.") {
				actions = append(actions, r.Principal+" "+r.Action+" "+r.Resource)
			}
		}
		want := []string{"usr_admin route.put route/rte_1", "usr_admin route.put route/rte_1", "usr_admin route.delete route/rte_1"}
		if diff := cmp.Diff(want, actions); diff != "" || err != nil {
			t.Errorf("audit: %s %v", diff, err)
		}
		return nil
	})
}

func TestRoutes_Put_refuses(t *testing.T) {
	h := mustHouse(t)
	match := func(m placement.Match) placement.Route {
		return placement.Route{ID: "rte_x", Match: m, Targets: to("globex")}
	}
	target := func(list ...placement.Target) placement.Route { return placement.Route{ID: "rte_x", Targets: list} }
	many := make([]placement.Target, placement.MaxTargets+1)
	for i := range many {
		many[i].StackID = fmt.Sprint("stk_", i)
	}
	labels := map[string]string{}
	for i := range 20 {
		labels[fmt.Sprint("l", i)] = "x"
	}
	for name, c := range map[string]struct {
		route placement.Route
		field string
	}{
		"no id":               {placement.Route{Targets: to("globex")}, "route_id"},
		"an odd id":           {placement.Route{ID: "a/b", Targets: to("globex")}, "route_id"},
		"replace":             {placement.Route{ID: "rte_x", Targets: to("globex"), OnLost: "replace"}, "route.on_lost"},
		"another on_lost":     {placement.Route{ID: "rte_x", Targets: to("globex"), OnLost: "shrug"}, "route.on_lost"},
		"lost at once":        {placement.Route{ID: "rte_x", Targets: to("globex"), LostAfterMS: 999}, "route.lost_after_ms"},
		"lost before":         {placement.Route{ID: "rte_x", Targets: to("globex"), LostAfterMS: -1}, "route.lost_after_ms"},
		"lost never":          {placement.Route{ID: "rte_x", Targets: to("globex"), LostAfterMS: 1 << 40}, "route.lost_after_ms"},
		"no target":           {target(), "route.targets"},
		"too many targets":    {target(many...), "route.targets"},
		"an empty target":     {target(placement.Target{Weight: weight(1)}), "route.targets"},
		"two in one target":   {target(placement.Target{Local: true, StackID: "stk_a"}), "route.targets"},
		"a target twice":      {target(placement.Target{Local: true}, placement.Target{Local: true, Weight: weight(2)}), "route.targets"},
		"an odd stack":        {target(placement.Target{StackID: "a b"}), "route.targets.stack_id"},
		"an odd organization": {target(placement.Target{Organization: "a/b"}), "route.targets.organization"},
		"a negative weight":   {target(placement.Target{Local: true, Weight: weight(-1)}), "route.targets.weight"},
		"a great weight":      {target(placement.Target{Local: true, Weight: weight(1001)}), "route.targets.weight"},
		"an odd agent":        {match(placement.Match{AgentID: "a b"}), "route.match.agent_id"},
		"an odd region":       {match(placement.Match{Region: "a b"}), "route.match.region"},
		"an unknown tier":     {match(placement.Match{ModelTier: "best"}), "route.match.model_tier"},
		"an unknown class":    {match(placement.Match{DataClassification: "secret"}), "route.match.data_classification"},
		"too many labels":     {match(placement.Match{Labels: labels}), "route.match.labels"},
		"an odd label":        {match(placement.Match{Labels: map[string]string{"a:b": "c"}}), "route.match.labels"},
		"an odd label value":  {match(placement.Match{Labels: map[string]string{"a": "b\n"}}), "route.match.labels"},
		"an odd capability":   {match(placement.Match{RequiredCapabilities: []string{""}}), "route.match.required_capabilities"},
		"many capabilities":   {match(placement.Match{RequiredCapabilities: slices.Repeat([]string{"x"}, 40)}), "route.match.required_capabilities"},
	} {
		_, _, _, err := h.routes.Put(t.Context(), by("tnt_demo"), c.route)
		if e := fault.Of(err); err == nil || e.Code != fault.InvalidRequest || e.Details["field"] != c.field {
			t.Errorf("%s: %v, want a refusal of %s", name, err, c.field)
		}
	}
	if list, _, _, err := h.routes.List(t.Context(), storage.Read{}, "tnt_demo", "", 0); err != nil || len(list) != 0 {
		t.Errorf("what was refused is there: %v %v", list, err)
	}
}

func TestRoutes_List(t *testing.T) {
	h := mustHouse(t)
	for i := range placement.MaxRoutes {
		h.mustPut(t, "tnt_demo", placement.Route{ID: fmt.Sprintf("rte_%03d", i), Targets: to("globex")})
	}
	_, _, _, err := h.routes.Put(t.Context(), by("tnt_demo"), placement.Route{ID: "rte_more", Targets: to("globex")})
	if !fault.Is(err, fault.Conflict) {
		t.Errorf("one route more than may be: %v", err)
	}
	h.mustPut(t, "tnt_demo", placement.Route{ID: "rte_000", Targets: to("initech")}) // to replace one is no more
	h.mustPut(t, "tnt_other", placement.Route{ID: "rte_else", Targets: to("globex")})
	seen, cursor := 0, ""
	for {
		list, next, _, err := h.routes.List(t.Context(), storage.Read{}, "tnt_demo", cursor, 64)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range list {
			if want := fmt.Sprintf("rte_%03d", seen); r.ID != want {
				t.Fatalf("number %d of the list is %s", seen, r.ID)
			}
			seen++
		}
		if _, _, _, err := h.routes.List(t.Context(), storage.Read{}, "tnt_other", next, 64); next != "" && !fault.Is(err, fault.InvalidRequest) {
			t.Errorf("another tenant's cursor: %v", err)
		}
		if cursor = next; next == "" {
			break
		}
	}
	if seen != placement.MaxRoutes {
		t.Errorf("%d routes are listed", seen)
	}
	for _, limit := range []int{-1, 501} {
		if _, _, _, err := h.routes.List(t.Context(), storage.Read{}, "tnt_demo", "", limit); !fault.Is(err, fault.InvalidRequest) {
			t.Errorf("limit %d: %v", limit, err)
		}
	}
}

// placer is one that knows globex.
func (h *house) placer(change ...func(*placement.Options)) *placement.Placer {
	o := placement.Options{
		Routes: h.routes, Agents: h.catalog, Nodes: nodes{{StackID: "stk_a1", Region: "us-1"}}, Peers: peers{peer("globex", "stk_g1")}, Peerings: peers{peer("globex", "stk_g1")},
		StackID: "stk_a1", Organization: "acme",
	}
	for _, f := range change {
		f(&o)
	}
	return placement.New(o)
}

// inMemory reports whether a placement asks the store for nothing.
func (h *house) inMemory(t *testing.T, p *placement.Placer) bool {
	t.Helper()
	a := asked()
	a.Auth.TenantID = "tnt_none"
	before := h.views.Load()
	if _, err := p.Place(t.Context(), a, false); err != nil {
		t.Fatal(err)
	}
	return h.views.Load() == before
}

// whither is the route by which a run of the tenant goes, "" for here.
func whither(t *testing.T, p *placement.Placer, tenant string) string {
	t.Helper()
	a := asked()
	a.Auth.TenantID = tenant
	placed, err := p.Place(t.Context(), a, false)
	if err != nil {
		t.Fatalf("placing for %s: %v", tenant, err)
	}
	return placed.RouteID
}

// TestRoutes_memory: what was put is what runs are placed by, from memory, whatever happens to the store meanwhile.
//
// Requirements: P4.
func TestRoutes_memory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := mustHouse(t)
		h.down.Store(true) // nothing can be read yet
		h.watchers[0].Jumped(0)
		p := h.placer()
		h.mustPut(t, "tnt_demo", placement.Route{ID: "rte_1", Targets: to("globex")})
		h.mustPut(t, "tnt_demo", placement.Route{ID: "rte_2", Match: placement.Match{AgentID: agentID}, Targets: to("globex")})
		h.mustPut(t, "tnt_other", placement.Route{ID: "rte_3", Match: placement.Match{AgentID: "agt_other"}, Targets: to("globex")})
		if h.inMemory(t, p) {
			t.Error("placed from a memory that can't be there")
		}
		check := func(when, want string) {
			t.Helper()
			if got := whither(t, p, "tnt_demo"); got != want {
				t.Errorf("%s: by the route %q, want %q", when, got, want)
			}
			if got := whither(t, p, "tnt_other"); got != "" {
				t.Errorf("%s: another tenant's run goes by %q", when, got)
			}
		}
		h.down.Store(false)
		synctest.Wait()
		check("while memory is being read", "rte_2")
		time.Sleep(10 * time.Second) // of the bubble's clock: the reading is tried again
		synctest.Wait()
		if !h.inMemory(t, p) {
			t.Error("not in memory")
		}
		check("in memory", "rte_2")
		if _, err := h.routes.Delete(t.Context(), by("tnt_demo"), "rte_2"); err != nil {
			t.Fatal(err)
		}
		check("after a deletion", "rte_1")
		h.mustPut(t, "tnt_demo", placement.Route{ID: "rte_2", Match: placement.Match{AgentID: agentID}, Targets: to("globex")})
		check("after a new one", "rte_2")
		for _, prefix := range []string{"tenant/tnt_demo/runs/", "tenant/tnt_demo/routes/rte_2", "tenant/tnt_other/"} {
			if _, _, err := h.wipe.Do(t.Context(), h.Store, "", prefix); err != nil {
				t.Fatal(err)
			}
		}
		check("after ranges were removed", "rte_1")
		for range 3 {
			h.watchers[0].Jumped(0)
			h.watchers[0].Jumped(0)
			synctest.Wait()
			check("after a jump", "rte_1")
			if !h.inMemory(t, p) {
				t.Error("not in memory after a jump")
			}
		}
	})
}

// TestRoutes_amidChanges: what changes while everything is being read is not lost.
func TestRoutes_amidChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := mustHouse(t)
		p := h.placer()
		synctest.Wait()
		h.mustPut(t, "tnt_demo", placement.Route{ID: "rte_old", Match: placement.Match{AgentID: agentID}, Targets: to("globex")})
		hold := make(chan struct{})
		h.hold.Store(&hold)
		h.watchers[0].Jumped(0)
		synctest.Wait() // the reader has its snapshot
		h.hold.Store(nil)
		h.mustPut(t, "tnt_demo", placement.Route{ID: "rte_new", Targets: to("globex")})
		if _, err := h.routes.Delete(t.Context(), by("tnt_demo"), "rte_old"); err != nil {
			t.Fatal(err)
		}
		close(hold)
		synctest.Wait()
		if !h.inMemory(t, p) {
			t.Fatal("not in memory")
		}
		if got := whither(t, p, "tnt_demo"); got != "rte_new" {
			t.Errorf("by the route %q", got)
		}
	})
}
