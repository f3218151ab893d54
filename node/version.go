package node

import (
	"context"

	"github.com/nexixai/agentos/peer/registry"
	"github.com/nexixai/agentos/storage"
)

// checkVersion refuses a store that may hold what this binary can't read, by the word of the node's own copy.
func (n *Node) checkVersion(ctx context.Context, store storage.Store) error {
	return store.View(ctx, storage.Read{Consistency: storage.Stale}, func(s storage.Snapshot) error {
		return readable(s, n.dir.id.StackID, n.o.StoreVersion)
	})
}

func readable(r storage.Reader, stackID string, highest int) error {
	version, err := registry.GetStoreVersion(r)
	if err != nil {
		return err
	}
	return registry.CheckStoreVersion(stackID, version, highest)
}
