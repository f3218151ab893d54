package main

import (
	"github.com/spf13/cobra"
)

func (a *app) nodeConfigCommand() *cobra.Command {
	var check, show bool
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Check a node's settings, or print what they come to and where each came from",
		Example: `  agentos node config --check --config node.yaml
  AGENTOS_REGION=eu-west agentos node config --print`,
		Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if check == show {
				return usage("%s needs --check or --print", cmd.CommandPath())
			}
			config, err := a.loadSettings(cmd.Flags())
			if err != nil {
				return err
			}
			if show {
				if a.output == "json" {
					return a.json(config.JSON())
				}
				return config.YAML(a.out)
			}
			if err := config.Options.Validate(); err != nil {
				return &codedError{code: exitUsage, err: err, hint: "docs/configuration.md lists every setting"}
			}
			if a.output == "json" {
				return a.json(map[string]any{"valid": true})
			}
			a.say("the configuration is valid")
			return nil
		},
	}
	settingFlags(cmd.Flags())
	cmd.Flags().BoolVar(&check, "check", false, "say whether a node would start with these settings")
	cmd.Flags().BoolVar(&show, "print", false, "print the settings as YAML; secrets are left out")
	return cmd
}
