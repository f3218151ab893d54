package node

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/zap"
)

func mustOpen(tb testing.TB, o Options) *dataDir {
	tb.Helper()
	d, err := openDataDir(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(d.close)
	return d
}

func settingOf(err error) string {
	f, ok := errors.AsType[*FieldError](err)
	if !ok {
		return ""
	}
	return f.Setting
}

func TestDataDir_initAndContinue(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if _, err := openDataDir(Options{DataDir: dir}); settingOf(err) != "init" {
		t.Fatalf("an empty directory without --init: %v", err)
	}
	first := mustOpen(t, Options{DataDir: dir, Init: true, StackID: "stk_a"})
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode of the directory: %v, %v", info.Mode(), err)
	}
	who := first.id
	if who.StackID != "stk_a" || !strings.HasPrefix(who.ClusterID, "clu_") || !strings.HasPrefix(who.ServerID, "stk_a.") || who.Seeded {
		t.Errorf("identity = %+v", who)
	}
	first.close()
	if _, err := openDataDir(Options{DataDir: dir, Init: true}); settingOf(err) != "init" {
		t.Errorf("--init again: %v", err)
	}
	if _, err := openDataDir(Options{DataDir: dir, StackID: "stk_b"}); settingOf(err) != "stack-id" {
		t.Errorf("another stack id: %v", err)
	}
	if again := mustOpen(t, Options{DataDir: dir}); again.id != who {
		t.Errorf("identity came back as %+v, was %+v", again.id, who)
	}
}

func TestDataDir_oneProcess(t *testing.T) {
	dir := t.TempDir()
	first := mustOpen(t, Options{DataDir: dir, Init: true})
	if _, err := openDataDir(Options{DataDir: dir}); settingOf(err) != "data-dir" || !strings.Contains(err.Error(), "in use by process") {
		t.Errorf("a second opener: %v", err)
	}
	owner, held, err := LockOwner(dir)
	if err != nil || !held || owner.PID != os.Getpid() {
		t.Errorf("LockOwner = %+v, %v, %v", owner, held, err)
	}
	first.close()
	mustOpen(t, Options{DataDir: dir})
}

func TestDataDir_refusesWhatItDoesNotKnow(t *testing.T) {
	strange := t.TempDir()
	if err := os.WriteFile(filepath.Join(strange, "thesis.doc"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openDataDir(Options{DataDir: strange, Init: true}); settingOf(err) != "data-dir" || !strings.Contains(err.Error(), "thesis.doc") {
		t.Errorf("a directory with something else in it: %v", err)
	}
	for name, text := range map[string]string{"damaged": "{", "newer": `{"format":99,"stack_id":"a","cluster_id":"b","server_id":"c"}`, "empty": `{"format":1}`} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, identityName), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if d, err := openDataDir(Options{DataDir: dir}); err == nil {
				d.close()
				t.Error("it was opened")
			}
		})
	}
}

// TestDataDir_cutShort: a node that was killed right after it had written its identity is still the same node.
func TestDataDir_cutShort(t *testing.T) {
	dir := t.TempDir()
	first := mustOpen(t, Options{DataDir: dir, Init: true})
	who := first.id
	first.close()
	if err := os.WriteFile(filepath.Join(dir, identityName+".tmp"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	again := mustOpen(t, Options{DataDir: dir})
	again.id.Seeded = true
	if err := again.save(); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, identityName))
	if err != nil {
		t.Fatal(err)
	}
	var now identity
	if err := json.Unmarshal(raw, &now); err != nil || !now.Seeded || now.ClusterID != who.ClusterID {
		t.Errorf("identity on disk = %+v, %v", now, err)
	}
}

func TestWriteFile_mode(t *testing.T) {
	name := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(name, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(name, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(name)
	raw, _ := os.ReadFile(name)
	if err != nil || info.Mode().Perm() != 0o600 || string(raw) != "new" {
		t.Errorf("%v %q %v", info.Mode(), raw, err)
	}
}

// TestTeardowns_run: last in, first out; a failure or a panic keeps none of the others from running.
func TestTeardowns_run(t *testing.T) {
	var order []string
	down := teardowns{log: zap.NewNop()}
	down.push("a", func(context.Context) error { order = append(order, "a"); return nil })
	down.push("b", func(context.Context) error { order = append(order, "b"); panic("boom") })
	down.push("c", func(context.Context) error { order = append(order, "c"); return errors.New("no") })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := down.run(ctx)
	if !slices.Equal(order, []string{"c", "b", "a"}) {
		t.Errorf("order = %v", order)
	}
	if err == nil || !strings.Contains(err.Error(), "stop c: no") || !strings.Contains(err.Error(), "stop b: panic: boom") {
		t.Errorf("error = %v", err)
	}
	if err := down.run(ctx); err != nil || len(order) != 3 {
		t.Errorf("a second run did something: %v, %v", order, err)
	}
}

func TestGroupMemory(t *testing.T) {
	dir := t.TempDir()
	for text, want := range map[string]int64{"1048576\n": 1 << 20, "max\n": 0, "": 0, "-1": 0, "9223372036854775807": 0} {
		name := filepath.Join(dir, "memory.max")
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := groupMemory(name); got != want {
			t.Errorf("groupMemory(%q) = %d, want %d", text, got, want)
		}
	}
	if got := groupMemory(filepath.Join(dir, "none")); got != 0 {
		t.Errorf("without a group: %d", got)
	}
}
