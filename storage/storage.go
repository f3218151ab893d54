package storage

import (
	"context"
	"errors"
	"time"

	"github.com/nexixai/agentos/internal/fault"
)

// MaxCommandBytes bounds what one command may write, in bytes of keys and values.
const MaxCommandBytes = 1 << 20

// Range is a span of keys: From ≤ key < To. An empty To means "to the end".
type Range struct {
	From, To string
	// Reverse visits the span from its end.
	Reverse bool
}

// Prefix returns the range of all keys that begin with p.
func Prefix(p string) Range { return Range{From: p, To: PrefixEnd(p)} }

// PrefixEnd returns the first key after all keys that begin with p, or "" when there is none.
func PrefixEnd(p string) string {
	b := []byte(p)
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] != 0xff {
			b[i]++
			return string(b[:i+1])
		}
	}
	return ""
}

// Reader reads one consistent state of the store. It is not safe for use by several goroutines at once.
type Reader interface {
	// Get returns the value of key, or nil without an error when there is none; a stored empty value is non-nil. The
	// value is the caller's to read for as long as the Reader lives, and never to change.
	Get(key string) ([]byte, error)
	// Scan calls visit for each key of r in order until visit returns false. The value is valid during the call only.
	// visit must not write to the transaction it scans.
	Scan(r Range, visit func(key string, value []byte) bool) error
}

// Tx is what a command sees while it's evaluated: the state after all commands before it, and its own writes.
type Tx interface {
	Reader
	// Set stores value under key. Both are copied.
	Set(key string, value []byte)
	// Delete removes key; removing what isn't there is harmless.
	Delete(key string)
	// DeleteRange removes every key of r (Reverse is ignored).
	DeleteRange(r Range)
	// Now is the leader's wall clock, in UTC, the same for the whole command. It may step backwards between commands.
	Now() time.Time
}

// Consistency says how new a read has to be.
type Consistency uint8

const (
	// Default reads the node's own copy, at least as new as every answer this node has given and as Read.MinIndex.
	Default Consistency = iota
	// Stale reads the node's own copy as it stands, and also serves without a leader.
	Stale
	// Linearizable reads a state that holds every write acknowledged anywhere before the read began.
	Linearizable
)

// Read says how to read.
type Read struct {
	Consistency Consistency
	// MinIndex is the least index the state must have reached; zero asks for nothing.
	MinIndex uint64
}

// Snapshot is a Reader that knows which state it shows.
type Snapshot interface {
	Reader
	// Index is the log index of the last change in this state.
	Index() uint64
}

// Change is one key's change, as a watcher sees it.
type Change struct {
	Key   string
	Value []byte // nil for a removed key
	// RangeEnd is set when the keys from Key to before RangeEnd were removed at once. A watcher of a prefix is told the
	// part of the range that lies within it.
	RangeEnd string
}

// Watcher learns of changes in the order they were applied. Its methods are called by the store's applier: they must
// return fast, must not call the store, and may keep no byte of what they are given.
type Watcher interface {
	// Applied is called after the changes of one log entry have become visible to reads, and before a read that demanded
	// the entry's index returns; on the leader also before who asked for them has the answer. Removed ranges come first, then keys in order; a key within a removed range was set after its removal.
	Applied(index uint64, changes []Change)
	// Jumped is called when the whole state was replaced; the watcher has to read anew what it needs.
	Jumped(index uint64)
}

// Role is what a node is to its cluster's log at this moment.
type Role string

const (
	Leader   Role = "leader"
	Follower Role = "follower"
)

// Status describes a store for operators.
type Status struct {
	Role   Role
	Leader string // server id of the leader, "" when there is none
	Term   uint64
	// Applied is the index of the last entry this copy holds.
	Applied uint64
	// Hash is a running hash over all applied batches; two replicas at one index are equal when theirs are.
	Hash uint64
}

// Store is a replicated, ordered key space. Both engines are safe for concurrent use.
type Store interface {
	// Do runs cmd at the writer and returns what its evaluation returned, and the index at which it is committed. A
	// refusal (an error with a fault code) has changed nothing. Do asks again by itself while the outcome is unknown and
	// ctx lasts; it returns fault.Unavailable, details.service "quorum", when no leader answered in time.
	Do(ctx context.Context, cmd Command) (result any, index uint64, err error)
	// View calls read with a state as new as r demands. read's error is returned as it is. The Snapshot is valid until
	// read returns.
	View(ctx context.Context, r Read, read func(Snapshot) error) error
	// Watch calls w for every change to a key that begins with prefix, from now on, until stop is called. After stop has
	// returned w is not called again. stop must not be called from within w.
	Watch(prefix string, w Watcher) (stop func())
	// Lead registers a duty of the leader: duty runs whenever this node holds office, in a goroutine of its own, and its
	// ctx ends when the office does. The store waits for duty to return before it closes. Call it before Start.
	Lead(duty func(ctx context.Context))
	// Status answers from memory, also without a leader.
	Status() Status
}

// Find reads with r, and when the answer is "not found" looks again linearizably before it says so: another node may have
// acknowledged the thing a moment ago. A read that asked for Stale gets the local answer.
func Find(ctx context.Context, s Store, r Read, read func(Snapshot) error) error {
	err := s.View(ctx, r, read)
	if !isNotFound(err) || r.Consistency != Default {
		return err
	}
	again := s.View(ctx, Read{Consistency: Linearizable, MinIndex: r.MinIndex}, read)
	return again
}

// ErrClosed is the cause of every refusal by a store that has been stopped, or has failed and is about to end its process.
var ErrClosed = errors.New("storage: closed")

// Closed refuses what is asked of such a store, so that a caller who is still connected learns that another moment, or another
// node, may do.
func Closed() error {
	return fault.New(fault.Unavailable, "This node is stopping; ask another, or again in a moment.").With("service", "node").After(time.Second).Because(ErrClosed)
}
