package replica

import "github.com/nexixai/agentos/storage"

// hot is what a reign reads the state through. It remembers what was read, and keeps that true to what its own groups wrote
// since, so that the few keys which every command looks at (a tenant, its counters, the run that was written a moment ago)
// cost no search of the engine's tables. That is sound because a reign is the state's only writer from its barrier on:
// after it nothing changes the state but the reign's own groups. It ends with the reign, and belongs to its goroutine.
//
// What was written and never read is not remembered: commands read before they write what they will read again.
//
// Memory is bounded by two generations: when the young one is full it becomes the old one, and what is used again moves
// over.
type hot struct {
	storage.Reader
	src        source            // what Reader reads
	young, old map[string][]byte // nil: the key is known to be absent
	size       int               // of young, in bytes
}

var _ storage.Reader = (*hot)(nil)

// hotBytes bounds each generation.
const hotBytes = 4 << 20

// hotOverhead is about what a map's entry takes beside key and value.
const hotOverhead = 64

// from says which engine holds the state.
func (h *hot) from(src source) {
	if h.src != src {
		*h = hot{src: src, Reader: &reader{src: src}}
	}
}

// Get implements storage.Reader.
func (h *hot) Get(key string) ([]byte, error) {
	if v, ok := h.young[key]; ok {
		return v, nil
	}
	v, ok := h.old[key]
	if !ok {
		var err error
		if v, err = h.Reader.Get(key); err != nil {
			return nil, err
		}
	}
	h.keep(key, v)
	return v, nil
}

func (h *hot) keep(key string, value []byte) {
	if h.size > hotBytes {
		h.old, h.young, h.size = h.young, nil, 0
	}
	if h.young == nil {
		h.young = make(map[string][]byte)
	}
	h.young[key] = value
	h.size += len(key) + len(value) + hotOverhead
}

func (h *hot) knows(key string) bool {
	if _, ok := h.young[key]; ok {
		return true
	}
	_, ok := h.old[key]
	return ok
}

// wrote takes in what a group changed, once its entry is applied.
func (h *hot) wrote(g *storage.Group) {
	_ = g.Each(func(op storage.Op) error {
		if op.RangeEnd != "" {
			h.young, h.old, h.size = nil, nil, 0
			return nil
		}
		if h.knows(op.Key) {
			h.keep(op.Key, op.Value)
		}
		return nil
	})
}
