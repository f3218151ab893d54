package quota

import (
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
)

// The books: one row per day, principal, agent, model and operation. What one run spent stands in the run.
//
//	tenant/{t}/usage/day/{date}/{principal}/{agent}/{model}/{operation}

const day = "2006-01-02"

// tally is what a row holds.
type tally struct {
	requests, input, output, cost, estimated int64
}

const tallySize = 5 * 8

func readTally(r storage.Reader, key string) (t tally, err error) {
	raw, err := r.Get(key)
	if err != nil || raw == nil {
		return t, err
	}
	if t, err = parseTally(raw); err != nil {
		return t, fmt.Errorf("quota: %s: %w", key, err)
	}
	return t, nil
}

func parseTally(raw []byte) (t tally, err error) {
	if len(raw) != tallySize {
		return t, fmt.Errorf("it has %d bytes", len(raw))
	}
	for i, n := range [...]*int64{&t.requests, &t.input, &t.output, &t.cost, &t.estimated} {
		*n = int64(binary.BigEndian.Uint64(raw[8*i:]))
	}
	return t, nil
}

func (t *tally) write(tx storage.Tx, key string) {
	var b [tallySize]byte
	for i, n := range [...]int64{t.requests, t.input, t.output, t.cost, t.estimated} {
		binary.BigEndian.PutUint64(b[8*i:], uint64(n))
	}
	tx.Set(key, b[:])
}

func (t *tally) add(o tally) {
	t.requests = add(t.requests, o.requests)
	t.input = add(t.input, o.input)
	t.output = add(t.output, o.output)
	t.cost = add(t.cost, o.cost)
	t.estimated = add(t.estimated, o.estimated)
}

// book adds u to its row.
func book(tx storage.Tx, tenantID string, at time.Time, u *Usage) error {
	var buf [256]byte
	b := append(buf[:0], "tenant/"...)
	b = append(b, tenantID...)
	b = append(b, "/usage/day/"...)
	b = at.UTC().AppendFormat(b, day)
	for _, s := range [...]string{u.PrincipalID, u.AgentID, u.Model, u.Operation} {
		b = append(b, '/')
		b = appendName(b, s)
	}
	key := string(b)
	t, err := readTally(tx, key)
	if err != nil {
		return err
	}
	n := tally{requests: u.Requests, input: u.InputTokens, output: u.OutputTokens, cost: u.CostNUSD}
	if u.Estimated {
		n.estimated = max(u.Requests, 1)
	}
	t.add(n)
	t.write(tx, key)
	return nil
}

// appendName appends s as one part of a key: a slash in it would begin the next part.
func appendName(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	for i := 0; i < len(s); i++ {
		switch c := s[i]; c {
		case '/', '%':
			b = append(b, '%', hex[c>>4], hex[c&15])
		default:
			b = append(b, c)
		}
	}
	return b
}

func nameOf(part string) string {
	if !strings.Contains(part, "%") {
		return part
	}
	return strings.NewReplacer("%2f", "/", "%25", "%").Replace(part)
}

// spentSince returns what the books say was spent in w. They are kept by day: a shorter window begins at nothing. It reads
// every row of the window, which is done when the window opens: then there are none, unless the budget is new.
func spentSince(r storage.Reader, tenantID string, w window) (tokens, cost int64, err error) {
	if w.name != "day" && w.name != "month" {
		return 0, 0, nil
	}
	var sum tally
	var failed error
	err = r.Scan(rows(tenantID, w.start, w.end), func(_ string, value []byte) bool {
		var t tally
		if t, failed = parseTally(value); failed != nil {
			return false
		}
		sum.add(t)
		return true
	})
	if err == nil {
		err = failed
	}
	return add(sum.input, sum.output), sum.cost, err
}

// rows is where the rows of the days from first to before end lie.
func rows(tenantID string, first, end time.Time) storage.Range {
	prefix := tenancy.Place(tenantID, "usage", "day", "")
	return storage.Range{From: prefix + first.Format(day), To: prefix + end.Format(day)}
}
