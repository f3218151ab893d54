package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func (a *app) nukeCommand() *cobra.Command {
	var d deployment
	var really, hard bool
	cmd := &cobra.Command{
		Use:   "nuke",
		Short: "End every process of the deployment; with --hard remove its data too",
		Long: `End every process of the deployment and verify that it is gone. What the nodes kept stays, and "agentos up" goes on
with it, unless --hard is given: then the state directory is removed. Reports are kept. Where there is no deployment, that is said, and the exit code is 0.`,
		Example: "  agentos nuke --yes-really\n  agentos nuke --yes-really --hard",
		Args:    none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !really {
				return &codedError{code: exitUsage, err: fmt.Errorf("nuke ends the deployment in %s; say --yes-really if that is meant", a.stateDir), hint: "agentos nuke --yes-really"}
			}
			f, err := a.fleet(d, nil)
			if err != nil {
				return err
			}
			r, err := f.Nuke(cmd.Context(), hard)
			if r != nil {
				a.reported(r)
			}
			if err != nil {
				return err
			}
			if a.output == "json" {
				return a.json(r)
			}
			if !f.Exists() {
				fmt.Fprintf(a.out, "nothing   there is no deployment in %s\n", f.StateDir())
			}
			for _, what := range r.Removed {
				fmt.Fprintf(a.out, "removed   %s\n", what)
			}
			for _, adv := range r.Advice {
				fmt.Fprintf(a.out, "next      %s: %s\n", adv.What, adv.Command)
			}
			return nil
		},
	}
	d.flags(cmd)
	cmd.Flags().BoolVar(&really, "yes-really", false, "yes, really")
	cmd.Flags().BoolVar(&hard, "hard", false, "remove the state directory too: all runs, tenants and keys")
	return cmd
}
