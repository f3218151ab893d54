// Command bench measures a node beside yardsticks that say what the machine itself can do: a bare fdatasync, a bare echo
// of POSTs, a bare hub over one shared log. Each pair is taken in turns, in processes of their own, several rounds; what
// is printed are medians, and the ratio with its least and greatest. It judges nothing and fails for nothing but a broken
// run: figures are for people to read, with the machine's load beside them.
//
//	go run ./tests/bench [-rounds 5] [-seconds 3] [-only MEASURE,…] [-json FILE]
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/nexixai/agentos/tests/harness"
)

func main() {
	do := func() int {
		if err := run(); err != nil {
			fmt.Fprintln(os.Stderr, "bench: error:", err)
			return 1
		}
		return 0
	}
	if os.Getenv(envRole) == "" {
		os.Exit(harness.Guarded(do))
	}
	os.Exit(do())
}

// Roles of this program's own child processes, in the environment so that flags stay for people.
const envRole = "AGENTOS_BENCH_ROLE"

func run() error {
	switch role := os.Getenv(envRole); role {
	case "":
	case "yard":
		return yardServer()
	case "yardtls":
		return yardTLS(proof{os.Args[1], os.Args[2], os.Args[3]})
	case "fdatasync":
		return yardFile(os.Args[1])
	case "load":
		return loadProcess()
	default:
		return fmt.Errorf("no such role: %q", role)
	}
	b := &bench{}
	flag.IntVar(&b.rounds, "rounds", 5, "rounds of each pair")
	flag.Float64Var(&b.seconds, "seconds", 3, "seconds of each load")
	flag.IntVar(&b.watchers, "watchers", 1000, "watchers of the fan-out")
	flag.IntVar(&b.idle, "idle", 4000, "idle streams to hold")
	flag.StringVar(&b.json, "json", "", "also write the figures to this file")
	flag.StringVar(&b.profile, "profile", "", "write a CPU profile of the node under 64 callers to this file")
	flag.StringVar(&b.only, "only", "", "take these measures only, of create, creates, run, runs, fan, idle, restart, create3, runs3, forward, watch2, raft, gossip")
	flag.Parse()
	stage := &harness.Stage{}
	defer stage.Close()
	b.stage = stage
	done := make(chan error, 1)
	go func() { // a Fatal ends this goroutine
		err := errors.New("ended early")
		defer func() { done <- err }()
		err = b.all()
	}()
	return <-done
}
