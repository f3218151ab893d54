package memory

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
	"github.com/nexixai/agentos/tenancy/audit"
)

// Commands are the changes of memory.
type Commands struct {
	put    storage.Call[putArgs, putDone]
	remove storage.Call[removeArgs, struct{}]
}

// Define adds the commands to reg.
func Define(reg *storage.Registry) *Commands {
	return &Commands{
		put:    storage.Define(reg, "memory.put", put),
		remove: storage.Define(reg, "memory.delete", remove),
	}
}

// who is on whose behalf a command changes something.
type who struct {
	TenantID      string `json:"tenant_id"`
	Principal     string `json:"principal"`
	CorrelationID string `json:"correlation_id"`
}

func whoOf(by tenancy.Actor) who {
	return who{TenantID: by.Auth.TenantID, Principal: by.Auth.Principal.ID, CorrelationID: by.CorrelationID}
}

type putArgs struct {
	who
	Namespace string          `json:"namespace"`
	Key       string          `json:"key"`
	Value     json.RawMessage `json:"value"`
	Metadata  json.RawMessage `json:"metadata"`
	Vector    []byte          `json:"vector,omitempty"`
}

type putDone struct {
	Created   bool      `json:"created"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

type removeArgs struct {
	who
	Namespace string `json:"namespace"`
	Key       string `json:"key"`
}

// record is a stored value: times, then metadata, then the value itself.
type record struct {
	created, updated time.Time
	metadata, value  json.RawMessage
}

const recordHead = 1 + 8 + 8 + 4

func (r *record) encode() []byte {
	b := make([]byte, 0, recordHead+len(r.metadata)+len(r.value))
	b = append(b, 1)
	b = binary.BigEndian.AppendUint64(b, uint64(r.created.UnixMilli()))
	b = binary.BigEndian.AppendUint64(b, uint64(r.updated.UnixMilli()))
	b = binary.BigEndian.AppendUint32(b, uint32(len(r.metadata)))
	b = append(b, r.metadata...)
	return append(b, r.value...)
}

// decode reads a record in place.
func decode(raw []byte) (r record, err error) {
	if len(raw) < recordHead || raw[0] != 1 {
		return r, fmt.Errorf("memory: broken record of %d bytes", len(raw))
	}
	n := int(binary.BigEndian.Uint32(raw[17:]))
	if len(raw) < recordHead+n {
		return r, fmt.Errorf("memory: broken record of %d bytes", len(raw))
	}
	r.created = time.UnixMilli(int64(binary.BigEndian.Uint64(raw[1:]))).UTC()
	r.updated = time.UnixMilli(int64(binary.BigEndian.Uint64(raw[9:]))).UTC()
	r.metadata, r.value = raw[recordHead:recordHead+n], raw[recordHead+n:]
	return r, nil
}

func decodeItem(tenantID, namespace, key string, raw []byte) (*Item, error) {
	r, err := decode(raw)
	if err != nil {
		return nil, err
	}
	return &Item{
		TenantID: tenantID, Namespace: namespace, Key: key, Value: r.value, Metadata: r.metadata,
		CreatedAt: r.created, UpdatedAt: r.updated,
	}, nil
}

func itemKey(tenantID, namespace, key string) string {
	return tenancy.Place(tenantID, "memory", namespace, key)
}

func vectorKey(tenantID, namespace, key string) string {
	return tenancy.Place(tenantID, "memory_vectors", namespace, key)
}

func usedKey(tenantID string) string { return tenancy.Place(tenantID, "quota", "memory_bytes") }

func vectorBytesKey(tenantID string) string {
	return tenancy.Place(tenantID, "quota", "memory_vector_bytes")
}

// Used returns how many bytes of memory a tenant uses: of its values, their metadata and their names. What the node keeps
// to find them is not counted.
func Used(r storage.Reader, tenantID string) (int64, error) { return count(r, usedKey(tenantID)) }

func count(r storage.Reader, key string) (int64, error) {
	raw, err := r.Get(key)
	if err != nil || raw == nil {
		return 0, err
	}
	if len(raw) != 8 {
		return 0, fmt.Errorf("memory: broken count of %d bytes", len(raw))
	}
	return int64(binary.BigEndian.Uint64(raw)), nil
}

func size(namespace, key string, r *record) int64 {
	return int64(len(namespace) + len(key) + len(r.metadata) + len(r.value))
}

// account adds delta to what the tenant uses, within its quota.
func account(tx storage.Tx, tenantID string, delta int64) error {
	t, err := tenancy.GetTenant(tx, tenantID)
	if err != nil {
		return err
	}
	used, err := Used(tx, tenantID)
	if err != nil {
		return err
	}
	limit := int64(math.MaxInt64)
	if q := t.Quotas.Storage.MaxMemoryBytes; q != nil {
		limit = *q
	}
	if delta > 0 && used+delta > limit {
		return fault.New(fault.QuotaExceeded, "The tenant's memory is full: %d of %d bytes are used, and this takes %d more. Delete something, or ask for more.", used, limit, delta).
			With("name", "max_memory_bytes").With("tenant_id", tenantID).With("limit", limit).With("used", used).
			With("reserved", 0).With("window", nil).With("resets_at", nil)
	}
	tx.Set(usedKey(tenantID), binary.BigEndian.AppendUint64(nil, uint64(max(used+delta, 0))))
	return nil
}

func put(tx storage.Tx, a putArgs) (putDone, error) {
	key := itemKey(a.TenantID, a.Namespace, a.Key)
	now := tx.Now().UTC().Truncate(time.Millisecond)
	r := record{created: now, updated: now, metadata: a.Metadata, value: a.Value}
	delta := size(a.Namespace, a.Key, &r)
	raw, err := tx.Get(key)
	if err != nil {
		return putDone{}, err
	}
	if raw != nil {
		old, err := decode(raw)
		if err != nil {
			return putDone{}, err
		}
		delta -= size(a.Namespace, a.Key, &old)
		r.created = old.created
	}
	if err := account(tx, a.TenantID, delta); err != nil {
		return putDone{}, err
	}
	created := raw == nil
	tx.Set(key, r.encode())
	if err := setVector(tx, &a.who, a.Namespace, a.Key, a.Vector); err != nil {
		return putDone{}, err
	}
	return putDone{Created: created, CreatedAt: r.created, UpdatedAt: now}, a.note(tx, "memory.put", a.Namespace, a.Key)
}

func remove(tx storage.Tx, a removeArgs) (struct{}, error) {
	var none struct{}
	key := itemKey(a.TenantID, a.Namespace, a.Key)
	raw, err := tx.Get(key)
	if err != nil {
		return none, err
	}
	if raw == nil {
		return none, notFound()
	}
	old, err := decode(raw)
	if err != nil {
		return none, err
	}
	if err := account(tx, a.TenantID, -size(a.Namespace, a.Key, &old)); err != nil {
		return none, err
	}
	tx.Delete(key)
	if err := setVector(tx, &a.who, a.Namespace, a.Key, nil); err != nil {
		return none, err
	}
	return none, a.note(tx, "memory.delete", a.Namespace, a.Key)
}

// minVectorBytes is what a tenant's vectors may take however small its quota is.
const minVectorBytes = 1 << 20

// setVector stores the vector of a value, or takes away what is there. Vectors are not counted as the tenant's, but all of
// them together may take no more than its quota again: small values have vectors that are larger than they are. A value for
// whose vector there is no room is kept without one.
func setVector(tx storage.Tx, w *who, namespace, key string, vector []byte) error {
	at := vectorKey(w.TenantID, namespace, key)
	old, err := tx.Get(at)
	if err != nil || old == nil && vector == nil {
		return err
	}
	taken, err := count(tx, vectorBytesKey(w.TenantID))
	if err != nil {
		return err
	}
	t, err := tenancy.GetTenant(tx, w.TenantID)
	if err != nil {
		return err
	}
	taken -= int64(len(old))
	if most := t.Quotas.Storage.MaxMemoryBytes; most != nil && taken+int64(len(vector)) > max(*most, minVectorBytes) {
		vector = nil
	}
	if vector == nil {
		tx.Delete(at)
	} else {
		tx.Set(at, vector)
	}
	tx.Set(vectorBytesKey(w.TenantID), binary.BigEndian.AppendUint64(nil, uint64(taken+int64(len(vector)))))
	return nil
}

// note writes the audit record.
func (w *who) note(tx storage.Tx, action, namespace, key string) error {
	_, err := audit.Append(tx, audit.Record{
		TenantID: w.TenantID, Principal: w.Principal, Action: action, Resource: "memory/" + namespace + "/" + key,
		Outcome: "ok", CorrelationID: w.CorrelationID,
	})
	return err
}
