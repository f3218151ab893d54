package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// fsyncs writes n records of size bytes to a new file below dir, each followed by fdatasync, and returns how long each
// pair took. It is what any durable acknowledgement costs at least.
func fsyncs(dir string, n, size int) ([]time.Duration, error) {
	f, err := os.CreateTemp(dir, "fdatasync-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	record := bytes.Repeat([]byte{'x'}, size)
	took := make([]time.Duration, n)
	for i := range took {
		begun := time.Now()
		if _, err := f.Write(record); err != nil {
			return nil, err
		}
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			return nil, err
		}
		took[i] = time.Since(begun)
	}
	return took, nil
}

// yardServer serves the two yardsticks that need a server: an echo of POSTs, and a hub that shares one log among all who
// follow it. It prints its address and serves until its standard input ends.
func yardServer() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /echo", echo)
	h := newHub()
	mux.HandleFunc("POST /hub", h.publish)
	mux.HandleFunc("GET /hub", h.follow)
	server := &http.Server{Handler: mux}
	fmt.Println(l.Addr())
	go func() { _ = server.Serve(l) }()
	_, _ = io.Copy(io.Discard, os.Stdin)
	return server.Close()
}

func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body)
}

// hub is the barest thing that fans a log out: bytes in memory and a bell.
type hub struct {
	mu    sync.Mutex
	bell  chan struct{}
	log   []byte
	count int
	final bool
}

func newHub() *hub { return &hub{bell: make(chan struct{})} }

// publish appends one frame; ?final=1 ends the log, ?reset=1 begins a new one.
func (h *hub) publish(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	h.mu.Lock()
	if r.URL.Query().Has("reset") {
		h.log, h.count, h.final = nil, 0, false
	} else {
		h.count++
		h.log = append(h.log, "id: "+strconv.Itoa(h.count)+"\nevent: agentos.event\ndata: "...)
		h.log = append(h.log, body...)
		h.log = append(h.log, "\n\n"...)
		h.final = r.URL.Query().Has("final")
		close(h.bell)
		h.bell = make(chan struct{})
	}
	h.mu.Unlock()
	w.WriteHeader(http.StatusNoContent)
}

func (h *hub) follow(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	rc := http.NewResponseController(w)
	_, _ = w.Write([]byte("retry: 1000\n\n"))
	_ = rc.Flush()
	at := 0
	for {
		h.mu.Lock()
		news, bell, final := h.log[min(at, len(h.log)):], h.bell, h.final
		h.mu.Unlock()
		if len(news) > 0 {
			if _, err := w.Write(news); err != nil || rc.Flush() != nil {
				return
			}
			at += len(news)
			continue
		}
		if final {
			return
		}
		select {
		case <-bell:
		case <-r.Context().Done():
			return
		}
	}
}

// yardFile measures fdatasync as a process of its own, beside the node's directory.
func yardFile(dir string) error {
	took, err := fsyncs(filepath.Clean(dir), 300, 1024)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(result{Took: took})
}
