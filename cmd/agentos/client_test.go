package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nexixai/agentos/api/client"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/node/fleet"
)

// mustUp makes a deployment of the built binary and returns a function that gives clients of its node.
func mustUp(t *testing.T) (f *fleet.Fleet, as func(tenant, role string) *client.Client) {
	t.Helper()
	dir := t.TempDir()
	port, err := freePorts(5)
	if err != nil {
		t.Fatal(err)
	}
	o := fleet.Options{StateDir: filepath.Join(dir, "state"), ReportDir: filepath.Join(dir, "reports"), Binary: binary(t), BasePort: port, Orgs: 1, Nodes: 1}
	if f, err = fleet.Open(o); err != nil {
		t.Fatal(err)
	}
	r, err := f.Up(t.Context())
	if r != nil && r.Access != nil {
		t.Cleanup(func() { _ = kill(f, r.Access.Organizations[0].Nodes[0].StackID) })
	}
	if err != nil {
		t.Fatal(err)
	}
	return f, func(tenant, role string) *client.Client {
		org := r.Access.Organizations[0]
		name, err := org.Key(tenant, role)
		if err != nil {
			t.Fatal(err)
		}
		key, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		c, err := client.New(client.Options{BaseURL: org.Nodes[0].APIURL, Key: strings.TrimSpace(string(key))})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c
	}
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// TestClient_node: every call that the client has is answered by a real node in the shape that the client reads.
func TestClient_node(t *testing.T) {
	_, as := mustUp(t)
	user, tenantAdmin, platform := as("tnt_demo", roleUser), as("tnt_demo", roleTenantAdmin), as("", rolePlatformAdmin)
	t.Run("runs", func(t *testing.T) { clientRuns(t, user) })
	t.Run("agents, tools, memory", func(t *testing.T) { clientCatalog(t, user, tenantAdmin) })
	t.Run("models", func(t *testing.T) { clientModels(t, user, tenantAdmin) })
	t.Run("policy, prices", func(t *testing.T) { clientPolicy(t, tenantAdmin, platform) })
	t.Run("tenants, keys", func(t *testing.T) { clientTenants(t, platform) })
	t.Run("node, audit", func(t *testing.T) { clientNode(t, user, platform) })
	t.Run("isolation", func(t *testing.T) {
		r := must[*client.Run](t)(user.CreateRun(t.Context(), "agt_sample_echo_v1", client.RunCreate{Input: client.Text{Text: "mine"}}))
		_, err := as("tnt_isolation", roleUser).GetRun(t.Context(), r.ID)
		if !fault.Is(err, fault.NotFound) {
			t.Errorf("another tenant's run: %v", err)
		}
	})
}

func clientRuns(t *testing.T, c *client.Client) {
	ctx := t.Context()
	var answer client.Answer
	keyed := c.With(client.Call{IdempotencyKey: "one", Answer: &answer})
	req := client.RunCreate{
		Input: client.Text{Text: "/call tool.echo {\"a\":1}\n/tokens 3"}, Context: &client.RunContext{Labels: map[string]string{"suite": "client"}},
		Options: &client.RunOptions{Priority: "high", TimeoutMS: 60_000, MaxSteps: 9},
	}
	r := must[*client.Run](t)(keyed.CreateRun(ctx, "agt_sample_echo_v1", req))
	if r.ID == "" || answer.Status != 201 || answer.Replayed() || r.Options.Priority != "high" || r.Options.MaxSteps != 9 || r.Labels["suite"] != "client" {
		t.Errorf("created %+v, %d", r, answer.Status)
	}
	if again := must[*client.Run](t)(keyed.CreateRun(ctx, "agt_sample_echo_v1", req)); again.ID != r.ID || !answer.Replayed() || answer.Status != 200 {
		t.Errorf("the same key made %s after %s, status %d", again.ID, r.ID, answer.Status)
	}
	req.Input.Text = "other"
	if _, err := keyed.CreateRun(ctx, "agt_sample_echo_v1", req); !fault.Is(err, fault.Conflict) {
		t.Errorf("another body under the key: %v", err)
	}

	var seen []uint64
	for f, err := range c.Follow(ctx, r.ID, 0) {
		if err != nil {
			t.Fatal(err)
		}
		if !f.Delta() {
			seen = append(seen, f.Event.Sequence)
		}
	}
	for i, n := range seen {
		if n != uint64(i+1) {
			t.Fatalf("sequences %v", seen)
		}
	}
	r = must[*client.Run](t)(c.GetRun(ctx, r.ID))
	if !r.Final() || r.Status != "completed" || r.Input == nil || r.Output == nil || r.Summary.ToolCalls != 1 || r.Usage.TotalTokens == 0 || r.Deadline.IsZero() {
		t.Errorf("run %+v", r)
	}
	clientJournal(t, c, r, seen[len(seen)-1])
	clientCancel(t, c, req)
}

// clientJournal looks at the end of a run that has ended, and finds it in lists.
func clientJournal(t *testing.T, c *client.Client, r *client.Run, last uint64) {
	ctx := t.Context()
	for range c.Follow(ctx, r.ID, last) {
		t.Error("something followed the end")
	}
	for f, err := range c.Follow(ctx, r.ID, last-1) {
		if err != nil || f.Event.Sequence != last || !f.Event.Final() {
			t.Errorf("after %d: %+v, %v", last-1, f, err)
		}
	}

	found := 0
	for one, err := range c.Runs(client.RunFilter{AgentID: "agt_sample_echo_v1", Status: "completed", Labels: map[string]string{"suite": "client"}}).All(ctx) {
		if err != nil || one.ID != r.ID {
			t.Errorf("list: %+v, %v", one, err)
		}
		found++
	}
	if found != 1 {
		t.Errorf("%d runs with the label", found)
	}
}

func clientCancel(t *testing.T, c *client.Client, req client.RunCreate) {
	ctx := t.Context()
	long := must[*client.Run](t)(c.CreateRun(ctx, "agt_sample_echo_v1", client.RunCreate{Input: client.Text{Text: "/wait 10m"}}))
	must[*client.Run](t)(c.CancelRun(ctx, long.ID))
	end := ""
	for f, err := range c.Follow(ctx, long.ID, 0) {
		if err != nil {
			t.Fatal(err)
		}
		end = f.Event.Type
	}
	if end != client.RunCanceled {
		t.Errorf("the canceled run ended %s", end)
	}
	if _, err := c.CancelRun(ctx, long.ID); !fault.Is(err, fault.Conflict) {
		t.Errorf("cancel of a run that ended: %v", err)
	}
	dry := must[*client.DryRun](t)(c.DryRun(ctx, "agt_sample_echo_v1", req))
	if dry.Decision.Target == "" || len(dry.Candidates) == 0 || len(dry.Quotas) == 0 {
		t.Errorf("dry run %+v", dry)
	}
}

func clientCatalog(t *testing.T, c, admin *client.Client) {
	ctx := t.Context()
	var answer client.Answer
	a := must[*client.Agent](t)(admin.With(client.Call{Answer: &answer}).PutAgent(ctx, "agt_mine", client.Agent{Name: "Mine", ModelRef: "tier:fast", ToolIDs: []string{"tool.echo"}}))
	if !answer.Created() || a.ID != "agt_mine" || a.Status != "active" {
		t.Errorf("%+v, %d", a, answer.Status)
	}
	if _, err := c.PutAgent(ctx, "agt_mine", *a); !fault.Is(err, fault.Forbidden) {
		t.Errorf("a user put an agent: %v", err)
	}
	if got := must[*client.Agent](t)(c.GetAgent(ctx, "agt_mine")); got.Name != "Mine" || len(got.ToolIDs) != 1 {
		t.Errorf("%+v", got)
	}
	names := ""
	for v, err := range c.Agents().All(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		names += v.ID + " "
	}
	if names != "agt_mine agt_sample_echo_v1 " {
		t.Errorf("agents %s", names)
	}
	if err := admin.DeleteAgent(ctx, "agt_mine"); err != nil {
		t.Error(err)
	}

	tool := client.Tool{Kind: "http", Description: "Knows the weather.", InputSchema: json.RawMessage(`{"type":"object"}`), Config: json.RawMessage(`{"url":"https://weather.example/now"}`)}
	if v, err := admin.PutTool(ctx, "tool.weather", tool); err != nil || v.Name != "weather" {
		t.Errorf("%+v, %v", v, err)
	}
	if v, err := c.GetTool(ctx, "tool.weather"); err != nil || v.Kind != "http" {
		t.Errorf("%+v, %v", v, err)
	}
	tools := 0
	for _, err := range c.Tools().All(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		tools++
	}
	if tools != 5 {
		t.Errorf("%d tools, want four builtin ones and one", tools)
	}
	if err := admin.DeleteTool(ctx, "tool.weather"); err != nil {
		t.Error(err)
	}
	clientMemory(t, c)
}

func clientMemory(t *testing.T, c *client.Client) {
	ctx := t.Context()
	m := must[*client.Memory](t)(c.PutMemory(ctx, "notes", "first", json.RawMessage(`"met on Monday"`), map[string]any{"kind": "note"}))
	if m.Key != "first" || string(m.Value) != `"met on Monday"` || m.Metadata["kind"] != "note" {
		t.Errorf("%+v", m)
	}
	must[*client.Memory](t)(c.GetMemory(ctx, "notes", "first"))
	if found, err := c.SearchMemory(ctx, "notes", client.MemoryQuery{Query: "Monday", Filters: map[string]any{"kind": "note"}}); err != nil || len(found) != 1 || found[0].Score <= 0 {
		t.Errorf("%+v, %v", found, err)
	}
	if err := c.DeleteMemory(ctx, "notes", "first"); err != nil {
		t.Error(err)
	}
	if _, err := c.GetMemory(ctx, "notes", "first"); !fault.Is(err, fault.NotFound) {
		t.Errorf("after its end: %v", err)
	}
}

func clientModels(t *testing.T, c, admin *client.Client) {
	ctx := t.Context()
	var ids []string
	for m, err := range c.Models().All(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, m.ID)
	}
	if len(ids) != 2 {
		t.Errorf("models %v", ids)
	}
	if m := must[*client.Model](t)(c.GetModel(ctx, "builtin/echo-1")); m.Provider != "builtin" {
		t.Errorf("%+v", m)
	}
	ask := client.ChatRequest{Model: "tier:fast", Messages: []client.Message{{Role: "user", Content: "/tokens 5"}}}
	if a := must[*client.ChatAnswer](t)(c.Chat(ctx, ask)); a.Choices[0].Message.Content != "w1 w2 w3 w4 w5" || a.Route.Backend != "builtin" || a.Usage.CompletionTokens != 5 || a.PolicyOutcome.Decision != "allowed" {
		t.Errorf("%+v", a)
	}
	text, tokens := "", int64(0)
	for p, err := range c.ChatStream(ctx, ask) {
		if err != nil {
			t.Fatal(err)
		}
		for _, choice := range p.Choices {
			text += choice.Delta.Content
		}
		if p.Usage != nil {
			tokens = p.Usage.CompletionTokens
		}
	}
	if text != "w1 w2 w3 w4 w5" || tokens != 5 {
		t.Errorf("streamed %q, %d tokens", text, tokens)
	}
	ask.Messages[0].Content = "/cut 2"
	var end error
	for _, err := range c.ChatStream(ctx, ask) {
		end = err
	}
	if !fault.Is(end, fault.Unavailable) && !errors.Is(end, client.ErrCut) {
		t.Errorf("a stream that broke off ended with %v", end)
	}
	if e := must[*client.EmbedAnswer](t)(c.Embed(ctx, client.EmbedRequest{Model: "builtin/hash-embed-1", Input: []string{"a", "b"}})); len(e.Data) != 2 || len(e.Data[1].Embedding) != 256 {
		t.Errorf("%d vectors", len(e.Data))
	}
	invoke := client.InvokeRequest{Operation: "chat", ModelRef: "tier:fast", Input: json.RawMessage(`{"messages":[{"role":"user","content":"hi"}]}`)}
	if a := must[*client.InvokeAnswer](t)(c.Invoke(ctx, invoke)); a.Status != "ok" || a.Route.Model != "echo-1" || a.Usage.CostUSD <= 0 || !strings.Contains(string(a.Output), "echo: hi") {
		t.Errorf("%+v", a)
	}
	if e := must[*client.Explanation](t)(c.Explain(ctx, invoke)); len(e.Decision.Candidates) == 0 || e.Reservation.Tokens == 0 {
		t.Errorf("%+v", e)
	}
	if p := must[*client.PolicyResult](t)(c.CheckPolicy(ctx, "call 192.0.2.1", "")); p.Decision != "redacted" || p.Redactions[0].Type != "ip" || p.RequestID == "" {
		t.Errorf("%+v", p)
	}
	u := must[*client.Usage](t)(admin.Usage(ctx, client.UsageQuery{Window: "day", GroupBy: []string{"model", "principal"}}))
	if len(u.Rows) == 0 || u.Rows[0].Group["model"] == "" || u.Rows[0].Requests == 0 || len(u.Budgets) == 0 || u.From.IsZero() {
		t.Errorf("%+v", u)
	}
}

func clientPolicy(t *testing.T, admin, platform *client.Client) {
	ctx := t.Context()
	set := client.Ruleset{Redact: []string{"email"}, Deny: []client.Expression{{Name: "word", Pattern: "forbidden", Direction: "in"}}}
	if v := must[*client.Ruleset](t)(admin.PutRuleset(ctx, "pol_mine", set)); v.ID != "pol_mine" || v.CreatedAt == nil || v.Deny[0].Pattern != "forbidden" {
		t.Errorf("%+v", v)
	}
	must[*client.Ruleset](t)(admin.GetRuleset(ctx, "pol_mine"))
	if p := must[*client.PolicyResult](t)(admin.CheckPolicy(ctx, "a forbidden word", "pol_mine")); p.Decision != "blocked" {
		t.Errorf("%+v", p)
	}
	ids := ""
	for v, err := range admin.Rulesets().All(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		ids += v.ID + " "
	}
	if ids != "pol_default pol_mine " && ids != "pol_mine " {
		t.Errorf("rulesets %s", ids)
	}
	if err := admin.DeleteRuleset(ctx, "pol_mine"); err != nil {
		t.Error(err)
	}
	prices := *must[*client.Prices](t)(platform.GetPrices(ctx))
	if len(prices.Models) == 0 || prices.Default == nil {
		t.Errorf("%+v", prices)
	}
	prices.Models["openai/mine"], prices.AsOf = client.Price{Input: 1.5, Output: 2}, nil
	if p := must[*client.Prices](t)(platform.PutPrices(ctx, prices)); p.Models["openai/mine"].Input != 1.5 || p.AsOf == nil {
		t.Errorf("%+v", p)
	}
}

func clientTenants(t *testing.T, c *client.Client) {
	ctx := t.Context()
	create := client.TenantCreate{ID: "tnt_mine"}
	create.Name, create.PlanTier = client.Some("Mine"), client.Some("standard")
	create.Quotas.Runs.MaxConcurrentRuns = client.Some(ptr(int64(3)))
	v := must[*client.Tenant](t)(c.CreateTenant(ctx, create))
	if v.Status != "active" || *v.Quotas.Runs.MaxConcurrentRuns != 3 || v.Quotas.Runs.RunCreateQPS == nil {
		t.Errorf("%+v", v)
	}
	update := client.TenantUpdate{Name: client.Some("Ours")}
	update.Quotas.Runs.MaxConcurrentRuns = client.Some[*int64](nil)
	if v = must[*client.Tenant](t)(c.UpdateTenant(ctx, "tnt_mine", update)); v.Name != "Ours" || v.Quotas.Runs.MaxConcurrentRuns != nil || v.Quotas.Runs.RunCreateQPS == nil {
		t.Errorf("%+v", v)
	}
	q := *must[*client.Quotas](t)(c.GetQuotas(ctx, "tnt_mine"))
	q.Tools.ToolCallsPerMinute = ptr(int64(7))
	if put := must[*client.Quotas](t)(c.PutQuotas(ctx, "tnt_mine", q)); *put.Tools.ToolCallsPerMinute != 7 || put.Runs.MaxConcurrentRuns != nil {
		t.Errorf("%+v", put)
	}
	k := must[*client.Key](t)(c.IssueKey(ctx, "tnt_mine", client.KeyCreate{PrincipalID: "svc_ci", Roles: []string{"tenant_service"}, ExpiresAt: ptr(time.Now().Add(time.Hour))}))
	if !strings.HasPrefix(k.Secret, "aos_") || k.PrincipalType != "service" || len(k.Scopes) == 0 {
		t.Errorf("key %s of %s", k.ID, k.PrincipalID)
	}
	if r := must[*client.Key](t)(c.RotateKey(ctx, "tnt_mine", k.ID, time.Minute)); r.ID != k.ID || r.Secret == k.Secret || r.Secret == "" {
		t.Errorf("the rotated key is %s", r.ID)
	}
	for one, err := range c.Keys("tnt_mine").All(ctx) {
		if err != nil || one.ID != k.ID || one.Secret != "" {
			t.Errorf("list of keys: %s, %v", one.ID, err)
		}
	}
	if err := c.RevokeKey(ctx, "tnt_mine", k.ID); err != nil {
		t.Error(err)
	}
	if v = must[*client.Tenant](t)(c.DisableTenant(ctx, "tnt_mine")); v.Status != "disabled" {
		t.Errorf("%+v", v)
	}
	if v = must[*client.Tenant](t)(c.EnableTenant(ctx, "tnt_mine")); v.Status != "active" {
		t.Errorf("%+v", v)
	}
	must[*client.Tenant](t)(c.GetTenant(ctx, "tnt_mine"))
	n := 0
	for _, err := range c.Tenants().All(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != 3 {
		t.Errorf("%d tenants", n)
	}
}

func ptr[T any](v T) *T { return &v }

func clientNode(t *testing.T, user, platform *client.Client) {
	ctx := t.Context()
	for name, ask := range map[string]func(*client.Client, context.Context) (*client.Health, error){
		"stack-a": (*client.Client).Health, "stack-b": (*client.Client).HealthB, "federation": (*client.Client).HealthFederation,
	} {
		if h, err := ask(user, ctx); err != nil || h.Status != "ok" || h.Service != name || h.Version == "" {
			t.Errorf("%s: %+v, %v", name, h, err)
		}
	}
	if r := must[*client.Readiness](t)(user.Ready(ctx)); !r.Ready() || len(r.Dependencies) == 0 {
		t.Errorf("%+v", r)
	}
	if p := must[*client.Peer](t)(user.PeerInfo(ctx)); p.StackID != "stk_acme_node_01" || p.Organization != "acme" || p.Endpoints.StackB == "" || p.Build.Version == "" {
		t.Errorf("%+v", p)
	}
	if c := must[*client.Capabilities](t)(user.PeerCapabilities(ctx)); len(c.Supports) == 0 || c.Contract.Max == "" || c.Digest == "" || len(c.Agents) == 0 || c.Limits["max_event_streams"] == 0 {
		t.Errorf("%+v", c)
	}
	known := must[*client.Page[client.KnownPeer]](t)(user.Peers().Page(ctx, "", 0))
	if len(known.Items) != 1 || known.Items[0].Source != "member" || !known.Items[0].Reachable || known.Items[0].Agreement == nil || !known.Items[0].Agreement.Usable {
		t.Errorf("%+v", known.Items)
	}
	if p := must[*client.KnownPeer](t)(user.GetPeer(ctx, "stk_acme_node_01")); p.StackID != "stk_acme_node_01" || !p.Capabilities.Supports["tenant_isolation"] {
		t.Errorf("%+v", p)
	}
	if _, err := user.PingPeer(ctx, "stk_nobody"); !fault.Is(err, fault.NotFound) {
		t.Errorf("ping of nobody: %v", err)
	}
	if cl := must[*client.Cluster](t)(platform.Cluster(ctx)); cl.Leader == nil || len(cl.Members) != 1 || cl.Members[0].Role != "voter" || cl.AppliedIndex == 0 {
		t.Errorf("%+v", cl)
	}
	for b, err := range platform.Backends().All(ctx) {
		if err != nil || b.Name != "builtin" || !b.Healthy {
			t.Errorf("%+v, %v", b, err)
		}
	}
	page := must[*client.Page[client.AuditRecord]](t)(platform.Audit(client.AuditFilter{TenantID: "tnt_demo", Action: "run.create"}).Page(ctx, "", 1))
	var head client.AuditHead
	if len(page.Items) != 1 || page.Next == "" || page.Items[0].Principal != "usr_tnt_demo_user" || page.Beside("head", &head) != nil || head.Sequence == 0 {
		t.Errorf("%+v, head %+v", page.Items, head)
	}
	fresh := client.Call{Consistency: client.Linearizable}
	if _, err := user.With(fresh).GetAgent(ctx, "agt_sample_echo_v1"); err != nil {
		t.Error(err)
	}
}

// TestClient_restart: a follower outlives the node that it listens to, and hears each event once.
func TestClient_restart(t *testing.T) {
	f, as := mustUp(t)
	c := as("tnt_demo", roleUser)
	r := must[*client.Run](t)(c.CreateRun(t.Context(), "agt_sample_echo_v1", client.RunCreate{Input: client.Text{Text: "/wait 1s\n/call tool.echo {}\n/wait 1s\n/say done"}}))
	var seen []uint64
	end := ""
	for fr, err := range c.Follow(t.Context(), r.ID, 0) {
		if err != nil {
			t.Fatal(err)
		}
		if fr.Delta() {
			continue
		}
		seen, end = append(seen, fr.Event.Sequence), fr.Event.Type
		if len(seen) != 3 {
			continue
		}
		if err := kill(f, "stk_acme_node_01"); err != nil { // in the middle of the run
			t.Fatal(err)
		}
		if _, err := f.Up(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for i, n := range seen {
		if n != uint64(i+1) {
			t.Fatalf("sequences %v", seen)
		}
	}
	if end != client.RunCompleted || len(seen) < 10 {
		t.Errorf("after %d events: %s", len(seen), end)
	}
}
