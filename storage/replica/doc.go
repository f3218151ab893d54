// Package replica is the store on disk and across nodes: one hashicorp/raft log, and on every node a copy of the state
// that the log made, both kept by pebble.
//
// Room: the log. It imports storage and internal/…, and is the only importer of raft and pebble.
//
// A command goes to the leader's writer, which evaluates what has gathered as one group and proposes the group's bytes as
// one log entry. Once the entry is committed each node applies the bytes to its own copy, wakes who waits for them, and
// the leader answers its callers. DESIGN.md beside this file tells how it survives crashes, and which roads were not
// taken.
package replica
