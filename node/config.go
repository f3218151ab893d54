package node

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Sources are the places where settings come from. Of two that name a setting, the one listed first here wins.
type Sources struct {
	// Flags are those given on the command line, by name.
	Flags map[string]string
	// Env looks an environment variable up; nil means os.LookupEnv.
	Env func(string) (string, bool)
	// EnvFile holds variables that stand behind those of the environment; "" for none.
	EnvFile map[string]string
	// File is the YAML file; "" for none.
	File string
}

// Config is what the sources came to.
type Config struct {
	Options Options
	// From says where each setting's value came from: flag, environment, file, or default.
	From map[string]string
}

// Load reads the sources, by precedence. Every fault is reported, joined; unknown keys of the file are among them.
func Load(s Sources) (*Config, error) {
	if s.Env == nil {
		s.Env = os.LookupEnv
	}
	file, err := readFile(s.File)
	if err != nil {
		return nil, err
	}
	c := &Config{From: make(map[string]string, len(table))}
	var faults []error
	for _, set := range table {
		value, from := "", "default"
		if v, ok := file[Key(set.Name)]; ok {
			value, from = v, "file "+s.File
		}
		if v, ok := s.EnvFile[EnvName(set.Name)]; ok && v != "" {
			value, from = v, "environment file, "+EnvName(set.Name)
		}
		if v, ok := s.Env(EnvName(set.Name)); ok && v != "" {
			value, from = v, "environment, "+EnvName(set.Name)
		}
		if v, ok := s.Flags[set.Name]; ok {
			value, from = v, "flag --"+set.Name
		}
		c.From[set.Name] = from
		if from == "default" {
			continue
		}
		if err := set.Set(&c.Options, value); err != nil {
			faults = append(faults, fmt.Errorf("%w (from %s)", err, from))
		}
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	c.Options = c.Options.withDefaults()
	return c, nil
}

// readFile returns the YAML file's values by key, as they would be written in a flag.
func readFile(name string) (map[string]string, error) {
	if name == "" {
		return nil, nil
	}
	raw, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	values, err := parseYAML(raw)
	if err != nil {
		return nil, fmt.Errorf("configuration %s: %w", name, err)
	}
	return values, nil
}

func parseYAML(raw []byte) (map[string]string, error) {
	d := yaml.NewDecoder(bytes.NewReader(raw))
	var doc yaml.Node
	if err := d.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("it holds more than one YAML document")
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 || doc.Content[0].Kind != yaml.MappingNode {
		return nil, errors.New("it is no mapping of keys to values")
	}
	known := make(map[string]bool, len(table))
	for _, s := range table {
		known[Key(s.Name)] = true
	}
	values := make(map[string]string)
	var faults []error
	pairs := doc.Content[0].Content
	for i := 0; i+1 < len(pairs); i += 2 {
		key, value := pairs[i], pairs[i+1]
		v, err := scalar(value)
		switch _, twice := values[key.Value]; {
		case !known[key.Value]:
			faults = append(faults, fmt.Errorf("line %d: unknown key %q%s", key.Line, key.Value, nearest(key.Value)))
		case twice:
			faults = append(faults, fmt.Errorf("line %d: key %q stands twice", key.Line, key.Value))
		case err != nil:
			faults = append(faults, fmt.Errorf("line %d: key %q: %w", value.Line, key.Value, err))
		default:
			values[key.Value] = v
		}
	}
	return values, errors.Join(faults...)
}

func scalar(n *yaml.Node) (string, error) {
	switch n.Kind {
	case yaml.ScalarNode:
		if n.Tag == "!!null" {
			return "", errors.New("it has no value")
		}
		return n.Value, nil
	case yaml.SequenceNode:
		var parts []string
		for _, item := range n.Content {
			if item.Kind != yaml.ScalarNode || strings.Contains(item.Value, ",") {
				return "", errors.New("it is no list of plain values")
			}
			parts = append(parts, item.Value)
		}
		return strings.Join(parts, ","), nil
	}
	return "", errors.New("it is neither a plain value nor a list of them")
}

// nearest suggests the known key that an unknown one was probably meant to be.
func nearest(key string) string {
	folded := strings.ToLower(strings.ReplaceAll(strings.ReplaceAll(key, "-", ""), "_", ""))
	for _, s := range table {
		if strings.ReplaceAll(s.Name, "-", "") == folded {
			return fmt.Sprintf("; %q was probably meant", Key(s.Name))
		}
	}
	return ""
}

// YAML writes the settings of c as a configuration file, each with where it came from. Secrets are left out.
func (c *Config) YAML(w io.Writer) error {
	group := ""
	for _, s := range table {
		if s.Group != group {
			group = s.Group
			if _, err := fmt.Fprintf(w, "\n# %s\n", group); err != nil {
				return err
			}
		}
		value, err := yamlValue(s, &c.Options)
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%s: %s", Key(s.Name), value)
		if s.isZero(&c.Options) {
			line = "# " + line
		}
		if _, err := fmt.Fprintf(w, "%s # %s\n", line, c.From[s.Name]); err != nil {
			return err
		}
	}
	return nil
}

func yamlValue(s Setting, o *Options) (string, error) {
	if s.Secret && !s.isZero(o) {
		return "'(not shown)'", nil
	}
	var v any = s.Value(o)
	switch p := s.field(o).(type) {
	case *bool:
		v = *p
	case *int:
		v = *p
	case *[]string:
		v = *p
	}
	raw, err := yaml.Marshal(v)
	if err != nil {
		return "", err
	}
	text := strings.TrimSpace(string(raw))
	if list, ok := v.([]string); ok {
		quoted := make([]string, len(list))
		for i, item := range list {
			quoted[i] = fmt.Sprintf("%q", item)
		}
		text = "[" + strings.Join(quoted, ", ") + "]"
	}
	return text, nil
}

// JSON returns the settings of c by key, with where each came from. Secrets are left out.
func (c *Config) JSON() map[string]any {
	type entry struct {
		Value any    `json:"value"`
		From  string `json:"from"`
	}
	out := make(map[string]any, len(table))
	for _, s := range table {
		e := entry{Value: s.Value(&c.Options), From: c.From[s.Name]}
		switch p := s.field(&c.Options).(type) {
		case *bool:
			e.Value = *p
		case *int:
			e.Value = *p
		case *[]string:
			e.Value = *p
		}
		if s.Secret {
			e.Value = nil
		}
		out[Key(s.Name)] = e
	}
	return out
}

// ReadEnvFile reads NAME=VALUE lines; empty lines and lines that begin with # are passed over, and a value may stand in
// quotes. A file that is not there is empty.
func ReadEnvFile(name string) (map[string]string, error) {
	raw, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	vars := make(map[string]string)
	number := 0
	for line := range strings.Lines(string(raw)) {
		number++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, value, ok := strings.Cut(strings.TrimPrefix(line, "export "), "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		if !ok || key == "" || strings.ContainsAny(key, " \t\"'") {
			return nil, fmt.Errorf("%s:%d: it is no NAME=VALUE line", name, number)
		}
		if len(value) >= 2 && (value[0] == '"' || value[0] == '\'') && value[len(value)-1] == value[0] {
			value = value[1 : len(value)-1]
		}
		vars[key] = value
	}
	return vars, nil
}
