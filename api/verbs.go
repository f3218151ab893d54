package api

import (
	"fmt"
	"net/http"
	"sort"
	"strings"

	"github.com/julienschmidt/httprouter"

	"github.com/nexixai/agentos/tenancy"
)

// Route is one endpoint, as data: what is served, and who may ask.
type Route struct {
	Method   string
	Template string // as the contract writes it, e.g. /v1/runs/{run_id}:cancel
	// Scope is what the caller must hold; "" with Open false means any verified caller.
	Scope tenancy.Scope
	// Open routes ask for no credential.
	Open bool
	// Node routes of the federation door ask for a peer's certificate, and for no token.
	Node bool
	// Admin routes may be kept off the public door.
	Admin bool
	// OpenAI routes answer errors in OpenAI's form too.
	OpenAI bool
	// MaxBody is the longest body in bytes; 0 means the default.
	MaxBody int64

	serve func(*call) error
}

// router finds routes. The contract's paths end in ":verb" beside parameters, which httprouter can't hold in one tree: so
// there is a tree for plain paths and one for each verb, and the verb is cut off before the look-up.
type router struct {
	trees map[string]*httprouter.Router // by verb, "" for plain paths
	paths map[string]map[string]bool    // verb + pattern → methods
}

func newRouter(routes []Route) (*router, error) {
	rt := &router{trees: make(map[string]*httprouter.Router), paths: make(map[string]map[string]bool)}
	for i := range routes {
		if err := rt.add(&routes[i]); err != nil {
			return nil, err
		}
	}
	return rt, nil
}

func (rt *router) add(r *Route) (err error) {
	defer func() { // httprouter panics on what it can't hold: a fault of the table
		if p := recover(); p != nil {
			err = fmt.Errorf("api: route %s %s: %v", r.Method, r.Template, p)
		}
	}()
	path, verb := cutVerb(r.Template, nil)
	tree := rt.trees[verb]
	if tree == nil {
		tree = httprouter.New()
		tree.RedirectTrailingSlash, tree.RedirectFixedPath, tree.HandleMethodNotAllowed = false, false, false
		rt.trees[verb] = tree
	}
	pattern := strings.NewReplacer("{model_id}", "*model_id", "{name}.yaml", ":name", "{", ":", "}", "").Replace(path)
	tree.Handle(r.Method, pattern, func(w http.ResponseWriter, _ *http.Request, ps httprouter.Params) {
		m := w.(*match)
		m.route, m.params = r, ps
	})
	return nil
}

// match takes the router's finding: httprouter hands it to the handle as the ResponseWriter, and nothing is written.
type match struct {
	http.ResponseWriter
	route  *Route
	params httprouter.Params
}

// find returns the route of a request, or the methods that its path knows.
func (rt *router) find(method, path string) (*Route, httprouter.Params, []string) {
	short, verb := cutVerb(path, rt.trees)
	tree := rt.trees[verb]
	if tree == nil { // a door of verbs alone
		return nil, nil, nil
	}
	if h, ps, _ := tree.Lookup(method, short); h != nil {
		m := match{}
		h(&m, nil, ps)
		return m.route, ps, nil
	}
	var allowed []string
	for _, other := range []string{"GET", "POST", "PUT", "PATCH", "DELETE"} {
		if other != method {
			if h, _, _ := tree.Lookup(other, short); h != nil {
				allowed = append(allowed, other)
			}
		}
	}
	sort.Strings(allowed)
	return nil, nil, allowed
}

// cutVerb splits the text after the last ':' off the last segment. With known, only a verb that has a tree is cut.
func cutVerb(path string, known map[string]*httprouter.Router) (short, verb string) {
	colon := strings.LastIndexByte(path, ':')
	if colon < 0 || strings.IndexByte(path[colon:], '/') >= 0 {
		return path, ""
	}
	verb = path[colon+1:]
	if known != nil && known[verb] == nil {
		return path, ""
	}
	return path[:colon], verb
}
