package run_test

import (
	"testing"
	"time"

	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/agent/run"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
	"github.com/nexixai/agentos/tenancy/quota"
)

// A worker dies while a model is asked. What was held back for the call stays known to whoever goes on with the run, and
// nobody's end of the run leaves it held: otherwise a budget would shrink with each crash until the reservations expire.
//
// Requirements: B6.
func TestAppend_ReserveOutlivesWorker(t *testing.T) {
	for name, finish := range map[string]func(*testing.T, *world, run.Lease){
		"canceled while it waits": func(t *testing.T, w *world, l run.Lease) {
			if _, _, _, err := w.runs.Cancel(t.Context(), actor(tenantID), l.RunID); err != nil {
				t.Fatal(err)
			}
		},
		"settled by the next worker": func(t *testing.T, w *world, l run.Lease) {
			next, work := w.mustRelease(t, l)
			if work.Reserved == nil || work.Reserved.Tokens != 60 {
				t.Fatalf("the next worker is told that %+v is held back", work.Reserved)
			}
			_, err := w.runs.Append(t.Context(), run.Append{
				Lease: next, After: 3, Events: []event.Draft{draft(event.ModelCompleted, `{}`)},
				Settle: []quota.Settlement{{ReservationID: work.Reserved.ID, Lost: true}},
			})
			if err != nil {
				t.Fatal(err)
			}
		},
		"ended by the next worker without a word": func(t *testing.T, w *world, l run.Lease) {
			next, _ := w.mustRelease(t, l)
			w.mustAppend(t, next, 3, draft(event.RunFailed, `{"error":{"code":"internal_error"}}`))
		},
	} {
		t.Run(name, func(t *testing.T) {
			limit := int64(100)
			w := mustWorld(t, tenancy.Quotas{Models: tenancy.ModelQuotas{TokenBudget: &tenancy.TokenBudget{Window: "day", MaxTokens: &limit}}})
			l := w.mustLease(t, text("hello"))
			w.mustAppend(t, l, 1, draft(event.RunStarted, `{}`))
			_, err := w.runs.Append(t.Context(), run.Append{
				Lease: l, After: 2, Events: []event.Draft{draft(event.ModelRequested, `{}`)},
				Reserve: &quota.Reservation{ID: id.New(id.Reservation), Tokens: 60, Expires: time.Now().Add(time.Hour)},
			})
			if err != nil {
				t.Fatal(err)
			}
			w.session.id = "" // nobody is there to take it at once
			if err := w.queue.End(t.Context(), w.store, l.SessionID); err != nil {
				t.Fatal(err)
			}
			if err := w.runs.HandBack(t.Context(), l); err != nil {
				t.Fatal(err)
			}
			finish(t, w, l)
			tenant, err := w.tenants.Tenant(t.Context(), tenantID)
			if err != nil {
				t.Fatal(err)
			}
			err = w.store.View(t.Context(), storage.Read{}, func(r storage.Snapshot) error {
				b, err := quota.Budgets(r, tenant, time.Now())
				if err == nil && (len(b) != 1 || b[0].Reserved != 0 || b[0].Spent != 60) {
					t.Errorf("budgets %+v, want nothing reserved and 60 spent", b)
				}
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// mustRelease leases l's run, which waits, to a new session, and loads it there.
func (w *world) mustRelease(tb testing.TB, l run.Lease) (run.Lease, *run.Work) {
	tb.Helper()
	next := run.Lease{TenantID: l.TenantID, RunID: l.RunID, SessionID: w.mustSession(tb, "stk_two", 1), Epoch: l.Epoch + 1}
	if err := w.runs.HandBack(tb.Context(), run.Lease{TenantID: l.TenantID, RunID: id.New(id.Run)}); err != nil { // which leases what waits
		tb.Fatal(err)
	}
	work, err := w.runs.Load(tb.Context(), next)
	if err != nil {
		tb.Fatal(err)
	}
	return next, work
}
