// Package quota decides, inside the command that acts, whether a tenant may: run slots, create rate, tool calls, model
// requests and budgets. Because one writer evaluates commands one by one, no limit is passed at any instant.
//
// Room: who/quota. It imports tenancy, storage and internal/…. What is counted lies under tenant/{tenant_id}/quota/ (slots
// and rates), …/budget/ (what is spent and held back), …/reservation/ (what is held back for which call) and …/usage/ (the
// books). DESIGN.md of package tenancy tells why it's done so.
package quota

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
)

// Names of limits, as errors and Status give them.
const (
	maxConcurrentRuns    = "max_concurrent_runs"
	runCreateQPS         = "run_create_qps"
	toolCallsPerMinute   = "tool_calls_per_minute"
	maxRequestsPerMinute = "max_requests_per_minute"
)

const (
	// slotRetry is told to one who found all run slots taken: nobody knows when a run ends.
	slotRetry = time.Second
	// neverRetry is told to one whose limit is zero: no wait helps, but an operator may raise the limit.
	neverRetry = time.Minute
	// longestRetry bounds what a tiny rate would compute.
	longestRetry = time.Hour
)

// AdmitRun takes one create from the tenant's rate and one run slot, or refuses with fault.RateLimited (Retry-After set).
// The slot is held until ReleaseRun.
func AdmitRun(tx storage.Tx, t *tenancy.Tenant) error {
	key := tenancy.Place(t.ID, "quota", "runs")
	s, err := readRuns(tx, key)
	if err != nil {
		return err
	}
	limits := &t.Quotas.Runs
	if most := limits.MaxConcurrentRuns; most != nil && s.slots >= *most {
		return limited(maxConcurrentRuns, slotRetry, "The tenant has %d runs that have not ended, as many as it may have at once; try again when one has ended.", s.slots).With("max", *most)
	}
	if wait := s.take(limits, tx.Now()); wait > 0 {
		return limited(runCreateQPS, wait, "The tenant creates runs faster than it may; try again later.")
	}
	s.slots++
	s.write(tx, key)
	return nil
}

// ReleaseRun gives one run slot back. It is called once, by the command that makes the run final.
func ReleaseRun(tx storage.Tx, tenantID string) error {
	key := tenancy.Place(tenantID, "quota", "runs")
	s, err := readRuns(tx, key)
	if err != nil {
		return err
	}
	if s.slots == 0 {
		return nil // never below zero: a slot too many is worse than a counter that's wrong for a moment
	}
	s.slots--
	s.write(tx, key)
	return nil
}

// Slots returns how many run slots the tenant holds now. It equals the number of its runs that are not final.
func Slots(r storage.Reader, tenantID string) (int64, error) {
	s, err := readRuns(r, tenancy.Place(tenantID, "quota", "runs"))
	return s.slots, err
}

// TakeToolCall counts one tool call against the tenant's calls per minute, or refuses with fault.RateLimited.
func TakeToolCall(tx storage.Tx, t *tenancy.Tenant) error {
	return takeMinute(tx, t.ID, "tools", t.Quotas.Tools.ToolCallsPerMinute, toolCallsPerMinute)
}

// TakeModelRequest counts one model request against the tenant's requests per minute, or refuses with fault.RateLimited.
func TakeModelRequest(tx storage.Tx, t *tenancy.Tenant) error {
	return takeMinute(tx, t.ID, "models", t.Quotas.Models.MaxRequestsPerMinute, maxRequestsPerMinute)
}

func takeMinute(tx storage.Tx, tenantID, part string, most *int64, name string) error {
	if most == nil {
		return nil // unlimited; when a limit is set, its first minute begins empty
	}
	key := tenancy.Place(tenantID, "quota", part)
	m, err := readMinute(tx, key)
	if err != nil {
		return err
	}
	if wait := m.take(*most, tx.Now()); wait > 0 {
		return limited(name, wait, "The tenant has done this %d times within a minute, as often as it may; try again later.", *most).With("max", *most)
	}
	m.write(tx, key)
	return nil
}

func limited(name string, wait time.Duration, format string, args ...any) *fault.Error {
	return fault.New(fault.RateLimited, format, args...).With("limit", name).After(wait)
}

// runs is the state of a tenant's run slots and create rate: a token bucket.
type runs struct {
	slots int64
	level float64 // creates that may be made at mark
	mark  int64   // Unix nanoseconds; 0 before the first create
}

const runsSize = 3 * 8

func readRuns(r storage.Reader, key string) (runs, error) {
	raw, err := r.Get(key)
	if err != nil || raw == nil {
		return runs{}, err
	}
	if len(raw) != runsSize {
		return runs{}, fmt.Errorf("quota: %s has %d bytes", key, len(raw))
	}
	return runs{
		slots: int64(binary.BigEndian.Uint64(raw)),
		level: math.Float64frombits(binary.BigEndian.Uint64(raw[8:])),
		mark:  int64(binary.BigEndian.Uint64(raw[16:])),
	}, nil
}

func (s *runs) write(tx storage.Tx, key string) {
	var b [runsSize]byte
	binary.BigEndian.PutUint64(b[:], uint64(s.slots))
	binary.BigEndian.PutUint64(b[8:], math.Float64bits(s.level))
	binary.BigEndian.PutUint64(b[16:], uint64(s.mark))
	tx.Set(key, b[:])
}

// take takes one create out of the bucket, or says how long until there is one.
func (s *runs) take(q *tenancy.RunQuotas, now time.Time) (wait time.Duration) {
	if zero(q.RunCreateBurst) || q.RunCreateQPS != nil && *q.RunCreateQPS <= 0 {
		return neverRetry
	}
	if q.RunCreateQPS == nil {
		s.level, s.mark = 0, 0 // a limit set later begins with a full bucket
		return 0
	}
	rate, burst := *q.RunCreateQPS, burstOf(q)
	s.refill(rate, burst, now)
	const slack = 1e-9 // of the float's own rounding
	if s.level < 1-slack {
		return waitFor((1-s.level)/rate) + time.Duration(max(s.mark-now.UnixNano(), 0))
	}
	s.level = max(s.level-1, 0)
	return 0
}

// refill brings the bucket to now. A refusal leaves no trace in the store, so what is seen here of a clock that stepped
// backwards is seen again at the next try: a small step is waited out, and a larger one lets one create through, which then
// sets the mark. A clock that leaps forward fills the bucket, and no more.
func (s *runs) refill(rate, burst float64, now time.Time) {
	n := now.UnixNano()
	switch {
	case s.mark == 0:
		s.level, s.mark = burst, n
	case n >= s.mark:
		s.level += float64(n-s.mark) / float64(time.Second) * rate
		s.mark = n
	case s.mark-n > int64(smallStep):
		s.level, s.mark = max(s.level, 1), n
	}
	s.level = min(s.level, burst)
}

// smallStep is how far a clock may step backwards without notice; nobody waits longer than this for it to catch up.
const smallStep = 2 * time.Second

// burstOf is the bucket's size: as configured, else what one second brings.
func burstOf(q *tenancy.RunQuotas) float64 {
	if q.RunCreateBurst != nil {
		return float64(*q.RunCreateBurst)
	}
	return max(1, math.Ceil(*q.RunCreateQPS))
}

func zero(n *int64) bool { return n != nil && *n <= 0 }

func waitFor(seconds float64) time.Duration {
	if seconds >= longestRetry.Seconds() {
		return longestRetry
	}
	return max(time.Duration(seconds*float64(time.Second)), time.Millisecond)
}
