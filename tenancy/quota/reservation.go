package quota

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
)

const dueReservation = tenancy.DueReservation

// held is a reservation as it's kept until it ends.
type held struct {
	Reservation
	made   time.Time
	window string // the kind of window it's held back in; "" when the tenant had no budget
}

func reservationKey(tenantID, reservationID string) string {
	return tenancy.Place(tenantID, "reservation", reservationID)
}

const heldForm = 1

func (h *held) append(b []byte) []byte {
	b = append(b, heldForm)
	b = binary.AppendVarint(b, h.Tokens)
	b = binary.AppendVarint(b, h.CostNUSD)
	b = binary.AppendVarint(b, h.Expires.UnixNano())
	b = binary.AppendVarint(b, h.made.UnixNano())
	for _, s := range [...]string{h.window, h.PrincipalID, h.AgentID, h.Model} {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	return b
}

var errShort = errors.New("it ends too early")

func readHeld(r storage.Reader, tenantID, reservationID string) (h held, ok bool, err error) {
	raw, err := r.Get(reservationKey(tenantID, reservationID))
	if err != nil || raw == nil {
		return h, false, err
	}
	h.ID = reservationID
	if err := h.parse(raw); err != nil {
		return h, false, fmt.Errorf("quota: reservation %s of %s: %w", reservationID, tenantID, err)
	}
	return h, true, nil
}

func (h *held) parse(b []byte) error {
	if len(b) == 0 || b[0] != heldForm {
		return errors.New("its form is unknown")
	}
	b = b[1:]
	var expires, made int64
	for _, n := range [...]*int64{&h.Tokens, &h.CostNUSD, &expires, &made} {
		v, size := binary.Varint(b)
		if size <= 0 {
			return errShort
		}
		*n, b = v, b[size:]
	}
	h.Expires, h.made = time.Unix(0, expires).UTC(), time.Unix(0, made).UTC()
	for _, s := range [...]*string{&h.window, &h.PrincipalID, &h.AgentID, &h.Model} {
		n, size := binary.Uvarint(b)
		if size <= 0 || n > uint64(len(b)-size) {
			return errShort
		}
		*s, b = string(b[size:size+int(n)]), b[size+int(n):]
	}
	return nil
}

// whole is what a call is taken to have spent when nobody knows: all that was held back for it.
func (h *held) whole(operation string) *Usage {
	return &Usage{
		PrincipalID: h.PrincipalID, AgentID: h.AgentID, Model: h.Model, Operation: operation,
		Requests: 1, OutputTokens: h.Tokens, CostNUSD: h.CostNUSD, Estimated: true,
	}
}

// Held returns a reservation that has not ended, or nil.
func Held(r storage.Reader, tenantID, reservationID string) (*Reservation, error) {
	h, ok, err := readHeld(r, tenantID, reservationID)
	if err != nil || !ok {
		return nil, err
	}
	return &h.Reservation, nil
}

// Expire ends reservations whose time has passed, as if all of them had been spent, at most limit of them. It returns how
// many. It is the evaluation of a leader's duty: nobody knows what became of those calls, and a budget must not be passed.
func Expire(tx storage.Tx, limit int) (int, error) {
	due, err := tenancy.Due(tx, dueReservation, limit)
	if err != nil {
		return 0, err
	}
	for _, d := range due {
		tx.Delete(d.Key)
		h, ok, err := readHeld(tx, d.TenantID, d.What)
		if err != nil {
			return 0, err
		}
		if !ok {
			continue
		}
		if err := end(tx, d.TenantID, h, h.whole("expired")); err != nil {
			return 0, err
		}
	}
	return len(due), nil
}
