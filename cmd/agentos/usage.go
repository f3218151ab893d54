package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nexixai/agentos/api/client"
)

func (a *app) usageCommand() *cobra.Command {
	var q client.UsageQuery
	var from, to string
	cmd := &cobra.Command{
		Use:   "usage",
		Short: "Say what the tenant spent on models, and what is left of its budgets",
		Example: `  agentos usage
  agentos usage --group-by model,principal --window month --output json`,
		Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := errors.Join(timeFlag("--from", from, &q.From), timeFlag("--to", to, &q.To)); err != nil {
				return err
			}
			c, err := a.dial(roleTenantAdmin)
			if err != nil {
				return err
			}
			defer c.close()
			u, err := c.Usage(cmd.Context(), q)
			if err != nil {
				return err
			}
			if a.output == "json" {
				return a.json(c.body())
			}
			return a.printUsage(u)
		},
	}
	cmd.Flags().StringSliceVar(&q.GroupBy, "group-by", []string{"model"}, "window, principal, agent, model or operation; several with commas")
	cmd.Flags().StringVar(&q.Window, "window", "", "day or month; day when left out")
	cmd.Flags().StringVar(&from, "from", "", "only from this time on (RFC 3339); this month when left out")
	cmd.Flags().StringVar(&to, "to", "", "only up to this time (RFC 3339)")
	return cmd
}

func (a *app) printUsage(u *client.Usage) error {
	t := newTable(a.out, strings.Join(u.GroupBy, "/"), "requests", "input", "output", "tokens", "usd", "estimated")
	for _, r := range u.Rows {
		var group []string
		for _, name := range slices.Sorted(maps.Keys(r.Group)) {
			group = append(group, r.Group[name])
		}
		t.row(strings.Join(group, "/"), r.Requests, r.InputTokens, r.OutputTokens, r.TotalTokens, fmt.Sprintf("%.6f", r.CostUSD), map[bool]string{true: "yes", false: "no"}[r.Estimated])
	}
	if err := t.flush(); err != nil {
		return err
	}
	fmt.Fprintln(a.out)
	t = newTable(a.out, "budget", "limit", "spent", "reserved", "resets")
	for _, b := range u.Budgets {
		t.row(b.Unit+" a "+b.Window, number(b.Limit), number(b.Spent), number(b.Reserved), b.ResetsAt)
	}
	return t.flush()
}

// number is an amount without an exponent, and without what nobody reads.
func number(v float64) string {
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.6f", v), "0"), ".")
}
