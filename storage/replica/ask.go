package replica

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/raft"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
)

// Do implements storage.Store.
func (s *Store) Do(ctx context.Context, cmd storage.Command) (any, uint64, error) {
	o, err := s.ask(ctx, cmd, false)
	if err != nil {
		return nil, 0, err
	}
	s.remember(o.index)
	return o.result, o.index, o.err
}

// remember keeps the highest index that was answered here: default reads wait for it.
func (s *Store) remember(index uint64) {
	for old := s.answered.Load(); index > old; old = s.answered.Load() {
		if s.answered.CompareAndSwap(old, index) {
			return
		}
	}
}

// ask takes a command or a look to the leader, again and again while its outcome is unknown.
func (s *Store) ask(ctx context.Context, cmd storage.Command, look bool) (outcome, error) {
	var quit <-chan time.Time // armed by the first failure
	for try := 0; ; try++ {
		var news <-chan struct{}
		if try > 0 {
			news = s.changed.listen() // before the next look at who leads, so that no change is missed
		}
		if s.stopped() || s.dead.Load() {
			return outcome{}, storage.Closed()
		}
		if err := ctx.Err(); err != nil {
			return outcome{}, ended(err)
		}
		o, known, err := s.attempt(ctx, cmd, look)
		if known || err != nil {
			return o, err
		}
		if quit == nil {
			t := time.NewTimer(s.o.AskTimeout)
			defer t.Stop()
			quit = t.C
			continue // once more, listening this time
		}
		if err := s.await(ctx, news, quit, backoff(try)); err != nil {
			return outcome{}, err
		}
	}
}

// attempt asks once: the writer here, or the leader elsewhere. known is false when nothing came of it.
func (s *Store) attempt(ctx context.Context, cmd storage.Command, look bool) (o outcome, known bool, err error) {
	a := newAsk(ctx, cmd, look)
	entered, err := s.enter(a)
	if err != nil {
		return o, true, err
	}
	if entered {
		select {
		case <-a.done:
			o = a.out
			a.recycle()
			return o, !o.again, nil
		case <-ctx.Done():
			return o, false, ended(ctx.Err())
		}
	}
	a.recycle()
	if address, id := s.raft.LeaderWithID(); s.o.Forward == nil || address == "" || string(id) == s.o.ServerID {
		return o, false, nil
	}
	o, err = s.forward.ask(ctx, s, cmd, look)
	return o, err == nil && !o.again, err
}

// enter hands a to the writer here, if this node is in office. Below the disk's floor no command is taken.
func (s *Store) enter(a *ask) (entered bool, err error) {
	if !a.look && s.disk.low.Load() && s.queue.isOpen() {
		return false, errDisk()
	}
	return s.queue.submit(a), nil
}

// await waits for news, or a moment, before the next attempt.
func (s *Store) await(ctx context.Context, news <-chan struct{}, quit <-chan time.Time, moment time.Duration) error {
	t := time.NewTimer(moment)
	defer t.Stop()
	select {
	case <-news:
	case <-t.C:
	case <-quit:
		return errQuorum(nil)
	case <-s.stop:
		return storage.Closed()
	case <-ctx.Done():
		return ended(ctx.Err())
	}
	return nil
}

func backoff(try int) time.Duration {
	return min(10*time.Millisecond<<min(try, 6), 250*time.Millisecond)
}

// ended turns the end of a caller's context into an answer: a deadline that passed means that no leader answered in time.
func ended(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return errQuorum(err)
	}
	return err
}

func errQuorum(cause error) error {
	return fault.New(fault.Unavailable, "No leader of the cluster answered in time; what was asked may or may not have happened.").
		With("service", "quorum").After(time.Second).Because(cause)
}

// soleVoter reports whether this server is the only voter, and leads: then no other can be in office.
func (s *Store) soleVoter() bool {
	if s.raft.State() != raft.Leader {
		return false
	}
	voters := 0
	for _, server := range s.raft.GetConfiguration().Configuration().Servers {
		if server.Suffrage != raft.Voter {
			continue
		}
		if voters++; voters > 1 || server.ID != raft.ServerID(s.o.ServerID) {
			return false
		}
	}
	return voters == 1
}

// View implements storage.Store.
func (s *Store) View(ctx context.Context, r storage.Read, read func(storage.Snapshot) error) error {
	if s.stopped() || s.dead.Load() {
		return storage.Closed()
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if r.Consistency != storage.Stale {
		index := max(r.MinIndex, s.answered.Load())
		if r.Consistency == storage.Linearizable {
			o, err := s.ask(ctx, storage.Command{}, true)
			if err != nil {
				return err
			}
			if o.err != nil {
				return o.err
			}
			index = max(index, o.index)
		}
		if err := s.reach(ctx, index); err != nil {
			return err
		}
	}
	st := s.acquire()
	if st == nil {
		return storage.Closed()
	}
	defer st.release()
	moment := &moment{db: st.db}
	defer moment.close()
	view := &snapshot{reader: reader{src: moment}}
	if err := read(view); err != nil {
		return err
	}
	return view.err
}

// reach waits until the state holds index.
func (s *Store) reach(ctx context.Context, index uint64) error {
	if s.at.Load().index >= index {
		return nil
	}
	ch := s.waiters.add(index)
	defer s.waiters.forget(ch)
	if s.at.Load().index >= index {
		return nil
	}
	t := time.NewTimer(s.o.AskTimeout)
	defer t.Stop()
	select {
	case <-ch:
		return nil
	case <-t.C:
		return errQuorum(nil)
	case <-s.stop:
		return storage.Closed()
	case <-ctx.Done():
		return ended(ctx.Err())
	}
}
