package registry

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/mirror"
)

// freshWithin bounds how long Fresh waits for the store.
const freshWithin = 3 * time.Second

// Peerings are the relations to other organisations in memory, kept up by the store's watch. Safe for concurrent use.
//
// Whoever holds connections of a peering (the federation door, the links) listens, and closes at once what belongs to a
// peering that isn't active any more, or whose bundle is another: a node that was cut off may hear of a peering that was
// revoked and made anew all at once.
//
// Changes come within moments of the command, at every node, so that a suspended or revoked peering is cut off long before
// the 5 s that are promised.
type Peerings struct {
	mirror *mirror.Mirror[*relations]
	asked  chan struct{} // capacity 1: somebody waits for a linearizable reading
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu   sync.Mutex
	next *look // the linearizable reading that has not begun yet
}

// relations is one reading.
type relations struct {
	list     []Peering // ordered by id
	byID     map[string]Peering
	byDomain map[string]Peering
}

// look is a linearizable reading that several wait for.
type look struct {
	done chan struct{}
	err  error
}

// NewPeerings begins to follow the peerings in store, which need not have been started yet. log may be nil.
func NewPeerings(store storage.Store, log *zap.Logger) *Peerings {
	p := &Peerings{asked: make(chan struct{}, 1)}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.mirror = mirror.New(mirror.Options[*relations]{
		Store: store, Prefixes: []string{peeringTables}, What: "peerings", Read: readRelations, Empty: &relations{}, Logger: log,
	})
	p.work.Go(p.answer)
	return p
}

// Close stops following.
func (p *Peerings) Close() {
	p.cancel()
	p.mirror.Close()
	p.work.Wait()
}

// Listen calls heard soon, and after every change, from one goroutine at a time, until the peerings are closed. heard may
// read the peerings and must return soon.
func (p *Peerings) Listen(heard func()) { p.mirror.Listen(heard) }

func (p *Peerings) now() *relations {
	all, _ := p.mirror.Now()
	return all
}

// All lists the peerings of every state, ordered by id. The slice is the caller's to read only.
func (p *Peerings) All() []Peering { return p.now().list }

// ByID returns one peering, as far as this node's copy knows.
func (p *Peerings) ByID(peeringID string) (Peering, bool) {
	one, ok := p.now().byID[peeringID]
	return one, ok
}

// ByTrustDomain returns the peering that stands for a trust domain: the live one if there is one, else the one that was
// revoked last. Its State says what it's worth; see Active.
func (p *Peerings) ByTrustDomain(domain string) (Peering, bool) {
	one, ok := p.now().byDomain[domain]
	return one, ok
}

// Active returns the active peering with a trust domain.
func (p *Peerings) Active(domain string) (Peering, bool) {
	one, ok := p.ByTrustDomain(domain)
	return one, ok && one.State == PeeringActive
}

// Fresh is ByTrustDomain after a linearizable look, for those who are about to say that a domain is unknown or not active:
// another node may have made the peering a moment ago. However many ask, there is one look at a time; each waits for one
// that began after it asked. It returns fault.Unavailable when the store can't be asked within a few seconds.
func (p *Peerings) Fresh(ctx context.Context, domain string) (Peering, bool, error) {
	l := p.join()
	select {
	case <-l.done:
	case <-ctx.Done():
		return Peering{}, false, context.Cause(ctx)
	case <-p.ctx.Done():
		return Peering{}, false, storage.Closed()
	}
	if l.err != nil {
		return Peering{}, false, l.err
	}
	one, ok := p.ByTrustDomain(domain)
	return one, ok, nil
}

func (p *Peerings) join() *look {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.next == nil {
		p.next = &look{done: make(chan struct{})}
		select {
		case p.asked <- struct{}{}:
		default:
		}
	}
	return p.next
}

// answer does the linearizable looks, one after another.
func (p *Peerings) answer() {
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-p.asked:
		}
		p.mu.Lock()
		l := p.next
		p.next = nil
		p.mu.Unlock()
		ctx, cancel := context.WithTimeout(p.ctx, freshWithin)
		l.err = p.mirror.Refresh(ctx, storage.Read{Consistency: storage.Linearizable})
		if l.err != nil && ctx.Err() != nil {
			l.err = fault.New(fault.Unavailable, "The peerings can't be looked up at the moment; ask again.").With("service", "quorum").Because(l.err)
		}
		cancel()
		close(l.done)
	}
}

func readRelations(s storage.Snapshot) (*relations, error) {
	list, err := ListPeerings(s)
	if err != nil {
		return nil, err
	}
	next := &relations{list: list, byID: make(map[string]Peering, len(list)), byDomain: make(map[string]Peering, len(list))}
	for _, one := range list {
		next.byID[one.ID] = one
		if one.TrustDomain == "" {
			continue
		}
		old, ok := next.byDomain[one.TrustDomain]
		if !ok || one.Live() || !old.Live() && one.UpdatedAt.After(old.UpdatedAt) {
			next.byDomain[one.TrustDomain] = one
		}
	}
	return next, nil
}
