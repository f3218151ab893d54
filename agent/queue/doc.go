// Package queue says whose turn it is and who may work: the order in which admitted runs wait, the sessions of the nodes
// that work on them, and the leases that tie a run to a session.
//
// Room: Stack A. It imports agent/internal/field, storage and internal/…. It doesn't know what a run is: package run
// decides when one is queued, leased, or taken back, within the command that does so.
//
// Three things stand in the store. An Item is a run that waits; items sort by priority, then by weighted fair share of
// their tenants. A Session is one life of one node, with its number of workers; it ends when it's closed, superseded, or
// not renewed for its TTL. A lease row ties one run, at one epoch, to one session; a node begins to work because its copy
// of the store shows it the row, and for no other reason.
//
// Sessions is the node's own side: it opens and renews the session, hands each lease out as a Grant to one worker, and tells
// the worker when it has to stop. Warden is the leader's side: it ends the sessions of nodes that have fallen silent.
package queue
