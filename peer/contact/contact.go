package contact

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/internal/strictjson"
	"github.com/nexixai/agentos/negotiation"
	"github.com/nexixai/agentos/peer/link"
	"github.com/nexixai/agentos/peer/registry"
)

const (
	// exchangeTimeout bounds one exchange with a door.
	exchangeTimeout = 5 * time.Second
	// firstWait leaves the other side of a new peering the moment that it needs to write it down, too.
	firstWait = 200 * time.Millisecond
	// longestWait is the longest time between two tries at a door that doesn't answer.
	longestWait = 30 * time.Second
	maxAnswer   = registry.MaxHeard
)

// contact asks at one door, for as long as its ctx lasts.
type contact struct {
	b       *Book
	at      door
	cancel  context.CancelFunc
	soon    chan struct{} // capacity 1: try again now
	peering atomic.Pointer[registry.Peering]
	live    atomic.Pointer[live]

	// What follows belongs to keep.
	stackID          string // the node that has answered; "" takes any
	infoTag, capsTag string
	info             registry.Info
	caps             registry.Capabilities
	failures         int
}

// live is how a door was at the last try.
type live struct {
	stackID               string
	at                    time.Time
	reachable, ready      bool
	free                  int
	reason                string
	lastExchange, nextTry *time.Time
}

// keep asks every so often, and less often while nobody answers.
func (c *contact) keep(ctx context.Context) {
	writes := rate.NewLimiter(rate.Every(10*time.Second), 3) // a peer that says another thing each time doesn't fill the log
	timer := time.NewTimer(firstWait)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-c.soon:
			timer.Stop()
		}
		now, err := c.exchange(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			if err = c.learn(ctx, writes); err == nil {
				c.failures = 0
			}
		}
		if err != nil {
			now = nil
			c.failures++
			c.stackID, c.infoTag, c.capsTag = "", "", "" // another may answer there next time
		}
		wait := c.pause()
		c.tell(now, err, time.Now().Add(wait))
		timer.Reset(wait)
	}
}

// hurry has the next try made now, if the last one failed: there is nothing to be had sooner at a door that answers. It is
// no more often than doors are asked anyway, or two sides that each find fault with the other would call each other on end.
func (c *contact) hurry() {
	if l := c.live.Load(); l == nil || l.reachable || time.Since(l.at) < c.b.o.Every {
		return
	}
	select {
	case c.soon <- struct{}{}:
	default:
	}
}

// pause is how long to wait before the next try: the usual time, or, after failures, twice as long each time, up to a bound.
func (c *contact) pause() time.Duration {
	every := c.b.o.Every
	if c.failures == 0 {
		return every
	}
	wait := min(every<<min(c.failures-1, 10), longestWait)
	return wait*3/4 + rand.N(wait/4+1)
}

// tell shows how the last try went.
func (c *contact) tell(a *answer, err error, next time.Time) {
	next = next.UTC()
	l := &live{stackID: c.stackID, at: time.Now(), nextTry: &next}
	if before := c.live.Load(); before != nil {
		l.lastExchange = before.lastExchange
		if l.stackID == "" {
			l.stackID = before.stackID
		}
	}
	if a != nil {
		now := time.Now().UTC()
		l.lastExchange, l.reachable = &now, true
		l.ready, l.free = a.load(&c.caps)
	}
	if err != nil {
		l.reason = fault.Of(err).Message
		if fault.Is(err, fault.Internal) {
			l.reason = err.Error()
		}
		if left, tell := c.b.quiet.Tell(c.at.peeringID + " " + c.at.address); tell {
			c.b.log.Warn("a peer's door is of no use at the moment", zap.String("peering_id", c.at.peeringID), zap.String("address", "TCP "+c.at.address), zap.Int("left_out", left), zap.String("reason", l.reason))
		}
	}
	c.live.Store(l)
	c.b.poke()
}

// exchange asks who answers and what it can do.
func (c *contact) exchange(ctx context.Context) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	var who struct {
		Peer registry.Info `json:"peer"`
	}
	a, err := ask(ctx, c.b.o.Links, c.target(), "/v1/peer/info", c.infoTag, &who)
	if err != nil {
		return nil, err
	}
	if !a.same {
		p := c.peering.Load()
		switch i := &who.Peer; {
		case i.TrustDomain != p.TrustDomain || i.ClusterID != p.ClusterID || i.Organization != p.Organization:
			return nil, fault.New(fault.Unavailable, "At TCP %s answers a node of the cluster %.64q of %.64q, not of %s of %s.", c.at.address, i.ClusterID, i.Organization, p.ClusterID, p.Organization)
		case !id.Valid(i.StackID):
			return nil, fault.New(fault.Unavailable, "At TCP %s answers a node of %s without a proper name.", c.at.address, p.Organization)
		case c.stackID != "" && i.StackID != c.stackID:
			return nil, fault.New(fault.Unavailable, "At TCP %s %s says that it is %.64q.", c.at.address, c.stackID, i.StackID)
		}
		c.info, c.infoTag, c.stackID = who.Peer, a.tag, who.Peer.StackID
	}
	var can struct {
		Capabilities registry.Capabilities `json:"capabilities"`
	}
	// From here on the certificate must be that node's: what it said of itself is proven by the connection.
	a, err = ask(ctx, c.b.o.Links, c.target(), "/v1/peer/capabilities", c.capsTag, &can)
	if err != nil {
		return nil, err
	}
	if !a.same {
		c.caps, c.capsTag = can.Capabilities, a.tag
		c.caps.Grants = registry.Understood(c.caps.Grants)
	}
	return a, nil
}

func (c *contact) target() link.Target {
	return link.Target{PeeringID: c.at.peeringID, Address: c.at.address, StackID: c.stackID}
}

// learn negotiates, and keeps what was heard when it's another than what is kept.
func (c *contact) learn(ctx context.Context, writes *rate.Limiter) error {
	h := registry.Heard{PeeringID: c.at.peeringID, StackID: c.stackID, Address: c.at.address, Info: c.info, Capabilities: c.caps}
	h.Agreement = negotiation.Negotiate(c.b.o.Offer(), negotiation.Offer{
		APIVersions: c.info.APIVersions, Contract: c.caps.Contract, Supports: c.caps.Supports, Limits: c.caps.Limits,
	}, need())
	c.b.mu.Lock()
	kept, ok := c.b.heard[h.PeeringID+"/"+h.StackID]
	c.b.mu.Unlock()
	if ok {
		h.Address = kept.Address // a node may be at several, and each of ours reach another: that is no news
	}
	if ok && kept.Same(&h) || !writes.Allow() {
		return nil
	}
	h.Address = c.at.address
	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	if _, _, err := c.b.o.Commands.Hear.Do(ctx, c.b.o.Store, "", h); err != nil {
		if fault.Is(err, fault.Unavailable) { // no leader at the moment: the next exchange tries again
			c.b.log.Debug("what a peer said can't be kept yet", zap.Error(err))
			return nil
		}
		return fmt.Errorf("contact: keep what %s said: %w", h.StackID, err)
	}
	return nil
}

// answer is what came back beside the body.
type answer struct {
	same bool // what we have is what there is
	tag  string
	head http.Header
}

// load is what the answer says of how busy the node is. One that doesn't say it is taken for free.
func (a *answer) load(caps *registry.Capabilities) (ready bool, free int) {
	ready = a.head.Get("X-AgentOS-Ready") != "false"
	free, err := strconv.Atoi(a.head.Get("X-AgentOS-Free-Slots"))
	if err != nil && caps != nil {
		free = int(min(max(caps.Limits["max_concurrent_runs"], 1), 1<<20))
	}
	return ready, max(free, 0)
}

// ask makes one conditional call and reads its answer into v.
func ask(ctx context.Context, links Links, to link.Target, path, tag string, v any) (*answer, error) {
	r := link.Request{Method: http.MethodGet, Path: path, MaxAnswer: maxAnswer, Header: http.Header{"Accept": {"application/json"}}}
	if tag != "" {
		r.Header.Set("If-None-Match", tag)
	}
	resp, err := links.Do(ctx, to, r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	a := &answer{tag: resp.Header.Get("ETag"), head: resp.Header}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fault.New(fault.Unavailable, "The answer of TCP %s to GET %s broke off: %v.", to.Address, path, err).Because(err)
	}
	switch resp.StatusCode {
	case http.StatusNotModified:
		if tag == "" {
			return nil, errors.New("contact: 304 for an unconditional request")
		}
		a.same, a.tag = true, tag
		return a, nil
	case http.StatusOK:
	default:
		return nil, refusal(to.Address, path, resp.StatusCode, body)
	}
	if err := strictjson.Decode(body, v); err != nil {
		return nil, fault.New(fault.Unavailable, "The answer of TCP %s to GET %s can't be read: %s", to.Address, path, fault.Of(err).Message).Because(err)
	}
	return a, nil
}

// refusal is a door's no, in its own words as far as it has any.
func refusal(address, path string, status int, body []byte) error {
	var said struct {
		Error struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"error"`
	}
	_ = strictjson.Decode(body, &said)
	return fault.New(fault.Unavailable, "TCP %s answers %d to GET %s: %.64s %.200s", address, status, path, said.Error.Code, said.Error.Message)
}
