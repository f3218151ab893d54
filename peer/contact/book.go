package contact

import (
	"context"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/zaplog"
	"github.com/nexixai/agentos/negotiation"
	"github.com/nexixai/agentos/peer/link"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/peer/trust"
	"github.com/nexixai/agentos/storage"
)

// DefaultEvery is how often a door that answers is asked.
const DefaultEvery = 2 * time.Second

// Peerings are the relations that there are. *registry.Peerings implements it.
type Peerings interface {
	All() []registry.Peering
	Listen(heard func())
}

var _ Peerings = (*registry.Peerings)(nil)

// Links carry calls to doors. *link.Links implements it.
type Links interface {
	Do(ctx context.Context, to link.Target, r link.Request) (*http.Response, error)
}

var _ Links = (*link.Links)(nil)

// Options are what a Book is made of.
type Options struct {
	Store    storage.Store
	Commands *registry.HeardCommands
	Peerings Peerings
	Links    Links
	// Offer is what this node can do, to be compared with what others can.
	Offer func() negotiation.Offer
	// Members lists this cluster's own nodes; nil: there are none.
	Members func() []registry.Peer
	// Every is how often a door that answers is asked; 0 means DefaultEvery.
	Every  time.Duration
	Logger *zap.Logger
}

// need is what a peer must be able to do to be used at all, and what it is asked for besides. Nobody can talk a node below
// the first.
func need() negotiation.Need {
	return negotiation.Need{
		Required: []string{"tenant_isolation"},
		Optional: []string{"runs_forward", "origin_run_ids", "events_stream", "events_ingest", "final_ack"},
	}
}

// Unreachable is a door that doesn't answer, or a node of which nothing else is known.
type Unreachable struct {
	StackID      string     `json:"stack_id,omitempty"`
	Organization string     `json:"organization"`
	PeeringID    string     `json:"peering_id"`
	Address      string     `json:"address"`
	Reason       string     `json:"reason"`
	NextTryAt    *time.Time `json:"next_try_at"`
}

// Book is the list of peers, kept up to date until Close. Safe for concurrent use.
type Book struct {
	o      Options
	log    *zap.Logger
	quiet  *zaplog.Repeats
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup
	wake   chan struct{} // capacity 1: something changed
	stop   func()
	stale  atomic.Bool // what was heard has to be read again
	shown  atomic.Pointer[page]

	mu    sync.Mutex
	doors map[door]*contact
	heard map[string]registry.Heard // by peering and stack id
	ears  []func()
}

// page is one state of the book.
type page struct {
	peers []registry.Peer
	away  []Unreachable
}

// door is where a peering may be asked.
type door struct{ peeringID, address string }

// Open begins to keep a book. The store need not have been started yet.
func Open(o Options) *Book {
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.Every == 0 {
		o.Every = DefaultEvery
	}
	b := &Book{
		o: o, log: o.Logger, quiet: zaplog.NewRepeats(time.Minute), wake: make(chan struct{}, 1), doors: make(map[door]*contact),
		heard: make(map[string]registry.Heard),
	}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	b.shown.Store(&page{})
	b.stale.Store(true)
	b.stop = o.Store.Watch(registry.HeardKeys, b)
	b.work.Go(b.keep)
	o.Peerings.Listen(b.poke)
	b.poke()
	return b
}

// Close ends every exchange.
func (b *Book) Close() {
	b.stop()
	b.cancel()
	b.work.Wait()
}

// Peers lists the nodes of other organisations that are known, of peerings in any state, ordered by organisation and node.
// The slice and what it points to are never changed.
func (b *Book) Peers() []registry.Peer { return b.shown.Load().peers }

// All is Peers, and this cluster's own nodes before them.
func (b *Book) All() []registry.Peer {
	var own []registry.Peer
	if b.o.Members != nil {
		own = b.o.Members()
	}
	return slices.Concat(own, b.Peers())
}

// Unreachable lists the doors and nodes of active peerings that don't answer.
func (b *Book) Unreachable() []Unreachable { return b.shown.Load().away }

// Find returns one node, of another organisation or of this cluster.
func (b *Book) Find(stackID string) (registry.Peer, bool) {
	all := b.All()
	i := slices.IndexFunc(all, func(p registry.Peer) bool { return p.StackID == stackID })
	if i < 0 {
		return registry.Peer{}, false
	}
	return all[i], true
}

// Listen calls changed soon, and after every change but of times and load, from one goroutine, until the book is closed.
// changed must return soon.
func (b *Book) Listen(changed func()) {
	b.mu.Lock()
	b.ears = append(b.ears, changed)
	b.mu.Unlock()
	changed()
}

var _ storage.Watcher = (*Book)(nil)

// Applied implements storage.Watcher.
func (b *Book) Applied(uint64, []storage.Change) { b.reread() }

// Jumped implements storage.Watcher.
func (b *Book) Jumped(uint64) { b.reread() }

func (b *Book) reread() {
	b.stale.Store(true)
	b.poke()
}

func (b *Book) poke() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// keep follows the peerings, what was heard, and what the contacts find.
func (b *Book) keep() {
	const retry = 50 * time.Millisecond
	again := time.NewTimer(time.Hour)
	defer again.Stop()
	for {
		select {
		case <-b.ctx.Done():
			return
		case <-b.wake:
		case <-again.C:
		}
		if b.stale.Swap(false) {
			if err := b.o.Store.View(b.ctx, storage.Read{Consistency: storage.Stale}, b.read); err != nil {
				b.stale.Store(true)
				if b.ctx.Err() == nil {
					b.log.Debug("what was heard of peers can't be read yet", zap.Error(err))
					again.Reset(retry)
				}
			}
		}
		b.attend()
		if ears := b.publish(); ears != nil {
			for _, changed := range ears {
				changed()
			}
		}
	}
}

func (b *Book) read(s storage.Snapshot) error {
	list, err := registry.ListHeard(s)
	if err != nil {
		return err
	}
	heard := make(map[string]registry.Heard, len(list))
	for _, h := range list {
		heard[h.PeeringID+"/"+h.StackID] = h
	}
	b.mu.Lock()
	b.heard = heard
	b.mu.Unlock()
	return nil
}

// attend has one contact at each door of each active peering, and no other.
func (b *Book) attend() {
	want := make(map[door]registry.Peering)
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.o.Peerings.All() {
		if p.State != registry.PeeringActive {
			continue
		}
		for _, addr := range b.doorsOf(&p) {
			want[door{p.ID, addr}] = p
		}
	}
	for at, c := range b.doors {
		if _, ok := want[at]; !ok {
			c.cancel()
			delete(b.doors, at)
		}
	}
	for at, p := range want {
		if c := b.doors[at]; c != nil {
			c.peering.Store(&p)
			continue
		}
		c := &contact{b: b, at: at, soon: make(chan struct{}, 1)}
		c.peering.Store(&p)
		ctx, cancel := context.WithCancel(b.ctx)
		c.cancel = cancel
		b.doors[at] = c
		b.work.Go(func() { c.keep(ctx) })
	}
}

// maxDoors bounds the doors at which one peering is asked.
const maxDoors = 128

// doorsOf lists where a peering may be asked: at the doors that it names, then at those that its nodes name. A list that is
// no list of doors is passed over: nobody has this node call wherever he likes. b.mu is held.
func (b *Book) doorsOf(p *registry.Peering) []string {
	doors := slices.Clone(p.Addresses)
	for _, key := range slices.Sorted(maps.Keys(b.heard)) {
		h := b.heard[key]
		if h.PeeringID != p.ID || trust.ValidAddresses(h.Capabilities.Members) != nil {
			continue
		}
		for _, addr := range h.Capabilities.Members {
			if !slices.Contains(doors, addr) {
				doors = append(doors, addr)
			}
		}
	}
	return doors[:min(len(doors), maxDoors)]
}

// publish shows the present state, and returns who wants to hear of it when it's another.
func (b *Book) publish() []func() {
	b.mu.Lock()
	defer b.mu.Unlock()
	next := &page{peers: []registry.Peer{}, away: []Unreachable{}}
	states := make(map[string]registry.Peering)
	for _, p := range b.o.Peerings.All() {
		states[p.ID] = p
	}
	for _, h := range b.heard {
		if p, ok := states[h.PeeringID]; ok {
			next.peers = append(next.peers, b.peer(&h, &p))
		}
	}
	next.peers = slices.DeleteFunc(next.peers, func(p registry.Peer) bool { // known anew, by another peering
		return p.State != registry.PeerAdmitted && slices.ContainsFunc(next.peers, func(q registry.Peer) bool {
			return q.State == registry.PeerAdmitted && q.StackID == p.StackID && q.TrustDomain == p.TrustDomain
		})
	})
	for at, c := range b.doors {
		live := c.live.Load()
		if live == nil || live.reachable {
			continue
		}
		known := slices.ContainsFunc(next.peers, func(p registry.Peer) bool { return p.PeeringID == at.peeringID && p.Address == at.address })
		if !known {
			next.away = append(next.away, Unreachable{
				Organization: states[at.peeringID].Organization, PeeringID: at.peeringID, Address: at.address, Reason: live.reason, NextTryAt: live.nextTry,
			})
		}
	}
	for _, p := range next.peers {
		if p.State == registry.PeerAdmitted && !p.Reachable {
			next.away = append(next.away, Unreachable{p.StackID, p.Organization, p.PeeringID, p.Address, p.Reason, p.NextTryAt})
		}
	}
	slices.SortFunc(next.peers, func(x, y registry.Peer) int {
		return strings.Compare(x.Organization+"/"+x.StackID+"/"+x.PeeringID, y.Organization+"/"+y.StackID+"/"+y.PeeringID)
	})
	slices.SortFunc(next.away, func(x, y Unreachable) int {
		return strings.Compare(x.PeeringID+"/"+x.Address, y.PeeringID+"/"+y.Address)
	})
	last := b.shown.Swap(next)
	if reflect.DeepEqual(timeless(last.peers), timeless(next.peers)) {
		return nil
	}
	return slices.Clone(b.ears)
}

// timeless is a list of peers without what changes at every exchange.
func timeless(list []registry.Peer) []registry.Peer {
	out := slices.Clone(list)
	for i := range out {
		out[i].LastExchangeAt, out[i].NextTryAt, out[i].FreeSlots = nil, nil, 0
	}
	return out
}

// peer is what was heard of a node, and how it is at this moment. b.mu is held.
func (b *Book) peer(h *registry.Heard, of *registry.Peering) registry.Peer {
	p := registry.Peer{
		Info: h.Info, Source: registry.FromPeering, State: registry.PeerAdmitted, LastExchangeAt: &h.HeardAt, Capabilities: &h.Capabilities,
		Agreement: &h.Agreement, PeeringID: h.PeeringID, Address: h.Address,
	}
	switch of.State {
	case registry.PeeringActive:
	case registry.PeeringSuspended:
		p.State, p.Reason = registry.PeerSuspended, "The peering is suspended."
		return p
	default:
		p.State, p.Reason = registry.PeerRevoked, "The peering is revoked."
		return p
	}
	p.Reason = "It has not been asked yet."
	for at, c := range b.doors {
		live := c.live.Load()
		if at.peeringID != h.PeeringID || live == nil || live.stackID != h.StackID && at.address != h.Address {
			continue
		}
		if live.stackID != "" && live.stackID != h.StackID { // another node has the address now
			p.Reason = "At " + at.address + " answers " + live.stackID + " now."
			continue
		}
		if live.lastExchange != nil && live.lastExchange.After(*p.LastExchangeAt) {
			p.LastExchangeAt = live.lastExchange
		}
		if p.NextTryAt == nil || live.reachable {
			p.NextTryAt, p.Reason = live.nextTry, live.reason
		}
		if live.reachable {
			p.Reachable, p.Ready, p.FreeSlots, p.Address = true, live.ready, live.free, at.address
			break
		}
	}
	return p
}

// Pong is how a live exchange went.
type Pong struct {
	StackID      string  `json:"stack_id"`
	Organization string  `json:"organization"`
	Address      string  `json:"address"`
	TookMS       float64 `json:"took_ms"`
	Ready        bool    `json:"ready"`
	FreeSlots    int     `json:"free_slots"`
}

// Called says that a node on the other side of a peering has called here, or has answered out of turn: those of its doors
// that did not answer last time are tried again now, instead of when their turn comes.
func (b *Book) Called(peeringID string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for at, c := range b.doors {
		if at.peeringID == peeringID {
			c.hurry()
		}
	}
}

// Ping asks a peer who it is, now, and says how long that took.
func (b *Book) Ping(ctx context.Context, stackID string) (*Pong, error) {
	p, ok := b.Find(stackID)
	switch {
	case !ok:
		return nil, fault.New(fault.NotFound, "There is no peer %q.", stackID)
	case p.PeeringID == "":
		return nil, fault.Invalid("stack_id", "%s is a member of this cluster; 'agentos cluster status' says how it is.", stackID)
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	var said struct {
		Peer registry.Info `json:"peer"`
	}
	a, err := ask(ctx, b.o.Links, link.Target{PeeringID: p.PeeringID, Address: p.Address, StackID: stackID}, "/v1/peer/info", "", &said)
	if err != nil {
		return nil, err
	}
	took := time.Since(began)
	b.Called(p.PeeringID)
	ready, free := a.load(p.Capabilities)
	return &Pong{stackID, p.Organization, p.Address, float64(took.Microseconds()) / 1000, ready, free}, nil
}
