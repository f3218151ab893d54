package tenancy

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/storage"
)

// mirror is the directory's memory: a copy of all credentials and tenants, kept up by the store's watch. It is read anew at
// the start and after a jump; changes that come while it's being read are put on top of what was read, by their index.
type mirror struct {
	log    *zap.Logger
	reload chan struct{} // holds one: read everything

	mu     sync.RWMutex
	tables tables
	loaded bool
	later  []laterChange // while not loaded
}

// tables are what the mirror holds.
type tables struct {
	entries map[[sha256.Size]byte]*entry
	tenants map[string]*Tenant
}

func newTables() tables {
	return tables{entries: make(map[[sha256.Size]byte]*entry), tenants: make(map[string]*Tenant)}
}

type laterChange struct {
	index  uint64
	change storage.Change
}

var _ storage.Watcher = (*mirror)(nil)

// maxLater bounds the changes kept while the mirror is being read; beyond it the reading begins anew.
const maxLater = 100_000

func (m *mirror) init(log *zap.Logger) {
	m.log = log
	m.reload = make(chan struct{}, 1)
	m.reload <- struct{}{}
	m.tables = newTables()
}

// entry returns the credential with that hash, or nil, and whether the mirror holds all there are.
func (m *mirror) entry(sum [sha256.Size]byte) (e *entry, all bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.tables.entries[sum], m.loaded
}

func (m *mirror) tenant(tenantID string) *Tenant {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.tables.tenants[tenantID]
}

// Applied implements storage.Watcher.
func (m *mirror) Applied(index uint64, changes []storage.Change) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range changes {
		if m.loaded {
			m.tables.apply(m.log, c)
			continue
		}
		m.later = append(m.later, laterChange{index: index, change: storage.Change{
			Key: strings.Clone(c.Key), RangeEnd: strings.Clone(c.RangeEnd), Value: cloneValue(c.Value),
		}})
	}
	if len(m.later) > maxLater {
		m.forget()
	}
}

func cloneValue(b []byte) []byte {
	if b == nil {
		return nil
	}
	return append([]byte{}, b...)
}

// Jumped implements storage.Watcher.
func (m *mirror) Jumped(uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forget()
}

// forget empties the mirror, so that every name is looked up, and has it read anew. m.mu is held.
func (m *mirror) forget() {
	m.tables = newTables()
	m.loaded, m.later = false, nil
	select {
	case m.reload <- struct{}{}:
	default:
	}
}

// apply puts one change into the tables.
func (t *tables) apply(log *zap.Logger, c storage.Change) {
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
			log.Error("tenant record can't be read", zap.String("tenant_id", tenantID), zap.Error(err))
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
		log.Error("credential can't be read", zap.Error(err))
		return
	}
	t.entries[sum] = e
}

// run reads the mirror whenever it has to be read, until ctx ends.
func (m *mirror) run(ctx context.Context, store storage.Store) {
	const first, longest = 20 * time.Millisecond, 2 * time.Second
	pause := first
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.reload:
		}
		err := store.View(ctx, storage.Read{Consistency: storage.Stale}, m.load)
		if err == nil {
			pause = first
			continue
		}
		if ctx.Err() != nil {
			return
		}
		// Until it succeeds every name is looked up in the store, so nobody is told anything wrong. A store that has not been
		// started yet ends up here.
		m.log.Debug("tenants and keys can't be read yet", zap.Error(err))
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		pause = min(2*pause, longest)
		select {
		case m.reload <- struct{}{}:
		default:
		}
	}
}

// load reads everything from s, and puts on top what has changed since.
func (m *mirror) load(s storage.Snapshot) error {
	read := newTables()
	for _, prefix := range []string{hashKeys, tenantKeys} {
		err := s.Scan(storage.Prefix(prefix), func(key string, value []byte) bool {
			read.apply(m.log, storage.Change{Key: key, Value: value})
			return true
		})
		if err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.reload) > 0 {
		return nil // it jumped meanwhile: what was read is of another state
	}
	for _, l := range m.later {
		if l.index > s.Index() {
			read.apply(m.log, l.change)
		}
	}
	m.tables, m.loaded, m.later = read, true, nil
	return nil
}
