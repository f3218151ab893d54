package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/mattn/go-isatty"

	"github.com/nexixai/agentos/node/fleet"
)

// progress shows the events of a fleet on standard error: one line a phase that is written over on a terminal, and plain
// lines that stay elsewhere.
type progress struct {
	w    io.Writer
	tty  bool
	last string
}

func (a *app) progress() *progress {
	f, ok := a.err.(*os.File)
	return &progress{w: a.err, tty: ok && isatty.IsTerminal(f.Fd()) && os.Getenv("TERM") != "dumb"}
}

// tell takes one event.
func (p *progress) tell(e fleet.Event) {
	if p.tty {
		p.tellTerminal(e)
		return
	}
	switch e.Kind {
	case fleet.Begin:
		fmt.Fprintf(p.w, "%s: begins\n", e.Phase)
	case fleet.Step:
		fmt.Fprintf(p.w, "%s: %s %s\n", e.Phase, count(e), e.Text)
	case fleet.Done:
		fmt.Fprintf(p.w, "%s: ok, %s in %s\n", e.Phase, count(e), e.Took.Round(time.Millisecond))
	case fleet.Failed:
		fmt.Fprintf(p.w, "%s: FAILED after %s at %s\n", e.Phase, e.Took.Round(time.Millisecond), count(e))
	}
}

const (
	clearLine = "\r\x1b[2K"
	green     = "\x1b[32m"
	red       = "\x1b[31m"
	normal    = "\x1b[0m"
)

func (p *progress) tellTerminal(e fleet.Event) {
	switch e.Kind {
	case fleet.Begin:
		p.last = ""
		fmt.Fprintf(p.w, "%s  %-10s …", clearLine, e.Phase)
	case fleet.Step:
		p.last = e.Text
		fmt.Fprintf(p.w, "%s  %-10s %s %s", clearLine, e.Phase, count(e), cut(plain(e.Text), 90))
	case fleet.Done:
		fmt.Fprintf(p.w, "%s%s✓%s %-10s %s in %s  %s\n", clearLine, green, normal, e.Phase, count(e), e.Took.Round(time.Millisecond), cut(plain(p.last), 80))
	case fleet.Failed:
		fmt.Fprintf(p.w, "%s%s✗%s %-10s %s after %s\n", clearLine, red, normal, e.Phase, count(e), e.Took.Round(time.Millisecond))
	}
}

func count(e fleet.Event) string { return fmt.Sprintf("%d/%d", e.Done, e.Total) }
