// Package registry is the store's own knowledge of others: the cluster itself, its members, and the tokens by which new
// members may join. It is fact within the cluster, where gossip is rumour.
//
// Room: others. It imports storage, tenancy/audit, peer/trust and internal/….
package registry
