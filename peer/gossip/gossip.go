// Package gossip spreads rumour among the nodes of a cluster: who seems alive, where, and a few hundred bytes that each
// says of itself. It does not know what those bytes mean, and nothing it says is believed without proof.
//
// Room: others. It alone imports hashicorp/memberlist; of the house it imports internal/… only.
package gossip

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"go.uber.org/zap"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/internal/zaplog"
)

// MaxMeta is the most a member may say of itself, in bytes. One byte of memberlist's allowance is the pool's own: it says
// whether the member is about to leave, since memberlist does not tell its listeners a leave from a death.
const MaxMeta = memberlist.MetaMaxSize - 1

const (
	staying byte = iota
	leaving
)

// State is how a member seems to be.
type State string

const (
	Alive State = "alive"
	Dead  State = "dead"
	Left  State = "left"
)

// Member is what rumour has of one node.
type Member struct {
	Name  string
	Addr  string // host:port of its gossip
	Meta  []byte
	State State
	// Since is when this node learned of the state.
	Since time.Time
}

// Options says how to take part in a pool.
type Options struct {
	// Name is unique in the pool: the stack id.
	Name string
	// Label names the pool; packets with another label are dropped unread. Use the cluster id.
	Label string
	// Keys are the pool's secrets, 16, 24 or 32 bytes each; the first one encrypts, all of them decrypt.
	Keys [][]byte
	// Bind is the host:port to listen on, UDP and TCP. Port 0 picks one.
	Bind string
	// Advertise is the host:port that others dial; empty means the address bound, which must then not be unspecified.
	Advertise string
	// Meta is what this node says of itself at first.
	Meta []byte
	// Seeds returns addresses to join through; it's asked again whenever the pool looks too small.
	Seeds func() []string
	// Changed is called, outside any lock and one call at a time, after a member joined, left, died or changed its
	// Meta. It may call the Pool's read methods.
	Changed func(Member)
	// Expected reports whether a name is a member's, by what is known beyond gossip. Of others the pool keeps a few only,
	// and does not look for them when they're gone: whoever holds the key can make up names without end. nil expects all.
	Expected func(name string) bool
	// Fast shortens the timings, for nodes on one machine and for tests.
	Fast bool
	// Network is what others are reached through; nil is the machine's own.
	Network Network
	Logger  *zap.Logger
}

// Pool is this node's place among its cluster's members. Safe for concurrent use.
type Pool struct {
	o    Options
	log  *zap.Logger
	list *memberlist.Memberlist
	ring *memberlist.Keyring

	conflicts *zaplog.Repeats
	dropped   atomic.Int64 // what of others' words was not taken

	mu    sync.Mutex
	meta  []byte // with the pool's byte in front
	known map[string]Member

	changes chan Member
	wake    chan struct{}
	cancel  context.CancelFunc
	unplug  context.CancelFunc
	wg      sync.WaitGroup
}

// maxStrangers is how many names the pool keeps that nobody expects: those of nodes that have only just joined, of which
// this node's copy of the store does not tell yet.
const maxStrangers = 64

// changeBacklog is how many changes may wait for Changed; beyond it the oldest news of a member is dropped, for Members
// always tells the newest.
const changeBacklog = 256

// Join opens the pool: it listens, and goes on trying to reach the others for as long as it's open. It does not wait for
// anybody.
func Join(o Options) (*Pool, error) {
	if !id.Valid(o.Name) || !id.Valid(o.Label) {
		return nil, fault.Invalid("gossip", "A gossip pool needs a name and a label that are identifiers.")
	}
	if len(o.Meta) > MaxMeta {
		return nil, fault.Invalid("gossip", "A member says at most %d bytes of itself, not %d.", MaxMeta, len(o.Meta))
	}
	if len(o.Keys) == 0 {
		return nil, fault.Invalid("gossip", "Gossip is always encrypted: give at least one key.")
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	ring, err := memberlist.NewKeyring(o.Keys, o.Keys[0])
	if err != nil {
		return nil, fault.Invalid("gossip", "A gossip key is not usable: %v.", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p := &Pool{
		o: o, log: o.Logger, ring: ring, meta: append([]byte{staying}, o.Meta...), cancel: cancel,
		conflicts: zaplog.NewRepeats(tellAgain), known: make(map[string]Member), changes: make(chan Member, changeBacklog), wake: make(chan struct{}, 1),
	}
	conf, err := p.config()
	if err != nil {
		cancel()
		return nil, err
	}
	streams, err := bind(conf, o.Network, &p.dropped)
	if err == nil {
		conf.Transport = streams
		if p.list, err = memberlist.Create(conf); err != nil {
			err = errors.Join(err, streams.Shutdown())
		}
	}
	if err != nil {
		cancel()
		return nil, fault.New(fault.Unavailable, "Gossip can't listen on %s (UDP and TCP): %v.", o.Bind, err).With("service", "gossip").Because(err)
	}
	// The listeners can't end while nobody takes what they hold, so these two end after them.
	wire, unplug := context.WithCancel(context.Background())
	p.unplug = unplug
	p.wg.Go(func() { streams.hear(wire) })
	p.wg.Go(func() { streams.sift(wire) })
	p.wg.Go(func() { p.tell(ctx) })
	p.wg.Go(func() { p.seek(ctx) })
	return p, nil
}

func (p *Pool) config() (*memberlist.Config, error) {
	c := memberlist.DefaultLANConfig()
	if p.o.Fast {
		c.ProbeInterval, c.ProbeTimeout = 200*time.Millisecond, 100*time.Millisecond
		c.GossipInterval, c.SuspicionMult, c.PushPullInterval = 50*time.Millisecond, 3, 5*time.Second
		c.TCPTimeout = 2 * time.Second
	}
	host, port, err := splitPort(p.o.Bind)
	if err != nil {
		return nil, err
	}
	c.Name, c.Label, c.Keyring = p.o.Name, p.o.Label, p.ring
	c.BindAddr, c.BindPort = host, port
	c.AdvertisePort = port
	advertised := host
	if p.o.Advertise != "" {
		if advertised, c.AdvertisePort, err = splitPort(p.o.Advertise); err != nil {
			return nil, err
		}
		ips, err := net.LookupIP(advertised)
		if err != nil || len(ips) == 0 {
			return nil, fault.Invalid("gossip_advertise", "The gossip address to advertise, %s, does not resolve.", p.o.Advertise)
		}
		advertised = ips[0].String()
		c.AdvertiseAddr = advertised
	}
	if ip := net.ParseIP(advertised); ip == nil || ip.IsUnspecified() {
		return nil, fault.Invalid("gossip_advertise", "Others can't dial %q: set the gossip address to advertise.", advertised)
	}
	c.EnableCompression = false // a bomb's fuse, and metadata is small
	c.DeadNodeReclaimTime = 30 * time.Second
	if p.o.Fast {
		c.DeadNodeReclaimTime = 3 * time.Second
	}
	c.Delegate, c.Events, c.Alive, c.Conflict = p, p, p, p
	c.Logger = log.New(&levels{log: p.log, repeats: zaplog.NewRepeats(tellAgain), dropped: &p.dropped}, "", 0)
	c.LogOutput = nil
	return c, nil
}

func splitPort(addr string) (string, int, error) {
	host, portText, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, fault.Invalid("gossip", "The gossip address %q is not host:port.", addr)
	}
	port, err := strconv.Atoi(portText)
	if err != nil || port < 0 || port > 65535 {
		return "", 0, fault.Invalid("gossip", "The gossip address %q has no usable port.", addr)
	}
	return host, port, nil
}

// tell hands changes to the owner, one at a time.
func (p *Pool) tell(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case m := <-p.changes:
			if p.o.Changed != nil {
				p.o.Changed(m)
			}
		}
	}
}

const (
	seekFirst = time.Second
	seekMost  = 2 * time.Minute
)

// seek dials seeds and members last known that are not in the pool, for ever, ever more seldom while nobody answers.
func (p *Pool) seek(ctx context.Context) {
	wait := seekFirst
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
			wait = seekFirst
		case <-timer.C:
		}
		missing := p.missing()
		if len(missing) == 0 {
			wait = seekMost
		} else if n, err := p.list.Join(missing); n > 0 {
			wait = seekFirst
		} else {
			p.log.Debug("gossip reached nobody", zap.Strings("addresses", missing), zap.Error(err), zap.Duration("next_try", wait))
		}
		timer.Reset(wait)
		if wait *= 2; wait > seekMost {
			wait = seekMost
		}
	}
}

// missing lists the addresses worth dialling: seeds and dead members whose address no live member has.
func (p *Pool) missing() []string {
	var want []string
	if p.o.Seeds != nil {
		want = slices.Clone(p.o.Seeds()) // it's changed below
	}
	here := make(map[string]bool)
	p.mu.Lock()
	for _, m := range p.known {
		switch m.State {
		case Alive:
			here[m.Addr] = true
		case Dead:
			if p.expected(m.Name) {
				want = append(want, m.Addr)
			}
		}
	}
	p.mu.Unlock()
	slices.Sort(want)
	want = slices.Compact(want)
	return slices.DeleteFunc(want, func(a string) bool { return a == "" || here[a] })
}

// Addr is the host:port that others are told to dial.
func (p *Pool) Addr() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.known[p.o.Name].Addr
}

// Members lists everybody known, this node among them, ordered by name.
func (p *Pool) Members() []Member {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]Member, 0, len(p.known))
	for _, m := range p.known {
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b Member) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// Count is how many are known to be in that state.
func (p *Pool) Count(s State) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, m := range p.known {
		if m.State == s {
			n++
		}
	}
	return n
}

// Dropped is how many packets, streams and claims were not taken, since the pool was joined: under another label or key,
// malformed, too many, or about names that may not be.
func (p *Pool) Dropped() int64 { return p.dropped.Load() }

// Say changes what this node says of itself.
func (p *Pool) Say(meta []byte) error {
	if len(meta) > MaxMeta {
		return fault.Invalid("gossip", "A member says at most %d bytes of itself, not %d.", MaxMeta, len(meta))
	}
	return p.say(staying, meta, time.Second)
}

func (p *Pool) say(flag byte, meta []byte, wait time.Duration) error {
	p.mu.Lock()
	p.meta = append([]byte{flag}, meta...)
	p.mu.Unlock()
	if err := p.list.UpdateNode(wait); err != nil {
		return fmt.Errorf("gossip: update: %w", err)
	}
	return nil
}

// Seek makes the pool look for missing members at once, as after a seed has become known.
func (p *Pool) Seek() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Forget drops a member that was removed from the cluster, so that it's no longer sought.
func (p *Pool) Forget(name string) {
	p.mu.Lock()
	delete(p.known, name)
	p.mu.Unlock()
}

// Rotate makes keys the pool's secrets: the first encrypts, the others still decrypt. Rotation without loss is three
// steps over the whole pool: add the new key last, put it first, drop the old one.
func (p *Pool) Rotate(keys [][]byte) error {
	if len(keys) == 0 {
		return fault.Invalid("gossip", "Gossip is always encrypted: give at least one key.")
	}
	for _, k := range keys {
		if err := p.ring.AddKey(k); err != nil {
			return fault.Invalid("gossip", "A gossip key is not usable: %v.", err)
		}
	}
	if err := p.ring.UseKey(keys[0]); err != nil {
		return fmt.Errorf("gossip: use key: %w", err)
	}
	for _, old := range p.ring.GetKeys() {
		if !slices.ContainsFunc(keys, func(k []byte) bool { return string(k) == string(old) }) {
			if err := p.ring.RemoveKey(old); err != nil {
				return fmt.Errorf("gossip: remove key: %w", err)
			}
		}
	}
	return nil
}

// Leave tells the others that this node goes on purpose, and waits for the word to spread until ctx ends.
func (p *Pool) Leave(ctx context.Context) error {
	wait := 2 * time.Second
	if end, ok := ctx.Deadline(); ok {
		wait = min(wait, time.Until(end))
	}
	p.mu.Lock()
	last := p.meta[1:]
	p.mu.Unlock()
	if err := p.say(leaving, last, wait/2); err != nil {
		return err
	}
	if err := p.list.Leave(wait / 2); err != nil {
		return fmt.Errorf("gossip: leave: %w", err)
	}
	return nil
}

// Close ends all of it without a word.
func (p *Pool) Close() error {
	p.cancel()
	err := p.list.Shutdown()
	p.unplug()
	p.wg.Wait()
	return err
}

// NodeMeta implements memberlist.Delegate.
func (p *Pool) NodeMeta(limit int) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.meta) > limit {
		return nil
	}
	return p.meta
}

// NotifyMsg implements memberlist.Delegate; this pool carries no messages of its own.
func (p *Pool) NotifyMsg([]byte) {}

// GetBroadcasts implements memberlist.Delegate.
func (p *Pool) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState implements memberlist.Delegate.
func (p *Pool) LocalState(bool) []byte { return nil }

// MergeRemoteState implements memberlist.Delegate.
func (p *Pool) MergeRemoteState([]byte, bool) {}

// NotifyJoin implements memberlist.EventDelegate.
func (p *Pool) NotifyJoin(n *memberlist.Node) { p.note(n, Alive) }

// NotifyUpdate implements memberlist.EventDelegate.
func (p *Pool) NotifyUpdate(n *memberlist.Node) { p.note(n, Alive) }

// NotifyLeave implements memberlist.EventDelegate.
func (p *Pool) NotifyLeave(n *memberlist.Node) {
	if len(n.Meta) > 0 && n.Meta[0] == leaving {
		p.note(n, Left)
		return
	}
	p.note(n, Dead)
	p.Seek()
}

var (
	errRefused = errors.New("refused")
	errCrowd   = errors.New("too many names that nobody expects")
)

// NotifyAlive implements memberlist.AliveDelegate: names that are no identifiers never get in, nor too many strangers.
func (p *Pool) NotifyAlive(n *memberlist.Node) error {
	if !id.Valid(n.Name) || len(n.Meta) > MaxMeta+1 {
		return errRefused
	}
	if p.expected(n.Name) {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, known := p.known[n.Name]; known {
		return nil
	}
	strangers := 0
	for name := range p.known {
		if !p.expected(name) {
			strangers++
		}
	}
	if strangers >= maxStrangers {
		return errCrowd
	}
	return nil
}

func (p *Pool) expected(name string) bool {
	return name == p.o.Name || p.o.Expected == nil || p.o.Expected(name)
}

// NotifyConflict implements memberlist.ConflictDelegate: two nodes under one name.
func (p *Pool) NotifyConflict(existing, other *memberlist.Node) {
	p.dropped.Add(1)
	if _, tell := p.conflicts.Tell(existing.Name); !tell {
		return
	}
	p.log.Warn("two nodes gossip under one name", zap.String("stack_id", existing.Name), zap.String("known", existing.Address()), zap.String("other", other.Address()))
}

func (p *Pool) note(n *memberlist.Node, s State) {
	m := Member{Name: n.Name, Addr: n.Address(), State: s, Since: time.Now()}
	if len(n.Meta) > 1 {
		m.Meta = slices.Clone(n.Meta[1:])
	}
	p.mu.Lock()
	if s != Alive && !p.expected(m.Name) {
		delete(p.known, m.Name) // nobody will miss a stranger
	} else {
		p.known[m.Name] = m
	}
	p.mu.Unlock()
	for {
		select {
		case p.changes <- m:
			return
		default:
		}
		select {
		case <-p.changes:
		default:
		}
	}
}
