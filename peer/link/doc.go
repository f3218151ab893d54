// Package link is the wire between organisations, below what is said on it: the door at which other organisations' nodes
// knock, and the kept connections to theirs. Both are TLS 1.3 with certificates on both sides, each checked against its own
// peering's CA alone.
//
// Room: others. It imports peer/trust, peer/registry and internal/….
package link
