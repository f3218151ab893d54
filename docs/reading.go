package docs

import (
	"bytes"
	"fmt"
	"path"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Reading returns a document for a page to show: with the components of the others and the examples in it, so that it
// refers to nothing but itself, and with the server that it's read from in place of a node at its defaults.
func Reading(name string) ([]byte, error) {
	files, err := Files()
	if err != nil {
		return nil, err
	}
	r := &reading{name: name, files: files, roots: make(map[string]*yaml.Node), moved: make(map[string]string)}
	root, err := r.root(name)
	if err != nil {
		return nil, err
	}
	r.own = root
	put(root, "servers", list(mapping("url", text("/"))))
	if err := r.visit(root, name); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	e := yaml.NewEncoder(&out)
	e.SetIndent(2)
	if err := e.Encode(root); err != nil {
		return nil, fmt.Errorf("docs: %s: %w", name, err)
	}
	return out.Bytes(), nil
}

// reading gathers one document from all.
type reading struct {
	name  string
	own   *yaml.Node
	files map[string][]byte
	roots map[string]*yaml.Node // by the document's name
	moved map[string]string     // where a component of another document stands now
}

// root is the uppermost mapping of a document.
func (r *reading) root(name string) (*yaml.Node, error) {
	if r.roots[name] == nil {
		var document yaml.Node
		if err := yaml.Unmarshal(r.files[name+".yaml"], &document); err != nil {
			return nil, fmt.Errorf("docs: %s: %w", name, err)
		}
		if document.Kind != yaml.DocumentNode || len(document.Content) != 1 {
			return nil, fmt.Errorf("docs: %s is no document", name)
		}
		r.roots[name] = document.Content[0]
	}
	return r.roots[name], nil
}

// visit goes through a part of a document and brings what it refers to.
func (r *reading) visit(n *yaml.Node, from string) error {
	kept := -1 // an example is data, whatever its members are called
	for i, child := range n.Content {
		if i == kept {
			continue
		}
		if n.Kind == yaml.MappingNode && i%2 == 0 && n.Content[i+1].Kind == yaml.ScalarNode {
			var err error
			switch value := n.Content[i+1]; child.Value {
			case "$ref":
				value.Value, err = r.bring(value.Value, from)
			case "externalValue":
				child.Value, kept = "value", i+1
				n.Content[i+1], err = r.example(value.Value)
			}
			if err != nil {
				return err
			}
		}
		if err := r.visit(child, from); err != nil {
			return err
		}
	}
	return nil
}

// bring returns a reference within the document to what ref names, which a document of this name has said.
func (r *reading) bring(ref, from string) (string, error) {
	file, pointer, _ := strings.Cut(ref, "#")
	at := strings.TrimSuffix(file, ".yaml")
	if file == "" {
		at = from
	}
	if at == r.name {
		return "#" + pointer, nil
	}
	if to := r.moved[at+pointer]; to != "" {
		return to, nil
	}
	root, err := r.root(at)
	if err != nil {
		return "", err
	}
	parts := strings.Split(pointer, "/") // "", "components", the kind, the name
	if len(parts) != 4 || parts[1] != "components" {
		return "", fmt.Errorf("docs: %s: %s is no component", from, ref)
	}
	there := get(get(get(root, parts[1]), parts[2]), parts[3])
	if there == nil {
		return "", fmt.Errorf("docs: %s: there is no %s", from, ref)
	}
	components := get(r.own, "components")
	if components == nil {
		components = put(r.own, "components", mapping())
	}
	kind := get(components, parts[2])
	if kind == nil {
		kind = put(components, parts[2], mapping())
	}
	name := parts[3]
	if get(kind, name) != nil { // the document has one of that name itself
		name = at + "." + name
	}
	to := "#/components/" + parts[2] + "/" + name
	r.moved[at+pointer] = to // before what it refers to, which may be itself
	return to, r.visit(put(kind, name, there), at)
}

// example is the value of an example that lies in a file.
func (r *reading) example(file string) (*yaml.Node, error) {
	content, ok := r.files[file]
	if !ok {
		return nil, fmt.Errorf("docs: %s: there is no %s", r.name, file)
	}
	if path.Ext(file) != ".json" {
		return text(string(content)), nil
	}
	var document yaml.Node
	if err := yaml.Unmarshal(content, &document); err != nil || len(document.Content) != 1 {
		return nil, fmt.Errorf("docs: %s: %w", file, err)
	}
	return document.Content[0], nil
}

func text(s string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s} }

func list(items ...*yaml.Node) *yaml.Node { return &yaml.Node{Kind: yaml.SequenceNode, Content: items} }

// mapping returns a mapping, of one member when it's given.
func mapping(member ...any) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode}
	if len(member) == 2 {
		put(n, member[0].(string), member[1].(*yaml.Node))
	}
	return n
}

// get returns a member of a mapping, or nil.
func get(n *yaml.Node, name string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return n.Content[i+1]
		}
	}
	return nil
}

// put sets a member of a mapping and returns it.
func put(n *yaml.Node, name string, value *yaml.Node) *yaml.Node {
	for i := 0; i < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			n.Content[i+1] = value
			return value
		}
	}
	n.Content = append(n.Content, text(name), value)
	return value
}
