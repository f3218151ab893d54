package conformance

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
)

// Common is the name of what the documents share.
const Common = "common"

// Names lists the documents that have operations.
func Names() []string { return []string{"stack-a", "stack-b", "federation"} }

// Tree is the project's files, with some replaced or added in memory: that is how a test breaks one.
type Tree struct {
	Root string
	Over map[string]string // by the slashed path below Root
}

// Read returns a file of the tree.
func (t Tree) Read(name string) ([]byte, error) {
	if text, ok := t.Over[name]; ok {
		return []byte(text), nil
	}
	return os.ReadFile(filepath.Join(t.Root, filepath.FromSlash(name)))
}

// With returns the tree with a file's old text replaced by the new, and an error when the old one is not there once.
func (t Tree) With(name, old, text string) (Tree, error) {
	raw, err := t.Read(name)
	if err != nil {
		return t, err
	}
	if n := strings.Count(string(raw), old); n == 0 {
		return t, fmt.Errorf("%s does not hold %q", name, old)
	}
	return t.Put(name, strings.Replace(string(raw), old, text, 1)), nil
}

// Put returns the tree with this file.
func (t Tree) Put(name, text string) Tree {
	over := map[string]string{name: text}
	for k, v := range t.Over {
		if k != name {
			over[k] = v
		}
	}
	return Tree{Root: t.Root, Over: over}
}

// List returns the files below a folder, sorted, as paths below Root.
func (t Tree) List(dir string) ([]string, error) {
	seen := map[string]bool{}
	err := filepath.WalkDir(filepath.Join(t.Root, filepath.FromSlash(dir)), func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(t.Root, p)
		seen[filepath.ToSlash(rel)] = true
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	for name := range t.Over {
		if strings.HasPrefix(name, dir+"/") {
			seen[name] = true
		}
	}
	names := make([]string, 0, len(seen))
	for name := range seen {
		names = append(names, name)
	}
	sort.Strings(names)
	return names, err
}

// Document is one OpenAPI document.
type Document struct {
	Name string
	File string // below the tree's root
	*openapi3.T
}

// Load reads a document with all that it refers to.
func Load(t Tree, name string) (*Document, error) { return LoadFrom(t, "docs/api", name) }

// LoadFrom is Load of a contract that stands in another folder than the current one.
func LoadFrom(t Tree, dir, name string) (*Document, error) {
	d := &Document{Name: name, File: path.Join(dir, name, "openapi.yaml")}
	if name == Common {
		d.File = path.Join(dir, "common.yaml")
	}
	l := openapi3.NewLoader()
	l.IsExternalRefsAllowed = true
	l.ReadFromURIFunc = func(_ *openapi3.Loader, u *url.URL) ([]byte, error) {
		if u.Scheme != "" {
			return nil, fmt.Errorf("%s refers to %s: a contract stands alone", d.File, u)
		}
		return t.Read(path.Clean(u.Path))
	}
	var err error
	if d.T, err = l.LoadFromURI(&url.URL{Path: d.File}); err != nil {
		return nil, fmt.Errorf("%s: %w", d.File, err)
	}
	return d, nil
}

// LoadAll reads the three documents and what they share.
func LoadAll(t Tree) ([]*Document, error) {
	var docs []*Document
	var errs []error
	for _, name := range append(Names(), Common) {
		d, err := Load(t, name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		docs = append(docs, d)
	}
	return docs, errors.Join(errs...)
}

// Strict makes the documents refuse every member that they do not name, unless they say that there may be more.
func Strict(docs []*Document) {
	no := false
	for _, d := range docs {
		d.schemas(func(_ string, s *openapi3.Schema) {
			ap := s.AdditionalProperties
			if ap.Has == nil && ap.Schema == nil && s.Type.Is("object") && len(s.OneOf)+len(s.AnyOf) == 0 {
				s.AdditionalProperties.Has = &no
			}
		})
	}
}

// Valid reports what the library finds wrong with the document as OpenAPI. It takes an example in a file for null, so
// examples are left to Lint and Examples.
func (d *Document) Valid() error {
	return d.Validate(context.Background(), openapi3.DisableExamplesValidation(), openapi3.EnableSchemaFormatValidation())
}

// Operation is one method of one path.
type Operation struct {
	*openapi3.Operation
	Doc          *Document
	Method, Path string
	Item         *openapi3.PathItem
}

// Operations returns the document's operations, sorted by path and method.
func (d *Document) Operations() []*Operation {
	var out []*Operation
	for p, item := range d.Paths.Map() {
		for method, op := range item.Operations() {
			out = append(out, &Operation{Operation: op, Doc: d, Method: method, Path: p, Item: item})
		}
	}
	slices.SortFunc(out, func(a, b *Operation) int { return strings.Compare(a.Path+" "+a.Method, b.Path+" "+b.Method) })
	return out
}

// All returns the operations of all documents.
func All(docs []*Document) []*Operation {
	var out []*Operation
	for _, d := range docs {
		out = append(out, d.Operations()...)
	}
	return out
}

// Place names the operation for a message.
func (o *Operation) Place() string {
	return fmt.Sprintf("%s: %s (%s %s)", o.Doc.File, o.OperationID, o.Method, o.Path)
}

// Ext returns the text of an extension, "" when there is none.
func (o *Operation) Ext(name string) string { return marked(o.Extensions, name) }

func marked(ext map[string]any, name string) string {
	s, _ := ext[name].(string)
	return s
}

// Planned reports whether the operation is not served yet.
func (o *Operation) Planned() bool { return o.Ext("x-agentos-status") == "planned" }

// Params returns the operation's parameters and those of its path.
func (o *Operation) Params() []*openapi3.Parameter {
	var out []*openapi3.Parameter
	for _, list := range []openapi3.Parameters{o.Item.Parameters, o.Parameters} {
		for _, p := range list {
			if p.Value != nil {
				out = append(out, p.Value)
			}
		}
	}
	return out
}

// Body returns the schema of the operation's JSON body, nil when it takes none.
func (o *Operation) Body() *openapi3.Schema {
	if o.RequestBody == nil || o.RequestBody.Value == nil {
		return nil
	}
	return jsonSchema(o.RequestBody.Value.Content)
}

func jsonSchema(c openapi3.Content) *openapi3.Schema {
	if m := c["application/json"]; m != nil && m.Schema != nil {
		return m.Schema.Value
	}
	return nil
}

// Schemes returns the names of the security schemes that the operation takes, and whether it says so at all.
func (o *Operation) Schemes() (names []string, said bool) {
	if o.Security == nil {
		return nil, false
	}
	for _, req := range *o.Security {
		for name := range req {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	return names, true
}

// Secured reports whether the operation asks for a tenant's credential.
func (o *Operation) Secured() bool {
	names, _ := o.Schemes()
	return slices.Contains(names, "bearer") || slices.Contains(names, "apiKey")
}
