package api

import (
	"context"
	"net/http"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/peer/pairing"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
)

// Peerings are the relations to other organisations.
type Peerings interface {
	Invite(ctx context.Context, by tenancy.Actor, w pairing.Wish) (*pairing.Invited, bool, uint64, error)
	Accept(ctx context.Context, by tenancy.Actor, token, fingerprint string) (*registry.Peering, bool, uint64, error)
	Get(ctx context.Context, r storage.Read, peeringID string) (*registry.Peering, uint64, error)
	List(ctx context.Context, r storage.Read, after string, limit int) ([]registry.Peering, string, uint64, error)
	SetExports(ctx context.Context, by tenancy.Actor, peeringID string, exports []registry.Grant) (*registry.Peering, uint64, error)
	SetState(ctx context.Context, by tenancy.Actor, peeringID string, state registry.PeeringState) (*registry.Peering, bool, uint64, error)
	// Allow and Join answer a stranger at the federation door. They audit what they refuse.
	Allow(source string) error
	Join(ctx context.Context, source, correlationID string, body []byte) (*pairing.JoinAnswer, error)
}

var _ Peerings = (*pairing.Service)(nil)

// peeringCreate is what POST /v1/federation/peerings takes, bare or under "peering". With a token it accepts an invitation,
// without one it makes one.
type peeringCreate struct {
	Token             string `json:"token"`
	ExpectFingerprint string `json:"expect_fingerprint"`
	PeeringID         string `json:"peering_id"`
	TTLSeconds        int64  `json:"ttl_seconds"`
}

// createPeering invites another organisation, or accepts its invitation.
func (c *call) createPeering() error {
	var body struct {
		peeringCreate
		Peering *peeringCreate `json:"peering"`
	}
	if c.r.ContentLength != 0 {
		if err := c.body(&body); err != nil {
			return err
		}
	}
	if body.Peering != nil {
		if body.peeringCreate != (peeringCreate{}) {
			return fault.Invalid("peering", "The body has its members under peering or beside it, not both.")
		}
		return within("peering", c.pair(body.Peering))
	}
	return c.pair(&body.peeringCreate)
}

// pair makes an invitation, or accepts one.
func (c *call) pair(in *peeringCreate) error {
	switch {
	case in.Token != "" && (in.PeeringID != "" || in.TTLSeconds != 0):
		return fault.Invalid("token", "peering_id and ttl_seconds are the inviter's to say; leave them out beside a token.")
	case in.Token == "" && in.ExpectFingerprint != "":
		return fault.Invalid("expect_fingerprint", "A fingerprint is expected of an invitation; send its token.")
	case in.Token != "":
		return c.acceptPeering(in)
	}
	if in.TTLSeconds < 0 || in.TTLSeconds > int64(365*24*time.Hour/time.Second) {
		return fault.Invalid("ttl_seconds", "ttl_seconds is a number of seconds, at most 30 days of them.")
	}
	if in.PeeringID != "" && !id.Valid(in.PeeringID) {
		return fault.Invalid("peering_id", "peering_id is 1 to %d of [A-Za-z0-9._-].", id.MaxLen)
	}
	made, replayed, index, err := c.s.o.Peerings.Invite(c.ctx(), c.actor(), pairing.Wish{PeeringID: in.PeeringID, TTL: time.Duration(in.TTLSeconds) * time.Second})
	if err != nil {
		return err
	}
	c.index = index
	members := []member{{"peering", made.Peering}, {"expires_at", made.ExpiresAt}}
	if made.Token != "" {
		members = append(members, member{"token", made.Token})
	}
	return c.reply(c.posted(replayed), members...)
}

func (c *call) acceptPeering(in *peeringCreate) error {
	p, replayed, index, err := c.s.o.Peerings.Accept(c.ctx(), c.actor(), in.Token, in.ExpectFingerprint)
	if err != nil {
		c.noted = true
		return err
	}
	c.index = index
	return c.reply(c.posted(replayed), member{"peering", p})
}

func (c *call) listPeerings() error {
	return listSome(c, "peerings", func(ctx context.Context, r storage.Read, _, cursor string, limit int) ([]registry.Peering, string, uint64, error) {
		after, err := placeOf(cursor, "", "peerings")
		if err != nil {
			return nil, "", 0, err
		}
		page, next, index, err := c.s.o.Peerings.List(ctx, r, after, limit)
		return page, cursorAt(next, "", "peerings"), index, err
	})
}

func (c *call) getPeering() error {
	peeringID, err := c.ident("peering_id")
	if err != nil {
		return err
	}
	read, err := c.read()
	if err != nil {
		return err
	}
	p, index, err := c.s.o.Peerings.Get(c.ctx(), read, peeringID)
	if err != nil {
		return err
	}
	c.index = index
	return c.reply(http.StatusOK, member{"peering", p})
}

// putExports replaces what another organisation may do here.
func (c *call) putExports() error {
	peeringID, err := c.ident("peering_id")
	if err != nil {
		return err
	}
	var body struct {
		Exports []registry.Grant `json:"exports"`
	}
	if err := c.body(&body); err != nil {
		return err
	}
	if body.Exports == nil { // taken for none, a slip would end what the other side does; for no limit, it would open the house
		return fault.Invalid("exports", "The body is {\"exports\": [grant, …]}; an empty list grants nothing.")
	}
	p, index, err := c.s.o.Peerings.SetExports(c.ctx(), c.actor(), peeringID, body.Exports)
	if err != nil {
		return err
	}
	c.index = index
	return c.reply(http.StatusOK, member{"exports", p.Exports}, member{"peering", p})
}

// setPeering returns a handler that puts a peering into state.
func setPeering(state registry.PeeringState) func(*call) error {
	return func(c *call) error {
		peeringID, err := c.ident("peering_id")
		if err != nil {
			return err
		}
		p, replayed, index, err := c.s.o.Peerings.SetState(c.ctx(), c.actor(), peeringID, state)
		if err != nil {
			return err
		}
		if c.index = index; replayed {
			c.posted(true)
		}
		if state == registry.PeeringRevoked {
			return c.noContent()
		}
		return c.reply(http.StatusOK, member{"peering", p})
	}
}

// joinPeering answers another cluster that has been invited. It stands at the federation door, and asks for no certificate.
func (c *call) joinPeering() error {
	c.noted = true // the room knows why, and writes that down
	source := c.source().IP
	if err := c.s.o.Peerings.Allow(source); err != nil {
		c.noted = false
		return err
	}
	body, err := c.rawBody()
	if err != nil {
		return err
	}
	answer, err := c.s.o.Peerings.Join(c.ctx(), source, c.correlationID, body)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, member{"peering", answer})
}
