package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/nexixai/agentos/node"
	"github.com/nexixai/agentos/peer/registry"
)

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Say what this binary is",
		Long:    "Say what this binary is, and up to which version it can do a cluster's store.",
		Example: "  agentos version --output json",
		Args:    none,
		RunE: func(*cobra.Command, []string) error {
			b := build()
			highest, err := stampedStoreVersion()
			if err != nil {
				return err
			}
			if highest == 0 {
				highest = registry.StoreVersion
			}
			if a.output == "json" {
				return a.json(struct {
					node.Build
					StoreVersion int `json:"store_version"`
				}{b, highest})
			}
			sha := b.GitSHA
			if sha == "" {
				sha = "unknown"
			}
			_, err = fmt.Fprintf(a.out, "agentos %s (%s, %s), store version %d\n", b.Version, sha, platform(), highest)
			return err
		},
	}
}
