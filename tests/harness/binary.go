package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// Environment variables that steer the suites.
const (
	// EnvBinary names a binary that is already built; the suites then build none.
	EnvBinary = "AGENTOS_TEST_BINARY"
	// EnvRace, when not empty, builds the binary with the race detector.
	EnvRace = "AGENTOS_TEST_RACE"
)

// Build is where the binary under test comes from. One value serves a whole test process.
type Build struct {
	once sync.Once
	dir  string
	path string
	err  error
}

// Binary returns the path of the built agentos, building it on the first call.
func (b *Build) Binary(tb testing.TB) string {
	tb.Helper()
	path, err := b.Path()
	if err != nil {
		tb.Fatalf("build agentos: %v", err)
	}
	return path
}

// Path is Binary for programs that are no tests.
func (b *Build) Path() (string, error) {
	b.once.Do(b.build)
	return b.path, b.err
}

// Close removes what Binary built.
func (b *Build) Close() {
	if b.dir != "" {
		_ = os.RemoveAll(b.dir)
	}
}

func (b *Build) build() {
	if given := os.Getenv(EnvBinary); given != "" {
		if b.path, b.err = filepath.Abs(given); b.err == nil {
			_, b.err = os.Stat(b.path)
		}
		return
	}
	root, err := Root()
	if err != nil {
		b.err = err
		return
	}
	if b.dir, b.err = os.MkdirTemp("", "agentos-binary-"); b.err != nil {
		return
	}
	out := filepath.Join(b.dir, "agentos")
	args := []string{"build", "-o", out}
	env := append(os.Environ(), "CGO_ENABLED=0")
	if os.Getenv(EnvRace) != "" {
		args = append(args, "-race")
		env = append(os.Environ(), "CGO_ENABLED=1")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", append(args, "./cmd/agentos")...)
	cmd.Dir, cmd.Env = root, env
	if text, err := cmd.CombinedOutput(); err != nil {
		b.err = fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, text)
		return
	}
	b.path = out
}

// Root returns the folder that holds go.mod.
func Root() (string, error) {
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		return "", errors.New("harness: no caller information")
	}
	dir := filepath.Dir(file)
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("harness: go.mod not found above " + file)
		}
		dir = up
	}
}
