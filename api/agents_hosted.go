package api

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"github.com/nexixai/agentos/agent"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/peer/placement"
	"github.com/nexixai/agentos/storage"
)

// listedAgent is an agent of this cluster, or one at others that runs can be routed to, which is read-only here.
type listedAgent struct {
	own    *agent.Agent
	hosted *hostedAgent
}

func (a listedAgent) id() string {
	if a.own != nil {
		return a.own.ID
	}
	return a.hosted.ID
}

// MarshalJSON implements json.Marshaler.
func (a listedAgent) MarshalJSON() ([]byte, error) {
	if a.own != nil {
		return json.Marshal(a.own)
	}
	return json.Marshal(a.hosted)
}

// hostedAgent is what is known of an agent that isn't here.
type hostedAgent struct {
	ID       string           `json:"agent_id"`
	TenantID string           `json:"tenant_id"`
	Name     string           `json:"name"`
	Version  string           `json:"version"`
	Status   string           `json:"status"`
	HostedBy []placement.Host `json:"hosted_by"`
}

func (c *call) hostedAgent(h *placement.Hosted) *hostedAgent {
	return &hostedAgent{ID: h.AgentID, TenantID: c.auth.TenantID, Name: h.AgentID, Version: h.Version, Status: agent.Active, HostedBy: h.By}
}

// getAgent answers with an agent of this cluster, else with what is known of one that runs can be routed to.
func (c *call) getAgent() error {
	err := getOne(c, "agent", "agent_id", c.s.o.Catalog.GetAgent)
	if !fault.Is(err, fault.NotFound) {
		return err
	}
	hosted, failed := c.s.o.Placement.Hosted(c.ctx(), c.auth)
	if failed != nil {
		return failed
	}
	name := c.param("agent_id")
	i, found := slices.BinarySearchFunc(hosted, name, func(h placement.Hosted, id string) int { return strings.Compare(h.AgentID, id) })
	if !found {
		return err
	}
	return c.reply(http.StatusOK, member{"agent", c.hostedAgent(&hosted[i])})
}

// listAgents lists the agents of this cluster, and among them those that runs can be routed to.
func (c *call) listAgents() error {
	hosted, err := c.s.o.Placement.Hosted(c.ctx(), c.auth)
	if err != nil {
		return err
	}
	if len(hosted) == 0 {
		return listSome(c, "agents", c.s.o.Catalog.ListAgents)
	}
	return listSome(c, "agents", func(ctx context.Context, r storage.Read, tenantID, cursor string, limit int) ([]listedAgent, string, uint64, error) {
		after := ""
		if cursor != "" {
			if after, err = agent.Position(cursor, tenantID, "agents", ""); err != nil {
				return nil, "", 0, err
			}
		}
		own, next, index, err := c.s.o.Catalog.ListAgents(ctx, r, tenantID, cursor, limit)
		if err != nil {
			return nil, "", index, err
		}
		page := make([]listedAgent, 0, len(own)+len(hosted))
		for i := range own {
			page = append(page, listedAgent{own: &own[i]})
		}
		for i := range hosted {
			name := hosted[i].AgentID
			within := name > after && (next == "" || name < own[len(own)-1].ID) // what comes later is for the next page
			if within && !slices.ContainsFunc(own, func(a agent.Agent) bool { return a.ID == name }) {
				page = append(page, listedAgent{hosted: c.hostedAgent(&hosted[i])})
			}
		}
		slices.SortFunc(page, func(a, b listedAgent) int { return strings.Compare(a.id(), b.id()) })
		if len(page) > limit {
			page = page[:limit]
			next = agent.Cursor(tenantID, "agents", "", page[limit-1].id())
		}
		return page, next, index, nil
	})
}
