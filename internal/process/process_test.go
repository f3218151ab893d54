package process_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/nexixai/agentos/internal/process"
)

// mustSleeper starts a process that does nothing until it is told to end.
func mustSleeper(tb testing.TB) *exec.Cmd {
	tb.Helper()
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

func TestIdentity_Alive(t *testing.T) {
	self, err := process.Self()
	if err != nil {
		t.Fatal(err)
	}
	if self.PID != os.Getpid() || !self.Alive() {
		t.Errorf("Self() = %+v, alive %v", self, self.Alive())
	}
	recycled := process.Identity{PID: self.PID, Start: self.Start + "1"}
	if recycled.Alive() {
		t.Error("a process with our id and another start is taken for us")
	}
}

func TestIdentity_Signal(t *testing.T) {
	cmd := mustSleeper(t)
	who, err := process.Of(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	stranger := process.Identity{PID: who.PID, Start: "another boot/1"}
	if err := stranger.Signal(syscall.SIGKILL); !errors.Is(err, process.ErrGone) {
		t.Fatalf("a recycled id was signalled: %v", err)
	}
	if !who.Alive() {
		t.Fatal("the process ended by a signal meant for another")
	}
	if err := who.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := who.Wait(ctx); err != nil { // not waited for by its parent: a zombie counts as ended
		t.Fatal(err)
	}
	if err := who.Signal(syscall.SIGTERM); !errors.Is(err, process.ErrGone) {
		t.Errorf("signal after the end: %v, want ErrGone", err)
	}
}

func TestIdentity_Wait_obeysContext(t *testing.T) {
	who, err := process.Of(mustSleeper(t).Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := who.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait = %v, want context.Canceled", err)
	}
}
