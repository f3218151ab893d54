package faults_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

// injected finds in strace's output when the first fault was injected, and into what.
var injected = regexp.MustCompile(`(?m)^(?:\[?(?:pid )?\s*\d+\]?\s+)?(\d+\.\d+) (\w+\(\d+<[^>]*>).*\(INJECTED\)`)

// syncFault is one sync that fails: the n-th of a thread, of all that the node syncs from its start on ("start"), or of
// the files of its log or of its state from some moment under load on.
type syncFault struct {
	where string
	n     int
}

func syncFaults() []syncFault {
	if !full() {
		return []syncFault{{"start", 4}, {"log", 2}, {"state", 1}}
	}
	var all []syncFault
	for n := range 10 {
		// The state is synced now and then, by whatever thread: its next sync it is, and the moment makes the difference.
		all = append(all, syncFault{"start", n + 1}, syncFault{"log", n + 1}, syncFault{"state", 1})
	}
	return all
}

// A sync fails. The process ends, acknowledges nothing after, starts clean, and has all that it acknowledged before.
//
// Requirements: Q3.
func TestDisk_SyncFails(t *testing.T) {
	t.Parallel()
	harness.Needs(t, "strace")
	chance := seeded(t)
	d := harness.Up(t, suite.Binary(t))
	tn := harness.NewTenant(t, d.Admin(t), quotas())
	argv, env := d.CommandLine(t)
	known := map[string]ended{}
	var starter harness.Starter
	for round, f := range syncFaults() {
		ctx, cancel := context.WithCancel(context.Background())
		l := &load{tenant: tn, texts: mixed, prefix: fmt.Sprintf("eio%d", round)}
		trace := filepath.Join(t.TempDir(), "trace")
		strace := []string{
			"strace", "-f", "-y", "-ttt", "-o", trace, "-e", "trace=fsync,fdatasync,sync_file_range", "-e", "signal=none",
			"-e", fmt.Sprintf("inject=fsync,fdatasync:error=EIO:when=%d", f.n),
		}
		moment := make(chan struct{})
		threshold := 20 + chance.IntN(400)
		l.onAck = func(n int) {
			if n == threshold {
				close(moment)
			}
		}
		var p *harness.Process
		pid := d.Pid()
		if f.where == "start" {
			d.Kill(t)
			p = starter.Launch(t, d.Dir, env, append(strace, argv...))
			pid = p.Pid()
		}
		over := make(chan struct{})
		go func() {
			defer close(over)
			for ctx.Err() == nil && harness.Alive(pid) { // the node may be starting still, or end before it has started
				l.run(ctx, t, 8)
			}
		}()
		if f.where != "start" {
			await(t, moment, "load")
			p = starter.Launch(t, d.Dir, nil, append(append(strace, paths(d.Node().DataDir, f.where)...), "-p", strconv.Itoa(pid)))
		}
		code := p.Wait(t, 2*bound) // strace ends with the node, and as the node did if it has started it
		if f.where == "start" && code == 0 {
			t.Error("the process ended with exit code 0")
		}
		if err := harness.AwaitExit(pid, bound); err != nil {
			t.Fatal(err)
		}
		cancel()
		await(t, over, "the end of the load")
		what, late := judge(t, trace, p, l)
		t.Logf("%s, n=%d: %s failed, %d acknowledged before", f.where, f.n, what, l.acks-late)
		if !strings.Contains(p.Output()+d.Log(), filepath.Base(what)) {
			t.Errorf("the node ended and did not name %s:\n%s", what, p.Output())
		}
		d.Up(t)
		tn.Client = d.Client(tn.Key)
		l.settle(t)
		l.finish(t, known)
		if t.Failed() {
			return
		}
	}
	must(t, once(known))
	must(t, slots(tn, slotLimit))
}

// judge says what failed, and how many creates were acknowledged after it.
func judge(t *testing.T, trace string, p *harness.Process, l *load) (what string, late int) {
	t.Helper()
	text, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	m := injected.FindStringSubmatch(string(text))
	if m == nil {
		t.Fatalf("no fault was injected; the process printed:\n%s", p.Output())
	}
	at := seconds(t, m[1])
	for _, o := range l.ops {
		if o.runID != "" && o.at.After(at.Add(250*time.Millisecond)) {
			late++
		}
	}
	if late > 0 {
		t.Errorf("%d creates were acknowledged after the disk had failed", late)
	}
	call, path, _ := strings.Cut(m[2], "<")
	name, _, _ := strings.Cut(call, "(")
	return name + " of " + filepath.Base(filepath.Dir(path)) + "/" + strings.TrimSuffix(filepath.Base(path), ">"), late
}

// paths are strace's options for the files of an engine, present and to come.
func paths(data, where string) []string {
	dir := filepath.Join(data, "store", "log")
	if where == "state" {
		states, _ := filepath.Glob(filepath.Join(data, "store", "st", "state-*"))
		dir = states[len(states)-1]
	}
	args, newest := []string{"-P", dir}, 0
	present, _ := os.ReadDir(dir)
	for _, e := range present {
		if n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(e.Name(), "MANIFEST-"), filepath.Ext(e.Name()))); err == nil {
			newest = max(newest, n)
		}
	}
	for n := max(0, newest-100); n < newest+200; n++ {
		for _, form := range []string{"%06d.log", "%06d.sst", "MANIFEST-%06d"} {
			args = append(args, "-P", filepath.Join(dir, fmt.Sprintf(form, n)))
		}
	}
	return args
}

func seconds(t *testing.T, s string) time.Time {
	t.Helper()
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		t.Fatal(err)
	}
	return time.UnixMicro(int64(f * 1e6))
}

// On a full disk writes are refused with a reason while reads go on; when there is room again, so are writes.
//
// Requirements: Q3.
func TestDisk_Full(t *testing.T) {
	t.Parallel()
	if !harness.Apart(t, suite.Binary(t), 4*time.Minute) {
		return
	}
	size, env := "256m", []string{"AGENTOS_DISK_FLOOR=64MiB"}
	if full() {
		size, env = "1g", nil
	}
	d := harness.NewDeployment(t, suite.Binary(t), env...)
	harness.MountMemory(t, d.StateDir, size)
	d.Up(t)
	tn := harness.NewTenant(t, d.Admin(t), quotas())
	done, _ := tn.Complete(t, "before", nil)
	known := map[string]ended{}
	for round := range rounds(1, 3) {
		l := &load{tenant: tn, texts: mixed, prefix: fmt.Sprintf("full%d", round)}
		fullDisk(t, d, l, done.Str("run.run_id"))
		l.settle(t)
		l.finish(t, known)
		d.Kill(t)
		d.Up(t)
		tn.Client = d.Client(tn.Key)
		l.finish(t, known)
	}
	must(t, once(known))
	must(t, slots(tn, slotLimit))
}

// fullDisk fills the disk under load, looks at what the node does meanwhile, and makes room again. run has ended before.
func fullDisk(t *testing.T, d *harness.Deployment, l *load, run string) {
	t.Helper()
	tn := l.tenant
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	busy := make(chan struct{})
	l.onAck = func(n int) {
		if n == 50 {
			close(busy)
		}
	}
	go func() {
		defer close(over)
		l.run(ctx, t, 8)
	}()
	defer func() {
		cancel()
		<-over
	}()
	await(t, busy, "load")
	ballast := filepath.Join(d.StateDir, "ballast")
	fill(t, ballast)
	refusal := tn.Do(t, "POST", "/v1/agents/"+tn.Agent+"/runs", harness.Body("full", nil))
	if err := refusal.CheckError(503, "dependency_unavailable"); err != nil {
		t.Error(err)
	}
	if got := refusal.Str("error.details.service"); got != "disk" {
		t.Errorf("details.service %q: %s", got, refusal.Body)
	}
	// Reads go on; in the long form for as long as it takes until whatever the node does now and then has come around.
	for begun := time.Now(); time.Since(begun) < time.Duration(rounds(1, 40))*time.Second; {
		tn.Want(t, 200, "GET", "/v1/runs/"+run, nil)
		tn.Want(t, 200, "GET", "/v1/runs", nil)
		tn.Journal(t, run)
		a := tn.Do(t, "GET", "/readyz", nil)
		if says := a.Str("dependencies.disk"); a.Status != 503 || says == "ok" {
			t.Errorf("readyz on a full disk: %d %s", a.Status, a.Body)
		}
		pause(50 * time.Millisecond)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	before := l.acknowledged()
	if !harness.Poll(bound, 50*time.Millisecond, func() bool { return tn.Do(t, "GET", "/readyz", nil).Status == 200 && l.acknowledged() > before }) {
		t.Fatalf("no work is taken after there is room again; the node's log ends:\n%s", d.Log())
	}
}

// fill writes to path until its file system is full, about as fast as a fast disk takes it.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 1<<20); ; {
		if _, err := f.Write(block); err != nil {
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatal(err)
			}
			return
		}
		pause(time.Millisecond)
	}
}

func pause(d time.Duration) {
	timer := time.NewTimer(d)
	<-timer.C
}

// files returns the files of the store below dir, biggest first within their kind, by what their name says they are.
func files(t *testing.T, dir string) map[string][]string {
	t.Helper()
	kinds := map[string][]string{}
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		room := "state"
		if strings.Contains("/"+rel, "/log/") {
			room = "log"
		}
		info, err := e.Info()
		if err != nil || info.Size() == 0 {
			return err
		}
		switch name := e.Name(); {
		case name == "CURRENT":
			kinds["CURRENT"] = append(kinds["CURRENT"], path)
		case strings.HasPrefix(name, "MANIFEST"), strings.HasSuffix(name, ".sst"), strings.HasSuffix(name, ".log") && room == "log":
			kind := room + " " + strings.TrimLeft(filepath.Ext(name), ".")
			if strings.HasPrefix(name, "MANIFEST") {
				kind = room + " manifest"
			}
			kinds[kind] = append(kinds[kind], path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return kinds
}

// One bit of a file is flipped while the node is down. Either the node finds it, says which file, and serves nothing; or
// the bit held nothing, and everything that was acknowledged is served as it was. Never is something else served.
//
// Requirements: Q3.
func TestDisk_FlippedBit(t *testing.T) {
	t.Parallel()
	chance := seeded(t)
	d := harness.Up(t, suite.Binary(t))
	tn := harness.NewTenant(t, d.Admin(t), quotas())
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{tenant: tn, texts: mixed, prefix: "flip"}
	busy := make(chan struct{})
	l.onAck = func(n int) {
		if n == rounds(600, 3000) {
			close(busy)
		}
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		l.run(ctx, t, 16)
	}()
	await(t, busy, "load")
	cancel()
	await(t, over, "the end of the load")
	l.settle(t)
	known := map[string]ended{}
	l.finish(t, known)
	argv, env := d.CommandLine(t)
	d.Kill(t)
	kinds := files(t, d.Node().DataDir)
	if len(kinds) < 3 {
		t.Fatalf("only these kinds of files were found in %s: %v", d.Node().DataDir, kinds)
	}
	pristine := filepath.Join(t.TempDir(), "data")
	if err := os.CopyFS(pristine, os.DirFS(d.Node().DataDir)); err != nil {
		t.Fatal(err)
	}
	var starter harness.Starter
	for kind, paths := range kinds {
		for range rounds(1, 4) {
			path := paths[chance.IntN(len(paths))]
			at := flip(t, path, chance.Int64N)
			t.Logf("%s: bit flipped at %d of %s", kind, at, filepath.Base(path))
			p := starter.Launch(t, d.Dir, env, argv)
			served := startsOrEnds(d, p)
			name := filepath.Base(path)
			var err error
			if served {
				l2 := &load{tenant: tn, ops: l.ops, puts: l.puts}
				if err = l2.trySettle(p.Done()); err == nil {
					err = l2.tryFinish(known)
				}
			}
			if errors.Is(err, errWrong) {
				t.Errorf("%s: the node served what it was never given: %v", kind, err)
			}
			if !served || err != nil { // it has met the damage, be it before or after it was ready: then it ends, and says so
				if code := p.Wait(t, bound); code == 0 || !strings.Contains(p.Output(), name) {
					t.Errorf("%s: the node ended with exit code %d and did not name %s: %v\n%s", kind, code, name, err, p.Output())
				}
				t.Logf("%s: found, ready before: %v", kind, served)
			}
			p.Signal(t, syscall.SIGKILL)
			p.Wait(t, bound)
			if t.Failed() {
				return
			}
			restore(t, pristine, d.Node().DataDir)
		}
	}
	torn(t, d, &starter, argv, env, l, known)
}

// torn leaves half a record at the end of the log, as a power loss does, and expects a clean start.
func torn(t *testing.T, d *harness.Deployment, starter *harness.Starter, argv, env []string, l *load, known map[string]ended) {
	t.Helper()
	logs := files(t, d.Node().DataDir)["log log"]
	if len(logs) == 0 {
		t.Fatal("no write-ahead log found")
	}
	newest := logs[len(logs)-1]
	f, err := os.OpenFile(newest, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte("\x9c\x11\x00\x7f\x40\x00half of a rec")); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	p := starter.Launch(t, d.Dir, env, argv)
	if !startsOrEnds(d, p) {
		t.Fatalf("a torn last record keeps the node from starting:\n%s", p.Output())
	}
	l.settle(t)
	l.finish(t, known)
}

func flip(t *testing.T, path string, chance func(int64) int64) int64 {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := chance(int64(len(text)))
	text[at] ^= 1 << chance(8)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return at
}

func restore(t *testing.T, from, to string) {
	t.Helper()
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(to, 0o700); err != nil {
		t.Fatal(err)
	}
}

// startsOrEnds waits until the node is ready (true) or has ended (false).
func startsOrEnds(d *harness.Deployment, p *harness.Process) bool {
	c := d.Client("")
	defer c.Close()
	ready := false
	harness.Poll(bound, 5*time.Millisecond, func() bool {
		select {
		case <-p.Done():
			return true
		default:
		}
		a, err := c.Try(context.Background(), "GET", "/readyz", nil)
		ready = err == nil && a.Status == 200
		return ready
	})
	return ready
}
