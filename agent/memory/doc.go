// Package memory is what agents remember between runs: values under names, in namespaces of a tenant, found again by name,
// by words, or by meaning.
//
// Room: Stack A. It imports tenancy, storage and internal/….
//
// A value is any JSON. Its bytes count against the tenant's quota in the very command that writes it, so the quota is
// exact. Search reads the namespace as it stands: keyword search ranks by BM25 over the words in a value, vector search by
// the exact cosine between embeddings, hybrid search merges both by reciprocal rank. Embeddings are made before the command,
// by an Embedder that the wiring passes in; a value whose embedding failed is kept without one.
//
// Keys: tenant/{tenant}/memory/{namespace}/{key} holds a value, tenant/{tenant}/memory_vectors/{namespace}/{key} its
// embedding, tenant/{tenant}/quota/memory_bytes the bytes in use.
package memory
