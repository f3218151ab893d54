package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

// TestMain plays the program's own child processes, which the measures start, and else runs the tests.
func TestMain(m *testing.M) {
	if os.Getenv(envRole) == "" {
		os.Exit(m.Run())
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench: error:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

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

// Runs that are taken in turns are told apart, and timed by their own events.
func TestLoader_Turns(t *testing.T) {
	mux := http.NewServeMux()
	for _, agent := range []string{"here", "there"} {
		mux.HandleFunc("POST /v1/agents/"+agent+"/runs", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusCreated)
			_, _ = w.Write([]byte(`{"run":{"run_id":"` + agent + `"}}`))
		})
	}
	mux.HandleFunc("GET /v1/runs/{id}/events", func(w http.ResponseWriter, r *http.Request) {
		second := map[string]string{"here": "00", "there": "07"}[r.PathValue("id")]
		_, _ = w.Write([]byte(`data: {"type":"agentos.run.created","time":"2026-11-25T10:00:00.000Z"}` + "\n\n"))
		_ = http.NewResponseController(w).Flush()
		_, _ = w.Write([]byte(`data: {"type":"agentos.run.started","time":"2026-11-25T10:00:` + second + `.000Z"}` + "\n\n"))
		_, _ = w.Write([]byte(`data: {"type":"agentos.run.completed"}` + "\n\n"))
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	l := &loader{order: order{
		Addr: server.Listener.Addr().String(), Path: "/v1/agents/here/runs", Other: "/v1/agents/there/runs", Watch: "/v1/runs/", Body: "{}", Connections: 1, Seconds: 0.1,
	}}
	l.each(l.turns)
	here, there := &l.res.Turns[0], &l.res.Turns[1]
	if l.res.Errors != 0 || len(here.Created) == 0 || len(here.Created) != len(there.Ended) {
		t.Fatalf("%d and %d runs, %d errors: %s", len(here.Created), len(there.Ended), l.res.Errors, l.res.First)
	}
	if a, b := middling(here.Started), middling(there.Started); a != 0 || b != 7*time.Second {
		t.Errorf("from created to started: %v and %v", a, b)
	}
}

// TestBench_Two takes the measures of two organisations in their shortest form: real nodes, paired, with the yardsticks.
func TestBench_Two(t *testing.T) {
	stage := &harness.Stage{}
	defer stage.Close()
	b := &bench{rounds: 1, seconds: 0.2, watchers: 5, stage: stage}
	defer b.build.Close()
	done := make(chan error, 1)
	go func() { // a Fatal of the stage ends this goroutine
		err := errors.New("ended early")
		defer func() { done <- err }()
		if err = b.forward(); err == nil {
			err = b.watchTwo()
		}
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	figures := map[string]float64{}
	for _, r := range b.table.Rows {
		figures[r.Name] = r.Median
	}
	for _, name := range []string{"bare mutual TLS: echo of 2 KiB, p50", "routed create, c=1, else idle, p50", "routed: three-step runs, c=64", "at the origin: frames to 5 watchers"} {
		if figures[name] <= 0 {
			t.Errorf("%s: %v of %v", name, figures[name], figures)
		}
	}
	if n := figures["streams opened at the executor for them"]; n != 1 {
		t.Errorf("%v streams were opened for 5 watchers", n)
	}
}
