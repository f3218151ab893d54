package conformance_test

import (
	"encoding/json"
	"math/rand/v2"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nexixai/agentos/tests/conformance"
	"github.com/nexixai/agentos/tests/harness"
)

// careful are samples whose target may be spoilt: what TestGenerated sends to them would change what other tests rely on.
func careful() map[string]sample {
	another := func(w *world) request {
		a := w.Root.Want(w.t, 201, "POST", "/v1/admin/tenants", object{"tenant_create": object{"name": "another"}})
		return request{params: map[string]string{"id": a.Str("tenant.tenant_id")}}
	}
	over := func(at string, target sample) sample {
		return root(func(w *world) request {
			r := samples()[at](w)
			r.params = target(w).params
			return r
		})
	}
	out := map[string]sample{}
	for _, at := range []string{"PATCH /v1/admin/tenants/{id}", "PUT /v1/admin/tenants/{id}/quotas", "POST /v1/admin/tenants/{id}/keys"} {
		out[at] = over(at, another)
	}
	const exports = "PUT /v1/federation/peerings/{peering_id}/exports"
	out[exports] = over(exports, samples()["DELETE /v1/federation/peerings/{peering_id}"])
	const route = "PUT /v1/federation/routes/{route_id}"
	out[route] = func(w *world) request { // a route leads every run of its tenant
		return request{as: harness.NewTenant(w.t, w.Root, nil).Client, params: map[string]string{"route_id": "rte_x"}, body: samples()[route](w).body}
	}
	out["POST /v1/federation/peerings"] = root(with(object{})) // its members stand beside a wrapper, or in it
	out["POST /v1/chat/completions"] = with(object{"model": "builtin/echo-1", "messages": []any{object{"role": "user", "content": "x"}}, "stream": true, "stream_options": object{}})
	return out
}

// unread are members whose form a node does not look at, by the last name of their path and all below it.
func unread() map[string]string {
	return map[string]string{
		"auth":   "who a body says it is can only agree with the credential: 403 comes before a question of form",
		"origin": "what a peer says of a forwarded run; of a tenant's own principal it is ignored",
	}
}

// TestGenerated sends what the schemas allow, and what they refuse, to every operation that takes a body or a query. Every
// answer is judged and none is a 5xx; what a schema refuses is refused, by the name of the member at fault; what nobody
// knows is ignored.
//
// Requirements: Q1.
func TestGenerated(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("AGENTOS_TEST_SEED"); text != "" {
		if err := json.Unmarshal([]byte(text), &seed); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("AGENTOS_TEST_SEED=%d", seed)
	rounds := 25
	if os.Getenv("AGENTOS_FAULTS") == "full" {
		rounds = 500
	}
	w := newWorld(t)
	lenient := map[string]*conformance.Operation{}
	docs, err := conformance.LoadAll(mustTree(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range conformance.All(docs) {
		lenient[key(o)] = o
	}
	all, spoilt := samples(), careful()
	before := w.Root.Want(t, 200, "GET", "/v1/admin/prices", nil).At("prices")
	defer w.Root.Want(t, 200, "PUT", "/v1/admin/prices", object{"prices": before})
	for _, o := range w.operations() {
		s := all[key(o)]
		if other := spoilt[key(o)]; other != nil {
			s = other
		}
		if s == nil {
			continue // TestAnswers reports it
		}
		g := &generated{world: w, o: o, free: lenient[key(o)], sample: s, make: &conformance.Maker{Rand: rand.New(rand.NewPCG(seed, 1))}}
		t.Run(o.OperationID, func(t *testing.T) {
			g.queries(t)
			if o.Body() != nil {
				g.faults(t)
				g.extras(t)
				g.sound(t, rounds)
			}
			w.restore()
		})
	}
}

// generated is one operation under generated requests.
type generated struct {
	*world
	o, free *conformance.Operation // by the strict document, and by the one that allows more members
	sample  sample
	make    *conformance.Maker
}

// send has a request answered and judged; the node must not fail.
func (g *generated) send(t *testing.T, r request) harness.Answer {
	t.Helper()
	a := g.ask(t, g.o, r)
	if a.Status >= 500 {
		t.Errorf("%s: %d %.300s to %.600v", g.o.Place(), a.Status, a.Body, r.body)
	}
	return a
}

// body is the sample's, as it is decoded.
func (g *generated) body(r request) any {
	raw, err := json.Marshal(r.body)
	if err != nil || r.body == nil {
		raw = []byte("{}")
	}
	var v any
	_ = json.Unmarshal(raw, &v)
	return v
}

// faults sends bodies with one fault each.
func (g *generated) faults(t *testing.T) {
	r := g.sample(g.world)
	for _, f := range g.make.Faults(g.free.Body(), g.body(r)) {
		r.body = f.Body
		a := g.send(t, r)
		if slices.ContainsFunc(f.Path, func(name string) bool { return unread()[name] != "" }) {
			continue
		}
		field := strings.NewReplacer("[", ".", "]", "").Replace(a.Str("error.details.field"))
		switch {
		case a.Status == 413 && len(f.Body) > 100<<10:
		case a.Status != 400:
			t.Errorf("%s: %s %s: %d, want 400 (body %.300s, answer %.300s)", g.o.Place(), f.What, f.At(), a.Status, f.Body, a.Body)
		case field != f.At() && !strings.HasPrefix(field, f.At()+"."):
			t.Errorf("%s: %s %s: the error names %q (body %.300s, answer %.300s)", g.o.Place(), f.What, f.At(), field, f.Body, a.Body)
		}
	}
}

// extras sends what a node must ignore.
func (g *generated) extras(t *testing.T) {
	r := g.sample(g.world)
	plain := g.send(t, r)
	r = g.sample(g.world)
	body := g.make.Extra(g.free.Body(), g.body(r))
	r.body = body
	if a := g.send(t, r); a.Status/100 != plain.Status/100 {
		t.Errorf("%s: %d with unknown members, %d without: %.300s", g.o.Place(), a.Status, plain.Status, a.Body)
	}
}

// sound sends bodies that the schema takes, alone and mixed with the sample's.
func (g *generated) sound(t *testing.T, rounds int) {
	r := g.sample(g.world) // one for all rounds: what a tenant may have is bounded
	base := g.body(r)
	for i := range rounds {
		made := g.make.Value(g.free.Body())
		if both := mixed(base, made); i%2 == 0 && len(conformance.CheckValue(g.free.Body(), both)) == 0 {
			made = both // of two kinds that don't go together, the mixture is none
		}
		if found := conformance.CheckValue(g.free.Body(), made); len(found) > 0 {
			t.Fatalf("the generator made what the schema refuses: %v of %v", found, made)
		}
		r.body = made
		g.send(t, r)
	}
}

// mixed is what is made, with the sample's members over it.
func mixed(sample, made any) any {
	a, okA := sample.(map[string]any)
	b, okB := made.(map[string]any)
	if !okA || !okB {
		return sample
	}
	out := map[string]any{}
	for name, v := range b {
		out[name] = v
	}
	for name, v := range a {
		out[name] = mixed(v, b[name])
	}
	return out
}

// queries sends queries that a schema refuses, and ones with names that nobody knows.
func (g *generated) queries(t *testing.T) {
	any := false
	for _, p := range g.free.Params() {
		if p.In != "query" {
			continue
		}
		any = true
		for _, v := range g.make.BadQuery(p) {
			r := g.sample(g.world)
			r.query = url.Values{p.Name: {v}}.Encode()
			a := g.send(t, r)
			if a.Status != 400 || a.Str("error.details.field") != p.Name {
				t.Errorf("%s?%s: %d, the error names %q: %.300s", g.o.Place(), r.query, a.Status, a.Str("error.details.field"), a.Body)
			}
		}
	}
	if any {
		r := g.sample(g.world)
		r.query = strings.TrimPrefix(r.query+"&zz_unknown=1", "&")
		if a := g.send(t, r); a.Status/100 != 2 && !slices.Contains([]int{r.status}, a.Status) {
			t.Errorf("%s: %d with an unknown query parameter: %.300s", g.o.Place(), a.Status, a.Body)
		}
	}
}
