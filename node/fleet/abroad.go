package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/nexixai/agentos/api/client"
	"github.com/nexixai/agentos/node"
)

// abroadTests are tried for each organisation that the first is paired with, by the smoke of the first.
var abroadTests = []struct {
	name string
	do   func(*smoke, context.Context, planOrg) (string, error)
}{
	{"peering is active", (*smoke).peering},
	{"a run goes there and its events come back", (*smoke).abroad},
	{"both organisations tell the same journal", (*smoke).both},
}

// tryAbroad tries what another organisation does for the first. Later tests need what earlier ones have shown.
func (s *smoke) tryAbroad(ctx context.Context, t *trial, r *Report, other planOrg) {
	s.runID, s.events = "", nil
	var lacks string
	for _, org := range []planOrg{s.org, other} {
		if len(org.Nodes) == 0 {
			lacks = "no node of " + org.Organization + " answers"
			break
		}
	}
	for _, test := range abroadTests {
		if !t.try(ctx, &r.Smoke, s.org.Organization+" and "+other.Organization+": "+test.name, func(ctx context.Context) (string, error) {
			if lacks != "" {
				return "", errors.New("not tried: " + lacks)
			}
			return test.do(s, ctx, other)
		}) && lacks == "" {
			lacks = "the test before has failed"
		}
	}
}

// peering looks at the peering from both sides.
func (s *smoke) peering(ctx context.Context, other planOrg) (string, error) {
	ours, err := s.as(node.DefaultTenantID, rolePlatformAdmin)
	if err != nil {
		return "", err
	}
	theirs, err := s.at(other, rolePlatformAdmin)
	if err != nil {
		return "", err
	}
	here, err := livePeering(ctx, ours, other.TrustDomain)
	if err != nil {
		return "", fmt.Errorf("at %s: %w", s.org.Organization, err)
	}
	there, err := livePeering(ctx, theirs, s.org.TrustDomain)
	if err != nil {
		return "", fmt.Errorf("at %s: %w", other.Organization, err)
	}
	if here.Fingerprints.Theirs != there.Fingerprints.Ours || here.Fingerprints.Ours != there.Fingerprints.Theirs {
		return "", fmt.Errorf("%s: the two organisations do not hold the same fingerprints", here.ID)
	}
	return here.ID + " is active at both, by the same fingerprints", nil
}

// livePeering is the peering with a trust domain that is in force, or why there is none.
func livePeering(ctx context.Context, c *client.Client, trustDomain string) (*client.Peering, error) {
	all, err := peeringsWith(ctx, c, trustDomain)
	if err != nil {
		return nil, err
	}
	var ended *client.Peering
	for _, p := range all {
		if p.State == peeringActive {
			return &p, nil
		}
		if ended == nil || p.CreatedAt.After(ended.CreatedAt) {
			ended = &p
		}
	}
	switch {
	case ended == nil:
		return nil, fmt.Errorf("there is no peering with %s", trustDomain)
	case ended.State == peeringSuspended:
		return nil, fmt.Errorf("%s is suspended; agentos peering resume %s", ended.ID, ended.ID)
	}
	return nil, fmt.Errorf("%s is %s; agentos peering invite pairs anew", ended.ID, ended.State)
}

// abroad has the first organisation send a run to the other, and follows it here to the end.
func (s *smoke) abroad(ctx context.Context, other planOrg) (string, error) {
	c, err := s.as(node.DefaultTenantID, roleTenantUser)
	if err != nil {
		return "", err
	}
	if s.runID, err = s.send(ctx, c, other); err != nil {
		return "", err
	}
	if s.events, err = journal(ctx, c, s.runID); err != nil {
		return "", fmt.Errorf("events of %s: %w", s.runID, err)
	}
	if _, err := s.stream(ctx); err != nil {
		return "", err
	}
	if last := s.events[len(s.events)-1]; last.Type != client.RunCompleted {
		return "", fmt.Errorf("run %s ended with %s %s", s.runID, last.Type, last.Payload)
	}
	run, err := c.GetRun(ctx, s.runID)
	if err != nil {
		return "", err
	}
	if run.Placement.Organization != other.Organization {
		return "", fmt.Errorf("run %s was worked on by %s, of %s", s.runID, run.Placement.StackID, run.Placement.Organization)
	}
	return fmt.Sprintf("%s completed at %s, %d events came back", s.runID, run.Placement.StackID, len(s.events)), nil
}

// send makes a run that goes to the other organisation: by the tenant's route, if there is one, or else by naming it.
func (s *smoke) send(ctx context.Context, c *client.Client, other planOrg) (runID string, err error) {
	if other.Organization == summarizerOrg {
		run, err := probe(ctx, c, summarizerID, "agentos validate")
		if err != nil {
			return "", err
		}
		return run.ID, nil
	}
	a, err := c.Do(ctx, client.Request{Method: http.MethodPost, Path: "/v1/federation/runs:forward", Body: map[string]any{"forward": map[string]any{
		"target_selector": map[string]any{"organization": other.Organization},
		"run_request": map[string]any{
			"agent_id": node.SampleAgentID, "input": map[string]any{"type": "text", "text": "agentos validate"},
			"context":     map[string]any{"labels": map[string]string{probeLabel: time.Now().UTC().Format(probeStamp)}},
			"run_options": map[string]any{"timeout_ms": probePatience.Milliseconds()},
		},
	}}})
	if err != nil {
		return "", err
	}
	var body struct {
		Forwarded struct {
			RunID string `json:"run_id"`
		} `json:"forwarded"`
	}
	if err := json.Unmarshal(a.Body, &body); err != nil {
		return "", err
	}
	return body.Forwarded.RunID, nil
}

// both asks the other organisation for the run: it must tell the same events.
func (s *smoke) both(ctx context.Context, other planOrg) (string, error) {
	c, err := s.at(other, roleTenantUser)
	if err != nil {
		return "", err
	}
	theirs, err := journal(ctx, c, s.runID)
	if err != nil {
		return "", fmt.Errorf("events of %s at %s: %w", s.runID, other.Organization, err)
	}
	if len(theirs) != len(s.events) {
		return "", fmt.Errorf("%s tells %d events of %s, and %s tells %d", other.Organization, len(theirs), s.runID, s.org.Organization, len(s.events))
	}
	for i, e := range theirs {
		if e.ID != s.events[i].ID || e.Sequence != s.events[i].Sequence {
			return "", fmt.Errorf("event %d of %s is %s at %s and %s at %s", i+1, s.runID, e.ID, other.Organization, s.events[i].ID, s.org.Organization)
		}
	}
	return fmt.Sprintf("%d events, with the same ids", len(theirs)), nil
}

// at is a client of the first of another organisation's nodes that answer, with the key of a role in its default tenant.
func (s *smoke) at(org planOrg, role string) (*client.Client, error) {
	c, err := s.f.with(org.Nodes[0], s.f.keyFile(org, node.DefaultTenantID, role))
	if err == nil {
		s.opened = append(s.opened, c)
	}
	return c, err
}
