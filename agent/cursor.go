package agent

import (
	"crypto/sha256"
	"encoding/base64"

	"github.com/nexixai/agentos/internal/fault"
)

// Bounds of lists.
const (
	DefaultLimit = 50
	MaxLimit     = 500
)

// PageLimit reads a list's limit: 0 is the default, and what is out of bounds is fault.InvalidRequest.
func PageLimit(limit int) (int, error) {
	switch {
	case limit == 0:
		return DefaultLimit, nil
	case limit < 0 || limit > MaxLimit:
		return 0, fault.Invalid("limit", "A list's limit is 1 to %d.", MaxLimit)
	}
	return limit, nil
}

const cursorSum = 8

// Cursor makes the cursor of a list: the position of its last entry, bound to the tenant, the kind of list and its filter.
func Cursor(tenantID, list, filter, position string) string {
	sum := cursorOf(tenantID, list, filter)
	return base64.RawURLEncoding.EncodeToString(append(sum[:cursorSum:cursorSum], position...))
}

// Position reads a cursor back. One that is broken, or made for another tenant, list or filter, is fault.InvalidRequest.
// It's no secret: whoever forges one begins at another place of a list that is theirs anyway.
func Position(cursor, tenantID, list, filter string) (string, error) {
	raw, err := base64.RawURLEncoding.DecodeString(cursor)
	if err == nil && len(raw) > cursorSum && len(raw) < 1024 {
		// Made again from what it says, it must be the same: base64 has several spellings of one text.
		if position := string(raw[cursorSum:]); Cursor(tenantID, list, filter, position) == cursor {
			return position, nil
		}
	}
	return "", fault.Invalid("cursor", "The cursor doesn't belong to this list; begin anew without it.")
}

func cursorOf(tenantID, list, filter string) [sha256.Size]byte {
	return sha256.Sum256([]byte(tenantID + "\x00" + list + "\x00" + filter))
}
