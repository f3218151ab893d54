package conformance

import (
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/gorillamux"
)

// Reply is one whole answer of a node.
type Reply struct {
	Status int
	Header http.Header
	Body   []byte
}

// Judge holds answers against strict documents.
type Judge struct {
	Docs    []*Document
	common  *Document
	routers map[*Document]routers.Router
}

// NewJudge returns a judge by the documents of a tree.
func NewJudge(t Tree, names ...string) (*Judge, error) {
	j := &Judge{routers: map[*Document]routers.Router{}}
	for _, name := range append(names, Common) {
		d, err := Load(t, name)
		if err != nil {
			return nil, err
		}
		d.Servers = nil // wherever it is asked
		j.Docs = append(j.Docs, d)
		if name == Common {
			j.common = d
			continue
		}
		if j.routers[d], err = gorillamux.NewRouter(d.T); err != nil {
			return nil, fmt.Errorf("%s: %w", d.File, err)
		}
	}
	Strict(j.Docs)
	return j, nil
}

// Operation returns the operation of this operationId, nil when there is none.
func (j *Judge) Operation(id string) *Operation {
	for _, o := range All(j.Docs) {
		if o.OperationID == id {
			return o
		}
	}
	return nil
}

// Route returns the operationId that the documents give a request, "" when none has it.
func (j *Judge) Route(r *http.Request) string {
	for _, d := range j.Docs {
		if j.routers[d] == nil {
			continue
		}
		if route, _, err := j.routers[d].FindRoute(r); err == nil {
			return route.Operation.OperationID
		}
	}
	return ""
}

// Reply returns what is wrong with an answer to an operation; every line begins with its place.
func (j *Judge) Reply(o *Operation, a Reply) (found []string) {
	status := strconv.Itoa(a.Status)
	ref := o.Responses.Value(status)
	if ref == nil && a.Status == http.StatusMethodNotAllowed { // of the path, not of an operation
		ref = j.common.Components.Responses["MethodNotAllowed"]
	}
	at := fmt.Sprintf("%s answered %s", o.Place(), status)
	if ref == nil || ref.Value == nil {
		return []string{fmt.Sprintf("%s, which it does not document: %.300s", at, a.Body)}
	}
	for _, f := range j.headers(ref.Value, a.Header) {
		found = append(found, at+": "+f)
	}
	for _, f := range j.body(o, ref.Value, a) {
		found = append(found, at+": "+f)
	}
	if a.Status >= 400 {
		for _, f := range j.failure(o, a) {
			found = append(found, at+": "+f)
		}
	}
	return found
}

// plain are the headers that HTTP itself brings, and those that say how an answer may be kept and read.
func plain() []string {
	return []string{
		"Date", "Content-Type", "Content-Length", "Content-Encoding", "Connection", "Transfer-Encoding", "Cache-Control", "Vary", "X-Content-Type-Options", "Allow",
		"Content-Security-Policy", "Referrer-Policy", "X-Accel-Buffering",
	}
}

// headers compares those of an answer with the documented ones, both ways.
func (j *Judge) headers(r *openapi3.Response, h http.Header) (found []string) {
	named := map[string]*openapi3.Header{}
	for name, ref := range r.Headers {
		named[http.CanonicalHeaderKey(name)] = ref.Value
	}
	for name, values := range h {
		want := named[name]
		switch {
		case slices.Contains(plain(), name):
		case want == nil:
			found = append(found, fmt.Sprintf("header %s is not documented", name))
		case len(values) != 1:
			found = append(found, fmt.Sprintf("header %s came %d times", name, len(values)))
		default:
			for _, f := range CheckValue(want.Schema.Value, typed(want.Schema.Value, values[0])) {
				found = append(found, fmt.Sprintf("header %s: %s", name, f))
			}
		}
	}
	for name, want := range named {
		if want.Required && len(h.Values(name)) == 0 {
			found = append(found, fmt.Sprintf("header %s is missing", name))
		}
	}
	return found
}

// typed is a text as the schema means it.
func typed(s *openapi3.Schema, v string) any {
	switch {
	case s.Type.Is("integer"), s.Type.Is("number"):
		if n, err := strconv.ParseFloat(v, 64); err == nil {
			return n
		}
	case s.Type.Is("boolean"):
		if b, err := strconv.ParseBool(v); err == nil {
			return b
		}
	}
	return v
}

func (j *Judge) body(o *Operation, r *openapi3.Response, a Reply) []string {
	if len(r.Content) == 0 {
		if len(a.Body) > 0 {
			return []string{fmt.Sprintf("a body where none is documented: %.200s", a.Body)}
		}
		return nil
	}
	kind, _, err := mime.ParseMediaType(a.Header.Get("Content-Type"))
	m := r.Content[kind]
	if err != nil || m == nil {
		return []string{fmt.Sprintf("the media type %q is not documented", a.Header.Get("Content-Type"))}
	}
	var found []string
	switch {
	case kind == "text/event-stream":
		found = CheckStream(o.Doc.event(m), a.Body)
	case strings.HasSuffix(kind, "json"):
		found = Check(m.Schema.Value, a.Body)
	}
	if len(found) > 0 {
		found = append(found, fmt.Sprintf("the body was %.600s", a.Body))
	}
	return found
}

// codes are the HTTP statuses that the contract gives each error code.
func codes() map[string]int {
	return map[string]int{
		"invalid_request": 400, "unauthorized": 401, "forbidden": 403, "policy_blocked": 403, "not_found": 404, "method_not_allowed": 405, "conflict": 409,
		"unsupported_capability": 409, "payload_too_large": 413, "unsupported_media_type": 415, "rate_limited": 429, "quota_exceeded": 429,
		"internal_error": 500, "dependency_unavailable": 503, "timeout": 504, "loop_detected": 508,
	}
}

// failure checks what a schema can't say of an error: that its code, its status and its headers fit each other.
func (j *Judge) failure(o *Operation, a Reply) (found []string) {
	v, err := decode(a.Body)
	body, ok := v.(map[string]any)
	if err != nil || !ok {
		return nil // body has said so
	}
	e, ok := body["error"].(map[string]any)
	if !ok {
		if e = body; body["code"] == nil {
			return nil // readiness has an answer of its own
		}
	}
	code, _ := e["code"].(string)
	if codes()[code] != a.Status {
		found = append(found, fmt.Sprintf("the code %q belongs to %d", code, codes()[code]))
	}
	retry := code == "rate_limited" || code == "internal_error" || code == "dependency_unavailable" || code == "timeout"
	if e["retryable"] != retry {
		found = append(found, fmt.Sprintf("%s says retryable: %v", code, e["retryable"]))
	}
	for name, want := range map[string]bool{"Retry-After": a.Status == 429, "Www-Authenticate": a.Status == 401} {
		if want && len(a.Header.Values(name)) == 0 {
			found = append(found, fmt.Sprintf("header %s is missing", name))
		}
	}
	if id := a.Header.Get("X-Correlation-Id"); id != "" && body["correlation_id"] != id {
		found = append(found, fmt.Sprintf("correlation_id is %v in the body and %s in the header", body["correlation_id"], id))
	}
	return found
}
