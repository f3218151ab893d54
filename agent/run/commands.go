package run

import (
	"fmt"
	"time"

	"github.com/nexixai/agentos/agent"
	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/agent/queue"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
	"github.com/nexixai/agentos/tenancy/quota"
)

// Commands are the changes of runs.
type Commands struct {
	tenants *tenancy.Commands
	agents  *agent.Commands

	create   storage.Call[createArgs, created]
	append   storage.Call[Append, uint64]
	settle   storage.Call[settleArgs, struct{}]
	cancel   storage.Call[cancelArgs, string]
	handBack storage.Call[handBackArgs, struct{}]
	takeBack storage.Call[takeBackArgs, bool]
	dispatch storage.Call[dispatchArgs, bool]
	overrun  storage.Call[overrunArgs, overrunAnswer]
	offer    storage.Call[offerArgs, struct{}]
	withdraw storage.Call[withdrawArgs, struct{}]
	relay    storage.Call[Relay, uint64]
	giveUp   storage.Call[giveUpArgs, struct{}]
	wait     storage.Call[waitArgs, struct{}]
	told     storage.Call[toldArgs, struct{}]
}

// Define adds the commands to reg. tenants and agents are those of the same registry.
func Define(reg *storage.Registry, tenants *tenancy.Commands, agents *agent.Commands) *Commands {
	c := &Commands{tenants: tenants, agents: agents}
	c.create = storage.Define(reg, "run.create", c.evalCreate)
	c.append = storage.Define(reg, "run.append", c.evalAppend)
	c.settle = storage.Define(reg, "run.settle", evalSettle)
	c.cancel = storage.Define(reg, "run.cancel", evalCancel)
	c.handBack = storage.Define(reg, "run.hand_back", c.evalHandBack)
	c.takeBack = storage.Define(reg, "run.take_back", c.evalTakeBack)
	c.dispatch = storage.Define(reg, "run.dispatch", c.evalDispatch)
	c.overrun = storage.Define(reg, "run.overrun", c.evalOverrun)
	c.offer = storage.Define(reg, "run.offer", evalOffer)
	c.withdraw = storage.Define(reg, "run.withdraw", evalWithdraw)
	c.relay = storage.Define(reg, "run.relay", evalRelay)
	c.giveUp = storage.Define(reg, "run.give_up", evalGiveUp)
	c.wait = storage.Define(reg, "run.wait", evalWait)
	c.told = storage.Define(reg, "run.told", evalTold)
	return c
}

// maxBarren is how many leases in a row may come to nothing before the run is given up: each of them may have taken its
// node down.
const maxBarren = 5

// batch is how many runs one command of the leader's duty changes at most.
const batch = 64

// settleIn queues st, or leases it at once when nothing of equal or higher rank waits and a session has a free worker: the
// one named session if it can, else whichever has most. st is not saved.
func settleIn(tx storage.Tx, st *state, session string) error {
	s, err := queue.ReadSession(tx, session)
	if err != nil {
		return err
	}
	if session == "" || s == nil || s.Free() == 0 || st.Region != "" && s.Region != st.Region {
		s = nil
	}
	region := st.Region
	if s != nil {
		region = s.Region
	}
	waits, err := queue.Waits(tx, region, st.Priority)
	if err != nil {
		return err
	}
	if !waits && s == nil {
		if s, err = queue.FreeSession(tx, st.Region); err != nil {
			return err
		}
	}
	if waits || s == nil {
		st.Place, err = queue.Push(tx, st.item(), st.Weight)
		return err
	}
	st.assign(tx, s)
	return nil
}

// assign leases st to s under a new epoch.
func (st *state) assign(tx storage.Tx, s *queue.Session) {
	st.Place, st.Session, st.StackID = "", s.ID, s.StackID
	st.Epoch++
	if !st.Remote.out() {
		st.Barren++
	}
	queue.Assign(tx, s, st.lease())
}

// fill leases what waits to s, for as long as s has free workers, at most limit runs. It returns how many it leased.
func fill(tx storage.Tx, s *queue.Session, limit int) (int, error) {
	n := 0
	for ; n < limit && s.Free() > 0; n++ {
		it, ok, err := queue.Take(tx, s.Region)
		if err != nil || !ok {
			return n, err
		}
		st, err := readState(tx, keys{it.TenantID, it.RunID})
		if err != nil {
			return n, fmt.Errorf("run: the queue holds a run that isn't there: %w", err)
		}
		st.assign(tx, s)
		st.save(tx, st.Status)
	}
	return n, nil
}

// finish does all that comes with a run's final event, which has just been appended: its slot, its place in the queue, its
// lease, its deadline and what is held back for it go, and the worker that is free now gets the next run that waits. A relay
// keeps its lease while somebody is to be told of the end. st is not saved.
func finish(tx storage.Tx, st *state) error {
	if err := st.forfeit(tx); err != nil {
		return err
	}
	if err := quota.ReleaseRun(tx, st.tenantID); err != nil {
		return err
	}
	st.watch(tx, st.unheardAt())
	if st.Remote != 0 {
		if err := st.homecoming(tx); err != nil {
			return err
		}
	}
	if st.Remote.owes() {
		return st.keepRelay(tx)
	}
	if st.Place != "" {
		if err := queue.Remove(tx, st.Place); err != nil {
			return err
		}
		st.Place = ""
	}
	if st.Session == "" {
		return nil
	}
	s, err := queue.Release(tx, st.lease())
	st.Session = ""
	if err != nil || s == nil || st.Remote.out() {
		return err
	}
	_, err = fill(tx, s, 1)
	return err
}

// end appends a final event and finishes the run. It saves st.
func (st *state) end(tx storage.Tx, d *event.Draft) error {
	before := st.Status
	if err := st.append(tx, d); err != nil {
		return err
	}
	if err := finish(tx, st); err != nil {
		return err
	}
	st.save(tx, before)
	return nil
}

// vacate takes the lease of st away and decides what becomes of the run: canceled if that was asked, given up if too many
// leases came to nothing, else it waits again, ahead of those that came later. It saves st. The freed worker is left free.
func (st *state) vacate(tx storage.Tx, eventID string) error {
	if _, err := queue.Release(tx, st.lease()); err != nil {
		return err
	}
	former := st.Session
	st.Session = ""
	switch {
	case st.Status.Final() && !st.Remote.owes():
		st.save(tx, st.shown())
		return nil
	case st.Remote.out():
		if err := st.relayIn(tx, "", former); err != nil {
			return err
		}
		st.save(tx, st.shown())
		return nil
	case st.CancelMS != 0:
		return st.end(tx, &event.Draft{ID: eventID, Type: event.RunCanceled, Payload: event.Canceled(st.CancelBy)})
	case st.Barren >= maxBarren:
		err := fault.New(fault.Internal, "The run was begun %d times and its worker was lost each time before anything was done; it may be what takes the worker down.", st.Barren)
		return st.end(tx, &event.Draft{ID: eventID, Type: event.RunFailed, Payload: event.Failed(err)})
	}
	var err error
	if st.Place, err = queue.Return(tx, st.item()); err != nil {
		return err
	}
	st.save(tx, st.Status)
	return nil
}

type handBackArgs struct {
	Leases []Lease `json:"leases"`
	// EventIDs has one id for each lease.
	EventIDs []string `json:"event_ids"`
}

// evalHandBack takes leases back from a worker that will not go on with them. Those that are another's by now are let be.
func (c *Commands) evalHandBack(tx storage.Tx, a handBackArgs) (none struct{}, err error) {
	for i, l := range a.Leases {
		st, err := readState(tx, keys{l.TenantID, l.RunID})
		if fault.Is(err, fault.NotFound) {
			continue
		}
		if err != nil {
			return none, err
		}
		if st.Session != l.SessionID || st.Epoch != l.Epoch || i >= len(a.EventIDs) {
			continue
		}
		if err := st.vacate(tx, a.EventIDs[i]); err != nil {
			return none, err
		}
	}
	_, err = dispatch(tx, len(a.Leases))
	return none, err
}

type takeBackArgs struct {
	SessionID string   `json:"session_id"`
	EventIDs  []string `json:"event_ids"`
}

// evalTakeBack takes back the leases of an ended session, as many as there are event ids, and forgets the session with its
// last one. It returns whether some are left.
func (c *Commands) evalTakeBack(tx storage.Tx, a takeBackArgs) (more bool, err error) {
	s, err := queue.ReadSession(tx, a.SessionID)
	if err != nil || s == nil || !s.Ended {
		return false, err
	}
	leases, err := queue.Leases(tx, a.SessionID, len(a.EventIDs)+1)
	if err != nil {
		return false, err
	}
	more = len(leases) > len(a.EventIDs)
	for i, l := range leases[:min(len(leases), len(a.EventIDs))] {
		st, err := readState(tx, keys{l.TenantID, l.RunID})
		switch {
		case fault.Is(err, fault.NotFound) || err == nil && st.Session != l.SessionID:
			_, err = queue.Release(tx, l)
		case err == nil:
			err = st.vacate(tx, a.EventIDs[i])
		}
		if err != nil {
			return false, err
		}
	}
	if !more {
		queue.Forget(tx, a.SessionID)
	}
	_, err = dispatch(tx, len(a.EventIDs))
	return more, err
}

type dispatchArgs struct {
	Limit int `json:"limit"`
}

// evalDispatch leases what waits to whoever is free, and returns whether there may be more to do.
func (c *Commands) evalDispatch(tx storage.Tx, a dispatchArgs) (more bool, err error) {
	orphans := false
	err = queue.EachSession(tx, func(s *queue.Session) bool {
		orphans = s.Ended && s.Leased+s.Relays > 0
		return !orphans
	})
	if err != nil || orphans {
		return false, err // they are taken back first, and have waited longest; the duty comes here again after it
	}
	relays, err := unpark(tx, a.Limit)
	if err != nil {
		return false, err
	}
	n, err := dispatch(tx, a.Limit)
	return n >= a.Limit || relays >= a.Limit, err
}

// dispatch leases up to limit runs, each session taking turns by how many workers it has free.
func dispatch(tx storage.Tx, limit int) (int, error) {
	var free []*queue.Session
	err := queue.EachSession(tx, func(s *queue.Session) bool {
		if s.Free() > 0 {
			free = append(free, s)
		}
		return true
	})
	n := 0
	for err == nil && n < limit && len(free) > 0 {
		most := 0
		for i := range free {
			if free[i].Free() > free[most].Free() {
				most = i
			}
		}
		var got int
		got, err = fill(tx, free[most], 1)
		n += got
		if got == 0 || free[most].Free() == 0 {
			free = append(free[:most], free[most+1:]...)
		}
	}
	return n, err
}

type overrunArgs struct {
	EventIDs []string `json:"event_ids"`
	// GraceMS is how long after its deadline a leased run is left to its worker, which ends it by itself.
	GraceMS int64 `json:"grace_ms"`
}

type overrunAnswer struct {
	// WaitMS is how long until the next run is due; -1 when none is.
	WaitMS int64 `json:"wait_ms"`
}

// evalOverrun ends runs whose time is over, as many as there are event ids.
func (c *Commands) evalOverrun(tx storage.Tx, a overrunArgs) (overrunAnswer, error) {
	now := tx.Now().UnixMilli()
	var due []string
	next := int64(-1)
	var broken error
	err := tx.Scan(storage.Prefix(deadlineKeys), func(key string, _ []byte) bool {
		ms, _, err := parseDeadline(key)
		if broken = err; err != nil {
			return false
		}
		if ms > now || len(due) == len(a.EventIDs) {
			next = max(ms-now, 0)
			return false
		}
		due = append(due, key)
		return true
	})
	if err == nil {
		err = broken
	}
	for i := 0; err == nil && i < len(due); i++ {
		var late int64
		if late, err = c.overdue(tx, due[i], a.EventIDs[i], a.GraceMS); late > 0 && (next < 0 || late-now < next) {
			next = max(late-now, 0)
		}
	}
	return overrunAnswer{WaitMS: next}, err
}

// overdue looks at one run whose deadline has come. A leased one is looked at again at late.
func (c *Commands) overdue(tx storage.Tx, key, eventID string, graceMS int64) (late int64, err error) {
	_, k, err := parseDeadline(key)
	if err != nil {
		return 0, err
	}
	st, err := readState(tx, k)
	if fault.Is(err, fault.NotFound) || err == nil && st.Status.Final() && !st.hidden() {
		tx.Delete(key)
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if st.hidden() {
		return st.unheard(tx, graceMS)
	}
	late = st.DeadlineMS + graceMS
	if st.Remote.out() {
		return st.overdueAway(tx, eventID, late)
	}
	if st.Session != "" && tx.Now().UnixMilli() < late {
		st.watch(tx, late)
		st.save(tx, st.Status)
		return late, nil
	}
	return 0, st.end(tx, &event.Draft{ID: eventID, Type: event.RunFailed, Payload: event.Failed(errTimeout(st))})
}

func errTimeout(st *state) *fault.Error {
	took := time.Duration(st.DeadlineMS-st.CreatedMS) * time.Millisecond
	e := fault.New(fault.Timeout, "The run did not end within its %v; give it more time with run_options.timeout_ms.", took)
	return e.With("timeout_ms", st.DeadlineMS-st.CreatedMS)
}
