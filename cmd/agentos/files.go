package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

// readFile reads a file, or standard input for "-".
func (a *app) readFile(name string) ([]byte, error) {
	if name == "-" {
		raw, err := io.ReadAll(a.in)
		if err != nil {
			return nil, fmt.Errorf("read standard input: %w", err)
		}
		return raw, nil
	}
	return os.ReadFile(name)
}

// maxText is more than a node takes in any body.
const maxText = 64 << 20

// readBounded is readFile for what has to fit in a request: a device that never ends must not fill the memory first.
func (a *app) readBounded(name string) ([]byte, error) {
	in, what := a.in, "standard input"
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		in, what = file, name
	}
	raw, err := io.ReadAll(io.LimitReader(in, maxText+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", what, err)
	}
	if len(raw) > maxText {
		return nil, usage("%s is longer than %d MiB", what, maxText>>20)
	}
	return raw, nil
}

// readText is the value of a flag, or standard input for "-".
func (a *app) readText(value string) (string, error) {
	if value != "-" {
		return value, nil
	}
	raw, err := a.readBounded("-")
	return string(raw), err
}

// readObject reads a JSON or YAML object from the file that --file names into v. It may be wrapped in its noun, as
// --output json prints it. Unlike a node, which has to take what a newer client may send, it refuses a member that v
// doesn't have: at a keyboard that's a slip.
func (a *app) readObject(cmd *cobra.Command, file, noun string, v any) error {
	if file == "" {
		return usage("%s needs --file, which may be - for standard input", cmd.CommandPath())
	}
	raw, err := a.readBounded(file)
	if err != nil {
		return err
	}
	if file == "-" {
		file = "standard input"
	}
	var body map[string]any
	if err := yaml.Unmarshal(raw, &body); err != nil { // JSON is YAML
		return usage("%s is neither a JSON nor a YAML object: %w", file, err)
	}
	if inner, ok := body[noun].(map[string]any); ok {
		body = inner
	}
	if body == nil {
		return usage("%s is empty", file)
	}
	text, err := json.Marshal(body)
	if err != nil {
		return usage("%s holds what JSON can't: %w", file, err)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	err = d.Decode(v)
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return usage("%s: %s is a %s, which it can't be", file, wrong.Field, wrong.Value)
	}
	if err != nil {
		return usage("%s: %s", file, strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}
