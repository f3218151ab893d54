package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Say what this binary is",
		Example: "  agentos version --output json",
		Args:    none,
		RunE: func(*cobra.Command, []string) error {
			b := build()
			if a.output == "json" {
				return a.json(b)
			}
			sha := b.GitSHA
			if sha == "" {
				sha = "unknown"
			}
			_, err := fmt.Fprintf(a.out, "agentos %s (%s, %s)\n", b.Version, sha, platform())
			return err
		},
	}
}
