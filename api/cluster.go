package api

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/peer/cluster"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/storage/replica"
	"github.com/nexixai/agentos/tenancy"
)

// Cluster is who belongs to this node's cluster.
type Cluster interface {
	Describe(ctx context.Context) *cluster.Description
	CreateToken(ctx context.Context, by tenancy.Actor, ttl time.Duration, uses int) (*cluster.Token, bool, uint64, error)
	Transfer(ctx context.Context, by tenancy.Actor, to string) (bool, uint64, error)
	SetState(ctx context.Context, by tenancy.Actor, stackID string, state registry.MemberState) (*registry.Member, bool, uint64, error)
	RotateGossip(ctx context.Context, by tenancy.Actor) error
	Backup(ctx context.Context, by tenancy.Actor) (*replica.Backup, error)
	// Allow and Join answer a stranger at the cluster's door.
	Allow(source string) error
	Join(ctx context.Context, source, correlationID string, body []byte) (*cluster.JoinAnswer, error)
}

var _ Cluster = (*cluster.Membership)(nil)

// getCluster tells how the members are. It works without a leader.
func (c *call) getCluster() error {
	if _, err := c.read(); err != nil {
		return err
	}
	return c.cluster()
}

func (c *call) cluster() error {
	return c.reply(http.StatusOK, member{"cluster", c.s.o.Cluster.Describe(c.ctx())})
}

// createJoinToken makes a token that lets nodes in; it is shown once.
func (c *call) createJoinToken() error {
	var in struct {
		TTLSeconds int64 `json:"ttl_seconds"`
		Uses       int   `json:"uses"`
	}
	if c.r.ContentLength != 0 {
		if err := c.body(&in); err != nil {
			return err
		}
	}
	if in.TTLSeconds < 0 || in.TTLSeconds > int64(365*24*time.Hour/time.Second) {
		return fault.Invalid("ttl_seconds", "ttl_seconds is a number of seconds, at most 30 days of them.")
	}
	if in.Uses < 0 {
		return fault.Invalid("uses", "A join token serves 1 to 1000 nodes.")
	}
	tok, replayed, index, err := c.s.o.Cluster.CreateToken(c.ctx(), c.actor(), time.Duration(in.TTLSeconds)*time.Second, in.Uses)
	if err != nil {
		return err
	}
	c.index = index
	return c.reply(c.posted(replayed), member{"join_token", tok})
}

// transferLeader asks the leader to hand the office on.
func (c *call) transferLeader() error {
	var in struct {
		StackID string `json:"stack_id"`
	}
	if c.r.ContentLength != 0 {
		if err := c.body(&in); err != nil {
			return err
		}
	}
	if in.StackID != "" && !id.Valid(in.StackID) {
		return fault.Invalid("stack_id", "stack_id is 1 to %d of [A-Za-z0-9._-].", id.MaxLen)
	}
	replayed, index, err := c.s.o.Cluster.Transfer(c.ctx(), c.actor(), in.StackID)
	if err != nil {
		return err
	}
	if c.index = index; replayed {
		c.posted(true)
	}
	return c.cluster()
}

// rotateGossip gives the members' gossip a new key.
func (c *call) rotateGossip() error {
	if err := c.s.o.Cluster.RotateGossip(c.ctx(), c.actor()); err != nil {
		return err
	}
	return c.cluster()
}

// backup streams a copy of the store. An answer that ends early has fewer bytes than its Content-Length says.
func (c *call) backup() error {
	b, err := c.s.o.Cluster.Backup(c.ctx(), c.actor())
	if err != nil {
		return err
	}
	defer b.Close()
	c.index = b.Index
	c.outHeaders()
	h := c.w.Header()
	h.Set("Content-Type", "application/x-tar")
	h.Set("Content-Length", strconv.FormatInt(b.Size, 10))
	c.wrote, c.status = true, http.StatusOK
	c.w.WriteHeader(http.StatusOK)
	_, err = io.Copy(c.w, b)
	return err
}

// setMember returns a handler that puts a member into state.
func setMember(state registry.MemberState) func(*call) error {
	return func(c *call) error {
		stackID, err := c.ident("stack_id")
		if err != nil {
			return err
		}
		m, replayed, index, err := c.s.o.Cluster.SetState(c.ctx(), c.actor(), stackID, state)
		if err != nil {
			return err
		}
		if c.index = index; replayed {
			c.posted(true)
		}
		if state == registry.Removed {
			return c.noContent()
		}
		return c.reply(http.StatusOK, member{"member", m})
	}
}

// joinTable is what the cluster's door serves to a node that is no member yet.
func (s *Server) joinTable() []Route {
	return []Route{{Method: "POST", Template: cluster.JoinPath, Open: true, MaxBody: cluster.MaxJoinBody, serve: (*call).joinCluster}}
}

// JoinRoutes lists what the cluster's door serves, as data.
func (s *Server) JoinRoutes() []Route { return s.joinTable() }

// JoinHandler serves the joining of new nodes, which asks for no certificate.
func (s *Server) JoinHandler() http.Handler { return s.handler(s.joining) }

// joinCluster answers a node that asks to become a member.
func (c *call) joinCluster() error {
	source := c.source().IP
	if err := c.s.o.Cluster.Allow(source); err != nil {
		return err
	}
	body, err := c.rawBody()
	if err != nil {
		return err
	}
	a, err := c.s.o.Cluster.Join(c.ctx(), source, c.correlationID, body)
	if err != nil {
		return err
	}
	members := []member{
		{"certificate", a.Certificate},
		{"ca_bundle", a.CABundle},
		{"cluster_id", a.ClusterID},
		{"organization", a.Organization},
		{"trust_domain", a.TrustDomain},
		{"gossip_keys", a.GossipKeys},
		{"servers", a.Servers},
		{"gossip_seeds", a.GossipSeeds},
	}
	if a.SealKey != nil {
		members = append(members, member{"seal_key", a.SealKey})
	}
	return c.reply(http.StatusOK, members...)
}
