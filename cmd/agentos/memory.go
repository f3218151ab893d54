package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/nexixai/agentos/api/client"
)

func (a *app) memoryCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "memory",
		Short:   "Read, write and search what agents remember",
		Example: "  agentos memory get kv k\n  agentos memory search notes --query \"what was said\"",
	}
	cmd.AddCommand(a.memoryGetCommand(), a.memoryPutCommand(), a.memoryDeleteCommand(), a.memorySearchCommand())
	return cmd
}

func (a *app) memoryGetCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "get NAMESPACE KEY",
		Short:   "Show what is remembered under a key",
		Example: "  agentos memory get kv k",
		Args:    exactly(2, "a namespace and a key"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dial(roleUser)
			if err != nil {
				return err
			}
			defer c.close()
			m, err := c.GetMemory(cmd.Context(), args[0], args[1])
			if err != nil {
				return err
			}
			return a.printMemory(c, m)
		},
	}
}

// printMemory prints the value alone, as the table that it is.
func (a *app) printMemory(c *conn, m *client.Memory) error {
	if a.output == "json" {
		return a.json(c.body())
	}
	_, err := fmt.Fprintln(a.out, plain(string(m.Value)))
	return err
}

func (a *app) memoryPutCommand() *cobra.Command {
	var value, metadata string
	cmd := &cobra.Command{
		Use:   "put NAMESPACE KEY --value JSON",
		Short: "Remember a value",
		Example: `  agentos memory put notes first --value '"met on Monday"' --metadata '{"kind":"note"}'
  agentos memory put kv answer --value 42`,
		Args: exactly(2, "a namespace and a key"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("value") {
				return usage("%s needs --value, which may be - for standard input", cmd.CommandPath())
			}
			text, err := a.readText(value)
			if err != nil {
				return err
			}
			if !json.Valid([]byte(text)) {
				return usage("--value is no JSON; a text stands in quotes: --value '\"text\"'")
			}
			var about map[string]any
			if metadata != "" && json.Unmarshal([]byte(metadata), &about) != nil {
				return usage("--metadata is no JSON object")
			}
			c, err := a.dial(roleUser)
			if err != nil {
				return err
			}
			defer c.close()
			m, err := c.PutMemory(cmd.Context(), args[0], args[1], json.RawMessage(text), about)
			if err != nil {
				return err
			}
			return a.printMemory(c, m)
		},
	}
	cmd.Flags().StringVar(&value, "value", "", "any JSON; - reads standard input")
	cmd.Flags().StringVar(&metadata, "metadata", "", "JSON object to find it by")
	return cmd
}

func (a *app) memoryDeleteCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "delete NAMESPACE KEY",
		Short:   "Forget a value",
		Example: "  agentos memory delete kv k",
		Args:    exactly(2, "a namespace and a key"),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dial(roleUser)
			if err != nil {
				return err
			}
			defer c.close()
			if err := c.DeleteMemory(cmd.Context(), args[0], args[1]); err != nil {
				return err
			}
			return a.done("deleted", args[0]+"/"+args[1])
		},
	}
}

func (a *app) memorySearchCommand() *cobra.Command {
	var q client.MemoryQuery
	cmd := &cobra.Command{
		Use:     "search NAMESPACE --query TEXT",
		Short:   "Look through a namespace; the best come first",
		Example: "  agentos memory search notes --query \"met on Monday\" --limit 5",
		Args:    exactly(1, "one namespace"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if q.Query == "" {
				return usage("%s needs --query", cmd.CommandPath())
			}
			c, err := a.dial(roleUser)
			if err != nil {
				return err
			}
			defer c.close()
			found, err := c.SearchMemory(cmd.Context(), args[0], q)
			if err != nil {
				return err
			}
			if a.output == "json" {
				return a.json(c.body())
			}
			t := newTable(a.out, "key", "score", "value")
			for _, r := range found {
				t.row(r.Key, fmt.Sprintf("%.3f", r.Score), cut(plain(string(r.Value)), 90))
			}
			return t.flush()
		},
	}
	cmd.Flags().StringVar(&q.Query, "query", "", "what to look for")
	cmd.Flags().StringVar(&q.Mode, "mode", "", "keyword, vector or hybrid; keyword when left out")
	cmd.Flags().IntVar(&q.Limit, "limit", 0, "how many to show, 1 to 500")
	return cmd
}
