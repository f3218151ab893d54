// Package cluster_test looks at three nodes from outside: each line of what a cluster promises, on the built binary.
package cluster_test

import (
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

var (
	suite   harness.Suite
	starter harness.Starter
)

func TestMain(m *testing.M) { os.Exit(suite.Run(m)) }

// bound is how long anything may take that should take no time, on a machine that is busy.
const bound = 60 * time.Second

// rounds is how often a fault is made: few times by default, many with AGENTOS_FAULTS=full.
func rounds(few, many int) int {
	if os.Getenv("AGENTOS_FAULTS") == "full" {
		return many
	}
	return few
}

// seeded returns a source of chance whose seed is printed.
func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}
