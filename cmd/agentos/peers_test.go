package main

import (
	"strings"
	"testing"

	"github.com/nexixai/agentos/api/client"
)

// TestPeers_sideBySide: sets are compared as sets, and no line is wider than a screen however long what a peer tells is.
//
// Requirements: P3.
func TestPeers_sideBySide(t *testing.T) {
	peer := func(digest string, tiers ...string) *client.KnownPeer {
		p := &client.KnownPeer{Capabilities: &client.Capabilities{Digest: digest}}
		p.Capabilities.Models.Tiers = tiers
		return p
	}
	var out strings.Builder
	table := newTable(&out)
	for _, row := range sideBySide([2]*client.KnownPeer{peer("sha256:"+strings.Repeat("a", 64), "fast", "balanced"), peer(strings.Repeat("one, ", 40), "balanced", "fast")}) {
		if differs := row.left != row.right; differs != (row.name == "digest") {
			t.Errorf("%s: %q and %q differ: %v", row.name, row.left, row.right, differs)
		}
		row.print(table)
	}
	if err := table.flush(); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out.String()) {
		if len(line) > 120 {
			t.Errorf("%d columns: %s", len(line), line)
		}
	}
	if got := strings.Join(strings.Fields(out.String()), ""); strings.Count(got, "one,") != 40 || strings.Count(got, "a") < 64 {
		t.Errorf("something was lost:\n%s", out.String())
	}
}
