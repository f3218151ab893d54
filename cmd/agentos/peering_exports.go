package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nexixai/agentos/api/client"
)

// grantScopes are what a grant gives unless --scopes says otherwise: what it takes to run agents for another organisation,
// or to have them run there.
var grantScopes = [...]string{
	"runs:create", "runs:read", "runs:cancel", "runs:forward", "agents:read", "tools:invoke", "memory:read", "memory:write", "models:invoke", "events:read", "events:ingest", "peers:read",
}

// grantFlags are what the grants of one command are made of.
type grantFlags struct {
	tenants, scopes, agents []string
	maxRuns                 int64
	maxClass, file          string
	none                    bool
}

func (a *app) peeringExportsCommand() *cobra.Command {
	var f grantFlags
	cmd := &cobra.Command{
		Use:   "exports PEERING",
		Short: "Say what the other organisation may do here",
		Long: `Say what the other organisation may do here: as each tenant that --tenant names, what --scopes and the other flags say.
It takes the place of everything that was granted before. A tenant of theirs acts as one of ours: THEIRS=OURS, or one name
when both are called the same. Grants that differ from each other come from a file, {"exports": [grant, …]}.`,
		Example: "  agentos peering exports prg_01J... --tenant tnt_demo\n" +
			"  agentos peering exports prg_01J... --tenant tnt_sales=tnt_partner --agents agt_quote_v1 --max-runs 5 --max-class internal\n" +
			"  agentos peering exports prg_01J... --none",
		Args: exactly(1, "one peering id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			grants, err := a.grants(cmd, &f)
			if err != nil {
				return err
			}
			return a.askPeering(func(c *client.Client) (*client.Peering, error) { return c.PutExports(cmd.Context(), args[0], grants) })
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVar(&f.tenants, "tenant", nil, "their tenant and the one of ours that it acts as, THEIRS=OURS; may be repeated")
	flags.StringSliceVar(&f.scopes, "scopes", grantScopes[:], "what it may do")
	flags.StringSliceVar(&f.agents, "agents", nil, "agents that may be run, and no others; every one when left out")
	flags.Int64Var(&f.maxRuns, "max-runs", 0, "most runs at once; only the tenant's own limit when left out")
	flags.StringVar(&f.maxClass, "max-class", "", "highest data classification that may come: public, internal, confidential or restricted")
	flags.StringVar(&f.file, "file", "", "take the grants from this JSON or YAML file; - for standard input")
	flags.BoolVar(&f.none, "none", false, "grant nothing any more")
	return cmd
}

// grants are those that the flags or the file say.
func (a *app) grants(cmd *cobra.Command, f *grantFlags) ([]client.Grant, error) {
	ways := 0
	for _, given := range []bool{len(f.tenants) > 0, f.file != "", f.none} {
		if given {
			ways++
		}
	}
	if ways != 1 {
		return nil, usage("%s needs one of --tenant, --file and --none", cmd.CommandPath())
	}
	flags := cmd.Flags()
	if f.file != "" || f.none {
		for _, name := range []string{"scopes", "agents", "max-runs", "max-class"} {
			if flags.Changed(name) {
				return nil, usage("--%s goes with --tenant", name)
			}
		}
	}
	if f.none {
		return nil, nil
	}
	if f.file != "" {
		var body struct {
			Exports []client.Grant `json:"exports"`
		}
		if err := a.readObject(cmd, f.file, "peering", &body); err != nil {
			return nil, err
		}
		if body.Exports == nil {
			return nil, usage("%s has no exports; --none grants nothing", f.file)
		}
		return body.Exports, nil
	}
	if f.maxRuns < 0 {
		return nil, usage("--max-runs is below 0")
	}
	grants := make([]client.Grant, len(f.tenants))
	for i, pair := range f.tenants {
		theirs, ours, two := strings.Cut(pair, "=")
		if !two {
			ours = theirs
		}
		if theirs == "" || ours == "" {
			return nil, usage("--tenant is %q, which is not THEIRS=OURS", pair)
		}
		g := client.Grant{TenantID: theirs, LocalTenantID: ours, Scopes: f.scopes, MaxDataClassification: f.maxClass}
		if flags.Changed("agents") {
			g.Agents = append([]string{}, f.agents...)
		}
		if flags.Changed("max-runs") {
			g.Quotas = &client.GrantQuotas{MaxConcurrentRuns: &f.maxRuns}
		}
		grants[i] = g
	}
	return grants, nil
}

// peeringVerbCommand is a command that puts a peering into another state.
func (a *app) peeringVerbCommand(verb, short string, do func(*client.Client, context.Context, string) (*client.Peering, error)) *cobra.Command {
	return &cobra.Command{
		Use:     verb + " PEERING",
		Short:   short,
		Example: "  agentos peering " + verb + " prg_01J...",
		Args:    exactly(1, "one peering id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.askPeering(func(c *client.Client) (*client.Peering, error) { return do(c, cmd.Context(), args[0]) })
		},
	}
}
