package lobby_test

import (
	"net"
	"testing"

	"github.com/nexixai/agentos/peer/lobby"
)

// caller is a connection that knows whether it was closed.
type caller struct {
	net.Conn
	closed bool
}

func (c *caller) Close() error { c.closed = true; return nil }

func TestLobby_Enter(t *testing.T) {
	l := lobby.New(2)
	callers := []*caller{{}, {}, {}, {}}
	leave := l.Enter(callers[0])
	l.Enter(callers[1])
	if callers[0].closed || callers[1].closed {
		t.Error("two are too many for two places")
	}
	leave() // it has proven itself
	l.Enter(callers[2])
	if callers[0].closed || callers[1].closed {
		t.Error("who has left still takes a place")
	}
	l.Enter(callers[3])
	if !callers[1].closed {
		t.Error("who has waited longest keeps its place against a newcomer")
	}
	if callers[2].closed || callers[3].closed {
		t.Error("more than one had to go")
	}
	leave() // twice is harmless
}
