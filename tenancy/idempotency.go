package tenancy

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
)

// IdempotencyTTL is how long the answer to a request with an idempotency key is kept.
const IdempotencyTTL = 24 * time.Hour

// MaxIdempotencyKey is the longest key a client may choose, in bytes.
const MaxIdempotencyKey = 256

const dueIdempotency = "idempotency"

// Idempotency names one request that a client may send again. Its scope is the tenant, the principal and the operation.
type Idempotency struct {
	Principal string `json:"principal"`
	Operation string `json:"operation"` // method and path
	Key       string `json:"key"`
	// RequestHash tells the same request from another one under the same key.
	RequestHash string `json:"request_hash"`
	// Pinned keeps the record beyond IdempotencyTTL, until Unpin: for answers that live as long as a thing they made.
	Pinned bool `json:"pinned,omitempty"`
}

// kept is what is stored of a request that was done.
type kept struct {
	RequestHash string          `json:"h"`
	Made        time.Time       `json:"t"`
	Pinned      bool            `json:"p,omitempty"`
	Result      json.RawMessage `json:"r"`
}

// Once does a request of tenantID at most once within tx. When it was done before, Once returns the kept result and
// replayed = true; when something else was done under that key, it returns fault.Conflict. A nil i is done without a record.
// What do refuses leaves no record. R must survive encoding/json; what must not be told twice (a secret) isn't in it.
func Once[R any](tx storage.Tx, tenantID string, i *Idempotency, do func() (R, error)) (result R, replayed bool, err error) {
	if i == nil {
		result, err = do()
		return result, false, err
	}
	what := i.name()
	key := Place(tenantID, "idempotency", what)
	raw, err := tx.Get(key)
	if err != nil {
		return result, false, fmt.Errorf("tenancy: read idempotency record: %w", err)
	}
	if raw != nil {
		var k kept
		if err := json.Unmarshal(raw, &k); err != nil {
			return result, false, fmt.Errorf("tenancy: decode idempotency record: %w", err)
		}
		if k.RequestHash != i.RequestHash {
			return result, false, fault.New(fault.Conflict, "The idempotency key was used for a different request; send the same request again, or choose a new key.").With("field", "idempotency_key")
		}
		if err := json.Unmarshal(k.Result, &result); err != nil {
			return result, false, fmt.Errorf("tenancy: decode kept result: %w", err)
		}
		return result, true, nil
	}
	if result, err = do(); err != nil {
		return result, false, err
	}
	k := kept{RequestHash: i.RequestHash, Made: tx.Now(), Pinned: i.Pinned}
	if k.Result, err = json.Marshal(result); err != nil {
		return result, false, fmt.Errorf("tenancy: encode result: %w", err)
	}
	if raw, err = json.Marshal(k); err != nil {
		return result, false, fmt.Errorf("tenancy: encode idempotency record: %w", err)
	}
	tx.Set(key, raw)
	if !i.Pinned {
		tx.Set(DueKey(dueIdempotency, k.Made.Add(IdempotencyTTL), tenantID, what), nil)
	}
	return result, false, nil
}

// Unpin lets a pinned record go, IdempotencyTTL after it was made or at once if that has passed. It is called when the
// thing that the request made is removed; i needs no RequestHash.
func Unpin(tx storage.Tx, tenantID string, i Idempotency) error {
	what := i.name()
	key := Place(tenantID, "idempotency", what)
	raw, err := tx.Get(key)
	if err != nil || raw == nil {
		return err
	}
	var k kept
	if err := json.Unmarshal(raw, &k); err != nil {
		return fmt.Errorf("tenancy: decode idempotency record: %w", err)
	}
	if !k.Pinned {
		return nil
	}
	ends := k.Made.Add(IdempotencyTTL)
	if !tx.Now().Before(ends) {
		tx.Delete(key)
		return nil
	}
	k.Pinned = false
	if raw, err = json.Marshal(k); err != nil {
		return err
	}
	tx.Set(key, raw)
	tx.Set(DueKey(dueIdempotency, ends, tenantID, what), nil)
	return nil
}

// name is the record's place within its tenant: a hash, so that no choice of texts can meet another's.
func (i *Idempotency) name() string {
	h := sha256.New()
	var n [4]byte
	for _, s := range [...]string{i.Principal, i.Operation, i.Key} {
		n = [4]byte{byte(len(s) >> 24), byte(len(s) >> 16), byte(len(s) >> 8), byte(len(s))}
		h.Write(n[:])
		_, _ = io.WriteString(h, s)
	}
	var sum [sha256.Size]byte
	return hex.EncodeToString(h.Sum(sum[:0]))
}

// sweepIdempotency removes records that have ended, at most limit of them, and returns how many.
func sweepIdempotency(tx storage.Tx, limit int) (int, error) {
	due, err := Due(tx, dueIdempotency, limit)
	if err != nil {
		return 0, err
	}
	for _, d := range due {
		tx.Delete(Place(d.TenantID, "idempotency", d.What))
		tx.Delete(d.Key)
	}
	return len(due), nil
}
