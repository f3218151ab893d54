package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"
)

// tenantView is what the tables show of a tenant.
type tenantView struct {
	ID     string `json:"tenant_id"`
	Name   string `json:"name"`
	Status string `json:"status"`
	Plan   string `json:"plan_tier"`
	Quotas quotas `json:"quotas"`
}

// quotas keeps the numbers as they were written.
type quotas map[string]any

// UnmarshalJSON implements json.Unmarshaler.
func (q *quotas) UnmarshalJSON(raw []byte) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	return d.Decode((*map[string]any)(q))
}

const tenantsPath = "/v1/admin/tenants"

func (a *app) tenantsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "tenants",
		Short:   "List, make and change tenants",
		Example: "  agentos tenants list\n  agentos tenants create tnt_mine --name Mine --plan standard",
	}
	cmd.AddCommand(
		a.tenantsListCommand(), a.tenantsGetCommand(), a.tenantsCreateCommand(), a.tenantsUpdateCommand(), a.tenantsQuotasCommand(),
		a.tenantsVerbCommand("enable", "Let a disabled tenant work again"),
		a.tenantsVerbCommand("disable", "Stop everything of a tenant; its data is kept"),
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
			return a.list(cmd.Context(), p, rolePlatformAdmin, tenantsPath, "tenants", url.Values{}, func(t *table, raw json.RawMessage) error {
				var v tenantView
				if err := json.Unmarshal(raw, &v); err != nil {
					return err
				}
				t.row(v.ID, v.Name, v.Status, v.Plan)
				return nil
			}, "tenant", "name", "status", "plan")
		},
	}
	p.flags(cmd)
	return cmd
}

// askTenant makes one admin call and prints the tenant it answers with.
func (a *app) askTenant(cmd *cobra.Command, method, path string, body any) error {
	c, err := a.dial(rolePlatformAdmin)
	if err != nil {
		return err
	}
	defer c.close()
	raw, err := c.raw(cmd.Context(), method, path, body)
	if err != nil {
		return err
	}
	if a.output == "json" {
		return a.json(raw)
	}
	var answer struct {
		Tenant tenantView `json:"tenant"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return err
	}
	v := answer.Tenant
	t := newTable(a.out)
	t.row("tenant", v.ID)
	t.row("name", v.Name)
	t.row("status", v.Status)
	t.row("plan", v.Plan)
	quotaRows(t, v.Quotas)
	return t.flush()
}

// quotaRows prints quotas one a line, in a fixed order.
func quotaRows(t *table, q quotas) {
	for _, name := range [][2]string{
		{"runs", "max_concurrent_runs"},
		{"runs", "run_create_qps"},
		{"runs", "run_create_burst"},
		{"tools", "tool_calls_per_minute"},
		{"models", "token_budget"},
		{"models", "max_tokens_per_request"},
		{"models", "max_requests_per_minute"},
		{"storage", "max_memory_bytes"},
	} {
		group, _ := q[name[0]].(map[string]any)
		v := group[name[1]]
		if budget, ok := v.(map[string]any); ok {
			t.row("tokens a "+amount(budget["window"]), amount(budget["max_tokens"]))
			t.row("USD a "+amount(budget["window"]), amount(budget["max_cost_usd"]))
			continue
		}
		t.row(name[1], amount(v))
	}
}

func (a *app) tenantsGetCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "get TENANT",
		Short:   "Show one tenant",
		Example: "  agentos tenants get tnt_demo",
		Args:    exactly(1, "one tenant id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.askTenant(cmd, http.MethodGet, tenantsPath+"/"+url.PathEscape(args[0]), nil)
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
			body := map[string]any{}
			if file != "" {
				var err error
				if body, err = a.readObject(file, "tenant_create"); err != nil {
					return err
				}
			}
			body["tenant_id"] = args[0]
			if name != "" {
				body["name"] = name
			}
			if plan != "" {
				body["plan_tier"] = plan
			}
			return a.askTenant(cmd, http.MethodPost, tenantsPath, map[string]any{"tenant_create": body})
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "name for people")
	cmd.Flags().StringVar(&plan, "plan", "", "demo, standard or enterprise")
	cmd.Flags().StringVarP(&file, "file", "f", "", "JSON or YAML file with members of the tenant; - reads standard input")
	return cmd
}

func (a *app) tenantsUpdateCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:     "update TENANT --file FILE",
		Short:   "Change members of a tenant",
		Example: "  echo '{\"name\":\"New name\"}' | agentos tenants update tnt_mine --file -",
		Args:    exactly(1, "one tenant id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if file == "" {
				return usage("%s needs --file, which may be - for standard input", cmd.CommandPath())
			}
			body, err := a.readObject(file, "tenant_update")
			if err != nil {
				return err
			}
			return a.askTenant(cmd, http.MethodPatch, tenantsPath+"/"+url.PathEscape(args[0]), map[string]any{"tenant_update": body})
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "JSON or YAML file with the members to change; - reads standard input")
	return cmd
}

func (a *app) tenantsVerbCommand(verb, short string) *cobra.Command {
	return &cobra.Command{
		Use:     verb + " TENANT",
		Short:   short,
		Example: "  agentos tenants " + verb + " tnt_mine",
		Args:    exactly(1, "one tenant id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.askTenant(cmd, http.MethodPost, tenantsPath+"/"+url.PathEscape(args[0])+":"+verb, nil)
		},
	}
}

func (a *app) tenantsQuotasCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "quotas TENANT",
		Short: "Show a tenant's quotas, or replace them",
		Example: `  agentos tenants quotas tnt_demo --output json > quotas.json
  agentos tenants quotas tnt_demo --file quotas.json`,
		Args: exactly(1, "one tenant id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			method, body := http.MethodGet, any(nil)
			if file != "" {
				wanted, err := a.readObject(file, "quota_config")
				if err != nil {
					return err
				}
				method, body = http.MethodPut, map[string]any{"quota_config": wanted}
			}
			c, err := a.dial(rolePlatformAdmin)
			if err != nil {
				return err
			}
			defer c.close()
			raw, err := c.raw(cmd.Context(), method, tenantsPath+"/"+url.PathEscape(args[0])+"/quotas", body)
			if err != nil {
				return err
			}
			if a.output == "json" {
				return a.json(raw)
			}
			var answer struct {
				Quotas quotas `json:"quota_config"`
			}
			if err := json.Unmarshal(raw, &answer); err != nil {
				return err
			}
			t := newTable(a.out)
			quotaRows(t, answer.Quotas)
			return t.flush()
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "JSON or YAML file with the new quotas; - reads standard input")
	return cmd
}
