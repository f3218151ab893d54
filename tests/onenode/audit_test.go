package onenode_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/nexixai/agentos/tests/harness"
)

// The verifier finds whatever was done to a chain after it was written, and says at which record.
//
// Requirements: T5.
func TestAudit_Verify(t *testing.T) {
	t.Parallel()
	d, tn := suite.Shared(t), suite.Tenant(t, nil)
	for range 5 {
		tn.Complete(t, "hello", nil)
	}
	list := d.CLI(t, "audit", "list", "--all", "--lines", "--tenant", tn.ID)
	lines := strings.SplitAfter(strings.TrimSuffix(list.Stdout, "\n"), "\n")
	if list.Code != 0 || len(lines) < 7 { // tenant, key, agent, five runs
		t.Fatalf("audit list: exit code %d, %d records\n%s", list.Code, len(lines), list.Stderr)
	}
	verify := func(lines []string) harness.Outcome {
		file := filepath.Join(t.TempDir(), "audit.jsonl")
		if err := os.WriteFile(file, []byte(strings.Join(lines, "")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return d.CLI(t, "audit", "verify", "--file", file)
	}
	if out := verify(lines); out.Code != 0 {
		t.Fatalf("the chain as it is: exit code %d\n%s\n%s", out.Code, out.Stdout, out.Stderr)
	}
	if out := d.CLI(t, "audit", "verify", "--tenant", tn.ID); out.Code != 0 {
		t.Errorf("the node's chain: exit code %d\n%s", out.Code, out.Stderr)
	}
	middle := len(lines) / 2
	edit := func(field, value string) []string {
		var r map[string]json.RawMessage
		if err := json.Unmarshal([]byte(lines[middle]), &r); err != nil || r[field] == nil {
			t.Fatalf("no %s in %s (%v)", field, lines[middle], err)
		}
		text, _ := json.Marshal(value)
		out := slices.Clone(lines)
		out[middle] = strings.Replace(lines[middle], `"`+field+`":`+string(r[field]), `"`+field+`":`+string(text), 1)
		if out[middle] == lines[middle] {
			t.Fatalf("%s was not edited in %s", field, lines[middle])
		}
		return out
	}
	swapped := slices.Clone(lines)
	swapped[middle], swapped[middle+1] = strings.TrimSuffix(swapped[middle+1], "\n")+"\n", strings.TrimSuffix(swapped[middle], "\n")+"\n"
	for name, chain := range map[string][]string{
		"principal edited":  edit("principal", "usr_somebody_else"),
		"outcome edited":    edit("outcome", "forbidden"),
		"resource edited":   edit("resource", "run/run_other"),
		"time edited":       edit("time", "2001-01-01T00:00:00Z"),
		"hash edited":       edit("hash", strings.Repeat("0", 64)),
		"record removed":    slices.Delete(slices.Clone(lines), middle, middle+1),
		"first removed":     slices.Clone(lines)[1:],
		"records reordered": swapped,
		"record doubled":    slices.Insert(slices.Clone(lines), middle, lines[middle]),
	} {
		if out := verify(chain); out.Code == 0 {
			t.Errorf("%s: the verifier is content:\n%s", name, out.Stdout)
		}
	}
}

// Each act has its record, in its tenant's chain alone.
//
// Requirements: V3, T5.
func TestAudit_Records(t *testing.T) {
	t.Parallel()
	tn := suite.Tenant(t, nil)
	id := tn.Create(t, "/wait 10m", nil, "X-Correlation-Id", "corr_audited")
	tn.Want(t, 200, "POST", "/v1/runs/"+id+":cancel", nil)
	tn.Journal(t, id)
	a := tn.Want(t, 200, "GET", "/v1/admin/audit?limit=500", nil)
	records, _ := a.At("records").([]any)
	found := map[string]bool{}
	for _, r := range records {
		for _, name := range []string{"audit_id", "time", "tenant_id", "principal", "action", "resource", "outcome", "correlation_id", "prev_hash", "hash"} {
			if !harness.Has(r, name) {
				t.Errorf("a record without %s: %v", name, r)
			}
		}
		if got := harness.At(r, "tenant_id"); got != tn.ID {
			t.Errorf("a record of %v in the chain of %s", got, tn.ID)
		}
		resource, _ := harness.At(r, "resource").(string)
		action, _ := harness.At(r, "action").(string)
		if strings.Contains(resource, id) {
			found[action] = true
			if corr, _ := harness.At(r, "correlation_id").(string); action == "run.create" && corr != "corr_audited" {
				t.Errorf("correlation_id %q", corr)
			}
		}
	}
	if !found["run.create"] || len(found) < 2 {
		t.Errorf("the run's records: %v", found)
	}
	if a := tn.Want(t, 200, "GET", "/v1/admin/audit?action=run.create", nil); !strings.Contains(string(a.Body), id) {
		t.Errorf("by action: %s", a.Body)
	}
}

// A list of records can be narrowed, read in pages of any size and from either end; another tenant's isn't there.
//
// Requirements: T5.
func TestAudit_Filters(t *testing.T) {
	t.Parallel()
	tn, other := suite.Tenant(t, nil), suite.Tenant(t, nil)
	const path = "/v1/admin/audit"
	for i := range 7 {
		tn.Want(t, 201, "PUT", "/v1/memory/n/k"+strconv.Itoa(i), map[string]any{"value": i})
	}
	page := func(query string) (actions, ids []string, next string) {
		t.Helper()
		a := tn.Want(t, 200, "GET", path+"?"+query, nil)
		records, _ := a.At("records").([]any)
		for _, r := range records {
			action, _ := harness.At(r, "action").(string)
			id, _ := harness.At(r, "audit_id").(string)
			actions, ids = append(actions, action), append(ids, id)
		}
		return actions, ids, a.Str("next_cursor")
	}
	all := func(query string) (ids []string) {
		t.Helper()
		for cursor := ""; ; {
			_, more, next := page(query + "&cursor=" + cursor)
			if ids = append(ids, more...); next == "" {
				return ids
			}
			cursor = next
		}
	}
	whole := all("limit=500")
	if len(whole) < 9 || !slices.Equal(all("limit=1"), whole) || !slices.Equal(all("limit=4"), whole) {
		t.Errorf("%d records, by pages %v", len(whole), all("limit=4"))
	}
	backwards := all("limit=3&order=desc")
	slices.Reverse(backwards)
	if !slices.Equal(backwards, whole) {
		t.Errorf("from the end: %v, from the start: %v", backwards, whole)
	}
	if puts := all("limit=2&action=memory.put"); len(puts) != 7 {
		t.Errorf("%d records of memory.put", len(puts))
	}
	if actions, _, _ := page("action=memory."); len(actions) != 7 || actions[0] != "memory.put" {
		t.Errorf("actions that begin with memory.: %v", actions)
	}
	if ids := all("to=2020-01-01T00:00:00Z"); len(ids) != 0 {
		t.Errorf("%d records before the node was", len(ids))
	}
	if ids := all("from=2020-01-01T00:00:00Z&to=2120-01-01T00:00:00Z"); !slices.Equal(ids, whole) {
		t.Errorf("%d of %d records within a century", len(ids), len(whole))
	}
	for _, bad := range []string{"from=yesterday", "to=1", "order=up", "limit=0", "cursor=x", "from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z"} {
		refused(t, tn.Do(t, "GET", path+"?"+bad, nil), 400, "invalid_request")
	}
	refused(t, tn.Do(t, "GET", path+"?tenant_id="+other.ID, nil), 404, "not_found")
	refused(t, tn.Do(t, "GET", path+"?tenant_id=tnt_nobodys", nil), 404, "not_found")
	refused(t, tn.Do(t, "GET", path+"?tenant_id=platform", nil), 404, "not_found")
	tn.Want(t, 200, "GET", path+"?tenant_id="+tn.ID, nil)
	if a := tn.Root.Want(t, 200, "GET", path+"?limit=500&tenant_id="+tn.ID, nil); !strings.Contains(string(a.Body), whole[0]) {
		t.Errorf("the operator's view: %s", a.Body)
	}
}
