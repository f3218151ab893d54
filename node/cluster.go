package node

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/peer/cluster"
	"github.com/nexixai/agentos/peer/gossip"
	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/peer/trust"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/replica"
)

// neighbours is what connects the node with the other members of its cluster.
type neighbours struct {
	proof     *identityProof
	door      *cluster.Door
	commander *cluster.Commander
	roster    atomic.Pointer[registry.Roster]
	peerings  *registry.Peerings
	pool      *gossip.Pool
	members   *cluster.Membership
	keeper    *cluster.Keeper
	caughtUp  atomic.Bool
	keysMu    sync.Mutex     // guards proof.gossip
	serving   sync.WaitGroup // what the door's callers are answered by; it ends when the door closes
}

// openDoor proves who the node is and opens the door for the other members; nobody is answered before meet.
func (n *Node) openDoor(ctx context.Context) error {
	ln, err := listen(ctx, "cluster-listen", n.o.ClusterListen)
	if err != nil {
		return err
	}
	c := &n.near
	if c.proof, err = n.prove(ctx, ln.Addr()); err != nil {
		return errors.Join(err, ln.Close())
	}
	c.door, err = cluster.Open(cluster.Options{
		Listener: ln, Advertise: boundAs(n.o.ClusterAdvertise, ln.Addr()), Credentials: c.proof.creds, Admit: n.admit, Dial: n.dial(), Logger: n.log.Named("cluster"),
	})
	if err != nil {
		return errors.Join(err, ln.Close())
	}
	n.down.push("cluster door", func(context.Context) error {
		err := c.door.Close()
		c.serving.Wait()
		return err
	})
	c.commander = cluster.NewCommander(c.door)
	n.down.push("commands to the leader", func(context.Context) error { c.commander.Close(); return nil })
	return nil
}

// dial is how the doors of other nodes are reached; nil is the machine's own way.
func (n *Node) dial() cluster.Dial {
	if n.o.Network == nil {
		return nil
	}
	return n.o.Network.DialContext
}

// admit decides about a node of this organisation whose certificate is proven: a removed member stays out, and so does a
// machine whose place another has taken. Who is not in the member list yet has only just been signed.
func (n *Node) admit(who trust.ID, leaf *x509.Certificate) error {
	roster := n.near.roster.Load()
	if roster == nil {
		return nil
	}
	m, ok := roster.Member(who.Name)
	switch {
	case !ok:
		return nil
	case m.State == registry.Removed:
		return fault.New(fault.Forbidden, "%s was removed from the cluster.", who.Name)
	case m.PublicKey == "":
		return nil
	}
	pub, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return fault.New(fault.Forbidden, "%s shows a key of another kind.", who.Name)
	}
	hash, err := cluster.KeyHash(pub)
	if err == nil && hash != m.PublicKey {
		err = fault.New(fault.Forbidden, "%s was replaced: this is not the key it joined with.", who.Name)
	}
	return err
}

var _ replica.Forwarder = (*neighbours)(nil)

// Forward implements replica.Forwarder.
func (c *neighbours) Forward(ctx context.Context, leader replica.Server, batch []byte) ([]byte, error) {
	return c.commander.Forward(ctx, cluster.StackOf(leader.ID), leader.Address, batch)
}

// meet makes the node known to the others and answers them. The store is open, and has not been started.
func (n *Node) meet() error {
	c, store := &n.near, n.w.store
	roster := registry.NewRoster(store, n.log.Named("members"))
	c.roster.Store(roster)
	n.down.push("member list", func(context.Context) error { roster.Close(); return nil })
	c.peerings = registry.NewPeerings(store, n.log.Named("peerings"))
	n.down.push("peerings", func(context.Context) error { c.peerings.Close(); return nil })
	c.members = cluster.NewMembership(cluster.MembershipOptions{
		Store: store, Commands: n.w.commands.members, Roster: roster, Door: c.door, Log: store, Seal: c.proof.seal, ShareSeal: n.o.Mode != Prod,
		GossipKeys: c.gossipKeys, Rumours: func() []gossip.Member { return c.pool.Members() }, Self: n.self, Life: n.o.CertificateLife, Standing: n.standing, Copy: store.Backup,
		Logger: n.log.Named("members"),
	})
	fast := n.o.Timing == "fast"
	c.keeper = cluster.NewKeeper(cluster.KeeperOptions{
		Log: store, Roster: roster, Self: n.dir.id.ServerID, Forget: c.members.Forget, Raise: c.members.Raise, Probe: c.members.Probe,
		Applied: func() uint64 { return store.Status().Applied },
		Stable:  either(fast, 300*time.Millisecond, 2*time.Second), Dead: either(fast, 5*time.Second, 30*time.Second), Logger: n.log.Named("members"),
	})
	store.Lead(c.keeper.Run)
	look := rate.NewLimiter(rate.Every(250*time.Millisecond), 8) // rumour makes the leader look, and no storm of it more than that
	var err error
	c.pool, err = gossip.Join(gossip.Options{
		Name: n.dir.id.StackID, Label: n.dir.id.ClusterID, Keys: c.proof.gossip, Bind: n.o.GossipListen, Advertise: unlessChosen(n.o.GossipAdvertise),
		Meta: n.rumour(false), Seeds: n.gossipSeeds, Expected: n.expected, Fast: n.o.Timing == "fast", Network: n.o.Network, Logger: n.log.Named("gossip"),
		Changed: func(gossip.Member) {
			if look.Allow() {
				c.keeper.Look()
			}
		},
	})
	if err != nil {
		return err
	}
	n.down.push("gossip", func(ctx context.Context) error {
		if err := c.pool.Leave(ctx); err != nil { // perhaps they are all stopping
			n.log.Info("nobody was told that this node leaves; the others will notice", zap.Error(err))
		}
		return c.pool.Close()
	})
	c.serving.Go(func() { c.door.ServeCommands(n.handleCommands) })
	c.serving.Go(func() { c.door.ServeTalk(c.members.Answer) })
	n.down.push("office", n.handOver)
	return nil
}

func either[T any](first bool, a, b T) T {
	if first {
		return a
	}
	return b
}

// unlessChosen returns addr unless the system chose its port: then it is known only once it's bound.
func unlessChosen(addr string) string {
	if _, port, err := net.SplitHostPort(addr); err != nil || port == "0" {
		return ""
	}
	return addr
}

func (n *Node) handleCommands(ctx context.Context, batch []byte) []byte {
	answer, err := n.w.store.HandleForward(ctx, batch)
	if err != nil {
		n.log.Warn("a batch of commands could not be read", zap.Error(err))
		return nil // which the asker can't read either: it asks again
	}
	return answer
}

func (n *Node) gossipSeeds() []string {
	var seeds []string
	for _, m := range n.near.roster.Load().Members() {
		if m.StackID != n.dir.id.StackID && m.State != registry.Removed && m.GossipAddr != "" {
			seeds = append(seeds, m.GossipAddr)
		}
	}
	return seeds
}

// expected reports whether a name in gossip is a member's. While this node's copy holds no member list, as before a
// joiner has caught up, all names are.
func (n *Node) expected(stackID string) bool {
	roster := n.near.roster.Load()
	m, ok := roster.Member(stackID)
	return ok && m.State != registry.Removed || len(roster.Members()) == 0
}

// rumour is what this node says of itself in gossip: a hint for others where to look, which they believe only when they
// have asked at the door.
func (n *Node) rumour(ready bool) []byte {
	raw, err := json.Marshal(map[string]any{
		"org": n.o.Organization, "region": n.o.Region, "cluster": n.near.door.Addr(), "api": n.o.APIAdvertise,
		"contract": "v1", "version": n.o.Build.Version, "ready": ready,
	})
	if err != nil || len(raw) > gossip.MaxMeta {
		return nil
	}
	return raw
}

func (n *Node) self() registry.Member {
	m := n.row(n.near.door.Addr())
	m.GossipAddr = n.near.pool.Addr()
	return m
}

func (n *Node) standing() cluster.Standing {
	st := n.w.store.Status()
	return cluster.Standing{
		StackID: n.dir.id.StackID, ServerID: n.dir.id.ServerID, Version: n.o.Build.Version, Leader: st.Leader, Term: st.Term,
		Applied: st.Applied, Hash: st.Hash, Ready: n.near.caughtUp.Load() && !n.draining.Load(), GossipKeys: cluster.NameKeys(n.near.gossipKeys()),
	}
}

// membersChanged follows what the member list says, of this node and of others.
func (n *Node) membersChanged() {
	roster := n.near.roster.Load()
	if err := registry.CheckStoreVersion(n.dir.id.StackID, roster.StoreVersion(), n.o.StoreVersion); err != nil {
		n.fail("store", err)
		// At once, not when all requests and steps have ended: they'd be served by what this binary can't read.
		if err := n.w.store.Close(); err != nil {
			n.log.Error("the store was not closed whole", zap.Error(err))
		}
		return
	}
	n.takeGossipKeys(roster.Cluster())
	n.near.pool.Seek()
	n.near.door.Cut()
	for _, m := range roster.Members() {
		if m.State == registry.Removed {
			n.near.pool.Forget(m.StackID)
		}
	}
	own, ok := roster.Member(n.dir.id.StackID)
	if !ok {
		return
	}
	switch {
	case own.ServerID != n.dir.id.ServerID:
		n.fail("membership", fmt.Errorf("another machine has taken the place of %s: empty the data directory and join under another stack id", own.StackID))
	case own.State == registry.Removed:
		n.fail("membership", errors.New("this node was removed from its cluster: empty the data directory and join anew"))
	default:
		n.setDrained(own.State == registry.Draining)
	}
}

// gossipKeys are those that gossip has now.
func (c *neighbours) gossipKeys() [][]byte {
	c.keysMu.Lock()
	defer c.keysMu.Unlock()
	return c.proof.gossip
}

// takeGossipKeys gives gossip the keys of the cluster's record, and keeps them for the next start.
func (n *Node) takeGossipKeys(record registry.Cluster) {
	c := &n.near
	if c.proof.seal == nil || len(record.GossipKeys) == 0 {
		return
	}
	keys, err := cluster.OpenGossipKeys(c.proof.seal, record)
	if err == nil && slices.EqualFunc(keys, c.gossipKeys(), bytes.Equal) {
		return
	}
	if err == nil {
		err = c.pool.Rotate(keys)
	}
	if err == nil {
		err = n.writeKeys(gossipName, keys...)
	}
	if err != nil {
		n.log.Error("the cluster's gossip keys could not be taken", zap.Error(err))
		return
	}
	c.keysMu.Lock()
	c.proof.gossip = keys
	c.keysMu.Unlock()
	n.log.Info("gossip has other keys", zap.Int("keys", len(keys)))
}

// setDrained takes no new runs while an operator drains the node, and takes them again when told so.
func (n *Node) setDrained(drained bool) {
	if n.drained.Swap(drained) == drained {
		return
	}
	if drained {
		n.log.Info("draining, as an operator asked")
		n.w.sessions.Drain()
		return
	}
	n.log.Info("taking runs again")
	n.w.sessions.Resume()
}

// take waits for the store to have caught up with its cluster. A node whose cluster has no leader serves what it has, and
// goes on waiting: reads need no quorum.
func (n *Node) take(ctx context.Context) error {
	wait := either(n.o.Timing == "fast", 3*time.Second, 5*time.Second)
	first, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	err := n.w.store.Ready(first)
	if wrong := n.checkVersion(ctx, n.w.store); wrong != nil { // it has risen while this node was away
		return wrong
	}
	switch {
	case err == nil:
		n.near.caughtUp.Store(true)
		return n.enrol(ctx)
	case ctx.Err() != nil || n.near.proof.founding != nil || !fault.Is(err, fault.Unavailable):
		return fmt.Errorf("store: %w", err)
	}
	n.log.Warn("no leader yet; this node serves what it has, and waits", zap.Error(err))
	return nil
}

// enrol writes a new cluster's record and its first member, once.
func (n *Node) enrol(ctx context.Context) error {
	p := n.near.proof
	if err := n.renewed(ctx); err != nil {
		return err
	}
	if p.founding == nil {
		return nil
	}
	if _, _, err := n.w.commands.members.Init.Do(ctx, n.w.store, "", *p.founding); err != nil {
		return fmt.Errorf("cluster record: %w", err)
	}
	row := n.self()
	var err error
	if row.PublicKey, err = cluster.KeyHash(&p.key.PublicKey); err != nil {
		return err
	}
	if _, _, err := n.w.commands.members.Found.Do(ctx, n.w.store, "", row); err != nil {
		return fmt.Errorf("first member: %w", err)
	}
	p.founding = nil
	if err := os.Remove(n.dir.trust(foundingName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("trust: %w", err)
	}
	return nil
}

// belong keeps what the cluster knows of the node true, and its certificate fresh, for as long as the node runs.
func (n *Node) belong(ctx context.Context) {
	const soon, seldom = time.Second, time.Minute
	changed := make(chan struct{}, 1)
	n.near.roster.Load().Listen(func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-timer.C:
		}
		next := seldom
		if err := n.present(ctx); err != nil {
			if ctx.Err() != nil {
				return
			}
			if unwanted(err) {
				n.fail("membership", err)
				return
			}
			n.log.Warn("the cluster does not know all of this node yet", zap.Error(err))
			next = soon
		}
		timer.Reset(min(next, max(time.Until(n.near.proof.creds.RenewAt()), 100*time.Millisecond)))
	}
}

// unwanted reports whether the cluster has said that it does not want this node: it was removed or replaced, or its binary
// can't read the store.
func unwanted(err error) bool {
	return fault.Is(err, fault.Forbidden) || fault.Is(err, fault.UnsupportedCapability)
}

// present does what of belong is due.
func (n *Node) present(ctx context.Context) error {
	c := &n.near
	if !c.caughtUp.Load() {
		wait, cancel := context.WithTimeout(ctx, either(n.o.Timing == "fast", 3*time.Second, 10*time.Second))
		err := n.w.store.Ready(wait)
		cancel()
		if err != nil {
			// Perhaps the leader does not know where this node is now, or does not want to.
			knocked := c.members.Knock(ctx)
			if unwanted(knocked) {
				return knocked
			}
			err = errors.Join(err, knocked)
		}
		if err != nil {
			return err
		}
		c.caughtUp.Store(true)
	}
	if err := c.members.Announce(ctx); err != nil {
		return err
	}
	if time.Now().Before(c.proof.creds.RenewAt()) {
		return nil
	}
	cert, err := c.members.Renew(ctx, &c.proof.key.PublicKey, n.hosts())
	if err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	keyPEM, err := os.ReadFile(n.dir.trust(nodeKeyName))
	if err != nil {
		return err
	}
	if err := c.proof.creds.Replace(cert, keyPEM, c.proof.creds.BundlePEM()); err != nil {
		return fmt.Errorf("certificate: %w", err)
	}
	n.log.Info("certificate renewed", zap.Time("expires", c.proof.creds.Leaf().NotAfter))
	return WriteFile(n.dir.trust(nodeCertName), cert, 0o644)
}

// handOver leaves the office to another voter before the node stops, so that the cluster does not have to notice first.
func (n *Node) handOver(ctx context.Context) error {
	if n.w.store.Status().Role != storage.Leader {
		return nil
	}
	for _, s := range n.w.store.Configuration() {
		if !s.Voter || s.ID == n.dir.id.ServerID {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		if err := n.w.store.Transfer(ctx, ""); err != nil {
			n.log.Warn("the office was not handed on; the others elect a leader by themselves", zap.Error(err))
		}
		return nil
	}
	return nil
}

// begin starts what keeps the node a member, until it stops.
func (n *Node) begin() {
	n.near.roster.Load().Listen(n.membersChanged)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { n.belong(ctx) })
	n.down.push("membership", func(context.Context) error { cancel(); wg.Wait(); return nil })
}
