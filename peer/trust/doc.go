// Package trust proves who somebody is: the organisation's certificate authority, SPIFFE identities, the tokens by which
// a node joins, the sealing of what must not lie open, and the TLS settings of the doors between nodes.
//
// Room: others. It imports tenancy, for the names in a forward token, and internal/…. Nothing here reads gossip: trust
// comes from certificates and grants only.
package trust
