// Package event is the journal's alphabet and its ears: how an event is encoded, once, and how those who follow a run
// learn of new ones.
//
// Room: Stack A. It imports agent, storage and internal/….
//
// An event is encoded when the store's leader appends it (AppendEnvelope). Those bytes are the stored value, the data of
// the SSE frame and what a relay passes on; Scan reads the few fields that others need out of them without building a map.
//
// The Hub stands between the store and those who follow runs. It keeps, for each run that somebody follows, a short log of
// ready frames fed by the store's watch; a Cursor is a place in that log. A cursor that's behind the log reads the store, so
// nothing is lost to a slow reader, and none slows the writer.
package event
