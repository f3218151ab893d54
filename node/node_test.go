package node

import (
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap/zaptest"

	"github.com/nexixai/agentos/agent/run"
	"github.com/nexixai/agentos/storage"
	"github.com/nexixai/agentos/tenancy"
)

var readLatest = storage.Read{Consistency: storage.Linearizable}

// mustNode starts a node in dir and stops it with the test.
func mustNode(tb testing.TB, o Options) *Node {
	tb.Helper()
	o.APIListen, o.AdminListen = "127.0.0.1:0", "127.0.0.1:0"
	o.ClusterListen, o.GossipListen, o.FederationListen = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	o.Logger = zaptest.NewLogger(tb)
	n, err := New(o)
	if err != nil {
		tb.Fatal(err)
	}
	if err := n.Start(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { stop(tb, n) })
	return n
}

func stop(tb testing.TB, n *Node) {
	tb.Helper()
	if err := n.Stop(context.WithoutCancel(tb.Context())); err != nil {
		tb.Error(err)
	}
}

// follow waits for the end of a run of the default tenant.
func follow(tb testing.TB, n *Node, runID string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 30*time.Second)
	defer cancel()
	c, err := n.w.hub.Follow(ctx, readLatest, DefaultTenantID, runID, 0)
	if err != nil {
		tb.Fatal(err)
	}
	defer c.Close()
	for {
		b, err := c.Next(ctx)
		if err != nil {
			tb.Fatal(err)
		}
		if b.Final {
			return
		}
	}
}

func create(tb testing.TB, n *Node, text string) string {
	tb.Helper()
	r, _, _, err := n.w.runs.Create(tb.Context(), seeder(), SampleAgentID, run.Request{Input: run.Input{Type: "text", Text: text}}, run.Meta{})
	if err != nil {
		tb.Fatal(err)
	}
	return r.ID
}

// TestNode_life: a first start seeds, a run completes, and the next start has all of it and goes on with what was left.
//
// Requirements: N1.
func TestNode_life(t *testing.T) {
	defer goleak.VerifyNone(t)
	dir := filepath.Join(t.TempDir(), "data")
	n := mustNode(t, Options{DataDir: dir, Init: true, StackID: "stk_test", DrainTimeout: 3 * time.Second})
	raw, err := os.ReadFile(filepath.Join(dir, PlatformKeyName))
	if err != nil {
		t.Fatal(err)
	}
	key := strings.TrimSpace(string(raw))
	auth, err := n.w.directory.Authenticate(t.Context(), key, tenancy.Source{IP: "127.0.0.1"})
	if err != nil || !auth.HasRole(tenancy.RolePlatformAdmin) || auth.TenantID != DefaultTenantID {
		t.Fatalf("the first key: %+v, %v", auth, err)
	}
	done := create(t, n, "hello")
	follow(t, n, done)
	open := create(t, n, "/wait 2s\n/call tool.echo {}\n/say kept")
	stop(t, n)

	again := mustNode(t, Options{DataDir: dir, DrainTimeout: 3 * time.Second})
	for id, want := range map[string]string{done: "echo: hello", open: "kept"} {
		follow(t, again, id)
		r, _, err := again.w.runs.Get(t.Context(), readLatest, DefaultTenantID, id)
		if err != nil || r.Status != run.Completed || r.Output.Text != want {
			t.Errorf("run %s after the restart: %+v, %v", id, r, err)
		}
	}
	if _, err := again.w.directory.Authenticate(t.Context(), key, tenancy.Source{IP: "127.0.0.1"}); err != nil {
		t.Errorf("the first key after the restart: %v", err)
	}
	if tenants, _, _, err := again.w.directory.ListTenants(t.Context(), readLatest, "", 10); err != nil || len(tenants) != 2 {
		t.Errorf("tenants = %v, %v", tenants, err)
	}
	stop(t, again)
	http.DefaultClient.CloseIdleConnections()
}

// TestNode_Start_undoes: a start that fails on its way leaves nothing held, so that the next one can have it.
func TestNode_Start_undoes(t *testing.T) {
	defer goleak.VerifyNone(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	dir := filepath.Join(t.TempDir(), "data")
	n, err := New(Options{DataDir: dir, Init: true, APIListen: taken.Addr().String(), AdminListen: "127.0.0.1:0", ClusterListen: "127.0.0.1:0", GossipListen: "127.0.0.1:0", FederationListen: "127.0.0.1:0", Logger: zaptest.NewLogger(t)})
	if err != nil {
		t.Fatal(err)
	}
	err = n.Start(t.Context())
	if settingOf(err) != "api-listen" || !strings.Contains(err.Error(), "tcp "+taken.Addr().String()+" is taken") {
		t.Fatalf("Start = %v", err)
	}
	stop(t, mustNode(t, Options{DataDir: dir}))
}

// TestNode_Start_lostStore: a store that was there and is not any more is refused by name, and not made anew.
func TestNode_Start_lostStore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	stop(t, mustNode(t, Options{DataDir: dir, Init: true}))
	if err := os.RemoveAll(filepath.Join(dir, storeName)); err != nil {
		t.Fatal(err)
	}
	n, err := New(Options{DataDir: dir, APIListen: "127.0.0.1:0", AdminListen: "127.0.0.1:0", ClusterListen: "127.0.0.1:0", GossipListen: "127.0.0.1:0", FederationListen: "127.0.0.1:0", Logger: zaptest.NewLogger(t)})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Start(t.Context()); settingOf(err) != "data-dir" {
		t.Errorf("Start = %v", err)
	}
}
