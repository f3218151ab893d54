package tool

import (
	"context"
	"encoding/json"

	"github.com/nexixai/agentos/agent/memory"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
)

// kvNamespace is the memory namespace of the key-value tools.
const kvNamespace = "kv"

// MemoryKV keeps the values of the key-value tools in the tenants' memory, where they count against its quota.
func MemoryKV(s *memory.Store) KV { return memoryKV{s} }

type memoryKV struct{ store *memory.Store }

// PutKV implements KV.
func (m memoryKV) PutKV(ctx context.Context, in *Invocation, key string, value json.RawMessage) error {
	by := tenancy.Actor{Auth: in.Auth, CorrelationID: in.CorrelationID}
	_, _, _, err := m.store.Put(ctx, by, memory.Write{Namespace: kvNamespace, Key: key, Value: value, EffectID: in.EffectID})
	return err
}

// GetKV implements KV.
func (m memoryKV) GetKV(ctx context.Context, in *Invocation, key string) (json.RawMessage, error) {
	item, _, err := m.store.Get(ctx, storage.Read{}, in.Auth.TenantID, kvNamespace, key)
	switch {
	case fault.Is(err, fault.NotFound):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return item.Value, nil
}
