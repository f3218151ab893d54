package queue

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/nexixai/agentos/agent/internal/field"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
)

// Session is one life of one node, as the store knows it.
type Session struct {
	ID      string
	StackID string
	Region  string
	// Workers is how many runs the node works on at once; 0 while it's draining.
	Workers int
	// Leased is how many leases the session holds that take a worker. It may exceed Workers for a while after Workers was
	// lowered.
	Leased int
	// Relays is how many leases it holds of runs that others work on.
	Relays int
	TTL    time.Duration
	// Renewals counts the renewals; who ends a session for silence names the last one it saw.
	Renewals uint64
	// Ended is set when the session may not go on. It still stands until its leases are taken back.
	Ended bool
}

// Free is how many more runs the session can take.
func (s *Session) Free() int {
	if s.Ended {
		return 0
	}
	return max(s.Workers-s.Leased, 0)
}

// Lease is a session's right to write one run's journal.
type Lease struct {
	TenantID  string `json:"tenant_id"`
	RunID     string `json:"run_id"`
	SessionID string `json:"session_id"`
	// Epoch rises each time the run changes hands; a writer with an older one is refused.
	Epoch uint64 `json:"epoch"`
	// Relay says that another organisation works on the run and the holder only passes on what comes back. It takes no worker.
	Relay bool `json:"relay,omitempty"`
}

// Where sessions and leases lie.
const (
	sessionKeys = "session/"  // session/{session}: a Session
	currentKeys = "stack/"    // stack/{stack_id}: the id of its newest session
	leaseKeys   = "lease/"    // lease/{session}/{tenant}/{run}: epoch, whether a cancel was requested, whether it's a relay
	atMost      = 1_000_000   // workers of a node
	minTTL      = time.Second // shorter ones could not be told from a pause
)

func encodeSession(s *Session) []byte {
	b := field.String(make([]byte, 0, 96), s.StackID)
	b = field.String(b, s.Region)
	b = field.Int(b, int64(s.Workers))
	b = field.Int(b, int64(s.Leased))
	b = field.Int(b, int64(s.TTL))
	b = field.Uint(b, s.Renewals)
	b = field.Bool(b, s.Ended)
	return field.Int(b, int64(s.Relays))
}

func decodeSession(id string, raw []byte) (*Session, error) {
	in := field.Read(raw)
	s := &Session{ID: id, StackID: in.String(), Region: in.String()}
	s.Workers, s.Leased, s.TTL = int(in.Int()), int(in.Int()), time.Duration(in.Int())
	s.Renewals, s.Ended, s.Relays = in.Uint(), in.Bool(), int(in.Int())
	if err := in.Err(); err != nil {
		return nil, fmt.Errorf("queue: session %s: %w", id, err)
	}
	return s, nil
}

// ReadSession reads one session, or nil when it isn't there.
func ReadSession(r storage.Reader, id string) (*Session, error) {
	raw, err := r.Get(sessionKeys + id)
	if err != nil || raw == nil {
		return nil, err
	}
	return decodeSession(id, raw)
}

// SessionOf returns the id of a stack's newest session, "" when it has had none.
func SessionOf(r storage.Reader, stackID string) (string, error) {
	raw, err := r.Get(currentKeys + stackID)
	return string(raw), err
}

// EachSession calls visit for each session until it returns false.
func EachSession(r storage.Reader, visit func(*Session) bool) error {
	var broken error
	err := r.Scan(storage.Prefix(sessionKeys), func(key string, value []byte) bool {
		s, err := decodeSession(key[len(sessionKeys):], value)
		if broken = err; err != nil {
			return false
		}
		return visit(s)
	})
	if err == nil {
		err = broken
	}
	return err
}

// FreeSession finds the session with the most free workers among those that may take an item of region ("" is any), or nil.
func FreeSession(r storage.Reader, region string) (best *Session, err error) {
	err = EachSession(r, func(s *Session) bool {
		if (region == "" || s.Region == region) && s.Free() > 0 && (best == nil || s.Free() > best.Free()) {
			best = s
		}
		return true
	})
	return best, err
}

// RelaySession finds a session for a relay: of those that take work, avoid only when there is no other, the one with the
// fewest relays; nil when there is none.
func RelaySession(r storage.Reader, avoid string) (best *Session, err error) {
	worse := func(s *Session) bool {
		if (s.ID == avoid) != (best.ID == avoid) {
			return s.ID == avoid
		}
		return s.Relays >= best.Relays
	}
	err = EachSession(r, func(s *Session) bool {
		if !s.Ended && s.Workers > 0 && (best == nil || !worse(s)) {
			best = s
		}
		return true
	})
	return best, err
}

// Assign ties l's run to s, which has to have a free worker unless l is a relay. l.SessionID is s.ID.
func Assign(tx storage.Tx, s *Session, l Lease) {
	if l.Relay {
		s.Relays++
	} else {
		s.Leased++
	}
	tx.Set(sessionKeys+s.ID, encodeSession(s))
	tx.Set(l.key(), l.row(false))
}

// Cancel tells the holder of l that its run is to be canceled.
func Cancel(tx storage.Tx, l Lease) { tx.Set(l.key(), l.row(true)) }

func (l *Lease) row(canceled bool) []byte {
	b := field.Bool(field.Uint(make([]byte, 0, 12), l.Epoch), canceled)
	return field.Bool(b, l.Relay)
}

// Release ends l and returns its session, nil when that has gone.
func Release(tx storage.Tx, l Lease) (*Session, error) {
	tx.Delete(l.key())
	s, err := ReadSession(tx, l.SessionID)
	if err != nil || s == nil {
		return nil, err
	}
	if l.Relay {
		s.Relays = max(s.Relays-1, 0)
	} else {
		s.Leased = max(s.Leased-1, 0)
	}
	tx.Set(sessionKeys+s.ID, encodeSession(s))
	return s, nil
}

// Leases returns up to limit leases of a session.
func Leases(r storage.Reader, sessionID string, limit int) ([]Lease, error) {
	var leases []Lease
	var broken error
	err := r.Scan(storage.Prefix(leaseKeys+sessionID+"/"), func(key string, value []byte) bool {
		l, _, err := parseLease(key, value)
		if broken = err; err != nil {
			return false
		}
		leases = append(leases, l)
		return len(leases) < limit
	})
	if err == nil {
		err = broken
	}
	return leases, err
}

// Forget removes an ended session that holds no lease any more.
func Forget(tx storage.Tx, id string) { tx.Delete(sessionKeys + id) }

func (l *Lease) key() string {
	b := make([]byte, 0, len(leaseKeys)+len(l.SessionID)+len(l.TenantID)+len(l.RunID)+2)
	b = append(append(b, leaseKeys...), l.SessionID...)
	b = append(append(b, '/'), l.TenantID...)
	b = append(append(b, '/'), l.RunID...)
	return string(b)
}

func parseLease(key string, value []byte) (l Lease, canceled bool, err error) {
	part := strings.SplitN(strings.TrimPrefix(key, leaseKeys), "/", 3)
	if len(part) != 3 {
		return l, false, fmt.Errorf("queue: broken lease %q", key)
	}
	in := field.Read(value)
	l = Lease{SessionID: part[0], TenantID: part[1], RunID: part[2], Epoch: in.Uint()}
	canceled, l.Relay = in.Bool(), in.Bool()
	return l, canceled, in.Err()
}

// Commands are the changes of sessions.
type Commands struct {
	open  storage.Call[openArgs, struct{}]
	renew storage.Call[renewArgs, struct{}]
	end   storage.Call[endArgs, bool]
}

// Define adds the commands to reg.
func Define(reg *storage.Registry) *Commands {
	return &Commands{
		open:  storage.Define(reg, "session.open", open),
		renew: storage.Define(reg, "session.renew", renew),
		end:   storage.Define(reg, "session.end", end),
	}
}

// Open begins a session with the ID, StackID, Region, Workers and TTL of n, and ends the stack's former one. Asking twice is
// harmless; fault.Conflict says that the session has been opened before and has ended.
func (c *Commands) Open(ctx context.Context, s storage.Store, n Session) error {
	_, _, err := c.open.Do(ctx, s, "", openArgs{ID: n.ID, StackID: n.StackID, Region: n.Region, Workers: n.Workers, TTL: n.TTL})
	return err
}

// End ends a session whatever it does; its runs are taken back.
func (c *Commands) End(ctx context.Context, s storage.Store, id string) error {
	_, _, err := c.end.Do(ctx, s, "", endArgs{ID: id})
	return err
}

type openArgs struct {
	ID      string        `json:"id"`
	StackID string        `json:"stack_id"`
	Region  string        `json:"region"`
	Workers int           `json:"workers"`
	TTL     time.Duration `json:"ttl"`
}

// open begins a session and ends the stack's former one. Asking twice is harmless.
func open(tx storage.Tx, a openArgs) (struct{}, error) {
	var none struct{}
	if s, err := ReadSession(tx, a.ID); err != nil {
		return none, err
	} else if s != nil {
		if s.Ended {
			return none, errEnded(false)
		}
		return none, nil
	}
	former, err := tx.Get(currentKeys + a.StackID)
	if err != nil {
		return none, err
	}
	if string(former) == a.ID {
		return none, errEnded(false) // it was opened once and is gone: a very late second asking
	}
	if former != nil {
		if err := endSession(tx, string(former)); err != nil {
			return none, err
		}
	}
	s := &Session{ID: a.ID, StackID: a.StackID, Region: a.Region, Workers: min(max(a.Workers, 0), atMost), TTL: max(a.TTL, minTTL)}
	tx.Set(sessionKeys+s.ID, encodeSession(s))
	tx.Set(currentKeys+a.StackID, []byte(a.ID))
	return none, nil
}

type renewArgs struct {
	ID      string `json:"id"`
	StackID string `json:"stack_id"`
	Workers int    `json:"workers"`
}

// renew keeps a session alive, or says that it has ended.
func renew(tx storage.Tx, a renewArgs) (struct{}, error) {
	var none struct{}
	s, err := ReadSession(tx, a.ID)
	if err != nil {
		return none, err
	}
	if s == nil || s.Ended {
		current, err := tx.Get(currentKeys + a.StackID)
		if err != nil {
			return none, err
		}
		return none, errEnded(current != nil && string(current) != a.ID)
	}
	s.Renewals++
	s.Workers = min(max(a.Workers, 0), atMost)
	tx.Set(sessionKeys+s.ID, encodeSession(s))
	return none, nil
}

type endArgs struct {
	ID string `json:"id"`
	// Renewals, when Silent is set, is the last renewal that was seen: the session is left alone if it has renewed since.
	Renewals uint64 `json:"renewals"`
	Silent   bool   `json:"silent"`
}

// end ends a session and returns whether it has ended.
func end(tx storage.Tx, a endArgs) (bool, error) {
	s, err := ReadSession(tx, a.ID)
	if err != nil {
		return false, err
	}
	if s != nil && a.Silent && s.Renewals != a.Renewals {
		return false, nil
	}
	return true, endSession(tx, a.ID)
}

func endSession(tx storage.Tx, id string) error {
	s, err := ReadSession(tx, id)
	if err != nil || s == nil || s.Ended {
		return err
	}
	s.Ended = true
	tx.Set(sessionKeys+s.ID, encodeSession(s))
	return nil
}

// errEnded refuses a session that has ended. superseded means that another process opened a newer one under its stack id.
func errEnded(superseded bool) error {
	e := fault.New(fault.Conflict, "The session has ended; open a new one.").With("reason", "ended")
	if superseded {
		e = fault.New(fault.Conflict, "Another process has opened a session under this stack id.").With("reason", "superseded")
	}
	return e
}
