// Package forward takes runs across organisations: it is both ends of that wire.
//
// Room: others. It imports internal/…, storage, tenancy, agent/…, peer/registry and peer/trust. The bytes go through package
// link, behind the interface Wire.
//
// Forwarder is the origin's end. It holds the relays that the store leases to this node, each the life of one run that goes
// elsewhere: offer it, ask, follow what the executor tells into the origin's own journal, carry a cancel over, give a lost
// peer up, and tell who worked on it how it ended. Executor is the other end: it takes runs that peers forward, cancels them
// at their wish, hears how they ended there, and lets only the peer that sent one look at it. See DESIGN.md.
package forward
