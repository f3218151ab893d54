package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nexixai/agentos/api/client"
)

// runFlags are the flags of runs create.
type runFlags struct {
	agent, text, key, priority string
	session, user              string
	class, region              string
	labels, allow, deny        []string
	timeout, patience          time.Duration
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
			if f.watch && f.dryRun {
				return usage("%s --dry-run makes no run that could be watched", cmd.CommandPath())
			}
			return a.createRun(cmd, f)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.agent, "agent", "", "agent to run")
	flags.StringVar(&f.text, "text", "", "input; - reads standard input")
	flags.BoolVar(&f.watch, "watch", false, "print the journal until the run ends, then its output")
	patienceFlag(cmd, &f.patience)
	flags.StringVar(&f.key, "idempotency-key", "", "key that makes a second request with it the same request")
	flags.StringVar(&f.priority, "priority", "", "low, normal or high")
	flags.DurationVar(&f.timeout, "timeout", 0, "how long the run may take")
	flags.IntVar(&f.maxSteps, "max-steps", 0, "how many steps it may take")
	flags.StringArrayVar(&f.labels, "label", nil, "label, KEY=VALUE; may be repeated")
	flags.StringVar(&f.session, "session", "", "session of the run; routes keep a session where it is")
	flags.StringVar(&f.user, "user", "", "user of the run")
	flags.StringVar(&f.class, "class", "", "class of the run's data: public, internal, confidential or restricted; it bounds where the run may go")
	flags.StringVar(&f.region, "region", "", "region that the run is bound to")
	flags.StringArrayVar(&f.allow, "allow-tool", nil, "allow only these tools; may be repeated")
	flags.StringArrayVar(&f.deny, "deny-tool", nil, "deny these tools; may be repeated")
	flags.BoolVar(&f.dryRun, "dry-run", false, "say what would happen, and run nothing")
	return cmd
}

// request is what the flags ask for; what no flag says is left to the node.
func (a *app) request(f runFlags) (client.RunCreate, error) {
	var req client.RunCreate
	var err error
	if req.Input.Text, err = a.readText(f.text); err != nil {
		return req, err
	}
	if f.priority != "" || f.timeout != 0 || f.maxSteps != 0 {
		req.Options = &client.RunOptions{Priority: f.priority, TimeoutMS: f.timeout.Milliseconds(), MaxSteps: f.maxSteps}
	}
	if f.allow != nil || f.deny != nil {
		req.Tooling = &client.Tooling{Allowlist: f.allow, Denymap: f.deny}
	}
	if len(f.labels) > 0 {
		labels, err := labelFlags(f.labels)
		if err != nil {
			return req, err
		}
		req.Context = &client.RunContext{Labels: labels}
	}
	if f.session != "" || f.user != "" {
		if req.Context == nil {
			req.Context = new(client.RunContext)
		}
		req.Context.SessionID, req.Context.UserID = f.session, f.user
	}
	if f.class != "" || f.region != "" {
		req.PolicyContext = &client.PolicyContext{DataClassification: f.class, Region: f.region}
	}
	return req, nil
}

// labelFlags reads KEY=VALUE pairs.
func labelFlags(pairs []string) (map[string]string, error) {
	labels := map[string]string{}
	for _, l := range pairs {
		key, value, ok := strings.Cut(l, "=")
		if !ok || key == "" {
			return nil, usage("--label is %q, which is not KEY=VALUE", l)
		}
		labels[key] = value
	}
	return labels, nil
}

func (a *app) createRun(cmd *cobra.Command, f runFlags) error {
	if cmd.Flags().Changed("max-steps") && f.maxSteps < 1 {
		return usage("--max-steps is %d, which is not 1 or more", f.maxSteps)
	}
	if cmd.Flags().Changed("timeout") && f.timeout < time.Millisecond {
		return usage("--timeout is %v, which is shorter than a millisecond", f.timeout)
	}
	req, err := a.request(f)
	if err != nil {
		return err
	}
	c, err := a.dialPatient(roleUser, f.patience)
	if err != nil {
		return err
	}
	defer c.close()
	if f.dryRun {
		d, err := c.DryRun(cmd.Context(), f.agent, req)
		if err != nil {
			return err
		}
		return a.printDryRun(c, d)
	}
	call := c.call
	call.IdempotencyKey = f.key
	r, err := c.With(call).CreateRun(cmd.Context(), f.agent, req)
	if err != nil {
		return err
	}
	if f.watch {
		a.say("run %s", r.ID)
		return a.watch(cmd.Context(), c, r.ID)
	}
	return a.printRun(c, r)
}

func (a *app) printDryRun(c *conn, d *client.DryRun) error {
	return a.told(c, func(t *table) {
		t.row("would run at", d.Decision.Target)
		for _, candidate := range d.Candidates {
			for _, r := range candidate.Reasons {
				t.row(candidate.StackID, fmt.Sprintf("%s: %s %s", r.Check, map[bool]string{true: "ok", false: "NO"}[r.OK], r.Detail))
			}
		}
		if d.PolicyOutcome != nil {
			t.row("policy", d.PolicyOutcome.Decision)
		}
		for _, q := range d.Quotas {
			limit := "unlimited"
			if q.Limit != nil {
				limit = fmt.Sprint(*q.Limit)
			}
			t.row(q.Name, fmt.Sprintf("%g of %s used, %s", q.Used, limit, map[bool]string{true: "ok", false: "EXHAUSTED"}[q.OK]))
		}
	})
}
