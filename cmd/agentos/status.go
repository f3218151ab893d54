package main

import (
	"github.com/spf13/cobra"
)

func (a *app) statusCommand() *cobra.Command {
	var d deployment
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "Say how the nodes of the deployment are",
		Long:    `Say how each node of the deployment is. The exit code is 0 when all are ready, and 7 when one is not.`,
		Example: "  agentos status\n  agentos status --output json",
		Args:    none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := a.fleet(d, nil)
			if err != nil {
				return err
			}
			s, err := f.Status(cmd.Context())
			if err != nil {
				return err
			}
			if a.output == "json" {
				err = a.json(s)
			} else {
				t := newTable(a.out, "node", "organization", "state", "pid", "uptime", "version", "leader", "api", "detail")
				for _, n := range s.Nodes {
					t.row(n.StackID, n.Organization, n.State, n.PID, n.Uptime, n.Version, n.Leader, n.APIURL, n.Detail)
				}
				err = t.flush()
			}
			if err == nil && !s.Ready {
				err = &codedError{code: exitUnreachable, err: errNotReady, hint: "agentos up starts what is down; agentos logs says why"}
			}
			return err
		},
	}
	return cmd
}
