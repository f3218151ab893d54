package fleet

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// EventKind says what an Event tells.
type EventKind string

// The kinds of events. Each phase has one Begin, any number of Steps, and one Done or Failed.
const (
	Begin  EventKind = "begin"
	Step   EventKind = "step"
	Done   EventKind = "done"
	Failed EventKind = "failed"
)

// Event is one piece of progress.
type Event struct {
	Kind  EventKind
	Phase string
	Text  string
	// Done and Total count the phase's steps; Total is 0 while it is unknown.
	Done, Total int
	// Took is how long the phase has run.
	Took time.Duration
}

// PhaseResult is how one phase went, for the report.
type PhaseResult struct {
	Name       string   `json:"name"`
	Result     string   `json:"result"` // ok or failed
	Done       int      `json:"done"`
	Total      int      `json:"total"`
	DurationMS int64    `json:"duration_ms"`
	Steps      []string `json:"steps"`
	Error      string   `json:"error,omitempty"`
}

// phase counts the steps of one phase while it runs. Several goroutines may report to it.
type phase struct {
	name  string
	mu    sync.Mutex
	tell  func(Event)
	began time.Time
	PhaseResult
}

// total says how many steps there will be.
func (p *phase) total(n int) { p.Total = n }

// step counts one step that is done.
func (p *phase) step(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.Done++
	p.Total = max(p.Total, p.Done)
	p.Steps = append(p.Steps, text)
	p.tell(Event{Kind: Step, Phase: p.name, Text: text, Done: p.Done, Total: p.Total, Took: time.Since(p.began)})
}

// note tells something that is no step.
func (p *phase) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.Steps = append(p.Steps, text)
	p.tell(Event{Kind: Step, Phase: p.name, Text: text, Done: p.Done, Total: p.Total, Took: time.Since(p.began)})
}

// FailedError is a phase that failed, with what a person needs next.
type FailedError struct {
	Phase string
	Check string // what failed within it
	Err   error
	// Log holds the last relevant lines of a node's log.
	Log     []string
	LogFile string
	// Next is the command to try.
	Next string
}

// Error implements error.
func (e *FailedError) Error() string { return fmt.Sprintf("%s: %s: %v", e.Phase, e.Check, e.Err) }

// Unwrap returns the cause.
func (e *FailedError) Unwrap() error { return e.Err }

// each does something for every organisation at once, and returns what failed.
func (f *Fleet) each(do func(planOrg) error) error {
	faults := make([]error, len(f.plan.Organizations))
	var wg sync.WaitGroup
	for i, org := range f.plan.Organizations {
		wg.Go(func() { faults[i] = do(org) })
	}
	wg.Wait()
	return errors.Join(faults...)
}

// run runs one phase and writes its result into the report.
func (f *Fleet) run(ctx context.Context, r *Report, name string, do func(context.Context, *phase) error) error {
	p := &phase{name: name, tell: f.o.Progress, began: time.Now(), PhaseResult: PhaseResult{Name: name, Result: "ok", Steps: []string{}}}
	f.o.Progress(Event{Kind: Begin, Phase: name})
	err := ctx.Err()
	if err == nil {
		err = do(ctx, p)
	}
	took := time.Since(p.began)
	p.DurationMS = took.Milliseconds()
	e := Event{Kind: Done, Phase: name, Done: p.Done, Total: p.Total, Took: took}
	if err != nil {
		p.Result, p.Error = "failed", err.Error()
		e.Kind, e.Text = Failed, err.Error()
	}
	r.Phases = append(r.Phases, p.PhaseResult)
	f.o.Progress(e)
	return err
}
