package fleet_test

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nexixai/agentos/node/fleet"
)

func mustFleet(tb testing.TB, o fleet.Options) *fleet.Fleet {
	tb.Helper()
	dir := tb.TempDir()
	if o.StateDir == "" {
		o.StateDir = filepath.Join(dir, "state")
	}
	if o.ReportDir == "" {
		o.ReportDir = filepath.Join(dir, "reports")
	}
	if o.Binary == "" {
		o.Binary = "/bin/false"
	}
	f, err := fleet.Open(o)
	if err != nil {
		tb.Fatal(err)
	}
	return f
}

// mustPort finds ports in a row, as a deployment takes them, that are free and lie below those the kernel gives to others.
func mustPort(tb testing.TB) int {
	tb.Helper()
	for range 100 {
		port, free := 12000+rand.IntN(1800)*fleet.PortStep, 0
		for ; free < 4*fleet.PortStep; free++ {
			l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port+free)))
			if err != nil {
				break
			}
			l.Close()
		}
		if free == 4*fleet.PortStep {
			return port
		}
	}
	tb.Fatal("no free ports in a row")
	return 0
}

func TestOpen_refusesReportsInsideState(t *testing.T) {
	dir := t.TempDir()
	for _, reports := range []string{dir, filepath.Join(dir, "reports")} {
		if _, err := fleet.Open(fleet.Options{StateDir: dir, ReportDir: reports}); err == nil {
			t.Errorf("reports in %s would be removed by nuke --hard", reports)
		}
	}
}

func TestFleet_Up_refuses(t *testing.T) {
	for name, o := range map[string]fleet.Options{
		"nodes": {Nodes: 10}, "orgs": {Orgs: 6}, "negative": {Nodes: -1}, "mode": {Mode: "production"}, "prod": {Mode: "prod"},
		"low port": {BasePort: 80}, "high port": {BasePort: 65530}, "fresh port": {FreshBasePort: 7},
	} {
		t.Run(name, func(t *testing.T) {
			f := mustFleet(t, o)
			_, err := f.Up(t.Context())
			refused, ok := errors.AsType[*fleet.RefusedError](err)
			if !ok || refused.Hint == "" {
				t.Fatalf("Up = %v, want a refusal with a hint", err)
			}
			if _, err := os.Stat(f.StateDir()); !errors.Is(err, os.ErrNotExist) {
				t.Error("a refused up left a directory behind")
			}
		})
	}
}

// TestFleet_Up_takenPort: the failure names protocol, address and port, and the report is written all the same.
//
// Requirements: O2, O4.
func TestFleet_Up_takenPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	var events []fleet.Event
	f := mustFleet(t, fleet.Options{BasePort: port, Progress: func(e fleet.Event) { events = append(events, e) }})
	r, err := f.Up(t.Context())
	failed, ok := errors.AsType[*fleet.FailedError](err)
	if !ok || failed.Phase != "preflight" || !strings.Contains(err.Error(), "tcp port 127.0.0.1:"+strconv.Itoa(port)) || failed.Next == "" {
		t.Fatalf("Up = %v", err)
	}
	if last := events[len(events)-1]; last.Kind != fleet.Failed || last.Phase != "preflight" || last.Done == 0 {
		t.Errorf("last event = %+v", last)
	}
	if r.Result != "failed" || len(r.Files) != 2 {
		t.Fatalf("report = %s, %v", r.Result, r.Files)
	}
	raw, err := os.ReadFile(r.Files[1])
	if err != nil {
		t.Fatal(err)
	}
	var back fleet.Report
	if err := json.Unmarshal(raw, &back); err != nil || back.Action != "up" || back.Error == "" || len(back.Remedies) == 0 || back.Host.CPUs == 0 {
		t.Errorf("report on disk: %v %+v", err, back)
	}
	if text, err := os.ReadFile(r.Files[0]); err != nil || !strings.Contains(string(text), "# agentos up: failed") {
		t.Errorf("markdown: %v %s", err, text)
	}
}

// TestFleet_Up_nodeDies: when the node ends instead of serving, up says so at once and shows what it said last.
//
// Requirements: O2.
func TestFleet_Up_nodeDies(t *testing.T) {
	script := filepath.Join(t.TempDir(), "agentos")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho 'it hurts here'\nexit 3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	f := mustFleet(t, fleet.Options{BasePort: mustPort(t), Binary: script})
	began := time.Now()
	_, err := f.Up(t.Context())
	failed, ok := errors.AsType[*fleet.FailedError](err)
	if !ok || failed.Phase != "boot" || !strings.Contains(strings.Join(failed.Log, "\n"), "it hurts here") || !strings.Contains(err.Error(), "exit status 3") {
		t.Fatalf("Up = %v, log %q", err, failed.Log)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %v to notice", took)
	}
	r, err := f.Nuke(t.Context(), true)
	if err != nil || r.Result != "ok" {
		t.Fatalf("Nuke = %v", err)
	}
	if _, err := os.Stat(f.StateDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nuke --hard left %s: %v", f.StateDir(), err)
	}
	if reports, _ := filepath.Glob(filepath.Join(filepath.Dir(r.Files[0]), "*")); len(reports) != 4 {
		t.Errorf("reports = %v, want those of up and nuke, twice", reports)
	}
}

// TestFleet_Nuke_keepsStrangers: nuke --hard removes what up has made and nothing else.
//
// Requirements: O6.
func TestFleet_Nuke_keepsStrangers(t *testing.T) {
	script := filepath.Join(t.TempDir(), "agentos")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	f := mustFleet(t, fleet.Options{BasePort: mustPort(t), Binary: script})
	if _, err := f.Up(t.Context()); err == nil {
		t.Fatal("up of a node that ends at once succeeded")
	}
	mine := filepath.Join(f.StateDir(), "thesis.doc")
	if err := os.WriteFile(mine, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Nuke(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(mine); err != nil {
		t.Errorf("nuke --hard took a file that is not ours: %v", err)
	}
}

// TestFleet_Up_afterRemovalCutShort: what a killed "nuke --hard" left is no data directory that a node could start on, so up
// begins with nothing.
func TestFleet_Up_afterRemovalCutShort(t *testing.T) {
	script := filepath.Join(t.TempDir(), "agentos")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	f := mustFleet(t, fleet.Options{BasePort: mustPort(t), Binary: script})
	if _, err := f.Up(t.Context()); err == nil {
		t.Fatal("up of a node that ends at once succeeded")
	}
	half := filepath.Join(f.StateDir(), "nodes", "stk_acme_node_01", "data", "store")
	if err := os.MkdirAll(half, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(f.StateDir(), "removing"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Up(t.Context()); err == nil {
		t.Fatal("up of a node that ends at once succeeded")
	}
	for _, name := range []string{half, filepath.Join(f.StateDir(), "removing")} {
		if _, err := os.Stat(name); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("up kept %s of a removal that was cut short: %v", name, err)
		}
	}
}

// TestFleet_Up_portLetGo: a port that a killed node's last thread still holds is waited for.
func TestFleet_Up_portLetGo(t *testing.T) {
	base := mustPort(t)
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(base)))
	if err != nil {
		t.Fatal(err)
	}
	defer time.AfterFunc(200*time.Millisecond, func() { l.Close() }).Stop()
	script := filepath.Join(t.TempDir(), "agentos")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	f := mustFleet(t, fleet.Options{BasePort: base, Binary: script})
	_, err = f.Up(t.Context())
	if failed, ok := errors.AsType[*fleet.FailedError](err); !ok || failed.Phase != "boot" {
		t.Errorf("Up = %v, want it to come as far as boot", err)
	}
}

func TestFleet_noDeployment(t *testing.T) {
	f := mustFleet(t, fleet.Options{})
	if f.Exists() {
		t.Error("an empty directory holds a deployment")
	}
	_, statusErr := f.Status(t.Context())
	_, validateErr := f.Validate(t.Context())
	_, redeployErr := f.Redeploy(t.Context())
	_, logsErr := f.LogFiles("")
	for what, err := range map[string]error{"status": statusErr, "validate": validateErr, "redeploy": redeployErr, "logs": logsErr} {
		if !errors.Is(err, fleet.ErrNoDeployment) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := os.Stat(f.StateDir()); !errors.Is(err, os.ErrNotExist) {
		t.Error("looking for a deployment made a directory")
	}
	for _, hard := range []bool{false, true} { // what nuke is for is so already
		r, err := f.Nuke(t.Context(), hard)
		if err != nil || r.Result != "ok" || len(r.Removed) != 0 || len(r.Files) != 2 {
			t.Errorf("nuke of nothing, hard %v: %v, %+v", hard, err, r)
		}
		if _, err := os.Stat(f.StateDir()); !errors.Is(err, os.ErrNotExist) {
			t.Error("nuke of nothing made a directory")
		}
	}
}

func TestAccess_Key(t *testing.T) {
	a := fleet.Access{Organizations: []fleet.Organization{
		{Name: "acme", Tenants: []fleet.Tenant{
			{ID: "tnt_demo", Principals: []fleet.Principal{{Role: "tenant_user", KeyFile: "u"}, {Role: "platform_admin", KeyFile: "p"}}},
			{ID: "tnt_isolation", Principals: []fleet.Principal{{Role: "tenant_user", KeyFile: "i"}}},
		}},
		{Name: "globex"},
	}}
	o, err := a.Organization("")
	if err != nil || o.Name != "acme" {
		t.Fatal(o, err)
	}
	for _, c := range [][3]string{{"", "tenant_user", "u"}, {"tnt_isolation", "tenant_user", "i"}, {"", "platform_admin", "p"}, {"tnt_isolation", "platform_admin", ""}} {
		if got, err := o.Key(c[0], c[1]); got != c[2] || (err != nil) != (c[2] == "") {
			t.Errorf("Key(%q, %q) = %q, %v", c[0], c[1], got, err)
		}
	}
	if _, err := a.Organization("hooli"); err == nil {
		t.Error("an organisation that isn't there was found")
	}
}
