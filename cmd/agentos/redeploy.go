package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/nexixai/agentos/node/fleet"
)

func (a *app) redeployCommand() *cobra.Command {
	var d deployment
	cmd := &cobra.Command{
		Use:   "redeploy",
		Short: "Restart the nodes with this binary and the present settings, keeping data and runs",
		Long: `Drain and restart each node with this binary and the settings of today, then check the deployment. Data is kept, and
no accepted run is lost: a run that had not ended goes on after the restart.`,
		Example: "  agentos redeploy",
		Args:    none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.roll(d, func(f *fleet.Fleet) (*fleet.Report, error) { return f.Redeploy(cmd.Context()) })
		},
	}
	d.flags(cmd)
	return cmd
}

func (a *app) restartCommand() *cobra.Command {
	var d deployment
	cmd := &cobra.Command{
		Use:     "restart NODE",
		Short:   "Restart one node with this binary and the present settings",
		Example: "  agentos restart stk_acme_node_01",
		Args:    exactly(1, "one node"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.roll(d, func(f *fleet.Fleet) (*fleet.Report, error) {
				r, err := f.Restart(cmd.Context(), args[0])
				if r == nil && err != nil && f.Exists() {
					err = noNode(err)
				}
				return r, err
			})
		},
	}
	d.flags(cmd)
	return cmd
}

// roll does an action that restarts nodes, and prints how they are after it.
func (a *app) roll(d deployment, do func(*fleet.Fleet) (*fleet.Report, error)) error {
	f, err := a.fleet(d, nil)
	if err != nil {
		return err
	}
	r, err := do(f)
	if r != nil {
		a.reported(r)
	}
	if err != nil {
		return err
	}
	if a.output == "json" {
		return a.json(r)
	}
	for _, n := range r.Nodes {
		fmt.Fprintf(a.out, "node      %s  %s, process %d, %s\n", n.StackID, n.State, n.PID, n.Version)
	}
	a.printChecked(r)
	return nil
}
