package node

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// put makes empty files below dir.
func put(tb testing.TB, dir string, names ...string) {
	tb.Helper()
	for _, name := range names {
		name = filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name, nil, 0o600)); err != nil {
			tb.Fatal(err)
		}
	}
}

// entries lists what dir holds beside its lock.
func entries(tb testing.TB, dir string) (names []string) {
	tb.Helper()
	found, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		tb.Fatal(err)
	}
	for _, e := range found {
		if e.Name() != lockName {
			names = append(names, e.Name())
		}
	}
	return names
}

// A crash while a restore moves what it made into place leaves what no node starts on, and the next restore makes anew.
func TestStage_CutShort(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "store/st/CURRENT", "restoring/node.json", "restoring/trust/node.key")
	for _, o := range []Options{{DataDir: dir}, {DataDir: dir, Init: true}, {DataDir: dir, Join: []string{"127.0.0.1:1"}}} {
		if d, err := openDataDir(o); settingOf(err) != "data-dir" {
			t.Errorf("opened %+v: %v", d, err)
		}
	}
	s, err := stage(Options{DataDir: dir, Init: true, StackID: "stk_a"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openDataDir(Options{DataDir: dir}); settingOf(err) != "data-dir" {
		t.Errorf("opened while a restore is under way: %v", err)
	}
	if got := entries(t, dir); len(got) != 1 || got[0] != stagingName {
		t.Errorf("a restore begins with %v", got)
	}
	put(t, s.path, "store/new", "trust/new")
	if err := errors.Join(s.finish(), s.close(false)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "store", "new")); err != nil {
		t.Error(err)
	}
	if d := mustOpen(t, Options{DataDir: dir}); d.id.StackID != "stk_a" {
		t.Errorf("made %+v", d.id)
	}
	if _, err := stage(Options{DataDir: dir, Init: true}); settingOf(err) != "data-dir" {
		t.Errorf("restored over a node: %v", err)
	}
}

// A failure takes away what the restore made, and nothing else.
func TestStage_Refused(t *testing.T) {
	there, fresh, strange := t.TempDir(), filepath.Join(t.TempDir(), "data"), t.TempDir()
	for _, dir := range []string{there, fresh} {
		s, err := stage(Options{DataDir: dir, Init: true})
		if err != nil {
			t.Fatal(err)
		}
		put(t, s.path, "store/half")
		if err := s.close(true); err != nil {
			t.Error(err)
		}
		if got := entries(t, dir); got != nil {
			t.Errorf("%s: left %v", dir, got)
		}
	}
	if _, err := os.Stat(there); err != nil {
		t.Errorf("a directory that was there before: %v", err)
	}
	if _, err := os.Stat(fresh); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a directory that was made: %v", err)
	}
	put(t, strange, "store/mine", "trust/mine")
	if _, err := stage(Options{DataDir: strange, Init: true}); settingOf(err) != "data-dir" {
		t.Errorf("restored into what holds something: %v", err)
	}
	if got := entries(t, strange); len(got) != 2 {
		t.Errorf("what lay in the directory: %v", got)
	}
}
