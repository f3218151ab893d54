// Package onenode_test holds what one node must show, told to the built binary from outside. Each test brings a tenant of
// its own to a deployment that the package shares, unless it needs a node for itself.
package onenode_test

import (
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

// soon bounds waits for what should come at once, on a machine that is busy with other things.
const soon = 30 * time.Second

// refused fails the test unless a is the error object with this status and code.
func refused(tb testing.TB, a harness.Answer, status int, code string) {
	tb.Helper()
	if err := a.CheckError(status, code); err != nil {
		tb.Error(err)
	}
}

// awaitStatus follows the run's journal until it holds an event of this type.
func awaitEvent(tb testing.TB, c *harness.Client, runID, typ string) {
	tb.Helper()
	s := c.Follow(tb, runID, "")
	defer s.Close()
	for {
		f, err := s.Next(soon)
		if err != nil {
			tb.Fatalf("run %s: waiting for %s: %v", runID, typ, err)
		}
		if f.HasID && harness.At(harness.Decode([]byte(f.Data)), "event.type") == "agentos."+typ {
			return
		}
	}
}
