package onenode_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/nexixai/agentos/tests/harness"
)

var figureType = regexp.MustCompile(`(?m)^# TYPE (agentos_\w+) (\w+)$`)

// Every figure that a node shows is in the table that operators read, with its type: one that nobody can look up is none.
//
// Requirements: M1.
func TestFigures_Documented(t *testing.T) {
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile(filepath.Join(root, "docs", "operating.md"))
	if err != nil {
		t.Fatal(err)
	}
	table := map[string]string{}
	for _, line := range strings.Split(string(doc), "\n") {
		cells := strings.Split(line, "|")
		if len(cells) < 5 || !strings.Contains(cells[1], "`agentos_") {
			continue
		}
		for _, name := range regexp.MustCompile("`(agentos_\\w+)`").FindAllStringSubmatch(cells[1], -1) {
			table[name[1]] = strings.TrimSpace(cells[2])
		}
	}
	metrics := harness.NewClient(suite.Shared(t).Node().AdminURL, "").Want(t, 200, "GET", "/metrics", nil)
	shown := figureType.FindAllStringSubmatch(string(metrics.Body), -1)
	if len(shown) < 20 {
		t.Fatalf("only %d figures found: the reader is broken", len(shown))
	}
	for _, m := range shown {
		name, kind := m[1], m[2]
		if table[name] == "" && (strings.HasPrefix(name, "agentos_raft_") || strings.HasPrefix(name, "agentos_memberlist_")) {
			continue // the libraries' own
		}
		if table[name] != kind {
			t.Errorf("docs/operating.md says %q of the figure %s, which is a %s", table[name], name, kind)
		}
	}
}
