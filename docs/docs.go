// Package docs carries the machine-checked contracts into the binary, so that a node serves the very documents its tests
// are held to. In the tree the documents refer to each other as files do (`../common.yaml`); Files gives them as they are
// served, side by side, with references that hold there.
//
// Room: documents. It imports nothing of the house. Its child examples holds what docs/extending.md quotes, which may
// import what a reader's own code would.
package docs

import (
	"embed"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strings"
)

//go:embed api/common.yaml api/stack-a/openapi.yaml api/stack-b/openapi.yaml api/federation/openapi.yaml
//go:embed api/stack-a/examples api/stack-b/examples api/federation/examples
var contracts embed.FS

// Names are the documents, as they are called where they are served; each has the ending .yaml there.
func Names() []string { return []string{"stack-a", "stack-b", "federation", "common"} }

// Files returns the documents and their examples by the path at which they are served below /openapi/: `stack-a.yaml`,
// `stack-a/examples/runs-create.request.json`.
func Files() (map[string][]byte, error) {
	files := make(map[string][]byte)
	for _, name := range Names() {
		file := "api/" + name + "/openapi.yaml"
		if name == "common" {
			file = "api/common.yaml"
		}
		text, err := contracts.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("docs: %w", err)
		}
		files[name+".yaml"] = []byte(served(name, string(text)))
		examples, err := fs.Glob(contracts, "api/"+name+"/examples/*")
		if err != nil {
			return nil, fmt.Errorf("docs: %w", err)
		}
		for _, example := range examples {
			if files[name+"/examples/"+path.Base(example)], err = contracts.ReadFile(example); err != nil {
				return nil, fmt.Errorf("docs: %w", err)
			}
		}
	}
	return files, nil
}

// served is a document with its references as they hold where it's served.
func served(name, text string) string {
	pairs := []string{"../common.yaml", "common.yaml"}
	for _, other := range Names() {
		pairs = append(pairs, "../"+other+"/openapi.yaml", other+".yaml", "../"+other+"/examples/", other+"/examples/")
	}
	text = strings.NewReplacer(pairs...).Replace(text)
	own := regexp.MustCompile(`(\b(?:externalValue|x-agentos-example):\s*["']?)(?:\./)?examples/`)
	return own.ReplaceAllString(text, "${1}"+name+"/examples/")
}
