package onenode_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

// SIGTERM under load: not ready first, streams end politely, gone within 30 s; and what was acknowledged goes on after
// the next start.
//
// Requirements: N5, Q3.
func TestStop_UnderLoad(t *testing.T) {
	t.Parallel()
	d := harness.Up(t, suite.Binary(t))
	tn := harness.NewTenant(t, d.Admin(t), nil)
	waiting := tn.Create(t, "/wait 15s\n/call tool.echo {}\n/say done", nil)
	viewer := tn.Follow(t, waiting, "")
	awaitEvent(t, tn.Client, waiting, "model.requested")

	var mu sync.Mutex
	var acknowledged []string
	stop := make(chan struct{})
	warm := make(chan struct{})
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
				a, err := tn.Try(ctx, "POST", "/v1/agents/"+tn.Agent+"/runs", harness.Body(fmt.Sprintf("/call tool.echo {\"w\":%d,\"i\":%d}", w, i), nil))
				cancel()
				if err != nil {
					return // the door is closed
				}
				switch a.Status {
				case 201:
					mu.Lock()
					acknowledged = append(acknowledged, a.Str("run.run_id"))
					if len(acknowledged) == 200 {
						close(warm)
					}
					mu.Unlock()
				case 503:
					refused(t, a, 503, "dependency_unavailable")
					return
				default:
					t.Errorf("create: %d %s", a.Status, a.Body)
					return
				}
			}
		})
	}
	<-warm
	begun := time.Now()
	if err := syscall.Kill(d.Pid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := harness.AwaitExit(d.Pid(), 40*time.Second); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took > 30*time.Second {
		t.Errorf("the stop took %v", took)
	}
	close(stop)
	wg.Wait()
	if _, err := viewer.Rest(time.Second); err != nil {
		t.Errorf("the viewer's stream did not end: %v", err)
	}
	if strings.Contains(d.Log(), "panic") {
		t.Error("a panic in the log")
	}

	d.Up(t)
	tn.Client = d.Client(tn.Key)
	for _, id := range append(acknowledged, waiting) {
		events := tn.Journal(t, id)
		if last := events[len(events)-1]; last.Type != "agentos.run.completed" {
			t.Errorf("run %s ended %s", id, last.Raw)
		}
	}
}

// While a node drains it says that it isn't ready, as long as it answers at all.
//
// Requirements: N5.
func TestStop_ReadinessFirst(t *testing.T) {
	t.Parallel()
	d := harness.Up(t, suite.Binary(t))
	tn := harness.NewTenant(t, d.Admin(t), nil)
	id := tn.Create(t, "/wait 10m", nil)
	viewer := tn.Follow(t, id, "")
	if _, err := viewer.Next(soon); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(d.Pid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	probe := d.Client("")
	var seen []int
	harness.Poll(40*time.Second, 2*time.Millisecond, func() bool {
		a, err := probe.Try(context.Background(), "GET", "/readyz", nil)
		if err != nil {
			return true
		}
		seen = append(seen, a.Status)
		return false
	})
	for i, status := range seen {
		if status == 200 && i > 0 && seen[i-1] == 503 {
			t.Errorf("ready again while stopping: %v", seen)
		}
	}
	if len(seen) > 0 && seen[len(seen)-1] != 503 {
		t.Errorf("the last look said %d before the door closed, want 503: %v", seen[len(seen)-1], seen)
	}
	if err := harness.AwaitExit(d.Pid(), 40*time.Second); err != nil {
		t.Fatal(err)
	}
	if _, err := viewer.Rest(time.Second); err != nil || viewer.End() == harness.Whole {
		t.Errorf("a live run's stream ended %s, as if the run had: %v", viewer.End(), err)
	}
}

// Clients that don't let go (one sends half a head, one half a body, one reads nothing of a stream that is full) don't hold
// up the stop.
//
// Requirements: N5.
func TestStop_RudeClients(t *testing.T) {
	t.Parallel()
	d := harness.Up(t, suite.Binary(t))
	tn := harness.NewTenant(t, d.Admin(t), nil)
	id := tn.Create(t, strings.Repeat("/call tool.echo {\"a\":\""+strings.Repeat("x", 8_000)+"\"}\n", 25)+"/wait 10m", nil)
	deaf := tn.Follow(t, id, "")
	for range 25 { // the journal by now overflows what lies between a node and a client that doesn't read
		more := tn.Follow(t, id, "")
		defer more.Close()
	}
	head := "POST /v1/agents/" + tn.Agent + "/runs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + tn.Key + "\r\nContent-Type: application/json\r\n"
	for text, answer := range map[string]string{
		head: "",
		head + "Content-Length: 1000\r\nExpect: 100-continue\r\n\r\n{\"input\":": "HTTP/1.1 100 Continue\r\n\r\n", // its body is being read
	} {
		conn, err := net.Dial("tcp", tn.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := conn.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(answer))
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != answer {
			t.Fatalf("%q, %v", got, err)
		}
	}
	if _, err := deaf.Next(soon); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	if err := syscall.Kill(d.Pid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := harness.AwaitExit(d.Pid(), 60*time.Second); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took > 30*time.Second {
		t.Errorf("the stop took %v", took)
	}
	if !strings.Contains(d.Log(), "requests were cut off") {
		t.Errorf("no client held on: this test tests nothing; the node stopped after %v", time.Since(begun))
	}
}
