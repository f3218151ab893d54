package tenancy

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/oklog/ulid/v2"

	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/storage"
)

// AuditRecord is one act or refusal, a link of its tenant's chain. Package audit is the door to it; it stands here because
// the commands of this package append to the chain, and a parent imports no child.
//
// Sequence, Time, PrevHash, Hash and ID are set when the record is appended. Hash covers everything else, so each record
// fixes all before it; ID is made from Time and Hash.
type AuditRecord struct {
	ID            string         `json:"audit_id"`
	Sequence      uint64         `json:"sequence"`
	Time          time.Time      `json:"time"`
	TenantID      string         `json:"tenant_id"` // "" for the platform's own chain
	Principal     string         `json:"principal"`
	Action        string         `json:"action"`   // e.g. "run.create"
	Resource      string         `json:"resource"` // e.g. "run/run_…"
	Outcome       string         `json:"outcome"`  // "ok", or the error code
	CorrelationID string         `json:"correlation_id"`
	Peer          string         `json:"peer,omitempty"`
	Policy        string         `json:"policy,omitempty"`
	Details       map[string]any `json:"details,omitempty"`
	Count         int            `json:"count,omitempty"` // >1: so many equal refusals in one record
	PrevHash      string         `json:"prev_hash"`
	Hash          string         `json:"hash"`
}

// AuditHead is the end of a chain: how long it is, and the hash of its last record.
type AuditHead struct {
	Sequence uint64 `json:"sequence"`
	Hash     string `json:"hash"`
}

// NoHash stands for the record before the first one.
const NoHash = "0000000000000000000000000000000000000000000000000000000000000000"

// chainForm is hashed first, so that a later form of the record can't be taken for this one.
const chainForm = "agentos.audit.1"

// ChainPrefix is where the chain of a tenant lies, the platform's for "".
func ChainPrefix(tenantID string) string {
	if tenantID == "" {
		return platformChain + "audit/"
	}
	return Place(tenantID, "audit", "")
}

func headKey(tenantID string) string {
	if tenantID == "" {
		return platformChain + "audit/head"
	}
	return Place(tenantID, "audit", "head")
}

// ChainKey is where one record of a chain lies.
func ChainKey(tenantID string, sequence uint64) string {
	var digits [20]byte
	n := string(appendPadded(digits[:0], sequence, 16))
	if tenantID == "" {
		return platformChain + "audit/" + n
	}
	return Place(tenantID, "audit", n)
}

// ReadAuditHead returns the end of a chain; an empty one ends at 0 with NoHash.
func ReadAuditHead(r storage.Reader, tenantID string) (AuditHead, error) {
	raw, err := r.Get(headKey(tenantID))
	switch {
	case err != nil:
		return AuditHead{}, fmt.Errorf("tenancy: read audit head: %w", err)
	case raw == nil:
		return AuditHead{Hash: NoHash}, nil
	case len(raw) != 8+sha256.Size:
		return AuditHead{}, fmt.Errorf("tenancy: audit head of %q has %d bytes", tenantID, len(raw))
	}
	return AuditHead{Sequence: binary.BigEndian.Uint64(raw), Hash: hex.EncodeToString(raw[8:])}, nil
}

// AppendAudit adds r to the end of its tenant's chain within tx, and returns it completed.
func AppendAudit(tx storage.Tx, r AuditRecord) (AuditRecord, error) {
	head, err := ReadAuditHead(tx, r.TenantID)
	if err != nil {
		return r, err
	}
	if err := r.tidy(); err != nil {
		return r, err
	}
	r.Sequence, r.PrevHash, r.Time = head.Sequence+1, head.Hash, tx.Now().Round(0).UTC()
	details, err := detailBytes(r.Details)
	if err != nil {
		return r, err
	}
	sum := r.sum(details)
	r.Hash = hex.EncodeToString(sum[:])
	r.ID = r.idOf(sum)

	buf := make([]byte, 0, 768+len(details))
	tx.Set(ChainKey(r.TenantID, r.Sequence), r.appendJSON(buf, details))
	end := binary.BigEndian.AppendUint64(buf[:0], r.Sequence)
	tx.Set(headKey(r.TenantID), append(end, sum[:]...))
	return r, nil
}

// tidy brings r into the form that survives JSON unchanged, so that its hash can be checked from a file.
func (r *AuditRecord) tidy() error {
	for _, s := range []*string{&r.TenantID, &r.Principal, &r.Action, &r.Resource, &r.Outcome, &r.CorrelationID, &r.Peer, &r.Policy} {
		if !utf8.ValidString(*s) {
			*s = strings.ToValidUTF8(*s, "\uFFFD")
		}
	}
	if r.Count <= 1 {
		r.Count = 0
	}
	if len(r.Details) == 0 {
		r.Details = nil
		return nil
	}
	for k, v := range r.Details {
		if s, plain := v.(string); !plain || !utf8.ValidString(s) || !utf8.ValidString(k) {
			return r.settleDetails()
		}
	}
	return nil
}

// settleDetails sends Details through JSON once: what comes out encodes to the same bytes for ever.
func (r *AuditRecord) settleDetails() error {
	raw, err := json.Marshal(r.Details)
	if err != nil {
		return fmt.Errorf("tenancy: audit details: %w", err)
	}
	r.Details, err = decodeDetails(raw)
	return err
}

func decodeDetails(raw []byte) (map[string]any, error) {
	dec := json.NewDecoder(strings.NewReader(string(raw)))
	dec.UseNumber()
	var m map[string]any
	if err := dec.Decode(&m); err != nil {
		return nil, fmt.Errorf("tenancy: audit details: %w", err)
	}
	return m, nil
}

func detailBytes(m map[string]any) ([]byte, error) {
	if len(m) == 0 {
		return nil, nil
	}
	b, err := json.Marshal(m) // sorts the keys
	if err != nil {
		return nil, fmt.Errorf("tenancy: audit details: %w", err)
	}
	return b, nil
}

// AuditSum computes what r.Hash has to be, and the ID that belongs to it.
func AuditSum(r AuditRecord) (hash, auditID string, err error) {
	details, err := detailBytes(r.Details)
	if err != nil {
		return "", "", err
	}
	sum := r.sum(details)
	return hex.EncodeToString(sum[:]), r.idOf(sum), nil
}

func (r *AuditRecord) sum(details []byte) [sha256.Size]byte {
	b := make([]byte, 0, 1024)
	b = append(b, chainForm...)
	b = binary.BigEndian.AppendUint64(b, r.Sequence)
	b = binary.BigEndian.AppendUint64(b, uint64(r.Count))
	var stamp [40]byte
	b = appendSized(b, r.Time.UTC().AppendFormat(stamp[:0], time.RFC3339Nano))
	for _, s := range [...]string{r.TenantID, r.Principal, r.Action, r.Resource, r.Outcome, r.CorrelationID, r.Peer, r.Policy, r.PrevHash} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	b = appendSized(b, details)
	return sha256.Sum256(b)
}

func appendSized(b, s []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}

// idOf makes the record's ID of its time and its hash, so that the ID too can be checked.
func (r *AuditRecord) idOf(sum [sha256.Size]byte) string {
	var u ulid.ULID
	if err := u.SetTime(uint64(max(r.Time.UnixMilli(), 0))); err != nil {
		_ = u.SetTime(ulid.MaxTime())
	}
	copy(u[6:], sum[:10])
	b := make([]byte, len(id.Audit)+ulid.EncodedSize)
	copy(b, id.Audit)
	_ = u.MarshalTextTo(b[len(id.Audit):])
	return string(b)
}

// appendJSON writes r as encoding/json would, by hand: each run and each mutation writes a record.
func (r *AuditRecord) appendJSON(b, details []byte) []byte {
	b = append(b, `{"audit_id":`...)
	b = appendString(b, r.ID)
	b = append(b, `,"sequence":`...)
	b = appendPadded(b, r.Sequence, 1)
	b = append(b, `,"time":"`...)
	b = r.Time.AppendFormat(b, time.RFC3339Nano)
	b = append(b, '"')
	b = appendMember(b, "tenant_id", r.TenantID)
	b = appendMember(b, "principal", r.Principal)
	b = appendMember(b, "action", r.Action)
	b = appendMember(b, "resource", r.Resource)
	b = appendMember(b, "outcome", r.Outcome)
	b = appendMember(b, "correlation_id", r.CorrelationID)
	if r.Peer != "" {
		b = appendMember(b, "peer", r.Peer)
	}
	if r.Policy != "" {
		b = appendMember(b, "policy", r.Policy)
	}
	if details != nil {
		b = append(b, `,"details":`...)
		b = append(b, details...)
	}
	if r.Count > 0 {
		b = append(b, `,"count":`...)
		b = appendPadded(b, uint64(r.Count), 1)
	}
	b = appendMember(b, "prev_hash", r.PrevHash)
	b = appendMember(b, "hash", r.Hash)
	return append(b, '}')
}

func appendMember(b []byte, name, value string) []byte {
	b = append(b, ',', '"')
	b = append(b, name...)
	b = append(b, '"', ':')
	return appendString(b, value)
}

func appendString(b []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' || c >= utf8.RuneSelf {
			quoted, _ := json.Marshal(s) // a string always encodes
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

// UnmarshalJSON implements json.Unmarshaler. It keeps numbers in Details as they were written, so that a record read from a
// file hashes as it did when it was made.
func (r *AuditRecord) UnmarshalJSON(b []byte) error {
	type plain AuditRecord
	var in struct {
		plain
		Details json.RawMessage `json:"details"`
	}
	if err := json.Unmarshal(b, &in); err != nil {
		return err
	}
	*r = AuditRecord(in.plain)
	r.Details = nil
	if len(in.Details) == 0 || string(in.Details) == "null" {
		return nil
	}
	var err error
	r.Details, err = decodeDetails(in.Details)
	return err
}
