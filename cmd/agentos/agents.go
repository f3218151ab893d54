package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

// agentView is what the tables show of an agent.
type agentView struct {
	ID           string   `json:"agent_id"`
	Name         string   `json:"name"`
	Version      string   `json:"version"`
	Status       string   `json:"status"`
	ModelRef     string   `json:"model_ref"`
	ToolIDs      []string `json:"tool_ids"`
	Description  string   `json:"description"`
	Instructions string   `json:"instructions"`
}

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
		Short:   "List agents",
		Example: "  agentos agents list",
		Args:    none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.list(cmd.Context(), p, roleUser, "/v1/agents", "agents", url.Values{}, func(t *table, raw json.RawMessage) error {
				var v agentView
				if err := json.Unmarshal(raw, &v); err != nil {
					return err
				}
				t.row(v.ID, v.Name, v.Version, v.Status, v.ModelRef, v.ToolIDs)
				return nil
			}, "agent", "name", "version", "status", "model", "tools")
		},
	}
	p.flags(cmd)
	return cmd
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
			raw, err := c.raw(cmd.Context(), http.MethodGet, "/v1/agents/"+url.PathEscape(args[0]), nil)
			if err != nil {
				return err
			}
			return a.printAgent(raw)
		},
	}
}

func (a *app) printAgent(raw json.RawMessage) error {
	if a.output == "json" {
		return a.json(raw)
	}
	var body struct {
		Agent agentView `json:"agent"`
	}
	if err := json.Unmarshal(raw, &body); err != nil {
		return err
	}
	v := body.Agent
	t := newTable(a.out)
	t.row("agent", v.ID)
	t.row("name", v.Name)
	t.row("version", v.Version)
	t.row("status", v.Status)
	t.row("model", v.ModelRef)
	t.row("tools", v.ToolIDs)
	t.row("description", v.Description)
	t.row("instructions", v.Instructions)
	return t.flush()
}

func (a *app) agentsPutCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "put AGENT --file FILE",
		Short: "Make an agent, or replace one",
		Long:  `Make an agent, or replace one, from a JSON or YAML file with its members (name, description, model_ref, tool_ids, …), bare or under "agent".`,
		Example: `  agentos agents put agt_mine --file agent.yaml
  echo '{"name":"Mine","model_ref":"tier:fast","instructions":"Be brief."}' | agentos agents put agt_mine --file -`,
		Args: exactly(1, "one agent id"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if file == "" {
				return usage("%s needs --file, which may be - for standard input", cmd.CommandPath())
			}
			body, err := a.readObject(file, "agent")
			if err != nil {
				return err
			}
			c, err := a.dial(roleTenantAdmin)
			if err != nil {
				return err
			}
			defer c.close()
			raw, err := c.raw(cmd.Context(), http.MethodPut, "/v1/agents/"+url.PathEscape(args[0]), map[string]any{"agent": body})
			if err != nil {
				return err
			}
			return a.printAgent(raw)
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
			if _, err := c.raw(cmd.Context(), http.MethodDelete, "/v1/agents/"+url.PathEscape(args[0]), nil); err != nil {
				return err
			}
			if a.output == "json" {
				return a.json(map[string]any{"deleted": args[0]})
			}
			a.say("deleted %s", args[0])
			return nil
		},
	}
}

// readObject reads a JSON or YAML object, and takes it out of its noun if it is wrapped in it.
func (a *app) readObject(file, noun string) (map[string]any, error) {
	raw, err := a.readFile(file)
	if err != nil {
		return nil, err
	}
	var body map[string]any
	if err := yaml.Unmarshal(raw, &body); err != nil { // JSON is YAML
		return nil, usage("%s is neither a JSON nor a YAML object: %w", file, err)
	}
	if inner, ok := body[noun].(map[string]any); ok { // as --output json prints it, with what stands beside
		body = inner
	}
	if body == nil {
		return nil, usage("%s is empty", file)
	}
	if _, err := json.Marshal(body); err != nil {
		return nil, usage("%s holds what JSON can't: %w", file, err)
	}
	return body, nil
}

// amount is an optional number; none means no limit.
func amount(v any) string {
	if v == nil {
		return "unlimited"
	}
	return fmt.Sprint(v)
}
