package tenancy

import (
	"bytes"
	"context"
	"sync"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
)

const (
	// lookTimeout bounds one linearizable look.
	lookTimeout = 5 * time.Second
	// maxLook bounds how many names one look asks for.
	maxLook = 4096
)

// looks asks the store for what memory doesn't know: one look is under way at a time, and what is asked meanwhile gathers
// for the next, so that a flood of unknown names costs the cluster one look after another, and no more.
type looks struct {
	mu   sync.Mutex
	busy bool
	next *round
}

// round is one look: the values of all keys that were asked for.
type round struct {
	values map[string][]byte
	err    error
	done   chan struct{}
}

// look returns the value under key in a state that holds every write acknowledged before the call, or nil.
func (d *Directory) look(ctx context.Context, key string) ([]byte, error) {
	l := &d.looks
	l.mu.Lock()
	if l.next == nil {
		l.next = &round{values: make(map[string][]byte), done: make(chan struct{})}
	}
	r := l.next
	if len(r.values) >= maxLook {
		l.mu.Unlock()
		return nil, fault.New(fault.RateLimited, "Too many unknown names are asked for at once; try again in a moment.").After(time.Second)
	}
	r.values[key] = nil
	if !l.busy {
		if d.ctx.Err() != nil {
			l.mu.Unlock()
			return nil, fault.New(fault.Unavailable, "The node is stopping; ask another.").With("service", "node")
		}
		l.busy = true
		d.wg.Go(d.lookOn)
	}
	l.mu.Unlock()
	select {
	case <-r.done:
		return r.values[key], r.err
	case <-ctx.Done():
		return nil, fault.New(fault.Timeout, "The store did not answer in time; try again.").Because(ctx.Err())
	}
}

// lookOn does rounds while there are any.
func (d *Directory) lookOn() {
	for {
		d.looks.mu.Lock()
		r := d.looks.next
		d.looks.next = nil
		d.looks.busy = r != nil
		d.looks.mu.Unlock()
		if r == nil {
			return
		}
		ctx, cancel := context.WithTimeout(d.ctx, lookTimeout)
		r.err = d.store.View(ctx, storage.Read{Consistency: storage.Linearizable}, func(s storage.Snapshot) error {
			for key := range r.values {
				raw, err := s.Get(key)
				if err != nil {
					return err
				}
				r.values[key] = bytes.Clone(raw)
			}
			return nil
		})
		cancel()
		close(r.done)
	}
}
