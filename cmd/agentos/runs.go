package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// runView is what the tables show of a run.
type runView struct {
	ID          string     `json:"run_id"`
	AgentID     string     `json:"agent_id"`
	Status      string     `json:"status"`
	CreatedAt   time.Time  `json:"created_at"`
	CompletedAt *time.Time `json:"completed_at"`
	Output      *struct {
		Text string `json:"text"`
	} `json:"output"`
	Error *struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
	Summary struct {
		Steps      int `json:"steps_total"`
		ToolCalls  int `json:"tool_calls_total"`
		ModelCalls int `json:"model_calls_total"`
	} `json:"summary"`
	Usage struct {
		Total int64   `json:"total_tokens"`
		Cost  float64 `json:"cost_usd"`
	} `json:"usage"`
	Placement struct {
		StackID string `json:"stack_id"`
	} `json:"placement"`
}

func (r *runView) took() string {
	if r.CompletedAt == nil {
		return ""
	}
	return r.CompletedAt.Sub(r.CreatedAt).Round(time.Millisecond).String()
}

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
			raw, err := c.raw(cmd.Context(), http.MethodGet, "/v1/runs/"+url.PathEscape(args[0]), nil)
			if err != nil {
				return err
			}
			return a.printRun(raw)
		},
	}
}

// printRun prints the body of an answer that holds one run.
func (a *app) printRun(raw json.RawMessage) error {
	if a.output == "json" {
		return a.json(raw)
	}
	var body struct {
		Run runView `json:"run"`
	}
	if err := json.Unmarshal(raw, &body); err != nil {
		return err
	}
	r := body.Run
	t := newTable(a.out)
	t.row("run", r.ID)
	t.row("agent", r.AgentID)
	t.row("status", r.Status)
	t.row("node", r.Placement.StackID)
	t.row("created", r.CreatedAt)
	t.row("took", r.took())
	t.row("steps", fmt.Sprintf("%d, with %d model and %d tool calls", r.Summary.Steps, r.Summary.ModelCalls, r.Summary.ToolCalls))
	t.row("tokens", fmt.Sprintf("%d, %.6f USD", r.Usage.Total, r.Usage.Cost))
	if r.Error != nil {
		t.row("error", r.Error.Code+": "+r.Error.Message)
	}
	if err := t.flush(); err != nil {
		return err
	}
	if r.Output != nil {
		_, err := fmt.Fprintln(a.out, "\n"+lines(r.Output.Text))
		return err
	}
	return nil
}

func (a *app) runsListCommand() *cobra.Command {
	var p page
	var agent, status string
	var labels []string
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List runs, newest first",
		Example: "  agentos runs list --agent agt_sample_echo_v1 --status completed --limit 10",
		Args:    none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q := url.Values{}
			set(q, "agent_id", agent)
			set(q, "status", status)
			for _, l := range labels {
				q.Add("label", strings.Replace(l, "=", ":", 1))
			}
			return a.list(cmd.Context(), p, roleUser, "/v1/runs", "runs", q, func(t *table, raw json.RawMessage) error {
				var r runView
				if err := json.Unmarshal(raw, &r); err != nil {
					return err
				}
				note := ""
				switch {
				case r.Error != nil:
					note = r.Error.Code
				case r.Output != nil:
					note = cut(plain(r.Output.Text), 50)
				}
				t.row(r.ID, r.AgentID, r.Status, r.CreatedAt, r.took(), r.Usage.Total, note)
				return nil
			}, "run", "agent", "status", "created", "took", "tokens", "outcome")
		},
	}
	p.flags(cmd)
	cmd.Flags().StringVar(&agent, "agent", "", "only runs of this agent")
	cmd.Flags().StringVar(&status, "status", "", "only runs that are queued, running, completed, failed or canceled")
	cmd.Flags().StringArrayVar(&labels, "label", nil, "only runs with this label, KEY=VALUE; may be repeated")
	return cmd
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
			raw, err := c.raw(cmd.Context(), http.MethodPost, "/v1/runs/"+url.PathEscape(args[0])+":cancel", nil)
			if err != nil {
				return err
			}
			return a.printRun(raw)
		},
	}
}
