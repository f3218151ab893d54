package main

import (
	"cmp"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/nexixai/agentos/api/client"
)

func (a *app) runsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "runs",
		Short:   "Create, watch, list and cancel runs",
		Example: "  agentos runs create --agent agt_sample_echo_v1 --text hello --watch\n  agentos runs list --status running",
	}
	cmd.AddCommand(a.runsCreateCommand(), a.runsGetCommand(), a.runsListCommand(), a.runsCancelCommand(), a.runsWatchCommand())
	return cmd
}

func (a *app) runsGetCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "get RUN",
		Short:   "Show one run",
		Example: "  agentos runs get run_01J... --output json",
		Args:    exactly(1, "one run id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dial(roleUser)
			if err != nil {
				return err
			}
			defer c.close()
			r, err := c.GetRun(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.printRun(c, r)
		},
	}
}

// took is how long a run that has ended took.
func took(r *client.Run) string {
	if r.CompletedAt == nil {
		return ""
	}
	return r.CompletedAt.Sub(r.CreatedAt).Round(time.Millisecond).String()
}

func (a *app) printRun(c *conn, r *client.Run) error {
	err := a.told(c, func(t *table) {
		t.row("run", r.ID)
		t.row("agent", r.AgentID)
		t.row("status", r.Status)
		t.row("node", r.Placement.StackID)
		t.row("organisation", r.Placement.Organization)
		if r.Placement.RouteID != "" {
			t.row("by route", r.Placement.RouteID)
		}
		if r.Placement.ForwardedFrom != "" {
			t.row("forwarded from", r.Placement.ForwardedFrom)
		}
		if r.Waiting != nil {
			t.row("waits for", waitsFor(r))
			if no := r.Placement.LastRefusal; no != nil {
				t.row("refused last", fmt.Sprintf("by %s: %s", no.Organization, no.Message))
			}
		}
		if late := r.Placement.LateResult; late != nil {
			t.row("too late", fmt.Sprintf("%s had it %s at %s", r.Placement.Organization, late.Status, cell(late.CompletedAt)))
		}
		if r.Placement.Superseded {
			t.row("superseded", r.Placement.ForwardedFrom+" has not taken what was done here")
		}
		t.row("created", r.CreatedAt)
		t.row("took", took(r))
		t.row("steps", fmt.Sprintf("%d, with %d model and %d tool calls", r.Summary.Steps, r.Summary.ModelCalls, r.Summary.ToolCalls))
		t.row("tokens", fmt.Sprintf("%d, %.6f USD", r.Usage.TotalTokens, r.Usage.CostUSD))
		if r.CancelRequestedAt != nil && !r.Final() {
			t.row("cancel", "asked for at "+cell(r.CancelRequestedAt))
		}
		if r.Error != nil {
			t.row("error", string(r.Error.Code)+": "+inCommands(r.Error.Message))
		}
	})
	if err == nil && a.output != "json" && r.Output != nil {
		_, err = fmt.Fprintln(a.out, "\n"+lines(r.Output.Text))
	}
	return err
}

// waitsFor says what a run waits for, and where to look further.
func waitsFor(r *client.Run) string {
	w, p := r.Waiting, &r.Placement
	what := w.For
	switch w.For {
	case "peer":
		return p.Organization + ", which " + map[string]string{
			"held": "does not have it yet", "offered": "was asked and has not answered", "accepted": "has it and has not begun",
		}[p.Phase] + "; agentos peers show " + p.StackID
	case "worker":
		what = "a node that has room for it"
		if w.Region != "" {
			what += " in region " + w.Region
		}
		return what + "; agentos cluster status"
	case "quota":
		what = "the tenant's quota " + w.Limit
	case "model":
		what = "the model, which failed and is asked again"
	}
	if w.Until != nil {
		what += ", until " + cell(w.Until)
	}
	return what
}

func (a *app) runsListCommand() *cobra.Command {
	var p page
	var f client.RunFilter
	var labels []string
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List runs, newest first",
		Example: "  agentos runs list --agent agt_sample_echo_v1 --status completed --limit 10",
		Args:    none,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if f.Labels, err = labelFlags(labels); err != nil {
				return err
			}
			return listing[client.Run]{
				role: roleUser, plural: "runs", from: func(c *client.Client) *client.List[client.Run] { return c.Runs(f) },
				row: func(t *table, r client.Run) {
					t.row(r.ID, r.AgentID, r.Status, r.CreatedAt, took(&r), r.Usage.TotalTokens, outcome(&r))
				},
				heads: []string{"run", "agent", "status", "created", "took", "tokens", "outcome"},
			}.show(cmd.Context(), a, p)
		},
	}
	p.flags(cmd)
	cmd.Flags().StringVar(&f.AgentID, "agent", "", "only runs of this agent")
	cmd.Flags().StringVar(&f.Status, "status", "", "only runs that are queued, running, completed, failed or canceled")
	cmd.Flags().StringArrayVar(&labels, "label", nil, "only runs with this label, KEY=VALUE; may be repeated")
	return cmd
}

// outcome is what a run came to, or what it waits for, in a few words.
func outcome(r *client.Run) string {
	switch {
	case r.Error != nil:
		return string(r.Error.Code)
	case r.Output != nil:
		return cut(plain(r.Output.Text), 50)
	case r.Waiting != nil:
		return "waits for " + cmp.Or(r.Waiting.Limit, r.Waiting.Peer, r.Waiting.For)
	}
	return ""
}

func (a *app) runsCancelCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "cancel RUN",
		Short:   "Ask for a run to be canceled",
		Example: "  agentos runs cancel run_01J...",
		Args:    exactly(1, "one run id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dial(roleUser)
			if err != nil {
				return err
			}
			defer c.close()
			r, err := c.CancelRun(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.printRun(c, r)
		},
	}
}
