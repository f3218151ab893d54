package memory

import (
	"bytes"
	"context"
	"encoding/json"
	"time"

	"go.uber.org/zap"

	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/internal/id"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
)

// Limits of one entry, in bytes.
const (
	MaxName     = 256
	MaxValue    = 256 << 10
	MaxMetadata = 16 << 10
)

// Item is one remembered value.
type Item struct {
	TenantID  string          `json:"tenant_id"`
	Namespace string          `json:"namespace"`
	Key       string          `json:"key"`
	Value     json.RawMessage `json:"value"`
	Metadata  json.RawMessage `json:"metadata"` // an object
	CreatedAt time.Time       `json:"created_at"`
	UpdatedAt time.Time       `json:"updated_at"`
}

// Write is what to remember.
type Write struct {
	Namespace, Key string
	// Value is any JSON; Metadata is an object, or nothing.
	Value, Metadata json.RawMessage
	// EffectID, when set, makes the same write count once, however often it's asked for within ten minutes.
	EffectID string
}

// Embedder turns text into vectors.
type Embedder interface {
	// Embed returns the vector of text, on by's account, and the name of the model that made it: only vectors of one model
	// can be compared.
	Embed(ctx context.Context, by *tenancy.Auth, text string) (vector []float32, model string, err error)
}

// Options says what a Store is made of.
type Options struct {
	Store    storage.Store
	Commands *Commands
	// Embedder may be nil: then there is no vector search.
	Embedder Embedder
	// Logger may be nil.
	Logger *zap.Logger
}

// Store is the memory of all tenants. It's safe for concurrent use, and checks no scopes: that is the door's part.
type Store struct {
	store    storage.Store
	commands *Commands
	embedder Embedder
	log      *zap.Logger
}

// New returns a Store.
func New(o Options) *Store {
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	return &Store{store: o.Store, commands: o.Commands, embedder: o.Embedder, log: o.Logger}
}

// ValidName reports whether s may name a namespace or a key: [A-Za-z0-9._-], 1 to MaxName bytes, and not "." or "..".
func ValidName(s string) bool {
	if len(s) == 0 || len(s) > MaxName || s == "." || s == ".." {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.' || c == '_' || c == '-') {
			return false
		}
	}
	return true
}

func checkNames(namespace, key string) error {
	if !ValidName(namespace) {
		return fault.Invalid("namespace", "A namespace has 1 to %d of the characters A-Z a-z 0-9 . _ -.", MaxName)
	}
	if !ValidName(key) {
		return fault.Invalid("key", "A key has 1 to %d of the characters A-Z a-z 0-9 . _ -.", MaxName)
	}
	return nil
}

// tidy checks w and brings its JSON into the shortest form.
func (w *Write) tidy() error {
	if err := checkNames(w.Namespace, w.Key); err != nil {
		return err
	}
	var value, metadata bytes.Buffer
	if len(w.Value) == 0 || json.Compact(&value, w.Value) != nil {
		return fault.Invalid("value", "The value is missing or not JSON.")
	}
	if value.Len() > MaxValue {
		return fault.New(fault.PayloadTooLarge, "A value takes at most %d bytes.", MaxValue).With("field", "value")
	}
	if len(w.Metadata) == 0 || string(bytes.TrimSpace(w.Metadata)) == "null" {
		w.Metadata = json.RawMessage("{}")
	}
	if json.Compact(&metadata, w.Metadata) != nil || metadata.Bytes()[0] != '{' {
		return fault.Invalid("metadata", "The metadata is not a JSON object.")
	}
	if metadata.Len() > MaxMetadata {
		return fault.New(fault.PayloadTooLarge, "Metadata takes at most %d bytes.", MaxMetadata).With("field", "metadata")
	}
	w.Value, w.Metadata = value.Bytes(), metadata.Bytes()
	return nil
}

// Put remembers w for by's tenant, over what was there. fault.QuotaExceeded: the tenant's memory is full.
func (s *Store) Put(ctx context.Context, by tenancy.Actor, w Write) (item *Item, created bool, index uint64, err error) {
	if err := w.tidy(); err != nil {
		return nil, false, 0, err
	}
	args := putArgs{
		who: whoOf(by), Namespace: w.Namespace, Key: w.Key, Value: w.Value, Metadata: w.Metadata,
	}
	args.Vector, err = s.embed(ctx, by.Auth, w.Value)
	if err != nil {
		return nil, false, 0, err
	}
	commandID := id.New(id.Command)
	if w.EffectID != "" {
		commandID = "memory.put/" + args.TenantID + "/" + w.EffectID
	}
	done, index, err := s.commands.put.Do(ctx, s.store, commandID, args)
	if err != nil {
		return nil, false, index, err
	}
	return &Item{
		TenantID: args.TenantID, Namespace: w.Namespace, Key: w.Key, Value: w.Value, Metadata: w.Metadata,
		CreatedAt: done.CreatedAt, UpdatedAt: done.UpdatedAt,
	}, done.Created, index, nil
}

// embed returns the encoded vector of a value, nil when there is none. Only the end of ctx is an error.
func (s *Store) embed(ctx context.Context, by *tenancy.Auth, value json.RawMessage) ([]byte, error) {
	if s.embedder == nil {
		return nil, nil
	}
	text := textOf(value, maxEmbedded)
	if text == "" {
		return nil, nil
	}
	vector, model, err := s.embedder.Embed(ctx, by, text)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		s.log.Warn("value kept without an embedding", zap.String("tenant_id", by.TenantID), zap.Error(err))
		return nil, nil
	}
	return encodeVector(vector, model), nil
}

// Delete forgets one value. fault.NotFound when it isn't there.
func (s *Store) Delete(ctx context.Context, by tenancy.Actor, namespace, key string) (index uint64, err error) {
	if err := checkNames(namespace, key); err != nil {
		return 0, err
	}
	_, index, err = s.commands.remove.Do(ctx, s.store, id.New(id.Command), removeArgs{who: whoOf(by), Namespace: namespace, Key: key})
	return index, err
}

// Get returns one value. fault.NotFound when it isn't there.
func (s *Store) Get(ctx context.Context, r storage.Read, tenantID, namespace, key string) (item *Item, index uint64, err error) {
	if err := checkNames(namespace, key); err != nil {
		return nil, 0, err
	}
	err = storage.Find(ctx, s.store, r, func(v storage.Snapshot) error {
		index = v.Index()
		raw, err := v.Get(itemKey(tenantID, namespace, key))
		if err != nil {
			return err
		}
		if raw == nil {
			return notFound()
		}
		item, err = decodeItem(tenantID, namespace, key, bytes.Clone(raw))
		return err
	})
	if err != nil {
		return nil, index, err
	}
	return item, index, nil
}

// List returns up to limit values of a namespace in the order of their keys, those after the key given. next is the key to
// go on after, "" at the end.
func (s *Store) List(ctx context.Context, r storage.Read, tenantID, namespace, after string, limit int) (items []Item, next string, index uint64, err error) {
	if !ValidName(namespace) {
		return nil, "", 0, checkNames(namespace, "x")
	}
	items = []Item{}
	err = s.store.View(ctx, r, func(v storage.Snapshot) error {
		index = v.Index()
		prefix := itemKey(tenantID, namespace, "")
		span := storage.Prefix(prefix)
		if after != "" {
			span.From = prefix + after + "\x00"
		}
		var broken error
		err := v.Scan(span, func(key string, value []byte) bool {
			if len(items) == limit {
				next = items[len(items)-1].Key
				return false
			}
			item, err := decodeItem(tenantID, namespace, key[len(prefix):], bytes.Clone(value))
			if broken = err; err != nil {
				return false
			}
			items = append(items, *item)
			return true
		})
		if err == nil {
			err = broken
		}
		return err
	})
	return items, next, index, err
}

func notFound() error { return fault.New(fault.NotFound, "There is no such memory.") }
