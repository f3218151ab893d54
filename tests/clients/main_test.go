// Package clients_test lets the stock clients of OpenAI's format speak to a node, as programs that were written for them
// would: what they send is theirs, and what they make of the answers is what their callers see.
package clients_test

import (
	"os"
	"testing"

	"github.com/nexixai/agentos/tests/harness"
)

var suite harness.Suite

func TestMain(m *testing.M) { os.Exit(suite.Run(m)) }

const (
	echo  = "builtin/echo-1"
	embed = "builtin/hash-embed-1"
)
