package tenancy

import (
	"strconv"
	"strings"
	"time"
)

// Where things lie in the store. All of a tenant's data lies under "tenant/{tenant_id}/"; beside it stand the list of
// tenants, the index of key hashes, and the index of what falls due, each entry of which names its tenant.
const (
	tenantKeys    = "tenants/"  // tenants/{tenant_id}: the tenant's own record
	hashKeys      = "key/"      // key/{hash of the secret}: a credential
	platformChain = "platform/" // platform/audit/…
	dueKeys       = "due/"      // due/{kind}/{unix second}/{tenant_id}/{what}
)

// Place returns the key of something that belongs to a tenant: tenant/{tenantID}/{part}/{part}….
func Place(tenantID string, parts ...string) string {
	n := len("tenant/") + len(tenantID)
	for _, p := range parts {
		n += 1 + len(p)
	}
	var b strings.Builder
	b.Grow(n)
	b.WriteString("tenant/")
	b.WriteString(tenantID)
	for _, p := range parts {
		b.WriteByte('/')
		b.WriteString(p)
	}
	return b.String()
}

// DueKey returns the key under which the sweeper finds that something of a tenant ends at t. Keys of one kind sort by time.
func DueKey(kind string, t time.Time, tenantID, what string) string {
	var digits [20]byte
	return dueKeys + kind + "/" + string(appendPadded(digits[:0], dueSecond(t), 12)) + "/" + tenantID + "/" + what
}

// dueSecond is the first whole second at or after t, so that nothing ends early.
func dueSecond(t time.Time) uint64 {
	s := t.Unix()
	if t.Nanosecond() > 0 {
		s++
	}
	return uint64(max(s, 0))
}

// ParseDue takes a key that DueKey made apart.
func ParseDue(key string) (kind string, t time.Time, tenantID, what string, ok bool) {
	rest, ok := strings.CutPrefix(key, dueKeys)
	if !ok {
		return "", time.Time{}, "", "", false
	}
	part := strings.SplitN(rest, "/", 4)
	if len(part) != 4 {
		return "", time.Time{}, "", "", false
	}
	s, err := strconv.ParseInt(part[1], 10, 64)
	if err != nil {
		return "", time.Time{}, "", "", false
	}
	return part[0], time.Unix(s, 0).UTC(), part[2], part[3], true
}

// appendPadded appends n in decimal with leading zeros, at least width digits.
func appendPadded(b []byte, n uint64, width int) []byte {
	var digits [20]byte
	d := strconv.AppendUint(digits[:0], n, 10)
	for i := len(d); i < width; i++ {
		b = append(b, '0')
	}
	return append(b, d...)
}

func keyPlace(tenantID, keyID string) string { return Place(tenantID, "keys", keyID) }
