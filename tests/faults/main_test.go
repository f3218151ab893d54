// Package faults_test breaks the built binary and its disk in ways that happen, and checks afterwards what must hold: what
// was acknowledged is there, journals are whole, nothing is done twice, and no quota or slot went missing.
//
// The short form is part of every test run. AGENTOS_FAULTS=full takes the long one. Each test prints its seed;
// AGENTOS_SEED=N repeats it.
package faults_test

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/nexixai/agentos/tests/harness"
)

var suite harness.Suite

func TestMain(m *testing.M) { os.Exit(suite.Run(m)) }

// full reports whether the long form was asked for.
func full() bool { return os.Getenv("AGENTOS_FAULTS") == "full" }

// rounds returns how many rounds to go.
func rounds(short, long int) int {
	if full() {
		return long
	}
	return short
}

// seeded returns a source of chance whose seed is printed.
func seeded(tb testing.TB) *rand.Rand {
	tb.Helper()
	seed := uint64(time.Now().UnixNano())
	if given := os.Getenv("AGENTOS_SEED"); given != "" {
		n, err := strconv.ParseUint(given, 10, 64)
		if err != nil {
			tb.Fatal(err)
		}
		seed = n
	}
	tb.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}
