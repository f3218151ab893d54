package api

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"path"
	"strings"
	"sync"

	"github.com/nexixai/agentos/docs"
	"github.com/nexixai/agentos/internal/fault"
	"github.com/nexixai/agentos/web/apidocs"
)

// page is a file for people and programs to read, the same for everybody who asks.
type page struct {
	kind string // its media type
	gzip []byte // set when the file is kept compressed
	// load returns the whole file. Much of what a node could show nobody ever asks it for, so that's done when somebody does.
	load func() (*loaded, error)
}

// loaded is a page's content, and the tag by which a reader knows it again.
type loaded struct {
	text []byte
	etag string // without quotes
}

// pageRoutes are the routes of what the pages consist of. The pages themselves stand in the table; these are no operations
// of the contract, and so in no document.
func (s *Server) pageRoutes() []Route {
	var routes []Route
	for _, template := range []string{"/openapi/{name}/examples/{file}", "/docs/{file}"} {
		routes = append(routes, Route{Method: http.MethodGet, Template: template, Open: true, serve: (*call).readPage})
	}
	return append(routes, Route{Method: http.MethodGet, Template: "/docs", Open: true, serve: (*call).toDocs})
}

// loadPages returns the pages by their path.
func loadPages() (map[string]*page, error) {
	pages := make(map[string]*page)
	documents, err := docs.Files()
	if err != nil {
		return nil, fmt.Errorf("api: %w", err)
	}
	for name, text := range documents {
		pages["/openapi/"+name] = newPage(name, func() ([]byte, error) { return text, nil })
	}
	for _, name := range docs.Names() {
		pages["/docs/"+name+".yaml"] = newPage(name+".yaml", func() ([]byte, error) { return docs.Reading(name) })
	}
	files, err := apidocs.Files()
	if err != nil {
		return nil, fmt.Errorf("api: %w", err)
	}
	for _, f := range files {
		p := newPage(f.Name, func() ([]byte, error) { return f.Text, nil })
		if f.Gzip != nil {
			p = newPage(f.Name, func() ([]byte, error) { return unpack(f.Gzip) })
			p.gzip = f.Gzip
		}
		pages["/docs/"+f.Name] = p
	}
	return pages, nil
}

func newPage(name string, read func() ([]byte, error)) *page {
	return &page{kind: pageKind(name), load: sync.OnceValues(func() (*loaded, error) {
		text, err := read()
		if err != nil {
			return nil, fmt.Errorf("api: page %s: %w", name, err)
		}
		sum := sha256.Sum256(text)
		return &loaded{text: text, etag: hex.EncodeToString(sum[:16])}, nil
	})}
}

func unpack(b []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// pageKind is the media type of a page, by its name. Files without an ending are licences.
func pageKind(name string) string {
	switch path.Ext(name) {
	case ".yaml":
		return "application/yaml"
	case ".json":
		return "application/json"
	case ".js":
		return "text/javascript; charset=utf-8"
	case ".css":
		return "text/css; charset=utf-8"
	case ".png":
		return "image/png"
	}
	if name == "" {
		return "text/html; charset=utf-8"
	}
	return "text/plain; charset=utf-8"
}

// readPage answers with the file at the request's path, in the form its reader takes, or says that the reader has it already.
func (c *call) readPage() error {
	p := c.s.pages[c.path]
	if p == nil {
		c.noted = true // nobody was denied anything
		return fault.New(fault.NotFound, "There is nothing at this path.")
	}
	whole, err := p.load()
	if err != nil {
		return err
	}
	body, etag := whole.text, `"`+whole.etag+`"`
	packed := p.gzip != nil && acceptsGzip(c.r.Header.Values("Accept-Encoding"))
	if packed {
		body, etag = p.gzip, `"`+whole.etag+`-gzip"`
	}
	c.outHeaders()
	h := c.w.Header()
	h.Set("Cache-Control", "no-cache") // kept, and asked for again by its tag
	h.Set("ETag", etag)
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Content-Security-Policy", apidocs.Policy)
	if p.gzip != nil {
		h.Set("Vary", "Accept-Encoding")
	}
	if holds(c.r.Header.Values("If-None-Match"), etag) {
		c.wrote, c.status = true, http.StatusNotModified
		c.w.WriteHeader(http.StatusNotModified)
		return nil
	}
	if packed {
		h.Set("Content-Encoding", "gzip")
	}
	return c.write(http.StatusOK, p.kind, body)
}

// toDocs leads to the page at its one name, below which its files lie.
func (c *call) toDocs() error {
	c.outHeaders()
	c.w.Header().Set("Location", "docs/") // relative, so that it holds behind a prefix too
	return c.write(http.StatusPermanentRedirect, "text/plain; charset=utf-8", []byte("The page is at docs/.\n"))
}

// acceptsGzip reports whether a reader who sends this Accept-Encoding takes gzip (RFC 9110, section 12.5.3).
func acceptsGzip(accept []string) bool {
	any := false
	for _, part := range strings.Split(strings.Join(accept, ","), ",") {
		coding, weight, _ := strings.Cut(part, ";")
		_, q, _ := strings.Cut(strings.ReplaceAll(weight, " ", ""), "=")
		refused := q != "" && strings.Trim(q, "0.") == ""
		switch coding = strings.TrimSpace(coding); {
		case strings.EqualFold(coding, "gzip"), strings.EqualFold(coding, "x-gzip"):
			return !refused
		case coding == "*":
			any = !refused
		}
	}
	return any
}

// holds reports whether a reader who sends this If-None-Match has what the tag names (RFC 9110, section 13.1.2).
func holds(tags []string, etag string) bool {
	for _, tag := range strings.Split(strings.Join(tags, ","), ",") {
		if tag = strings.TrimSpace(tag); tag == "*" || strings.TrimPrefix(tag, "W/") == etag {
			return true
		}
	}
	return false
}
