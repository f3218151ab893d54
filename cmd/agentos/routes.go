package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/nexixai/agentos/api/client"
)

func (a *app) routesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "routes",
		Short: "Say where a tenant's runs go, and have it explained",
		Long: `Say where a tenant's runs go: to this cluster, to a node or an organisation that it is paired with, by weights. Of the
routes that match a run the most specific one is the rule. Without one a run stays in this cluster.`,
		Example: "  agentos routes list\n  agentos routes put rte_summaries --agent agt_globex_summarizer_v1 --to globex\n  agentos routes explain --agent agt_globex_summarizer_v1",
	}
	cmd.AddCommand(a.routesListCommand(), a.routesShowCommand(), a.routesPutCommand(), a.routesDeleteCommand(), a.routesExplainCommand())
	return cmd
}

func (a *app) routesListCommand() *cobra.Command {
	var p page
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List routes",
		Example: "  agentos routes list",
		Args:    none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return listing[client.Route]{
				role: roleTenantAdmin, plural: "routes", from: (*client.Client).Routes,
				row: func(t *table, v client.Route) {
					t.row(v.ID, matches(v.Match), targets(v.Targets), lostAfter(v.LostAfterMS))
				},
				heads: []string{"route", "matches", "leads to", "lost after"},
			}.show(cmd.Context(), a, p)
		},
	}
	p.flags(cmd)
	return cmd
}

// matches says in a line which runs a route is for.
func matches(m client.RouteMatch) string {
	var parts []string
	add := func(name, value string) {
		if value != "" {
			parts = append(parts, name+"="+value)
		}
	}
	add("agent", m.AgentID)
	for _, key := range slices.Sorted(maps.Keys(m.Labels)) {
		parts = append(parts, "label "+key+"="+m.Labels[key])
	}
	add("tier", m.ModelTier)
	add("region", m.Region)
	add("class", m.DataClassification)
	if len(parts) == 0 {
		parts = append(parts, "every run")
	}
	add("needs", strings.Join(m.RequiredCapabilities, "+"))
	return strings.Join(parts, ", ")
}

// targets says in a line where a route leads, and with what weight where that's not 1.
func targets(list []client.RouteTarget) string {
	parts := make([]string, len(list))
	for i, t := range list {
		switch {
		case t.Local:
			parts[i] = "local"
		case t.StackID != "":
			parts[i] = "node " + t.StackID
		default:
			parts[i] = t.Organization
		}
		if t.Weight != nil && *t.Weight != 1 {
			parts[i] += fmt.Sprintf(" (%d)", *t.Weight)
		}
	}
	return strings.Join(parts, ", ")
}

func lostAfter(ms int64) string {
	if ms == 0 {
		return "the run's deadline"
	}
	return (time.Duration(ms) * time.Millisecond).String()
}

func (a *app) routesShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "show ROUTE",
		Short:   "Show one route",
		Example: "  agentos routes show rte_globex",
		Args:    exactly(1, "one route id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dial(roleTenantAdmin)
			if err != nil {
				return err
			}
			defer c.close()
			v, err := c.GetRoute(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.printRoute(c, v)
		},
	}
}

func (a *app) printRoute(c *conn, v *client.Route) error {
	return a.told(c, func(t *table) {
		t.row("route", v.ID)
		t.row("matches", matches(v.Match))
		for _, target := range v.Targets {
			t.row("leads to", targets([]client.RouteTarget{target}))
		}
		t.row("lost after", lostAfter(v.LostAfterMS))
		t.row("on lost", v.OnLost)
		t.row("updated", v.UpdatedAt)
	})
}

// routeFlags are the flags of routes put.
type routeFlags struct {
	file, agent, tier, region, class string
	labels, capabilities, to         []string
	lostAfter                        time.Duration
}

func (a *app) routesPutCommand() *cobra.Command {
	var f routeFlags
	cmd := &cobra.Command{
		Use:   "put ROUTE (--to TARGET | --file FILE)",
		Short: "Make a route, or replace one",
		Long: `Make a route, or replace one: by flags, or from a JSON or YAML file with its members (match, targets, lost_after_ms, …),
bare or under "route", as "routes show --output json" prints it. --to names where runs go and may be repeated: an
organisation, "node:STACK", or "local", each with "=WEIGHT" for its share of the runs, 1 when left out; a target of weight 0
takes only what no other can.`,
		Example: `  agentos routes put rte_summaries --agent agt_globex_summarizer_v1 --to globex
  agentos routes put rte_canary --label team=red --to local=95 --to globex=5
  agentos routes put rte_eu --file route.yaml`,
		Args: exactly(1, "one route id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := a.routeOf(cmd, &f)
			if err != nil {
				return err
			}
			c, err := a.dial(roleTenantAdmin)
			if err != nil {
				return err
			}
			defer c.close()
			put, err := c.PutRoute(cmd.Context(), args[0], v)
			if err != nil {
				return err
			}
			return a.printRoute(c, put)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&f.file, "file", "f", "", "JSON or YAML file; - reads standard input")
	flags.StringArrayVar(&f.to, "to", nil, "where runs go: ORGANISATION, node:STACK or local, with =WEIGHT; may be repeated")
	flags.StringVar(&f.agent, "agent", "", "match runs of this agent")
	flags.StringArrayVar(&f.labels, "label", nil, "match runs with this label, KEY=VALUE; may be repeated")
	flags.StringVar(&f.tier, "tier", "", "match runs of this model tier")
	flags.StringVar(&f.region, "region", "", "match runs that are bound to this region")
	flags.StringVar(&f.class, "class", "", "match runs with data of this class")
	flags.StringArrayVar(&f.capabilities, "capability", nil, "what every target must offer; may be repeated")
	flags.DurationVar(&f.lostAfter, "lost-after", 0, "how long a peer may be silent before a run there is given up; 0 waits for the run's deadline")
	return cmd
}

// routeOf is the route that the flags, or the file, say.
func (a *app) routeOf(cmd *cobra.Command, f *routeFlags) (client.Route, error) {
	var v client.Route
	if f.file != "" {
		for _, name := range []string{"to", "agent", "label", "tier", "region", "class", "capability", "lost-after"} {
			if cmd.Flags().Changed(name) {
				return v, usage("%s takes the route from --file, so --%s belongs there", cmd.CommandPath(), name)
			}
		}
		err := a.readObject(cmd, f.file, "route", &v)
		v.ID, v.TenantID = "", "" // the argument and the key say these
		return v, err
	}
	if len(f.to) == 0 {
		return v, usage("%s needs --to, which says where runs go, or --file", cmd.CommandPath())
	}
	labels, err := labelFlags(f.labels)
	if err != nil {
		return v, err
	}
	v.Match = client.RouteMatch{
		AgentID: f.agent, Labels: labels, ModelTier: f.tier, Region: f.region, DataClassification: f.class, RequiredCapabilities: f.capabilities,
	}
	v.LostAfterMS = f.lostAfter.Milliseconds()
	for _, text := range f.to {
		t, err := targetFlag(text)
		if err != nil {
			return v, err
		}
		v.Targets = append(v.Targets, t)
	}
	return v, nil
}

// targetFlag reads a target: ORGANISATION, node:STACK or local, with =WEIGHT.
func targetFlag(text string) (t client.RouteTarget, err error) {
	name, share, weighted := strings.Cut(text, "=")
	if weighted {
		weight := 0
		if _, err := fmt.Sscanf(share, "%d", &weight); err != nil || fmt.Sprint(weight) != share {
			return t, usage("--to is %q, and %q is not a whole number", text, share)
		}
		t.Weight = &weight
	}
	stack, node := strings.CutPrefix(name, "node:")
	switch {
	case name == "" || node && stack == "":
		return t, usage("--to is %q, which is not ORGANISATION, node:STACK or local", text)
	case node:
		t.StackID = stack
	case name == "local":
		t.Local = true
	default:
		t.Organization = name
	}
	return t, nil
}

func (a *app) routesDeleteCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "delete ROUTE",
		Short:   "Delete a route; runs that it has placed go on where they are",
		Example: "  agentos routes delete rte_globex",
		Args:    exactly(1, "one route id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dial(roleTenantAdmin)
			if err != nil {
				return err
			}
			defer c.close()
			if err := c.DeleteRoute(cmd.Context(), args[0]); err != nil {
				return err
			}
			return a.done("deleted", args[0])
		},
	}
}
