// Command agentos runs nodes of AgentOS and speaks to them. main only parses and exits: the daemon is package node, a
// deployment of many is package node/fleet, and everything asked of a running node goes through package api/client.
//
// Standard output carries data, standard error the voice. The exit codes are in docs/cli.md.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	a := &app{in: os.Stdin, out: os.Stdout, err: os.Stderr, env: os.LookupEnv, interrupted: stop}
	code := a.run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}
