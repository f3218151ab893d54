package run

import (
	"context"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/agent/queue"
	"github.com/nexixai/agentos/storage"
)

// keeper is the leader's duty for runs: it takes back those of sessions that have ended, leases what waits when workers come,
// and ends what is overdue. It acts when the store tells it of a change, and at deadlines; it never polls.
type keeper struct {
	store    storage.Store
	commands *Commands
	warden   *queue.Warden
	graceMS  int64
	log      *zap.Logger
	stop     func()

	sessions  chan struct{} // sessions have changed
	deadlines chan struct{} // an earlier deadline has come up
	next      atomic.Int64  // Unix ms of the deadline that the duty waits for
}

// retry is how long the duty waits before it tries again what failed.
const retry = 250 * time.Millisecond

// maxWait bounds how long the duty trusts its timer: deadlines are told by the wall clock, which may be set.
const maxWait = time.Minute

func newKeeper(o *Options) *keeper {
	k := &keeper{
		store: o.Store, commands: o.Commands, graceMS: o.Grace.Milliseconds(), log: o.Logger,
		sessions: make(chan struct{}, 1), deadlines: make(chan struct{}, 1),
	}
	k.warden = queue.NewWarden(queue.WardenOptions{
		Store: o.Store, Commands: o.QueueCommands, Logger: o.Logger, Changed: func() { poke(k.sessions) },
	})
	k.stop = o.Store.Watch(deadlineKeys, (*deadlineWatch)(k))
	o.Store.Lead(k.keepSessions)
	o.Store.Lead(k.keepDeadlines)
	return k
}

func (k *keeper) close() {
	k.stop()
	k.warden.Close()
}

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// deadlineWatch wakes the duty when a deadline comes up that's earlier than the one it waits for.
type deadlineWatch keeper

var _ storage.Watcher = (*deadlineWatch)(nil)

// Applied implements storage.Watcher.
func (w *deadlineWatch) Applied(_ uint64, changes []storage.Change) {
	next := w.next.Load()
	for i := range changes {
		if changes[i].Value == nil {
			continue
		}
		if ms, _, err := parseDeadline(changes[i].Key); err == nil && ms < next {
			poke(w.deadlines)
			return
		}
	}
}

// Jumped implements storage.Watcher.
func (w *deadlineWatch) Jumped(uint64) { poke(w.deadlines) }

// keepSessions takes back and hands out.
func (k *keeper) keepSessions(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.sessions:
		case <-timer.C:
		}
		if err := k.sweep(ctx); err != nil && ctx.Err() == nil {
			k.log.Warn("runs of ended sessions not taken back yet", zap.Error(err))
			timer.Reset(retry)
		}
	}
}

func (k *keeper) sweep(ctx context.Context) error {
	var ended []string
	err := k.store.View(ctx, storage.Read{Consistency: storage.Stale}, func(r storage.Snapshot) error {
		return queue.EachSession(r, func(s *queue.Session) bool {
			if s.Ended {
				ended = append(ended, s.ID)
			}
			return true
		})
	})
	if err != nil {
		return err
	}
	for _, session := range ended {
		for more := true; more; {
			args := takeBackArgs{SessionID: session, EventIDs: mint(batch)}
			if more, _, err = k.commands.takeBack.Do(ctx, k.store, "", args); err != nil {
				return err
			}
		}
		k.log.Info("runs of an ended session taken back", zap.String("session_id", session))
	}
	for more := true; more; {
		if more, _, err = k.commands.dispatch.Do(ctx, k.store, "", dispatchArgs{Limit: batch}); err != nil {
			return err
		}
	}
	return nil
}

// keepDeadlines ends what is overdue.
func (k *keeper) keepDeadlines(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.deadlines:
		case <-timer.C:
		}
		// Whatever comes up from here on, and is earlier than what the command finds, wakes the duty again.
		k.next.Store(1<<63 - 1)
		answer, _, err := k.commands.overrun.Do(ctx, k.store, "", overrunArgs{EventIDs: mint(batch), GraceMS: k.graceMS})
		wait := maxWait
		switch {
		case err != nil:
			if ctx.Err() == nil {
				k.log.Warn("overdue runs not ended yet", zap.Error(err))
			}
			wait = retry
		case answer.WaitMS >= 0:
			wait = min(time.Duration(answer.WaitMS)*time.Millisecond, maxWait)
		}
		k.next.Store(time.Now().Add(wait).UnixMilli())
		timer.Reset(wait)
	}
}
