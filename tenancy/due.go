package tenancy

import (
	"fmt"
	"time"

	"github.com/nexixai/agentos/storage"
)

// DueItem is something whose time has come.
type DueItem struct {
	Key, TenantID, What string
}

// Due returns what of one kind has ended by tx.Now, oldest first, at most limit.
func Due(tx storage.Tx, kind string, limit int) ([]DueItem, error) {
	var items []DueItem
	prefix := dueKeys + kind + "/"
	end := string(appendPadded([]byte(prefix), uint64(max(tx.Now().Unix(), 0))+1, 12))
	err := tx.Scan(storage.Range{From: prefix, To: end}, func(key string, _ []byte) bool {
		if _, _, tenantID, what, ok := ParseDue(key); ok {
			items = append(items, DueItem{Key: key, TenantID: tenantID, What: what})
		}
		return len(items) < limit
	})
	if err != nil {
		return nil, fmt.Errorf("tenancy: scan what is due: %w", err)
	}
	return items, nil
}

// DuePrefix begins every key that DueKey makes.
const DuePrefix = dueKeys

// dueKinds are what falls due, here and in package quota.
var dueKinds = [...]string{dueIdempotency, dueSecret, DueReservation}

// DueReservation is the kind of the reservations of package quota.
const DueReservation = "reservation"

// NextDue returns when the first thing of any kind ends; ok is false when nothing ever does.
func NextDue(r storage.Reader) (first time.Time, ok bool, err error) {
	for _, kind := range dueKinds {
		err := r.Scan(storage.Prefix(dueKeys+kind+"/"), func(key string, _ []byte) bool {
			_, t, _, _, is := ParseDue(key)
			if is && (!ok || t.Before(first)) {
				first, ok = t, true
			}
			return !is
		})
		if err != nil {
			return first, ok, fmt.Errorf("tenancy: scan what is due: %w", err)
		}
	}
	return first, ok, nil
}

// Sweep ends what has ended of this package: idempotency records and replaced secrets, at most limit of each. It returns
// the larger number. It is part of the evaluation of package sweep's command.
func Sweep(tx storage.Tx, limit int) (int, error) {
	most := 0
	for _, end := range []func(storage.Tx, int) (int, error){sweepIdempotency, sweepSecrets} {
		n, err := end(tx, limit)
		if err != nil {
			return most, err
		}
		most = max(most, n)
	}
	return most, nil
}
