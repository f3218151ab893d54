package gossip

import (
	"sync"

	"github.com/hashicorp/memberlist"
)

// Bare is a yardstick: memberlist alone, with the settings that a pool of the same options has.
type Bare struct{ *memberlist.Memberlist }

// JoinBare opens a list and dials the seeds once. joined is told of each member, also of this one.
func JoinBare(o Options, joined func(name string)) (*Bare, error) {
	ring, err := memberlist.NewKeyring(o.Keys, o.Keys[0])
	if err != nil {
		return nil, err
	}
	c, err := (&Pool{o: o, log: o.Logger, ring: ring}).config()
	if err != nil {
		return nil, err
	}
	c.Delegate, c.Alive, c.Conflict = bareMeta(append([]byte{staying}, o.Meta...)), nil, nil
	c.Events = &bareEvents{joined: joined}
	list, err := memberlist.Create(c)
	if err != nil {
		return nil, err
	}
	if seeds := o.Seeds(); len(seeds) > 0 {
		if _, err := list.Join(seeds); err != nil {
			return nil, err
		}
	}
	return &Bare{list}, nil
}

// Addr is what others dial.
func (b *Bare) Addr() string { return b.LocalNode().Address() }

// Close ends it without a word.
func (b *Bare) Close() error { return b.Shutdown() }

type bareMeta []byte

// NodeMeta implements memberlist.Delegate.
func (m bareMeta) NodeMeta(int) []byte { return m }

// NotifyMsg implements memberlist.Delegate.
func (bareMeta) NotifyMsg([]byte) {}

// GetBroadcasts implements memberlist.Delegate.
func (bareMeta) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState implements memberlist.Delegate.
func (bareMeta) LocalState(bool) []byte { return nil }

// MergeRemoteState implements memberlist.Delegate.
func (bareMeta) MergeRemoteState([]byte, bool) {}

type bareEvents struct {
	mu     sync.Mutex
	joined func(name string)
}

// NotifyJoin implements memberlist.EventDelegate.
func (e *bareEvents) NotifyJoin(n *memberlist.Node) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.joined(n.Name)
}

// NotifyUpdate implements memberlist.EventDelegate.
func (*bareEvents) NotifyUpdate(*memberlist.Node) {}

// NotifyLeave implements memberlist.EventDelegate.
func (*bareEvents) NotifyLeave(*memberlist.Node) {}
