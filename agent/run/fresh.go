package run

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/nexixai/agentos/storage"
)

// freshRuns is how many runs a node remembers that it has created and not yet begun, each with up to maxFresh bytes.
const (
	freshRuns = 512
	maxFresh  = 4 << 10
)

// fresh remembers what this node has sent to the writer as the records of new runs, so that a worker or a relay here,
// which loads such a run a moment later, need not take apart what was just put together. The record in the store remains the truth: what
// is remembered is used only where it is byte for byte what stands there.
type fresh struct {
	mu   sync.Mutex
	rows map[string]*freshRow // by run id
	ring [freshRuns]string    // run ids, the oldest at next
	next int
}

// freshRow is a record without what the writer adds, encoded and decoded.
type freshRow struct {
	rest    json.RawMessage
	record  record
	request Request
}

func (f *fresh) put(a *createArgs) {
	row := a.row
	if a.row = nil; row == nil || len(row.rest) > maxFresh {
		return
	}
	row.record.Auth.KeyID, row.record.Auth.HomeTenantID = "", "" // neither is in a record
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.rows == nil {
		f.rows = make(map[string]*freshRow, freshRuns)
	}
	delete(f.rows, f.ring[f.next])
	f.ring[f.next], f.rows[a.RunID] = a.RunID, row
	f.next = (f.next + 1) % freshRuns
}

// take forgets and returns a row, nil when there is none.
func (f *fresh) take(runID string) *freshRow {
	f.mu.Lock()
	defer f.mu.Unlock()
	row := f.rows[runID]
	delete(f.rows, runID)
	return row
}

// load reads a run's record and request.
func (f *fresh) load(r storage.Reader, k keys) (*record, Request, error) {
	if row := f.take(k.runID); row != nil {
		raw, err := r.Get(k.record())
		if err != nil {
			return nil, Request{}, fmt.Errorf("run: read record: %w", err)
		}
		if rec, ok := row.complete(raw); ok {
			req := row.request
			req.Options, req.given = *rec.Options, 0
			return rec, req, nil
		}
	}
	rec, err := readRecord(r, k)
	if err != nil {
		return nil, Request{}, err
	}
	req, err := rec.request()
	return rec, req, err
}

// complete takes what the writer put before the record that it was sent; ok is false when raw is another record.
func (row *freshRow) complete(raw []byte) (*record, bool) {
	rest := row.rest[1:] // its '{' gave way to what stands before it
	at := len(raw) - len(rest)
	if at < 2 || raw[at-1] != ',' || !bytes.Equal(raw[at:], rest) {
		return nil, false
	}
	head := append(bytes.Clone(raw[:at-1]), '}')
	rec := row.record
	if json.Unmarshal(head, &rec) != nil || rec.Options == nil {
		return nil, false
	}
	return &rec, true
}
