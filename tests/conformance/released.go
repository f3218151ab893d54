package conformance

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/oasdiff/oasdiff/checker"
	"github.com/oasdiff/oasdiff/diff"
	"github.com/oasdiff/oasdiff/load"
)

// releasedDir holds a folder for each released contract, laid out as docs/api is.
const releasedDir = "docs/api/released"

// Releases lists the folders of the released contracts.
func Releases(t Tree) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(t.Root, filepath.FromSlash(releasedDir)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var dirs []string
	for _, e := range entries {
		if e.IsDir() {
			dirs = append(dirs, path.Join(releasedDir, e.Name()))
		}
	}
	return dirs, err
}

// Release copies the documents into the folder of their version and returns it. What would break a contract that stands
// there already is refused.
func Release(t Tree) (string, error) {
	common, err := Load(t, Common)
	if err != nil {
		return "", err
	}
	dir := path.Join(releasedDir, "v"+common.Info.Version)
	dirs, err := Releases(t)
	if err != nil {
		return "", err
	}
	if slices.Contains(dirs, dir) {
		if found := Breaks(t, dir); len(found) > 0 {
			return "", fmt.Errorf("%s can't be brought up to date: %v", dir, found)
		}
	}
	for _, name := range append(Names(), Common) {
		d, err := Load(t, name)
		if err != nil {
			return "", err
		}
		raw, err := t.Read(d.File)
		if err != nil {
			return "", err
		}
		rel, err := filepath.Rel("docs/api", d.File)
		if err != nil {
			return "", err
		}
		to := filepath.Join(t.Root, filepath.FromSlash(dir), rel)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return "", err
		}
		if err := os.WriteFile(to, raw, 0o644); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// Breaks returns where the documents take back what the contract in dir promised. Operations that are planned promise
// nothing.
func Breaks(t Tree, dir string) (found []string) {
	for _, name := range Names() {
		old, err := LoadFrom(t, dir, name)
		if err != nil {
			found = append(found, err.Error())
			continue
		}
		now, err := Load(t, name)
		if err != nil {
			found = append(found, err.Error())
			continue
		}
		found = append(found, breaks(old, now)...)
	}
	return found
}

// breaks compares two states of one document.
func breaks(old, now *Document) []string {
	for _, d := range []*Document{old, now} {
		d.dropPlanned()
		d.inlineEvents()
	}
	found := old.rightsOf(now)
	report, sources, err := diff.GetWithOperationsSourcesMap(diff.NewConfig(),
		&load.SpecInfo{Url: old.File, Spec: old.T}, &load.SpecInfo{Url: now.File, Spec: now.T})
	if err != nil {
		return append(found, fmt.Sprintf("%s: %v", now.File, err))
	}
	config := checker.NewConfig(checker.GetAllChecks(), checker.WithSeverityLevels(severities()))
	for _, c := range checker.CheckBackwardCompatibilityUntilLevel(config, report, sources, checker.WARN) {
		where := c.GetOperationId()
		if c.GetPath() != "" {
			where += " (" + c.GetOperation() + " " + c.GetPath() + ")"
		}
		found = append(found, fmt.Sprintf("%s: %s: %s [%s]", now.File, or(where, c.GetSection()), c.GetUncolorizedText(checker.NewDefaultLocalizer()), c.GetId()))
	}
	return found
}

// severities say where this project judges a change otherwise than the library: /v1 only grows, so that nothing is taken
// away, deprecated or not; and clients have to expect new values and new kinds in answers.
func severities() map[string]checker.Level {
	levels := map[string]checker.Level{}
	for _, id := range []string{
		checker.ResponseOptionalPropertyRemovedId, checker.ResponseRequiredPropertyRemovedWithDeprecationId, checker.OptionalResponseHeaderRemovedId,
		checker.APIOperationIdRemovedId, checker.APIPathRemovedWithDeprecationId, checker.APIRemovedWithDeprecationId,
		checker.RequestParameterRemovedWithDeprecationId, checker.RequestPropertyRemovedWithDeprecationId,
	} {
		levels[id] = checker.ERR
	}
	for _, id := range []string{
		checker.ResponsePropertyEnumValueAddedId, checker.ResponseMediaTypeEnumValueAddedId, checker.ResponseBodyOneOfAddedId,
		checker.ResponsePropertyOneOfAddedId, checker.ResponseBodyAnyOfAddedId, checker.ResponsePropertyAnyOfAddedId,
	} {
		levels[id] = checker.INFO
	}
	return levels
}

// dropPlanned takes out what is not served.
func (d *Document) dropPlanned() {
	for _, o := range d.Operations() {
		if o.Planned() {
			o.Item.SetOperation(o.Method, nil)
			if len(o.Item.Operations()) == 0 {
				d.Paths.Delete(o.Path)
			}
		}
	}
}

// inlineEvents puts the schema of a stream's events where the stream is, so that they are compared.
func (d *Document) inlineEvents() {
	for _, o := range d.Operations() {
		for _, ref := range o.Responses.Map() {
			if m := ref.Value.Content["text/event-stream"]; m != nil {
				if s := d.event(m); s != nil {
					m.Schema = openapi3.NewSchemaRef("", s)
				}
			}
		}
	}
}

// rightsOf returns the operations that ask for another scope now, or stand on another door.
func (d *Document) rightsOf(now *Document) (found []string) {
	for _, o := range d.Operations() {
		item := now.Paths.Value(o.Path)
		if item == nil || item.GetOperation(o.Method) == nil {
			continue // the library reports it
		}
		op := &Operation{Operation: item.GetOperation(o.Method), Doc: now, Method: o.Method, Path: o.Path, Item: item}
		for _, name := range []string{"x-agentos-scope", "x-agentos-door"} {
			if op.Ext(name) != o.Ext(name) {
				found = append(found, fmt.Sprintf("%s: %s was %q and is %q", op.Place(), name, o.Ext(name), op.Ext(name)))
			}
		}
	}
	return found
}
