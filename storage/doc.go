// Package storage is the treaty of the replicated store: ordered keys, commands evaluated by one writer, snapshot reads,
// and watches. It says what a store promises; package mem keeps the promises in memory, for tests, and package replica
// keeps them on disk and across nodes.
//
// Room: the log. It imports only internal/….
//
// A change to the store is a Command: a kind, and arguments whose identifiers were minted by the asker, so that asking
// twice is harmless. One writer per cluster evaluates commands one after another, each seeing the ones before it, and
// what they wrote is replicated as bytes. A command that is refused, or that panics, leaves nothing behind.
package storage
