// Package audit keeps the record of who did what: one append-only, hash-chained list per tenant, and one for the platform.
//
// Room: who/quota. It imports tenancy, storage and internal/…. A command that changes something appends its record in its
// own transaction, so the chain is exact; refusals, which change nothing, come in groups through Denials. List and Verify
// read the chain back; Verify needs no store and works on a file.
package audit

import (
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
)

// Record is one act or refusal. Sequence, PrevHash, Hash, ID and Time are set by Append.
type Record = tenancy.AuditRecord

// Head is the end of a chain.
type Head = tenancy.AuditHead

// Append adds r to its tenant's chain within tx and returns it completed.
func Append(tx storage.Tx, r Record) (Record, error) { return tenancy.AppendAudit(tx, r) }

// ReadHead returns the end of a tenant's chain, the platform's for "".
func ReadHead(r storage.Reader, tenantID string) (Head, error) {
	return tenancy.ReadAuditHead(r, tenantID)
}
