package audit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
)

// BrokenError says where a chain is not what it was.
type BrokenError struct {
	TenantID string
	Sequence uint64 // the record at fault, or the one that is missing
	Reason   string
}

// Error names the place and the reason.
func (e *BrokenError) Error() string {
	chain := "the platform's chain"
	if e.TenantID != "" {
		chain = "the chain of " + e.TenantID
	}
	return fmt.Sprintf("%s is broken at record %d: %s", chain, e.Sequence, e.Reason)
}

// Verify checks that records are one whole chain from its first record to head, and returns how many it has checked. A
// *BrokenError names the first place that was edited, removed, added or moved. Without a head (nil) it can't tell whether
// records were cut off at the end. An error that comes with a record is returned as it is.
func Verify(records iter.Seq2[Record, error], head *Head) (n int, err error) {
	last := Head{Hash: tenancy.NoHash}
	tenantID := ""
	for r, err := range records {
		if err != nil {
			return n, err
		}
		if n == 0 {
			tenantID = r.TenantID
		}
		broken := func(format string, args ...any) error {
			return &BrokenError{TenantID: tenantID, Sequence: last.Sequence + 1, Reason: fmt.Sprintf(format, args...)}
		}
		if r.TenantID != tenantID {
			return n, broken("its tenant is %q", r.TenantID)
		}
		switch {
		case r.Sequence <= last.Sequence:
			return n, broken("record %d stands in its place, a second time or out of order", r.Sequence)
		case r.Sequence > last.Sequence+1:
			return n, broken("it is missing; record %d stands in its place", r.Sequence)
		}
		hash, auditID, err := tenancy.AuditSum(r)
		switch {
		case err != nil:
			return n, broken("it can't be hashed: %v", err)
		case r.PrevHash != last.Hash:
			return n, broken("it doesn't follow the record before it: one of the two was changed")
		case r.Hash != hash:
			return n, broken("its content isn't what its hash says")
		case r.ID != auditID:
			return n, broken("its id isn't the one of its content")
		}
		last = Head{Sequence: r.Sequence, Hash: r.Hash}
		n++
	}
	if head == nil {
		return n, nil
	}
	switch {
	case head.Sequence > last.Sequence:
		return n, &BrokenError{TenantID: tenantID, Sequence: last.Sequence + 1, Reason: fmt.Sprintf("it is missing; the chain goes on to record %d", head.Sequence)}
	case head.Sequence < last.Sequence:
		return n, &BrokenError{TenantID: tenantID, Sequence: head.Sequence + 1, Reason: "the chain ends before it"}
	case head.Hash != last.Hash:
		return n, &BrokenError{TenantID: tenantID, Sequence: last.Sequence, Reason: "its hash isn't the one that the chain ends with"}
	}
	return n, nil
}

// maxLine bounds a line of a file of records: a record's command is bounded to a megabyte too.
const maxLine = 2 << 20

// Lines reads records from a file that holds one on each line. What a hash doesn't cover is an error: a member that a
// record hasn't got, and a member that stands there twice. Empty lines are skipped.
func Lines(r io.Reader) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		sc := bufio.NewScanner(r)
		sc.Buffer(nil, maxLine)
		for line := 1; sc.Scan(); line++ {
			raw := bytes.TrimSpace(sc.Bytes())
			if len(raw) == 0 {
				continue
			}
			rec, err := parseLine(raw)
			if err != nil {
				yield(Record{}, fmt.Errorf("line %d: %w", line, err))
				return
			}
			if !yield(rec, nil) {
				return
			}
		}
		if err := sc.Err(); err != nil {
			yield(Record{}, fmt.Errorf("read records: %w", err))
		}
	}
}

func parseLine(raw []byte) (rec Record, err error) {
	if err := onlyOnce(json.NewDecoder(bytes.NewReader(raw)), 0); err != nil {
		return rec, err
	}
	if err := json.Unmarshal(raw, &rec); err != nil {
		return rec, err
	}
	if written := rec.Time.UTC().Format(time.RFC3339Nano); !bytes.Contains(raw, []byte(`"`+written+`"`)) {
		return rec, fmt.Errorf("its time isn't written as %s", written)
	}
	return rec, nil
}

// members are those a record has; each is covered by the hash.
const members = " audit_id sequence time tenant_id principal action resource outcome correlation_id peer policy details count prev_hash hash "

// onlyOnce reads one value and checks that no object in it has a member twice, and the outermost none but a record's.
func onlyOnce(dec *json.Decoder, depth int) error {
	if depth > 64 {
		return errors.New("it is nested too deeply")
	}
	token, err := dec.Token()
	if err != nil {
		return err
	}
	open, ok := token.(json.Delim)
	if !ok {
		if depth == 0 {
			return errors.New("it isn't an object")
		}
		return nil
	}
	seen := make(map[string]bool)
	for dec.More() {
		if open == '{' {
			name, err := dec.Token()
			if err != nil {
				return err
			}
			member := name.(string) // a JSON object's names are strings
			if seen[member] {
				return fmt.Errorf("the member %q stands there twice", member)
			}
			if depth == 0 && !strings.Contains(members, " "+member+" ") {
				return fmt.Errorf("a record has no member %q", member)
			}
			seen[member] = true
		}
		if err := onlyOnce(dec, depth+1); err != nil {
			return err
		}
	}
	_, err = dec.Token()
	return err
}

// Chain reads a whole chain from the store, for Verify.
func Chain(r storage.Reader, tenantID string) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		all := Filter{}
		err := r.Scan(all.span(tenantID), func(key string, raw []byte) bool {
			rec, err := parseLine(raw)
			if err != nil {
				err = &BrokenError{TenantID: tenantID, Sequence: sequenceOf(key), Reason: err.Error()}
			}
			return yield(rec, err) && err == nil
		})
		if err != nil {
			yield(Record{}, fmt.Errorf("read records: %w", err))
		}
	}
}
