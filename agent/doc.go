// Package agent is Stack A: agents and the runs they make. This package holds the definitions of agents and tools, and the
// Catalog that keeps them; its children are the run and its journal, the queue, the loop, tools and memory.
//
// Room: Stack A. It imports internal/…, storage, negotiation, tenancy and model.
package agent
