// Package registry is the store's own knowledge of others: the cluster itself, its members, the tokens by which new
// members may join, the peerings with other organisations, and what was last heard of their nodes. It is fact within the
// cluster, where gossip is rumour. Roster and Peerings are its copies in memory, kept up by the store's watch.
//
// Room: others. It imports storage, tenancy/audit, peer/trust and internal/….
package registry
