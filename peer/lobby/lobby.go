package lobby

import (
	"container/list"
	"net"
	"sync"
)

// Lobby holds connections. It is never full to a newcomer: who comes when it holds as many as it may makes the one who has waited
// longest go. A caller that means it is through in a moment, and one that says nothing to keep the place is what has waited
// longest. It's safe for concurrent use.
type Lobby struct {
	most int

	mu    sync.Mutex
	waits *list.List // of net.Conn, who came first in front
}

// New returns a lobby for at most most connections.
func New(most int) *Lobby { return &Lobby{most: most, waits: list.New()} }

// Enter takes conn in, and closes the one who has waited longest when there are too many. leave is called when conn has proven
// itself or is given up.
func (l *Lobby) Enter(conn net.Conn) (leave func()) {
	l.mu.Lock()
	place := l.waits.PushBack(conn)
	var out net.Conn
	if l.waits.Len() > l.most {
		out = l.waits.Remove(l.waits.Front()).(net.Conn)
	}
	l.mu.Unlock()
	if out != nil {
		_ = out.Close()
	}
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.waits.Remove(place) // harmless for one that was made to go
	}
}
