package docs_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/nexixai/agentos/docs"
)

// What the page shows is the document that is served, in one piece: every operation, every example in its place, and no
// reference to anywhere else, which a browser would take minutes to follow.
func TestReading(t *testing.T) {
	files, err := docs.Files()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range docs.Names() {
		text, err := docs.Reading(name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		document, err := openapi3.NewLoader().LoadFromData(text) // which follows no reference to elsewhere
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := document.Validate(t.Context(), openapi3.DisableExamplesValidation()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		operations := regexp.MustCompile(`(?m)^ +operationId: *(\w+)`)
		served := operations.FindAllStringSubmatch(string(files[name+".yaml"]), -1)
		shown := operations.FindAllStringSubmatch(string(text), -1)
		if len(shown) != len(served) || name != "common" && len(served) == 0 {
			t.Errorf("%s: %d operations are shown of %d", name, len(shown), len(served))
		}
		for i := range min(len(shown), len(served)) {
			if shown[i][1] != served[i][1] {
				t.Errorf("%s: operation %d is %s, want %s", name, i, shown[i][1], served[i][1])
			}
		}
		examples := strings.Count(string(files[name+".yaml"]), "externalValue:")
		if got := strings.Count(string(text), "externalValue:"); got > 0 {
			t.Errorf("%s: %d of %d examples are still elsewhere", name, got, examples)
		}
		if name != "common" && (examples == 0 || len(document.Servers) != 1 || document.Servers[0].URL != "/") {
			t.Errorf("%s: %d examples, servers %v", name, examples, document.Servers)
		}
	}
}
