package run_test

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nexixai/agentos/agent"
	"github.com/nexixai/agentos/agent/run"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/model"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
	"github.com/nexixai/agentos/tenancy/audit"
	"github.com/nexixai/agentos/tenancy/quota"
)

func count(n int64) *int64 { return &n }

// One key, one run: however many ask at once.
//
// Requirements: A1.
func TestService_Create_OneKeyManyAsking(t *testing.T) {
	w := mustWorld(t, tenancy.Quotas{Runs: tenancy.RunQuotas{MaxConcurrentRuns: count(1)}})
	var mu sync.Mutex
	ids := map[string]int{}
	var fresh atomic.Int64
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			req := text("hello")
			req.IdempotencyKey = "one"
			r, replayed, _, err := w.runs.Create(t.Context(), actor(tenantID), agentID, req, meta)
			if err != nil {
				t.Error(err)
				return
			}
			if !replayed {
				fresh.Add(1)
			}
			mu.Lock()
			defer mu.Unlock()
			ids[r.ID]++
		})
	}
	wg.Wait()
	if len(ids) != 1 || fresh.Load() != 1 {
		t.Errorf("%d runs, %d of them said to be new", len(ids), fresh.Load())
	}
}

// A hundred ask for ten places: exactly ten get one, and each place given back is had once more.
//
// Requirements: T4.
func TestService_Create_Limit(t *testing.T) {
	w := mustWorld(t, tenancy.Quotas{Runs: tenancy.RunQuotas{MaxConcurrentRuns: count(10)}})
	var made []string
	var mu sync.Mutex
	var refused atomic.Int64
	ask := func(n int) {
		var wg sync.WaitGroup
		for range n {
			wg.Go(func() {
				r, _, _, err := w.runs.Create(t.Context(), actor(tenantID), agentID, text("hello"), meta)
				switch {
				case err == nil:
					mu.Lock()
					defer mu.Unlock()
					made = append(made, r.ID)
				case fault.Is(err, fault.RateLimited) && fault.Of(err).RetryAfter > 0:
					refused.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	ask(100)
	if len(made) != 10 || refused.Load() != 90 {
		t.Fatalf("%d made, %d refused", len(made), refused.Load())
	}
	for _, runID := range made[:3] {
		if _, _, _, err := w.runs.Cancel(t.Context(), actor(tenantID), runID); err != nil {
			t.Fatal(err)
		}
	}
	ask(20)
	if len(made) != 13 {
		t.Errorf("after three ended, %d are made in all, want 13", len(made))
	}
}

func TestService_Create_Key(t *testing.T) {
	w := mustWorld(t, tenancy.Quotas{Runs: tenancy.RunQuotas{MaxConcurrentRuns: count(1)}})
	mustTenant(t, w, "tnt_other", tenancy.Quotas{})
	for _, a := range []string{"agt_two"} {
		if _, _, _, err := w.catalog.PutAgent(t.Context(), actor(tenantID), agent.Agent{ID: a}); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, _, err := w.catalog.PutAgent(t.Context(), actor("tnt_other"), agent.Agent{ID: agentID}); err != nil {
		t.Fatal(err)
	}
	decode := func(body string) (req run.Request) {
		if err := json.Unmarshal([]byte(body), &req); err != nil {
			t.Fatal(err)
		}
		return req
	}
	create := func(by tenancy.Actor, agentID, body string) (*run.Run, bool, error) {
		r, replayed, _, err := w.runs.Create(t.Context(), by, agentID, decode(body), meta)
		return r, replayed, err
	}
	first, _, err := create(actor(tenantID), agentID, `{"input":{"type":"text","text":"a"},"idempotency_key":"k"}`)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("the same with its defaults written out", func(t *testing.T) {
		same := `{"input":{"type":"text","text":"a"},"context":{"labels":{}},"run_options":{"priority":"normal","timeout_ms":180000,"max_steps":30,"stream_events":true},"policy_context":{},"idempotency_key":"k","later":1}`
		got, replayed, err := create(actor(tenantID), agentID, same)
		if err != nil || !replayed || got.ID != first.ID {
			t.Errorf("got %v, replayed %v, %v", got, replayed, err)
		}
	})
	t.Run("another body", func(t *testing.T) {
		for _, body := range []string{
			`{"input":{"type":"text","text":"b"},"idempotency_key":"k"}`,
			`{"input":{"type":"text","text":"a"},"run_options":{"max_steps":31},"idempotency_key":"k"}`,
			`{"input":{"type":"text","text":"a"},"tooling":{"tool_allowlist":[]},"idempotency_key":"k"}`,
		} {
			if _, _, err := create(actor(tenantID), agentID, body); !fault.Is(err, fault.Conflict) {
				t.Errorf("%s: %v", body, err)
			}
		}
	})
	t.Run("another principal, agent or tenant", func(t *testing.T) {
		body := `{"input":{"type":"text","text":"a"},"idempotency_key":"k"}`
		if _, _, _, err := w.runs.Cancel(t.Context(), actor(tenantID), first.ID); err != nil {
			t.Fatal(err)
		}
		other := actor(tenantID)
		other.Auth.Principal.ID = "usr_two"
		for _, c := range []struct {
			by    tenancy.Actor
			agent string
		}{{other, agentID}, {actor(tenantID), "agt_two"}, {actor("tnt_other"), agentID}} {
			got, replayed, err := create(c.by, c.agent, body)
			if err != nil || replayed || got.ID == first.ID {
				t.Errorf("%s %s: replayed %v, %v", c.by.Auth.TenantID, c.agent, replayed, err)
				continue
			}
			if _, _, _, err := w.runs.Cancel(t.Context(), c.by, got.ID); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("after it has ended", func(t *testing.T) {
		got, replayed, err := create(actor(tenantID), agentID, `{"input":{"type":"text","text":"a"},"idempotency_key":"k"}`)
		if err != nil || !replayed || got.ID != first.ID || got.Status != run.Canceled {
			t.Errorf("got %+v, replayed %v, %v", got, replayed, err)
		}
	})
}

// withInput adds an input to a body that has none: the one thing that has to be sent.
func withInput(body string) string {
	if strings.Contains(body, `"input"`) {
		return body
	}
	rest := strings.TrimPrefix(body, "{")
	switch rest {
	case "":
		rest = "}"
	case "}":
	default:
		rest = "," + rest
	}
	return `{"input":{"type":"text","text":"a"}` + rest
}

// A body without an input is no request, whatever else it says.
func TestRequest_UnmarshalJSON(t *testing.T) {
	for body, field := range map[string]string{
		`{}`: "input", `{"input":null}`: "input", `{"idempotency_key":"k"}`: "input", `{"input":{}}`: "input.text",
		`{"input":{"type":"text"}}`: "input.text", `{"input":{"type":"text","text":null}}`: "input.text",
	} {
		err := json.Unmarshal([]byte(body), new(run.Request))
		if !fault.Is(err, fault.InvalidRequest) || fault.Of(err).Details["field"] != field {
			t.Errorf("%s: %v, want the field %s", body, err, field)
		}
	}
	var req run.Request
	if err := json.Unmarshal([]byte(`{"input":{"text":""}}`), &req); err != nil {
		t.Errorf("an empty text is a text: %v", err)
	}
}

// Each refusal names what is wrong and leaves nothing behind.
func TestService_Create_Refuses(t *testing.T) {
	w := mustWorld(t, tenancy.Quotas{})
	put := func(a agent.Agent) {
		if _, _, _, err := w.catalog.PutAgent(t.Context(), actor(tenantID), a); err != nil {
			t.Fatal(err)
		}
	}
	put(agent.Agent{ID: "agt_off", Status: agent.Inactive})
	put(agent.Agent{ID: "agt_old", Status: agent.Deprecated})
	before := w.store.Status().Hash
	big := strings.Repeat("x", run.MaxInput+1)
	for name, c := range map[string]struct {
		agent string
		body  string
		alter func(*tenancy.Auth)
		code  fault.Code
		field string
	}{
		"no such agent":    {agent: "agt_x", code: fault.NotFound},
		"odd agent":        {agent: "a/b", code: fault.NotFound},
		"inactive agent":   {agent: "agt_off", code: fault.Conflict, field: "agent_id"},
		"no scope":         {alter: func(a *tenancy.Auth) { a.Scopes = nil }, code: fault.Forbidden},
		"input type":       {body: `{"input":{"type":"image"}}`, code: fault.InvalidRequest, field: "input.type"},
		"input too long":   {body: `{"input":{"text":"` + big + `"}}`, code: fault.PayloadTooLarge, field: "input.text"},
		"priority":         {body: `{"run_options":{"priority":"urgent"}}`, code: fault.InvalidRequest, field: "run_options.priority"},
		"empty priority":   {body: `{"run_options":{"priority":""}}`, code: fault.InvalidRequest, field: "run_options.priority"},
		"no time":          {body: `{"run_options":{"timeout_ms":0}}`, code: fault.InvalidRequest, field: "run_options.timeout_ms"},
		"more than a day":  {body: `{"run_options":{"timeout_ms":86400001}}`, code: fault.InvalidRequest, field: "run_options.timeout_ms"},
		"no steps":         {body: `{"run_options":{"max_steps":0}}`, code: fault.InvalidRequest, field: "run_options.max_steps"},
		"too many steps":   {body: `{"run_options":{"max_steps":1001}}`, code: fault.InvalidRequest, field: "run_options.max_steps"},
		"key too long":     {body: `{"idempotency_key":"` + strings.Repeat("k", 257) + `"}`, code: fault.InvalidRequest, field: "idempotency_key"},
		"key with a break": {body: `{"idempotency_key":"a\nb"}`, code: fault.InvalidRequest, field: "idempotency_key"},
		"label with colon": {body: `{"context":{"labels":{"a:b":"c"}}}`, code: fault.InvalidRequest, field: "context.labels"},
		"label with break": {body: `{"context":{"labels":{"a":"b\r\nc"}}}`, code: fault.InvalidRequest, field: "context.labels"},
		"label too long":   {body: `{"context":{"labels":{"a":"` + strings.Repeat("v", 257) + `"}}}`, code: fault.InvalidRequest, field: "context.labels"},
		"metadata":         {body: `{"context":{"metadata":{"a":"` + strings.Repeat("v", 20_000) + `"}}}`, code: fault.InvalidRequest, field: "context.metadata"},
		"tool id":          {body: `{"tooling":{"tool_allowlist":["echo"]}}`, code: fault.InvalidRequest, field: "tooling.tool_allowlist"},
		"unknown class":    {body: `{"policy_context":{"data_classification":"secret"}}`, code: fault.InvalidRequest, field: "policy_context.data_classification"},
		"wider class": {
			body: `{"policy_context":{"data_classification":"public"}}`, code: fault.Forbidden, field: "policy_context.data_classification",
			alter: func(a *tenancy.Auth) { a.PolicyContext.DataClassification = "internal" },
		},
		"other region": {
			body: `{"policy_context":{"region":"eu1"}}`, code: fault.Forbidden, field: "policy_context.region",
			alter: func(a *tenancy.Auth) { a.PolicyContext.Region = "usw2" },
		},
		"region without a node": {body: `{"policy_context":{"region":"eu1"}}`, code: fault.UnsupportedCapability},
		"more consent": {
			body: `{"policy_context":{"consent_tags":["a","b"]}}`, code: fault.Forbidden, field: "policy_context.consent_tags",
			alter: func(a *tenancy.Auth) { a.PolicyContext.ConsentTags = []string{"a"} },
		},
	} {
		t.Run(name, func(t *testing.T) {
			var req run.Request
			if err := json.Unmarshal([]byte(withInput(c.body)), &req); err != nil {
				t.Fatal(err)
			}
			by := actor(tenantID)
			if c.alter != nil {
				c.alter(by.Auth)
			}
			if c.agent == "" {
				c.agent = agentID
			}
			_, _, _, err := w.runs.Create(t.Context(), by, c.agent, req, meta)
			if !fault.Is(err, c.code) {
				t.Fatalf("got %v, want %s", err, c.code)
			}
			if field, _ := fault.Of(err).Details["field"].(string); field != c.field {
				t.Errorf("field %q, want %q", field, c.field)
			}
			if w.store.Status().Hash != before {
				t.Error("the refusal has changed the store")
			}
		})
	}
	t.Run("but not a deprecated agent", func(t *testing.T) {
		if _, _, _, err := w.runs.Create(t.Context(), actor(tenantID), "agt_old", text("a"), meta); err != nil {
			t.Error(err)
		}
	})
	t.Run("a disabled tenant", func(t *testing.T) {
		by := actor(tenantID)
		by.Auth.Roles = []tenancy.Role{tenancy.RolePlatformAdmin}
		by.Auth.Scopes = tenancy.ScopesOf(by.Auth.Roles)
		if _, _, _, err := w.tenants.SetTenantStatus(t.Context(), by, tenantID, tenancy.Disabled); err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := w.runs.Create(t.Context(), actor(tenantID), agentID, text("a"), meta); !fault.Is(err, fault.Forbidden) {
			t.Errorf("got %v", err)
		}
	})
}

// The request's options stand over the agent's, and those over the platform's.
func TestService_Create_Options(t *testing.T) {
	w := mustWorld(t, tenancy.Quotas{})
	if _, _, _, err := w.catalog.PutAgent(t.Context(), actor(tenantID), agent.Agent{
		ID: "agt_slow", RunDefaults: json.RawMessage(`{"timeout_ms":5000,"stream_events":false,"priority":"low"}`),
	}); err != nil {
		t.Fatal(err)
	}
	for body, want := range map[string]run.RunOptions{
		`{}`:                                     {Priority: "low", TimeoutMS: 5000, MaxSteps: 30, StreamEvents: false},
		`{"run_options":{"stream_events":true}}`: {Priority: "low", TimeoutMS: 5000, MaxSteps: 30, StreamEvents: true},
		`{"run_options":{"priority":"high","timeout_ms":1,"max_steps":2,"stream_events":false}}`: {Priority: "high", TimeoutMS: 1, MaxSteps: 2},
	} {
		var req run.Request
		if err := json.Unmarshal([]byte(withInput(body)), &req); err != nil {
			t.Fatal(err)
		}
		r, _, _, err := w.runs.Create(t.Context(), actor(tenantID), "agt_slow", req, meta)
		if err != nil {
			t.Fatal(err)
		}
		stored := w.get(t.Context(), t, r.ID)
		if r.Options != want || stored.Options != want {
			t.Errorf("%s: made with %+v, stored %+v, want %+v", body, r.Options, stored.Options, want)
		}
		if r.Deadline.Sub(r.CreatedAt).Milliseconds() != want.TimeoutMS {
			t.Errorf("deadline %v after %v", r.Deadline, r.CreatedAt)
		}
	}
}

// What Create answers is what Get answers.
func TestService_Create_AnswersWhatIsStored(t *testing.T) {
	w := mustWorld(t, tenancy.Quotas{})
	w.session.id, w.session.free = w.mustSession(t, "stk_two", 3), 3
	req := text("hello")
	req.Context.Labels = map[string]string{"team": "blue"}
	req.PolicyContext = &tenancy.PolicyContext{DataClassification: "confidential", Region: "usw2", Purpose: "test", ConsentTags: []string{"a"}}
	made := w.mustCreate(t, req)
	stored := w.get(t.Context(), t, made.ID)
	if diff := cmp.Diff(stored, made); diff != "" {
		t.Errorf("stored against answered: %s", diff)
	}
	if made.Placement.StackID != "stk_two" || made.Status != run.Queued {
		t.Errorf("placed %+v, %s", made.Placement, made.Status)
	}
	err := w.store.View(t.Context(), storage.Read{}, func(s storage.Snapshot) error {
		records, _, err := audit.List(s, tenantID, audit.Filter{Action: "run.create"}, 10)
		if err != nil {
			return err
		}
		if len(records) != 1 || records[0].Resource != "run/"+made.ID || records[0].Principal != "usr_one" ||
			records[0].Details["agent_id"] != agentID || records[0].Details["data_classification"] != "confidential" || records[0].Details["route"] != "local" {
			t.Errorf("audit: %+v", records)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

type fakePolicy func(text, ruleset string) (model.PolicyOutcome, error)

func (f fakePolicy) Check(_ context.Context, _ model.Caller, text, ruleset string) (model.PolicyOutcome, string, error) {
	outcome, err := f(text, ruleset)
	return outcome, text, err
}

// Requirements: A1.
func TestService_DryRun(t *testing.T) {
	w := mustWorld(t, tenancy.Quotas{Runs: tenancy.RunQuotas{MaxConcurrentRuns: count(1)}})
	w.mustCreate(t, text("takes the only slot"))
	service := run.New(run.Options{
		Store: w.store, Commands: w.commands, QueueCommands: w.queue, StackID: stackID, Organization: "acme",
		Policy: fakePolicy(func(text, _ string) (model.PolicyOutcome, error) {
			if text == "bad" {
				return model.PolicyOutcome{}, fault.New(fault.PolicyBlocked, "no such words")
			}
			return model.PolicyOutcome{Decision: "redacted", Reasons: []string{"email"}}, nil
		}),
	})
	defer service.Close()
	before := w.store.Status().Hash
	got, err := service.DryRun(t.Context(), actor(tenantID), agentID, text("mail me"))
	if err != nil {
		t.Fatal(err)
	}
	slots := quota.Limit{}
	for _, q := range got.Quotas {
		if q.Name == "max_concurrent_runs" {
			slots = q
		}
	}
	if got.Decision.Target != stackID || len(got.Candidates) != 1 || !got.Candidates[0].Chosen || got.PolicyOutcome.Decision != "redacted" ||
		slots.OK || slots.Used != 1 || slots.Limit == nil || *slots.Limit != 1 {
		t.Errorf("got %+v", got)
	}
	if got, err = service.DryRun(t.Context(), actor(tenantID), agentID, text("bad")); err != nil || got.PolicyOutcome.Decision != "blocked" {
		t.Errorf("got %+v, %v", got, err)
	}
	if _, err := service.DryRun(t.Context(), actor(tenantID), "agt_x", text("a")); !fault.Is(err, fault.NotFound) {
		t.Errorf("no such agent: %v", err)
	}
	if w.store.Status().Hash != before {
		t.Error("a dry run has changed the store")
	}
}
