package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/nexixai/agentos/node"
)

func (a *app) nodeRunCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run a node until it is told to stop",
		Long: `Run a node in the foreground until SIGTERM or SIGINT; it then refuses new runs, lets requests and streams end,
and exits. A second signal ends it at once; what it acknowledged is kept either way. SIGHUP reads certificates and the
log level again.`,
		Example: `  agentos node run --init --data-dir data
  agentos node run --join 10.0.0.11:8422 --join-token-file join.token --data-dir data
  agentos node run --data-dir data --openai-base-url https://api.openai.com/v1 --openai-key-file key`,
		Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := a.loadSettings(cmd.Flags())
			if err != nil {
				return err
			}
			return a.runNode(cmd, config)
		},
	}
	settingFlags(cmd.Flags())
	return cmd
}

func (a *app) runNode(cmd *cobra.Command, config *node.Config) error {
	ctx := cmd.Context()
	n, err := node.New(config.Options)
	if err != nil {
		return &codedError{code: exitUsage, err: err, hint: "agentos node config --check, and docs/configuration.md"}
	}
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	if err := n.Start(ctx); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	for {
		select {
		case <-hup:
			again, err := a.loadSettings(cmd.Flags())
			if err == nil {
				err = n.Reload(again.Options)
			}
			if err != nil {
				a.say("error: reload: %v", err)
			}
		case err := <-n.Failed():
			return errors.Join(err, n.Stop(context.WithoutCancel(ctx)))
		case <-ctx.Done():
			a.interrupted()
			return n.Stop(context.WithoutCancel(ctx))
		}
	}
}
