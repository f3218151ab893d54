package api_test

import (
	"fmt"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/nexixai/agentos/api"
	"github.com/nexixai/agentos/tenancy"
)

// documented is what the OpenAPI documents say of one method and path.
type documented struct {
	id, door, scope string
	planned         bool
	schemes         []string // of security; empty for none
}

// mustDocuments reads the operations of the three documents by "METHOD path".
func mustDocuments(tb testing.TB) map[string]documented {
	tb.Helper()
	out := map[string]documented{}
	for _, name := range []string{"stack-a", "stack-b", "federation"} {
		l := openapi3.NewLoader()
		l.IsExternalRefsAllowed = true
		l.ReadFromURIFunc = func(_ *openapi3.Loader, u *url.URL) ([]byte, error) { return os.ReadFile(u.Path) }
		doc, err := l.LoadFromFile("../docs/api/" + name + "/openapi.yaml")
		if err != nil {
			tb.Errorf("docs/api/%s/openapi.yaml: %v", name, err)
			continue
		}
		for path, item := range doc.Paths.Map() {
			for method, op := range item.Operations() {
				text := func(name string) string { s, _ := op.Extensions[name].(string); return s }
				d := documented{
					id:   fmt.Sprintf("%s in docs/api/%s/openapi.yaml", op.OperationID, name),
					door: text("x-agentos-door"), scope: text("x-agentos-scope"), planned: text("x-agentos-status") == "planned",
				}
				if op.Security != nil {
					for _, req := range *op.Security {
						d.schemes = slices.AppendSeq(d.schemes, maps.Keys(req))
					}
				}
				at := method + " " + path
				if other, twice := out[at]; twice {
					tb.Errorf("%s is %s and %s", at, other.id, d.id)
				}
				out[at] = d
			}
		}
	}
	return out
}

// compare returns where a door's table and the documents differ. belongs says which operations the door has to serve, and
// may says what of a served one has to be so.
func compare(routes []api.Route, docs map[string]documented, belongs func(documented) bool, may func(api.Route, documented) string) (found []string) {
	served := map[string]bool{}
	for _, r := range routes {
		at := r.Method + " " + r.Template
		served[at] = true
		d, ok := docs[at]
		switch {
		case !ok:
			found = append(found, at+" is served, and no document has it")
		case d.planned:
			found = append(found, fmt.Sprintf("%s is served, and %s says that it is planned", at, d.id))
		default:
			if why := may(r, d); why != "" {
				found = append(found, fmt.Sprintf("%s (%s): %s", at, d.id, why))
			}
		}
	}
	for _, at := range slices.Sorted(maps.Keys(docs)) {
		if d := docs[at]; belongs(d) && !d.planned && !served[at] {
			found = append(found, fmt.Sprintf("%s (%s) is served at no route", at, d.id))
		}
	}
	return found
}

// public and federation are what the documents have to say of the routes of either door.
func public(d documented) bool { return d.door == "" }

func federation(d documented) bool {
	return d.door == "federation" || slices.Contains(d.schemes, "peer")
}

func publicly(r api.Route, d documented) string {
	credential := slices.Contains(d.schemes, "bearer") && slices.Contains(d.schemes, "apiKey")
	switch {
	case d.door != "":
		return "the document says that it stands on the door " + d.door
	case r.Scope != tenancy.Scope(d.scope):
		return fmt.Sprintf("it needs the scope %q, and x-agentos-scope is %q", r.Scope, d.scope)
	case r.Open && len(d.schemes) > 0:
		return "it asks for no credential, and its security does"
	case !r.Open && !credential:
		return "it asks for a credential, and its security is not bearer or apiKey"
	}
	return ""
}

func federally(r api.Route, d documented) string {
	switch peer := slices.Contains(d.schemes, "peer"); {
	case r.Open && len(d.schemes) > 0:
		return "a stranger may call it at the federation door, and its security asks for a credential"
	case !r.Open && !peer:
		return "it stands on the federation door for peers, and its security does not name peer"
	}
	return ""
}

// TestDocuments_NameWhatTheDoorsServe compares the tables of the doors with the documents, both ways.
//
// Requirements: Q1.
func TestDocuments_NameWhatTheDoorsServe(t *testing.T) {
	docs := mustDocuments(t)
	door := newWorld(t, nil).door
	pages := []api.Route{{Method: "GET", Template: "/openapi/{name}.yaml", Open: true}, {Method: "GET", Template: "/docs/", Open: true}} // in no table
	found := compare(append(pages, door.Routes()...), docs, public, publicly)
	found = append(found, compare(door.FederationRoutes(), docs, federation, federally)...)
	found = append(found, compare(door.JoinRoutes(), docs, func(d documented) bool { return d.door == "cluster" }, federally)...)
	for _, f := range found {
		t.Error(f)
	}
}

// TestDocuments_NameWhatTheDoorsServe_seen breaks a table and a document, and sees the place named.
func TestDocuments_NameWhatTheDoorsServe_seen(t *testing.T) {
	routes := []api.Route{
		{Method: "GET", Template: "/v1/things/{id}", Scope: tenancy.AgentsRead},
		{Method: "GET", Template: "/v1/health", Open: true},
	}
	sound := map[string]documented{
		"GET /v1/things/{id}": {id: "thingsGet", scope: "agents:read", schemes: []string{"bearer", "apiKey"}},
		"GET /v1/health":      {id: "healthGet"},
		"PUT /v1/things/{id}": {id: "thingsPut", planned: true, scope: "agents:write", schemes: []string{"bearer", "apiKey"}},
	}
	for _, c := range []struct {
		name   string
		change func(routes []api.Route, docs map[string]documented) []api.Route
		want   string
	}{
		{"sound", func(r []api.Route, _ map[string]documented) []api.Route { return r }, ""},
		{"a route that no document has", func(r []api.Route, _ map[string]documented) []api.Route {
			return append(r, api.Route{Method: "GET", Template: "/v1/more", Open: true})
		}, "GET /v1/more is served"},
		{"a route that is gone", func(r []api.Route, _ map[string]documented) []api.Route { return r[1:] }, "GET /v1/things/{id} (thingsGet) is served at no route"},
		{"a planned one that is served", func(r []api.Route, _ map[string]documented) []api.Route {
			return append(r, api.Route{Method: "PUT", Template: "/v1/things/{id}", Scope: tenancy.AgentsWrite})
		}, "thingsPut says that it is planned"},
		{"another name of a parameter", func(r []api.Route, _ map[string]documented) []api.Route {
			r[0].Template = "/v1/things/{thing}"
			return r
		}, "GET /v1/things/{thing} is served"},
		{"another scope", func(r []api.Route, _ map[string]documented) []api.Route {
			r[0].Scope = tenancy.AgentsWrite
			return r
		}, `GET /v1/things/{id} (thingsGet): it needs the scope "agents:write"`},
		{"an open one with security", func(r []api.Route, d map[string]documented) []api.Route {
			d["GET /v1/health"] = documented{id: "healthGet", schemes: []string{"bearer"}}
			return r
		}, "GET /v1/health (healthGet)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			docs := maps.Clone(sound)
			got := strings.Join(compare(c.change(slices.Clone(routes), docs), docs, public, publicly), "\n")
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("found %q, want %q", got, c.want)
			}
		})
	}
}
