package conformance_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/nexixai/agentos/tests/conformance"
	"github.com/nexixai/agentos/tests/harness"
)

// TestAnswers has every operation answered by a running node, with success and with each kind of error that can be had from
// outside, and each answer judged by its document.
//
// Requirements: Q1.
func TestAnswers(t *testing.T) {
	w := newWorld(t)
	all := samples()
	for _, o := range w.operations() {
		s := all[key(o)]
		delete(all, key(o))
		if s == nil {
			t.Errorf("%s: no sample of a request that succeeds (samples_test.go)", o.Place())
			continue
		}
		t.Run(o.OperationID, func(t *testing.T) {
			w.succeed(t, o, s)
			w.refused(t, o, s(w))
			w.missing(t, o, s)
			w.broken(t, o, s(w))
			w.restore()
		})
	}
	for at := range all {
		t.Errorf("%s has a sample and is in no document", at)
	}
	t.Run("special", w.special)
	for _, o := range w.operations() {
		for _, status := range w.owed(o) {
			if !w.seen[key(o)][status] {
				t.Errorf("%s: no answer %d was seen; provoke one", o.Place(), status)
			}
		}
	}
}

// owed are the statuses that must have been seen of an operation.
func (w *world) owed(o *conformance.Operation) (want []int) {
	if o.Secured() {
		want = append(want, 400, 401, 403)
	}
	if o.Body() != nil {
		want = append(want, 400, 413, 415)
	}
	if strings.Contains(o.Path, "{") && o.Method != http.MethodPut {
		want = append(want, 404)
	}
	return slices.DeleteFunc(want, func(status int) bool { return slices.Contains(unprovoked()[key(o)], status) })
}

// unprovoked are the answers that an operation can't be brought to from outside, or only in another test.
func unprovoked() map[string][]int {
	return map[string][]int{
		"POST /v1/memory/{ns}:search": {404}, // a namespace nobody has written to has no finds
	}
}

func (w *world) succeed(t *testing.T, o *conformance.Operation, s sample) {
	t.Helper()
	r := s(w)
	if err := w.routed(o, r); err != nil {
		t.Error(err)
	}
	a := w.ask(t, o, r)
	if want := r.status; want != 0 && a.Status != want || want == 0 && a.Status/100 != 2 {
		t.Errorf("%s: %d %s", o.Place(), a.Status, a.Body)
	}
}

// refused asks without a credential, with one that lacks the scope, and by a method that the path does not have.
func (w *world) refused(t *testing.T, o *conformance.Operation, r request) {
	t.Helper()
	w.otherMethod(t, o, r)
	if !o.Secured() {
		return
	}
	stranger := r
	stranger.as = w.As("")
	w.want(t, 401, o, stranger)
	stranger.headers = append(slices.Clone(r.headers), "Accept", "application/problem+json")
	if a := w.want(t, 401, o, stranger); !strings.HasPrefix(a.Header.Get("Content-Type"), "application/problem+json") {
		t.Errorf("%s: the problem came as %q", o.Place(), a.Header.Get("Content-Type"))
	}
	poor := r
	poor.as = w.narrow[0]
	if o.Ext("x-agentos-scope") == "policy:check" {
		poor.as = w.narrow[1]
	}
	w.want(t, 403, o, poor)
	elsewhere := r
	elsewhere.headers = append(slices.Clone(r.headers), "X-Tenant-Id", "tnt_nobodys")
	elsewhere.as = w.Client
	w.want(t, 403, o, elsewhere)
	twice := r
	twice.headers = append(slices.Clone(r.headers), "X-Tenant-Id", w.ID, "X-Tenant-Id", w.ID)
	w.want(t, 400, o, twice)
}

func (w *world) want(t *testing.T, status int, o *conformance.Operation, r request) (a harness.Answer) {
	t.Helper()
	if a = w.ask(t, o, r); a.Status != status {
		t.Errorf("%s: %d, want %d: %.300s", o.Place(), a.Status, status, a.Body)
	}
	return a
}

func (w *world) otherMethod(t *testing.T, o *conformance.Operation, r request) {
	t.Helper()
	taken := o.Item.Operations()
	for _, method := range []string{"PATCH", "PUT", "DELETE", "POST", "GET"} {
		if taken[method] != nil {
			continue
		}
		c := r.as
		if c == nil {
			c = w.Client
		}
		a := c.Do(t, method, r.path(o), r.body, r.headers...)
		if a.Status != http.StatusMethodNotAllowed {
			t.Errorf("%s %s: %d, want 405: %.300s", method, r.path(o), a.Status, a.Body)
			return
		}
		w.judged(t, o, a)
		return
	}
}

// missing asks for something that is not there.
func (w *world) missing(t *testing.T, o *conformance.Operation, s sample) {
	t.Helper()
	r := s(w)
	if len(r.params) == 0 || o.Method == http.MethodPut && o.Responses.Value("201") != nil {
		return
	}
	r.params = foreign(r.params)
	if a := w.ask(t, o, r); a.Status/100 != 4 && !slices.Contains(unprovoked()[key(o)], 404) {
		t.Errorf("%s of nothing: %d %.300s", o.Place(), a.Status, a.Body)
	}
}

// broken sends bodies that are none.
func (w *world) broken(t *testing.T, o *conformance.Operation, r request) {
	t.Helper()
	if o.Body() == nil {
		return
	}
	for _, body := range []string{`{"a":`, `[]`, `null`, `"x"`, `{"a":1,"a":2}`, `{} {}`, `{"` + strings.Repeat(`a":{"`, 70)} {
		bad := r
		bad.body = body
		w.want(t, 400, o, bad)
	}
	text := r
	if text.body == nil { // which may be left out, and then has no type
		text.body = "{}"
	}
	text.headers = append(slices.Clone(r.headers), "Content-Type", "-", "Content-Type", "text/plain")
	w.want(t, 415, o, text)
	large := r
	large.headers = append(slices.Clone(r.headers), "Expect", "100-continue") // or the answer is lost in a connection that closes
	large.body = fmt.Sprintf(`{"pad":"%s"}`, strings.Repeat("a", w.bound(o)))
	w.want(t, 413, o, large)
}

// bound is how long a body of the operation may be, in bytes.
func (w *world) bound(o *conformance.Operation) int {
	switch {
	case strings.HasPrefix(o.Path, "/v1/models:"), o.Path == "/v1/chat/completions", o.Path == "/v1/embeddings":
		return 32 << 20
	case strings.HasSuffix(o.Path, "events:ingest"):
		return 4 << 20
	}
	return 1 << 20
}
