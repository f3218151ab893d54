package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nexixai/agentos/api/client"
	"github.com/nexixai/agentos/node"
	"github.com/nexixai/agentos/node/fleet"
)

func (a *app) upCommand() *cobra.Command {
	var d deployment
	var mode string
	var basePort, nodes, orgs int
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start a deployment on this machine, seed it, check it and report",
		Long: fmt.Sprintf(`Start a deployment on this machine: preflight, boot, seed, wire, validate, report. It is two organisations unless
--orgs says otherwise: acme with three nodes, and globex with one. They are paired, each lets the other's tnt_demo act as
its own, and acme's tnt_demo has a route to an agent that only globex has. Run again it changes nothing, except that a node
which was killed is started again.

A node takes five ports in a row: API, federation, cluster, gossip and admin. The first is --base-port, %d when it is
left out, and further nodes follow in steps of %d, acme's first. Settings for the nodes stand in a file beside the state
directory (.agentos.env), which the first up writes and later ones keep.`, fleet.DefaultBasePort, fleet.PortStep),
		Example: "  agentos up\n  agentos up --orgs 1 --nodes 1\n  agentos up --state-dir /var/tmp/second --base-port 9420 --output json",
		Args:    none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for name, n := range map[string]int{"nodes": nodes, "orgs": orgs} {
				if cmd.Flags().Changed(name) && n < 1 {
					return usage("--%s is %d, which is not 1 or more", name, n)
				}
			}
			f, err := a.fleet(d, func(o *fleet.Options) error {
				o.Mode, o.BasePort, o.Nodes, o.Orgs = node.Mode(mode), basePort, nodes, orgs
				return a.shape(o)
			})
			if err != nil {
				return err
			}
			r, err := f.Up(cmd.Context())
			if r != nil {
				a.reported(r)
				if f.Exists() { // and not before, so that what was refused leaves nothing behind
					err = errors.Join(err, writeEnvFile(a.envFile()))
				}
			}
			if err != nil {
				return err
			}
			if a.output == "json" {
				return a.json(r.Access)
			}
			return a.printUp(r)
		},
	}
	d.flags(cmd)
	cmd.Flags().StringVar(&mode, "mode", "", "demo or dev (AGENTOS_MODE); demo when left out")
	cmd.Flags().IntVar(&basePort, "base-port", 0, fmt.Sprintf("first port (AGENTOS_BASE_PORT); %d when left out", fleet.DefaultBasePort))
	cmd.Flags().IntVar(&nodes, "nodes", 0, "nodes of the first organisation, acme, 1 to 9; 3 when left out")
	cmd.Flags().IntVar(&orgs, "orgs", 0, "organisations, 1 to 5: acme, globex, initech, umbrella, hooli, those after acme with one node each; 2 when left out")
	return cmd
}

// shape fills in from the environment, and then the environment file, what a new deployment is to be.
func (a *app) shape(o *fleet.Options) error {
	look := func(name string) string { return a.getenv(name, o.Env[name]) }
	o.FreshMode = node.Mode(look("AGENTOS_MODE"))
	if port := look("AGENTOS_BASE_PORT"); port != "" {
		n, err := strconv.Atoi(port)
		if err != nil {
			return usage("AGENTOS_BASE_PORT is %q, which is no port", port)
		}
		o.FreshBasePort = n
	}
	return nil
}

func (a *app) printUp(r *fleet.Report) error {
	states := map[string]fleet.NodeStatus{}
	for _, n := range r.Nodes {
		states[n.StackID] = n
	}
	for _, o := range r.Access.Organizations {
		fmt.Fprintf(a.out, "org       %s  trust domain %s\n", o.Name, o.TrustDomain)
		if o.CAFile != nil {
			fmt.Fprintf(a.out, "CA        %s\n", *o.CAFile)
		}
		for _, n := range o.Nodes {
			fmt.Fprintf(a.out, "node      %s  %s, process %d\n", n.StackID, states[n.StackID].State, n.PID)
			fmt.Fprintf(a.out, "API       %s\n", n.APIURL)
			fmt.Fprintf(a.out, "peers     %s\n", n.FederationURL)
			fmt.Fprintf(a.out, "metrics   %s/metrics\n", n.AdminURL)
			fmt.Fprintf(a.out, "log       %s\n", n.LogFile)
		}
		for _, t := range o.Tenants {
			for _, p := range t.Principals {
				fmt.Fprintf(a.out, "key       %-14s %-14s %s\n", t.ID, p.Role, p.KeyFile)
			}
		}
	}
	a.printSeeded(r)
	a.printChecked(r)
	fmt.Fprintf(a.out, "alerts    %s; how to test: %s\n", r.Alerts.Detail, r.Alerts.HowToTest)
	for _, adv := range r.Advice {
		fmt.Fprintf(a.out, "next      %s: %s\n", adv.What, adv.Command)
	}
	return nil
}

// printSeeded prints what the organisations were given to begin with.
func (a *app) printSeeded(r *fleet.Report) {
	if s := r.Seeded; s != nil {
		fmt.Fprintf(a.out, "seeded    tenant %s, agents %s, tools %s\n", s.DefaultTenantID, strings.Join(s.SampleAgentIDs, ", "), strings.Join(s.SampleToolIDs, ", "))
	}
	for _, v := range r.Agents {
		if r.Seeded == nil || !slices.Contains(r.Seeded.SampleAgentIDs, v.AgentID) {
			fmt.Fprintf(a.out, "agent     %s  only at %s\n", v.AgentID, v.Organization)
		}
	}
	for _, at := range r.Peerings {
		v := at.Peering
		fmt.Fprintf(a.out, "peering   %s  %s with %s, %s, our fingerprint %s\n", v.ID, at.At, v.Organization, v.State, v.Fingerprints.Ours)
	}
	for _, v := range r.Routes {
		fmt.Fprintf(a.out, "route     %s  of %s, for %s to %s\n", v.ID, v.Organization, cmp.Or(v.AgentID, "any agent"), strings.Join(v.To, ", "))
	}
	for _, t := range r.Tenants {
		if r.Seeded != nil && t.TenantID == r.Seeded.DefaultTenantID {
			fmt.Fprintf(a.out, "quotas    %s at %s: %s\n", t.TenantID, t.Organization, inWords(&t.Quotas))
		}
	}
}

// printChecked prints how the checks of an action went, and how long they took.
func (a *app) printChecked(r *fleet.Report) {
	sum := func(checks []fleet.Check) string {
		ok, took := 0, int64(0)
		for _, c := range checks {
			if took += c.DurationMS; c.OK {
				ok++
			}
		}
		return fmt.Sprintf("%d of %d passed in %d ms", ok, len(checks), took)
	}
	fmt.Fprintf(a.out, "health    %s\n", sum(r.Checks))
	fmt.Fprintf(a.out, "smoke     %s\n", sum(r.Smoke))
}

// inWords is a tenant's quotas on one line.
func inWords(q *client.Quotas) string {
	text := fmt.Sprintf("%s concurrent runs, %s creates a second (burst %s), %s tool calls a minute", amount(q.Runs.MaxConcurrentRuns),
		amount(q.Runs.RunCreateQPS), amount(q.Runs.RunCreateBurst), amount(q.Tools.ToolCallsPerMinute))
	if b := q.Models.TokenBudget; b != nil {
		text += fmt.Sprintf(", %s tokens and %s USD a %s", amount(b.MaxTokens), amount(b.MaxCostUSD), b.Window)
	}
	return text + fmt.Sprintf(", %s tokens a request, %s bytes of memory", amount(q.Models.MaxTokensPerRequest), amount(q.Storage.MaxMemoryBytes))
}
