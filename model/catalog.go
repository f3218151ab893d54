package model

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// probeTimeout bounds a look at one backend's models or health.
const probeTimeout = 3 * time.Second

// catalog remembers which models each backend serves. Nothing runs while nobody asks: a list that is too old is served
// once more while a new one is fetched, and an old list is better than none. Only the very first asker waits.
type catalog struct {
	entries []*entry
	byName  map[string]*entry
	ttl     time.Duration // 0 when no backend is outside the node
	now     func() time.Time

	shown   atomic.Pointer[listing]
	fetch   sync.Mutex // one fetch at a time
	running sync.WaitGroup
	ctx     context.Context
	cancel  context.CancelFunc
}

type listing struct {
	backends []Backend
	until    time.Time // zero: for ever
}

type entry struct {
	provider  Provider
	inProcess bool
}

func newCatalog(providers []Provider, ttl time.Duration, now func() time.Time) (*catalog, error) {
	c := &catalog{byName: make(map[string]*entry, len(providers)), now: now}
	for _, p := range providers {
		name := p.Name()
		if name == "" || c.byName[name] != nil {
			return nil, fmt.Errorf("model: two backends are named %q, or one has no name", name)
		}
		e := &entry{provider: p}
		if local, ok := p.(InProcess); ok {
			e.inProcess = local.InProcess()
		}
		if !e.inProcess {
			c.ttl = ttl
		}
		c.entries, c.byName[name] = append(c.entries, e), e
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c, nil
}

// all returns every backend with its models. The list is shared and never changed.
func (c *catalog) all() []Backend {
	if l := c.shown.Load(); l != nil {
		if !l.until.IsZero() && c.now().After(l.until) && c.ctx.Err() == nil && c.fetch.TryLock() {
			c.running.Go(func() {
				defer c.fetch.Unlock()
				if c.ctx.Err() == nil {
					c.refresh()
				}
			})
		}
		return l.backends
	}
	c.fetch.Lock()
	defer c.fetch.Unlock()
	if c.shown.Load() == nil {
		c.refresh()
	}
	return c.shown.Load().backends
}

// refresh asks all backends at once. The caller holds c.fetch.
func (c *catalog) refresh() {
	ctx, cancel := context.WithTimeout(c.ctx, probeTimeout)
	defer cancel()
	next := &listing{backends: make([]Backend, len(c.entries))}
	if c.ttl > 0 {
		next.until = c.now().Add(c.ttl)
	}
	last := c.shown.Load()
	var wg sync.WaitGroup
	for i, e := range c.entries {
		wg.Go(func() {
			models, err := e.provider.Models(ctx)
			switch {
			case err == nil:
				next.backends[i] = Backend{Name: e.provider.Name(), Known: true, Models: models}
			case last != nil:
				next.backends[i] = last.backends[i]
			default:
				next.backends[i] = Backend{Name: e.provider.Name()}
			}
		})
	}
	wg.Wait()
	c.shown.Store(next)
}

// close stops what is being fetched and waits for it.
func (c *catalog) close() {
	c.cancel()
	c.fetch.Lock() // so that no fetch is about to begin
	defer c.fetch.Unlock()
	c.running.Wait()
}

func (c *catalog) health(ctx context.Context) map[string]error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	said := make([]error, len(c.entries))
	var wg sync.WaitGroup
	for i, e := range c.entries {
		wg.Go(func() { said[i] = e.provider.Health(ctx) })
	}
	wg.Wait()
	m := make(map[string]error, len(c.entries))
	for i, e := range c.entries {
		m[e.provider.Name()] = said[i]
	}
	return m
}
