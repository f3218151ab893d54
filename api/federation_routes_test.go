package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nexixai/agentos/agent"
	"github.com/nexixai/agentos/negotiation"
	"github.com/nexixai/agentos/peer/placement"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/tenancy"
)

// globex adds a peer that hosts agents and has granted their use to tnt_a.
func (o *others) globex(agents ...string) {
	p := placement.Peer{
		Peering: &registry.Peering{
			ID: "prg_g", Organization: "globex", ClusterID: "clu_g", State: registry.PeeringActive,
			Imports: []registry.Grant{{TenantID: "tnt_g", LocalTenantID: "tnt_a", Scopes: []tenancy.Scope{tenancy.RunsCreate}, MaxDataClassification: "internal"}},
		},
		Peer: registry.Peer{
			Info:   registry.Info{StackID: "stk_g", Organization: "globex", ClusterID: "clu_g", Region: "eu-1"},
			Source: registry.FromPeering, State: registry.PeerAdmitted, Reachable: true, Ready: true, PeeringID: "prg_g",
			Agreement:    &negotiation.Agreement{Usable: true, Contract: "1.2", Features: []string{"events_stream", "origin_run_ids", "runs_forward"}},
			Capabilities: &registry.Capabilities{},
		},
	}
	for _, id := range agents {
		p.Capabilities.Agents = append(p.Capabilities.Agents, registry.AgentOffered{ID: id, Version: "2"})
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.list = append(o.list, p)
}

func TestRoutes(t *testing.T) {
	w := newWorld(t, nil)
	secret, _ := w.key("tnt_a", tenancy.RoleTenantAdmin)
	path := "/v1/federation/routes/rte_new"
	body := `{"route":{"match":{"agent_id":"agt_far","labels":{"team":"red"}},"targets":[{"organization":"globex","weight":3},{"local":true}],"lost_after_ms":60000}}`
	var got struct {
		Route json.RawMessage `json:"route"`
	}
	if a := w.ask("PUT", path, secret, body); a.StatusCode != http.StatusCreated {
		t.Fatalf("%d %s", a.StatusCode, a.raw)
	}
	a := w.ask("PUT", path, secret, body)
	if err := json.Unmarshal(a.raw, &got); err != nil || a.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", a.StatusCode, a.raw)
	}
	var route map[string]any
	_ = json.Unmarshal(got.Route, &route)
	delete(route, "created_at")
	delete(route, "updated_at")
	want := map[string]any{
		"route_id": "rte_new", "tenant_id": "tnt_a", "match": map[string]any{"agent_id": "agt_far", "labels": map[string]any{"team": "red"}},
		"targets": []any{map[string]any{"organization": "globex", "weight": 3.0}, map[string]any{"local": true, "weight": 1.0}}, "lost_after_ms": 60000.0, "on_lost": "fail",
	}
	if diff := cmp.Diff(want, route); diff != "" {
		t.Error(diff)
	}
	if a := w.ask("GET", "/v1/federation/routes?limit=1", secret, ""); !strings.Contains(string(a.raw), `"route_id":"rte_a"`) || strings.Contains(string(a.raw), `"next_cursor":null`) {
		t.Errorf("the first page: %s", a.raw)
	}
	for name, c := range map[string]struct {
		body, field string
	}{
		"no route":       {`{}`, "route"},
		"another id":     {`{"route":{"route_id":"rte_b","targets":[{"local":true}]}}`, "route.route_id"},
		"no target":      {`{"route":{}}`, "route.targets"},
		"replace":        {`{"route":{"targets":[{"local":true}],"on_lost":"replace"}}`, "route.on_lost"},
		"a weight in it": {`{"route":{"targets":[{"local":true,"weight":-1}]}}`, "route.targets.weight"},
		"a wrong type":   {`{"route":{"targets":[{"local":"yes"}]}}`, "route.targets.local"},
	} {
		a := w.ask("PUT", path, secret, c.body)
		if a.StatusCode != http.StatusBadRequest || !strings.Contains(string(a.raw), fmt.Sprintf(`"field":%q`, c.field)) {
			t.Errorf("%s: %d %s", name, a.StatusCode, a.raw)
		}
	}
	if a := w.ask("PUT", path, secret, `{"route":{"tenant_id":"tnt_b","targets":[{"local":true}]}}`); a.StatusCode != http.StatusForbidden {
		t.Errorf("another tenant's: %d %s", a.StatusCode, a.raw)
	}
	user, _ := w.key("tnt_a", tenancy.RoleTenantUser)
	if a := w.ask("GET", path, user, ""); a.StatusCode != http.StatusForbidden {
		t.Errorf("a user reads routes: %d", a.StatusCode)
	}
}

func TestRoutes_explain(t *testing.T) {
	w := newWorld(t, nil)
	w.others.globex("agt_far")
	secret, _ := w.key("tnt_a", tenancy.RoleTenantAdmin)
	type explained struct {
		Decision struct {
			Target  *string `json:"target"`
			RouteID *string `json:"route_id"`
		} `json:"decision"`
		Candidates []struct {
			StackID      string `json:"stack_id"`
			Organization string `json:"organization"`
			Chosen       bool   `json:"chosen"`
			Reasons      []struct {
				Check  string `json:"check"`
				OK     bool   `json:"ok"`
				Detail string `json:"detail"`
			} `json:"reasons"`
		} `json:"candidates"`
	}
	explain := func(body string) (e explained) {
		t.Helper()
		a := w.ask("POST", "/v1/federation/routes:explain", secret, body)
		if err := json.Unmarshal(a.raw, &e); err != nil || a.StatusCode != http.StatusOK {
			t.Fatalf("%d %s", a.StatusCode, a.raw)
		}
		return e
	}
	is := func(s *string, want string) bool { return s != nil && *s == want || s == nil && want == "" }
	for name, c := range map[string]struct{ body, target, route string }{
		"by the route":     {`{"run_request":{"agent_id":"agt_far","input":{"type":"text","text":"x"},"run_options":{"priority":"low"}}}`, "stk_g", "rte_a"},
		"here":             {`{"run_request":{"agent_id":"agt_a"}}`, "stk_a", ""},
		"nowhere":          {`{"run_request":{"agent_id":"agt_none"}}`, "", ""},
		"too high a class": {`{"run_request":{"agent_id":"agt_far","policy_context":{"data_classification":"restricted"}}}`, "", "rte_a"},
		"another region":   {`{"run_request":{"agent_id":"agt_far","policy_context":{"region":"local"}}}`, "", "rte_a"},
		"its region":       {`{"run_request":{"agent_id":"agt_far","policy_context":{"region":"eu-1"}}}`, "stk_g", "rte_a"},
		"a selector":       {`{"run_request":{"agent_id":"agt_far"},"target_selector":{"organization":"acme"}}`, "", "rte_a"},
	} {
		e := explain(c.body)
		if !is(e.Decision.Target, c.target) || !is(e.Decision.RouteID, c.route) || len(e.Candidates) != 2 {
			t.Errorf("%s: %+v", name, e)
		}
		for i, candidate := range e.Candidates {
			if candidate.Chosen != (i == 0 && c.target != "") || len(candidate.Reasons) < 5 {
				t.Errorf("%s: candidate %d is %+v", name, i, candidate)
			}
		}
	}
	for name, c := range map[string]struct{ body, field string }{
		"no run":           {`{}`, "run_request"},
		"no agent":         {`{"run_request":{}}`, "run_request.agent_id"},
		"an unknown class": {`{"run_request":{"agent_id":"a","policy_context":{"data_classification":"secret"}}}`, "run_request.policy_context.data_classification"},
		"an odd label":     {`{"run_request":{"agent_id":"a","context":{"labels":{"a:b":"c"}}}}`, "run_request.context.labels"},
	} {
		a := w.ask("POST", "/v1/federation/routes:explain", secret, c.body)
		if a.StatusCode != http.StatusBadRequest || !strings.Contains(string(a.raw), fmt.Sprintf(`"field":%q`, c.field)) {
			t.Errorf("%s: %d %s", name, a.StatusCode, a.raw)
		}
	}
}

// TestDryRun_routed: what a dry run says is what explain says and what a create does.
//
// Requirements: P4, A1.
func TestDryRun_routed(t *testing.T) {
	w := newWorld(t, nil)
	w.others.globex("agt_far")
	secret, _ := w.key("tnt_a", tenancy.RoleTenantAdmin)
	var dry struct {
		DryRun struct {
			Decision struct {
				Target  string  `json:"target"`
				RouteID *string `json:"route_id"`
			} `json:"decision"`
			Candidates json.RawMessage `json:"candidates"`
			Quotas     []any           `json:"quotas"`
		} `json:"dry_run"`
	}
	var explained struct {
		Candidates json.RawMessage `json:"candidates"`
	}
	for agentID, target := range map[string]string{"agt_far": "stk_g", "agt_a": "stk_a"} {
		a := w.ask("POST", "/v1/agents/"+agentID+"/runs", secret, `{"input":{"type":"text","text":"x"},"run_options":{"dry_run":true}}`)
		if err := json.Unmarshal(a.raw, &dry); err != nil || a.StatusCode != http.StatusOK || dry.DryRun.Decision.Target != target || len(dry.DryRun.Quotas) == 0 {
			t.Errorf("%s: %d %s", agentID, a.StatusCode, a.raw)
		}
		e := w.ask("POST", "/v1/federation/routes:explain", secret, `{"run_request":{"agent_id":"`+agentID+`"}}`)
		if err := json.Unmarshal(e.raw, &explained); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(explained.Candidates), string(dry.DryRun.Candidates)); diff != "" {
			t.Errorf("%s: %s", agentID, diff)
		}
	}
	for agentID, want := range map[string]int{"agt_none": http.StatusNotFound, "agt_far": http.StatusConflict} {
		body := `{"input":{"type":"text","text":"x"},"run_options":{"dry_run":true},"policy_context":{"data_classification":"restricted"}}`
		for _, body := range []string{body, strings.Replace(body, "true", "false", 1)} {
			if a := w.ask("POST", "/v1/agents/"+agentID+"/runs", secret, body); a.StatusCode != want {
				t.Errorf("%s: %d %s, want %d", agentID, a.StatusCode, a.raw, want)
			}
		}
	}
}

// TestAgents_hosted: agents at others stand among one's own, page by page, and are told apart.
func TestAgents_hosted(t *testing.T) {
	w := newWorld(t, nil)
	w.others.globex("agt_far", "agt_a", "agt_ab", "agt_unrouted")
	secret, _ := w.key("tnt_a", tenancy.RoleTenantAdmin)
	for _, id := range []string{"agt_b", "agt_z"} {
		_, _, _, err := w.catalog.PutAgent(t.Context(), actor("tnt_a"), agent.Agent{ID: id})
		w.must(err)
	}
	for _, id := range []string{"agt_a", "agt_ab", "agt_zz"} {
		_, _, _, err := w.routes.Put(t.Context(), actor("tnt_a"), placement.Route{
			ID: "rte_" + id, Match: placement.Match{AgentID: id, Labels: map[string]string{"team": "red"}, ModelTier: "premium"}, Targets: []placement.Target{{StackID: "stk_g"}},
		})
		w.must(err)
	}
	type listed struct {
		ID       string              `json:"agent_id"`
		TenantID string              `json:"tenant_id"`
		Version  string              `json:"version"`
		HostedBy []map[string]string `json:"hosted_by"`
	}
	var page struct {
		Agents []listed `json:"agents"`
		Next   *string  `json:"next_cursor"`
	}
	want := []string{"agt_a", "agt_ab*", "agt_b", "agt_far*", "agt_z"}
	for limit := 1; limit <= 6; limit++ {
		var got []string
		cursor := ""
		for {
			page.Agents, page.Next = nil, nil
			a := w.ask("GET", fmt.Sprintf("/v1/agents?limit=%d&cursor=%s", limit, cursor), secret, "")
			if err := json.Unmarshal(a.raw, &page); err != nil || a.StatusCode != http.StatusOK || len(page.Agents) > limit {
				t.Fatalf("%d %s", a.StatusCode, a.raw)
			}
			for _, l := range page.Agents {
				mark := ""
				if l.HostedBy != nil {
					mark = "*"
					if diff := cmp.Diff([]map[string]string{{"organization": "globex", "stack_id": "stk_g"}}, l.HostedBy); diff != "" || l.Version != "2" {
						t.Errorf("%+v: %s", l, diff)
					}
				}
				if l.TenantID != "tnt_a" {
					t.Errorf("%s is of the tenant %q", l.ID, l.TenantID)
				}
				got = append(got, l.ID+mark)
			}
			if page.Next == nil {
				break
			}
			cursor = *page.Next
		}
		if !slices.Equal(got, want) {
			t.Errorf("pages of %d: %v, want %v", limit, got, want)
		}
	}
	if a := w.ask("GET", "/v1/agents/agt_far", secret, ""); a.StatusCode != http.StatusOK || !strings.Contains(string(a.raw), `"hosted_by":[{"organization":"globex","stack_id":"stk_g"}]`) {
		t.Errorf("one of them: %d %s", a.StatusCode, a.raw)
	}
	if a := w.ask("DELETE", "/v1/agents/agt_far", secret, ""); a.StatusCode != http.StatusNotFound {
		t.Errorf("deleted here: %d", a.StatusCode)
	}
	other, _ := w.key("tnt_b", tenancy.RoleTenantAdmin)
	if a := w.ask("GET", "/v1/agents", other, ""); strings.Contains(string(a.raw), "globex") {
		t.Errorf("a tenant without routes is told of %s", a.raw)
	}
}

// ask is do in one line.
func (w *world) ask(method, path, key, body string) *answer {
	w.t.Helper()
	return w.do(request{method: method, path: path, key: key, body: body})
}
