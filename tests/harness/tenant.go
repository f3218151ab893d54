package harness

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
)

// Tenant is a tenant made for one test, with an agent and a key of its administrator.
type Tenant struct {
	*Client        // with the tenant administrator's key
	ID      string // tenant_id
	Agent   string // agent_id
	Root    *Client
}

// Wide are quotas that stand in no test's way.
func Wide() map[string]any {
	return map[string]any{
		"runs":    map[string]any{"max_concurrent_runs": nil, "run_create_qps": nil, "run_create_burst": nil},
		"tools":   map[string]any{"tool_calls_per_minute": nil},
		"models":  map[string]any{"token_budget": nil, "max_tokens_per_request": nil, "max_requests_per_minute": nil},
		"storage": map[string]any{"max_memory_bytes": nil},
	}
}

// NewTenant makes a tenant with these quotas (nil: Wide) through the administrator's client.
func NewTenant(tb testing.TB, root *Client, quotas map[string]any) *Tenant {
	tb.Helper()
	t, err := MakeTenant(root, quotas)
	if err != nil {
		tb.Fatalf("make a tenant: %v", err)
	}
	return t
}

// MakeTenant is NewTenant for programs.
func MakeTenant(root *Client, quotas map[string]any) (*Tenant, error) {
	if quotas == nil {
		quotas = Wide()
	}
	suffix := strings.ToLower(ulid.Make().String())
	t := &Tenant{ID: "tnt_" + suffix, Agent: "agt_" + suffix, Root: root}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ask := func(c *Client, status int, method, path string, body any) (Answer, error) {
		a, err := c.Try(ctx, method, path, body)
		if err == nil && a.Status != status {
			err = fmt.Errorf("%s %s: %d, want %d: %s", method, path, a.Status, status, a.Body)
		}
		return a, err
	}
	if _, err := ask(root, 201, "POST", "/v1/admin/tenants", map[string]any{"tenant_create": map[string]any{
		"tenant_id": t.ID, "name": "a test's tenant", "plan_tier": "enterprise", "quotas": quotas,
	}}); err != nil {
		return nil, err
	}
	a, err := ask(root, 201, "POST", "/v1/admin/tenants/"+t.ID+"/keys", map[string]any{
		"principal_id": "usr_" + suffix, "principal_type": "user", "roles": []string{"tenant_admin"},
	})
	if err != nil {
		return nil, err
	}
	t.Client = root.As(a.Str("key.secret"))
	_, err = ask(t.Client, 201, "PUT", "/v1/agents/"+t.Agent, map[string]any{"agent": map[string]any{
		"name": "echo", "description": "answers by directives", "version": "1", "status": "active", "model_ref": "tier:fast",
		"instructions": "Answer.", "tool_ids": []string{"tool.echo", "tool.kv.put", "tool.kv.get"},
	}})
	return t, err
}

// Issue makes another key in the tenant.
func (t *Tenant) Issue(tb testing.TB, principalID string, roles []string, scopes []string) *Client {
	tb.Helper()
	body := map[string]any{"principal_id": principalID, "roles": roles}
	if scopes != nil {
		body["scopes"] = scopes
	}
	a := t.Root.Want(tb, 201, "POST", "/v1/admin/tenants/"+t.ID+"/keys", body)
	return t.As(a.Str("key.secret"))
}

// Body returns the body of a run create with this text; extra members are merged over it.
func Body(text string, extra map[string]any) map[string]any {
	b := map[string]any{"input": map[string]any{"type": "text", "text": text}}
	for k, v := range extra {
		b[k] = v
	}
	return b
}

// Create makes a run and returns its id.
func (t *Tenant) Create(tb testing.TB, text string, extra map[string]any, headers ...string) string {
	tb.Helper()
	return t.Want(tb, 201, "POST", "/v1/agents/"+t.Agent+"/runs", Body(text, extra), headers...).Str("run.run_id")
}

// Journal follows a run to its end and returns its stored events, checked.
func (c *Client) Journal(tb testing.TB, runID string) []Event {
	tb.Helper()
	events, err := c.TryJournal(runID, 25*time.Second)
	if err == nil {
		err = CheckJournal(events)
	}
	if err != nil {
		tb.Fatalf("journal of %s: %v\nevents: %v", runID, err, Types(events))
	}
	return events
}

// TryJournal follows a run to its end; the events are not checked. No two frames may be more than bound apart. Beside an
// error come the events until then.
func (c *Client) TryJournal(runID string, bound time.Duration) ([]Event, error) {
	s, err := c.TryFollow(runID, "")
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if s.Status != 200 {
		return nil, fmt.Errorf("status %d: %s", s.Status, s.Body)
	}
	frames, err := s.Rest(bound)
	if err != nil {
		events, _ := Stored(frames)
		return events, err
	}
	events, err := Stored(frames)
	if err == nil && s.End() != Whole {
		err = fmt.Errorf("the stream was cut after %d frames", len(frames))
	}
	return events, err
}

// Complete runs text to its end and returns the finished run and its journal.
func (t *Tenant) Complete(tb testing.TB, text string, extra map[string]any) (Answer, []Event) {
	tb.Helper()
	id := t.Create(tb, text, extra)
	events := t.Journal(tb, id)
	return t.Want(tb, 200, "GET", "/v1/runs/"+id, nil), events
}
