package loop

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/agent/run"
)

// noteAfter is how long a run waits without anybody else being told.
const noteAfter = time.Second

// pause is what a worker knows of the waits between two events of its run.
type pause struct {
	last  uint64 // the journal's last sequence meanwhile
	since time.Time
	noted bool
}

// wait waits, but not through a signal, the deadline or a drain.
func (w *worker) wait(e *Effect) {
	w.note(e)
	timer := time.NewTimer(time.Until(e.Until))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-w.ctx.Done():
	case <-w.r.taking.Done():
	}
}

// note lets others know what the run waits for: once it waits longer than noteAfter, in one wait or in many short ones, and
// again when another long one follows. It takes no longer than the wait.
func (w *worker) note(e *Effect) {
	now := time.Now()
	if w.pause.since.IsZero() || w.pause.last != w.state.Last() {
		w.pause = pause{last: w.state.Last(), since: now}
	}
	from := w.pause.since
	if w.pause.noted {
		from = now
	}
	if w.r.o.Waits == nil || e.Until.Sub(from) <= noteAfter {
		return
	}
	ctx, cancel := context.WithDeadline(w.ctx, e.Until)
	defer cancel()
	err := w.r.o.Waits.NoteWait(ctx, run.Wait{Lease: w.lease, After: w.state.Last(), For: e.For, Limit: e.Limit, Until: e.Until})
	if err != nil {
		w.log().Debug("what the run waits for not noted", zap.Error(err))
		return
	}
	w.pause.noted = true
}
