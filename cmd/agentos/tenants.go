package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/nexixai/agentos/api/client"
)

func (a *app) tenantsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "tenants",
		Short:   "List, make and change tenants",
		Example: "  agentos tenants list\n  agentos tenants create tnt_mine --name Mine --plan standard",
	}
	cmd.AddCommand(
		a.tenantsListCommand(), a.tenantsGetCommand(), a.tenantsCreateCommand(), a.tenantsUpdateCommand(), a.tenantsQuotasCommand(),
		a.tenantsVerbCommand("enable", "Let a disabled tenant work again", (*client.Client).EnableTenant),
		a.tenantsVerbCommand("disable", "Stop everything of a tenant; its data is kept", (*client.Client).DisableTenant),
	)
	return cmd
}

func (a *app) tenantsListCommand() *cobra.Command {
	var p page
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List tenants",
		Example: "  agentos tenants list",
		Args:    none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return listing[client.Tenant]{
				role: rolePlatformAdmin, plural: "tenants", from: (*client.Client).Tenants,
				row:   func(t *table, v client.Tenant) { t.row(v.ID, v.Name, v.Status, v.PlanTier) },
				heads: []string{"tenant", "name", "status", "plan"},
			}.show(cmd.Context(), a, p)
		},
	}
	p.flags(cmd)
	return cmd
}

// askTenant makes one admin call and prints the tenant it answers with.
func (a *app) askTenant(ask func(*client.Client) (*client.Tenant, error)) error {
	c, err := a.dial(rolePlatformAdmin)
	if err != nil {
		return err
	}
	defer c.close()
	v, err := ask(c.Client)
	if err != nil {
		return err
	}
	return a.told(c, func(t *table) {
		t.row("tenant", v.ID)
		t.row("name", v.Name)
		t.row("status", v.Status)
		t.row("plan", v.PlanTier)
		quotaRows(t, &v.Quotas)
	})
}

// quotaRows prints quotas one a line, in a fixed order.
func quotaRows(t *table, q *client.Quotas) {
	t.row("max_concurrent_runs", amount(q.Runs.MaxConcurrentRuns))
	t.row("run_create_qps", amount(q.Runs.RunCreateQPS))
	t.row("run_create_burst", amount(q.Runs.RunCreateBurst))
	t.row("tool_calls_per_minute", amount(q.Tools.ToolCallsPerMinute))
	if b := q.Models.TokenBudget; b != nil {
		t.row("tokens a "+b.Window, amount(b.MaxTokens))
		t.row("USD a "+b.Window, amount(b.MaxCostUSD))
	} else {
		t.row("token_budget", "unlimited")
	}
	t.row("max_tokens_per_request", amount(q.Models.MaxTokensPerRequest))
	t.row("max_requests_per_minute", amount(q.Models.MaxRequestsPerMinute))
	t.row("max_memory_bytes", amount(q.Storage.MaxMemoryBytes))
}

// amount is an optional number; none means no limit.
func amount[T any](v *T) string {
	if v == nil {
		return "unlimited"
	}
	return fmt.Sprint(*v)
}

func (a *app) tenantsGetCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "get TENANT",
		Short:   "Show one tenant",
		Example: "  agentos tenants get tnt_demo",
		Args:    exactly(1, "one tenant id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.askTenant(func(c *client.Client) (*client.Tenant, error) { return c.GetTenant(cmd.Context(), args[0]) })
		},
	}
}

func (a *app) tenantsCreateCommand() *cobra.Command {
	var name, plan, file string
	cmd := &cobra.Command{
		Use:     "create TENANT",
		Short:   "Make a tenant",
		Long:    `Make a tenant. What neither a flag nor the file says comes from the plan's defaults.`,
		Example: "  agentos tenants create tnt_mine --name Mine --plan standard",
		Args:    exactly(1, "one tenant id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var t client.TenantCreate
			if file != "" {
				if err := a.readObject(cmd, file, "tenant_create", &t); err != nil {
					return err
				}
			}
			t.ID = args[0]
			if name != "" {
				t.Name = client.Some(name)
			}
			if plan != "" {
				t.PlanTier = client.Some(plan)
			}
			return a.askTenant(func(c *client.Client) (*client.Tenant, error) { return c.CreateTenant(cmd.Context(), t) })
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "name for people")
	cmd.Flags().StringVar(&plan, "plan", "", "demo, standard or enterprise")
	cmd.Flags().StringVarP(&file, "file", "f", "", "JSON or YAML file with members of the tenant; - reads standard input")
	return cmd
}

func (a *app) tenantsUpdateCommand() *cobra.Command {
	var name, file string
	cmd := &cobra.Command{
		Use:     "update TENANT",
		Short:   "Change members of a tenant",
		Long:    `Change those members of a tenant that a flag or the file names, and leave the others.`,
		Example: "  agentos tenants update tnt_mine --name 'New name'\n  echo '{\"quotas\":{\"runs\":{\"max_concurrent_runs\":20}}}' | agentos tenants update tnt_mine --file -",
		Args:    exactly(1, "one tenant id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var u client.TenantUpdate
			if file != "" || name == "" {
				if err := a.readObject(cmd, file, "tenant_update", &u); err != nil {
					return err
				}
			}
			if name != "" {
				u.Name = client.Some(name)
			}
			return a.askTenant(func(c *client.Client) (*client.Tenant, error) { return c.UpdateTenant(cmd.Context(), args[0], u) })
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "name for people")
	cmd.Flags().StringVarP(&file, "file", "f", "", "JSON or YAML file with the members to change; - reads standard input")
	return cmd
}

func (a *app) tenantsVerbCommand(verb, short string, do func(*client.Client, context.Context, string) (*client.Tenant, error)) *cobra.Command {
	return &cobra.Command{
		Use:     verb + " TENANT",
		Short:   short,
		Example: "  agentos tenants " + verb + " tnt_mine",
		Args:    exactly(1, "one tenant id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.askTenant(func(c *client.Client) (*client.Tenant, error) { return do(c, cmd.Context(), args[0]) })
		},
	}
}

func (a *app) tenantsQuotasCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "quotas TENANT",
		Short: "Show a tenant's quotas, or replace them",
		Long: `Show a tenant's quotas, or replace them with those of --file: all of them, so that a number which is left out there is
unlimited from then on. "agentos tenants update" changes some and leaves the others.`,
		Example: `  agentos tenants quotas tnt_demo --output json > quotas.json
  agentos tenants quotas tnt_demo --file quotas.json`,
		Args: exactly(1, "one tenant id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var wanted client.Quotas
			if file != "" {
				if err := a.readObject(cmd, file, "quota_config", &wanted); err != nil {
					return err
				}
			}
			c, err := a.dial(rolePlatformAdmin)
			if err != nil {
				return err
			}
			defer c.close()
			var q *client.Quotas
			if file != "" {
				q, err = c.PutQuotas(cmd.Context(), args[0], wanted)
			} else {
				q, err = c.GetQuotas(cmd.Context(), args[0])
			}
			if err != nil {
				return err
			}
			return a.told(c, func(t *table) { quotaRows(t, q) })
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "JSON or YAML file with the new quotas; - reads standard input")
	return cmd
}
