package storage

import (
	"math"
	"strings"
	"time"

	"github.com/google/btree"

	"github.com/nexixai/agentos/internal/fault"
)

func isNotFound(err error) bool { return fault.Is(err, fault.NotFound) }

// Op is one change of a group's result. Ops are given in key order, removed ranges first.
type Op struct {
	Key, RangeEnd string // RangeEnd is set for a removed range
	Value         []byte // nil for a removed key
}

// Group is a batch of commands under evaluation: an overlay on a base state, in which each command sees what those before
// it wrote, and from which a failed command is taken out without a trace. Keys written several times in a group become
// one write of its result. A Group belongs to one goroutine.
type Group struct {
	base    Reader
	now     time.Time
	tree    *btree.BTreeG[cell]
	ranges  []Range // removed ranges; a cell in the tree overrides them
	undo    []undo
	bytes   int
	ceiling int // what bytes may reach under the command being evaluated
	failure error
}

type cell struct {
	key   string
	value []byte // nil: removed
}

type undo struct {
	key   string
	prev  cell
	had   bool
	bytes int
	isCut bool // a removed range was added
}

// NewGroup returns an empty group over base. base must not change while the group lives.
func NewGroup(base Reader, now time.Time) *Group {
	return &Group{base: base, now: now.UTC(), ceiling: math.MaxInt, tree: btree.NewG(32, func(a, b cell) bool { return a.key < b.key })}
}

var _ Tx = (*Group)(nil)

// Now implements Tx.
func (g *Group) Now() time.Time { return g.now }

// SetNow moves the clock that the next command sees.
func (g *Group) SetNow(t time.Time) { g.now = t.UTC() }

// Bytes is the size of the group's result, in bytes of keys and values, counting a rewritten key each time.
func (g *Group) Bytes() int { return g.bytes }

// Empty reports whether the group changes nothing.
func (g *Group) Empty() bool { return g.tree.Len() == 0 && len(g.ranges) == 0 }

// Get implements Reader.
func (g *Group) Get(key string) ([]byte, error) {
	if c, ok := g.tree.Get(cell{key: key}); ok {
		return c.value, nil
	}
	if g.cut(key) {
		return nil, nil
	}
	return g.base.Get(key)
}

func (g *Group) cut(key string) bool {
	for _, r := range g.ranges {
		if r.From <= key && (r.To == "" || key < r.To) {
			return true
		}
	}
	return false
}

// Set implements Tx.
func (g *Group) Set(key string, value []byte) {
	v := make([]byte, len(value))
	copy(v, value)
	g.put(cell{key: strings.Clone(key), value: v})
}

// Delete implements Tx.
func (g *Group) Delete(key string) { g.put(cell{key: strings.Clone(key)}) }

func (g *Group) put(c cell) {
	if c.key == "" {
		g.failure = fault.New(fault.Internal, "a command wrote an empty key")
		return
	}
	size := len(c.key) + len(c.value)
	if g.bytes+size > g.ceiling {
		g.failure = errTooLarge()
		return
	}
	prev, had := g.tree.ReplaceOrInsert(c)
	g.undo = append(g.undo, undo{key: c.key, prev: prev, had: had, bytes: size})
	g.bytes += size
}

// DeleteRange implements Tx.
func (g *Group) DeleteRange(r Range) {
	r.Reverse = false
	if r.To == "" { // an open end is closed here, so that whoever applies the result needs no word for it
		last := g.last(r.From)
		if last == "" {
			return
		}
		r.To = last + "\x00"
	}
	if r.To <= r.From {
		return
	}
	var inside []string
	g.ascend(r, func(c cell) bool {
		if c.value != nil {
			inside = append(inside, c.key)
		}
		return true
	})
	for _, key := range inside {
		g.Delete(key)
	}
	if g.bytes+len(r.From)+len(r.To) > g.ceiling {
		g.failure = errTooLarge()
		return
	}
	g.ranges = append(g.ranges, Range{From: strings.Clone(r.From), To: strings.Clone(r.To)})
	g.undo = append(g.undo, undo{isCut: true, bytes: len(r.From) + len(r.To)})
	g.bytes += len(r.From) + len(r.To)
}

// last returns the greatest key that is not less than from, or "" when there is none.
func (g *Group) last(from string) string {
	last := ""
	err := g.Scan(Range{From: from, Reverse: true}, func(key string, _ []byte) bool {
		last = key
		return false
	})
	if err != nil {
		g.failure = err
	}
	return last
}

func (g *Group) ascend(r Range, visit func(cell) bool) {
	if r.To == "" {
		g.tree.AscendGreaterOrEqual(cell{key: r.From}, visit)
		return
	}
	g.tree.AscendRange(cell{key: r.From}, cell{key: r.To}, visit)
}

func (g *Group) descend(r Range, visit func(cell) bool) {
	down := func(c cell) bool {
		if c.key < r.From {
			return false
		}
		if r.To != "" && c.key >= r.To {
			return true
		}
		return visit(c)
	}
	if r.To == "" {
		g.tree.Descend(down)
		return
	}
	g.tree.DescendLessOrEqual(cell{key: r.To}, down)
}

// Scan implements Reader: the base's keys merged with the group's own, which win.
func (g *Group) Scan(r Range, visit func(key string, value []byte) bool) error {
	next, stop := g.cursor(r)
	defer stop()
	own, have := next()
	going := true
	before := func(a, b string) bool {
		if r.Reverse {
			return a > b
		}
		return a < b
	}
	emit := func() {
		if own.value != nil {
			going = visit(own.key, own.value)
		}
		own, have = next()
	}
	err := g.base.Scan(r, func(key string, value []byte) bool {
		for going && have && before(own.key, key) {
			emit()
		}
		if !going {
			return false
		}
		if have && own.key == key {
			emit()
			return going
		}
		if g.cut(key) {
			return true
		}
		going = visit(key, value)
		return going
	})
	for err == nil && going && have {
		emit()
	}
	return err
}

// cursor walks the group's own cells of r. Few scans meet many of them, so it reads ahead in small pieces instead of
// holding the tree's iterator open while visit runs.
func (g *Group) cursor(r Range) (next func() (cell, bool), stop func()) {
	const piece = 16
	var ahead []cell
	at, done := 0, false
	span := r
	fill := func() {
		ahead, at = ahead[:0], 0
		collect := func(c cell) bool {
			ahead = append(ahead, c)
			return len(ahead) < piece
		}
		if r.Reverse {
			g.descend(span, collect)
		} else {
			g.ascend(span, collect)
		}
		if done = len(ahead) < piece; done {
			return
		}
		if last := ahead[len(ahead)-1].key; r.Reverse {
			span.To = last
		} else {
			span.From = last + "\x00"
		}
	}
	return func() (cell, bool) {
		if at == len(ahead) {
			if done {
				return cell{}, false
			}
			fill()
			if len(ahead) == 0 {
				return cell{}, false
			}
		}
		c := ahead[at]
		at++
		return c, true
	}, func() { done = true }
}

// Each calls visit for every change of the group's result: removed ranges first, then keys in order.
func (g *Group) Each(visit func(Op) error) error {
	for _, r := range g.ranges {
		if err := visit(Op{Key: r.From, RangeEnd: r.To}); err != nil {
			return err
		}
	}
	var err error
	g.tree.Ascend(func(c cell) bool {
		err = visit(Op{Key: c.key, Value: c.value})
		return err == nil
	})
	return err
}

type mark struct{ undo, bytes int }

// mark begins a command: what it writes is bounded from here, and rollback returns to here.
func (g *Group) mark() mark {
	g.ceiling = g.bytes + MaxCommandBytes
	return mark{undo: len(g.undo), bytes: g.bytes}
}

func errTooLarge() error {
	return fault.New(fault.PayloadTooLarge, "The change is larger than the store takes in one piece (%d bytes); send less at once.", MaxCommandBytes)
}

func (g *Group) fault() error { return g.failure }

func (g *Group) rollback(m mark) {
	for i := len(g.undo) - 1; i >= m.undo; i-- {
		u := g.undo[i]
		switch {
		case u.isCut:
			g.ranges = g.ranges[:len(g.ranges)-1]
		case u.had:
			g.tree.ReplaceOrInsert(u.prev)
		default:
			g.tree.Delete(cell{key: u.key})
		}
	}
	g.undo, g.bytes, g.failure = g.undo[:m.undo], m.bytes, nil
}
