// Package federation_test looks at two organisations from outside: each line of what they promise each other, on the built
// binary.
package federation_test

import (
	"os"
	"testing"

	"github.com/nexixai/agentos/tests/harness"
)

var (
	suite   harness.Suite
	starter harness.Starter
)

func TestMain(m *testing.M) { os.Exit(suite.Run(m)) }
