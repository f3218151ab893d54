// Package peer is everything about others: the members of this cluster and the organisations beside it. Its children are
// trust (who somebody provably is), gossip (who seems alive), registry, forward and placement.
//
// Room: others. It imports internal/…, storage, negotiation, tenancy, model and agent.
package peer
