package cluster

import (
	"context"
	"net"
	"time"
)

// Stream carries the store's log between the members of a cluster. It has the shape that the store's engine asks for, so
// that pre-vote and the engine's own timeouts stay in its hands.
type Stream struct {
	net.Listener
	door *Door
}

// Stream returns the log's side of the door. Closing it does not close the door.
func (d *Door) Stream() *Stream { return &Stream{Listener: d.Listener(Raft), door: d} }

// Dial opens a connection to the log's door of the member at address. Any member in good standing may answer: which
// server it is, raft finds out by itself.
func (s *Stream) Dial(address string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return s.door.Dial(ctx, address, "", Raft)
}
