package main

import (
	"github.com/spf13/cobra"

	"github.com/nexixai/agentos/api/client"
)

func (a *app) toolsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "tools",
		Short:   "List, show, put and delete tools",
		Example: "  agentos tools list\n  agentos tools put tool.weather --file weather.yaml",
	}
	cmd.AddCommand(a.toolsListCommand(), a.toolsGetCommand(), a.toolsPutCommand(), a.toolsDeleteCommand())
	return cmd
}

func (a *app) toolsListCommand() *cobra.Command {
	var p page
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the builtin tools and the tenant's own",
		Example: "  agentos tools list",
		Args:    none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return listing[client.Tool]{
				role: roleUser, plural: "tools", from: (*client.Client).Tools,
				row: func(t *table, v client.Tool) {
					t.row(v.ID, v.Name, v.Kind, repeatable(v.Idempotent), cut(plain(v.Description), 70))
				},
				heads: []string{"tool", "name", "kind", "repeatable", "description"},
			}.show(cmd.Context(), a, p)
		},
	}
	p.flags(cmd)
	return cmd
}

// repeatable says whether a tool may be called a second time when it isn't known what became of the first.
func repeatable(idempotent bool) string {
	if idempotent {
		return "yes"
	}
	return "no"
}

func (a *app) toolsGetCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "get TOOL",
		Short:   "Show one tool",
		Example: "  agentos tools get tool.http.fetch",
		Args:    exactly(1, "one tool id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dial(roleUser)
			if err != nil {
				return err
			}
			defer c.close()
			v, err := c.GetTool(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.printTool(c, v)
		},
	}
}

func (a *app) printTool(c *conn, v *client.Tool) error {
	return a.told(c, func(t *table) {
		t.row("tool", v.ID)
		t.row("name", v.Name)
		t.row("kind", v.Kind)
		t.row("repeatable", repeatable(v.Idempotent))
		t.row("description", v.Description)
		t.row("input schema", string(v.InputSchema))
		t.row("config", string(v.Config))
	})
}

func (a *app) toolsPutCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "put TOOL --file FILE",
		Short: "Make a tool, or replace one",
		Long: `Make a tool, or replace one, from a JSON or YAML file with its members (kind, description, input_schema, idempotent,
config), bare or under "tool", as "tools get --output json" prints it. A member that tools don't have is refused.`,
		Example: `  agentos tools put tool.weather --file weather.yaml
  agentos tools get tool.weather --output json > weather.json`,
		Args: exactly(1, "one tool id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var v client.Tool
			if err := a.readObject(cmd, file, "tool", &v); err != nil {
				return err
			}
			v.ID, v.TenantID, v.Name = "", "", "" // the argument and the key say these
			c, err := a.dial(roleTenantAdmin)
			if err != nil {
				return err
			}
			defer c.close()
			put, err := c.PutTool(cmd.Context(), args[0], v)
			if err != nil {
				return err
			}
			return a.printTool(c, put)
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "JSON or YAML file; - reads standard input")
	return cmd
}

func (a *app) toolsDeleteCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "delete TOOL",
		Short:   "Delete one of the tenant's own tools",
		Example: "  agentos tools delete tool.weather",
		Args:    exactly(1, "one tool id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dial(roleTenantAdmin)
			if err != nil {
				return err
			}
			defer c.close()
			if err := c.DeleteTool(cmd.Context(), args[0]); err != nil {
				return err
			}
			return a.done("deleted", args[0])
		},
	}
}
