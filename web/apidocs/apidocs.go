// Package apidocs is the API page: Swagger UI and the few lines that point it at this node's own documents. Everything it
// needs is in the binary, and it asks no other host for anything.
//
// Room: pages. It imports nothing of the house. What in files/ comes from Swagger UI is as it was published, compressed
// where that makes it much smaller; fetch.sh says which version, and brings it anew.
package apidocs

import (
	"embed"
	"fmt"
	"path"
	"strings"
)

//go:embed files
var files embed.FS

// Policy is what a browser is to allow the page, as the header Content-Security-Policy has it: nothing that doesn't come
// from the node itself, and no script or style within a document. (Swagger UI's style sheet holds its icons as data.)
const Policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// File is one file of the page.
type File struct {
	Name string // "" for the page itself
	// Text is the file; Gzip is set instead where it's kept compressed.
	Text, Gzip []byte
}

// Files returns all files of the page.
func Files() ([]File, error) {
	entries, err := files.ReadDir("files")
	if err != nil {
		return nil, fmt.Errorf("apidocs: %w", err)
	}
	var out []File
	for _, e := range entries {
		content, err := files.ReadFile(path.Join("files", e.Name()))
		if err != nil {
			return nil, fmt.Errorf("apidocs: %w", err)
		}
		name, compressed := strings.CutSuffix(e.Name(), ".gz")
		switch {
		case name == "index.html":
			out = append(out, File{Text: content})
		case compressed:
			out = append(out, File{Name: name, Gzip: content})
		default:
			out = append(out, File{Name: name, Text: content})
		}
	}
	return out, nil
}
