package apidocs_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/nexixai/agentos/web/apidocs"
)

// own are the files of the page that were written here.
func own() map[string]bool { return map[string]bool{"": true, "page.js": true, "page.css": true} }

// What the page has from elsewhere is what was published, byte for byte: nobody slipped a line into a bundle that nobody
// reads. SHA256SUMS is written by fetch.sh.
func TestFiles_AsPublished(t *testing.T) {
	sums, err := os.ReadFile("SHA256SUMS")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for line := range strings.Lines(string(sums)) {
		sum, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
		want[name] = sum
	}
	files, err := apidocs.Files()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		content := f.Text
		if f.Gzip != nil {
			r, err := gzip.NewReader(bytes.NewReader(f.Gzip))
			if err == nil {
				content, err = io.ReadAll(r)
			}
			if err != nil {
				t.Errorf("%s: %v", f.Name, err)
			}
		}
		if len(content) == 0 {
			t.Errorf("%q is empty", f.Name)
		}
		if own()[f.Name] {
			continue
		}
		if got := fmt.Sprintf("%x", sha256.Sum256(content)); got != want[f.Name] {
			t.Errorf("%s is %s, want %q", f.Name, got, want[f.Name])
		}
		delete(want, f.Name)
	}
	for name := range want {
		t.Errorf("%s is missing", name)
	}
}

// The page itself has no script and no style within, which its policy would forbid, and names no other host.
func TestFiles_Own(t *testing.T) {
	files, err := apidocs.Files()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, f := range files {
		if !own()[f.Name] {
			continue
		}
		seen++
		for _, word := range []string{"//cdn", "http:", "https:", "<style", "style=", "onclick", "onload", "javascript:", "<script>"} {
			if strings.Contains(string(f.Text), word) {
				t.Errorf("%q holds %q", f.Name, word)
			}
		}
	}
	if seen != len(own()) {
		t.Errorf("%d of %d files were looked at", seen, len(own()))
	}
}
