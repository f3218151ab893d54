package run_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/nexixai/agentos/agent/event"
	"github.com/nexixai/agentos/agent/queue"
	"github.com/nexixai/agentos/agent/run"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
	"github.com/nexixai/agentos/tenancy/quota"
)

// chaos is a world in which creates, workers, cancels, deaths of nodes and deadlines come in any order, and what has been
// acknowledged of it.
type chaos struct {
	*world
	t        *testing.T
	sessions []string
	runs     []string          // acknowledged
	byKey    map[string]string // idempotency key: run
	leases   []run.Lease       // ever seen, good and stale
	appends  []acknowledged
	finals   map[string][]byte // the final event, once seen
}

// acknowledged is an append that was answered.
type acknowledged struct {
	append run.Append
	last   uint64
}

const slots = 7

func newChaos(t *testing.T) *chaos {
	most := int64(slots)
	return &chaos{
		world: mustWorld(t, tenancy.Quotas{Runs: tenancy.RunQuotas{MaxConcurrentRuns: &most}}), t: t,
		byKey: map[string]string{}, finals: map[string][]byte{},
	}
}

func (c *chaos) open(r *rapid.T) {
	stack := rapid.SampledFrom([]string{"stk_a", "stk_b", "stk_c"}).Draw(r, "stack")
	c.sessions = append(c.sessions, c.mustSession(c.t, stack, rapid.IntRange(0, 3).Draw(r, "workers")))
	c.sweep(r)
}

func (c *chaos) sweep(r *rapid.T) {
	if err := c.world.runs.Sweep(c.t.Context()); err != nil {
		r.Fatal(err)
	}
}

func (c *chaos) die(r *rapid.T) {
	if len(c.sessions) == 0 {
		return
	}
	session := rapid.SampledFrom(c.sessions).Draw(r, "session")
	if err := c.queue.End(c.t.Context(), c.store, session); err != nil {
		r.Fatal(err)
	}
	if rapid.Bool().Draw(r, "at once") {
		c.sweep(r)
	}
}

func (c *chaos) create(r *rapid.T) {
	req := text("hello")
	req.Options.Priority = rapid.SampledFrom([]string{"", "low", "high"}).Draw(r, "priority")
	req.Options.TimeoutMS = rapid.Int64Range(1, 5000).Draw(r, "timeout")
	if rapid.Bool().Draw(r, "with a key") {
		req.IdempotencyKey = rapid.SampledFrom([]string{"k1", "k2", "k3"}).Draw(r, "key")
		req.Options = run.RunOptions{} // or it would be another request
	}
	c.session.id, c.session.free = "", 0
	if len(c.sessions) > 0 && rapid.Bool().Draw(r, "offered") {
		c.session.id, c.session.free = rapid.SampledFrom(c.sessions).Draw(r, "session"), 1
	}
	got, replayed, _, err := c.world.runs.Create(c.t.Context(), actor(tenantID), agentID, req, meta)
	former := c.byKey[req.IdempotencyKey]
	switch {
	case fault.Is(err, fault.RateLimited):
		if c.live() < slots {
			r.Fatalf("refused with %d of %d slots taken", c.live(), slots)
		}
	case err != nil:
		r.Fatal(err)
	case replayed != (former != "") || replayed && got.ID != former:
		r.Fatalf("key %q made %s (replayed %v), the model knows %q", req.IdempotencyKey, got.ID, replayed, former)
	case !replayed:
		c.runs = append(c.runs, got.ID)
		if req.IdempotencyKey != "" {
			c.byKey[req.IdempotencyKey] = got.ID
		}
	}
}

// live is how many acknowledged runs are not final.
func (c *chaos) live() int {
	n := 0
	for _, runID := range c.runs {
		if !c.get(c.t.Context(), c.t, runID).Status.Final() {
			n++
		}
	}
	return n
}

// collect learns of the leases there are.
func (c *chaos) collect() {
	_ = c.store.View(c.t.Context(), storage.Read{}, func(s storage.Snapshot) error {
		for _, session := range c.sessions {
			leases, _ := queue.Leases(s, session, 100)
			for _, l := range leases {
				if !has(c.leases, l) {
					c.leases = append(c.leases, l)
				}
			}
		}
		return nil
	})
}

func has(all []run.Lease, l run.Lease) bool {
	for _, one := range all {
		if one == l {
			return true
		}
	}
	return false
}

// work appends as a worker with some lease, which may be stale, from some place, which may be wrong.
func (c *chaos) work(r *rapid.T) {
	c.collect()
	if len(c.leases) == 0 {
		return
	}
	l := rapid.SampledFrom(c.leases).Draw(r, "lease")
	hot := c.hot(r, l.RunID)
	a := run.Append{Lease: l, After: hot.Sequence}
	if rapid.IntRange(0, 9).Draw(r, "behind") == 0 && a.After > 0 {
		a.After--
	}
	for range rapid.IntRange(1, 3).Draw(r, "events") {
		a.Events = append(a.Events, rapid.SampledFrom([]event.Draft{
			draft(event.RunStarted, `{}`), draft(event.StepStarted, `{}`), draft(event.StepCompleted, `{}`),
			draft(event.ToolCallRequested, `{}`), draft(event.ModelRequested, `{}`),
			draft(event.ModelCompleted, `{"usage":{"input_tokens":1,"output_tokens":2,"total_tokens":3,"cost_usd":0.000000003}}`),
		}).Draw(r, "event"))
		a.Events[len(a.Events)-1].ID = id.New(id.Event)
	}
	if rapid.IntRange(0, 3).Draw(r, "final") == 0 {
		a.Events = append(a.Events, rapid.SampledFrom([]event.Draft{
			draft(event.RunCompleted, `{"output":{"type":"text","text":"x"}}`), draft(event.RunFailed, `{"error":{"code":"timeout"}}`),
			draft(event.RunCanceled, `{"by":"usr_one"}`),
		}).Draw(r, "end"))
		a.Events[len(a.Events)-1].ID = id.New(id.Event)
	}
	last, err := c.world.runs.Append(c.t.Context(), a)
	right := !hot.Status.Final() && hot.Lease == l && a.After == hot.Sequence
	switch {
	case err == nil && !right:
		r.Fatalf("append of %+v was taken, the state being %+v", l, hot)
	case err == nil && last != hot.Sequence+uint64(len(a.Events)):
		r.Fatalf("append answered %d", last)
	case err == nil:
		c.appends = append(c.appends, acknowledged{a, last})
	case right && fault.Is(err, fault.Conflict):
		r.Fatalf("append of the holder refused: %v", err)
	}
}

// again asks anew for something that was answered before.
func (c *chaos) again(r *rapid.T) {
	if len(c.appends) == 0 {
		return
	}
	a := rapid.SampledFrom(c.appends).Draw(r, "append")
	if last, err := c.world.runs.Append(c.t.Context(), a.append); err != nil || last != a.last {
		r.Fatalf("asked again: %d, %v; want %d", last, err, a.last)
	}
}

func (c *chaos) cancel(r *rapid.T) {
	if len(c.runs) == 0 {
		return
	}
	runID := rapid.SampledFrom(c.runs).Draw(r, "run")
	hot := c.hot(r, runID)
	got, _, _, err := c.world.runs.Cancel(c.t.Context(), actor(tenantID), runID)
	switch {
	case hot.Status.Final():
		if !fault.Is(err, fault.Conflict) {
			r.Fatalf("cancel of a run that's %s: %v", hot.Status, err)
		}
	case err != nil:
		r.Fatal(err)
	case hot.SessionID == "" && got.Status != run.Canceled:
		r.Fatalf("cancel of a run that waits left it %s", got.Status)
	case got.CancelRequestedAt == nil:
		r.Fatal("a pending cancel has no time")
	}
}

func (c *chaos) handBack(r *rapid.T) {
	c.collect()
	if len(c.leases) == 0 {
		return
	}
	if err := c.world.runs.HandBack(c.t.Context(), rapid.SampledFrom(c.leases).Draw(r, "lease"), rapid.SampledFrom(c.leases).Draw(r, "other")); err != nil {
		r.Fatal(err)
	}
}

func (c *chaos) pass(r *rapid.T) {
	c.ahead.Add(int64(time.Duration(rapid.IntRange(0, 10_000).Draw(r, "ms")) * time.Millisecond))
	if err := c.world.runs.Overrun(c.t.Context()); err != nil {
		r.Fatal(err)
	}
}

func (c *chaos) hot(r *rapid.T, runID string) (hot run.Hot) {
	err := c.store.View(c.t.Context(), storage.Read{}, func(s storage.Snapshot) (err error) {
		hot, err = run.HotOf(s, tenantID, runID)
		return err
	})
	if err != nil {
		r.Fatal(err)
	}
	return hot
}

// judge checks every invariant there is.
func (c *chaos) judge(r *rapid.T) {
	err := c.store.View(c.t.Context(), storage.Read{}, func(s storage.Snapshot) error {
		live := int64(0)
		held := map[string]int{}
		waiting := uint64(0)
		for _, runID := range c.runs {
			hot, err := run.HotOf(s, tenantID, runID)
			if err != nil {
				return fmt.Errorf("I1: acknowledged run %s: %w", runID, err)
			}
			if err := c.judgeJournal(s, runID, &hot); err != nil {
				return err
			}
			switch {
			case hot.Status.Final():
				if hot.SessionID != "" || hot.Place != "" || hot.WatchMS != 0 {
					return fmt.Errorf("final run %s still has %+v", runID, hot)
				}
				continue
			case (hot.SessionID == "") == (hot.Place == ""):
				return fmt.Errorf("run %s is neither waiting nor leased, or both: %+v", runID, hot)
			case hot.Place != "":
				waiting++
			default:
				held[hot.SessionID]++
			}
			live++
			if raw, err := s.Get(fmt.Sprintf("deadline/%013d/%s/%s", hot.WatchMS, tenantID, runID)); err != nil || raw == nil {
				return fmt.Errorf("run %s stands under no deadline", runID)
			}
		}
		return c.judgeSums(s, live, waiting, held)
	})
	if err != nil {
		r.Fatal(err)
	}
}

func (c *chaos) judgeJournal(s storage.Snapshot, runID string, hot *run.Hot) error {
	journal, err := run.Journal(s, tenantID, runID, hot.Sequence)
	if err != nil {
		return fmt.Errorf("I3: %w", err)
	}
	ids := map[string]bool{}
	for i, e := range journal {
		if e.Sequence != uint64(i)+1 || ids[e.ID] || e.TenantID != tenantID || e.RunID != runID || e.AgentID != agentID {
			return fmt.Errorf("I3: event %d of %s: %+v", i+1, runID, e)
		}
		ids[e.ID] = true
		if e.Type.Final() && i != len(journal)-1 {
			return fmt.Errorf("I4: %s goes on after its final event", runID)
		}
	}
	folded, err := run.Fold(journal)
	if err != nil {
		return err
	}
	if diff := cmp.Diff(folded, hot.Progress); diff != "" {
		return fmt.Errorf("state of %s isn't what its journal comes to: %s", runID, diff)
	}
	last, err := s.Get(event.Key(tenantID, runID, hot.Sequence))
	if err != nil {
		return err
	}
	if former, ok := c.finals[runID]; ok && !bytes.Equal(former, last) {
		return fmt.Errorf("I4: the final event of %s changed from %s to %s", runID, former, last)
	}
	if hot.Status.Final() {
		c.finals[runID] = bytes.Clone(last)
	}
	return nil
}

func (c *chaos) judgeSums(s storage.Snapshot, live int64, waiting uint64, held map[string]int) error {
	taken, err := quota.Slots(s, tenantID)
	if err != nil || taken != live || taken > slots {
		return fmt.Errorf("I6: %d slots are taken by %d runs of at most %d (%v)", taken, live, slots, err)
	}
	high, normal, low, err := queue.Depth(s)
	if err != nil || high+normal+low != waiting {
		return fmt.Errorf("the queue counts %d, %d runs wait (%v)", high+normal+low, waiting, err)
	}
	free := 0
	err = queue.EachSession(s, func(x *queue.Session) bool {
		free += x.Free()
		if x.Leased != held[x.ID] {
			err = fmt.Errorf("session %s counts %d leases, %d runs are leased to it", x.ID, x.Leased, held[x.ID])
			return false
		}
		delete(held, x.ID)
		return true
	})
	switch {
	case err != nil:
		return err
	case len(held) > 0:
		return fmt.Errorf("runs are leased to sessions that aren't there: %v", held)
	case waiting > 0 && free > 0:
		return fmt.Errorf("%d runs wait while %d workers are free", waiting, free)
	}
	counts := map[string]int{}
	for _, part := range []string{"run-list", "run-status", "run-agent"} {
		err := s.Scan(storage.Prefix("tenant/"+tenantID+"/"+part+"/"), func(key string, _ []byte) bool {
			counts[part]++
			if part == "run-status" {
				at := strings.Split(key, "/")
				hot, err := run.HotOf(s, tenantID, at[len(at)-1])
				if err != nil || string(hot.Status) != at[3] {
					counts["wrong"]++
				}
			}
			return true
		})
		if err != nil {
			return err
		}
	}
	want := map[string]int{}
	if n := len(c.runs); n > 0 {
		want = map[string]int{"run-list": n, "run-status": n, "run-agent": n}
	}
	if diff := cmp.Diff(want, counts); diff != "" {
		return fmt.Errorf("lists: %s", diff)
	}
	for _, a := range c.appends {
		for i, d := range a.append.Events {
			raw, err := s.Get(event.Key(tenantID, a.append.RunID, a.append.After+1+uint64(i)))
			if err != nil || !bytes.Contains(raw, []byte(d.ID)) {
				return fmt.Errorf("I1: an acknowledged event is not in the journal of %s", a.append.RunID)
			}
		}
	}
	return nil
}

// Whatever comes in whatever order: nothing acknowledged is lost, journals have no gap and no twin, the end is single and
// final, slots are exact, every run either waits or is leased once, and no worker is idle while something waits.
//
// Requirements: N6, A1.
func TestRuns_AnyOrder(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		c := newChaos(t)
		defer c.store.Close()
		r.Repeat(map[string]func(*rapid.T){
			"open": c.open, "die": c.die, "create": c.create, "create more": c.create, "work": c.work, "work more": c.work, "work even more": c.work,
			"again": c.again, "cancel": c.cancel, "hand back": c.handBack, "pass": c.pass, "": c.judge,
		})
	})
}
