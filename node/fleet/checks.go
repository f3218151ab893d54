package fleet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nexixai/agentos/api/client"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/node"
)

// How long one check may take.
const checkPatience = 60 * time.Second

// trial tries one check after another, and goes on after a failure, so that the report shows all of them.
type trial struct {
	p      *phase
	failed []string
}

func (t *trial) try(ctx context.Context, into *[]Check, name string, do func(context.Context) (string, error)) (ok bool) {
	if ctx.Err() != nil {
		return false
	}
	began := time.Now()
	one, cancel := context.WithTimeout(ctx, checkPatience)
	defer cancel()
	detail, err := do(one)
	c := Check{Name: name, OK: err == nil, Detail: detail, DurationMS: time.Since(began).Milliseconds()}
	if err != nil {
		c.Detail = err.Error()
		t.failed = append(t.failed, name+": "+c.Detail)
		t.p.note("%s FAILED: %s", name, c.Detail)
	} else {
		t.p.step("%s: %s", name, detail)
	}
	*into = append(*into, c)
	return c.OK
}

// validate tries everything that a deployment is for.
func (f *Fleet) validate(ctx context.Context, r *Report, p *phase) error {
	orgs := f.plan.Organizations
	p.total(len(f.plan.nodes())*len(healthPaths) + len(orgs)*len(smokeTests) + (len(orgs)-1)*len(abroadTests))
	t := &trial{p: p}
	passed := map[string]int{} // health checks, by stack id
	for _, n := range f.plan.nodes() {
		api, err := f.once(n.apiURL())
		if err != nil {
			return err
		}
		for _, path := range healthPaths {
			if t.try(ctx, &r.Checks, n.StackID+" "+path, func(ctx context.Context) (string, error) {
				_, err := api.Do(ctx, client.Request{Method: http.MethodGet, Path: path})
				return "ok", err
			}) {
				passed[n.StackID]++
			}
		}
		api.Close()
	}
	for i, org := range orgs {
		s := newSmoke(f, org, passed)
		for _, test := range smokeTests {
			t.try(ctx, &r.Smoke, org.Organization+": "+test.name, func(ctx context.Context) (string, error) {
				if len(s.org.Nodes) == 0 {
					return "", fmt.Errorf("not tried: no node of %s answers", s.org.Organization)
				}
				return test.do(s, ctx)
			})
		}
		if i == 0 {
			for _, other := range orgs[1:] {
				s.tryAbroad(ctx, t, r, answering(other, passed))
			}
		}
		s.close()
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(t.failed) == 0 {
		return nil
	}
	n, next := f.plan.nodes()[0], "agentos status"
	for _, one := range f.plan.nodes() {
		if passed[one.StackID] == 0 { // whose fault it is
			n, next = one, "agentos up"
			break
		}
	}
	return &FailedError{
		Phase: p.name, Check: fmt.Sprintf("%d of %d checks failed", len(t.failed), len(r.Checks)+len(r.Smoke)), Err: errors.New(strings.Join(t.failed, "\n  ")),
		Log: tail(f.logFile(n.StackID), 0, 12), LogFile: f.logFile(n.StackID), Next: next + f.at(),
	}
}

var healthPaths = []string{"/healthz", "/readyz", "/v1/health", "/stack-b/v1/health", "/v1/federation/health"}

// answering is an organisation with those of its nodes alone that answer, the soundest first: one dead node has its own
// checks failed, and keeps nobody from what the others do.
func answering(org planOrg, passed map[string]int) planOrg {
	org.Nodes = slices.DeleteFunc(slices.Clone(org.Nodes), func(n planNode) bool { return passed[n.StackID] == 0 })
	slices.SortStableFunc(org.Nodes, func(a, b planNode) int { return passed[b.StackID] - passed[a.StackID] })
	return org
}

// smoke holds what the smoke tests of one organisation share.
type smoke struct {
	f      *Fleet
	org    planOrg  // with the nodes that answer
	node   planNode // that is asked: the first of them
	silent []string // the nodes that don't
	opened []*client.Client

	before float64 // runs counted before
	runID  string
	events []client.Event
}

func newSmoke(f *Fleet, org planOrg, passed map[string]int) *smoke {
	s := &smoke{f: f, org: answering(org, passed)}
	if len(s.org.Nodes) > 0 {
		s.node = s.org.Nodes[0]
	}
	for _, n := range org.Nodes {
		if passed[n.StackID] == 0 {
			s.silent = append(s.silent, n.StackID)
		}
	}
	return s
}

func (s *smoke) close() {
	for _, c := range s.opened {
		c.Close()
	}
}

func (s *smoke) as(tenantID, role string) (*client.Client, error) {
	c, err := s.f.with(s.node, s.f.keyFile(s.org, tenantID, role))
	if err == nil {
		s.opened = append(s.opened, c)
	}
	return c, err
}

// smokeTests are tried in this order; later ones look at the run that an earlier one made.
var smokeTests = []struct {
	name string
	do   func(*smoke, context.Context) (string, error)
}{
	{"default tenant exists", (*smoke).tenant},
	{"figures can be read", (*smoke).figures},
	{"run with a tool call and a governed model call", (*smoke).run},
	{"events streamed to completion", (*smoke).stream},
	{"every node serves the run", (*smoke).everywhere},
	{"policy redacts", (*smoke).policy},
	{"figures moved", (*smoke).moved},
	{"another tenant can't see the run", (*smoke).isolation},
	{"audit names the run", (*smoke).audit},
}

func (s *smoke) tenant(ctx context.Context) (string, error) {
	c, err := s.as(node.DefaultTenantID, rolePlatformAdmin)
	if err != nil {
		return "", err
	}
	t, err := c.GetTenant(ctx, node.DefaultTenantID)
	if err != nil {
		return "", err
	}
	if t.Status != "active" {
		return "", fmt.Errorf("%s is %s", t.ID, t.Status)
	}
	return t.ID + " is active", nil
}

const runCounter = "agentos_run_count"

func (s *smoke) figures(ctx context.Context) (string, error) {
	var err error
	s.before, err = s.figureOfAll(ctx)
	return fmt.Sprintf("%s is %g", runCounter, s.before), err
}

// figureOfAll adds the run counter up over the organisation's nodes that answer: any of them may have worked on the run.
func (s *smoke) figureOfAll(ctx context.Context) (float64, error) {
	sum := 0.0
	for _, n := range s.org.Nodes {
		v, err := s.f.figure(ctx, n, runCounter)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", n.StackID, err)
		}
		sum += v
	}
	return sum, nil
}

// figure adds up the samples of one metric.
func (f *Fleet) figure(ctx context.Context, n planNode, name string) (float64, error) {
	admin, err := f.once(n.adminURL())
	if err != nil {
		return 0, err
	}
	defer admin.Close()
	a, err := admin.Do(ctx, client.Request{Method: http.MethodGet, Path: "/metrics"})
	if err != nil {
		return 0, err
	}
	sum, known := 0.0, false
	for line := range strings.Lines(string(a.Body)) {
		if strings.HasPrefix(line, "# TYPE "+name+" ") || strings.HasPrefix(line, "# TYPE "+name+"_total ") {
			known = true
		}
		rest, ok := strings.CutPrefix(line, name)
		if !ok {
			continue
		}
		rest = strings.TrimPrefix(rest, "_total")
		if rest == "" || rest[0] != '{' && rest[0] != ' ' {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(rest[strings.LastIndexByte(strings.TrimRight(rest, "\n"), ' ')+1:]), 64)
		if err == nil {
			sum, known = sum+v, true
		}
	}
	if !known {
		return 0, fmt.Errorf("the node shows no figure %s", name)
	}
	return sum, nil
}

func (s *smoke) run(ctx context.Context) (string, error) {
	c, err := s.as(node.DefaultTenantID, roleTenantUser)
	if err != nil {
		return "", err
	}
	made, err := probe(ctx, c, node.SampleAgentID, `/call tool.echo {"probe":"agentos validate"}`)
	if err != nil {
		return "", err
	}
	s.runID = made.ID
	if s.events, err = journal(ctx, c, s.runID); err != nil {
		return "", err
	}
	var tool, governed bool
	for _, e := range s.events {
		var payload struct {
			Status  string `json:"status"`
			Outcome *struct {
				Decision string `json:"decision"`
			} `json:"policy_outcome"`
		}
		if err := json.Unmarshal(e.Payload, &payload); err != nil {
			return "", fmt.Errorf("event %d: %w", e.Sequence, err)
		}
		tool = tool || e.Type == "agentos.tool.call.completed" && payload.Status == "ok"
		governed = governed || e.Type == "agentos.model.completed" && payload.Outcome != nil && payload.Outcome.Decision == "allowed"
	}
	last := s.events[len(s.events)-1]
	switch {
	case last.Type != client.RunCompleted:
		return "", fmt.Errorf("run %s ended with %s %s", s.runID, last.Type, last.Payload)
	case !tool:
		return "", fmt.Errorf("run %s made no tool call that succeeded", s.runID)
	case !governed:
		return "", fmt.Errorf("run %s made no model call that policy allowed", s.runID)
	}
	return s.runID + " completed", nil
}

func (s *smoke) stream(context.Context) (string, error) {
	if len(s.events) == 0 {
		return "", errors.New("there are no events: the run before has failed")
	}
	for i, e := range s.events {
		if e.Sequence != uint64(i+1) || e.RunID != s.runID {
			return "", fmt.Errorf("event %d of %s has sequence %d and run %s", i+1, s.runID, e.Sequence, e.RunID)
		}
	}
	return fmt.Sprintf("%d events, 1 to %d without a gap", len(s.events), len(s.events)), nil
}

// everywhere asks each node of the cluster that answers at all for the run's journal: it must be the same one.
func (s *smoke) everywhere(ctx context.Context) (string, error) {
	if s.runID == "" {
		return "", errors.New("there was no run to look for")
	}
	for _, n := range s.org.Nodes {
		c, err := s.f.with(n, s.f.keyFile(s.org, node.DefaultTenantID, roleTenantUser))
		if err != nil {
			return "", err
		}
		events, err := journal(ctx, c, s.runID)
		c.Close()
		if err != nil {
			return "", fmt.Errorf("%s: %w", n.StackID, err)
		}
		if len(events) != len(s.events) || events[len(events)-1].ID != s.events[len(s.events)-1].ID {
			return "", fmt.Errorf("%s tells %d events of %s, %s told %d", n.StackID, len(events), s.runID, s.node.StackID, len(s.events))
		}
	}
	detail := fmt.Sprintf("%d node(s) tell the same journal", len(s.org.Nodes))
	if len(s.silent) > 0 {
		detail += "; not asked, as it does not answer: " + strings.Join(s.silent, ", ")
	}
	return detail, nil
}

func (s *smoke) policy(ctx context.Context) (string, error) {
	c, err := s.as(node.DefaultTenantID, roleTenantUser)
	if err != nil {
		return "", err
	}
	result, err := c.CheckPolicy(ctx, "write to someone@example.com", "")
	if err != nil {
		return "", err
	}
	if result.Decision != "redacted" || len(result.Redactions) != 1 || result.Redactions[0].Type != "email" {
		return "", fmt.Errorf("an e-mail address in a text was %q with %d redactions", result.Decision, len(result.Redactions))
	}
	return "an e-mail address was redacted", nil
}

// moved waits until the run is counted; figures may lag behind by a moment.
func (s *smoke) moved(ctx context.Context) (string, error) {
	if s.runID == "" {
		return "", errors.New("there was no run to count")
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		now, err := s.figureOfAll(ctx)
		if err != nil {
			return "", err
		}
		if now > s.before {
			return fmt.Sprintf("%s went from %g to %g", runCounter, s.before, now), nil
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("%s stayed at %g for %v", runCounter, now, checkPatience)
		case <-tick.C:
		}
	}
}

// isolation asks for the run with the other tenant's key: the answer must be the one for a run that never was.
func (s *smoke) isolation(ctx context.Context) (string, error) {
	if s.runID == "" {
		return "", errors.New("there was no run to look for")
	}
	c, err := s.as(node.IsolationTenantID, roleTenantUser)
	if err != nil {
		return "", err
	}
	for _, suffix := range []string{"", "/events"} {
		theirs, err := absent(ctx, c, s.runID, suffix)
		if err != nil {
			return "", err
		}
		none, err := absent(ctx, c, "run_00000000000000000000000000", suffix)
		if err != nil {
			return "", err
		}
		if !bytes.Equal(theirs, none) {
			return "", fmt.Errorf("GET …%s: the answer tells another tenant's run from none: %s, %s", suffix, theirs, none)
		}
	}
	return "404, as for a run that never was", nil
}

// absent asks for a run that isn't there for the asker, and returns what was said, without what only names the request.
func absent(ctx context.Context, c *client.Client, runID, suffix string) ([]byte, error) {
	a, err := c.Do(ctx, client.Request{Method: http.MethodGet, Path: "/v1/runs/" + runID + suffix})
	switch {
	case fault.Is(err, fault.NotFound):
		return anonymous(a.Body, runID), nil
	case err != nil:
		return nil, err
	}
	return nil, fmt.Errorf("GET …%s of another tenant's run: %d", suffix, a.Status)
}

// anonymous takes out of an error body what differs between any two requests.
func anonymous(body []byte, runID string) []byte {
	var v map[string]any
	if json.Unmarshal(body, &v) != nil {
		return body
	}
	delete(v, "correlation_id")
	raw, err := json.Marshal(v)
	if err != nil {
		return body
	}
	return bytes.ReplaceAll(raw, []byte(runID), nil)
}

func (s *smoke) audit(ctx context.Context) (string, error) {
	if s.runID == "" {
		return "", errors.New("there was no run to look for")
	}
	c, err := s.as(node.DefaultTenantID, roleTenantAdmin)
	if err != nil {
		return "", err
	}
	for rec, err := range c.Audit(client.AuditFilter{From: time.Now().Add(-10 * time.Minute)}).All(ctx) {
		if err != nil {
			return "", err
		}
		if strings.Contains(rec.Resource, s.runID) {
			return rec.Action + " of " + s.runID + " is recorded", nil
		}
	}
	return "", fmt.Errorf("no audit record of the last ten minutes names %s", s.runID)
}
