package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nexixai/agentos/internal/id"
)

// runFlags are the flags of runs create.
type runFlags struct {
	agent, text, key, priority string
	labels, allow, deny        []string
	timeout                    time.Duration
	maxSteps                   int
	watch, dryRun              bool
}

func (a *app) runsCreateCommand() *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Create a run, and watch it if asked to",
		Long: `Create a run. With --watch its journal is printed, one line an event, and then its output; the exit code is 8 when the
run fails or is canceled, and 9 when the stream ends before the run does. Without an idempotency key one is made up, so
that a request which is sent again makes no second run.`,
		Example: `  agentos runs create --agent agt_sample_echo_v1 --text hello --watch
  echo "long input" | agentos runs create --agent agt_sample_echo_v1 --text - --output json`,
		Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.agent == "" {
				return usage("%s needs --agent", cmd.CommandPath())
			}
			if !cmd.Flags().Changed("text") {
				return usage("%s needs --text, which may be - for standard input", cmd.CommandPath())
			}
			return a.createRun(cmd, f)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.agent, "agent", "", "agent to run")
	flags.StringVar(&f.text, "text", "", "input; - reads standard input")
	flags.BoolVar(&f.watch, "watch", false, "print the journal until the run ends, then its output")
	flags.StringVar(&f.key, "idempotency-key", "", "key that makes a second request with it the same request")
	flags.StringVar(&f.priority, "priority", "", "low, normal or high")
	flags.DurationVar(&f.timeout, "timeout", 0, "how long the run may take")
	flags.IntVar(&f.maxSteps, "max-steps", 0, "how many steps it may take")
	flags.StringArrayVar(&f.labels, "label", nil, "label, KEY=VALUE; may be repeated")
	flags.StringArrayVar(&f.allow, "allow-tool", nil, "allow only these tools; may be repeated")
	flags.StringArrayVar(&f.deny, "deny-tool", nil, "deny these tools; may be repeated")
	flags.BoolVar(&f.dryRun, "dry-run", false, "say what would happen, and run nothing")
	return cmd
}

// body is the request of the flags; what no flag says is left to the node.
func (f *runFlags) body(in io.Reader) (map[string]any, error) {
	text := f.text
	if text == "-" {
		raw, err := io.ReadAll(in)
		if err != nil {
			return nil, fmt.Errorf("read standard input: %w", err)
		}
		text = string(raw)
	}
	body := map[string]any{"input": map[string]any{"type": "text", "text": text}}
	options, tooling := map[string]any{}, map[string]any{}
	if f.priority != "" {
		options["priority"] = f.priority
	}
	if f.timeout != 0 {
		options["timeout_ms"] = f.timeout.Milliseconds()
	}
	if f.maxSteps != 0 {
		options["max_steps"] = f.maxSteps
	}
	if f.dryRun {
		options["dry_run"] = true
	}
	if len(options) > 0 {
		body["run_options"] = options
	}
	if f.allow != nil {
		tooling["tool_allowlist"] = f.allow
	}
	if f.deny != nil {
		tooling["tool_denymap"] = f.deny
	}
	if len(tooling) > 0 {
		body["tooling"] = tooling
	}
	if len(f.labels) > 0 {
		labels := map[string]string{}
		for _, l := range f.labels {
			key, value, ok := strings.Cut(l, "=")
			if !ok || key == "" {
				return nil, usage("--label is %q, which is not KEY=VALUE", l)
			}
			labels[key] = value
		}
		body["context"] = map[string]any{"labels": labels}
	}
	if !f.dryRun {
		body["idempotency_key"] = f.key
		if f.key == "" {
			body["idempotency_key"] = id.New(id.Idempotency)
		}
	}
	return body, nil
}

func (a *app) createRun(cmd *cobra.Command, f runFlags) error {
	body, err := f.body(a.in)
	if err != nil {
		return err
	}
	c, err := a.dial(roleUser)
	if err != nil {
		return err
	}
	defer c.close()
	raw, err := c.raw(cmd.Context(), http.MethodPost, "/v1/agents/"+url.PathEscape(f.agent)+"/runs", body)
	if err != nil {
		return err
	}
	if f.dryRun {
		return a.json(raw)
	}
	var made struct {
		Run runView `json:"run"`
	}
	if err := json.Unmarshal(raw, &made); err != nil {
		return fmt.Errorf("the node's answer can't be read: %w", err)
	}
	if !f.watch {
		return a.printRun(raw)
	}
	if made.Run.ID == "" {
		return errors.New("the node's answer names no run")
	}
	return a.watch(cmd.Context(), c, made.Run.ID)
}

// readFile reads a file, or standard input for "-".
func (a *app) readFile(name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(a.in)
	}
	return os.ReadFile(name)
}
