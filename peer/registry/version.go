package registry

import (
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
)

// StoreVersion is the highest version of the store that this code can do: all layouts that it reads and writes, and all
// commands that it evaluates. Whoever adds one that earlier code can't read raises it by one, and uses the new one only
// once the cluster's version (GetStoreVersion, Roster.StoreVersion) has come that far: until then a member of an earlier
// release may have to read it.
const StoreVersion = 1

// firstVersion is that of the layouts before there was a version, and so what a member or a store that says nothing has.
const firstVersion = 1

// storeVersion is the highest version that the member's binary can do.
func (m *Member) storeVersion() int { return max(m.StoreVersion, firstVersion) }

// lowest is the highest version that all members can do, of those who have not been removed; 0 when there is none.
func lowest(members []Member) int {
	low := 0
	for _, m := range members {
		if v := m.storeVersion(); m.State != Removed && (low == 0 || v < low) {
			low = v
		}
	}
	return low
}

// raise lifts the cluster's version to the lowest of its members, by what they have said themselves, and answers with the
// version that holds. It never falls: what is written of the new may be anywhere in the store by then.
func raise(tx storage.Tx, by By) (int, error) {
	now, err := GetStoreVersion(tx)
	if err != nil {
		return 0, err
	}
	members, err := Members(tx)
	if err != nil {
		return 0, err
	}
	low := lowest(members)
	if low <= now {
		return now, nil
	}
	if err := put(tx, versionKey, low); err != nil {
		return 0, err
	}
	return low, by.audit(tx, "cluster.store_version", "cluster", map[string]any{"from": now, "to": low})
}

// admits refuses a member whose binary can't read what the store may hold.
func admits(tx storage.Tx, m *Member) error {
	now, err := GetStoreVersion(tx)
	if err != nil {
		return err
	}
	return CheckStoreVersion(m.StackID, now, m.storeVersion())
}

// GetStoreVersion reads the cluster's version: the lowest that its members could do when it was last raised.
func GetStoreVersion(r storage.Reader) (int, error) {
	v := firstVersion
	_, err := get(r, versionKey, &v)
	return v, err
}

// CheckStoreVersion returns fault.UnsupportedCapability when the cluster's version is above own, the highest that the
// binary of the node stackID can do.
func CheckStoreVersion(stackID string, cluster, own int) error {
	if own >= cluster {
		return nil
	}
	return fault.New(fault.UnsupportedCapability, "The store of this cluster is at version %d, and the binary of %s reads it up to version %d: use the release that the other members run, or a later one.",
		cluster, stackID, own).With("store_version", cluster).With("binary_store_version", own)
}
