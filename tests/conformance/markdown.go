package conformance

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/text"
)

// page is what the checks read of a Markdown file.
type page struct {
	links   []link
	anchors map[string]bool
	blocks  []block
}

type link struct {
	line int
	to   string
}

// block is one fenced block of code.
type block struct {
	line       int
	info, text string
}

// parse reads a Markdown file.
func parse(src []byte) *page {
	p := &page{anchors: map[string]bool{}}
	root := goldmark.New(goldmark.WithExtensions(extension.GFM)).Parser().Parse(text.NewReader(src))
	line := 1
	_ = ast.Walk(root, func(n ast.Node, in bool) (ast.WalkStatus, error) {
		if !in {
			return ast.WalkContinue, nil
		}
		if at := offset(n); at >= 0 {
			line = 1 + bytes.Count(src[:at], []byte("\n"))
		}
		switch n := n.(type) {
		case *ast.Heading:
			p.anchor(slug(flat(n, src)))
		case *ast.Link:
			p.links = append(p.links, link{line, string(n.Destination)})
		case *ast.Image:
			p.links = append(p.links, link{line, string(n.Destination)})
		case *ast.RawHTML:
			p.html(n.Segments.Value(src))
		case *ast.HTMLBlock:
			p.html(n.Lines().Value(src))
		case *ast.FencedCodeBlock:
			b := block{line: line, text: string(n.Lines().Value(src))}
			if n.Info != nil {
				b.info = string(n.Info.Segment.Value(src))
				b.line = 1 + bytes.Count(src[:n.Info.Segment.Start], []byte("\n"))
			}
			p.blocks = append(p.blocks, b)
		}
		return ast.WalkContinue, nil
	})
	return p
}

// offset is where a node begins in the source, -1 when it doesn't say.
func offset(n ast.Node) int {
	if t, ok := n.(*ast.Text); ok {
		return t.Segment.Start
	}
	if n.Type() == ast.TypeBlock && n.Lines().Len() > 0 {
		return n.Lines().At(0).Start
	}
	return -1
}

// flat is a heading's text without its markup.
func flat(n ast.Node, src []byte) string {
	var b strings.Builder
	_ = ast.Walk(n, func(n ast.Node, in bool) (ast.WalkStatus, error) {
		switch t := n.(type) {
		case *ast.Text:
			if in {
				b.Write(t.Segment.Value(src))
			}
		case *ast.String:
			if in {
				b.Write(t.Value)
			}
		}
		return ast.WalkContinue, nil
	})
	return b.String()
}

// slug is the anchor that a reader's page gives a heading: lower case, blanks as dashes, punctuation left out.
func slug(heading string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(strings.TrimSpace(heading)) {
		switch {
		case r == ' ':
			b.WriteByte('-')
		case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
			b.WriteRune(r)
		}
	}
	return b.String()
}

// anchor adds a heading's anchor; a second one of the same name gets a number.
func (p *page) anchor(name string) {
	at := name
	for n := 1; p.anchors[at]; n++ {
		at = fmt.Sprintf("%s-%d", name, n)
	}
	p.anchors[at] = true
}

var anchorTag = regexp.MustCompile(`\b(?:id|name)="([^"]+)"`)

func (p *page) html(raw []byte) {
	for _, m := range anchorTag.FindAllSubmatch(raw, -1) {
		p.anchors[string(m[1])] = true
	}
}

// pages returns the Markdown files of the tree: all but those of version control, built things, running state and tests'
// own data.
func (t Tree) pages() ([]string, error) {
	var names []string
	err := filepath.WalkDir(t.Root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			switch name := d.Name(); {
			case p == t.Root:
			case slices.Contains([]string{".git", "bin", "dist", "reports", "node_modules", "testdata"}, name), strings.HasPrefix(name, ".agentos"):
				return fs.SkipDir
			}
			return nil
		}
		if path.Ext(d.Name()) == ".md" {
			rel, err := filepath.Rel(t.Root, p)
			if err != nil {
				return err
			}
			names = append(names, filepath.ToSlash(rel))
		}
		return nil
	})
	for name := range t.Over {
		if path.Ext(name) == ".md" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, err
}

// Links returns the links of the project's pages that lead nowhere. Those to the outside are not followed.
func Links(t Tree) (found []string) {
	names, err := t.pages()
	if err != nil {
		return []string{err.Error()}
	}
	parsed := map[string]*page{}
	for _, name := range names {
		src, err := t.Read(name)
		if err != nil {
			return append(found, err.Error())
		}
		parsed[name] = parse(src)
	}
	for _, name := range names {
		for _, l := range parsed[name].links {
			if why := t.follow(parsed, name, l.to); why != "" {
				found = append(found, fmt.Sprintf("%s:%d: %s", name, l.line, why))
			}
		}
	}
	return found
}

var scheme = regexp.MustCompile(`^[a-z][a-z0-9+.-]*:`)

// follow returns why a link of a page leads nowhere, "" when it leads somewhere.
func (t Tree) follow(parsed map[string]*page, from, to string) string {
	if scheme.MatchString(to) || strings.HasPrefix(to, "//") {
		return ""
	}
	file, anchor, _ := strings.Cut(to, "#")
	target := from
	if file != "" {
		target = path.Join(path.Dir(from), file)
	}
	switch {
	case strings.HasPrefix(file, "/"):
		return fmt.Sprintf("(%s) begins at the root of wherever it is read; make it relative", to)
	case target == ".." || strings.HasPrefix(target, "../"):
		return fmt.Sprintf("(%s) leads out of the project", to)
	case !t.exists(target):
		return fmt.Sprintf("(%s) leads to %s, which is not there", to, target)
	case anchor == "":
		return ""
	case parsed[target] == nil:
		return fmt.Sprintf("(%s) names a heading of %s, which is no page", to, target)
	case !parsed[target].anchors[anchor]:
		return fmt.Sprintf("(%s) leads to the heading #%s, which %s does not have", to, anchor, target)
	}
	return ""
}

func (t Tree) exists(name string) bool {
	if _, ok := t.Over[name]; ok {
		return true
	}
	_, err := os.Stat(filepath.Join(t.Root, filepath.FromSlash(name)))
	return !errors.Is(err, fs.ErrNotExist)
}

// Blocks returns what is wrong with the JSON blocks of a page: each names the schema that it shows, as
// "json <document>#<schema>", and validates. The documents have to be Strict.
func Blocks(t Tree, file string, docs []*Document) (found []string) {
	src, err := t.Read(file)
	if err != nil {
		return []string{err.Error()}
	}
	n := 0
	for _, b := range parse(src).blocks {
		lang, name, _ := strings.Cut(strings.TrimSpace(b.info), " ")
		if lang != "json" {
			continue
		}
		n++
		at := fmt.Sprintf("%s:%d", file, b.line)
		doc, schema, ok := strings.Cut(strings.TrimSpace(name), "#")
		i := slices.IndexFunc(docs, func(d *Document) bool { return d.Name == doc })
		switch {
		case !ok:
			found = append(found, at+": the block does not say which schema it shows (```json <document>#<schema>)")
		case i < 0:
			found = append(found, fmt.Sprintf("%s: there is no document %q", at, doc))
		case docs[i].named(schema) == nil:
			found = append(found, fmt.Sprintf("%s: %s has no schema %q", at, docs[i].File, schema))
		default:
			for _, f := range Check(docs[i].named(schema), []byte(b.text)) {
				found = append(found, fmt.Sprintf("%s: %s (%s)", at, f, name))
			}
		}
	}
	if n == 0 {
		found = append(found, file+": no JSON block")
	}
	return found
}
