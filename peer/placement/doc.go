// Package placement decides where a run goes: here, or to which other organisation's cluster. A tenant's routes are kept in
// the replicated store and watched into memory; Decide is the pure decision, with a reason for every place that it looked at;
// a Placer asks Decide with what this node knows.
//
// Room: others. It imports agent, agent/run (whose Placer it is), tenancy, storage, negotiation, peer/registry and internal/….
// It knows no peer by itself: who there is, and what was agreed, it is told by interfaces.
package placement
