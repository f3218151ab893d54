package main

import (
	"fmt"

	"github.com/spf13/cobra"
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
			f, err := a.fleet(d, nil)
			if err != nil {
				return err
			}
			r, err := f.Redeploy(cmd.Context())
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
			return nil
		},
	}
	d.flags(cmd)
	return cmd
}
