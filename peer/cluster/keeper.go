package cluster

import (
	"context"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/storage/replica"
)

// MaxVoters is the most members that vote: with five, two may be away.
const MaxVoters = 5

// Log is the store's own list of servers, which the keeper holds in step with the member list.
type Log interface {
	Configuration() []replica.Server
	AddVoter(ctx context.Context, id, address string) error
	AddNonvoter(ctx context.Context, id, address string) error
	Demote(ctx context.Context, id string) error
	Remove(ctx context.Context, id string) error
	Transfer(ctx context.Context, id string) error
}

// KeeperOptions says how to make a Keeper. All of it is needed, but for Logger.
type KeeperOptions struct {
	Log    Log
	Roster *registry.Roster
	// Self is this node's server id.
	Self string
	// Forget takes the wish away before it is carried out.
	Forget func(ctx context.Context) error
	// Raise lifts the cluster's version of the store to the lowest of its members.
	Raise func(ctx context.Context) error
	// Probe asks a member where it stands; an error means that it does not answer.
	Probe func(ctx context.Context, m registry.Member) (*Standing, error)
	// Applied is how far the leader's own copy is.
	Applied func() uint64
	// Stable is how long a member must have been well before it gets a vote, Dead how long a voter may be silent before a
	// well non-voter takes its place.
	Stable, Dead time.Duration
	Logger       *zap.Logger
}

// Keeper is the leader's duty for members: who joined gets into the log, first without a vote; who has caught up and
// stayed well gets one, up to the largest odd number of members, five at most; who was removed gets out. Changes go one at
// a time, and none is made that would leave less than a quorum. Once all of them can do a higher version of the store, the
// cluster's is raised.
type Keeper struct {
	o    KeeperOptions
	wake chan struct{} // capacity 1

	mu   sync.Mutex
	well map[string]time.Time // server id → since when it answers, caught up
	ill  map[string]time.Time // server id → since when it doesn't answer
}

// NewKeeper returns a Keeper; Run is its duty, to be given to the store before it starts.
func NewKeeper(o KeeperOptions) *Keeper {
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	k := &Keeper{o: o, wake: make(chan struct{}, 1)}
	o.Roster.Listen(k.Look)
	return k
}

// Look makes the keeper look now: something has changed.
func (k *Keeper) Look() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// lookEvery is how often the leader looks at its members' health while it waits for one to be well, and seldom is how
// often it does when all is as it should be: news of a silent voter comes from nobody else.
const (
	lookEvery = 250 * time.Millisecond
	seldom    = 5 * time.Second
)

// Run keeps the members while this node leads.
func (k *Keeper) Run(ctx context.Context) {
	k.mu.Lock()
	k.well, k.ill = make(map[string]time.Time), make(map[string]time.Time)
	k.mu.Unlock()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.wake:
		case <-timer.C:
		}
		next := seldom
		more, err := k.step(ctx)
		if err != nil && ctx.Err() == nil {
			k.o.Logger.Warn("a change of the members has to wait", zap.Error(err))
		}
		if more || err != nil {
			next = lookEvery
		}
		timer.Reset(next)
	}
}

// step makes at most one change. more says that another look is due soon.
func (k *Keeper) step(ctx context.Context) (more bool, err error) {
	if w, ok := k.o.Roster.Wish(); ok {
		return true, k.grant(ctx, w)
	}
	if k.o.Roster.MayRise() { // the last member has been upgraded, or removed
		if err := k.o.Raise(ctx); err != nil && ctx.Err() == nil {
			k.o.Logger.Warn("the store's version has to wait", zap.Error(err))
		}
	}
	v := k.view(ctx)
	switch c := v.plan(); c.kind {
	case changeNone:
		return v.waiting(), nil
	default:
		return true, k.make(ctx, c)
	}
}

// grant hands the office on.
func (k *Keeper) grant(ctx context.Context, w registry.Wish) error {
	if err := k.o.Forget(ctx); err != nil {
		return err
	}
	to := ""
	if w.To != "" {
		m, ok := k.o.Roster.Member(w.To)
		if !ok || m.ServerID == k.o.Self {
			return nil
		}
		to = m.ServerID
		if _, err := k.o.Probe(ctx, m); err != nil { // never to one that is not there: the transfer would hang
			return err
		}
	}
	k.o.Logger.Info("handing the office on", zap.String("to", w.To))
	return k.o.Log.Transfer(ctx, to)
}

func (k *Keeper) make(ctx context.Context, c change) error {
	k.o.Logger.Info("members change", zap.String("change", string(c.kind)), zap.String("server_id", c.server), zap.String("address", c.address))
	switch c.kind {
	case changeAdd:
		return k.o.Log.AddNonvoter(ctx, c.server, c.address)
	case changeVote:
		return k.o.Log.AddVoter(ctx, c.server, c.address)
	case changeDemote:
		return k.o.Log.Demote(ctx, c.server)
	case changeRemove:
		return k.o.Log.Remove(ctx, c.server)
	case changeStepDown:
		return k.o.Log.Transfer(ctx, "")
	}
	return nil
}

// view takes in how everybody is.
func (k *Keeper) view(ctx context.Context) *view {
	v := &view{self: k.o.Self, members: k.o.Roster.Members(), servers: k.o.Log.Configuration(), health: make(map[string]health)}
	var wg sync.WaitGroup
	applied := k.o.Applied()
	for _, m := range v.members {
		if m.State == registry.Removed || m.ServerID == k.o.Self || !slices.ContainsFunc(v.servers, func(s replica.Server) bool { return s.ID == m.ServerID }) {
			continue
		}
		wg.Go(func() {
			st, err := k.o.Probe(ctx, m)
			k.note(m.ServerID, err == nil && st.ServerID == m.ServerID, err == nil && st.Applied+maxLag >= applied)
		})
	}
	wg.Wait()
	now := time.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range v.servers {
		h := health{well: s.ID == k.o.Self, stable: s.ID == k.o.Self}
		if since, ok := k.well[s.ID]; ok {
			h.well, h.stable = true, now.Sub(since) >= k.o.Stable
		}
		if since, ok := k.ill[s.ID]; ok {
			h.dead = now.Sub(since) >= k.o.Dead
		}
		v.health[s.ID] = h
	}
	return v
}

// maxLag is how many entries behind a member may be and still count as caught up: under load nobody is ever level.
const maxLag = 2000

func (k *Keeper) note(server string, answers, caughtUp bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	if !answers || !caughtUp {
		delete(k.well, server)
	} else if _, ok := k.well[server]; !ok {
		k.well[server] = now
	}
	if answers {
		delete(k.ill, server)
	} else if _, ok := k.ill[server]; !ok {
		k.ill[server] = now
	}
}
