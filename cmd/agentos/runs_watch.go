package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nexixai/agentos/api/client"
)

func (a *app) runsWatchCommand() *cobra.Command {
	var patience time.Duration
	cmd := &cobra.Command{
		Use:   "watch RUN",
		Short: "Print a run's journal until the run ends, then its output",
		Long: `Print a run's journal, one line an event (deltas of a streaming model are left out), from its beginning until the run
ends, and then its output. As JSON each event is one line as it came, and the run is the last. A connection that breaks is
made again, at another node of the deployment when its own is away, and the journal goes on where it was. Leaving does not cancel the run. The exit code is 8 when the
run failed or was canceled, and 9 when its end was not seen although the node was waited for (--patience).`,
		Example: "  agentos runs watch run_01J...\n  agentos runs watch run_01J... --output json | jq .event.type",
		Args:    exactly(1, "one run id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dialPatient(roleUser, patience)
			if err != nil {
				return err
			}
			defer c.close()
			return a.watch(cmd.Context(), c, args[0])
		},
	}
	patienceFlag(cmd, &patience)
	return cmd
}

// patienceFlag adds the flag of the commands that watch.
func patienceFlag(cmd *cobra.Command, d *time.Duration) {
	cmd.Flags().DurationVar(d, "patience", client.DefaultPatience, "how long to go on asking when the node is away; 0 means without end")
}

// watch prints the journal of a run and then its outcome. As JSON each event is one line as it came, and the run is the
// last.
func (a *app) watch(ctx context.Context, c *conn, runID string) error {
	final := ""
	for f, err := range c.journal(ctx, runID) {
		switch {
		case err != nil && ctx.Err() != nil:
			return &codedError{code: exitInterrupted, err: errors.New("interrupted"), hint: "the run goes on; agentos runs watch " + runID}
		case errors.Is(err, client.ErrCut):
			return &codedError{code: exitCut, err: err, hint: "the run may go on; look again with: agentos runs watch " + runID}
		case err != nil:
			return err
		case f.Gap != nil:
			a.say("events %d to %d are no longer there (%s)", f.Gap.From, f.Gap.To, plain(f.Gap.Reason))
			continue
		case f.Delta(): // what it is part of comes whole
			continue
		}
		if f.Event.Final() {
			final = f.Event.Type
		}
		line := string(f.Data)
		if a.output != "json" {
			line = eventLine(f.Event)
		}
		if _, err := fmt.Fprintln(a.out, line); err != nil {
			return err
		}
	}
	r, err := c.GetRun(ctx, runID)
	if err != nil {
		return err
	}
	if a.output == "json" {
		var b bytes.Buffer
		if err = line(&b, c.body()); err == nil {
			_, err = a.out.Write(b.Bytes())
		}
	} else {
		err = a.printOutcome(r)
	}
	if err == nil && final != client.RunCompleted {
		err = &codedError{code: exitRunFailed, err: fmt.Errorf("run %s ended %s", runID, strings.TrimPrefix(final, "agentos.run.")), hint: "agentos runs get " + runID}
	}
	return err
}

// journal follows a run to its end. When the node goes away it goes on at another, if the deployment has one.
func (c *conn) journal(ctx context.Context, runID string) iter.Seq2[client.Frame, error] {
	return func(yield func(client.Frame, error) bool) {
		last, progress := uint64(0), time.Now()
		for {
			began, cut := time.Now(), error(nil)
			for f, err := range c.Follow(ctx, runID, last) {
				if errors.Is(err, client.ErrCut) && c.elsewhere != nil {
					cut = err
					break
				}
				if f.Gap != nil {
					last = f.Gap.To
				}
				if err == nil && f.Event != nil && !f.Delta() {
					last, progress = f.Event.Sequence, time.Now()
				}
				if !yield(f, err) {
					return
				}
			}
			if cut == nil {
				return
			}
			// A refusal to even try again comes at once, and would at the next node.
			over := c.patience >= 0 && time.Since(progress) > c.patience
			if over || time.Since(began) < turn || ctx.Err() != nil {
				yield(client.Frame{}, cut)
				return
			}
			if err := c.elsewhere(); err != nil {
				yield(client.Frame{}, err)
				return
			}
		}
	}
}

// printOutcome prints what a run came to.
func (a *app) printOutcome(r *client.Run) error {
	var err error
	switch {
	case r.Output != nil:
		_, err = fmt.Fprintln(a.out, "\n"+lines(r.Output.Text))
	case r.Error != nil:
		_, err = fmt.Fprintf(a.out, "\n%s: %s\n", plain(string(r.Error.Code)), plain(inCommands(r.Error.Message)))
	}
	return err
}

// eventLine is one event for the eye: when, which, and what matters of it.
func eventLine(e *client.Event) string {
	kind := strings.TrimPrefix(e.Type, "agentos.")
	line := fmt.Sprintf("%s  %3d  %-20s  %s", e.Time.Local().Format("15:04:05.000"), e.Sequence, plain(kind), detail(kind, e.Payload))
	return strings.TrimRight(line, " ")
}

// payload is every member that a line may show.
type payload struct {
	Status       string          `json:"status"`
	StackID      string          `json:"stack_id"`
	Organization string          `json:"organization"`
	RouteID      string          `json:"route_id"`
	Attempt      int             `json:"attempt"`
	StepKind     string          `json:"step_kind"`
	Name         string          `json:"name"`
	Message      string          `json:"message"`
	DurationMS   int64           `json:"duration_ms"`
	LatencyMS    int64           `json:"latency_ms"`
	ToolID       string          `json:"tool_id"`
	Input        json.RawMessage `json:"input"`
	Output       json.RawMessage `json:"output"`
	ModelRef     string          `json:"model_ref"`
	By           string          `json:"by"`
	Summary      struct {
		Messages int `json:"messages"`
	} `json:"input_summary"`
	Usage struct {
		Input  int64 `json:"input_tokens"`
		Output int64 `json:"output_tokens"`
	} `json:"usage"`
	Policy struct {
		Decision string `json:"decision"`
	} `json:"policy_outcome"`
	Route struct {
		Backend string `json:"backend"`
		Model   string `json:"model"`
	} `json:"route"`
	Error *struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
}

// detail is the part of a payload worth a glance. A type it doesn't know is shown as it came.
func detail(kind string, raw json.RawMessage) string {
	var p payload
	if json.Unmarshal(raw, &p) != nil {
		return cut(plain(string(raw)), 120)
	}
	var text string
	switch kind {
	case "run.created":
		text = p.Status
	case "run.started":
		text = fmt.Sprintf("at %s, attempt %d", p.StackID, p.Attempt)
	case "run.forwarded":
		text = fmt.Sprintf("to %s of %s", p.StackID, p.Organization)
		if p.RouteID != "" {
			text += ", by route " + p.RouteID
		}
	case "run.step.started":
		text = strings.TrimSpace(fmt.Sprintf("%s %s %s", p.StepKind, p.Name, p.Message))
	case "run.step.completed":
		text = fmt.Sprintf("%s in %d ms", p.Status, p.DurationMS)
	case "tool.call.requested":
		text = fmt.Sprintf("%s %s", p.ToolID, p.Input)
	case "tool.call.completed":
		text = fmt.Sprintf("%s %s in %d ms %s", p.ToolID, p.Status, p.DurationMS, absent(p.Output))
	case "model.requested":
		text = fmt.Sprintf("%s, %d message(s)", p.ModelRef, p.Summary.Messages)
	case "model.completed":
		text = p.Status
		if p.Route.Backend != "" { // somebody answered
			text += fmt.Sprintf(" by %s/%s", p.Route.Backend, p.Route.Model)
		}
		text += fmt.Sprintf(" in %d ms, %d+%d tokens", p.LatencyMS, p.Usage.Input, p.Usage.Output)
		if p.Policy.Decision != "" {
			text += ", policy " + p.Policy.Decision
		}
	case "run.completed":
		text = p.Status
	case "run.failed":
		text = p.Status
	case "run.canceled", "run.cancel_requested":
		text = strings.TrimSpace("by " + p.By)
	default:
		text = string(raw)
	}
	if p.Error != nil {
		text += fmt.Sprintf(" (%s: %s)", p.Error.Code, inCommands(p.Error.Message))
	}
	return cut(plain(strings.TrimSpace(text)), 160)
}

func absent(raw json.RawMessage) string {
	if string(raw) == "null" {
		return ""
	}
	return string(raw)
}
