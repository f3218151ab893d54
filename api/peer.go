package api

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/model"
	"github.com/nexixai/agentos/negotiation"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
)

// Contract is the span of wire contracts that this node speaks.
func Contract() negotiation.Range {
	return negotiation.Range{Min: negotiation.Version{Major: 1, Minor: 2}, Max: negotiation.Version{Major: 1, Minor: 2}}
}

// APIVersions are those that this node serves.
func APIVersions() []string { return []string{"v1"} }

// Limits are what this node bounds, as it tells others.
func (a *About) Limits() map[string]int64 {
	return map[string]int64{"max_concurrent_runs": int64(a.MaxConcurrentRuns), "max_event_streams": maxStreams, "max_request_bytes": modelBody}
}

// Info says who this node is.
func (a *About) Info() registry.Info {
	return registry.Info{
		StackID: a.StackID, Environment: a.Mode, Region: a.Region, APIVersions: APIVersions(),
		Endpoints:    registry.Endpoints{StackA: a.APIURL, StackB: a.APIURL + StackBPrefix, Federation: a.FederationURL},
		Build:        registry.BuildInfo{Version: a.Version, GitSHA: a.Commit, Timestamp: a.BuiltAt},
		Organization: a.Organization, TrustDomain: a.TrustDomain, ClusterID: a.ClusterID, StoreEpoch: a.StoreEpoch,
	}
}

// peerInfo says who this node is, to whom it may be told.
func (c *call) peerInfo() error {
	if _, err := c.read(); err != nil {
		return err
	}
	if c.peer != nil && c.s.o.Federation.Called != nil {
		c.s.o.Federation.Called(c.peer.peering.ID)
	}
	info := c.s.o.About.Info()
	tag, err := digest(info)
	if err != nil {
		return err
	}
	return c.replyTagged(tag, member{"peer", info})
}

// maxOffered bounds the agents and tools that capabilities name.
const maxOffered = 500

// peerCapabilities says what this node can do. It names only what the caller may use.
func (c *call) peerCapabilities() error {
	read, err := c.read()
	if err != nil {
		return err
	}
	a := &c.s.o.About
	offer := registry.Capabilities{Supports: a.Capabilities, Contract: Contract(), Limits: a.Limits()}
	if c.peer != nil {
		err = c.offerPeer(read, &offer)
	} else {
		err = c.offerTenant(read, &offer)
	}
	if err != nil {
		return err
	}
	if offer.Digest, err = digest(offer); err != nil {
		return err
	}
	return c.replyTagged(offer.Digest, member{"capabilities", offer})
}

// digest names what v says.
func digest(v any) (string, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("api: encode capabilities: %w", err)
	}
	sum := sha256.Sum256(raw)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}

// replyTagged answers with what tag names, unless the caller says that it has it (RFC 9110, section 13.1.2).
func (c *call) replyTagged(tag string, m member) error {
	h := c.w.Header()
	h.Set("ETag", `"`+tag+`"`)
	if c.peer != nil && c.s.o.Federation.Load != nil { // it's another at each look, so it's no part of what is tagged
		ready, free := c.s.o.Federation.Load()
		h.Set("X-AgentOS-Ready", strconv.FormatBool(ready))
		h.Set("X-AgentOS-Free-Slots", strconv.Itoa(free))
	}
	for _, line := range c.r.Header.Values("If-None-Match") {
		for one := range strings.SplitSeq(line, ",") {
			if one = strings.TrimPrefix(strings.TrimSpace(one), "W/"); one == `"`+tag+`"` || one == "*" {
				c.outHeaders()
				c.wrote, c.status = true, http.StatusNotModified
				c.w.WriteHeader(http.StatusNotModified)
				return nil
			}
		}
	}
	return c.reply(http.StatusOK, m)
}

// offerTenant adds what the caller's tenant may use.
func (c *call) offerTenant(read storage.Read, offer *registry.Capabilities) error {
	infos, err := c.models(read)
	if err != nil {
		return err
	}
	offer.Models = offered(infos)
	if !c.auth.Has(tenancy.AgentsRead) {
		return nil
	}
	return c.offerAgents(read, c.auth.TenantID, nil, offer)
}

// offerPeer adds what the caller's organisation may use: what its grants say, and in their tenants what they let it run.
func (c *call) offerPeer(read storage.Read, offer *registry.Capabilities) error {
	var infos []model.Info
	offer.Grants = c.peer.peering.Exports
	if offer.Grants == nil {
		offer.Grants = []registry.Grant{}
	}
	for i := range offer.Grants {
		g := &offer.Grants[i]
		t, err := c.s.o.Tenants.Tenant(c.ctx(), g.LocalTenantID)
		if fault.Is(err, fault.NotFound) || err == nil && t.Status != tenancy.Active {
			continue
		}
		if err != nil {
			return err
		}
		if !slices.Contains(g.Scopes, tenancy.RunsForward) && !slices.Contains(g.Scopes, tenancy.AgentsRead) {
			continue
		}
		more, err := c.s.o.Models.Models(c.ctx(), t)
		if err != nil {
			return err
		}
		infos = append(infos, more...)
		if err := c.offerAgents(read, g.LocalTenantID, g, offer); err != nil {
			return err
		}
	}
	offer.Models = offered(infos)
	slices.SortFunc(offer.Agents, func(a, b registry.AgentOffered) int {
		return cmp.Or(strings.Compare(a.ID, b.ID), strings.Compare(a.Version, b.Version))
	})
	offer.Agents = slices.Compact(offer.Agents)
	slices.SortFunc(offer.Tools, func(a, b registry.ToolOffered) int { return strings.Compare(a.ID, b.ID) })
	offer.Tools = slices.Compact(offer.Tools)
	offer.Agents, offer.Tools = offer.Agents[:min(len(offer.Agents), maxOffered)], offer.Tools[:min(len(offer.Tools), maxOffered)]
	if c.s.o.Federation.Members != nil {
		offer.Members = slices.Sorted(slices.Values(c.s.o.Federation.Members())) // every node says the same
	}
	return nil
}

// offered sums up what models there are.
func offered(infos []model.Info) registry.ModelsOffered {
	o := registry.ModelsOffered{Tiers: []string{}, Backends: []string{}}
	for i := range infos {
		o.Tiers = append(o.Tiers, infos[i].Tiers...)
		o.Backends = append(o.Backends, infos[i].Backend)
		o.MaxContextTokens = max(o.MaxContextTokens, infos[i].ContextWindowTokens)
	}
	slices.Sort(o.Tiers)
	slices.Sort(o.Backends)
	o.Tiers, o.Backends = slices.Compact(o.Tiers), slices.Compact(o.Backends)
	return o
}

// offerAgents adds a tenant's agents and tools; with a grant, the agents that it allows.
func (c *call) offerAgents(read storage.Read, tenantID string, by *registry.Grant, offer *registry.Capabilities) error {
	agents, _, index, err := c.s.o.Catalog.ListAgents(c.ctx(), read, tenantID, "", maxOffered)
	if err != nil {
		return err
	}
	for i := range agents {
		if by == nil || by.Allows(agents[i].ID) {
			offer.Agents = append(offer.Agents, registry.AgentOffered{ID: agents[i].ID, Version: agents[i].Version})
		}
	}
	tools, _, _, err := c.s.o.Catalog.ListTools(c.ctx(), read, tenantID, "", maxOffered)
	for i := range tools {
		offer.Tools = append(offer.Tools, registry.ToolOffered{ID: tools[i].ID})
	}
	c.index = index
	return err
}
