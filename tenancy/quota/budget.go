package quota

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
)

// Reservation holds back part of a budget for one model call whose true size isn't known yet.
type Reservation struct {
	ID       string    `json:"id"` // id.Reservation, minted by the asker
	Tokens   int64     `json:"tokens"`
	CostNUSD int64     `json:"cost_nusd"` // nano-dollars
	Expires  time.Time `json:"expires"`   // after it, the reservation is settled as if all of it had been spent
	// PrincipalID, AgentID and Model say in whose books it goes if it expires. They may be empty.
	PrincipalID string `json:"principal_id,omitempty"`
	AgentID     string `json:"agent_id,omitempty"`
	Model       string `json:"model,omitempty"`
}

// Reserve holds r back in every budget of the tenant, or refuses with fault.QuotaExceeded (details as the contract says).
// Reserving an id twice holds it once. A reservation that comes after its own end is refused with fault.Timeout, so that one
// repeated very late can't be held for ever.
func Reserve(tx storage.Tx, t *tenancy.Tenant, r Reservation) error {
	if err := r.validate(); err != nil {
		return err
	}
	key := reservationKey(t.ID, r.ID)
	if raw, err := tx.Get(key); err != nil {
		return err
	} else if raw != nil {
		return nil
	}
	now := tx.Now()
	if !r.Expires.After(now) {
		return fault.New(fault.Timeout, "The call's time had passed before its budget was reserved; try again, and see that the nodes' clocks agree if it stays.")
	}
	h := held{Reservation: r, made: now}
	if b := t.Quotas.Models.TokenBudget; b != nil {
		w := windowAt(b.Window, now)
		s, err := readSpend(tx, t.ID, w)
		if err != nil {
			return err
		}
		if err := s.fits(t.ID, b, r, w, now); err != nil {
			return err
		}
		s.heldTokens = add(s.heldTokens, r.Tokens)
		s.heldCost = add(s.heldCost, r.CostNUSD)
		s.write(tx)
		h.window = w.name
	}
	tx.Set(key, h.append(make([]byte, 0, 192)))
	tx.Set(tenancy.DueKey(dueReservation, r.Expires, t.ID, r.ID), nil)
	return nil
}

func (r *Reservation) validate() error {
	switch {
	case !id.Valid(r.ID):
		return fault.Invalid("reservation.id", "The reservation's id isn't one.")
	case r.Tokens < 0:
		return fault.Invalid("reservation.tokens", "A reservation can't be negative.")
	case r.CostNUSD < 0:
		return fault.Invalid("reservation.cost_nusd", "A reservation can't be negative.")
	}
	return nil
}

// Usage is what one model call spent, for the books.
type Usage struct {
	PrincipalID  string `json:"principal_id"`
	AgentID      string `json:"agent_id,omitempty"`
	RunID        string `json:"run_id,omitempty"`
	Model        string `json:"model"` // "backend/model"
	Operation    string `json:"operation"`
	Requests     int64  `json:"requests"`
	InputTokens  int64  `json:"input_tokens"`
	OutputTokens int64  `json:"output_tokens"`
	CostNUSD     int64  `json:"cost_nusd"`
	Estimated    bool   `json:"estimated,omitempty"`
}

// Settlement ends a reservation with what was really spent. A nil Usage releases it unspent.
type Settlement struct {
	ReservationID string `json:"reservation_id"`
	Usage         *Usage `json:"usage"`
	// Lost says that who made the call is gone, and what it spent with it: then all that was held back is booked.
	Lost bool `json:"lost,omitempty"`
}

// Settle books s.Usage and ends the reservation, whoever made it and whatever became of its run. Settling an id twice, or
// one that expired, books it once. It's booked into the window and on the day in which it was reserved.
func Settle(tx storage.Tx, tenantID string, s Settlement) error {
	if s.Usage != nil {
		if err := s.Usage.validate(); err != nil {
			return err
		}
	}
	h, ok, err := readHeld(tx, tenantID, s.ReservationID)
	if err != nil || !ok {
		return err // ended before: settled, or expired
	}
	if s.Lost {
		return end(tx, tenantID, h, h.whole("lost"))
	}
	return end(tx, tenantID, h, s.Usage)
}

func (u *Usage) validate() error {
	for _, n := range [...]struct {
		field string
		value int64
	}{
		{"requests", u.Requests}, {"input_tokens", u.InputTokens}, {"output_tokens", u.OutputTokens}, {"cost_nusd", u.CostNUSD},
	} {
		if n.value < 0 {
			return fault.Invalid("usage."+n.field, "Usage can't be negative.")
		}
	}
	return nil
}

// end takes a reservation out of the budget it was made in, puts u there, and writes the books.
func end(tx storage.Tx, tenantID string, h held, u *Usage) error {
	tx.Delete(reservationKey(tenantID, h.ID))
	tx.Delete(tenancy.DueKey(dueReservation, h.Expires, tenantID, h.ID))
	if h.window != "" {
		w := windowAt(h.window, h.made)
		s, ok, err := findSpend(tx, tenantID, w)
		if err != nil {
			return err
		}
		if ok { // a window long past is gone, and with it what was held back in it
			s.heldTokens = max(s.heldTokens-h.Tokens, 0)
			s.heldCost = max(s.heldCost-h.CostNUSD, 0)
			if u != nil {
				s.tokens = add(s.tokens, add(u.InputTokens, u.OutputTokens))
				s.cost = add(s.cost, u.CostNUSD)
			}
			s.write(tx)
		}
	}
	if u == nil {
		return nil
	}
	return book(tx, tenantID, h.made, u)
}

// spend is what one budget has given in one window.
type spend struct {
	key                string
	tokens, heldTokens int64
	cost, heldCost     int64 // nano-dollars
}

const spendSize = 4 * 8

// fits returns nil when r fits into what b has left.
func (s *spend) fits(tenantID string, b *tenancy.TokenBudget, r Reservation, w window, now time.Time) error {
	if b.MaxTokens != nil {
		left := *b.MaxTokens - add(s.tokens, s.heldTokens)
		if left <= 0 || r.Tokens > left {
			return exceeded(tenantID, w, now, "tokens", *b.MaxTokens, s.tokens, s.heldTokens)
		}
	}
	if b.MaxCostUSD != nil && r.CostNUSD > 0 && r.CostNUSD > NUSD(*b.MaxCostUSD)-add(s.cost, s.heldCost) {
		return exceeded(tenantID, w, now, "cost in USD", *b.MaxCostUSD, USD(s.cost), USD(s.heldCost))
	}
	return nil
}

func exceeded(tenantID string, w window, now time.Time, what string, limit, used, reserved any) error {
	return fault.New(fault.QuotaExceeded, "The tenant's budget of this %s for %s has no room for this call; wait until it is reset, or ask the operator for a larger one.", w.name, what).
		With("tenant_id", tenantID).
		With("limit", limit).
		With("used", used).
		With("reserved", reserved).
		With("window", w.name).
		With("resets_at", w.end.Format(time.RFC3339)).
		After(max(w.end.Sub(now), time.Second))
}

func findSpend(r storage.Reader, tenantID string, w window) (s spend, ok bool, err error) {
	s.key = tenancy.Place(tenantID, "budget", w.name, w.label())
	raw, err := r.Get(s.key)
	if err != nil || raw == nil {
		return s, false, err
	}
	if len(raw) != spendSize {
		return s, false, fmt.Errorf("quota: %s has %d bytes", s.key, len(raw))
	}
	for i, n := range [...]*int64{&s.tokens, &s.heldTokens, &s.cost, &s.heldCost} {
		*n = int64(binary.BigEndian.Uint64(raw[8*i:]))
	}
	return s, true, nil
}

func (s *spend) write(tx storage.Tx) {
	var b [spendSize]byte
	for i, n := range [...]int64{s.tokens, s.heldTokens, s.cost, s.heldCost} {
		binary.BigEndian.PutUint64(b[8*i:], uint64(n))
	}
	tx.Set(s.key, b[:])
}

// readSpend returns the state of a window, and opens it when nothing was reserved in it before: a budget that was given
// this kind of window in the middle of one begins with what the books say was spent since its start, and windows long past
// are put away.
func readSpend(tx storage.Tx, tenantID string, w window) (spend, error) {
	s, ok, err := findSpend(tx, tenantID, w)
	if err != nil || ok {
		return s, err
	}
	if s.tokens, s.cost, err = spentSince(tx, tenantID, w); err != nil {
		return s, err
	}
	return s, putAway(tx, tenantID, w)
}

// putAway removes the windows of w's kind that ended more than a window ago. The last one stays: calls reserved in it may
// still be settled, and the clock may step back into it.
func putAway(tx storage.Tx, tenantID string, w window) error {
	last := windowAt(w.name, w.start.Add(-time.Nanosecond))
	prefix := tenancy.Place(tenantID, "budget", w.name, "")
	var old []string
	err := tx.Scan(storage.Range{From: prefix, To: prefix + last.label()}, func(key string, _ []byte) bool {
		old = append(old, key)
		return len(old) < 100
	})
	for _, key := range old {
		tx.Delete(key)
	}
	return err
}

// add adds what is never negative, and stops at the largest number.
func add(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// NUSD returns nano-dollars for dollars, rounded down, as much as an int64 holds.
func NUSD(usd float64) int64 {
	n := math.Floor(usd*1e9 + 1e-3) // 0.1 USD is a hundred million, whatever the binary fraction says
	switch {
	case !(n > 0): // NaN too
		return 0
	case n >= math.MaxInt64:
		return math.MaxInt64
	}
	return int64(n)
}

// USD returns dollars for nano-dollars; printed, it has at most nine decimals.
func USD(nusd int64) float64 { return float64(nusd) / 1e9 }
