package run_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/nexixai/agentos/agent/run"
	"github.com/nexixai/agentos/tenancy"
)

// A worker at the node that created a run is given what it remembers of it; that has to be what any other node, or the same
// one a second time, reads from the store.
func TestService_Load_fresh(t *testing.T) {
	w := mustWorld(t, tenancy.Quotas{})
	w.store.Start()
	sessions := w.mustOpen(t, stackID, 8)
	w.session.id, w.session.free = sessions.ID(), 8
	for _, body := range []string{
		`{"input":{"type":"text","text":"hello"}}`,
		`{"input":{"text":"ü \"quoted\"\nlines"},"idempotency_key":"k-1",
		  "context":{"locale":"de","timezone":"Europe/Berlin","user_id":"u","session_id":"s","labels":{"a":"b","c":"d"},"metadata":{"n":1,"deep":{"list":[1,"x",null]}}},
		  "tooling":{"tool_allowlist":["tool.echo"],"tool_denymap":["tool.kv.put"]},
		  "policy_context":{"data_classification":"confidential","purpose":"test"},
		  "run_options":{"priority":"high","timeout_ms":60000,"max_steps":3,"stream_events":true}}`,
		`{"input":{"text":"` + strings.Repeat("x", 8<<10) + `"}}`,
	} {
		var req run.Request
		if err := json.Unmarshal([]byte(body), &req); err != nil {
			t.Fatal(err)
		}
		made := w.mustCreate(t, req)
		lease := <-sessions.Leases()
		first, err := w.runs.Load(t.Context(), lease)
		if err != nil {
			t.Fatal(err)
		}
		second, err := w.runs.Load(t.Context(), lease)
		if err != nil {
			t.Fatal(err)
		}
		if lease.RunID != made.ID || !reflect.DeepEqual(first, second) {
			t.Errorf("first and second load of %s differ:\n%+v\n%+v", made.ID, first, second)
		}
	}
}
