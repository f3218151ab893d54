package api_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/nexixai/agentos/api"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/peer/cluster"
)

// gate is a cluster that lets a few in, and then says that they are too many.
type gate struct {
	nobody
	calls *int
}

func (g gate) Allow(string) error {
	if *g.calls++; *g.calls > 20 {
		return fault.New(fault.RateLimited, "Too many.")
	}
	return nil
}

func (gate) Join(_ context.Context, source, _ string, body []byte) (*cluster.JoinAnswer, error) {
	if source == "" {
		return nil, fmt.Errorf("from nowhere")
	}
	switch string(body) {
	case `{"token":"good"}`:
		return &cluster.JoinAnswer{Certificate: "c", ClusterID: "clu_a", Servers: []string{"a:1"}, GossipSeeds: []string{}, GossipKeys: [][]byte{{1}}}, nil
	case `{"token":"old"}`:
		return nil, fault.New(fault.Unauthorized, "The join token is used up.")
	}
	_, _, _, err := cluster.ReadJoin(body)
	return nil, err
}

// The call that stands at the cluster's door answers as every other: with ids, with the error object, within its bounds, and
// it is the only one there.
//
// Requirements: N3, N7.
func TestJoin(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(o *api.Options) { o.Cluster = gate{calls: new(int)} })
	ask := func(method, path, kind, body string) *answer {
		r := httptest.NewRequest(method, path, strings.NewReader(body))
		r.Header.Set("Content-Type", kind)
		rec := httptest.NewRecorder()
		w.door.JoinHandler().ServeHTTP(rec, r)
		return w.check(request{method: method, path: path}, rec.Result())
	}
	const json = "application/json"
	for _, c := range []struct {
		method, path, kind, body string
		status                   int
		code                     string
	}{
		{"GET", cluster.JoinPath, json, "", 405, "method_not_allowed"},
		{"POST", "/v1/runs", json, "{}", 404, "not_found"},
		{"POST", "/healthz", json, "{}", 404, "not_found"},
		{"POST", cluster.JoinPath, json, "{", 400, "invalid_request"},
		{"POST", cluster.JoinPath, json, "", 400, "invalid_request"},
		{"POST", cluster.JoinPath, json, `{"token":"a","token":"b"}`, 400, "invalid_request"},
		{"POST", cluster.JoinPath, json, `{"token":"x"}`, 400, "invalid_request"},
		{"POST", cluster.JoinPath, json, `{"token":"old"}`, 401, "unauthorized"},
		{"POST", cluster.JoinPath, "text/plain", `{"token":"good"}`, 415, "unsupported_media_type"},
		{"POST", cluster.JoinPath, json, `{"token":"` + strings.Repeat("x", cluster.MaxJoinBody) + `"}`, 413, "payload_too_large"},
	} {
		a := ask(c.method, c.path, c.kind, c.body)
		if e, _ := a.body["error"].(map[string]any); a.StatusCode != c.status || e["code"] != c.code || e["details"] == nil {
			t.Errorf("%s %s %.40q: %d %s", c.method, c.path, c.body, a.StatusCode, a.raw)
		}
	}
	a := ask("POST", cluster.JoinPath, json, `{"token":"good"}`)
	if _, sealed := a.body["seal_key"]; a.StatusCode != 200 || a.body["cluster_id"] != "clu_a" || a.body["correlation_id"] == "" || sealed {
		t.Errorf("%d %s", a.StatusCode, a.raw)
	}
	if n := len(w.acts("http.post")); n != 1 {
		t.Errorf("%d refusals are audited, and one was of the token", n)
	}
	slowed := false
	for range 20 {
		a := ask("POST", cluster.JoinPath, json, `{"token":"good"}`)
		slowed = slowed || a.StatusCode == 429 && a.Header.Get("Retry-After") != ""
	}
	if !slowed {
		t.Error("nothing bounds how often one source may try")
	}
	w.refuse(404, "not_found", request{method: "POST", path: cluster.JoinPath, body: "{}"})
}
