package api

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"

	"github.com/nexixai/agentos/model"
	"github.com/nexixai/agentos/negotiation"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
)

// contract is the span of wire contracts that this node speaks.
var contract = negotiation.Range{Min: negotiation.Version{Major: 1, Minor: 2}, Max: negotiation.Version{Major: 1, Minor: 2}}

// peerInfo says who this node is, to whom it may be told.
func (c *call) peerInfo() error {
	a := c.s.o.About
	return c.reply(http.StatusOK, member{"peer", map[string]any{
		"stack_id": a.StackID, "environment": a.Mode, "region": a.Region, "api_versions": []string{"v1"},
		"endpoints":    map[string]string{"stack_a_base_url": a.APIURL, "stack_b_base_url": a.APIURL + StackBPrefix, "federation_base_url": a.FederationURL},
		"build":        map[string]string{"version": a.Version, "git_sha": a.Commit, "timestamp": a.BuiltAt},
		"organization": a.Organization, "trust_domain": a.TrustDomain, "cluster_id": a.ClusterID, "store_epoch": a.StoreEpoch,
	}})
}

// capabilities is what this node can do for who asks.
type capabilities struct {
	Supports map[string]bool   `json:"supports"`
	Limits   map[string]int64  `json:"limits"`
	Models   modelsOffered     `json:"models"`
	Agents   []agentOffered    `json:"agents,omitempty"`
	Tools    []toolOffered     `json:"tools,omitempty"`
	Contract negotiation.Range `json:"contract"`
	// Digest is of all the rest: who has seen the same digest has seen the same capabilities.
	Digest string `json:"digest,omitempty"`
}

type modelsOffered struct {
	Tiers            []string `json:"tiers"`
	Backends         []string `json:"backends"`
	MaxContextTokens int64    `json:"max_context_tokens"`
}

type agentOffered struct {
	ID      string `json:"agent_id"`
	Version string `json:"version"`
}

type toolOffered struct {
	ID string `json:"tool_id"`
}

// maxOffered bounds the agents and tools that capabilities name.
const maxOffered = 500

// peerCapabilities says what this node can do. It names only what the caller may use.
func (c *call) peerCapabilities() error {
	read, err := c.read()
	if err != nil {
		return err
	}
	infos, err := c.models()
	if err != nil {
		return err
	}
	offer := capabilities{
		Supports: c.s.o.About.Capabilities, Contract: contract, Models: offered(infos),
		Limits: map[string]int64{"max_concurrent_runs": int64(c.s.o.About.MaxConcurrentRuns), "max_event_streams": maxStreams, "max_request_bytes": modelBody},
	}
	if c.auth.Has(tenancy.AgentsRead) {
		if err := c.offerAgents(read, &offer); err != nil {
			return err
		}
	}
	raw, err := json.Marshal(offer)
	if err != nil {
		return fmt.Errorf("api: encode capabilities: %w", err)
	}
	sum := sha256.Sum256(raw)
	offer.Digest = "sha256:" + hex.EncodeToString(sum[:])
	return c.reply(http.StatusOK, member{"capabilities", offer})
}

// offered sums up what models there are.
func offered(infos []model.Info) modelsOffered {
	o := modelsOffered{Tiers: []string{}, Backends: []string{}}
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

func (c *call) offerAgents(read storage.Read, offer *capabilities) error {
	agents, _, index, err := c.s.o.Catalog.ListAgents(c.ctx(), read, c.auth.TenantID, "", maxOffered)
	if err != nil {
		return err
	}
	for i := range agents {
		offer.Agents = append(offer.Agents, agentOffered{ID: agents[i].ID, Version: agents[i].Version})
	}
	tools, _, _, err := c.s.o.Catalog.ListTools(c.ctx(), read, c.auth.TenantID, "", maxOffered)
	for i := range tools {
		offer.Tools = append(offer.Tools, toolOffered{ID: tools[i].ID})
	}
	c.index = index
	return err
}
