package onenode_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/nexixai/agentos/tests/harness"
)

// Memory is a tenant's own: put, get, replaced, deleted, found by words and by meaning.
//
// Requirements: A5.
func TestMemory(t *testing.T) {
	t.Parallel()
	tn, other := suite.Tenant(t, nil), suite.Tenant(t, nil)
	put := func(key string, value any, colour string) {
		t.Helper()
		a := tn.Do(t, "PUT", "/v1/memory/notes/"+key, map[string]any{"value": value, "metadata": map[string]any{"colour": colour}})
		if a.Status != 200 && a.Status != 201 {
			t.Fatalf("put %s: %d %s", key, a.Status, a.Body)
		}
	}
	put("a", "the cat sat on the mat", "red")
	put("b", "quarterly revenue grew by nine percent", "blue")
	put("c", "my cats like sitting on mats", "blue")
	put("b", "quarterly revenue grew by ten percent", "blue")
	if a := tn.Want(t, 200, "GET", "/v1/memory/notes/b", nil); !strings.Contains(string(a.Body), "ten percent") {
		t.Errorf("get: %s", a.Body)
	}
	for _, mode := range []string{"keyword", "vector", "hybrid"} {
		a := tn.Want(t, 200, "POST", "/v1/memory/notes:search", map[string]any{"query": "quarterly revenue", "mode": mode, "limit": 2})
		if got := a.Str("results.0.key"); got != "b" {
			t.Errorf("%s: the best is %q: %s", mode, got, a.Body)
		}
		a = tn.Want(t, 200, "POST", "/v1/memory/notes:search", map[string]any{"query": "cat", "mode": mode, "filters": map[string]any{"colour": "red"}})
		results, _ := a.At("results").([]any)
		for i := range results {
			if got := a.Str(fmt.Sprintf("results.%d.key", i)); got != "a" {
				t.Errorf("%s: the filter lets %q through", mode, got)
			}
		}
		if a := other.Want(t, 200, "POST", "/v1/memory/notes:search", map[string]any{"query": "quarterly revenue", "mode": mode}); strings.Contains(string(a.Body), "percent") {
			t.Errorf("%s: another tenant finds %s", mode, a.Body)
		}
	}
	tn.Want(t, 204, "DELETE", "/v1/memory/notes/a", nil)
	refused(t, tn.Do(t, "GET", "/v1/memory/notes/a", nil), 404, "not_found")
	refused(t, other.Do(t, "GET", "/v1/memory/notes/b", nil), 404, "not_found")
}

// The byte quota holds however many write at once, and bytes that were freed can be used again.
//
// Requirements: A5, T4.
func TestMemory_Quota(t *testing.T) {
	t.Parallel()
	quotas := harness.Wide()
	quotas["storage"] = map[string]any{"max_memory_bytes": 100_000}
	tn := suite.Tenant(t, quotas)
	value := strings.Repeat("x", 9_000)
	var kept []string
	for i, a := range parallel(t, 40, func(i int) (harness.Answer, error) {
		return tn.Try(context.Background(), "PUT", fmt.Sprintf("/v1/memory/q/k%d", i), map[string]any{"value": value})
	}) {
		if a.Status == 201 {
			kept = append(kept, fmt.Sprintf("k%d", i))
			continue
		}
		refused(t, a, 429, "quota_exceeded")
	}
	if len(kept) < 9 || len(kept) > 11 {
		t.Errorf("%d values of 9,000 bytes in 100,000", len(kept))
	}
	for _, key := range kept {
		tn.Want(t, 204, "DELETE", "/v1/memory/q/"+key, nil)
	}
	tn.Want(t, 201, "PUT", "/v1/memory/q/again", map[string]any{"value": value})
}
