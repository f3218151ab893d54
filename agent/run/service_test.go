package run_test

import (
	"testing"

	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/agent/run"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
)

// Without it, nothing would show that a create, a worker's appends and the record agree from end to end.
func TestService_WholeRun(t *testing.T) {
	w := mustWorld(t, tenancy.Quotas{})
	w.store.Start()
	sessions := w.mustOpen(t, stackID, 4)
	r := w.mustCreate(t, text("hello"))
	lease := <-sessions.Leases()
	if lease.RunID != r.ID || lease.Epoch != 1 {
		t.Fatalf("lease = %+v, want the first of %s", lease, r.ID)
	}
	work, err := w.runs.Load(t.Context(), lease)
	if err != nil {
		t.Fatal(err)
	}
	if len(work.Journal) != 1 || work.Request.Input.Text != "hello" || work.Request.Options.MaxSteps != run.DefaultMaxSteps {
		t.Fatalf("work = %+v", work)
	}
	last, err := w.runs.Append(t.Context(), run.Append{Lease: lease, After: 1, Events: []event.Draft{
		draft(event.RunStarted, `{"status":"running","stack_id":"stk_one","attempt":1}`),
		draft(event.StepStarted, `{"step_kind":"model","name":"m"}`),
		draft(event.ModelRequested, `{"model_ref":"m"}`),
		draft(event.ModelCompleted, `{"usage":{"input_tokens":3,"output_tokens":4,"total_tokens":7,"cost_usd":0.000007}}`),
		draft(event.StepCompleted, `{"status":"ok","duration_ms":1}`),
		draft(event.RunCompleted, `{"status":"completed","output":{"type":"text","text":"done"}}`),
	}})
	if err != nil || last != 7 {
		t.Fatalf("append = %d, %v, want 7", last, err)
	}
	got := w.get(t.Context(), t, r.ID)
	if got.Status != run.Completed || got.Output == nil || got.Output.Text != "done" || got.StartedAt == nil || got.CompletedAt == nil {
		t.Errorf("run = %+v", got)
	}
	if got.Usage != (run.Usage{InputTokens: 3, OutputTokens: 4, TotalTokens: 7, CostUSD: 0.000007}) {
		t.Errorf("usage = %+v", got.Usage)
	}
	if got.Summary != (run.Summary{Steps: 1, ModelCalls: 1}) {
		t.Errorf("summary = %+v", got.Summary)
	}
	cursor, err := w.hub.Follow(t.Context(), storage.Read{}, tenantID, r.ID, 2)
	if err != nil {
		t.Fatal(err)
	}
	defer cursor.Close()
	batch, err := cursor.Next(t.Context())
	if err != nil || batch.Count != 5 || !batch.Final || batch.Last != 7 {
		t.Fatalf("batch = %d events to %d, final %v, %v", batch.Count, batch.Last, batch.Final, err)
	}
}
