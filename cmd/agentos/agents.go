package main

import (
	"github.com/spf13/cobra"

	"github.com/nexixai/agentos/api/client"
)

func (a *app) agentsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "agents",
		Short:   "List, show, put and delete agents",
		Example: "  agentos agents list\n  agentos agents put agt_mine --file agent.yaml",
	}
	cmd.AddCommand(a.agentsListCommand(), a.agentsGetCommand(), a.agentsPutCommand(), a.agentsDeleteCommand())
	return cmd
}

func (a *app) agentsListCommand() *cobra.Command {
	var p page
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List agents, those too that runs are routed to",
		Example: "  agentos agents list",
		Args:    none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return listing[client.Agent]{
				role: roleUser, plural: "agents", from: (*client.Client).Agents,
				row: func(t *table, v client.Agent) {
					t.row(v.ID, v.Name, v.Version, v.Status, v.ModelRef, v.ToolIDs, hostedBy(v))
				},
				heads: []string{"agent", "name", "version", "status", "model", "tools", "hosted by"},
			}.show(cmd.Context(), a, p)
		},
	}
	p.flags(cmd)
	return cmd
}

// hostedBy names where an agent is that isn't here.
func hostedBy(v client.Agent) []string {
	list := make([]string, len(v.HostedBy))
	for i, h := range v.HostedBy {
		list[i] = h.Organization + "/" + h.StackID
	}
	return list
}

func (a *app) agentsGetCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "get AGENT",
		Short:   "Show one agent",
		Example: "  agentos agents get agt_sample_echo_v1",
		Args:    exactly(1, "one agent id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dial(roleUser)
			if err != nil {
				return err
			}
			defer c.close()
			v, err := c.GetAgent(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.printAgent(c, v)
		},
	}
}

func (a *app) printAgent(c *conn, v *client.Agent) error {
	return a.told(c, func(t *table) {
		t.row("agent", v.ID)
		t.row("name", v.Name)
		t.row("version", v.Version)
		t.row("status", v.Status)
		t.row("model", v.ModelRef)
		t.row("tools", v.ToolIDs)
		t.row("description", v.Description)
		t.row("instructions", v.Instructions)
		if len(v.HostedBy) > 0 {
			t.row("hosted by", hostedBy(*v))
		}
	})
}

func (a *app) agentsPutCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "put AGENT --file FILE",
		Short: "Make an agent, or replace one",
		Long: `Make an agent, or replace one, from a JSON or YAML file with its members (name, description, model_ref, tool_ids, …),
bare or under "agent", as "agents get --output json" prints it. A member that agents don't have is refused.`,
		Example: `  agentos agents put agt_mine --file agent.yaml
  echo '{"name":"Mine","model_ref":"tier:fast","instructions":"Be brief."}' | agentos agents put agt_mine --file -`,
		Args: exactly(1, "one agent id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var v client.Agent
			if err := a.readObject(cmd, file, "agent", &v); err != nil {
				return err
			}
			v.ID, v.TenantID = "", "" // the argument and the key say these
			c, err := a.dial(roleTenantAdmin)
			if err != nil {
				return err
			}
			defer c.close()
			put, err := c.PutAgent(cmd.Context(), args[0], v)
			if err != nil {
				return err
			}
			return a.printAgent(c, put)
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "JSON or YAML file; - reads standard input")
	return cmd
}

func (a *app) agentsDeleteCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "delete AGENT",
		Short:   "Delete an agent; its runs are kept",
		Example: "  agentos agents delete agt_mine",
		Args:    exactly(1, "one agent id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dial(roleTenantAdmin)
			if err != nil {
				return err
			}
			defer c.close()
			if err := c.DeleteAgent(cmd.Context(), args[0]); err != nil {
				return err
			}
			return a.done("deleted", args[0])
		},
	}
}
