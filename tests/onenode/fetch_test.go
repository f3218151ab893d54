package onenode_test

import (
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

// The fetch tool asks nothing of this machine or its network, in whatever notation the address comes.
//
// Requirements: A4, Q3.
func TestFetch_Private(t *testing.T) {
	t.Parallel()
	var met atomic.Int64
	l, err := net.Listen("tcp", "[::]:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			met.Add(1)
			_ = conn.Close()
		}
	}()
	port := l.Addr().(*net.TCPAddr).Port
	tn := suite.Tenant(t, nil)
	tn.Want(t, 200, "PUT", "/v1/agents/"+tn.Agent, map[string]any{"agent": map[string]any{
		"name": "fetcher", "version": "2", "status": "active", "model_ref": "tier:fast", "tool_ids": []string{"tool.http.fetch"},
	}})
	var text strings.Builder
	hosts := []string{
		"127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0.0.0.0", "0", "[::1]", "[::]", "[::ffff:127.0.0.1]",
		"[0:0:0:0:0:ffff:7f00:1]", "[64:ff9b::7f00:1]", "10.0.0.1", "192.168.0.1", "172.16.0.1", "169.254.169.254", "[fe80::1]", "[fd00::1]", "100.64.0.1",
		"user@127.0.0.1", "127.0.0.1.", "LOCALHOST",
	}
	for _, host := range hosts {
		fmt.Fprintf(&text, "/call tool.http.fetch {\"url\":\"http://%s:%d/\"}\n", host, port)
	}
	for _, url := range []string{"file:///etc/passwd", "gopher://127.0.0.1/", "http://", "//127.0.0.1/", "http://127.0.0.1\\r\\nX: y/"} {
		fmt.Fprintf(&text, "/call tool.http.fetch {\"url\":\"%s\"}\n", url)
	}
	_, events := tn.Complete(t, text.String()+"/say done", map[string]any{"run_options": map[string]any{"max_steps": 200}})
	calls := 0
	for _, e := range events {
		if e.Type == "agentos.tool.call.completed" {
			calls++
			if e.Str("status") == "ok" || e.Str("error.code") == "" {
				t.Errorf("not refused: %s", e.Raw)
			}
		}
	}
	if calls != len(hosts)+5 {
		t.Errorf("%d calls completed, want %d: %v", calls, len(hosts)+5, harness.Types(events))
	}
	if n := met.Load(); n != 0 {
		t.Errorf("%d connections came to this machine", n)
	}
}

// A reader that doesn't read is cut off and harms nobody; when it comes back it gets the rest.
//
// Requirements: Q3.
func TestStream_SlowReader(t *testing.T) {
	t.Parallel()
	tn := suite.Tenant(t, nil)
	big := strings.Repeat("0123456789", 20_000)
	if a := tn.Do(t, "PUT", "/v1/memory/kv/big", map[string]any{"value": big}); a.Status != 201 {
		t.Fatalf("put: %d %s", a.Status, a.Body)
	}
	id := tn.Create(t, "/wait 500ms\n"+strings.Repeat("/call tool.kv.get {\"key\":\"big\"}\n", 60)+"/say done", map[string]any{"run_options": map[string]any{"max_steps": 400}})
	slow := tn.Follow(t, id, "")
	if _, err := slow.Next(soon); err != nil {
		t.Fatal(err)
	}
	events := tn.Journal(t, id) // a fast reader isn't held up
	if last := events[len(events)-1]; last.Str("output.text") != "done" {
		t.Fatalf("run ended %.300s", last.Raw)
	}
	patience := time.NewTimer(17 * time.Second)
	<-patience.C
	frames, err := slow.Rest(soon)
	if err != nil {
		t.Fatal(err)
	}
	if slow.End() != harness.Cut || len(frames) >= len(events) {
		t.Errorf("a reader that did not read for 17 s has %d frames of %d, its stream ended %s", len(frames), len(events), slow.End())
	}
	last := "1"
	if got := ids(frames); len(got) > 0 {
		last = got[len(got)-1]
	}
	rest := ids(rest(t, tn.Follow(t, id, "", "Last-Event-ID", last)))
	if len(rest) == 0 || rest[len(rest)-1] != fmt.Sprint(len(events)) {
		t.Errorf("after %s the rest is %v", last, rest)
	}
}
