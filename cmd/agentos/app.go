package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nexixai/agentos/node"
)

// Set by the linker, see the Makefile.
var (
	version   = "1.02.0-dev"
	gitSHA    = ""
	timestamp = ""
	// storeVersion is the highest version of the store that this binary can do, when it's not that of the code: tests of
	// upgrades stamp binaries that stand for other releases.
	storeVersion = ""
)

// app is one invocation of the command line.
type app struct {
	in       io.Reader
	out, err io.Writer
	env      func(string) (string, bool)
	// interrupted gives signals back to the system, so that a second one ends the process at once.
	interrupted func()

	output   string // table or json
	stateDir string
	org      string
	as       string
	tenant   string
	apiURL   string
	keyFile  string
	caFile   string
}

// run executes one command line and returns its exit code.
func (a *app) run(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(args)
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		a.say("error: interrupted")
		return exitInterrupted
	}
	return a.fail(cmd, err)
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "agentos",
		Short: "Run agents on nodes that federate",
		Long: `agentos runs nodes of AgentOS and speaks to them.

A node is found through the deployment that "agentos up" made (--state-dir, --org, --as), or named outright
(--api-url and --key-file, or AGENTOS_API_URL and AGENTOS_KEY_FILE).`,
		Example:           "  agentos up\n  agentos runs create --agent agt_sample_echo_v1 --text hello --watch\n  agentos nuke --yes-really",
		SilenceUsage:      true,
		SilenceErrors:     true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return a.globals(cmd.Flags()) },
	}
	flags := root.PersistentFlags()
	flags.StringVarP(&a.output, "output", "o", "table", "form of what is printed: table or json")
	flags.StringVar(&a.stateDir, "state-dir", a.getenv("AGENTOS_STATE_DIR", ".agentos"), "directory of the deployment (AGENTOS_STATE_DIR)")
	flags.StringVar(&a.org, "org", "", "organisation of the deployment to speak to; the first when left out")
	flags.StringVar(&a.as, "as", "", "whose key to use: tenant_user, tenant_admin or platform_admin; what the command needs when left out")
	flags.StringVar(&a.tenant, "tenant", "", "tenant to act in, which the key must be of; the key's own, or the deployment's default tenant, when left out")
	flags.StringVar(&a.apiURL, "api-url", "", "node to speak to, instead of the deployment's (AGENTOS_API_URL)")
	flags.StringVar(&a.keyFile, "key-file", "", "file that holds the API key to use (AGENTOS_KEY_FILE)")
	flags.StringVar(&a.caFile, "ca-file", "", "certificates to trust for https, PEM, instead of the system's (AGENTOS_CA_FILE)")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage("%w", err) })
	root.AddCommand(
		a.nodeCommand(), a.upCommand(), a.statusCommand(), a.validateCommand(), a.logsCommand(), a.redeployCommand(), a.restartCommand(), a.nukeCommand(),
		a.runsCommand(), a.agentsCommand(), a.toolsCommand(), a.memoryCommand(), a.tenantsCommand(), a.keysCommand(), a.modelsCommand(), a.policyCommand(), a.usageCommand(), a.auditCommand(), a.clusterCommand(), a.peeringCommand(), a.peersCommand(), a.routesCommand(), a.backupCommand(), a.restoreCommand(), a.versionCommand(),
	)
	a.standardCommands(root)
	refuseStrangers(root)
	return root
}

// standardCommands takes the commands that every command line has into our voice: examples, and no word passed over.
func (a *app) standardCommands(root *cobra.Command) {
	root.Version = version
	root.SetVersionTemplate("agentos {{.Version}}\n")
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "completion":
			cmd.Short, cmd.Long = "Print what makes a shell complete this command line", ""
			cmd.Example = "  source <(agentos completion bash)\n  agentos completion zsh > ~/.zfunc/_agentos"
			for _, shell := range cmd.Commands() {
				shell.Short, shell.Long = "Print completions for "+shell.Name(), ""
				shell.Example = "  agentos completion " + shell.Name()
				shell.Args = none
			}
		case "help":
			cmd.Example = "  agentos help runs create"
			cmd.Run = nil
			cmd.RunE = func(_ *cobra.Command, args []string) error {
				about, rest, err := root.Find(args)
				if err != nil || len(rest) > 0 {
					return usage("agentos has no command %q", strings.Join(args, " "))
				}
				return about.Help()
			}
		}
	}
}

// refuseStrangers makes a command that only holds others refuse a word that is none of them, instead of printing help
// with exit code 0.
func refuseStrangers(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		refuseStrangers(sub)
	}
	if cmd.Run != nil || cmd.RunE != nil || !cmd.HasSubCommands() {
		return
	}
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usage("%s needs a command", cmd.CommandPath())
		}
		return usage("%s has no command %q", cmd.CommandPath(), args[0])
	}
}

func (a *app) getenv(name, fallback string) string {
	if v, ok := a.env(name); ok && v != "" {
		return v
	}
	return fallback
}

// globals completes the flags of every command from the environment and the environment file, and checks them.
func (a *app) globals(flags *pflag.FlagSet) error {
	file, err := a.readEnvFile()
	if err != nil {
		return err
	}
	for name, v := range map[string]*string{"api-url": &a.apiURL, "key-file": &a.keyFile, "ca-file": &a.caFile} {
		if !flags.Changed(name) {
			*v = a.getenv(node.EnvName(name), file[node.EnvName(name)])
		}
	}
	switch a.output {
	case "table", "json":
	default:
		return usage("--output is %q, which is neither table nor json", a.output)
	}
	switch a.as {
	case "", roleUser, roleTenantAdmin, rolePlatformAdmin:
	default:
		return usage("--as is %q, which is none of tenant_user, tenant_admin, platform_admin", a.as)
	}
	return nil
}

// say writes one line of voice.
func (a *app) say(format string, args ...any) {
	fmt.Fprintf(a.err, "agentos: "+format+"\n", args...)
}

// build says what this binary is, by the linker's word or else by what Go recorded.
func build() node.Build {
	b := node.Build{Version: version, GitSHA: gitSHA, Timestamp: timestamp}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision" && b.GitSHA == "":
			b.GitSHA = s.Value
		case s.Key == "vcs.time" && b.Timestamp == "":
			b.Timestamp = s.Value
		}
	}
	return b
}

// stampedStoreVersion is the store version by the linker's word; 0 means the code's own.
func stampedStoreVersion() (int, error) {
	if storeVersion == "" {
		return 0, nil
	}
	v, err := strconv.Atoi(storeVersion)
	if err != nil || v < 1 {
		return 0, fmt.Errorf("this binary was built with the store version %q, which is none", storeVersion)
	}
	return v, nil
}

func platform() string {
	return strings.Join([]string{runtime.GOOS, runtime.GOARCH, runtime.Version()}, " ")
}
