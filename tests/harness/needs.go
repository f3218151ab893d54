package harness

import (
	"os"
	"os/exec"
	"testing"
)

// Needs ends the test when a tool of the operating system is missing, which is then its failure in CI and in the long
// form of the faults, and elsewhere, where somebody just runs all tests, no more than a note.
func Needs(tb testing.TB, tools ...string) {
	tb.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			missing(tb, tool, err)
		}
	}
}

func missing(tb testing.TB, what string, err error) {
	tb.Helper()
	if os.Getenv("CI") != "" || os.Getenv("AGENTOS_FAULTS") == "full" {
		tb.Fatalf("this test needs %s: %v", what, err)
	}
	tb.Skipf("NOT TESTED: this test needs %s: %v", what, err)
}

// NeedsFile is Needs of something that is no program, such as a package of another language.
func NeedsFile(tb testing.TB, path string) {
	tb.Helper()
	if _, err := os.Stat(path); err != nil {
		missing(tb, path, err)
	}
}
