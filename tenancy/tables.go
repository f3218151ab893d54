package tenancy

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"sync"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/storage/mirror"
)

// tables are the directory's memory: a copy of all credentials and tenants.
type tables struct {
	log *zap.Logger

	mu      sync.RWMutex
	entries map[[sha256.Size]byte]*entry
	tenants map[string]*Tenant
}

func newTables(log *zap.Logger) *tables {
	return &tables{log: log, entries: make(map[[sha256.Size]byte]*entry), tenants: make(map[string]*Tenant)}
}

// follow keeps the tables up to what is in store. Until they have been read every name is looked up in the store, so nobody is
// told anything wrong.
func follow(store storage.Store, log *zap.Logger) *mirror.Mirror[*tables] {
	return mirror.New(mirror.Options[*tables]{
		Store: store, Prefixes: []string{hashKeys, tenantKeys}, What: "tenants and keys", Logger: log, Empty: newTables(log),
		Read: func(s storage.Snapshot) (*tables, error) { return readTables(s, log) },
		Apply: func(t *tables, changes []storage.Change) *tables {
			t.mu.Lock()
			defer t.mu.Unlock()
			for _, c := range changes {
				t.apply(c)
			}
			return t
		},
	})
}

func readTables(s storage.Reader, log *zap.Logger) (*tables, error) {
	read := newTables(log)
	for _, prefix := range []string{hashKeys, tenantKeys} {
		err := s.Scan(storage.Prefix(prefix), func(key string, value []byte) bool {
			read.apply(storage.Change{Key: key, Value: value})
			return true
		})
		if err != nil {
			return nil, err
		}
	}
	return read, nil
}

// entry returns the credential with that hash, or nil.
func (t *tables) entry(sum [sha256.Size]byte) *entry {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.entries[sum]
}

func (t *tables) tenant(tenantID string) *Tenant {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.tenants[tenantID]
}

// apply puts one change into the tables. Nobody else sees them yet, or t.mu is held.
func (t *tables) apply(c storage.Change) {
	if c.RangeEnd != "" {
		in := func(key string) bool { return c.Key <= key && key < c.RangeEnd }
		for sum := range t.entries {
			if in(hashKeys + hex.EncodeToString(sum[:])) {
				delete(t.entries, sum)
			}
		}
		for tenantID := range t.tenants {
			if in(tenantKeys + tenantID) {
				delete(t.tenants, tenantID)
			}
		}
		return
	}
	if tenantID, ok := strings.CutPrefix(c.Key, tenantKeys); ok {
		delete(t.tenants, tenantID)
		if c.Value == nil {
			return
		}
		tenant, err := decodeTenant(c.Value)
		if err != nil {
			t.log.Error("tenant record can't be read", zap.String("tenant_id", tenantID), zap.Error(err))
			return
		}
		t.tenants[tenantID] = tenant
		return
	}
	var sum [sha256.Size]byte
	if hash, ok := strings.CutPrefix(c.Key, hashKeys); !ok || hex.DecodedLen(len(hash)) != len(sum) {
		return
	} else if _, err := hex.Decode(sum[:], []byte(hash)); err != nil {
		return
	}
	delete(t.entries, sum)
	if c.Value == nil {
		return
	}
	e, err := newEntry(c.Value)
	if err != nil {
		t.log.Error("credential can't be read", zap.Error(err))
		return
	}
	t.entries[sum] = e
}
