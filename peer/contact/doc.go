// Package contact keeps in touch with other organisations: it asks every door of every active peering, over and over, who
// answers there and what it can do, negotiates when that is another than before, and keeps the list of peers.
//
// Room: others. It imports peer/link, peer/registry, negotiation, storage and internal/….
//
// What was heard goes into the store when it changes, so that every node of the cluster knows it and a restart forgets
// nothing; whether a door answers, and how busy it is, each node finds out for itself.
package contact
