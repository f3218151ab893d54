package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nexixai/agentos/api/client"
)

func (a *app) policyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "policy",
		Short:   "Try a policy on a text; list, show, put and delete rulesets",
		Example: "  agentos policy check --text \"write to ann@example.com\"\n  agentos policy put pol_mine --file policy.yaml",
	}
	cmd.AddCommand(a.policyCheckCommand(), a.policyListCommand(), a.policyGetCommand(), a.policyPutCommand(), a.policyDeleteCommand())
	return cmd
}

func (a *app) policyCheckCommand() *cobra.Command {
	var text, ruleset string
	cmd := &cobra.Command{
		Use:   "check --text TEXT",
		Short: "Say what policy would do to a text, and call no model",
		Example: `  agentos policy check --text "write to ann@example.com"
  cat letter.txt | agentos policy check --ruleset pol_mine --text -`,
		Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("text") {
				return usage("%s needs --text, which may be - for standard input", cmd.CommandPath())
			}
			text, err := a.readText(text)
			if err != nil {
				return err
			}
			c, err := a.dial(roleUser)
			if err != nil {
				return err
			}
			defer c.close()
			p, err := c.CheckPolicy(cmd.Context(), text, ruleset)
			if err != nil {
				return err
			}
			return a.told(c, func(t *table) {
				t.row("decision", p.Decision)
				for _, reason := range p.Reasons {
					t.row("reason", reason)
				}
				for _, r := range p.Redactions {
					t.row(r.Type, fmt.Sprintf("bytes %d to %d become %s", r.Start, r.End, r.Replacement))
				}
			})
		},
	}
	cmd.Flags().StringVar(&text, "text", "", "text to try; - reads standard input")
	cmd.Flags().StringVar(&ruleset, "ruleset", "", "ruleset to apply; the tenant's own when left out")
	return cmd
}

func (a *app) policyListCommand() *cobra.Command {
	var p page
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List rulesets",
		Example: "  agentos policy list",
		Args:    none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return listing[client.Ruleset]{
				role: roleTenantAdmin, plural: "rulesets", from: (*client.Client).Rulesets,
				row:   func(t *table, v client.Ruleset) { t.row(v.ID, v.Redact, len(v.Custom), len(v.Deny), v.UpdatedAt) },
				heads: []string{"ruleset", "redacts", "custom", "denies", "updated"},
			}.show(cmd.Context(), a, p)
		},
	}
	p.flags(cmd)
	return cmd
}

func (a *app) policyGetCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "get RULESET",
		Short:   "Show one ruleset",
		Example: "  agentos policy get pol_default",
		Args:    exactly(1, "one ruleset id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dial(roleTenantAdmin)
			if err != nil {
				return err
			}
			defer c.close()
			v, err := c.GetRuleset(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.printRuleset(c, v)
		},
	}
}

func (a *app) printRuleset(c *conn, v *client.Ruleset) error {
	return a.told(c, func(t *table) {
		t.row("ruleset", v.ID)
		t.row("redacts", strings.Join(v.Redact, ", "))
		for _, e := range v.Custom {
			t.row("redacts "+e.Name, e.Pattern)
		}
		for _, e := range v.Deny {
			t.row("denies "+e.Name, e.Pattern)
		}
		t.row("updated", v.UpdatedAt)
	})
}

func (a *app) policyPutCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "put RULESET --file FILE",
		Short: "Make a ruleset, or replace one",
		Long: `Make a ruleset, or replace one, from a JSON or YAML file with its members (redact, custom, deny, limits), bare or under
"ruleset", as "policy get --output json" prints it. A member that rulesets don't have is refused.`,
		Example: `  agentos policy put pol_mine --file policy.yaml
  echo '{"redact":["email","phone"],"deny":[{"name":"word","pattern":"(?i)secret project"}]}' | agentos policy put pol_mine --file -`,
		Args: exactly(1, "one ruleset id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var v client.Ruleset
			if err := a.readObject(cmd, file, "ruleset", &v); err != nil {
				return err
			}
			v.ID, v.TenantID = "", "" // the argument and the key say these
			c, err := a.dial(roleTenantAdmin)
			if err != nil {
				return err
			}
			defer c.close()
			put, err := c.PutRuleset(cmd.Context(), args[0], v)
			if err != nil {
				return err
			}
			return a.printRuleset(c, put)
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "JSON or YAML file; - reads standard input")
	return cmd
}

func (a *app) policyDeleteCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "delete RULESET",
		Short:   "Delete one of the tenant's own rulesets",
		Example: "  agentos policy delete pol_mine",
		Args:    exactly(1, "one ruleset id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dial(roleTenantAdmin)
			if err != nil {
				return err
			}
			defer c.close()
			if err := c.DeleteRuleset(cmd.Context(), args[0]); err != nil {
				return err
			}
			return a.done("deleted", args[0])
		},
	}
}
