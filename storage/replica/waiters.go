package replica

import (
	"context"
	"sync"
)

// waiters wait for the state to reach an index.
type waiters struct {
	mu   sync.Mutex
	list []waiter
}

type waiter struct {
	index uint64
	ch    chan struct{}
}

// reached wakes whoever waits for index or less.
func (w *waiters) reached(index uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	kept := w.list[:0]
	for _, x := range w.list {
		if x.index <= index {
			close(x.ch)
		} else {
			kept = append(kept, x)
		}
	}
	clear(w.list[len(kept):])
	w.list = kept
}

// add registers a wait for index. The caller looks at the state again after it, and calls forget when it gives up.
func (w *waiters) add(index uint64) chan struct{} {
	ch := make(chan struct{})
	w.mu.Lock()
	w.list = append(w.list, waiter{index, ch})
	w.mu.Unlock()
	return ch
}

func (w *waiters) forget(ch chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, x := range w.list {
		if x.ch == ch {
			last := len(w.list) - 1
			w.list[i], w.list[last] = w.list[last], waiter{}
			w.list = w.list[:last]
			return
		}
	}
}

// bell tells any number of listeners that something has changed.
type bell struct {
	mu sync.Mutex
	ch chan struct{}
}

// listen returns a channel that is closed at the next change.
func (b *bell) listen() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch == nil {
		b.ch = make(chan struct{})
	}
	return b.ch
}

func (b *bell) broadcast() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch != nil {
		close(b.ch)
		b.ch = nil
	}
}

// either returns a context that ends with ctx or when stop is closed.
func either(ctx context.Context, stop <-chan struct{}) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}
