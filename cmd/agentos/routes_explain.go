package main

import (
	"github.com/spf13/cobra"

	"github.com/nexixai/agentos/api/client"
)

// explainFlags are the flags of routes explain.
type explainFlags struct {
	agent, session, user, region, class string
	labels                              []string
	wish                                client.TargetSelector
}

func (a *app) routesExplainCommand() *cobra.Command {
	var f explainFlags
	cmd := &cobra.Command{
		Use:   "explain --agent AGENT",
		Short: "Say where a run would go, and why nowhere else",
		Long: `Say where a run would go, by which route, and for every other place why not; nothing is run. The first place is the one
that is taken; what passes every check and isn't first is tried after it.`,
		Example: `  agentos routes explain --agent agt_globex_summarizer_v1
  agentos routes explain --agent agt_sample_echo_v1 --label team=red --class confidential --region eu-1`,
		Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.agent == "" {
				return usage("%s needs --agent", cmd.CommandPath())
			}
			labels, err := labelFlags(f.labels)
			if err != nil {
				return err
			}
			c, err := a.dial(roleTenantAdmin)
			if err != nil {
				return err
			}
			defer c.close()
			ask := client.RouteExplain{AgentID: f.agent, Context: &client.RunContext{Labels: labels, SessionID: f.session, UserID: f.user}}
			if f.region != "" || f.class != "" {
				ask.PolicyContext = &client.PolicyContext{Region: f.region, DataClassification: f.class}
			}
			for _, name := range []string{"to-stack", "to-organization", "to-region", "capability", "prefer-tier"} {
				if cmd.Flags().Changed(name) {
					ask.Selector = &f.wish
				}
			}
			e, err := c.ExplainRoute(cmd.Context(), ask)
			if err != nil {
				return err
			}
			return a.printExplanation(c, e)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.agent, "agent", "", "agent to be run")
	flags.StringArrayVar(&f.labels, "label", nil, "label of the run, KEY=VALUE; may be repeated")
	flags.StringVar(&f.session, "session", "", "session of the run, which keeps it where its like are")
	flags.StringVar(&f.user, "user", "", "user of the run, for runs without a session")
	flags.StringVar(&f.region, "region", "", "region that the run is bound to")
	flags.StringVar(&f.class, "class", "", "class of the run's data: public, internal, confidential or restricted")
	flags.StringVar(&f.wish.StackID, "to-stack", "", "caller's wish: this node")
	flags.StringVar(&f.wish.Organization, "to-organization", "", "caller's wish: this organisation")
	flags.StringVar(&f.wish.Region, "to-region", "", "caller's wish: a node of this region")
	flags.StringArrayVar(&f.wish.RequiredCapabilities, "capability", nil, "what the caller requires; may be repeated")
	flags.StringVar(&f.wish.PreferredModelTier, "prefer-tier", "", "model tier that the caller would like")
	return cmd
}

// printExplanation prints the decision, then for each place what speaks against it, or that nothing does.
func (a *app) printExplanation(c *conn, e *client.RouteExplanation) error {
	if a.output == "json" {
		return a.json(c.body())
	}
	target, route := "nowhere", "none matches"
	if e.Decision.Target != nil {
		target = *e.Decision.Target
	}
	if e.Decision.RouteID != nil {
		route = *e.Decision.RouteID
	}
	head := newTable(a.out)
	head.row("goes to", target)
	head.row("by route", route)
	if err := head.flush(); err != nil {
		return err
	}
	t := newTable(a.out, "node", "organization", "goes there", "check", "why")
	for _, candidate := range e.Candidates {
		against := 0
		for _, r := range candidate.Reasons {
			if r.OK {
				continue
			}
			against++
			t.row(candidate.StackID, candidate.Organization, "no", r.Check, r.Detail)
		}
		if against > 0 {
			continue
		}
		verdict := "next"
		if candidate.Chosen {
			verdict = "yes"
		}
		for _, r := range candidate.Reasons {
			if r.Check == "route" || r.Check == "live" {
				t.row(candidate.StackID, candidate.Organization, verdict, r.Check, r.Detail)
			}
		}
	}
	return t.flush()
}
