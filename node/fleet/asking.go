package fleet

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/nexixai/agentos/agent"
	"github.com/nexixai/agentos/api/client"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/tenancy"
)

// with returns a client of a node's API with the key in a file.
func (f *Fleet) with(n planNode, keyFile string) (*client.Client, error) {
	key, err := readKey(keyFile)
	if err != nil {
		return nil, err
	}
	return client.New(client.Options{BaseURL: n.apiURL(), Key: key, UserAgent: "agentos", Retries: 1, Timeout: 10 * time.Second})
}

// once returns a client that asks for what is open to everybody, briefly and one time, and tells what it meets.
func (f *Fleet) once(base string) (*client.Client, error) {
	return client.New(client.Options{BaseURL: base, UserAgent: "agentos", Retries: -1, Timeout: 5 * time.Second})
}

// leaderOf names who leads the node's cluster.
func leaderOf(ctx context.Context, c *client.Client) (string, error) {
	cluster, err := c.Cluster(ctx)
	switch {
	case err != nil:
		return "", err
	case cluster.Leader == nil:
		return "none", nil
	}
	return *cluster.Leader, nil
}

func ensureTenant(ctx context.Context, c *client.Client, t tenancy.TenantCreate) (made bool, err error) {
	if _, err = c.GetTenant(ctx, t.ID); !fault.Is(err, fault.NotFound) {
		return false, err
	}
	_, err = c.Do(ctx, client.Request{Method: "POST", Path: "/v1/admin/tenants", Body: map[string]any{"tenant_create": t}})
	return true, err
}

func ensureAgent(ctx context.Context, c *client.Client, a agent.Agent) (made bool, err error) {
	if _, err = c.GetAgent(ctx, a.ID); !fault.Is(err, fault.NotFound) {
		return false, err
	}
	_, err = c.PutAgent(ctx, a.ID, client.Agent{
		Name: a.Name, Description: a.Description, Version: a.Version, Status: a.Status, ModelRef: a.ModelRef, Instructions: a.Instructions, ToolIDs: a.ToolIDs,
	})
	return true, err
}

func issueKey(ctx context.Context, c *client.Client, tenantID, principal, role string) (secret string, err error) {
	k, err := c.IssueKey(ctx, tenantID, client.KeyCreate{PrincipalID: principal, PrincipalType: "user", Roles: []string{role}})
	switch {
	case err != nil:
		return "", err
	case k.Secret == "":
		return "", errors.New("the node issued a key without its secret")
	}
	return k.Secret, nil
}

// What marks the runs that validate makes, and how long they may take.
const (
	probeLabel    = "agentos.validate"
	probeStamp    = "20060102T150405Z"
	probePatience = 30 * time.Second
)

// probe creates a run that is marked as one of validate's. A tenant that is busy with its own runs is no fault of the
// deployment: then it waits for its turn.
func probe(ctx context.Context, c *client.Client, agentID, text string) (*client.Run, error) {
	wanted := client.RunCreate{
		Input:   client.Text{Text: text},
		Context: &client.RunContext{Labels: map[string]string{probeLabel: time.Now().UTC().Format(probeStamp)}},
		Options: &client.RunOptions{TimeoutMS: probePatience.Milliseconds()},
	}
	for {
		r, err := c.CreateRun(ctx, agentID, wanted)
		if !fault.Is(err, fault.RateLimited) {
			return r, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(max(fault.Of(err).RetryAfter, 100*time.Millisecond)):
		}
	}
}

// journal reads a run's stored events to the final one.
func journal(ctx context.Context, c *client.Client, runID string) ([]client.Event, error) {
	var events []client.Event
	for f, err := range c.Follow(ctx, runID, 0) {
		switch {
		case err != nil:
			return events, err
		case f.Gap != nil:
			return events, errors.New("the journal of a run that was just made has a gap")
		case !f.Delta():
			events = append(events, *f.Event)
		}
	}
	return events, nil
}

// unfinished lists the runs that have not ended.
func unfinished(ctx context.Context, c *client.Client) ([]string, error) {
	var ids []string
	for _, status := range []string{"queued", "running"} {
		for r, err := range c.Runs(client.RunFilter{Status: status}).All(ctx) {
			if err != nil {
				return nil, err
			}
			ids = append(ids, r.ID)
		}
	}
	return ids, nil
}

// placesOf names where a route leads.
func placesOf(r client.Route) []string {
	names := []string{}
	for _, t := range r.Targets {
		if t.Local {
			t.Organization = "this cluster"
		}
		names = append(names, cmp.Or(t.StackID, t.Organization))
	}
	return names
}
