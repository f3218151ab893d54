package gossip

import (
	"context"
	"net"
	"slices"
	"time"

	"github.com/hashicorp/memberlist"
)

// Network carries what a pool sends to other members. Safe for concurrent use.
type Network interface {
	// DialContext opens a connection as net.Dialer's does.
	DialContext(ctx context.Context, network, addr string) (net.Conn, error)
	// Datagram carries one datagram to addr: it calls send, which does not block, at once, later, or never.
	Datagram(addr string, send func())
}

// carried is memberlist's own transport with all that it sends taken through a Network.
type carried struct {
	*memberlist.NetTransport
	network Network
}

var _ memberlist.NodeAwareTransport = (*carried)(nil)

// WriteToAddress implements memberlist.NodeAwareTransport.
func (c *carried) WriteToAddress(b []byte, to memberlist.Address) (time.Time, error) {
	kept := slices.Clone(b)
	c.network.Datagram(to.Addr, func() { _, _ = c.NetTransport.WriteToAddress(kept, to) })
	return time.Now(), nil
}

// WriteTo implements memberlist.Transport.
func (c *carried) WriteTo(b []byte, addr string) (time.Time, error) {
	return c.WriteToAddress(b, memberlist.Address{Addr: addr})
}

// DialAddressTimeout implements memberlist.NodeAwareTransport.
func (c *carried) DialAddressTimeout(to memberlist.Address, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return c.network.DialContext(ctx, "tcp", to.Addr)
}

// DialTimeout implements memberlist.Transport.
func (c *carried) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return c.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}
