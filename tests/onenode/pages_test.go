package onenode_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"go.yaml.in/yaml/v3"

	"github.com/nexixai/agentos/tests/harness"
)

// A stranger's loader takes every document from the node, follows each reference to where it leads there, and finds it
// sound.
func TestPages_DocumentsLoad(t *testing.T) {
	t.Parallel()
	base := suite.Shared(t).Node().APIURL
	for _, name := range []string{"stack-a", "stack-b", "federation", "common"} {
		loader := openapi3.NewLoader()
		loader.IsExternalRefsAllowed = true
		loader.ReadFromURIFunc = func(_ *openapi3.Loader, u *url.URL) ([]byte, error) {
			resp, err := http.Get(u.String())
			if err != nil {
				return nil, err
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				return nil, fmt.Errorf("%s: %s", u, resp.Status)
			}
			return io.ReadAll(resp.Body)
		}
		at, err := url.Parse(base + "/openapi/" + name + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		document, err := loader.LoadFromURI(at)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := document.Validate(t.Context(), openapi3.DisableExamplesValidation()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if name != "common" && document.Paths.Len() == 0 {
			t.Errorf("%s has no operations", name)
		}
	}
}

// Whatever a served document refers to is there, examples included, and byte for byte what lies in the tree.
func TestPages_ReferencesResolve(t *testing.T) {
	t.Parallel()
	c := suite.Shared(t).Client("")
	root, err := harness.Root()
	if err != nil {
		t.Fatal(err)
	}
	examples := 0
	for _, name := range []string{"stack-a", "stack-b", "federation", "common"} {
		at, err := url.Parse("/openapi/" + name + ".yaml")
		if err != nil {
			t.Fatal(err)
		}
		var document any
		if err := yaml.Unmarshal(c.Want(t, 200, "GET", at.Path, nil).Body, &document); err != nil {
			t.Fatal(err)
		}
		for _, ref := range references(document) {
			u, err := at.Parse(ref)
			if err != nil {
				t.Errorf("%s: %q: %v", name, ref, err)
				continue
			}
			if u.Path == at.Path {
				continue
			}
			a := c.Do(t, "GET", u.Path, nil)
			if a.Status != 200 || !strings.HasPrefix(u.Path, "/openapi/") {
				t.Errorf("%s: %q leads to %s, which answers %d", name, ref, u, a.Status)
			}
			if !strings.Contains(u.Path, "/examples/") {
				continue
			}
			examples++
			want, err := os.ReadFile(filepath.Join(root, "docs", "api", strings.TrimPrefix(u.Path, "/openapi/")))
			if err != nil || !bytes.Equal(a.Body, want) {
				t.Errorf("%s is not the example of the tree: %v", u.Path, err)
			}
		}
	}
	if examples == 0 {
		t.Error("no document refers to an example: the search is broken")
	}
}

// references returns what a document refers to.
func references(v any) (refs []string) {
	switch v := v.(type) {
	case map[string]any:
		for key, member := range v {
			if text, ok := member.(string); ok && (key == "$ref" || key == "externalValue" || key == "x-agentos-example") {
				refs = append(refs, text)
			}
			refs = append(refs, references(member)...)
		}
	case []any:
		for _, member := range v {
			refs = append(refs, references(member)...)
		}
	}
	return refs
}

// The pages are for everybody, and say what they are; a reader who has one already is told so.
func TestPages_Headers(t *testing.T) {
	t.Parallel()
	c := suite.Shared(t).Client("")
	for path, kind := range map[string]string{
		"/openapi/stack-a.yaml": "application/yaml", "/openapi/stack-b.yaml": "application/yaml", "/openapi/federation.yaml": "application/yaml",
		"/openapi/common.yaml": "application/yaml", "/docs/stack-b.yaml": "application/yaml", "/docs/": "text/html; charset=utf-8", "/docs/page.js": "text/javascript; charset=utf-8",
		"/docs/swagger-ui-bundle.js": "text/javascript; charset=utf-8", "/docs/swagger-ui.css": "text/css; charset=utf-8", "/docs/NOTICE": "text/plain; charset=utf-8",
		"/stack-b/docs/": "text/html; charset=utf-8", "/stack-b/openapi/stack-b.yaml": "application/yaml",
	} {
		a := c.Want(t, 200, "GET", path, nil)
		for name, want := range map[string]string{"Content-Type": kind, "Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff", "Content-Encoding": ""} {
			if got := a.Header.Get(name); got != want {
				t.Errorf("%s: %s %q, want %q", path, name, got, want)
			}
		}
		for _, name := range []string{"ETag", "X-Request-Id", "X-Correlation-Id", "X-Agentos-Index", "Content-Security-Policy"} {
			if a.Header.Get(name) == "" {
				t.Errorf("%s: no %s", path, name)
			}
		}
		if policy := a.Header.Get("Content-Security-Policy"); !strings.Contains(policy, "default-src 'none'") || strings.Contains(policy, "unsafe") || strings.Contains(policy, "http") {
			t.Errorf("%s: Content-Security-Policy %q", path, policy)
		}
		head := c.Want(t, 200, "HEAD", path, nil)
		if len(head.Body) > 0 || head.Header.Get("ETag") != a.Header.Get("ETag") || head.Header.Get("Content-Length") != fmt.Sprint(len(a.Body)) {
			t.Errorf("HEAD %s: %v and %d bytes", path, head.Header, len(head.Body))
		}
		for _, tag := range []string{a.Header.Get("ETag"), "W/" + a.Header.Get("ETag"), `"x", ` + a.Header.Get("ETag"), "*"} {
			if again := c.Want(t, 304, "GET", path, nil, "If-None-Match", tag); len(again.Body) > 0 || again.Header.Get("ETag") != a.Header.Get("ETag") {
				t.Errorf("%s, If-None-Match %s: %v and %d bytes", path, tag, again.Header, len(again.Body))
			}
		}
		c.Want(t, 200, "GET", path, nil, "If-None-Match", `"another"`)
		refused(t, c.Do(t, "POST", path, "{}"), 405, "method_not_allowed")
	}
	a := c.Want(t, 308, "GET", "/docs", nil)
	if at := a.Header.Get("Location"); at != "docs/" {
		t.Errorf("/docs leads to %q", at)
	}
	for _, path := range []string{"/openapi/", "/openapi", "/openapi/none.yaml", "/openapi/stack-a", "/openapi/stack-a/examples/none.json", "/docs/none", "/docs/index.html.gz", "/docs/../docs.go"} {
		refused(t, c.Do(t, "GET", path, nil), 404, "not_found")
	}
}

// What is kept compressed comes compressed to whoever takes that, and whole to whoever doesn't.
func TestPages_Encoding(t *testing.T) {
	t.Parallel()
	c := suite.Shared(t).Client("")
	const path = "/docs/swagger-ui-bundle.js"
	plain := c.Want(t, 200, "GET", path, nil)
	for accept, packed := range map[string]bool{
		"gzip": true, "deflate, GZIP;q=0.5, br": true, "*": true, "x-gzip": true, "gzip;q=0": false, "gzip; q=0.000, *": false, "*;q=0": false, "br": false, "": false, "identity": false,
	} {
		a := c.Want(t, 200, "GET", path, nil, "Accept-Encoding", accept)
		if a.Header.Get("Vary") != "Accept-Encoding" {
			t.Errorf("Accept-Encoding %q: Vary %q", accept, a.Header.Get("Vary"))
		}
		if (a.Header.Get("Content-Encoding") == "gzip") != packed {
			t.Errorf("Accept-Encoding %q: Content-Encoding %q", accept, a.Header.Get("Content-Encoding"))
			continue
		}
		body := a.Body
		if packed {
			r, err := gzip.NewReader(bytes.NewReader(body))
			if err == nil {
				body, err = io.ReadAll(r)
			}
			if err != nil {
				t.Errorf("Accept-Encoding %q: %v", accept, err)
			}
			if len(a.Body) > len(body)/2 || a.Header.Get("ETag") == plain.Header.Get("ETag") {
				t.Errorf("Accept-Encoding %q: %d of %d bytes, under the tag %s", accept, len(a.Body), len(body), a.Header.Get("ETag"))
			}
		}
		if !bytes.Equal(body, plain.Body) {
			t.Errorf("Accept-Encoding %q: another file", accept)
		}
	}
}
