// Package shelf is an example of a kind of tool: it reads texts below one folder of the node's machine. docs/extending.md
// quotes it whole.
package shelf

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/nexixai/agentos/agent"
	"github.com/nexixai/agentos/agent/tool"
	"github.com/nexixai/agentos/internal/fault"
)

// maxText bounds what is read of a text; the node cuts a longer output anyway, at tool.MaxOutput.
const maxText = 1 << 20

// Kind reads texts. A tool of this kind says in its config which folder of the shelf it may read.
type Kind struct{ root *os.Root }

var _ tool.Kind = (*Kind)(nil)

// New returns a kind that reads below dir and nowhere else, whatever a name or a symbolic link says.
func New(dir string) (*Kind, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("shelf: %w", err)
	}
	return &Kind{root: root}, nil
}

// Close lets go of the folder.
func (k *Kind) Close() error { return k.root.Close() }

// folder is what a tool's config names.
func folder(t *agent.Tool) (string, error) {
	var config struct {
		Folder string `json:"folder"`
	}
	if err := json.Unmarshal(t.Config, &config); err != nil || !fs.ValidPath(config.Folder) {
		return "", fault.Invalid("tool.config.folder", "folder is a path below the shelf, such as handbooks/2026.")
	}
	return config.Folder, nil
}

// Check implements tool.Kind: a definition that could never be called is refused when it is made.
func (k *Kind) Check(t *agent.Tool) error {
	_, err := folder(t)
	return err
}

// Repeatable implements tool.Kind: reading twice does nothing twice, so a call that was cut off is made again.
func (k *Kind) Repeatable(*agent.Tool, json.RawMessage) bool { return true }

// Invoke implements tool.Kind. The input fits the tool's schema already; that of this kind asks for a name.
func (k *Kind) Invoke(ctx context.Context, in *tool.Invocation) (json.RawMessage, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	dir, err := folder(in.Tool)
	if err != nil {
		return nil, err
	}
	var input struct {
		Name string `json:"name"`
	}
	if err := json.Unmarshal(in.Input, &input); err != nil || !fs.ValidPath(input.Name) {
		return nil, fault.Invalid("input.name", "name is a file of the shelf, such as travel.md.")
	}
	file, err := k.root.Open(dir + "/" + input.Name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.NotFound, "The shelf has no %s.", input.Name)
	} else if err != nil { // the model is told no more than that; the cause is for the log
		return nil, fault.New(fault.Unavailable, "The shelf can't be read.").With("service", "shelf").Because(err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxText))
	if err != nil {
		return nil, fault.New(fault.Unavailable, "The shelf can't be read.").With("service", "shelf").Because(err)
	}
	return json.Marshal(map[string]string{"text": string(text)})
}
