package main

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

// A count that depends on where the network cuts would measure the network.
func TestMarks_Feed(t *testing.T) {
	stream := "retry: 1000\n\nid: 1\nevent: agentos.event\ndata: {\"id:\":\"\\nid: 7\"}\n\n: beat\n\nid: 2\nevent: x\ndata: {\"type\":\"agentos.run.completed\"}\n\n"
	for size := 1; size <= len(stream); size++ {
		var m marks
		for rest := stream; rest != ""; {
			n := min(size, len(rest))
			m.feed([]byte(rest[:n]))
			rest = rest[n:]
		}
		if m.frames != 2 || !m.final {
			t.Errorf("pieces of %d: %d frames, final %v", size, m.frames, m.final)
		}
	}
	var m marks
	m.feed([]byte(stream[:strings.Index(stream, "id: 2")]))
	if m.frames != 1 || m.final {
		t.Errorf("half a stream: %d frames, final %v", m.frames, m.final)
	}
}

// The yardstick delivers every frame to every watcher, through the same client as the node's streams.
func TestLoader_Fan(t *testing.T) {
	h := newHub()
	mux := http.NewServeMux()
	mux.HandleFunc("POST /hub", h.publish)
	mux.HandleFunc("GET /hub", h.follow)
	server := httptest.NewServer(mux)
	defer server.Close()
	l := &loader{order: order{Addr: server.Listener.Addr().String(), Path: "/hub", Body: strings.Repeat("x", 600), Connections: 50, Publish: 200, Frames: 200}}
	l.fan()
	if l.res.Count != 50*200 || l.res.Errors != 0 {
		t.Errorf("%d frames, %d errors: %s", l.res.Count, l.res.Errors, l.res.First)
	}
}

// Callers that all went to the first node would measure one node, and call it three.
func TestLoader_Each(t *testing.T) {
	var asked [3]atomic.Int64
	var addrs []string
	for i := range asked {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { asked[i].Add(1) }))
		defer server.Close()
		addrs = append(addrs, server.Listener.Addr().String())
	}
	l := &loader{order: order{Addr: addrs[0], Also: addrs[1:], Path: "/", Body: "{}", Connections: 6, Seconds: 0.1}}
	l.each(l.post)
	for i := range asked {
		if asked[i].Load() == 0 {
			t.Errorf("node %d was never asked", i+1)
		}
	}
	if l.res.Count == 0 || l.res.Errors != 0 {
		t.Errorf("%d calls, %d errors: %s", l.res.Count, l.res.Errors, l.res.First)
	}
}

// A measure with a typing error in its name must not look like one that was taken.
func TestBench_Chosen(t *testing.T) {
	names := func(b *bench) (out []string) {
		chosen, err := b.chosen()
		if err != nil {
			return []string{err.Error()}
		}
		for _, m := range chosen {
			out = append(out, m.name)
		}
		return out
	}
	if got := names(&bench{only: "gossip,create3"}); !slices.Equal(got, []string{"gossip", "create3"}) {
		t.Errorf("chosen: %q", got)
	}
	if got := names(&bench{only: "gossip,creates3"}); len(got) != 1 || !strings.Contains(got[0], "creates3") {
		t.Errorf("an unknown measure: %q", got)
	}
	if got := names(&bench{}); len(got) != len((&bench{}).measures()) {
		t.Errorf("all: %q", got)
	}
}

func TestConn_Do(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for range 3 {
			_, _ = w.Write([]byte(strings.Repeat("y", 5000)))
			_ = http.NewResponseController(w).Flush()
		}
	}))
	defer server.Close()
	c := &conn{addr: server.Listener.Addr().String()}
	defer c.close()
	for range 3 {
		if status, body, err := c.do("POST", "/", "", []byte("{}")); err != nil || status != 200 || len(body) != 15000 {
			t.Errorf("%d, %d bytes, %v", status, len(body), err)
		}
	}
}
