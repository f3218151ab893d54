package main

import (
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nexixai/agentos/node"
)

func (a *app) nodeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "node",
		Short:   "Run one node, or look at its configuration",
		Example: "  agentos node run --init --data-dir data\n  agentos node config --print",
	}
	cmd.AddCommand(a.nodeRunCommand(), a.nodeConfigCommand())
	return cmd
}

// settingFlags adds a flag for every setting, and --config.
func settingFlags(flags *pflag.FlagSet) {
	flags.String("config", "", "YAML file with settings (AGENTOS_CONFIG)")
	for _, s := range node.Settings() {
		if s.Kind() == node.KindBool {
			flags.Bool(s.Name, s.Default == "true", s.Doc)
			continue
		}
		flags.String(s.Name, s.Default, s.Doc)
	}
}

// loadSettings reads the settings of a command that has settingFlags.
func (a *app) loadSettings(flags *pflag.FlagSet) (*node.Config, error) {
	given := map[string]string{}
	flags.Visit(func(f *pflag.Flag) {
		if _, ok := node.Lookup(f.Name); ok {
			given[f.Name] = f.Value.String()
		}
	})
	file, err := flags.GetString("config")
	if err != nil {
		return nil, err
	}
	if !flags.Changed("config") {
		file = a.getenv("AGENTOS_CONFIG", "")
	}
	vars, err := a.readEnvFile()
	if err != nil {
		return nil, err
	}
	config, err := node.Load(node.Sources{Flags: given, Env: a.env, EnvFile: vars, File: file})
	if err != nil {
		return nil, &codedError{code: exitUsage, err: err, hint: "docs/configuration.md lists every setting"}
	}
	config.Options.Build, config.Options.OwnsProcess = build(), true
	config.Options.StoreVersion, err = stampedStoreVersion()
	return config, err
}
