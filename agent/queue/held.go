package queue

import (
	"context"
	"slices"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/storage"
)

// holding is a lease that this node's copy of the store shows for its session.
type holding struct {
	Lease
	index  uint64 // store index of the last change seen
	cancel bool   // a cancel was requested
	lost   chan struct{}
}

func (l *Lease) run() string { return l.TenantID + "/" + l.RunID }

// leaseWatch feeds the leases of one session to Sessions.
type leaseWatch struct {
	s       *Sessions
	session string
}

var _ storage.Watcher = (*leaseWatch)(nil)

// Applied implements storage.Watcher.
func (w *leaseWatch) Applied(index uint64, changes []storage.Change) {
	s := w.s
	s.mu.Lock()
	var told []Lease
	for i := range changes {
		if s.id != w.session {
			break
		}
		c := &changes[i]
		l, canceled, err := parseLease(c.Key, c.Value)
		switch {
		case err != nil:
			s.log.Error("lease can't be read", zap.String("key", c.Key), zap.Error(err))
		case c.Value == nil:
			told = s.drop(told, index, l)
		default:
			told = s.take(told, index, l, canceled)
		}
	}
	s.mu.Unlock()
	s.tell(told)
}

// Jumped implements storage.Watcher.
func (w *leaseWatch) Jumped(uint64) { signal(w.s.resync) }

// take learns of a lease as it stands at index. It returns told with the leases whose workers have to look. s.mu is held.
func (s *Sessions) take(told []Lease, index uint64, l Lease, canceled bool) []Lease {
	h := s.held[l.run()]
	switch {
	case h != nil && h.index > index:
		return told
	case h == nil || h.Epoch != l.Epoch:
		if h != nil {
			s.forget(h)
			told = append(told, h.Lease)
		}
		h = &holding{Lease: l, cancel: canceled, lost: make(chan struct{})}
		s.held[l.run()] = h
		if !l.Relay {
			s.working++
		}
		line := s.line(l)
		line.pending = append(line.pending, h)
		signal(line.wake)
	case canceled && !h.cancel:
		h.cancel = true
		told = append(told, l)
	}
	h.index = index
	return told
}

// drop learns that a lease has ended at index. s.mu is held.
func (s *Sessions) drop(told []Lease, index uint64, l Lease) []Lease {
	if s.gone != nil {
		s.gone[l.run()] = index
	}
	h := s.held[l.run()]
	if h == nil || h.index > index {
		return told
	}
	s.forget(h)
	return append(told, h.Lease)
}

// forget lets go of a lease. s.mu is held.
func (s *Sessions) forget(h *holding) {
	delete(s.held, h.run())
	close(h.lost)
	if !h.Relay {
		s.working--
	}
}

// line is a way by which leases are handed out.
type line struct {
	ch      chan Lease
	wake    chan struct{} // a lease is pending
	pending []*holding    // not delivered yet; guarded by Sessions.mu
}

func newLine() line { return line{ch: make(chan Lease), wake: make(chan struct{}, 1)} }

func (s *Sessions) line(l Lease) *line {
	if l.Relay {
		return &s.relays
	}
	return &s.out
}

// tell makes workers look at their runs. s.mu is not held.
func (s *Sessions) tell(leases []Lease) {
	if len(leases) == 0 {
		return
	}
	s.mu.Lock()
	ears := slices.Clone(s.ears)
	s.mu.Unlock()
	for _, l := range leases {
		for _, e := range ears {
			e.signal(l.TenantID, l.RunID)
		}
	}
}

// deliver hands the pending leases of a line to whoever reads it. It doesn't hold s.mu while it waits.
func (s *Sessions) deliver(ctx context.Context, to *line) {
	defer close(to.ch)
	for {
		h := s.next(to)
		if h == nil {
			select {
			case <-to.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		select {
		case to.ch <- h.Lease:
		case <-h.lost: // before any worker had it
		case <-ctx.Done():
			return
		}
	}
}

// next takes the first pending lease that still holds. A session's first leases may be seen before its opening is
// acknowledged; they wait for that.
func (s *Sessions) next(from *line) *holding {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.open && !s.lapsed && len(from.pending) > 0 {
		h := from.pending[0]
		from.pending = from.pending[1:]
		if s.held[h.run()] == h {
			return h
		}
	}
	return nil
}

// lose gives up every lease and tells the workers. s.mu is not held.
func (s *Sessions) lose() {
	s.mu.Lock()
	var told []Lease
	for _, h := range s.held {
		s.forget(h)
		told = append(told, h.Lease)
	}
	s.open, s.out.pending, s.relays.pending = false, nil, nil
	s.mu.Unlock()
	s.tell(told)
}

// reread takes the session's leases from the store after it was replaced. s.mu is not held.
func (s *Sessions) reread(ctx context.Context) {
	s.mu.Lock()
	session := s.id
	s.gone = make(map[string]uint64)
	s.mu.Unlock()
	rows := make(map[string]holding)
	var index uint64
	err := s.store.View(ctx, storage.Read{Consistency: storage.Stale}, func(v storage.Snapshot) error {
		index = v.Index()
		var broken error
		err := v.Scan(storage.Prefix(leaseKeys+session+"/"), func(key string, value []byte) bool {
			l, canceled, err := parseLease(key, value)
			rows[l.run()], broken = holding{Lease: l, cancel: canceled}, err
			return err == nil
		})
		if err == nil {
			err = broken
		}
		return err
	})
	s.mu.Lock()
	gone := s.gone
	s.gone = nil
	var told []Lease
	if err == nil {
		for run, h := range rows {
			if gone[run] <= index {
				told = s.take(told, index, h.Lease, h.cancel)
			}
		}
		for run, h := range s.held {
			if _, there := rows[run]; !there {
				told = s.drop(told, index, h.Lease)
			}
		}
	}
	s.mu.Unlock()
	s.tell(told)
	if err != nil && ctx.Err() == nil {
		s.log.Error("leases can't be read", zap.Error(err))
		if pause(ctx, s.ttl/20) {
			signal(s.resync)
		}
	}
}
