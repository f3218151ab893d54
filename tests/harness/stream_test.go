package harness_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

// serve answers each connection's first request with exactly text, then closes.
func serve(t *testing.T, text string) *harness.Client {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			buf := make([]byte, 4096)
			_, _ = conn.Read(buf)
			_, _ = io.WriteString(conn, text)
			_ = conn.Close()
		}
	}()
	return harness.NewClient("http://"+l.Addr().String(), "")
}

const head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

func chunk(s string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(s), s) }

// Without it, a stream that broke could be taken for one that ended: the very mistake that the suites are to find.
func TestStream_End(t *testing.T) {
	body := chunk("retry: 1000\n\nid: 1\nevent: agentos.event\nda") + chunk("ta: {\"a\":1}\n\n: beat\n\n")
	for name, c := range map[string]struct {
		text string
		want harness.End
	}{
		"last chunk":             {head + body + "0\r\n\r\n", harness.Whole},
		"cut between chunks":     {head + body, harness.Cut},
		"cut inside a chunk":     {head + body + "40\r\nid: 2\n", harness.Cut},
		"cut before the trailer": {head + body + "0\r\n", harness.Cut},
		"no chunks at all":       {strings.Replace(head, "Transfer-Encoding: chunked\r\n", "", 1) + "id: 1\nevent: agentos.event\ndata: {\"a\":1}\n\n", harness.Cut},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, c.text).Follow(t, "run_x", "")
			frames, err := s.Rest(5 * time.Second)
			if err != nil {
				t.Fatal(err)
			}
			if len(frames) != 1 || frames[0].ID != "1" || frames[0].Data != `{"a":1}` {
				t.Errorf("frames %+v", frames)
			}
			if s.End() != c.want {
				t.Errorf("end %q, want %q", s.End(), c.want)
			}
			if _, err := s.Next(time.Second); !errors.Is(err, io.EOF) {
				t.Errorf("after the end: %v", err)
			}
		})
	}
}

func TestStream_OtherStatus(t *testing.T) {
	s := serve(t, "HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nhello").Follow(t, "run_x", "")
	if s.Status != 404 || string(s.Body) != "hello" {
		t.Errorf("status %d, body %q", s.Status, s.Body)
	}
}
