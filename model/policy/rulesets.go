package policy

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/internal/strictjson"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
)

// maxCompiled bounds how many compiled rulesets are kept.
const maxCompiled = 1024

// Rulesets keeps tenants' own rulesets in the store, at tenant/{tenant}/policies/{policy_id}. It is safe for concurrent use,
// and checks no scopes: that is the door's part.
type Rulesets struct {
	store    storage.Store
	commands *Commands

	mu       sync.Mutex
	compiled map[string]*kept // by key
}

// kept is a ruleset compiled from the bytes that it was stored as.
type kept struct {
	raw   []byte
	rules *Rules
}

// NewRulesets returns the rulesets in store.
func NewRulesets(store storage.Store, commands *Commands) *Rulesets {
	return &Rulesets{store: store, commands: commands, compiled: make(map[string]*kept)}
}

// Lookup is Options.Lookup. A ruleset is compiled again only when its bytes have changed.
func (r *Rulesets) Lookup(ctx context.Context, tenantID, policyID string) (rules *Rules, ok bool, err error) {
	if !id.Valid(policyID) {
		return nil, false, nil
	}
	at := key(tenantID, policyID)
	err = storage.Find(ctx, r.store, storage.Read{}, func(s storage.Snapshot) error {
		raw, err := s.Get(at)
		if err != nil {
			return err
		}
		if raw == nil {
			return notFound()
		}
		rules, err = r.compile(at, raw)
		return err
	})
	if fault.Is(err, fault.NotFound) {
		return nil, false, nil
	}
	return rules, err == nil, err
}

func (r *Rulesets) compile(at string, raw []byte) (*Rules, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if k := r.compiled[at]; k != nil && bytes.Equal(k.raw, raw) {
		return k.rules, nil
	}
	stored, err := decode(raw)
	if err != nil {
		return nil, err
	}
	rules, err := Compile(stored.Ruleset)
	if err != nil {
		return nil, err
	}
	if len(r.compiled) >= maxCompiled {
		clear(r.compiled)
	}
	r.compiled[at] = &kept{raw: bytes.Clone(raw), rules: rules}
	return rules, nil
}

// base is DefaultID as a tenant sees it.
func base(tenantID string) Stored { return Stored{TenantID: tenantID, Ruleset: Default()} }

// Get returns a ruleset, or fault.NotFound. Every tenant has DefaultID.
func (r *Rulesets) Get(ctx context.Context, read storage.Read, tenantID, policyID string) (found *Stored, index uint64, err error) {
	err = storage.Find(ctx, r.store, read, func(s storage.Snapshot) error {
		index = s.Index()
		if policyID == DefaultID {
			stored := base(tenantID)
			found = &stored
			return nil
		}
		raw, err := s.Get(key(tenantID, policyID))
		if err != nil {
			return err
		}
		if raw == nil {
			return notFound()
		}
		stored, err := decode(raw)
		found = &stored
		return err
	})
	if err != nil {
		return nil, index, err
	}
	return found, index, nil
}

// List returns rulesets by id, those after the id given, at most limit; next is the id to go on after, "" at the end.
func (r *Rulesets) List(ctx context.Context, read storage.Read, tenantID, after string, limit int) (list []Stored, next string, index uint64, err error) {
	err = r.store.View(ctx, read, func(s storage.Snapshot) error {
		index = s.Index()
		span := storage.Prefix(key(tenantID, ""))
		span.From += after + "\x00"
		if after < DefaultID {
			list = append(list, base(tenantID))
		}
		var broken error
		err := s.Scan(span, func(_ string, raw []byte) bool {
			var stored Stored
			stored, broken = decode(raw)
			list = append(list, stored)
			return broken == nil && len(list) <= limit+1 // one more than fits, beside DefaultID
		})
		if err == nil {
			err = broken
		}
		return err
	})
	if err != nil {
		return nil, "", index, err
	}
	slices.SortFunc(list, func(a, b Stored) int { return strings.Compare(a.ID, b.ID) })
	if len(list) > limit {
		list = list[:limit]
		next = list[limit-1].ID
	}
	return list, next, index, nil
}

// Put makes a ruleset, or replaces the one of its id; created tells which. What can't be compiled is fault.InvalidRequest by
// its field; DefaultID is fault.Conflict.
func (r *Rulesets) Put(ctx context.Context, by tenancy.Actor, set Ruleset) (stored *Stored, created bool, index uint64, err error) {
	if _, err := Compile(set); err != nil {
		return nil, false, 0, strictjson.Within("ruleset", err)
	}
	if set.ID == DefaultID {
		return nil, false, 0, isDefault()
	}
	if set.Redact == nil {
		set.Redact = []string{}
	}
	done, index, err := r.commands.put.Do(ctx, r.store, id.New(id.Command), putArgs{who: whoOf(by), Ruleset: set})
	if err != nil {
		return nil, false, index, err
	}
	return &done.Stored, done.Created, index, nil
}

// Delete removes a ruleset. The tenant's default policy is fault.Conflict; a call under a policy that is gone is refused, so
// agents that name it have to be changed first.
func (r *Rulesets) Delete(ctx context.Context, by tenancy.Actor, policyID string) (index uint64, err error) {
	if policyID == DefaultID {
		return 0, isDefault()
	}
	_, index, err = r.commands.remove.Do(ctx, r.store, id.New(id.Command), removeArgs{who: whoOf(by), ID: policyID})
	return index, err
}

func isDefault() error {
	return fault.New(fault.Conflict, "%s is the same for everybody and can't be changed; put a policy under another id, and name it.", DefaultID).With("field", "policy_id")
}
