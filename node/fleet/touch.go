package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/nexixai/agentos/api/client"
	"github.com/nexixai/agentos/node"
)

// acquainted is what a node knows of the others, as far as it is waited for.
type acquainted struct {
	Peers []struct {
		StackID      string `json:"stack_id"`
		Organization string `json:"organization"`
		PeeringID    string `json:"peering_id"`
		Reachable    bool   `json:"reachable"`
		Reason       string `json:"reason"`
		Capabilities *struct {
			Grants []client.Grant `json:"grants"`
		} `json:"capabilities"`
		Agreement *struct {
			Usable bool `json:"usable"`
		} `json:"agreement"`
	} `json:"peers"`
	Unreachable []struct {
		PeeringID string `json:"peering_id"`
		Address   string `json:"address"`
		Reason    string `json:"reason"`
	} `json:"unreachable"`
}

// lacks says what keeps the node from working with the other side of a peering, a grant too if there is to be one: nil when
// nothing does.
func (a *acquainted) lacks(peeringID string, granted bool) error {
	var why []string
	for _, p := range a.Peers {
		switch {
		case p.PeeringID != peeringID:
		case !p.Reachable:
			why = append(why, p.StackID+" is not reachable: "+p.Reason)
		case p.Agreement == nil || !p.Agreement.Usable:
			why = append(why, p.StackID+" is not usable: "+p.Reason)
		case granted && (p.Capabilities == nil || len(p.Capabilities.Grants) == 0):
			why = append(why, p.StackID+" has not told of a grant")
		default:
			return nil
		}
	}
	for _, u := range a.Unreachable {
		if u.PeeringID == peeringID {
			why = append(why, u.Address+": "+u.Reason)
		}
	}
	if len(why) == 0 {
		return errors.New("it has heard nothing of the other side")
	}
	return errors.New(strings.Join(why, "; "))
}

// touch waits until a node can work with the other side of a peering: it has reached a node there, they agree on what they
// can do together, and it knows what it is granted, if it is.
func (f *Fleet) touch(ctx context.Context, org planOrg, n planNode, peeringID string, granted bool) error {
	c, err := f.with(n, f.keyFile(org, node.DefaultTenantID, roleTenantUser))
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeoutCause(ctx, bootPatience, fmt.Errorf("not in touch after %v", bootPatience))
	defer cancel()
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for {
		last := touched(ctx, c, peeringID, granted)
		if last == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), last)
		case <-tick.C:
		}
	}
}

func touched(ctx context.Context, c *client.Client, peeringID string, granted bool) error {
	a, err := c.Do(ctx, client.Request{Method: http.MethodGet, Path: "/v1/federation/peers", Query: url.Values{"limit": {"500"}}})
	if err != nil {
		return err
	}
	var known acquainted
	if err := json.Unmarshal(a.Body, &known); err != nil {
		return err
	}
	return known.lacks(peeringID, granted)
}
