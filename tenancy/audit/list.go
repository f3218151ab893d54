package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
)

// Filter says which records of a chain to list. Zero values ask for nothing.
type Filter struct {
	From, To time.Time // From ≤ time < To
	Action   string    // e.g. "run.create", or "run." for all that begin with it
	// After continues behind the record of that sequence: towards newer ones, or towards older ones when Newest is set.
	After uint64
	// Newest lists the newest records first.
	Newest bool
}

// maxLook bounds how many records one call of List looks at.
const maxLook = 20_000

// List returns the records of one chain that f asks for, at most limit, in the order of the chain. next continues the list
// when given as Filter.After; it's 0 at the end. A page may hold fewer records than limit and still have a next one: a
// call looks at a bounded number of records.
func List(r storage.Reader, tenantID string, f Filter, limit int) (records []Record, next uint64, err error) {
	records = []Record{}
	if limit <= 0 {
		limit = 50
	}
	if !f.From.IsZero() && !f.To.IsZero() && f.To.Before(f.From) {
		return nil, 0, fault.Invalid("from", "The list would end before it begins.")
	}
	looked, last := 0, uint64(0)
	var failed error
	err = r.Scan(f.span(tenantID), func(key string, raw []byte) bool {
		if len(records) == limit || looked == maxLook {
			next = last
			return false
		}
		looked++
		var rec Record
		var match bool
		if rec, match, failed = f.match(raw); failed != nil {
			failed = fmt.Errorf("audit: read %s: %w", key, failed)
			return false
		}
		last = sequenceOf(key)
		if match {
			records = append(records, rec)
		}
		return true
	})
	if err == nil {
		err = failed
	}
	if err != nil {
		return nil, 0, err
	}
	return records, next, nil
}

// span is the part of the chain that f may list: records only, for the head lies behind them.
func (f *Filter) span(tenantID string) storage.Range {
	prefix := tenancy.ChainPrefix(tenantID)
	span := storage.Range{From: prefix + "0", To: prefix + ":", Reverse: f.Newest}
	if f.After > 0 {
		if f.Newest {
			span.To = tenancy.ChainKey(tenantID, f.After)
		} else {
			span.From = tenancy.ChainKey(tenantID, f.After+1)
		}
	}
	return span
}

func sequenceOf(key string) (n uint64) {
	for i := len(key) - 16; i >= 0 && i < len(key); i++ {
		n = n*10 + uint64(key[i]-'0')
	}
	return n
}

func (f *Filter) match(raw []byte) (rec Record, ok bool, err error) {
	if f.Action != "" && !bytes.Contains(raw, []byte(f.Action)) {
		return rec, false, nil // most records needn't be decoded
	}
	if err := json.Unmarshal(raw, &rec); err != nil {
		return rec, false, err
	}
	if !f.From.IsZero() && rec.Time.Before(f.From) || !f.To.IsZero() && !rec.Time.Before(f.To) {
		return rec, false, nil
	}
	if f.Action == "" || rec.Action == f.Action {
		return rec, true, nil
	}
	family := f.Action[len(f.Action)-1] == '.' && len(rec.Action) > len(f.Action) && rec.Action[:len(f.Action)] == f.Action
	return rec, family, nil
}
