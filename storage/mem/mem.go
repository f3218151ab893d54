// Package mem is the store in memory: one node, nothing on disk, the same promises. Tests of the rooms above run on it.
//
// Room: the log. It imports storage and internal/….
package mem

import (
	"context"
	"encoding/binary"
	"hash/fnv"
	"slices"
	"sync"
	"time"

	"github.com/google/btree"

	"github.com/nexixai/agentos/storage"
)

// Store keeps everything in one ordered tree. The zero value is not usable; call New.
type Store struct {
	reg *storage.Registry
	now func() time.Time

	write sync.Mutex // one command at a time; taken before mu

	mu       sync.Mutex
	tree     *btree.BTreeG[item]
	index    uint64
	told     uint64 // up to where watchers have been told
	hash     uint64
	moved    chan struct{} // closed, and replaced, when told moves
	watchers []*watch
	duties   []func(context.Context)
	closed   bool

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

type item struct {
	key   string
	value []byte
}

type watch struct {
	span storage.Range
	w    storage.Watcher
}

var _ storage.Store = (*Store)(nil)

// Options says how to make a Store.
type Options struct {
	Registry *storage.Registry
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// New returns an empty store. Start makes it the leader of itself.
func New(o Options) *Store {
	if o.Now == nil {
		o.Now = time.Now
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &Store{
		reg: o.Registry, now: o.Now, ctx: ctx, cancel: cancel, moved: make(chan struct{}),
		tree: btree.NewG(32, func(a, b item) bool { return a.key < b.key }),
	}
}

// Start begins the leader's duties.
func (s *Store) Start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, duty := range s.duties {
		s.wg.Go(func() { duty(s.ctx) })
	}
}

// Close ends the duties and refuses what comes after.
func (s *Store) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.wg.Wait()
}

// Lead implements storage.Store.
func (s *Store) Lead(duty func(context.Context)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.duties = append(s.duties, duty)
}

// Do implements storage.Store.
func (s *Store) Do(ctx context.Context, cmd storage.Command) (any, uint64, error) {
	s.write.Lock()
	defer s.write.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, 0, err
	}
	snap, err := s.snapshot()
	if err != nil {
		return nil, 0, err
	}
	g := storage.NewGroup(snap, s.now())
	result, err := s.reg.Evaluate(g, cmd)
	if err != nil {
		return nil, snap.index, err
	}
	return result, s.apply(g, snap), nil
}

func (s *Store) apply(g *storage.Group, base *snapshot) uint64 {
	if g.Empty() {
		return base.index
	}
	sum := fnv.New64a()
	var changes []storage.Change
	s.mu.Lock()
	_ = binary.Write(sum, binary.BigEndian, s.hash)
	_ = g.Each(func(op storage.Op) error {
		for _, part := range [][]byte{[]byte(op.Key), []byte(op.RangeEnd), op.Value} {
			_ = binary.Write(sum, binary.BigEndian, uint32(len(part)))
			_, _ = sum.Write(part)
		}
		switch {
		case op.RangeEnd != "":
			_ = base.Scan(storage.Range{From: op.Key, To: op.RangeEnd}, func(key string, _ []byte) bool {
				s.tree.Delete(item{key: key})
				return true
			})
		case op.Value == nil:
			s.tree.Delete(item{key: op.Key})
		default:
			s.tree.ReplaceOrInsert(item{key: op.Key, value: op.Value})
		}
		changes = append(changes, storage.Change{Key: op.Key, Value: op.Value, RangeEnd: op.RangeEnd})
		return nil
	})
	s.index++
	s.hash = sum.Sum64()
	index, watchers := s.index, slices.Clone(s.watchers)
	s.mu.Unlock()
	for _, w := range watchers {
		if seen := storage.Within(changes, w.span); len(seen) > 0 {
			w.w.Applied(index, seen)
		}
	}
	s.mu.Lock()
	s.told = index
	close(s.moved)
	s.moved = make(chan struct{})
	s.mu.Unlock()
	return index
}

// View implements storage.Store. Every state of this store is linearizable.
func (s *Store) View(ctx context.Context, r storage.Read, read func(storage.Snapshot) error) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		s.mu.Lock()
		moved, told := s.moved, s.told
		s.mu.Unlock()
		snap, err := s.snapshot()
		if err != nil {
			return err
		}
		if r.Consistency == storage.Stale || told >= r.MinIndex {
			return read(snap)
		}
		select {
		case <-moved:
		case <-ctx.Done():
		case <-s.ctx.Done():
		}
	}
}

func (s *Store) snapshot() (*snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, storage.Closed()
	}
	return &snapshot{tree: s.tree.Clone(), index: s.index}, nil
}

// Watch implements storage.Store.
func (s *Store) Watch(prefix string, w storage.Watcher) (stop func()) {
	entry := &watch{span: storage.Prefix(prefix), w: w}
	s.write.Lock()
	defer s.write.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watchers = append(s.watchers, entry)
	return func() {
		s.write.Lock()
		defer s.write.Unlock()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.watchers = slices.DeleteFunc(slices.Clone(s.watchers), func(x *watch) bool { return x == entry })
	}
}

// Status implements storage.Store.
func (s *Store) Status() storage.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return storage.Status{Role: storage.Leader, Leader: "mem", Term: 1, Applied: s.index, Hash: s.hash}
}

type snapshot struct {
	tree  *btree.BTreeG[item]
	index uint64
}

func (v *snapshot) Index() uint64 { return v.index }

func (v *snapshot) Get(key string) ([]byte, error) {
	it, ok := v.tree.Get(item{key: key})
	if !ok {
		return nil, nil
	}
	return it.value, nil
}

func (v *snapshot) Scan(r storage.Range, visit func(string, []byte) bool) error {
	up := func(it item) bool { return visit(it.key, it.value) }
	down := func(it item) bool {
		if it.key < r.From {
			return false
		}
		if r.To != "" && it.key >= r.To {
			return true
		}
		return visit(it.key, it.value)
	}
	switch {
	case r.Reverse && r.To == "":
		v.tree.Descend(down)
	case r.Reverse:
		v.tree.DescendLessOrEqual(item{key: r.To}, down)
	case r.To == "":
		v.tree.AscendGreaterOrEqual(item{key: r.From}, up)
	default:
		v.tree.AscendRange(item{key: r.From}, item{key: r.To}, up)
	}
	return nil
}
