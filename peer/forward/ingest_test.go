package forward_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/agent/run"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/peer/forward"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/peer/trust"
	"github.com/nexixai/agentos/tenancy"
)

// globexPeering is acme's relation to globex, under the id that away's target has.
var globexPeering = registry.Peering{
	ID: "prg_1", Organization: "globex", TrustDomain: "globex.example", ClusterID: "clu_globex", State: registry.PeeringActive,
	Exports: []registry.Grant{{TenantID: tenantID, LocalTenantID: tenantID, Scopes: []tenancy.Scope{tenancy.EventsIngest}}},
}

// pusher is globex's node, with a token that has not been used.
func pusher() *forward.Caller {
	return &forward.Caller{
		Peering: globexPeering, StackID: "stk_globex_1",
		Claims: &trust.ForwardClaims{ID: id.New(id.Request), ExpiresAt: time.Now().Add(time.Minute)},
		Auth:   &tenancy.Auth{TenantID: tenantID, Scopes: []tenancy.Scope{tenancy.EventsIngest}},
	}
}

// Requirements: P6, P7.
func TestExecutor_Ingest(t *testing.T) {
	p := newPair(t, away{})
	p.acme.keep(t, &globexPeering)
	p.node(t, "stk_acme_1")
	r := p.create(t, "")
	until(t, func() bool { return p.wire.posts.Load() > 0 }) // it was offered; nobody executes it, so nothing comes back
	until(t, func() bool { return len(p.globex.journal(t, r.ID)) == 2 })
	push := func(by *forward.Caller, events ...string) *forward.Ingested {
		t.Helper()
		var raw []json.RawMessage
		for _, e := range events {
			raw = append(raw, json.RawMessage(e))
		}
		done, _, err := p.acme.executor.Ingest(t.Context(), by, tenantID, forward.Ingest{SourceStackID: "stk_globex_1"}, raw)
		if err != nil {
			t.Fatal(err)
		}
		return done
	}
	envelope := func(sequence uint64, kind event.Type, payload string) string {
		head := event.Head{TenantID: tenantID, AgentID: agentID, RunID: r.ID, Traceparent: traceparent}
		d := event.Draft{ID: fmt.Sprint("evt_", sequence), Type: kind, Payload: []byte(payload)}
		return string(event.AppendEnvelope(nil, &head, &d, sequence, time.Unix(1_790_000_000, 0)))
	}
	started := envelope(3, event.RunStarted, `{"status":"running"}`)
	bare := strings.TrimSuffix(strings.TrimPrefix(envelope(4, event.StepStarted, `{"step_kind":"model"}`), `{"event":`), "}")
	for _, c := range []struct {
		name   string
		events []string
		want   string
	}{
		{"the next, and a gap", []string{started, envelope(5, event.StepStarted, `{}`)}, "accepted 1, gap(4)"},
		{"the same again", []string{started}, "accepted 0, duplicate(0)"},
		{"another body", []string{envelope(3, event.RunStarted, `{"status":"walking"}`)}, "accepted 0, body_changed(0)"},
		{"bare", []string{bare}, "accepted 1"},
		{"another tenant", []string{strings.Replace(envelope(5, event.StepCompleted, `{}`), tenantID, "tnt_else", 1)}, "accepted 0, wrong_tenant(0)"},
		{"a type that isn't an executor's", []string{envelope(5, event.RunCreated, `{}`)}, "accepted 0, type_not_allowed(0)"},
		{"somebody else's run", []string{strings.ReplaceAll(envelope(5, event.StepCompleted, `{}`), r.ID, "run_else")}, "accepted 0, not_owner(0)"},
		{"the end, and what follows", []string{envelope(5, event.RunCompleted, `{"status":"completed","output":{"type":"text","text":"x"}}`), envelope(6, event.StepStarted, `{}`)}, "accepted 1, after_final(0)"},
		{"the end again", []string{envelope(5, event.RunCompleted, `{"status":"completed","output":{"type":"text","text":"x"}}`)}, "accepted 0, duplicate(0)"},
	} {
		done := push(pusher(), c.events...)
		got := fmt.Sprintf("accepted %d", done.Accepted)
		for _, r := range done.Rejections {
			got += fmt.Sprintf(", %s(%d)", r.Reason, r.ExpectedSequence)
		}
		if got != c.want || done.Rejected != len(done.Rejections) {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	if got := p.acme.get(t, r.ID); got.Status != run.Completed || got.Output.Text != "x" {
		t.Errorf("the run is %s", got.Status)
	}
	by := pusher()
	push(by, started)
	if _, _, err := p.acme.executor.Ingest(t.Context(), by, tenantID, forward.Ingest{SourceStackID: "stk_globex_1"}, []json.RawMessage{[]byte(started)}); !fault.Is(err, fault.Unauthorized) {
		t.Errorf("a token that was used: %v", err)
	}
	if done, _, err := p.acme.executor.Ingest(t.Context(), nil, tenantID, forward.Ingest{}, []json.RawMessage{[]byte(started)}); err != nil || done.Rejections[0].Reason != event.NotOwner {
		t.Errorf("pushed by nobody: %+v, %v", done, err)
	}
}

// TestExecutor_IngestAfterRelay pushes what was relayed before: taken once, and then a duplicate.
func TestExecutor_IngestAfterRelay(t *testing.T) {
	p := newPair(t, away{})
	p.acme.keep(t, &globexPeering)
	p.execute(t, (*worker).finish)
	p.node(t, "stk_acme_1")
	r := p.create(t, "")
	p.ended(t, r.ID)
	for _, want := range []int{1, 0} {
		done, _, err := p.acme.executor.Ingest(t.Context(), pusher(), tenantID, forward.Ingest{SourceStackID: "stk_globex_1"}, []json.RawMessage{[]byte(p.globex.journal(t, r.ID)[2])})
		if err != nil || done.Accepted != want || done.Duplicates != 1-want {
			t.Errorf("pushed after it was relayed: %+v, %v", done, err)
		}
	}
}
