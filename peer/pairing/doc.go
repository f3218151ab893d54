// Package pairing makes two clusters know each other: one gives out an invitation, the other accepts it, and each holds the
// other's CA afterwards. It also changes what a peering allows, and ends it.
//
// Room: others. It imports peer/registry, peer/trust, tenancy, storage and internal/….
//
// The accepter dials the inviter's federation door, believes it by the fingerprint of the CA in the invitation, and sends
// what it is, with a proof over all of it that only who holds the invitation can make. The inviter checks the proof within
// the command that records the peering, so an invitation serves one cluster, whichever of its nodes are asked.
package pairing
