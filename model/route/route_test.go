package route_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/model"
	"github.com/nexixai/agentos/model/route"
	"github.com/nexixai/agentos/tenancy"
)

func info(backend, name string, tiers ...string) model.Info {
	return model.Info{ID: backend + "/" + name, Backend: backend, Model: name, Capabilities: []string{"chat"}, Tiers: tiers}
}

var embedder = model.Info{ID: "a/e", Backend: "a", Model: "e", Capabilities: []string{"embed"}, Tiers: []string{"fast"}}

func backends() []model.Backend {
	return []model.Backend{
		{Name: "a", Known: true, Models: []model.Info{info("a", "small", "fast"), info("a", "big", "premium"), embedder}},
		{Name: "b", Known: true, Models: []model.Info{info("b", "small", "fast", "balanced"), info("b", "org/odd")}},
		{Name: "c"}, // has not yet said what it serves
	}
}

func names(d model.Decision) string {
	var list []string
	for _, m := range d.Candidates {
		list = append(list, m.ID)
	}
	return strings.Join(list, " ")
}

// Requirements: B3.
func TestRouter_Decide(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		ref, op  string
		tiers    map[string][]string
		entitled tenancy.Entitlements
		want     string
		code     fault.Code
	}{
		"a tier":                   {ref: "tier:fast", want: "a/small b/small"},
		"a tier to embed":          {ref: "tier:fast", op: "embed", want: "a/e"},
		"a configured tier":        {ref: "tier:fast", tiers: map[string][]string{"fast": {"b/small", "c/new", "gone/x", "a/nothing"}}, want: "b/small c/new"},
		"an empty tier":            {ref: "tier:fast", tiers: map[string][]string{"fast": {}}, code: fault.NotFound},
		"no such tier":             {ref: "tier:golden", code: fault.NotFound},
		"in full":                  {ref: "b/small", want: "b/small"},
		"with a slash in its name": {ref: "b/org/odd", want: "b/org/odd"},
		"the bare name of that":    {ref: "org/odd", want: "b/org/odd"},
		"a bare name":              {ref: "small", want: "a/small b/small"},
		"other case":               {ref: "A/small", code: fault.NotFound},
		"unknown":                  {ref: "a/none", code: fault.NotFound},
		"unknown backend":          {ref: "z/none", code: fault.NotFound},
		"nothing":                  {ref: "", code: fault.NotFound},
		"a slash":                  {ref: "c/", code: fault.NotFound},
		"not known yet":            {ref: "c/whatever", want: "c/whatever"},
		"can't do that":            {ref: "a/e", code: fault.InvalidRequest},
		"backend not allowed":      {ref: "tier:fast", entitled: tenancy.Entitlements{ModelBackendsAllowed: []string{"b"}}, want: "b/small"},
		"no backend allowed":       {ref: "a/small", entitled: tenancy.Entitlements{ModelBackendsAllowed: []string{}}, code: fault.NotFound},
		"tier not allowed":         {ref: "tier:fast", entitled: tenancy.Entitlements{ModelTiersAllowed: []string{"balanced"}}, code: fault.NotFound},
		"premium by its name":      {ref: "a/big", entitled: tenancy.Entitlements{ModelTiersAllowed: []string{"fast"}}, code: fault.NotFound},
		"one of its tiers":         {ref: "b/small", entitled: tenancy.Entitlements{ModelTiersAllowed: []string{"balanced"}}, want: "b/small"},
		"in no tier":               {ref: "b/org/odd", entitled: tenancy.Entitlements{ModelTiersAllowed: []string{}}, want: "b/org/odd"},
		"premium by configuration": {ref: "b/org/odd", tiers: map[string][]string{"premium": {"b/org/odd"}}, entitled: tenancy.Entitlements{ModelTiersAllowed: []string{"fast"}}, code: fault.NotFound},
		"not entitled, can't do":   {ref: "a/e", entitled: tenancy.Entitlements{ModelBackendsAllowed: []string{"b"}}, code: fault.NotFound},
	} {
		if c.op == "" {
			c.op = "chat"
		}
		r := route.New(route.Options{Tiers: c.tiers})
		d, err := r.Decide(model.RouteQuery{ModelRef: c.ref, Operation: c.op, Backends: backends(), Tenant: &tenancy.Tenant{Entitlements: c.entitled}})
		if names(d) != c.want || fault.CodeOf(err) != c.code {
			t.Errorf("%s: %q %v, want %q %s", name, names(d), err, c.want, c.code)
		}
		if c.code == fault.NotFound && fault.Of(err).Details["param"] != "model" {
			t.Errorf("%s: details %v", name, fault.Of(err).Details)
		}
	}
}

// Not entitled and not there must look the same.
func TestRouter_NotEntitledIsNotThere(t *testing.T) {
	t.Parallel()
	r := route.New(route.Options{})
	tenant := &tenancy.Tenant{Entitlements: tenancy.Entitlements{ModelBackendsAllowed: []string{"b"}}}
	var said []string
	for _, ref := range []string{"a/small", "a/smell"} {
		d, err := r.Decide(model.RouteQuery{ModelRef: ref, Operation: "chat", Backends: backends(), Tenant: tenant, Explain: true})
		if len(d.Considered) != 0 {
			t.Errorf("%s: the explanation shows %v", ref, d.Considered)
		}
		said = append(said, strings.ReplaceAll(err.Error(), ref, "X"))
	}
	if said[0] != said[1] {
		t.Errorf("%q and %q", said[0], said[1])
	}
}

// Requirements: B3.
func TestRouter_Requirements(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	r := route.New(route.Options{Now: func() time.Time { return now }})
	list := backends()
	list[0].Models[0].ContextWindowTokens = 1000
	q := model.RouteQuery{ModelRef: "small", Operation: "chat", Backends: list, Tenant: &tenancy.Tenant{}, Explain: true, Cost: func(m model.Info) int64 {
		return map[string]int64{"a": 2_000_000, "b": 5_000_000}[m.Backend]
	}}
	decide := func(need model.Requirements) string {
		q.Requirements = need
		d, err := r.Decide(q)
		if err != nil {
			return string(fault.CodeOf(err)) + fmt.Sprint(fault.Of(err).Details["missing"], fault.Of(err).Details["candidates"])
		}
		return names(d)
	}
	r.End("a", "small", model.Report{Latency: 900 * time.Millisecond})
	for _, c := range []struct {
		need model.Requirements
		want string
	}{
		{model.Requirements{MinContextTokens: 5000}, "b/small"},
		{model.Requirements{MaxCostUSD: 0.003}, "a/small"},
		{model.Requirements{MaxCostUSD: 0.001}, "unsupported_capability[max_cost_usd] [a/small b/small]"},
		{model.Requirements{MaxLatencyMS: 500}, "b/small"},
		{model.Requirements{MaxLatencyMS: 900}, "a/small b/small"},
	} {
		if got := decide(c.need); got != c.want {
			t.Errorf("%+v: %s, want %s", c.need, got, c.want)
		}
	}
	now = now.Add(2 * time.Minute)
	if got := decide(model.Requirements{MaxLatencyMS: 500}); got != "a/small b/small" {
		t.Errorf("a model that was slow once is shut out for good: %s", got)
	}
}

// The breaker, step by step on a clock of its own.
//
// Requirements: B3.
func TestRouter_Breaker(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	r := route.New(route.Options{Threshold: 2, Cooldown: time.Second, MaxCooldown: 3 * time.Second, Now: func() time.Time { return now }})
	down := fault.New(fault.Unavailable, "x")
	fail := func(err error, left bool) { r.End("a", "small", model.Report{Err: err, Left: left}) }
	begin := func() string {
		err := r.Begin("a")
		if err == nil {
			return "ok"
		}
		return fmt.Sprint(fault.CodeOf(err), " ", fault.Of(err).RetryAfter)
	}
	step := func(what, want string) {
		t.Helper()
		if got := begin(); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	for range 10 {
		fail(down, true)
		fail(fault.New(fault.InvalidRequest, "x"), false)
	}
	step("callers that left, and bad requests, don't count", "ok")
	fail(down, false)
	step("one failure", "ok")
	fail(fault.New(fault.InvalidRequest, "x"), false)
	fail(down, false)
	step("not in a row", "ok")
	fail(down, false)
	step("two in a row", "dependency_unavailable 1s")
	now = now.Add(time.Second)
	step("one may try", "ok")
	step("and one only", "dependency_unavailable 1s")
	fail(down, false)
	step("it failed: twice as long", "dependency_unavailable 2s")
	now = now.Add(2 * time.Second)
	step("again one may try", "ok")
	fail(down, true)
	step("it left: the next may try", "ok")
	fail(down, false)
	step("up to the bound", "dependency_unavailable 3s")
	now = now.Add(3 * time.Second)
	step("a last try", "ok")
	fail(nil, false)
	step("it answered: closed", "ok")
	step("for all", "ok")
	fail(fault.New(fault.RateLimited, "x").After(30*time.Second), false)
	step("Retry-After is obeyed", "rate_limited 30s")
	now = now.Add(29 * time.Second)
	step("to the end", "rate_limited 1s")
	now = now.Add(time.Second)
	step("and no longer", "ok")
	fail(fault.New(fault.RateLimited, "x").After(1000*time.Hour), false)
	step("but not for ever", "rate_limited 10m0s")
}

// A sick backend goes to the end of the line, and stays in it.
//
// Requirements: B2, B3.
func TestRouter_PrefersHealthy(t *testing.T) {
	t.Parallel()
	r := route.New(route.Options{Threshold: 1})
	q := model.RouteQuery{ModelRef: "tier:fast", Operation: "chat", Backends: backends(), Tenant: &tenancy.Tenant{}, Explain: true}
	r.End("a", "small", model.Report{Err: fault.New(fault.Timeout, "x")})
	d, err := r.Decide(q)
	if err != nil || names(d) != "b/small a/small" {
		t.Errorf("%s %v", names(d), err)
	}
	again, _ := r.Decide(q)
	if diff := cmp.Diff(names(d), names(again)); diff != "" {
		t.Errorf("the same question has another answer: %s", diff)
	}
	for _, c := range d.Considered {
		if c.Backend == "a" && c.Model == "small" && (c.Chosen || c.Order != 2 || c.Reasons[len(c.Reasons)-1].Check != "health" || c.Reasons[len(c.Reasons)-1].OK) {
			t.Errorf("explained as %+v", c)
		}
	}
}

func TestRouter_Visible(t *testing.T) {
	t.Parallel()
	r := route.New(route.Options{Tiers: map[string][]string{"fast": {"b/org/odd"}}})
	list := r.Visible(&tenancy.Tenant{Entitlements: tenancy.Entitlements{ModelTiersAllowed: []string{"fast"}, ModelBackendsAllowed: []string{"a", "b"}}}, backends())
	got := ""
	for _, m := range list {
		got += fmt.Sprint(m.ID, m.Tiers, " ")
	}
	// a/small and a/e claim a tier that others are configured for, so they are in none.
	if got != "a/small[] a/e[] b/org/odd[fast] " {
		t.Errorf("visible: %s", got)
	}
	if list := r.Visible(&tenancy.Tenant{Entitlements: tenancy.Entitlements{ModelBackendsAllowed: []string{}}}, backends()); len(list) != 0 || list == nil {
		t.Errorf("nothing is allowed, and seen is %v", list)
	}
}
