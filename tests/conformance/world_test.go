package conformance_test

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/nexixai/agentos/tests/conformance"
	"github.com/nexixai/agentos/tests/harness"
)

// Two organisations of one node each, which `agentos up` has paired.
var suite = harness.Suite{Shape: []string{"--orgs", "2", "--nodes", "1"}}

func TestMain(m *testing.M) { os.Exit(suite.Run(m)) }

// soon bounds waits for what should come at once, on a machine that is busy with other things.
const soon = 60 * time.Second

// request is what is sent to an operation.
type request struct {
	params  map[string]string // of the path
	query   string            // without '?'
	body    any               // as harness.Client.Try takes it
	headers []string
	as      *harness.Client // nil: the tenant's administrator
	status  int             // 0: any success
}

// world is a tenant of the shared deployment, and the judge of every answer that is got there.
type world struct {
	*harness.Tenant
	t       *testing.T
	judge   *conformance.Judge
	narrow  [2]*harness.Client // with one scope each: policy:check, models:list
	peering string             // that acme has with globex
	stack   string             // the node that is asked
	after   []func()           // what puts back what a sample has changed for others

	mu   sync.Mutex
	seen map[string]map[int]bool // by "METHOD template"
}

func newWorld(t *testing.T) *world {
	t.Helper()
	judge, err := conformance.NewJudge(mustTree(t), conformance.Names()...)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, judge: judge, Tenant: suite.Tenant(t, nil), seen: map[string]map[int]bool{}}
	w.narrow[0] = w.Issue(t, "svc_checks", []string{"tenant_service"}, []string{"policy:check"})
	w.narrow[1] = w.Issue(t, "svc_lists", []string{"tenant_service"}, []string{"models:list"})
	w.stack = suite.Shared(t).Node().StackID
	if !harness.Poll(soon, 50*time.Millisecond, func() bool {
		a, err := w.Root.Try(context.Background(), "GET", "/v1/federation/peerings?limit=500", nil) // among invitations that tests have made
		for i := 0; err == nil && a.At(fmt.Sprintf("peerings.%d", i)) != nil; i++ {
			if at := fmt.Sprintf("peerings.%d.", i); a.Str(at+"organization") == "globex" && a.Str(at+"state") == "active" {
				w.peering = a.Str(at + "peering_id")
			}
		}
		return w.peering != ""
	}) {
		t.Fatal("the two organisations are not paired")
	}
	return w
}

// operations returns those that the API serves.
func (w *world) operations() []*conformance.Operation {
	return slices.DeleteFunc(conformance.All(w.judge.Docs), func(o *conformance.Operation) bool {
		return o.Planned() || o.Ext("x-agentos-door") != ""
	})
}

func key(o *conformance.Operation) string { return o.Method + " " + o.Path }

// path is the operation's with its parameters filled in.
func (r request) path(o *conformance.Operation) string {
	p := o.Path
	for name, v := range r.params {
		p = strings.ReplaceAll(p, "{"+name+"}", url.PathEscape(v))
	}
	if r.query != "" {
		p += "?" + r.query
	}
	return p
}

// ask sends a request and has the answer judged.
func (w *world) ask(t *testing.T, o *conformance.Operation, r request) harness.Answer {
	t.Helper()
	c := r.as
	if c == nil {
		c = w.Client
	}
	return w.judged(t, o, c.Do(t, o.Method, r.path(o), r.body, r.headers...))
}

// judged reports what is wrong with an answer, and remembers its status.
func (w *world) judged(t *testing.T, o *conformance.Operation, a harness.Answer) harness.Answer {
	t.Helper()
	report(t, w.judge.Reply(o, conformance.Reply{Status: a.Status, Header: a.Header, Body: a.Body}))
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.seen[key(o)] == nil {
		w.seen[key(o)] = map[int]bool{}
	}
	w.seen[key(o)][a.Status] = true
	return a
}

// routed reports whether the documents lead a request to this operation. A name that holds a slash has no template.
func (w *world) routed(o *conformance.Operation, r request) error {
	req, err := http.NewRequestWithContext(context.Background(), o.Method, "http://node"+r.path(o), nil)
	if err != nil {
		return err
	}
	if got := w.judge.Route(req); got != o.OperationID && !strings.Contains(r.path(o), "%2F") {
		return fmt.Errorf("the documents lead %s %s to %q, not to %s", o.Method, r.path(o), got, o.Place())
	}
	return nil
}

// need sends a request that a sample builds on.
func (w *world) need(method, path string, body any) harness.Answer {
	w.t.Helper()
	a := w.Do(w.t, method, path, body)
	if a.Status/100 != 2 {
		w.t.Fatalf("%s %s: %d %s", method, path, a.Status, a.Body)
	}
	return a
}

// restore puts back what samples have changed.
func (w *world) restore() {
	for _, f := range w.after {
		f()
	}
	w.after = nil
}

// fresh returns a name that nothing has yet.
func fresh(prefix string) string { return prefix + "_" + strings.ToLower(ulid.Make().String()) }
